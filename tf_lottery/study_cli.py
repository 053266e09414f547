"""Modes run, plan and report: a comparison, or with ``--experiment`` one of the paper's."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import shlex
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tf_lottery import files
from tf_lottery.engine import locks
from tf_lottery.errors import StoreError, UsageError
from tf_lottery.options.build import DEFAULTS
from tf_lottery.options.command import Command
from tf_lottery.options.settings import MEASURED, ROLES, differences, several
from tf_lottery.studies.comparison import compare
from tf_lottery.studies.design import Design
from tf_lottery.studies.experiments import find_experiment
from tf_lottery.terminal import say

if TYPE_CHECKING:
    from tf_lottery.engine.stage import Stage
    from tf_lottery.engine.store import Store
    from tf_lottery.lottery.work import Workshop
    from tf_lottery.report.results import Reference, Results
    from tf_lottery.studies.study import Study
    from tf_lottery.tickets import Ticket
    from tf_lottery.training.distribution import Distribution


def make_design(command: Command, ticket: Ticket | None = None) -> Design:
    """What the command line compares, checked.

    Raises:
      UsageError: names what is wrong with it.
    """
    if command.experiment is not None:
        experiment = find_experiment(command.experiment)
        return Design(
            experiment, command.options, command.given, command.sweeps, command.replicates
        )
    options = command.options
    experiment = compare(options["compare"], bool(options["attacks"]))
    digest = None if ticket is None else ticket.digest
    return Design(experiment, options, command.given, {}, command.replicates, digest)


@contextlib.contextmanager
def naming_origin(command: Command) -> Iterator[None]:
    """Says of a value that is refused and that nobody gave where it comes from."""
    try:
        yield
    except UsageError as error:
        flag = error.flag
        if flag not in DEFAULTS or flag in command.given or f"--{flag}: got " not in str(error):
            raise
        origin = "that is the default"
        if command.experiment is not None:
            experiment = find_experiment(command.experiment)
            if flag in experiment.fixed:
                raise
            if flag in {**experiment.full, **experiment.defaults}:
                origin = f"experiment {experiment.id} sets that"
        advice = f"{origin}; give --{flag} another value"
        raise UsageError(f"{error} ({advice})", flag) from error


def make_study(command: Command) -> Study:
    """The study of the command line; TensorFlow is running."""
    from tf_lottery.engine.stage import in_order
    from tf_lottery.studies.study import Study
    from tf_lottery.tickets import Ticket

    ticket = Ticket.load(command.ticket) if command.ticket else None
    study = Study(make_design(command, ticket), ticket)
    stages = in_order(study.targets)
    if ticket is not None and not any("given" in stage.settings for stage in stages):
        kinds = ",".join(command.options["compare"])
        raise UsageError(f"--ticket: no model of --compare={kinds} is made from it", "ticket")
    return study


def measured_options(command: Command) -> list[str]:
    """The options that are ``--dtype_policy=auto``, or that of one training."""
    policies = ("dtype_policy", *(f"{role}_dtype_policy" for role in ROLES))
    return [name for name in policies if command.options[name] == MEASURED]


def _measured(command: Command) -> Command:
    """The command with what this machine, or a budget, decides; says so.

    A run's store keeps what was measured; a plan writes nothing.
    """
    return _with_budget(_with_measured_policy(command))


def _with_budget(command: Command) -> Command:
    """The command with the options that ``--budget`` or ``--budget_minutes`` chooses."""
    minutes, share = command.budget_minutes, command.budget or 0.0
    if not share and minutes is None:
        return command
    flag = "budget" if minutes is None else "budget_minutes"
    if command.experiment is not None:
        raise UsageError(f"--{flag}: an experiment has its own, leave it out", flag)
    from tf_lottery.engine.remote_store import open_store
    from tf_lottery.lottery.budget import fit, share_of_minutes, speed_stage
    from tf_lottery.lottery.work import Workshop
    from tf_lottery.tickets import Ticket

    config = command.config()
    workshop = Workshop(open_store(command.store, read_only=True))
    if minutes is not None:
        with _store_to_measure(command, speed_stage(config)) as workshop.store:
            share = share_of_minutes(minutes, config, workshop)
    ticket = Ticket.load(command.ticket) if command.ticket else None
    images = len(workshop.data(config).train_labels)
    fitted = fit(command.options, command.given, share, images, ticket, minutes)
    print(textwrap.fill(fitted.words, _width()))
    return dataclasses.replace(command, options=fitted.options)


@contextlib.contextmanager
def _store_to_measure(command: Command, stage: Stage) -> Iterator[Store]:
    """The run's store, if the measurement is there or it is a run; else one that is forgotten."""
    from tf_lottery.engine.remote_store import open_store
    from tf_lottery.engine.store import Store

    store = open_store(command.store, read_only=True)
    with tempfile.TemporaryDirectory() as temporary:
        if not store.has(stage):
            plan = command.mode == "plan"
            store = Store(temporary) if plan else _make_places(command, Path(command.workdir))
        yield store


