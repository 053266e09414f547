"""A store behind a URL: finished stages are mirrored, work happens in a local cache.

``<url>/<kind>-<key>/manifest.json`` is written last and makes a stage finished: object
stores rename no directories. It names the folder beside it that holds the stage's
files, one of its own for each upload, so that two machines that finish the same stage
at the same time cannot mix their files. Folders that no manifest names, left by an
upload that stopped, may be deleted.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from tf_lottery import files
from tf_lottery.engine import locks
from tf_lottery.engine.stage import Stage
from tf_lottery.engine.store import Store, damaged, read_manifest, seal
from tf_lottery.errors import StoreError, UsageError

_MANY = 100  # stages; fewer are asked for one by one
_READERS = 32  # manifests read at the same time: each is a round trip


def open_store(
    place: str | Path, cache: str | Path | None = None, read_only: bool = False
) -> Store:
    """The store at a path or a URL.

    Args:
      place: a directory, or a URL such as ``gs://bucket/folder``.
      cache: local directory for the copies of a URL's stages; by default one for each
        URL under ``$XDG_CACHE_HOME/tf_lottery``.
      read_only: only look; nothing is created at ``place``.

    Raises:
      UsageError: TensorFlow has no file system for the URL.
      StoreError: the place cannot be reached or written.
    """
    if "://" in str(place):
        return RemoteStore(str(place), cache, read_only)
    return Store(place, read_only)


class RemoteStore(Store):
    """A store behind a URL. ``root`` is the local cache, which may be lost at any time.

    The lock of a stage reaches as far as the cache does: machines with caches of their
    own may do the same stage twice, and the first complete upload counts.
    """

    def __init__(self, url: str, cache: str | Path | None = None, read_only: bool = False):
        self.url = url.rstrip("/")
        self._known: set[str] = set()  # keys of stages seen finished at the URL
        self._manifests: dict[str, bytes] = {}  # read there, by key; they do not change
        gfile = _gfile()
        scheme, _, rest = self.url.partition("://")
        # The file systems of some schemes are only loaded by another package.
        schemes = [name for name in gfile.get_registered_schemes() if name]
        if scheme not in schemes or not rest:
            known = ", ".join(f"{name}://" for name in schemes)
            raise UsageError.bad_value("store", url, f"a directory or a URL with one of {known}")
        super().__init__(cache or _default_cache(self.url), read_only)
        if not read_only:
            probe = f"{self.url}/.probe-{uuid.uuid4().hex}"
            with self._errors("written"):
                gfile.makedirs(self.url)
                with gfile.GFile(probe, "w") as file:
                    file.write("")
                gfile.remove(probe)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_manifests": {}}  # worker processes need few of them

    def path(self, stage: Stage) -> Path:
        """The local copy of the stage, fetched if it is finished and not here yet.

        Raises:
          StoreError: it cannot be read, or is damaged.
        """
        if not self._is_here(stage) and self.has(stage):
            self._fetch(stage)
        return self._home(stage)

    def has(self, stage: Stage) -> bool:
        """True if the stage is finished at the URL; a local copy alone does not count.

        Raises:
          StoreError: the URL cannot be read.
        """
        if stage.key not in self._known:
            with self._errors("read"):
                if _gfile().exists(self._manifest_url(stage)):
                    self._known.add(stage.key)
        return stage.key in self._known

    def finished(self, stages: Iterable[Stage]) -> set[str]:
        """Keys of those of the stages that are finished; many are asked for by one listing.

        Raises:
          StoreError: the URL cannot be read.
        """
        stages = list(stages)
        if len(stages) < _MANY:
            return super().finished(stages)
        with self._errors("read"):
            # gs:// answers with a thousand files a request.
            literal = re.sub(r"([*?\[\\])", r"\\\1", self.url)
            found = _gfile().glob(f"{literal}/*/manifest.json")
        names = {PurePosixPath(path).parent.name for path in found}
        self._known |= {stage.key for stage in stages if stage.name in names}
        return {stage.key for stage in stages if stage.key in self._known}

    def manifest(self, stage: Stage) -> dict:
        """The finished stage's manifest; the other files are not fetched.

        Raises:
          StoreError: missing, damaged, or written by another version.
        """
        if self._is_here(stage):
            return super().manifest(stage)
        if stage.key not in self._manifests:
            self._manifests[stage.key] = self._read_manifest(stage)
        return read_manifest(self._manifests[stage.key], self._manifest_url(stage), stage)

    def manifests(self, stages: Iterable[Stage]) -> Iterator[dict]:
        """The manifests of finished stages, in their order; read a few at a time."""
        with ThreadPoolExecutor(_READERS) as pool:
            yield from pool.map(self.manifest, stages)

    def _manifest_url(self, stage: Stage) -> str:
        return f"{self.url}/{stage.name}/manifest.json"

    def _read_manifest(self, stage: Stage) -> bytes:
        if not self.has(stage):
            raise StoreError(f"{self._manifest_url(stage)} is missing")
        with self._errors("read"), _gfile().GFile(self._manifest_url(stage), "rb") as file:
            return file.read()

    def _fetch(self, stage: Stage) -> None:
        partial = self.root / "partial" / f"{stage.name}.fetch"
        with files.disk_errors("store", self.root), self._naming(stage):
            if self._is_here(stage):
                return
            content = self._read_manifest(stage)
            manifest = read_manifest(content, self._manifest_url(stage), stage)
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            digests = manifest.get("sha256", {})
            for name, (source, size) in self._listing(stage, manifest).items():
                self._fetch_file(source, size, digests.get(name), partial / name)
            files.write_atomically(partial / "manifest.json", content)
            super()._publish(stage, partial)

    def _listing(self, stage: Stage, manifest: dict) -> dict[str, tuple[str, int]]:
        """URL and size by name; names lead nowhere but into the stage's directory."""
        found, folder = manifest.get("files"), manifest.get("folder", ".")
        if not isinstance(found, dict) or not all(map(_is_below, [*found, folder])):
            raise damaged(self._manifest_url(stage))
        # A store copied to the URL by hand has no folders.
        base = f"{self.url}/{stage.name}" + (f"/{folder}" if folder != "." else "")
        return {name: (f"{base}/{name}", size) for name, size in found.items()}

    def _fetch_file(self, source: str, size: int, digest: str | None, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        with self._errors("read"):
            if not _gfile().exists(source):
                raise _unusable(source, "is missing")
            _gfile().copy(source, self._local(target), overwrite=True)
        found = target.stat().st_size
        if found != size:
            raise _unusable(source, f"has {found} bytes and should have {size}")
        if digest is not None and files.digest(target) != digest:
            raise _unusable(source, "is damaged")

    def _local(self, path: Path) -> str:
        return os.path.join(files.plain_name(self.root), path.relative_to(self.root))

    def _recover(self, stage: Stage, partial: Path) -> bool:
        if self._is_here(stage):  # finished once, but no longer at the URL
            self._upload(stage, self._home(stage))
            return True
        return super()._recover(stage, partial)

    def _publish(self, stage: Stage, partial: Path) -> None:
        if not self._upload(stage, partial):
            shutil.rmtree(partial)
            return
        with self._naming(stage):
            super()._publish(stage, partial)

    def _naming(self, stage: Stage) -> locks.Lock:
        # Not the lock of the work: what one process finishes another may be fetching.
        lock = self.root / "partial" / f"{stage.name}.fetch.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        return locks.held(lock, stage.label)

    def _upload(self, stage: Stage, directory: Path) -> bool:
        """Puts a sealed directory at the URL; False if another machine was first."""
        gfile = _gfile()
        manifest = json.loads((directory / "manifest.json").read_bytes())
        manifest["folder"] = uuid.uuid4().hex[:12]
        # The local copy says the same, should it be needed for another upload.
        files.write_json(directory / "manifest.json", seal(manifest))
        base = f"{self.url}/{stage.name}"
        with self._errors("written"):
            try:
                for name in manifest["files"]:
                    target = f"{base}/{manifest['folder']}/{name}"
                    gfile.makedirs(os.path.dirname(target))
                    gfile.copy(self._local(directory / name), target, overwrite=True)
                if self.has(stage):
                    self._discard(f"{base}/{manifest['folder']}")
                    return False
                # On a disk behind file:// a file may be there before it is whole.
                whole = f"{base}/{manifest['folder']}.json"
                gfile.copy(self._local(directory / "manifest.json"), whole, overwrite=True)
                gfile.rename(whole, self._manifest_url(stage), overwrite=True)
            except Exception:
                self._discard(f"{base}/{manifest['folder']}")
                raise
        self._known.add(stage.key)
        return True

    def _discard(self, url: str) -> None:
        with contextlib.suppress(Exception):  # nothing reads it
            _gfile().rmtree(url)

    @contextlib.contextmanager
    def _errors(self, done: str) -> Iterator[None]:
        from tf_lottery.keras import tf

        try:
            yield
        except tf.errors.OpError as error:
            reason = " ".join(str(error.message).split()) or type(error).__name__
            raise StoreError(f"--store: {self.url} cannot be {done} ({reason})") from error


def _unusable(source: str, why: str) -> StoreError:
    return StoreError(f"--store: {source} {why}; remove its stage's directory to redo it")


def _is_below(name: object) -> bool:
    if not isinstance(name, str):
        return False
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def _gfile():
    # Not at the top: commands that only look at paths start without TensorFlow.
    from tf_lottery.keras import tf

    return tf.io.gfile


def _default_cache(url: str) -> Path:
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return caches / "tf_lottery" / hashlib.sha256(url.encode()).hexdigest()[:16]
