"""The command line, parsed into a ``Command``; nothing outside this package reads ``FLAGS``."""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
import textwrap
from collections.abc import Sequence
from typing import Any

from absl import flags

from tf_lottery.errors import UsageError
from tf_lottery.options.build import evaluation_attack, lottery_config
from tf_lottery.options.flags import DEFAULTS, FLAGS, SWEEPS, TOPICS
from tf_lottery.options.settings import AttackConfig, LotteryConfig

# Flags that say where files lie, or how to talk: no part of a result.
_PLACES = (
    "workdir", "store", "data_dir", "ticket", "model_path", "export_dir", "evaluation_dir",
    "eval_batch_size", "verbose", "mode", "reference_csv", "executor", "jobs", "ray_address",
    "ray_cpus", "ray_gpus", "data_on_device", "tpu", "worker_timeout",
    "checkpoint_minutes",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Execution:
    """Where stages run.

    Attributes:
      executor: one of ``settings.EXECUTORS``.
      jobs: stages at a time on this machine.
      ray_address: ``None`` starts a cluster on this machine.
      ray_cpus, ray_gpus: what a stage takes of a Ray cluster.
      distribute: one of ``settings.DISTRIBUTIONS``: what shares each batch of a training.
      devices: of these; 0: all there are.
      tpu: name or address of the TPU.
      worker_timeout: seconds.
    """

    executor: str
    jobs: int
    ray_address: str | None
    ray_cpus: int
    ray_gpus: float
    distribute: str = "none"
    devices: int = 0
    tpu: str = "local"
    worker_timeout: int = 120

    def __post_init__(self):
        for flag, count in (("jobs", self.jobs), ("ray_cpus", self.ray_cpus)):
            if count < 1:
                raise UsageError.bad_value(flag, count, "1 or more")
        if not 0 <= self.ray_gpus < math.inf:
            raise UsageError.bad_value("ray_gpus", self.ray_gpus, "0 or more")
        if self.ray_address is not None and self.executor != "ray":
            raise UsageError("--ray_address goes with --executor=ray", "ray_address")
        if self.worker_timeout < 5:
            raise UsageError.bad_value("worker_timeout", self.worker_timeout, "5 (seconds) or more")
        if self.devices < 0:
            raise UsageError.bad_value("devices", self.devices, "0 or more")
        if self.distribute != "none" and (self.executor != "local" or self.jobs > 1):
            raise UsageError(
                f"--distribute: got {self.distribute!r}, which takes one stage at a time: leave "
                "out --jobs and --executor",
                "distribute",
            )


@dataclasses.dataclass(frozen=True)
class Command:
    """A parsed command line.

    Attributes:
      mode: one of ``settings.MODES``.
      model_paths: what ``--model_path`` lists.
      transfer_attack, analysis_images, eval_batch_size: of mode evaluate.
      formats, compact: of mode export.
      experiment, replicates, sweeps, reference_csv: of an experiment of the paper; ``sweeps``
        holds what was given.
      execution: where stages run.
      options: the arguments of ``lottery_config`` as given.
      given: names of the flags that were set.
      typed: those of them that were set on the command line itself, not in a flagfile.
      argv: what was set, flagfiles resolved, without the flags of ``_PLACES``.
    """

    mode: str
    workdir: str
    store: str
    ticket: str | None
    model_paths: tuple[str, ...]
    export_dir: str
    formats: tuple[str, ...]
    compact: bool
    evaluation_dir: str
    transfer_attack: str
    analysis_images: int
    eval_batch_size: int
    verbose: bool
    experiment: str | None
    replicates: int
    sweeps: dict[str, tuple[float, ...]]
    reference_csv: str | None
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
        options = (
            self.options if eps is None or "eps" in self.given else self.options | {"eps": eps}
        )
        try:
            return evaluation_attack(name, options)
        except UsageError as error:
            raise UsageError(str(error).replace("--attacks", f"--{flag}"), flag) from None


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
    except flags.CantOpenFlagFileError as error:
        reason = str(error).split("] ")[-1]
        raise UsageError(f"--flagfile: cannot be opened: {reason}", "flagfile") from None
    except UnicodeDecodeError:
        raise UsageError("--flagfile: is no text file", "flagfile") from None
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
    options = {name: getattr(FLAGS, name) for name in DEFAULTS}
    data_dir = options["data_dir"]
    if data_dir and "://" not in data_dir:  # other processes work in other directories
        options["data_dir"] = os.path.abspath(data_dir)
    for name in ("compare", "attacks"):
        options[name] = tuple(item for item in options[name] if item)
    given = frozenset(name for name in FLAGS if FLAGS[name].present)
    return Command(
        mode=FLAGS.mode,
        workdir=FLAGS.workdir,
        store=FLAGS.store or f"{FLAGS.workdir}/stages",
        ticket=FLAGS.ticket,
        model_paths=tuple(path for path in (FLAGS.model_path or "").split(",") if path),
        export_dir=FLAGS.export_dir or f"{FLAGS.workdir}/saved_model/exported",
        formats=tuple(name for name in FLAGS.formats if name),
        compact=FLAGS.compact,
        evaluation_dir=FLAGS.evaluation_dir or f"{FLAGS.workdir}/evaluation",
        transfer_attack=FLAGS.transfer_attack,
        analysis_images=FLAGS.analysis_images,
        eval_batch_size=FLAGS.eval_batch_size,
        verbose=FLAGS.verbose,
        experiment=FLAGS.experiment,
        replicates=FLAGS.replicates,
        sweeps={name: tuple(FLAGS[name].value) for name in SWEEPS if FLAGS[name].present},
        reference_csv=FLAGS.reference_csv,
        execution=Execution(
            FLAGS.executor,
            FLAGS.jobs,
            FLAGS.ray_address,
            FLAGS.ray_cpus,
            FLAGS.ray_gpus,
            FLAGS.distribute,
            FLAGS.devices,
            FLAGS.tpu,
            FLAGS.worker_timeout,
        ),
        options=options,
        given=given,
        typed=given & _named(argv),
        argv=tuple(
            FLAGS[name].serialize()
            for names in TOPICS.values()
            for name in names
            if FLAGS[name].present and name not in _PLACES
        ),
    )


def _named(argv: list[str]) -> set[str]:
    """Flags that arguments name themselves; what a flagfile holds is not looked at."""
    words = {word.lstrip("-").split("=")[0] for word in argv if word.startswith("-")}
    words |= {word.removeprefix("no") for word in words}
    return {FLAGS[word].name for word in words if word in FLAGS}


def help_text(experiments: Sequence[str] = ()) -> str:
    """All flags by topic, with defaults and units, and the names of the experiments."""
    width = min(100, shutil.get_terminal_size().columns)
    lines = [
        "Boosting tickets: search a sparse network cheaply, retrain it robustly, compare.",
        "",
        "  python -m tf_lottery.main --flagfile=flags/quickstart.flags [--flag=value ...]",
        "",
        "A flagfile holds one --flag=value a line; later values win.",
    ]
    for topic, names in TOPICS.items():
        lines += ["", f"{topic}:"]
        for name in names:
            flag = FLAGS[name]
            head = f"--{name}" if not flag.boolean else f"--[no]{name}"
            if flag.short_name:
                head += f", -{flag.short_name}"
            text = flag.help.replace("{experiments}", ", ".join(experiments)) + (
                f" [{_shown(flag)}]" if flag.default is not None else ""
            )
            lines += textwrap.wrap(
                text,
                width,
                initial_indent=f"  {head:<24}  " if len(head) <= 24 else f"  {head}  ",
                subsequent_indent=" " * 28,
            )
    return "\n".join(lines)


def _shown(flag) -> str:
    if isinstance(flag.default, (list, tuple)):
        return ",".join(flag.default)
    if isinstance(flag.default, bool):
        return "on" if flag.default else "off"
    if isinstance(flag.default, float):
        return "8/255" if flag.default == 8 / 255 else f"{flag.default:g}"
    return str(flag.default)
