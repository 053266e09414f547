"""The store: finished stages by key, written so that a crash loses nothing finished.

``<store>/<kind>-<key>/`` counts only when its ``manifest.json`` is there, which is
written last and before the directory gets its name. Work in progress lies in
``<store>/partial/<kind>-<key>/``; interrupted work goes on from there.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import tf_lottery
from tf_lottery import files
from tf_lottery.engine import locks
from tf_lottery.engine.stage import Stage
from tf_lottery.errors import StoreError

FORMAT = 1
_log = logging.getLogger(__name__)


class OtherFormatError(StoreError):
    """Written by another version: neither damaged nor to be written over."""


def read_manifest(content: bytes, where: object, stage: Stage) -> dict:
    """The manifest of ``stage`` that was read from ``where``.

    Raises:
      OtherFormatError: written in another format, by a newer or an older version.
      StoreError: damaged, or of another stage.
    """
    try:
        manifest = json.loads(content)
        version = int(manifest["format"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise damaged(where) from None
    if version != FORMAT:
        age, advice = ("a newer", "update tf_lottery or ") if version > FORMAT else ("an older", "")
        raise OtherFormatError(
            f"{where} was written by {age} tf_lottery ({manifest.get('package_version')}), in "
            f"format {version}; this one reads {FORMAT}: {advice}choose another --store"
        )
    if not has_own_digest(manifest):
        raise damaged(where)
    if manifest.get("key") != stage.key:
        raise StoreError(f"{where} belongs to another stage; remove its directory to redo it")
    return manifest


def damaged(manifest: object) -> StoreError:
    """The error of a manifest, at this place, that is not what was written."""
    return StoreError(f"{manifest} is damaged; remove its directory to redo the stage")


def seal(manifest: dict) -> dict:
    """``manifest`` with its own digest."""
    rest = {name: value for name, value in manifest.items() if name != "digest"}
    return {**rest, "digest": files.document_digest(rest)}


def has_own_digest(manifest: dict) -> bool:
    """Whether a manifest is as it was written; those of 0.1.0's first stores have no digest."""
    if "digest" not in manifest:
        return "sha256" not in manifest
    return seal(manifest)["digest"] == manifest["digest"]


def verify(directory: Path, manifest: dict, name: str) -> None:
    """Holds a file of a stage, or all below a directory of it, against the manifest.

    Args:
      directory: of the stage.
      manifest: of it; one without digests tells sizes alone.
      name: relative to ``directory``.

    Raises:
      StoreError: a file is missing, or not what was written.
    """
    advice = f"remove {directory} and give the same command again, which redoes this stage"
    sizes, digests = manifest.get("files"), manifest.get("sha256", {})
    if not isinstance(sizes, dict) or not isinstance(digests, dict):
        raise StoreError(f"--store: {directory / 'manifest.json'} is damaged; {advice}")
    chosen = [each for each in sizes if each == name or each.startswith(f"{name}/")]
    for each in chosen or [name]:
        path = directory / each
        try:
            if path.is_symlink() or not path.is_file():
                raise StoreError(f"--store: {path} is missing; {advice}")
            whole = path.stat().st_size == sizes.get(each)
            if each in digests:
                whole = whole and files.digest(path) == digests[each]
        except OSError as error:
            raise StoreError(f"--store: {path} cannot be read ({error.strerror})") from None
        if not whole:
            raise StoreError(f"--store: {path} is damaged; {advice}")


