"""An option is declared once: as a field of a dataclass.

    @dataclass(frozen=True)
    class TrainConfig(Options, topic="Training"):
        momentum: float = option(0.9, "Of SGD, in [0, 1).", within("[0, 1)"))

From the field come the flag ``--momentum`` with its help (``flags.py``), the keyword of
``lottery_config`` (``build.py``), the check whenever the dataclass is built, and, in a
dataclass of ``settings.py``, its place in the stage's key.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self

from tf_lottery.options.checks import Check, choice, some_of
from tf_lottery.options.places import Paths, place
from tf_lottery.options.registry import Registry

# Where the settings of a run may be given: its command line with another --mode shall do.
OF_A_RUN = ("run", "plan", "evaluate", "export", "inspect")
MODES = (*OF_A_RUN, "report")


@dataclasses.dataclass(frozen=True)
class Option:
    """What a flag and a keyword are made from.

    Attributes:
      help: a sentence or a few, with units; without it the field is checked, but is no flag.
      check: called with the flag's name and any value but a default of ``None``.
      flag: its name; by default the field's.
      choices: what it may be; a ``Registry`` also takes ``package.module:function``.
      topic: heading in ``--help``; by default the class's.
      modes: in which it does something; by default the class's.
      recorded: in the results, with the command line; not what cannot change them, such as
        where files lie: that is in no key either.
      executor: the only one under which it does something; empty: any.
      short_name: a letter.
      path: what it may name, if it is a path, see ``places.place``.
      roles: trainings that may have a value of their own: ``search`` makes ``--search_<flag>``,
        ``ticket`` makes ``--ticket_<flag>``; see ``of_role``.
      role: that it is of.
      field, kind, default: of the dataclass's field: its name, its type (``int``, ``float``,
        ``bool``, ``str``, ``int | str``, ``tuple[str, ...]`` or ``tuple[float, ...]``), its
        default.
    """

    help: str = ""
    check: Check | None = None
    flag: str = ""
    choices: Iterable[str] = ()
    topic: str = ""
    modes: tuple[str, ...] = ()
    recorded: bool = True
    executor: str = ""
    short_name: str | None = None
    path: Paths | None = None
    roles: tuple[str, ...] = ()
    role: str = ""
    field: str = ""
    kind: str = ""
    default: Any = None

    @property
    def text(self) -> str:
        """``<choices>: help [default]``."""
        text = self.help
        if self.choices and self.kind == "str":
            text = f"<{'|'.join(self.choices)}>: {text}"
            if isinstance(self.choices, Registry):
                text += " Or package.module:function."
        return text if self.default is None else f"{text} [{_shown(self.default)}]"

    def of_role(self, role: str) -> Option:
        """The option for one training alone; ``None``, its default, is what the other says."""
        flag = f"{role}_{self.flag}"
        return dataclasses.replace(self, flag=flag, default=None, roles=(), role=role)

    def refuse(self, value: Any) -> None:
        """Raises ``UsageError`` that names the flag, if it cannot have this value."""
        if value is None and self.default is None:
            return
        if self.choices:
            (some_of if isinstance(value, tuple) else choice)(self.flag, value, self.choices)
        if self.check:
            self.check(self.flag, value)


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_shown, value))
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return "8/255" if value == 8 / 255 else f"{value:g}"
    return str(value)


def option(
    default: Any,
    help: str = "",
    check: Check | None = None,
    *,
    fingerprint: bool = True,
    omit_default: bool = False,
    **words: Any,
) -> Any:
    """The field of an option.

    Args:
      default: of the flag, the keyword and the field.
      help, check, **words: see ``Option``.
      fingerprint: ``False``: it is in no key although it is recorded.
      omit_default: see ``added``.
    """
    told = Option(help, check, **words)
    metadata = {
        "option": told,
        "fingerprint": fingerprint and told.recorded,
        "omit_default": omit_default,
    }
    return dataclasses.field(default=default, metadata=metadata)


# One that came later: its default, which does nothing, stays out of the keys, so that those
# that were made before are still good.
added = functools.partial(option, omit_default=True)


class Options:
    """Base of dataclasses whose fields are options; checks them when built."""

    declared: ClassVar[tuple[Option, ...]] = ()  # the flags among a class's own fields

    _own: ClassVar[tuple[Option, ...]] = ()
    _all: ClassVar[tuple[Option, ...]] = ()

    def __init_subclass__(cls, topic: str = "", modes: tuple[str, ...] = OF_A_RUN):
        cls._own = tuple(
            dataclasses.replace(
                told,
                flag=told.flag or name,
                topic=told.topic or topic,
                modes=told.modes or modes,
                field=name,
                kind=cls.__annotations__[name].removesuffix(" | None"),
                default=value.default,
            )
            for name, value in vars(cls).items()
            if isinstance(value, dataclasses.Field) and (told := value.metadata.get("option"))
        )
        cls._all = tuple(told for base in cls.__mro__ for told in vars(base).get("_own", ()))
        cls.declared = tuple(told for told in cls._own if told.help)

    def __post_init__(self):
        for told in self._all:
            value = getattr(self, told.field)
            told.refuse(value)
            if told.path and value is not None:
                object.__setattr__(self, told.field, place(told.flag, value, told.path))

    @classmethod
    def of(cls, values: Mapping[str, Any], **others: Any) -> Self:
        """Built from the values of options, by flag; ``others`` are fields and go before."""
        return cls(**{**{o.field: values[o.flag] for o in cls._all if o.help}, **others})
