"""One function a ``--mode``; each takes the parsed command line and returns an exit code."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tf_lottery import files, study_cli
from tf_lottery.engine import locks
from tf_lottery.errors import UsageError
from tf_lottery.options.command import Command
from tf_lottery.options.effects import refuse_idle_flags
from tf_lottery.options.settings import DTYPE_POLICIES, MEASURED
from tf_lottery.terminal import say, silent_stderr

if TYPE_CHECKING:
    from tf_lottery.evaluation.loading import LoadedModel
    from tf_lottery.training.distribution import Distribution


_STAGES = ("run", "plan")  # modes


def execute(command: Command) -> int:
    """Runs the command's mode.

    Raises:
      LotteryError: see ``tf_lottery.errors``.
    """
    refuse_idle_flags(command)
    chosen = command.execution
    if chosen.devices and chosen.distribute == "none":
        raise UsageError("--devices goes with --distribute, which is not given", "devices")
    if chosen.distribute != "none" and command.mode not in _STAGES:
        raise UsageError(
            f"--distribute goes with --mode=run, which trains, got --mode={command.mode}",
            "distribute",
        )
    several = [n for n in (chosen.executor, chosen.distribute) if n in ("ray", "multiworker")]
    measured = study_cli.measured_options(command)
    if several and measured and command.mode in _STAGES:
        policies = " or ".join(DTYPE_POLICIES)
        raise UsageError.bad_value(
            measured[0], MEASURED, f"{policies} with {several[0]}: this machine is one of many"
        )
    with files.disk_errors("workdir", command.workdir), study_cli.naming_origin(command):
        return _MODES[command.mode](command)


def _start_tensorflow(verbose: bool) -> None:
    """First import of TensorFlow; its chatter is kept from the terminal without ``-v``."""
    if verbose:
        importlib.import_module("tf_lottery.keras")
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with silent_stderr():
        from tf_lottery.keras import tf

        tf.get_logger().setLevel("ERROR")
        tf.constant(0.0).numpy()  # starts the devices, which talk too


def _start_devices(command: Command) -> Distribution:
    """``_start_tensorflow`` with the devices that trainings are to share.

    Raises:
      UsageError: they cannot be had.
    """
    chosen = command.execution
    if chosen.distribute == "multiworker":
        # What TensorFlow says when a process ends is said again, shorter, by the error.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2" if command.verbose else "3")
    with contextlib.nullcontext() if command.verbose else silent_stderr():
        from tf_lottery.training.devices import make_distribution

        announce = functools.partial(print, flush=True)
        # First: TensorFlow starts its devices on their first use, once and for all.
        distribution = make_distribution(
            chosen.distribute, chosen.devices, chosen.tpu, chosen.worker_timeout, announce
        )
    _start_tensorflow(command.verbose)
    return distribution


def _run(command: Command) -> int:
    if command.ticket is None or command.experiment is not None:
        study_cli.make_design(command)  # bad flags are told before seconds go by
    else:
        command.config()
    return study_cli.run_study(command, _start_devices(command))


def _plan(command: Command) -> int:
    if command.ticket is None or command.experiment is not None:
        study_cli.make_design(command)
    else:
        command.config()
    _start_tensorflow(command.verbose)
    return study_cli.plan_study(command)


def _evaluate(command: Command) -> int:
    config = command.config()  # bad flags are told before seconds go by
    given = [*command.model_paths, *([command.ticket] if command.ticket else [])]
    if not given:
        raise UsageError("--mode=evaluate needs --model_path or --ticket, got neither")
    if command.transfer_attack:
        command.evaluation_attack(command.transfer_attack, "transfer_attack")
    _start_tensorflow(command.verbose)
    from tf_lottery.data import load
    from tf_lottery.evaluation.loading import load_models
    from tf_lottery.evaluation.robustness import RobustnessConfig, evaluate_models
    from tf_lottery.models import allow
    from tf_lottery.report import robustness

    allow(config.model.name)
    models = load_models(given)
    command = _as_recorded(command, models)
    config = command.config()
    transfer = None
    if command.transfer_attack:
        transfer = command.evaluation_attack(command.transfer_attack, "transfer_attack")
    analysis = command.evaluation_attack("pgd20", "eval_eps")
    chosen = RobustnessConfig(
        config.attacks,
        transfer,
        dataclasses.replace(analysis, restarts=1),
        command.analysis_images,
        config.seed,
        command.eval_batch_size,
    )
    for model in models:
        if model.dataset not in (None, config.data.name):
            print(
                f"note: {model.name} was trained on {model.dataset} and is evaluated on "
                f"{config.data.name}; --dataset changes that"
            )
        trained = model.training_eps
        if trained is not None and not math.isclose(trained, analysis.eps, rel_tol=1e-6):
            print(
                f"note: {model.name} was trained at eps {trained:.4g} in l_inf and is attacked at "
                f"{analysis.eps:.4g} in {analysis.norm}; --eval_eps changes that"
            )
    data = load(config.data)
    directory = Path(command.evaluation_dir)
    files.make_directory("evaluation_dir", directory)
    with (
        files.disk_errors("evaluation_dir", directory),
        locks.held(directory / ".lock", str(directory), say),
    ):
        document = evaluate_models(
            models,
            data,
            chosen,
            directory,
            command=command.argv,
            progress=True,
            announce=say,
        )
        robustness.write_evaluation(directory / "evaluation.json", document)
        robustness.write_robustness_report(directory)
    print()
    print(robustness.robustness_table(document))
    print()
    print(f"report        {directory / 'report.html'}")
    print(f"results       {directory / 'evaluation.json'}")
    print(f"examples      {directory}/<model>/examples.npz")
    return 0


def _as_recorded(command: Command, models: Sequence[LoadedModel]) -> Command:
    """The command with the data set and radius that the models were trained on, as far as it
    does not say others itself; says so.

    Raises:
      UsageError: the models were trained on different ones.
    """
    options, told = dict(command.options), []

    def take(name: str, words: str, values: set) -> None:
        if len(values) > 1:
            listed = " and ".join(
                f"{value:.4g}" if name != "dataset" else value for value in sorted(values)
            )
            raise UsageError(f"--{name}: the models were trained {words} {listed}: say which", name)
        options[name] = values.pop()

    known = [model for model in models if model.dataset is not None]
    if "dataset" not in command.given and known:
        take("dataset", "on", {model.dataset for model in known})
        told.append(f"on {options['dataset']}")
        if "image_size" not in command.given:
            take("image_size", "with --image_size", {model.image_size for model in known})
            told[-1] += f" at {options['image_size']} pixels" if options["image_size"] else ""
    radii = {model.training_eps for model in models} - {None}
    if not {"eps", "eval_eps", "eval_norm"} & command.given and radii:
        take("eval_eps", "at eps", radii)
        told.append(f"at eps {options['eval_eps']:.4g}")
    if told:
        print(f"note: attacked {' '.join(told)}, as trained; --dataset and --eval_eps change that")
    return dataclasses.replace(command, options=options)


def _one_model(command: Command) -> str:
    given = [*command.model_paths, *([command.ticket] if command.ticket else [])]
    if len(given) != 1:
        raise UsageError(
            f"--mode={command.mode} needs one of --model_path and --ticket, got "
            + (" and ".join(given) or "neither")
        )
    return given[0]


def _export(command: Command) -> int:
    path = _one_model(command)
    if (Path(path) / "results.json").is_file():  # a run holds many
        allowed = (
            "one network to export, this is a run's work directory: give one of its tickets "
            "(tickets/<name>) or a training stage of its store (stages/train-<key>)"
        )
        raise UsageError.bad_value("model_path", path, allowed)
    command.evaluation_attack("pgd20", "eval_eps")  # bad flags are told before seconds go by
    run_config = command.config()
    target = Path(command.export_dir)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError.bad_value("export_dir", str(target), "a new or empty directory")
    _start_tensorflow(command.verbose)
    from tf_lottery.evaluation.loading import load_model, sparsity
    from tf_lottery.export.exporting import ExportConfig, export_model, find_images
    from tf_lottery.models import allow
    from tf_lottery.report.exported import EXPORT, export_table

    allow(run_config.model.name)
    loaded = load_model(path)
    if loaded.network is None:
        raise UsageError.bad_value("model_path", path, "something else than a SavedModel to export")
    config = ExportConfig(
        command.evaluation_attack("pgd20", "eval_eps", loaded.training_eps),
        command.formats,
        command.compact,
        command.options["seed"],
        command.verbose,
    )
    zeros = sparsity(loaded.network)
    if zeros is None:
        say(f"note: {loaded.what} has no Conv2D or Dense layer: there is nothing to prune in it")
    images = find_images(loaded, run_config.data, command.given, command.formats)
    with (
        files.disk_errors("export_dir", target.parent),
        files.new_directory(target) as partial,
    ):
        document = export_model(loaded, partial, images, config, command=command.argv, announce=say)
    if zeros is not None:
        print(f"{loaded.what}: {zeros:.1%} of the conv and dense weights are 0")
    print()
    print(export_table(document))
    print()
    for row in document.rows:
        if row.file:
            print(f"{row.label:<22}  {target / row.file}")
    print(f"{'these numbers':<22}  {target / EXPORT}")
    return 0


def _inspect(command: Command) -> int:
    if not command.ticket:
        raise UsageError("--mode=inspect needs --ticket, a ticket directory")
    _start_tensorflow(command.verbose)
    from tf_lottery.report.text import ticket_text
    from tf_lottery.tickets import Ticket

    print(ticket_text(Ticket.load(command.ticket).to_json()))
    return 0


def _report(command: Command) -> int:
    return study_cli.report_study(command, _start_tensorflow)


_MODES: dict[str, Callable[[Command], int]] = {
    "run": _run,
    "plan": _plan,
    "evaluate": _evaluate,
    "export": _export,
    "inspect": _inspect,
    "report": _report,
}
