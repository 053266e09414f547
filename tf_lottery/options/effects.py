"""Flags that would be given in vain: in a mode that does not use them, or without their companion.

A flagfile holds the settings of a run, and is as good for the other modes as for the run; so
what a flagfile says and a mode does not need is passed over. What somebody typed is not.
"""

from __future__ import annotations

from tf_lottery.errors import UsageError
from tf_lottery.options.command import Command
from tf_lottery.options.flags import OPTIONS
from tf_lottery.options.modes import ExperimentOptions


def refuse_idle_flags(command: Command) -> None:
    """Raises ``UsageError`` that names the first flag that is given in vain."""
    typed = [option for option in OPTIONS.values() if option.flag in command.typed]
    for option in typed:
        if command.mode not in option.modes:
            raise UsageError(
                f"--{option.flag} does nothing in --mode={command.mode}, leave it out", option.flag
            )
    if command.mode not in ("run", "plan"):
        return
    if command.experiment is None:
        for option in ExperimentOptions.declared:
            if option.flag in command.given:
                raise UsageError(
                    f"--{option.flag} goes with --experiment, which is not given", option.flag
                )
    if command.experiment is None and command.options["structure"] == "weights":
        for option in typed:
            if option.flag.startswith("channel_"):
                raise UsageError(
                    f"--{option.flag} goes with --structure=channels, not weights", option.flag
                )
    executor = command.execution.executor
    for option in typed:
        if option.executor not in ("", executor):
            raise UsageError(
                f"--{option.flag} goes with --executor={option.executor}, not {executor}",
                option.flag,
            )
