"""The command line, parsed into a ``Command``; nothing outside this package reads ``FLAGS``."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

from absl import flags

from tf_lottery.errors import UsageError
from tf_lottery.options.build import DEFAULTS, complete, evaluation_attack, lottery_config
from tf_lottery.options.flags import FLAGS, OPTIONS, TOPICS, help_text
from tf_lottery.options.modes import (
    BudgetOptions,
    DiagnosisOptions,
    Execution,
    ExperimentOptions,
    ExportOptions,
    Places,
    Talk,
)
from tf_lottery.options.places import place
from tf_lottery.options.registry import Registry
from tf_lottery.options.settings import AttackConfig, LotteryConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command(Places, BudgetOptions, ExportOptions, ExperimentOptions, DiagnosisOptions, Talk):
    """A parsed command line.

    Attributes:
      execution: where stages run.
      options: the arguments of ``lottery_config``, recipes and defaults filled in.
      given: names of the flags that were set.
      typed: those of them that were set on the command line itself, not in a flagfile.
      argv: what was set, flagfiles resolved, without the flags that are not ``recorded``.
    """

    execution: Execution
    options: dict[str, Any]
    given: frozenset[str]
    typed: frozenset[str]
    argv: tuple[str, ...]

    def config(self) -> LotteryConfig:
        """The validated configuration; raises ``UsageError``."""
        return lottery_config(**self.options)

    def evaluation_attack(self, name: str, flag: str, eps: float | None = None) -> AttackConfig:
        """The attack of that name with the settings of evaluation; errors name ``flag``.

        ``eps`` takes the place of ``--eps`` if that was not set.
        """
        other = {} if eps is None or "eps" in self.given else {"eps": eps}
        return evaluation_attack(name, self.options | other, flag)


def parse(argv: list[str], experiments: Sequence[str] = ()) -> Command | str:
    """Parses arguments (without the program's name).

    Args:
      argv: the arguments.
      experiments: that there are, for ``--help``.

    Returns:
      The command, or a text to print (``--help``, ``--version``).

    Raises:
      UsageError: unknown flag, bad value, missing or malformed flagfile, or
        an argument that is no flag.
    """
    FLAGS.unparse_flags()
    for name in FLAGS:
        FLAGS[name].unparse()
    try:
        rest = FLAGS(["tf_lottery", *argv])[1:]
    except RecursionError:
        raise UsageError("--flagfile: nested too deeply", "flagfile") from None
    except (flags.Error, ValueError) as error:  # absl: --noflag=value
        raise UsageError(" ".join(str(error).replace("flag --", "--").split())) from None
    if FLAGS.help:
        return help_text(experiments)
    if FLAGS.version:
        import tf_lottery

        return f"tf_lottery {tf_lottery.__version__}"
    if rest:
        raise UsageError(
            f"{rest[0]!r} is no flag; flags read --name=value (in a flagfile one a line, "
            "# starts a comment)"
        )
    values = {name: FLAGS[name].value for name in OPTIONS}
    for name, value in values.items():
        if isinstance(value, list):
            values[name] = tuple(item for item in value if item != "")
    for option in OPTIONS.values():
        if isinstance(option.choices, Registry):  # absl checks the other choices
            option.refuse(values[option.flag])
    data_dir = values["data_dir"]
    if data_dir is not None:
        data_dir = place("data_dir", data_dir, "url")
        # Other processes work in other directories.
        values["data_dir"] = data_dir if "://" in data_dir else os.path.abspath(data_dir)
    given = frozenset(name for name in FLAGS if FLAGS[name].present)
    return Command.of(
        values,
        execution=Execution.of(values),
        options=complete({name: values[name] for name in DEFAULTS if name in given}),
        given=given,
        typed=given & _named(argv),
        argv=tuple(
            FLAGS[name].serialize()
            for names in TOPICS.values()
            for name in names
            if name in given and OPTIONS[name].recorded
        ),
    )


def _named(argv: list[str]) -> set[str]:
    """Flags that arguments name themselves; what a flagfile holds is not looked at."""
    words = {word.lstrip("-").split("=")[0] for word in argv if word.startswith("-")}
    words |= {word.removeprefix("no") for word in words}
    return {FLAGS[word].name for word in words if word in FLAGS}
