"""Modes run, plan and report of an experiment of the paper."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from tf_lottery.engine import locks
from tf_lottery.errors import StoreError
from tf_lottery.options.command import Command
from tf_lottery.options.settings import differences
from tf_lottery.placing import finish_stages, make_places
from tf_lottery.studies.design import Design
from tf_lottery.studies.paper import find_experiment
from tf_lottery.terminal import say

if TYPE_CHECKING:
    from tf_lottery.engine.store import Store
    from tf_lottery.lottery.work import Workshop
    from tf_lottery.studies.study import Study
    from tf_lottery.training.distribution import Distribution


def make_design(command: Command) -> Design:
    """The design of the command line, checked; ``UsageError`` names what is wrong with it."""
    return Design(
        find_experiment("" if command.experiment is None else command.experiment),
        command.options,
        command.given,
        command.sweeps,
        command.replicates,
    )


def run_experiment(command: Command, design: Design, distribution: Distribution) -> int:
    """Finishes every stage, then writes results, figures and report.

    In a process that trains with another one, the chief, only takes part in that.
    """
    from tf_lottery.engine.remote_store import open_store
    from tf_lottery.lottery.followers import agree_on_targets, follow
    from tf_lottery.lottery.work import Workshop
    from tf_lottery.studies.study import Study

    study = Study(design)
    agree_on_targets(study.targets, distribution)
    workshop = Workshop(open_store(command.store, read_only=True), distribution=distribution)
    if not distribution.chief:
        follow(study.targets, workshop)
        return 0
    with distribution.leading():
        return _lead_experiment(command, design, study, workshop)


def _lead_experiment(command: Command, design: Design, study: Study, workshop: Workshop) -> int:
    from tf_lottery.report import experiment as reporting
    from tf_lottery.studies.comparison import unpack_logs

    reference = _reference(command, [arm.reference for arm in design.arms], study.experiment.source)
    workdir = Path(command.workdir)
    _check_workdir(workdir, design)
    if design.scale:
        print(textwrap.fill(f"{study.experiment.source}, {design.scale}", _width()))
    document = _finished(study, workshop.store, workdir, reference)
    if document is not None:
        print("everything is finished already; nothing was run")
    else:
        for config in design.configs.values():
            workshop.check(config)
        workshop.store = make_places(command, workdir)
        with locks.held(workdir / ".lock", str(workdir), say):
            _check_workdir(workdir, design)
            trainings = study.trainings
            found = workshop.store.finished(trainings)
            for stage in trainings:
                if stage.key in found:
                    workshop.check_data(stage)
            cached = finish_stages(
                study.targets,
                workshop.store,
                workdir / "tensorboard",
                command,
                workshop.distribution,
            )
            unpack_logs(trainings, workshop.store, workdir, cached)
            document = study.document(workshop, cached, command.argv, reference)
            reporting.write_experiment(workdir / reporting.EXPERIMENT, document)
            reporting.write_experiment_report(workdir)
            _log_figures(workdir)
    print()
    print(reporting.experiment_table(document))
    print()
    print(f"report        {workdir / 'report.html'}")
    print(f"results       {workdir / reporting.EXPERIMENT}")
    print(f"figures       {workdir / 'figures'}/")
    return 0


def _finished(study: Study, store: Store, workdir: Path, reference: dict | None) -> dict | None:
    """The document of an earlier run, if this one would leave the same; else ``None``."""
    from tf_lottery.engine.stage import in_order
    from tf_lottery.report import experiment as reporting
    from tf_lottery.studies.comparison import log_directory

    names = (reporting.EXPERIMENT, "report.html", "report.md", "tensorboard/report")
    wanted = [workdir / name for name in names]
    wanted += [log_directory(stage, workdir) for stage in study.trainings]
    if not all(path.exists() for path in wanted):
        return None
    document = reporting.read_experiment(workdir / reporting.EXPERIMENT)
    if not study.is_told_by(document, reference):
        return None
    stages = in_order(study.targets)
    return document if len(store.finished(stages)) == len(stages) else None


def _reference(command: Command, runs: Iterable[str | None], source: str) -> dict | None:
    """The published curves of ``--reference_csv``; ``None`` without that flag.

    Args:
      command: with the flag.
      runs: name of each arm's run among the curves; ``None`` where it has none.
      source: of the experiment, such as ``Fig. 5``.
    """
    from tf_lottery.report.reference import read_reference

    if not command.reference_csv:
        return None
    wanted = [run for run in runs if run]
    if not wanted:
        print(
            f"no arm of {source} has a curve among the authors' at these settings: "
            "--reference_csv is not used"
        )
    found = read_reference(command.reference_csv, wanted)
    missing = [run for run in dict.fromkeys(wanted) if run not in found["runs"]]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        print(f"{found['file']} has no run {', '.join(missing[:3])}{more}: drawn without")
    return found


def _width() -> int:
    return min(100, shutil.get_terminal_size().columns)


def _check_workdir(workdir: Path, design: Design) -> None:
    """Refuses to overwrite results of other settings; more replicates are the same ones."""
    from tf_lottery.report import experiment as reporting
    from tf_lottery.report.results import RESULTS

    if (workdir / RESULTS).exists():
        raise StoreError(
            f"{workdir / RESULTS} is of a comparison, not an experiment: choose another --workdir"
        )
    path = workdir / reporting.EXPERIMENT
    if not path.exists():
        return
    theirs = reporting.read_experiment(path)["settings"]
    ours = json.loads(json.dumps(design.settings))
    replicates = theirs.get("replicates", 0)
    lines = differences({**ours, "replicates": replicates}, theirs)
    if lines:
        more = f"; and {len(lines) - 4} more" if len(lines) > 4 else ""
        raise StoreError(
            f"{path} holds the results of other settings ({'; '.join(lines[:4])}{more}): "
            "choose another --workdir or remove that file"
        )
    if ours["replicates"] < replicates:
        raise StoreError(
            f"{path} holds {replicates} replicates, --replicates={ours['replicates']} would drop "
            "some: give as many, choose another --workdir or remove that file"
        )


def _log_figures(workdir: Path) -> None:
    """The report's figures as images in TensorBoard."""
    from tf_lottery.training.tensorboard import log_pictures

    log_pictures(workdir / "tensorboard" / "report", sorted((workdir / "figures").glob("*.png")))


