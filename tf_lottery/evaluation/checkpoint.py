"""An evaluation under way, on disk: what is known so far and where to go on."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tf_lottery import weights
from tf_lottery.errors import StoreError
from tf_lottery.evaluation.packing import Cursor, Passes, Verdicts
from tf_lottery.options.settings import differences, several

_FORMAT = 1
_DIGEST = "digest"


@dataclasses.dataclass
class Progress:
    """All that an evaluation knows between two iterations of an attack.

    Attributes:
      clean: verdicts before any attack.
      clean_passes: what the clean images cost.
      verdicts: by attack name, of the attacks that have begun.
      passes: by attack name, then by part of its suite.
      attack: number of the attack under way, or next.
      part: number of the part of its suite.
      cursor: inside that part; ``None`` before it.
    """

    clean: np.ndarray
    clean_passes: Passes
    verdicts: dict[str, Verdicts] = dataclasses.field(default_factory=dict)
    passes: dict[str, dict[str, Passes]] = dataclasses.field(default_factory=dict)
    attack: int = 0
    part: int = 0
    cursor: Cursor | None = None


class Checkpoint:
    """One file that holds a ``Progress``; old or new after a crash, never half.

    Args:
      path: the file; its directory exists.
      every: seconds between two writes while a part of an attack is under way.
    """

    def __init__(self, path: str | Path, every: float = 60.0):
        self.path = Path(path)
        self._every = every
        self._written = time.monotonic()

    def due(self) -> bool:
        """Whether it is time to write again."""
        return time.monotonic() - self._written >= self._every

    def write(self, progress: Progress, identity: Mapping[str, Any]) -> None:
        """Replaces the file; ``identity`` says of which evaluation this is."""
        cursor = progress.cursor
        position: dict[str, Any] = {"attack": progress.attack, "part": progress.part}
        arrays = {"clean": progress.clean}
        for name, verdicts in progress.verdicts.items():
            for column, values in vars(verdicts).items():
                arrays[f"verdicts/{name}/{column}"] = values
        if cursor is not None:
            position["cursor"] = [
                cursor.pool,
                cursor.attempt,
                cursor.first,
                cursor.size,
            ]
            arrays |= {"began_with": cursor.began_with, "active": cursor.active}
            arrays |= {f"state/{name}": values for name, values in cursor.state.items()}
        head = {
            "format": _FORMAT,
            "identity": dict(identity),
            "position": position,
            "clean_passes": vars(progress.clean_passes),
            "passes": {
                name: {part: vars(passes) for part, passes in parts.items()}
                for name, parts in progress.passes.items()
            },
        }
        arrays["head"] = np.frombuffer(json.dumps(head).encode(), np.uint8)
        arrays[_DIGEST] = _digest(arrays)
        weights.write_arrays(self.path, arrays)
        self._written = time.monotonic()

    def read(self, identity: Mapping[str, Any]) -> Progress | None:
        """What was written, or ``None`` if nothing was, or if it is damaged, which is told.

        Raises:
          StoreError: of another evaluation.
        """
        if not self.path.exists():
            return None
        try:
            arrays = weights.read_arrays(self.path)
            if _DIGEST in arrays and not np.array_equal(arrays.pop(_DIGEST), _digest(arrays)):
                raise ValueError("its digest does not fit")
            head = json.loads(arrays["head"].tobytes())
            other = differences(json.loads(json.dumps(dict(identity))), head["identity"])
            if head["format"] != _FORMAT:
                other = [f"format: {head['format']} there, {_FORMAT} now"]
            progress = None if other else _progress(arrays, head)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, StoreError) as error:
            reason = " ".join(str(error).split())
            print(f"{self.path} is damaged: starting this evaluation again ({reason})",
                  file=sys.stderr, flush=True)  # fmt: skip
            return None
        if progress is None:
            raise StoreError(
                f"{self.path} belongs to an evaluation of other settings ({several(other)}); "
                "remove it to start over"
            )
        return progress

    def remove(self) -> None:
        """The evaluation is finished and its result stored elsewhere."""
        self.path.unlink(missing_ok=True)


def _digest(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Of all arrays but itself, in any order."""
    rest = {name: arrays[name] for name in sorted(arrays) if name != _DIGEST}
    return np.frombuffer(bytes.fromhex(weights.digest(rest)), np.uint8)


def _progress(arrays: dict[str, np.ndarray], head: dict[str, Any]) -> Progress:
    position = head["position"]
    cursor = None
    if "cursor" in position:
        pool, attempt, first, size = position["cursor"]
        state = {
            name.removeprefix("state/"): values
            for name, values in arrays.items()
            if name.startswith("state/")
        }
        cursor = Cursor(arrays["began_with"], pool, attempt, first, arrays["active"], state, size)
    return Progress(
        clean=arrays["clean"],
        clean_passes=Passes(**head["clean_passes"]),
        verdicts={
            name: Verdicts(
                **{
                    column.name: arrays[f"verdicts/{name}/{column.name}"]
                    for column in dataclasses.fields(Verdicts)
                }
            )
            for name in head["passes"]
        },
        passes={
            name: {part: Passes(**passes) for part, passes in parts.items()}
            for name, parts in head["passes"].items()
        },
        attack=position["attack"],
        part=position["part"],
        cursor=cursor,
    )
