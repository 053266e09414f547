"""The options that say what is done, where, and by what: none of them is part of a ticket."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass

from tf_lottery.errors import UsageError
from tf_lottery.options.checks import at_least, positive, within
from tf_lottery.options.devices import DEVICES, DeviceOptions
from tf_lottery.options.option import MODES, OF_A_RUN, Options, option
from tf_lottery.options.places import listed
from tf_lottery.options.settings import EXPORT_FORMATS

_STAGES = ("run", "plan")
_place = functools.partial(option, recorded=False)  # it cannot change a result


@dataclass(frozen=True)
class Places(Options, topic="What to do"):
    """The mode, and where things lie."""

    mode: str = _place(
        "run",
        "run: search, train, compare. plan: list the stages, their cost and what is finished. "
        "evaluate: attacks on any models, with a report. export: a SavedModel, TFLite files, and "
        "a table of what they weigh and do. inspect: a ticket. report: rebuild the report of a "
        "work directory.",
        choices=MODES,
        modes=MODES,
    )
    replicates: int = option(
        1, "How many seeds, the first being --seed.", at_least(1), modes=_STAGES
    )
    workdir: str = _place(
        "runs/lottery",
        "Directory for results, report, tickets, SavedModels and TensorBoard logs.",
        modes=MODES,
        path="local",
    )
    store: str = _place(
        None,
        "Directory of finished stages, shared between runs. Default: <workdir>/stages.",
        path="url",
    )
    ticket: str | None = _place(
        None,
        "A ticket directory: to inspect, evaluate or export, or in mode run to train instead of "
        "searching one.",
        path="local",
    )
    model_path: str | None = _place(
        None,
        "A SavedModel directory, a .keras file, or a finished training stage of a store: to "
        "evaluate or export. To evaluate also several with commas between, or a run's work "
        "directory for all its models.",
        modes=("evaluate", "export"),
        path="list",
    )
    export_dir: str = _place(
        None,
        "Where mode export writes. Default: <workdir>/saved_model/exported.",
        modes=("export",),
        path="local",
    )
    evaluation_dir: str = _place(
        None,
        "Where mode evaluate writes, and goes on from. Default: <workdir>/evaluation.",
        modes=("evaluate",),
        path="local",
    )

    def __post_init__(self):
        super().__post_init__()
        for name, place in (
            ("store", "stages"),
            ("export_dir", "saved_model/exported"),
            ("evaluation_dir", "evaluation"),
        ):
            object.__setattr__(self, name, getattr(self, name) or os.path.join(self.workdir, place))

    @property
    def model_paths(self) -> tuple[str, ...]:
        """What ``--model_path`` lists."""
        return () if self.model_path is None else listed("model_path", self.model_path)


@dataclass(frozen=True)
class ExportOptions(Options, topic="Export", modes=("export",)):
    """Of mode export."""

    formats: tuple[str, ...] = option(
        ("saved_model",),
        f"What mode export writes, of {', '.join(EXPORT_FORMATS)}. sparse: non-zeros with their "
        "positions. int8 is calibrated on training images.",
        choices=EXPORT_FORMATS,
    )
    compact: bool = option(
        False,
        "Mode export: cut out the filters and units that no logit depends on. The logits stay "
        "the same.",
    )


@dataclass(frozen=True)
class BudgetOptions(Options, topic="What to do", modes=_STAGES):
    """Of what a ticket may cost."""

    budget: float | None = option(
        None,
        "Share of the dense training's FLOPs that search and retraining of a ticket may take "
        "together: chooses recipe, epochs and search where they are not given, and says what it "
        "chose.",
        within("(0, 1]"),
    )
    budget_minutes: float | None = option(
        None, "The same in minutes, by the speed of this machine as first measured.", positive
    )

    def __post_init__(self):
        super().__post_init__()
        if self.budget is not None and self.budget_minutes is not None:
            raise UsageError(
                f"--budget_minutes: got {self.budget_minutes:g}, must be left out with --budget",
                "budget_minutes",
            )


def _sweep(help: str):
    return option(None, f"{help} Default: the paper's.")


@dataclass(frozen=True)
class ExperimentOptions(Options, topic="Experiments", modes=_STAGES):
    """Of an experiment of the paper; a sweep that was not given is ``None``."""

    experiment: str | None = option(
        None, "Modes run and plan: instead of a comparison one of {experiments}."
    )
    sweep_epochs: tuple[float, ...] | None = _sweep(
        "Epochs of retraining (fig2, fig4, fig8, table3)."
    )
    sweep_rates: tuple[float, ...] | None = _sweep("Learning rates of the search (fig4).")
    sweep_sparsity: tuple[float, ...] | None = _sweep("Shares of the weights removed (fig5).")
    sweep_widths: tuple[float, ...] | None = _sweep("Width factors (fig6).")
    sweep_depths: tuple[float, ...] | None = _sweep("Depths (fig6).")
    sweep_search_epochs: tuple[float, ...] | None = _sweep("Epochs of the search (search_epochs).")
    sweep_budgets: tuple[float, ...] | None = _sweep(
        "Shares of the dense training's FLOPs, in [1/1024, 1] (frontier)."
    )
    reference_csv: str | None = _place(
        None,
        "Published training curves to draw beside ours: columns run, epoch, valid_clean, "
        "valid_robust. Mode report draws the figures of an experiment's work directory anew with "
        "them.",
        modes=(*_STAGES, "report"),
        path="none",
    )

    @property
    def sweeps(self) -> dict[str, tuple[float, ...]]:
        """Flag -> values, of the sweeps that were given."""
        found = {o.flag: getattr(self, o.field) for o in ExperimentOptions.declared}
        return {n: v for n, v in found.items() if n.startswith("sweep_") and v is not None}


@dataclass(frozen=True)
class Execution(DeviceOptions, topic="Experiments", modes=_STAGES):
    """Where stages run, and what shares each batch of a training."""

    executor: str = _place(
        "local",
        "local: processes of this machine. ray: a Ray cluster (extra ray).",
        choices=("local", "ray"),
    )
    jobs: int = _place(
        1, "Stages at a time on this machine, which share its cores.", at_least(1), executor="local"
    )
    ray_address: str | None = _place(None, "Of a running cluster. Default: one on this machine.")
    ray_cpus: int = _place(
        1, "CPU cores that a stage takes of a Ray cluster.", at_least(1), executor="ray"
    )
    ray_gpus: float = _place(
        0.0, "GPUs that a stage takes of a Ray cluster.", at_least(0), executor="ray"
    )
    distribute: str = option(
        "none",
        "What shares each batch of a training, in mode run. mirrored: this machine's GPUs. "
        "multiworker: processes, of several machines, that TF_CONFIG or Slurm names. tpu.",
        choices=("none", "mirrored", "multiworker", "tpu"),
        topic=DEVICES,
        modes=OF_A_RUN,
    )
    tpu: str = _place(
        "local",
        "Name or address of the TPU; local: of this machine.",
        topic=DEVICES,
        modes=OF_A_RUN,
    )
    worker_timeout: int = _place(
        120,
        "Multiworker: seconds of silence after which a process counts as lost and the run stops.",
        at_least(5, "5 (seconds) or more"),
        topic=DEVICES,
        modes=OF_A_RUN,
    )

    def __post_init__(self):
        super().__post_init__()
        if self.ray_address is not None and self.executor != "ray":
            raise UsageError("--ray_address goes with --executor=ray", "ray_address")
        if self.distribute != "none" and (self.executor != "local" or self.jobs > 1):
            raise UsageError(
                f"--distribute: got {self.distribute!r}, which takes one stage at a time: leave "
                "out --jobs and --executor",
                "distribute",
            )


@dataclass(frozen=True)
class DiagnosisOptions(
    Options, topic="Attacks in evaluation (on pixels in [0, 1])", modes=("evaluate",)
):
    """Of mode evaluate."""

    transfer_attack: str = option(
        "pgd20",
        "Mode evaluate, with several models: its adversarial examples of each are tried on the "
        "others. Empty: none.",
    )
    analysis_images: int = option(
        200,
        "Mode evaluate: test images for the diagnosis and the curves over eps and steps; 0: none "
        "of them.",
        at_least(0),
    )
    eval_batch_size: int = _place(
        0, "Images a batch in mode evaluate; changes no result. 0: 250 or less.", at_least(0)
    )


@dataclass(frozen=True)
class Talk(Options, topic="Running", modes=MODES):
    """What is said."""

    verbose: bool = _place(False, "Show tracebacks and TensorFlow's own messages.", short_name="v")
    help: bool = option(False, "Show this text.", short_name="h")
    version: bool = option(False, "Show the version.")
