"""The design of one study: what is compared, with the settings of one command line.

Checked without TensorFlow, so that what is wrong with a flag is told at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tf_lottery.errors import UsageError
from tf_lottery.options.build import DEFAULTS, lottery_config
from tf_lottery.options.settings import LotteryConfig, derive_seed, settings
from tf_lottery.studies.definition import Arm, Base, Claim, Experiment

# Options that are told elsewhere, or that change no more than the last decimals.
_NOT_OF_THE_PAPER = (
    "model", "data_dir", "compare", "seed", "deterministic", "jit_compile", "data_on_device",
    "checkpoint_minutes", "on_nan", "on_overfit",
)  # fmt: skip

_ZERO_IS_DEFAULT = (
    "depth", "width", "batch_size", "learning_rate", "search_learning_rate", "warmup_start",
    "search_epochs",
)  # fmt: skip
# Options that an arm sets -> the flag their values come from.
_SWEPT = {
    "depth": "sweep_depths", "width": "sweep_widths", "sparsity": "sweep_sparsity",
    "search_learning_rate": "sweep_rates", "ticket_epochs": "sweep_epochs",
    "search_epochs": "sweep_search_epochs",
}  # fmt: skip


class Design:
    """Arms, their configurations and seeds.

    Args:
      experiment: what is run.
      options: arguments of ``lottery_config``, defaults included.
      given: names of the options that were set on the command line.
      sweeps: flag -> values, where the command line gave some.
      replicates: how many seeds; the first is ``options["seed"]``.
      ticket: digest of a ticket that takes the place of the boosting ticket's search.

    Raises:
      UsageError: an option that the experiment sets itself, a sweep that it does not
        have, values that no arm can be made of, or replicates below 1.
    """

    def __init__(
        self,
        experiment: Experiment,
        options: Mapping[str, Any],
        given: frozenset[str],
        sweeps: Mapping[str, tuple[float, ...]],
        replicates: int = 1,
        ticket: str | None = None,
    ):
        if replicates < 1:
            raise UsageError.bad_value("replicates", replicates, "1 or more")
        known = {sweep.flag: sweep for sweep in experiment.sweeps}
        for flag in sweeps:
            if flag not in known:
                raise UsageError(
                    f"--{flag}: experiment {experiment.id} does not sweep that, it has "
                    + (" and ".join(f"--{name}" for name in known) or "no sweep"),
                    flag,
                )
        self.experiment = experiment
        self.options = self._options(options, given)
        self._ticket = ticket
        chosen = {
            flag: sweep.check(sweeps.get(flag, sweep.values)) for flag, sweep in known.items()
        }
        self.base = Base(self.options, chosen)
        self.arms: list[Arm] = experiment.arms(self.base)
        names = [arm.name for arm in self.arms]
        for name in names:
            if names.count(name) > 1:
                raise UsageError(
                    f"experiment {experiment.id} would hold two networks called {name!r}: "
                    "choose values that differ more"
                )
        self.claims: list[Claim] = experiment.claims(self.base)
        root = self.options["seed"]
        self.seeds = [root] + [derive_seed(root, "replicate", r) for r in range(1, replicates)]
        # One config of each arm now: a bad value is told before anything is run.
        self.configs = {arm.name: self._checked_config(arm, root) for arm in self.arms}
        asked = self.configs[names[0]].sparsity_update.name
        if asked != "none" and all(arm.kind in ("dense", "dense_twin") for arm in self.arms):
            raise UsageError.bad_value(
                "sparsity_update", asked, "none where no ticket is compared: nothing is pruned"
            )
        for name in ("attacks", "data"):  # what all arms are judged on
            if len({getattr(config, name) for config in self.configs.values()}) > 1:
                raise UsageError(f"experiment {experiment.id}: arms must have the same {name}")

    def _options(self, options: Mapping[str, Any], given: frozenset[str]) -> dict[str, Any]:
        experiment = self.experiment
        if not experiment.source:
            lottery_config(**options)  # before its kinds become arms
            return dict(options)
        for name in (*experiment.sets, "compare"):
            if name in given:
                sweeps = [f"--{s.flag}" for s in experiment.sweeps]
                hint = f"; see {' and '.join(sweeps)}" if sweeps else ""
                raise UsageError(
                    f"--{name}: experiment {experiment.id} sets it itself, leave it out{hint}", name
                )
        if "ticket" in given:
            raise UsageError("--ticket: an experiment searches its own, leave it out", "ticket")
        for name, value in experiment.fixed.items():
            if name in given and options[name] != value:
                shown = ",".join(value) if isinstance(value, tuple) else value
                raise UsageError.bad_value(
                    name, options[name], f"{shown!r} or left out in experiment {experiment.id}"
                )
        # What the command line does not say is as in the paper, not as in a comparison.
        paper = {"model": experiment.models[0], **experiment.full, **experiment.defaults}
        paper = {name: value for name, value in paper.items() if name not in given}
        if "epochs" in given:
            paper.pop("search_epochs", None)  # 0, which is as many
        return {**options, **paper, **experiment.fixed}

    def _checked_config(self, arm: Arm, seed: int) -> LotteryConfig:
        try:
            return self._config(arm, seed)
        except UsageError as error:
            swept = _SWEPT.get(error.flag, "")
            if error.flag not in arm.options or swept not in self.base.sweeps:
                raise
            message = str(error).replace(f"--{error.flag}", f"--{swept}", 1)
            raise UsageError(message, swept) from None

    def _config(self, arm: Arm, seed: int) -> LotteryConfig:
        chosen = {**self.options, **arm.options, "compare": (arm.kind,), "seed": seed}
        warmup = chosen["warmup_epochs"]
        if "ticket_epochs" in arm.options and warmup and chosen["ticket_warmup_epochs"] is None:
            # A short schedule drops its rate half-way; one epoch at the peak comes before. Only
            # the ticket's: a search warms up as long as for any other length of retraining.
            short = min(warmup, max(0, arm.options["ticket_epochs"] // 2 - 1))
            chosen["ticket_warmup_epochs"] = short
        return lottery_config(**chosen)

    @property
    def scale(self) -> str:
        """Where the settings are not the paper's, in words; empty where they are, and of a
        comparison."""
        if not self.experiment.source:
            return ""
        other = []
        experiment = self.experiment
        if self.options["model"] not in experiment.models:
            paper = " or ".join(experiment.models)
            other.append(f"--model {self.options['model']} instead of {paper}")
        full = {**DEFAULTS, **experiment.full, **experiment.defaults, **experiment.fixed}
        for name, theirs in full.items():
            ours = self.options[name]
            told_elsewhere = name in _NOT_OF_THE_PAPER or name in experiment.sets
            if told_elsewhere or ours == theirs or not self._matters(name, theirs):
                continue
            other.append(f"--{name} {_shown(name, ours)} instead of {_shown(name, theirs)}")
        for sweep in experiment.sweeps:
            if self.base.sweeps[sweep.flag] != sweep.values:
                ours, theirs = (
                    ",".join(f"{v:g}" for v in values)
                    for values in (self.base.sweeps[sweep.flag], sweep.values)
                )
                other.append(f"--{sweep.flag} {ours} instead of {theirs}")
        return f"other settings: {'; '.join(other)}" if other else ""

    def _matters(self, name: str, value: Any) -> bool:
        """False if the option spelt out is the same as ``value``, such as a default."""
        neutral = {"compare": ("dense",)}
        try:
            theirs = lottery_config(**{**self.options, **neutral, name: value})
        except UsageError:  # with ours it could not be had
            return True
        return settings(theirs) != settings(lottery_config(**{**self.options, **neutral}))

    @property
    def settings(self) -> dict:
        """JSON of everything that identifies the study; ``replicates`` of a comparison only where
        there are several."""
        if not self.experiment.source:
            identity = settings(lottery_config(**self.options))
            if self._ticket is not None:
                identity["ticket"] = self._ticket
            return identity | ({"replicates": len(self.seeds)} if len(self.seeds) > 1 else {})
        chosen = {name: value for name, value in self.options.items() if name != "data_dir"}
        return {
            "experiment": self.experiment.id,
            "replicates": len(self.seeds),
            "sweeps": {flag: list(values) for flag, values in self.base.sweeps.items()},
            "options": settings(chosen),
        }


def _shown(name: str, value: Any) -> str:
    if name == "eps" and abs(255 * value - round(255 * value)) < 1e-6:
        return f"{round(255 * value)}/255"
    if isinstance(value, (tuple, list)):
        return ",".join(map(str, value)) or "none"
    if value is None or (not value and name in _ZERO_IS_DEFAULT):
        return "its default"
    if not value and name.endswith(("_examples", "_images")):
        return "all"
    return f"{value:g}" if isinstance(value, float) else str(value)
