"""Paths that flags give: one way to read them all."""

from __future__ import annotations

import os
from typing import Literal

from tf_lottery.errors import UsageError

# Of this machine; or a URL too; or empty too; or several with commas between.
Paths = Literal["local", "url", "none", "list"]


def place(flag: str, text: str, may_be: Paths = "local") -> str:
    """The path that a flag gives, with ``~`` and ``~user`` expanded.

    Args:
      flag: its name.
      text: its value.
      may_be: what it may be; a list is left as it is, but checked.

    Raises:
      UsageError: it is empty, a URL that cannot be used here, or no name of a file.
    """
    if may_be == "list":
        listed(flag, text)
        return text
    if (may_be == "none" and not text) or (may_be == "url" and "://" in text):
        return text
    if not text:
        allowed = "a path; perhaps a variable that it was to come from is not set"
        raise UsageError.bad_value(flag, text, allowed)
    if "://" in text:
        raise UsageError.bad_value(flag, text, "a path of this machine, not a URL")
    found = os.path.expanduser(text)
    if found.startswith("~"):
        user = text.split(os.sep)[0]
        allowed = f"a path: {user} has no home directory here (one of that name is ./{user})"
        raise UsageError.bad_value(flag, text, allowed)
    try:
        named = b"\0" not in os.fsencode(found)
    except UnicodeEncodeError:
        named = False
    if not named:
        allowed = "a name that a file can have in this locale (PYTHONUTF8=1: in UTF-8)"
        raise UsageError.bad_value(flag, text, allowed)
    return found


def listed(flag: str, text: str) -> tuple[str, ...]:
    """The paths of a list with commas between; where one with a comma in it exists, that one.

    Raises:
      UsageError: as ``place``; or there is none.
    """
    parts, found = text.split(","), []
    while parts:
        joined = [",".join(parts[:count]) for count in range(len(parts), 0, -1)]
        # An item that is empty is left out, where it is not the beginning of a name.
        chosen = next(filter(_exists, joined), parts[0])
        del parts[: chosen.count(",") + 1]
        if chosen:
            found.append(place(flag, chosen))
    return tuple(found) or (place(flag, ""),)


def _exists(text: str) -> bool:
    try:
        return bool(text) and os.path.lexists(os.path.expanduser(text))
    except ValueError:
        return False