def plan_experiment(command: Command, design: Design) -> int:
    """Prints the stages, their cost, and what is finished."""
    from tf_lottery.engine.remote_store import open_store
    from tf_lottery.lottery.plan import plan, plan_text
    from tf_lottery.lottery.work import Workshop
    from tf_lottery.studies.study import Study

    study = Study(design)
    _reference(command, [arm.reference for arm in design.arms], study.experiment.source)
    workshop = Workshop(open_store(command.store, read_only=True))
    for config in design.configs.values():
        workshop.check(config)
    print(f"{study.experiment.source}: {study.experiment.title}")
    if design.scale:
        print(textwrap.fill(design.scale, _width()))
    planned, counted = plan(study.targets, workshop), study.counted_flops(workshop)
    print(plan_text(planned, study.baselines, command.execution.jobs, counted))
    return 0


def report_experiment(command: Command, start_tensorflow: Callable[[bool], None]) -> int:
    """Writes the report anew from ``experiment.json``.

    Args:
      command: ``--reference_csv`` puts its curves in the place of those that the results
        hold; an empty one takes them away.
      start_tensorflow: called if TensorBoard's pictures are to be written, with
        ``--verbose``.
    """
    from tf_lottery.report import experiment as reporting

    workdir = Path(command.workdir)
    path = workdir / reporting.EXPERIMENT
    document = reporting.read_experiment(path)
    if command.reference_csv is not None:
        runs = [arm["reference"] for arm in document["arms"]]
        reference = _reference(command, runs, document["experiment"]["source"])
        with locks.held(workdir / ".lock", str(workdir), say):  # a run may be adding a replicate
            document = reporting.lay_over(reporting.read_experiment(path), reference)
            reporting.write_experiment(path, document)
    reporting.write_experiment_report(workdir)
    if command.reference_csv is not None and (workdir / "tensorboard" / "report").is_dir():
        start_tensorflow(command.verbose)
        _log_figures(workdir)
    print(reporting.experiment_table(document))
    print()
    print(f"report        {workdir / 'report.html'}")
    return 0
