"""A network in words: what tickets and finished stages say of theirs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tf_lottery.errors import TicketError
from tf_lottery.flattening import flattened
from tf_lottery.models import build_model, is_allowed
from tf_lottery.narrowing import narrowed
from tf_lottery.options.settings import ModelConfig


@dataclass(frozen=True)
class NetworkSpec:
    """Everything ``build_model`` needs to make a network.

    Attributes:
      model: architecture and its options.
      input_shape: (height, width, channels).
      num_classes: number of logits.
      mean, std: per channel on [0, 1] pixels, or ``None`` without normalisation.
      widths: (layer, filters or units) of the layers that have fewer than ``build_model`` gives
        them: channels were cut out. Models used as layers are entered then, see ``flattening``.
    """

    model: ModelConfig
    input_shape: tuple[int, int, int]
    num_classes: int
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    widths: tuple[tuple[str, int], ...] = ()

    def __post_init__(self):
        # 1 and 1.0 are the same number but not the same JSON, which digests are of.
        for name, kind in (("input_shape", int), ("mean", float), ("std", float)):
            values = getattr(self, name)
            if values is not None:
                object.__setattr__(self, name, tuple(map(kind, values)))

    def build(self, seed: int, dtype_policy: str = "float32", most_weights: int | None = None):
        """The bare network with its initialisation from ``seed``; see ``build_model``.

        With ``widths`` the weights are for the caller to set.

        Raises:
          TicketError: it is a function that nobody in this process has allowed to be imported.
          ValueError: ``widths`` are not of this network.
        """
        if not is_allowed(self.model.name):
            raise TicketError(
                f"--model: the network is the function {self.model.name}, which is run only if "
                f"you name it yourself: give --model={self.model.name}, call "
                "tf_lottery.models.allow with it, or apply the ticket to a network you built"
            )
        network = build_model(
            self.model.name,
            self.input_shape,
            self.num_classes,
            seed,
            depth=self.model.depth,
            width=self.model.width,
            width_multiplier=self.model.width_multiplier,
            mean=self.mean,
            std=self.std,
            dtype_policy=dtype_policy,
            most_weights=most_weights,
        )
        return narrowed(flattened(network), dict(self.widths)) if self.widths else network

    def to_json(self) -> dict:
        """A JSON object; ``from_json`` reads it."""
        return {
            "name": self.model.name,
            "depth": self.model.depth,
            "width": self.model.width,
            "width_multiplier": self.model.width_multiplier,
            "normalize": self.model.normalize,
            "input_shape": list(self.input_shape),
            "num_classes": self.num_classes,
            "mean": None if self.mean is None else list(self.mean),
            "std": None if self.std is None else list(self.std),
            **({"widths": dict(self.widths)} if self.widths else {}),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> NetworkSpec:
        """Raises ``KeyError``, ``TypeError``, ``ValueError``, ``UsageError`` if it does not fit."""
        height, width, channels = (int(n) for n in document["input_shape"])
        return cls(
            ModelConfig(
                str(document["name"]),
                int(document["depth"]),
                int(document["width"]),
                float(document["width_multiplier"]),
                bool(document["normalize"]),
            ),
            (height, width, channels),
            int(document["num_classes"]),
            None if document["mean"] is None else tuple(map(float, document["mean"])),
            None if document["std"] is None else tuple(map(float, document["std"])),
            tuple((str(name), int(n)) for name, n in dict(document.get("widths", ())).items()),
        )