class Store:
    """Directory of stages.

    Args:
      root: created if missing.
      read_only: only look; nothing is created.

    Raises:
      StoreError: ``root`` cannot be created or written.
    """

    def __init__(self, root: str | Path, read_only: bool = False):
        self.root = Path(root)
        self._verified: set[tuple[str, str]] = set()
        if read_only:
            return
        files.make_directory("store", self.root)

    def path(self, stage: Stage) -> Path:
        """Where the finished stage lies or will lie."""
        return self._home(stage)

    def file(self, stage: Stage, name: str) -> Path:
        """A file of a finished stage, or a directory in it, verified by its first use here.

        Args:
          stage: finished.
          name: relative to the stage's directory.

        Raises:
          StoreError: missing, damaged, or written by another version.
        """
        home = self.path(stage)
        if (stage.key, name) not in self._verified:
            verify(home, self.manifest(stage), name)
            self._verified.add((stage.key, name))
        return home / name

    def has(self, stage: Stage) -> bool:
        """True if the stage is finished."""
        return self._is_here(stage)

    def finished(self, stages: Iterable[Stage]) -> set[str]:
        """Keys of those of the stages that are finished; asks for all of them at once."""
        return {stage.key for stage in stages if self.has(stage)}

    def manifest(self, stage: Stage) -> dict:
        """The finished stage's manifest.

        Raises:
          StoreError: missing, damaged, or written by another version.
        """
        path = self._home(stage) / "manifest.json"
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise StoreError(f"{path} is missing") from None
        except OSError as error:
            raise StoreError(f"{path} cannot be read ({error.strerror})") from None
        return read_manifest(content, path, stage)

    def manifests(self, stages: Iterable[Stage]) -> Iterator[dict]:
        """The manifests of finished stages, in their order; raises as ``manifest`` does."""
        return map(self.manifest, stages)

    def usable(self, stages: Sequence[Stage]) -> dict[str, bool]:
        """For each stage's key whether it is finished.

        Raises:
          StoreError: a manifest is damaged or was written by another version.
        """
        found = self.finished(stages)
        for _ in self.manifests([stage for stage in stages if stage.key in found]):
            pass  # reading is the check
        return {stage.key: stage.key in found for stage in stages}

    def busy(self, stage: Stage) -> locks.Owner | None:
        """The process, of this machine or of a shared disk, that works on the stage, if any."""
        return locks.holder(self._lock(stage))

    @contextlib.contextmanager
    def work(
        self, stage: Stage, announce: Callable[[str], None] = _log.warning
    ) -> Iterator[Path | None]:
        """Gives the directory to work in, and on normal exit makes the stage finished.

        The body leaves its files in the directory, with the stage's cost in
        ``ledger.json`` if it has one. What an interrupted earlier try left is
        still there. A second process that wants the same stage waits.

        Args:
          stage: with finished parents.
          announce: told whom this process waits for, or took the stage over from.

        Yields:
          The directory, or ``None`` if another process finished the stage meanwhile
          or had stopped when only the last rename was left to do.

        Raises:
          StoreError: the disk is full or cannot be written; another process took the
            stage over; or another version had stopped when only the last rename was
            left to do.
        """
        partial = self.root / "partial" / stage.name
        with files.disk_errors("store", self.root):
            partial.parent.mkdir(parents=True, exist_ok=True)
            lock = locks.held(self._lock(stage), stage.label, announce)
        with lock:
            with files.disk_errors("store", self.root):
                recovered = self.has(stage) or self._recover(stage, partial)
            if recovered:
                yield None
                return
            with files.disk_errors("store", self.root):
                partial.mkdir(exist_ok=True)
                files.remove_leavings(partial)
            with files.disk_errors("store", self.root):
                try:
                    yield partial
                except Exception:
                    lock.check()  # the other process may have moved what was missing
                    raise
                lock.check()
                self._seal(stage, partial)
                lock.check()
                self._publish(stage, partial)

    def _home(self, stage: Stage) -> Path:
        return self.root / stage.name

    def _lock(self, stage: Stage) -> Path:
        return self.root / "partial" / f"{stage.name}.lock"

    def _is_here(self, stage: Stage) -> bool:
        return (self._home(stage) / "manifest.json").is_file()

    def _recover(self, stage: Stage, partial: Path) -> bool:
        """Finishes a stage whose work was complete; False if there is work left."""
        path = partial / "manifest.json"
        try:
            read_manifest(path.read_bytes(), path, stage)
        except OtherFormatError:
            raise
        except (OSError, StoreError):
            # It must not stand among files of which it says nothing.
            path.unlink(missing_ok=True)
            return False
        self._publish(stage, partial)
        return True

    def _seal(self, stage: Stage, partial: Path) -> None:
        """Writes the manifest: from now on the directory holds all of the stage."""
        ledger = partial / "ledger.json"
        written = {
            path.relative_to(partial).as_posix(): path
            for path in sorted(partial.rglob("*"))
            if path.is_file()
        }
        manifest = {
            "format": FORMAT,
            "package_version": tf_lottery.__version__,
            "kind": stage.kind,
            "key": stage.key,
            "label": stage.label,
            "settings": dict(stage.settings),
            "parents": {role: parent.name for role, parent in stage.parents.items()},
            "ledger": json.loads(ledger.read_bytes()) if ledger.exists() else {},
            "files": {name: path.stat().st_size for name, path in written.items()},
            "sha256": {name: files.digest(path) for name, path in written.items()},
        }
        files.write_json(partial / "manifest.json", seal(manifest))

    def _publish(self, stage: Stage, partial: Path) -> None:
        """Gives a sealed directory its name."""
        target = self._home(stage)
        if self._is_here(stage):  # and may be read at this moment
            shutil.rmtree(partial)
            return
        if target.exists():
            shutil.rmtree(target)
        os.replace(partial, target)
