"""Files that are either the old ones or the new ones, never half of both."""

from __future__ import annotations

import os
import uuid
from pathlib import Path


def write_atomically(path: str | os.PathLike, content: bytes | str) -> Path:
    """Puts ``content`` (text as UTF-8) at ``path``; makes the folder if need be.

    The bytes go to a hidden file in the same folder, are synced to the disk and
    renamed over ``path``. If anything fails the old file stays as it was.

    Raises:
      OSError: the folder cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        # "x", not tempfile: its files are readable by their owner alone, and
        # the rename would hand that to a report meant to be shared.
        with open(temporary, "xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