def _with_measured_policy(command: Command) -> Command:
    """The command with the policy in the place of ``--dtype_policy=auto``, of any training."""
    asked = measured_options(command)
    if not asked:
        return command
    from tf_lottery.lottery.precision import faster_policy, precision_stage
    from tf_lottery.lottery.work import Workshop

    if command.experiment is None:
        config = command.config()
    else:
        config = next(iter(make_design(command).configs.values()))
    with _store_to_measure(command, precision_stage(config)) as store:
        policy = faster_policy(config, Workshop(store), print)
    options = {**command.options, **dict.fromkeys(asked, policy)}
    return dataclasses.replace(command, options=options)


def run_study(command: Command, distribution: Distribution) -> int:
    """Finishes every stage, then writes results, figures and report.

    In a process that trains with another one, the chief, only takes part in that.
    """
    from tf_lottery.engine.remote_store import open_store
    from tf_lottery.lottery.followers import agree_on_targets, follow
    from tf_lottery.lottery.work import Workshop

    command = _measured(command)
    study = make_study(command)
    agree_on_targets(study.targets, distribution)
    workshop = Workshop(
        open_store(command.store, read_only=True),
        Path(command.workdir) / "tensorboard",
        progress=True,
        distribution=distribution,
    )
    if not distribution.chief:
        follow(study.targets, workshop)
        return 0
    with distribution.leading():
        return _lead(command, study, workshop)


def _lead(command: Command, study: Study, workshop: Workshop) -> int:
    from tf_lottery.report.results import RESULTS, write_results
    from tf_lottery.report.study import write_report
    from tf_lottery.studies.leavings import leave

    reference = _reference(
        command, [arm.reference for arm in study.design.arms], study.experiment.source
    )
    workdir = Path(command.workdir)
    _check_workdir(workdir, study.design)
    if study.design.scale:
        print(textwrap.fill(f"{study.experiment.source}, {study.design.scale}", _width()))
    document = _finished(study, workshop.store, workdir, reference)
    if document is not None:
        print("everything is finished already; nothing was run")
    else:
        study.check(workshop)
        workshop.store = _make_places(command, workdir)  # from here on things are written
        with locks.held(workdir / ".lock", str(workdir), say):
            # Another process may have finished here while this one waited.
            _check_workdir(workdir, study.design)
            trainings = study.trainings
            found = workshop.store.finished(trainings)
            for stage in trainings:
                if stage.key in found:
                    workshop.check_data(stage)
            cached = _finish_stages(study.targets, workshop, command)
            leave(study, workshop, workdir, cached)
            document = study.document(workshop, cached, command.argv, reference)
            write_results(workdir / RESULTS, document)
            write_report(workdir)
            _log_figures(workdir)
    _tell(document, workdir)
    return 0


def _finished(
    study: Study, store: Store, workdir: Path, reference: Reference | None
) -> Results | None:
    """The document of an earlier run, if this one would leave the same; else ``None``."""
    from tf_lottery.engine.stage import in_order
    from tf_lottery.report.results import RESULTS, read_results
    from tf_lottery.studies.leavings import left

    names = (RESULTS, "report.html", "report.md", "tensorboard/report")
    wanted = [*(workdir / name for name in names), *left(study, workdir)]
    if not all(path.exists() for path in wanted):
        return None
    document = read_results(workdir / RESULTS)
    if not study.is_told_by(document, reference):
        return None
    stages = in_order(study.targets)
    return document if len(store.finished(stages)) == len(stages) else None


def _check_workdir(workdir: Path, design: Design) -> None:
    """Refuses to overwrite results of other settings; more replicates are the same ones."""
    from tf_lottery.report.results import find_results, read_results

    path = find_results(workdir)
    if not path.exists():
        return
    document = read_results(path)
    advice = "choose another --workdir or remove that file"
    if document.study.id != design.experiment.id:
        raise StoreError(
            f"{path} is of {document.study.title!r}, not of {design.experiment.title!r}: {advice}"
        )
    theirs, ours = dict(document.settings), dict(design.settings)
    theirs.pop("replicates", None)
    ours.pop("replicates", None)
    lines = differences(ours, theirs)
    if lines:
        raise StoreError(f"{path} holds the results of other settings ({several(lines)}): {advice}")
    if len(design.seeds) < len(document.seeds):
        raise StoreError(
            f"{path} holds {len(document.seeds)} replicates, --replicates={len(design.seeds)} "
            f"would drop some: give as many, {advice}"
        )


def _make_places(command: Command, workdir: Path) -> Store:
    """Creates the work directory and the store of the command line.

    Raises:
      StoreError: one of them cannot be written; a bad ``--store`` leaves no new
        ``--workdir`` behind.
      UsageError: Ray is not installed, or nothing answers at ``--ray_address``; no
        directory is made then.
    """
    from tf_lottery.engine.remote_store import open_store

    if command.execution.executor == "ray":
        from tf_lottery.engine.ray import check_reachable

        check_reachable(command.execution.ray_address)
    if "store" in command.given:
        open_store(command.store, workdir / "stages")
    files.make_directory("workdir", workdir)
    return open_store(command.store, workdir / "stages")


