"""Flags that would be given in vain: in a mode that does not use them, or without their companion.

A flagfile holds the settings of a run, and is as good for the other modes as for the run; so
what a flagfile says and a mode does not need is passed over. What somebody typed is not.
"""

from __future__ import annotations

from collections.abc import Collection

from tf_lottery.errors import UsageError
from tf_lottery.options.build import AttackOptions, objectives_of
from tf_lottery.options.command import Command
from tf_lottery.options.flags import OPTIONS
from tf_lottery.options.modes import ExperimentOptions
from tf_lottery.options.objectives import BETA
from tf_lottery.options.registries import FINDERS, OBJECTIVES
from tf_lottery.options.settings import ROLES
from tf_lottery.options.sparsity import SparsityUpdateConfig

# Which objectives look at an option; those from elsewhere may look at all of them.
_LOOK = {
    "beta": tuple(BETA),
    "replays": ("free",),
    "steps": ("pgd", "trades", "mart"),
    "step_size": ("pgd", "trades", "mart"),
    "random_start": ("pgd",),
}
_OF_OBJECTIVE = {option.flag for option in AttackOptions.declared}
# Whether all objectives are natural decides on normalisation and validation, trained or not.
_OF_ALL = {"objective", "phases", "recipe"}
# Part of every comparison's settings, whichever kinds it has.
_USUAL = _OF_ALL | {"epochs", "learning_rate"}


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
    if command.experiment is None:
        for option in typed:
            reason = _in_vain(option.flag, command)
            if reason:
                raise UsageError(f"--{option.flag} {reason}", option.flag)
    executor = command.execution.executor
    for option in typed:
        if option.executor not in ("", executor):
            raise UsageError(
                f"--{option.flag} goes with --executor={option.executor}, not {executor}",
                option.flag,
            )


def _in_vain(flag: str, command: Command) -> str:
    """What a flag of a training lacks, to follow its name; empty: nothing."""
    options, kinds = command.options, set(command.options["compare"])
    role = next((role for role in ROLES if flag.startswith(f"{role}_")), "")
    plain = flag.removeprefix(f"{role}_") if role else flag
    if role == "ticket" and kinds == {"dense"} and plain not in _USUAL:
        return "goes with a kind beside dense in --compare"
    if role == "search" and not _searches(plain, kinds, command):
        return f"goes with a search that is trained, not with --compare={_list(kinds)}" + (
            f" and --search={options['search']}" if kinds & _BOOSTED else ""
        )
    if plain == "objective" and {flag, f"{flag.removesuffix('objective')}phases"} <= command.typed:
        return f"goes without --{flag.removesuffix('objective')}phases, which say it"
    if flag == "skip_broken_images" and not options["dataset"].startswith("folder:"):
        return f"goes with --dataset=folder:DIR, not {options['dataset']}"
    looking = _LOOK.get(plain)
    if looking:
        roles = (role,) if role else _trained(kinds, command)
        named = {name for each in roles for name in objectives_of(each, options)}
        if not any(_looks(plain, name) for name in named):
            return f"goes with {' or '.join(looking)}, not {_list(named)}"
    if flag in (option.flag for option in SparsityUpdateConfig.declared):
        if kinds <= {"dense", "dense_twin"}:
            return f"goes with a ticket in --compare, not {_list(kinds)}"
        changing = options["sparsity_update"] != "none" or kinds - {*FINDERS} | kinds & _CHANGING
        if flag != "sparsity_update" and not changing:
            return "goes with --sparsity_update, or flying_bird in --compare"
    return ""


def _trained(kinds: Collection[str], command: Command) -> list[str]:
    """The roles in which something is trained, or scored as if; the dense one is ``""``."""
    found = [""] if "dense" in kinds else []
    found += ["ticket"] if {*kinds} - {"dense"} else []
    return found + ["search"] * _searches("steps", kinds, command)


def _looks(plain: str, name: str) -> bool:
    """Whether an objective looks at an option of ``_LOOK``."""
    kind, steps = OBJECTIVES.numbered(name)
    if kind not in OBJECTIVES:
        return True
    return kind in _LOOK[plain] and not (plain == "steps" and steps)


_BOOSTED = {"boosting", "reinit", "random_mask"}  # kinds of the ticket that --search finds
_CHANGING = {"flying_bird"}  # whatever --sparsity_update says


def _searches(plain: str, kinds: Collection[str], command: Command) -> bool:
    """Whether an option of searches is looked at."""
    found = {*kinds} - _BOOSTED
    if plain in _USUAL:
        return True
    if {*kinds} & _BOOSTED and not command.ticket:
        found.add(command.options["search"])
    trains = {"train", "early", "winning"} | {kind for kind in found if kind not in FINDERS}
    looks = {"snip", "grasp"} if plain in _OF_OBJECTIVE else set()
    return bool(found & (trains | looks))


def _list(names: Collection[str]) -> str:
    return ",".join(sorted(names))
