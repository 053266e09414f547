"""The store: finished stages by key, written so that a crash loses nothing finished.

``<store>/<kind>-<key>/`` counts only when its ``manifest.json`` is there, which is
written last and before the directory gets its name. Work in progress lies in
``<store>/partial/<kind>-<key>/``; an interrupted training goes on from there.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import tf_lottery
from tf_lottery import files
from tf_lottery.errors import StoreError
from tf_lottery.experiments.stage import Stage

FORMAT = 1


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
        if read_only:
            return
        files.make_directory("store", self.root)

    def path(self, stage: Stage) -> Path:
        """Where the finished stage lies or will lie."""
        return self.root / stage.name

    def has(self, stage: Stage) -> bool:
        """True if the stage is finished."""
        return (self.path(stage) / "manifest.json").is_file()

    def manifest(self, stage: Stage) -> dict:
        """The finished stage's manifest.

        Raises:
          StoreError: missing, damaged, or written by a newer version.
        """
        path = self.path(stage) / "manifest.json"
        try:
            manifest = json.loads(path.read_text())
            version = int(manifest["format"])
        except FileNotFoundError:
            raise StoreError(f"{path} is missing") from None
        except (OSError, ValueError, KeyError, TypeError):
            raise StoreError(f"{path} is damaged; remove its directory to redo the stage") from None
        if version > FORMAT:
            raise StoreError(
                f"{path} was written by a newer tf_lottery ({manifest.get('package_version')}); "
                "update tf_lottery or choose another --store"
            )
        if manifest.get("key") != stage.key:
            raise StoreError(f"{path} belongs to another stage; remove its directory to redo it")
        return manifest

    @contextlib.contextmanager
    def work(self, stage: Stage) -> Iterator[Path | None]:
        """Gives the directory to work in, and on normal exit makes the stage finished.

        The body leaves its files in the directory, with the stage's cost in
        ``ledger.json`` if it has one. What an interrupted earlier try left is
        still there. A second process that wants the same stage waits.

        Yields:
          The directory, or ``None`` if another process finished the stage meanwhile.

        Raises:
          StoreError: the disk is full or cannot be written.
        """
        partial = self.root / "partial" / stage.name
        with files.disk_errors("store", self.root):
            partial.parent.mkdir(exist_ok=True)
        with files.locked(partial.with_suffix(".lock")):
            if self.has(stage):
                yield None
                return
            with files.disk_errors("store", self.root):
                partial.mkdir(exist_ok=True)
            with files.disk_errors("store", self.root):
                yield partial
                self._finish(stage, partial)

    def _finish(self, stage: Stage, partial: Path) -> None:
        ledger = partial / "ledger.json"
        manifest = {
            "format": FORMAT,
            "package_version": tf_lottery.__version__,
            "kind": stage.kind,
            "key": stage.key,
            "label": stage.label,
            "settings": dict(stage.settings),
            "parents": {role: parent.name for role, parent in stage.parents.items()},
            "ledger": json.loads(ledger.read_text()) if ledger.exists() else {},
        }
        files.write_json(partial / "manifest.json", manifest)
        target = self.path(stage)
        if target.exists():  # without a manifest: not a finished stage
            shutil.rmtree(target)
        os.replace(partial, target)