def _finish_stages(
    targets: Sequence[Stage], workshop: Workshop, command: Command
) -> dict[str, bool]:
    """Finishes every stage the targets need, by the executor of the command line.

    Args:
      targets: the stages wanted.
      workshop: does them, where they are done one by one in this process.
      command: says how; ``--jobs`` counts with the local executor alone.

    Returns:
      For each stage key whether it was finished before.

    Raises:
      LotteryError: as the work does, or as the executor does.
    """
    from tf_lottery.engine.serial import run_stages
    from tf_lottery.lottery.work import Workshop

    chosen, announce = command.execution, functools.partial(print, flush=True)
    assert workshop.log_root is not None
    make = functools.partial(Workshop, log_root=workshop.log_root.resolve())
    if chosen.executor == "ray":
        from tf_lottery.engine.ray import run_on_ray

        return run_on_ray(
            targets,
            command.store,
            make,
            chosen.ray_address,
            chosen.ray_cpus,
            chosen.ray_gpus,
            announce,
        )
    if chosen.jobs > 1:
        from tf_lottery.engine.processes import run_parallel

        return run_parallel(targets, workshop.store, make, chosen.jobs, announce)
    return run_stages(targets, workshop, announce)


def _reference(command: Command, runs: Iterable[str | None], source: str) -> Reference | None:
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
    missing = [run for run in dict.fromkeys(wanted) if run not in found.runs]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        print(f"{found.file} has no run {', '.join(missing[:3])}{more}: drawn without")
    return found


def plan_study(command: Command) -> int:
    """Prints the stages, their cost, and what is finished."""
    from tf_lottery.engine.remote_store import open_store
    from tf_lottery.lottery.plan import plan, plan_text
    from tf_lottery.lottery.work import Workshop

    command = _measured(command)
    study = make_study(command)
    about = study.experiment
    _reference(command, [arm.reference for arm in study.design.arms], about.source)
    workshop = Workshop(open_store(command.store, read_only=True))
    study.check(workshop)
    if about.source:
        print(f"{about.source}: {about.title}")
    if study.design.scale:
        print(textwrap.fill(study.design.scale, _width()))
    planned, counted = plan(study.targets, workshop), study.counted_flops(workshop)
    print(plan_text(planned, study.baselines, command.execution.jobs, counted))
    return 0


def report_study(command: Command, start_tensorflow: Callable[[bool], None]) -> int:
    """Writes the report anew from the results.

    Args:
      command: ``--reference_csv`` puts its curves in the place of those that the results
        hold; an empty one takes them away.
      start_tensorflow: called if TensorBoard's pictures are to be written, with
        ``--verbose``.
    """
    from tf_lottery.report.overlay import lay_over
    from tf_lottery.report.results import RESULTS, find_results, read_results, write_results
    from tf_lottery.report.study import write_report

    workdir = Path(command.workdir)
    document = read_results(find_results(workdir))
    if command.reference_csv is not None:
        if not document.is_experiment:
            raise UsageError(
                f"--reference_csv goes with an experiment, {workdir} holds none: leave it out",
                "reference_csv",
            )
        runs = [arm.reference for arm in document.arms]
        reference = _reference(command, runs, document.study.source)
        with locks.held(workdir / ".lock", str(workdir), say):  # a run may be adding a replicate
            document = lay_over(read_results(find_results(workdir)), reference)
            write_results(workdir / RESULTS, document)
    write_report(workdir)
    if command.reference_csv is not None and (workdir / "tensorboard" / "report").is_dir():
        start_tensorflow(command.verbose)
        _log_figures(workdir)
    _tell(document, workdir)
    return 0


def _log_figures(workdir: Path) -> None:
    """The report's figures as images in TensorBoard."""
    from tf_lottery.training.tensorboard import log_pictures

    log_pictures(workdir / "tensorboard" / "report", sorted((workdir / "figures").glob("*.png")))


def _tell(document: Results, workdir: Path) -> None:
    """The results in short, and where everything lies."""
    from tf_lottery.report.results import find_results
    from tf_lottery.report.summary import summary

    print(f"\n{summary(document)}\n")
    print(f"report        {workdir / 'report.html'}")
    print(f"results       {find_results(workdir)}")
    print(f"figures       {workdir / 'figures'}/")
    for what, folder in (("SavedModels", "saved_model"), ("tickets", "tickets")):
        names = sorted(path.name for path in (workdir / folder).glob("[!.]*"))
        if names and not document.is_experiment:
            print(f"{what:<12}  {workdir / folder}/ ({', '.join(names)})")
    tensorboard = Path(sys.executable).with_name("tensorboard")  # of this environment
    if tensorboard.is_relative_to(Path.cwd()):
        tensorboard = tensorboard.relative_to(Path.cwd())
    command = shlex.join([str(tensorboard), f"--logdir={workdir / 'tensorboard'}"])
    print(f"TensorBoard   {command}")


def _width() -> int:
    return min(100, shutil.get_terminal_size().columns)
