"""Checkpoints of a training: all it needs to go on, verified before it is used.

``tf.train.Checkpoint`` writes and reads the variables; beside its files
``ckpt-<epochs>-<steps>.json`` holds what is no variable, and the digest of every file. It is
written last, so a checkpoint without it, or whose files do not fit it, is none: the one
before counts.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tf_lottery import files
from tf_lottery.keras import tf
from tf_lottery.pruning.masks import MaskedNetwork

FORMAT = 1
KEPT = 2  # newest checkpoints, and as many of the newest that lie between two epochs
_NAME = re.compile(r"ckpt-(\d+)-(\d+)\.json")


@dataclasses.dataclass
class Position:
    """Where a training stands.

    Attributes:
      epoch: finished epochs.
      step: steps done of the epoch under way; 0 between two epochs.
      rows: of the history, one a finished epoch.
      spent: what is known of the epoch under way, see ``History.spent``, and ``sums``, of its
        metrics.
      rollbacks: how often the training went back, see ``run.train``.
      kept: digests of the weights files that belong to it, by name.
    """

    epoch: int = 0
    step: int = 0
    rows: list[dict] = dataclasses.field(default_factory=list)
    spent: dict[str, Any] = dataclasses.field(default_factory=dict)
    rollbacks: int = 0
    kept: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of its files; sorts like time."""
        return f"ckpt-{self.epoch:06d}-{self.step:09d}"

    @property
    def begun(self) -> bool:
        """Whether a step was done."""
        return bool(self.epoch or self.step)

    def words(self) -> str:
        """``the end of epoch 3``, ``step 17 of epoch 4``, ``the start``."""
        if self.step:
            return f"step {self.step} of epoch {self.epoch + 1}"
        return f"the end of epoch {self.epoch}" if self.epoch else "the start"


def newest(directory: Path, announce: Callable[[str], None] | None = None) -> Position | None:
    """The newest checkpoint in ``directory/checkpoints`` whose files are whole.

    Args:
      directory: of the training.
      announce: told, in a line, of checkpoints that are damaged.
    """
    damaged: list[str] = []
    for path in _written(directory):
        found = _read(directory, path)
        if isinstance(found, Position):
            if damaged and announce:
                announce(f"{'; '.join(damaged)}: going on from {found.words()}")
            return found
        damaged.append(found)
    if damaged and announce:
        announce(f"{'; '.join(damaged)}: starting this training again")
    return None


def between_epochs(directory: Path) -> Position | None:
    """The newest whole checkpoint that lies between two epochs, or at the start."""
    for path in _written(directory):
        found = _read(directory, path)
        if isinstance(found, Position) and not found.step:
            return found
    return None


def _written(directory: Path) -> list[Path]:
    """What tells of checkpoints, newest first."""
    folder = Path(directory) / "checkpoints"
    names = [path for path in folder.glob("ckpt-*.json") if _NAME.fullmatch(path.name)]
    return sorted(names, reverse=True)


def _read(directory: Path, path: Path) -> Position | str:
    """A checkpoint, or in words what is damaged."""
    try:
        document = json.loads(path.read_bytes())
        content = document["content"]
        if document["digest"] != files.document_digest(content) or content["format"] != FORMAT:
            return f"{path} is damaged"
        position = Position(**content["position"])
        expected = {path.parent / name: digest for name, digest in content["files"].items()}
        expected |= {directory / name: digest for name, digest in position.kept.items()}
        for file, digest in expected.items():
            if not file.is_file():
                return f"{file} is missing"
            if files.digest(file) != digest:
                return f"{file} is damaged"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"{path} is damaged"
    return position


class Checkpoints:
    """The checkpoints of one training.

    Variables: kernels and masks (``masked.wrapped``), optimizer slots and step count, and those
    of ``others``. They say nothing of devices.

    Args:
      directory: of the training.
      masked: network and masks.
      optimizer: built.
      **others: what else holds variables.
    """

    def __init__(self, directory: Path, masked: MaskedNetwork, optimizer: Any, **others: Any):
        self._directory = Path(directory)
        self._folder = self._directory / "checkpoints"
        # Made now: during fit it would be made on all devices, of all processes.
        self._checkpoint = tf.train.Checkpoint(
            network=masked.wrapped, optimizer=optimizer, **others
        )
        self._digests: dict[str, str] = {}

    def save(self, position: Position, weights_files: Iterable[Path]) -> None:
        """Writes a checkpoint and drops what it makes superfluous.

        Args:
          position: of the training; its ``kept`` is filled in.
          weights_files: in the training's directory, that belong to it.
        """
        self._folder.mkdir(exist_ok=True)
        prefix = self._folder / position.name
        prefix.with_suffix(".json").unlink(missing_ok=True)
        self._checkpoint.write(self._plain(position))
        written = sorted(self._folder.glob(f"{position.name}.*"))
        for path in written:
            _sync(path)
        position.kept = {path.name: self._digest(path) for path in weights_files}
        content = {
            "format": FORMAT,
            "position": dataclasses.asdict(position),
            "files": {path.name: files.digest(path) for path in written},
        }
        files.write_json(
            prefix.with_suffix(".json"),
            {"content": content, "digest": files.document_digest(content)},
        )
        self._clean()

    def restore(self, position: Position) -> None:
        """Restores the variables and forgets checkpoints of later positions."""
        for path in _written(self._directory):
            if path.stem > position.name:
                self._remove(path)
        self._digests.clear()  # of files that the way from here writes anew
        self._checkpoint.read(self._plain(position)).assert_existing_objects_matched()

    def _plain(self, position: Position) -> str:
        return os.path.join(files.plain_name(self._folder), position.name)

    def needed(self) -> set[str]:
        """Names of the weights files that a checkpoint says belong to it."""
        names: set[str] = set()
        for path in _written(self._directory):
            names |= set(json.loads(path.read_bytes())["content"]["position"]["kept"])
        return names

    def _digest(self, path: Path) -> str:
        # Weights files are written once; a name stands for its content here.
        if path.name not in self._digests:
            self._digests[path.name] = files.digest(path)
        return self._digests[path.name]

    def _clean(self) -> None:
        written = _written(self._directory)
        whole = [path for path in written if int(_NAME.fullmatch(path.name)[2]) == 0]  # type: ignore[index]
        kept = {*written[:KEPT], *whole[:KEPT]}
        for path in written:
            if path not in kept:
                self._remove(path)
        names = {path.stem for path in kept}
        for path in self._folder.iterdir():  # what an interrupted write left
            if path.name.split(".")[0] not in names:
                path.unlink(missing_ok=True)

    def _remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)  # first: the others are nothing without it
        for file in self._folder.glob(f"{path.stem}.*"):
            file.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
