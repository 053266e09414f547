"""A disk that fails at the n-th thing that is written to it."""

import builtins
import contextlib
import io
import os
from pathlib import Path
from unittest import mock


class Disk:
    """Counts what Python writes below ``root``: opening, writing, syncing, renaming, making.

    Args:
      root: the disk.
      number: which of these fails, from 1; 0: none.
      fail: called then; raises or ends the process.
      ever_after: all that follow fail too, as on a full disk.
    """

    def __init__(self, root, number=0, fail=None, ever_after=False):
        self.root, self.number, self.fail = str(Path(root).resolve()), number, fail
        self.ever_after, self.count, self.paths = ever_after, 0, {}

    def step(self, path):
        """True if this one is to fail."""
        if not self.has(path):
            return False
        self.count += 1
        return self.number and (
            self.count == self.number or (self.ever_after and self.count > self.number)
        )

    def has(self, path):
        return str(path) == self.root or str(path).startswith(self.root + os.sep)

    @contextlib.contextmanager
    def watched(self):
        real = {name: getattr(os, name) for name in NAMES}
        real_open = io.open

        def open_file(file, mode="r", *args, **kwargs):
            writing = set(mode) & set("wax+") and not isinstance(file, int)
            if not writing or not self.has(file):
                return real_open(file, mode, *args, **kwargs)
            if self.step(file):
                self.fail()
            opened = real_open(file, mode, *args, **kwargs)
            self.paths[opened.fileno()] = str(file)
            return File(opened, self, file)

        def open_descriptor(path, flags, *args, **kwargs):
            if flags & (os.O_WRONLY | os.O_RDWR) and self.step(path):
                self.fail()
            descriptor = real["open"](path, flags, *args, **kwargs)
            self.paths[descriptor] = str(path)
            return descriptor

        def of_descriptor(name):
            def call(descriptor, *args):
                if self.step(self.paths.get(descriptor, "")):
                    self.fail()
                return real[name](descriptor, *args)

            return call

        def of_path(name, which):
            def call(*args, **kwargs):
                there = name == "mkdir" and os.path.isdir(args[0])  # nothing is written
                if not there and self.step(args[which]):
                    self.fail()
                return real[name](*args, **kwargs)

            return call

        changed = {name: of_descriptor(name) for name in ("pwrite", "fsync")}
        changed |= {"open": open_descriptor, "mkdir": of_path("mkdir", 0)}
        changed |= {"replace": of_path("replace", 1), "rename": of_path("rename", 1)}
        with contextlib.ExitStack() as stack:
            for name, call in changed.items():
                stack.enter_context(mock.patch.object(os, name, call))
            stack.enter_context(mock.patch.object(io, "open", open_file))
            stack.enter_context(mock.patch.object(builtins, "open", open_file))
            yield self


NAMES = ("open", "mkdir", "replace", "rename", "pwrite", "fsync")


class File:
    """An open file whose ``write`` may fail when half is written."""

    def __init__(self, file, disk, path):
        self._file, self._disk, self._path = file, disk, path

    def write(self, content):
        if self._disk.step(self._path):
            self._file.write(content[: len(content) // 2])
            self._file.flush()
            self._disk.fail()
        return self._file.write(content)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()

    def __iter__(self):
        return iter(self._file)

    def __getattr__(self, name):
        return getattr(self._file, name)
