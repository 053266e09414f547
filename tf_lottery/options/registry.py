"""Functions found by name: the built-in ones, and any other as ``package.module:function``.

A registry holds where each function is, not the function: names can be listed and checked
without importing TensorFlow.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tf_lottery.errors import UsageError

_IMPORTABLE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


class Registry:
    """Names of functions of one kind.

    Args:
      what: kind of function, for messages, such as ``a score``.
      places: name -> ``package.module:function``.
      counted: names that a number may follow, such as ``pgd7``.
    """

    def __init__(self, what: str, places: Mapping[str, str], counted: Sequence[str] = ()):
        self.what = what
        self._places = dict(places)
        self._counted = tuple(counted)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def check(self, flag: str, name: str) -> None:
        """Raises ``UsageError`` unless ``name`` is registered or of the importable form."""
        if self.numbered(name)[0] not in self and not _IMPORTABLE.fullmatch(name):
            counted = (f"{each}<N>" for each in self._counted)
            raise UsageError.unknown(flag, name, (*self, *counted, "package.module:function"))

    def numbered(self, name: str) -> tuple[str, int]:
        """``pgd7`` -> (``pgd``, 7); the name itself and 0 where no number goes with it."""
        match = re.fullmatch(r"([a-z_]+?)([1-9]\d{0,6})", name)
        if match is None or match[1] not in self._counted:
            return name, 0
        return match[1], int(match[2])

    def find(self, flag: str, name: str) -> Callable[..., Any]:
        """The function of that name; its module is imported.

        Raises:
          UsageError: no such name, module or function.
        """
        self.check(flag, name)
        plain = self.numbered(name)[0]
        module, _, function = self._places.get(plain, plain).partition(":")
        try:
            found = getattr(importlib.import_module(module), function)
        except Exception as error:  # whatever somebody's module raises
            if plain in self:
                raise
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise UsageError.bad_value(
                flag, name, f"{self.what} that can be imported ({reason})"
            ) from error
        if not callable(found):
            raise UsageError.bad_value(flag, name, f"{self.what}, a function")
        return found
