"""What documents have in common: ranges of numbers, machine, data, the end of their pages."""

from __future__ import annotations

from typing import Annotated, Any, Protocol

import msgspec

from tf_lottery.report import formats
from tf_lottery.report.pages import Code, Pairs, Paragraph, Section, command_line

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Amount = Annotated[float, msgspec.Meta(ge=0)]  # seconds, FLOPs, ratios
# No more than a float holds exactly: what is divided by one stays a number.
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Positive = Annotated[int, msgspec.Meta(ge=1, le=2**53)]
Settings = dict[str, Any]  # nested, for readers


class Machine(msgspec.Struct, kw_only=True):
    """See ``tf_lottery.machine``; ``memory_gb`` in GiB."""

    cpu: str
    cores: int
    memory_gb: float
    python: str
    tensorflow: str
    devices: list[str] = []


class Data(msgspec.Struct, kw_only=True):
    """A data set: images used of each split, where there are several, and classes.

    Attributes:
      validation_used: validation images of the curves, if not all.
    """

    name: str
    train: Count | None = None
    validation: Count | None = None
    validation_used: Count | None = None
    test: Count
    digest: str
    classes: list[str]


class Recorded(Protocol):
    """What every document says about how it was made."""

    package_version: str
    command: list[str]
    settings: Settings
    machine: Machine
    data: Data


def images(data: Data) -> str:
    """``45,000 training, 5,000 validation, 10,000 test images``."""
    splits = {"training": data.train, "validation": data.validation, "test": data.test}
    known = (f"{count:,} {name}" for name, count in splits.items() if count is not None)
    return f"{', '.join(known)} images"


def hardware(document: Recorded) -> list[str]:
    """For the line below a title."""
    machine = document.machine
    return [f"{machine.cores} cores of {machine.cpu}", f"tf_lottery {document.package_version}"]


def origin(document: Recorded, note: str = "") -> Section:
    """How a document was made: command, settings, data, machine."""
    data, machine = document.data, document.machine
    facts = {
        "data set": data.name,
        "training images": data.train,
        "validation images": data.validation,
        "of these used": data.validation_used,
        "test images": data.test,
        "digest": data.digest,
        "classes": ", ".join(data.classes),
    }
    environment = {
        "processor": machine.cpu,
        "cores": machine.cores,
        "memory": f"{machine.memory_gb:.1f} GB",
        "Python": machine.python,
        "TensorFlow": machine.tensorflow,
        "devices": ", ".join(machine.devices) or None,
        "tf_lottery": document.package_version,
    }
    return Section(
        "Settings and environment",
        [
            Paragraph(note, note=True) if note else None,
            Code(command_line(document.command)),
            Pairs("All settings", formats.flatten(document.settings)),
            Pairs("Data", _told(facts)),
            Pairs("Environment", _told(environment)),
        ],
    )


def _told(facts: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (key, f"{value:,}" if isinstance(value, int) else value)
        for key, value in facts.items()
        if value is not None
    ]
