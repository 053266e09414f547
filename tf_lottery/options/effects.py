"""Flags that would be given in vain: in a mode that does not use them, or without their companion.

A flagfile holds the settings of a run, and is as good for the other modes as for the run; so
what a flagfile says and a mode does not need is passed over. What somebody typed is not.
"""

from __future__ import annotations

from tf_lottery.errors import UsageError
from tf_lottery.options.command import Command
from tf_lottery.options.flags import SWEEPS, TOPICS

_OF_EXPERIMENTS = ("experiment", "replicates", *SWEEPS, "reference_csv")
_OF_STAGES = ("executor", "jobs", "ray_address", "ray_cpus", "ray_gpus")
_OF_EVALUATE = ("evaluation_dir", "transfer_attack", "analysis_images", "eval_batch_size")
_OF_EXPORT = ("export_dir", "formats", "compact")
_OF_MODELS = ("model_path", *_OF_EXPORT, *_OF_EVALUATE)
_ALL = tuple(name for topic in TOPICS.values() for name in topic)

# Mode -> flags that do nothing there. The settings of a run are not among them where models of
# the run are looked at: its command line with another --mode shall do.
_IDLE: dict[str, frozenset[str]] = {
    "run": frozenset(_OF_MODELS),
    "plan": frozenset(_OF_MODELS),
    "evaluate": frozenset((*_OF_EXPERIMENTS, *_OF_STAGES, *_OF_EXPORT)),
    "export": frozenset((*_OF_EXPERIMENTS, *_OF_STAGES, *_OF_EVALUATE)),
    "inspect": frozenset((*_OF_EXPERIMENTS, *_OF_STAGES, *_OF_MODELS)),
    "report": frozenset(_ALL) - {"mode", "workdir", "reference_csv", "verbose"},
}


def refuse_idle_flags(command: Command) -> None:
    """Raises ``UsageError`` that names the first flag that is given in vain."""
    idle = _IDLE[command.mode]
    for name in _in_order(command.typed):
        if name in idle:
            raise UsageError(f"--{name} does nothing in --mode={command.mode}, leave it out", name)
    if command.mode not in ("run", "plan"):
        return
    if command.experiment is None:
        for name in _in_order(command.given):
            if name in _OF_EXPERIMENTS:
                raise UsageError(f"--{name} goes with --experiment, which is not given", name)
    executor = command.execution.executor
    for name in _in_order(command.typed):
        if name in ("ray_cpus", "ray_gpus") and executor != "ray":
            raise UsageError(f"--{name} goes with --executor=ray", name)
        if name == "jobs" and executor != "local":
            raise UsageError(f"--jobs goes with --executor=local, not {executor}", name)


def _in_order(names: frozenset[str]) -> list[str]:
    return [name for name in _ALL if name in names]
