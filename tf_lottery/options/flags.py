"""The flags of the command line, made from the options.

They live in a ``FlagValues`` of their own, so that ``--help`` shows this
project's flags alone and ``-v`` is ours, whatever libraries are imported later.
"""

from __future__ import annotations

import codecs
import os
import re
import shutil
import textwrap
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from absl import flags

from tf_lottery.errors import UsageError
from tf_lottery.options import build, modes
from tf_lottery.options.option import Option
from tf_lottery.options.places import place
from tf_lottery.options.registry import Registry


class _Flags(flags.FlagValues):
    """Flags whose flagfiles are UTF-8 or have a byte-order mark, whatever the locale is."""

    def _get_flag_file_lines(self, filename, parsed_file_stack=None):
        # absl would read in the locale's encoding, a mark as text, and take a file without a
        # name for an empty one.
        found: list[str] = []
        path = place("flagfile", filename)
        stack = (*(parsed_file_stack or ()), os.path.realpath(path))
        if stack[-1] in stack[:-1]:
            return found  # it names itself
        for line in map(str.strip, _text(path).split("\n")):
            if line.startswith(("--flagfile=", "-flagfile=")):
                nested = line.partition("=")[2].strip()
                found += self._get_flag_file_lines(nested, stack)
            elif line and not line.startswith(("#", "//")):
                found.append(line)
        return found


def _text(path: str) -> str:
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        why = f"--flagfile: {path} cannot be opened ({error.strerror})"
        raise UsageError(why, "flagfile") from None
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"--flagfile: {path} is no text file (in UTF-8)", "flagfile") from None


FLAGS = _Flags()

# In the order of --help.
OPTIONS: dict[str, Option] = {
    option.flag: option
    for option in (
        *modes.Places.declared, *modes.BudgetOptions.declared, *modes.ExportOptions.declared,
        *modes.ExperimentOptions.declared,
        *modes.Execution.declared, *build.OPTIONS.values(), *modes.DiagnosisOptions.declared,
        *modes.Talk.declared,
    )
}  # fmt: skip
# Topic -> names.
TOPICS: dict[str, list[str]] = {}
for _option in OPTIONS.values():
    TOPICS.setdefault(_option.topic, []).append(_option.flag)


class _NumberParser(flags.ArgumentParser):
    """Accepts ``0.031`` and ``8/255`` alike."""

    syntactic_help = "a number such as 0.03 or 8/255"

    def parse(self, argument):
        if isinstance(argument, (int, float)):
            return float(argument)
        try:
            if re.fullmatch(r"\d{1,9}/\d{1,9}", argument):
                return float(Fraction(argument))
            return float(argument)
        except (ValueError, ZeroDivisionError):
            raise ValueError(f"got {argument!r}, must be {self.syntactic_help}") from None

    def flag_type(self):
        return "number"


class _NumbersParser(_NumberParser):
    """Numbers with commas between."""

    syntactic_help = "numbers with commas between"

    def parse(self, argument):
        if isinstance(argument, (list, tuple)):
            return [float(value) for value in argument]
        return [super(_NumbersParser, self).parse(part) for part in argument.split(",") if part]


class _NumberOrWordParser(flags.ArgumentParser):
    """Whole numbers; the option's check says which words there are."""

    syntactic_help = "a whole number or a word"

    def parse(self, argument):
        try:
            return int(argument)
        except ValueError:
            return argument


_KINDS = {
    "bool": flags.DEFINE_boolean,
    "int": flags.DEFINE_integer,
    "str": flags.DEFINE_string,
    "tuple[str, ...]": flags.DEFINE_list,
}
_NUMBERS = {
    "int | str": (_NumberOrWordParser(), flags.ArgumentSerializer()),
    "float": (_NumberParser(), flags.ArgumentSerializer()),
    "tuple[float, ...]": (_NumbersParser(), flags.ListSerializer(",")),
}


def define(option: Option, values: flags.FlagValues) -> None:
    """Adds the option's flag to ``values``."""
    default = list(option.default) if isinstance(option.default, tuple) else option.default
    words: dict[str, Any] = {"flag_values": values, "short_name": option.short_name}
    if option.kind in _NUMBERS:
        parser, serializer = _NUMBERS[option.kind]
        flags.DEFINE(parser, option.flag, default, option.help, serializer=serializer, **words)
    elif option.kind == "str" and option.choices and not isinstance(option.choices, Registry):
        flags.DEFINE_enum(option.flag, default, list(option.choices), option.help, **words)
    else:
        _KINDS[option.kind](option.flag, default, option.help, **words)


for _option in OPTIONS.values():
    define(_option, FLAGS)


def help_text(experiments: Sequence[str] = ()) -> str:
    """All flags by topic, with defaults and units, and the names of the experiments."""
    width = min(100, shutil.get_terminal_size().columns)
    alone = [option.flag for option in OPTIONS.values() if option.role]
    lines = [
        "Boosting tickets: search a sparse network cheaply, retrain it robustly, compare.",
        "",
        "  python -m tf_lottery.main --flagfile=flags/quickstart.flags [--flag=value ...]",
        "",
        "A flagfile holds one --flag=value a line; later values win.",
    ]
    for topic, names in TOPICS.items():
        lines += ["", f"{topic}:"]
        for option in map(OPTIONS.__getitem__, names):
            if option.role:
                continue
            head = f"--[no]{option.flag}" if option.kind == "bool" else f"--{option.flag}"
            if option.short_name:
                head += f", -{option.short_name}"
            lines += textwrap.wrap(
                option.text.replace("{experiments}", ", ".join(experiments)),
                width,
                initial_indent=f"  {head:<24}  " if len(head) <= 24 else f"  {head}  ",
                subsequent_indent=" " * 28,
            )
    lines += ["", "Of the search alone, of retraining tickets alone; else as without the prefix:"]
    lines += textwrap.wrap(
        ", ".join(f"--{name}" for name in alone),
        width,
        initial_indent="  ",
        subsequent_indent="  ",
        break_on_hyphens=False,
    )
    return "\n".join(lines)
