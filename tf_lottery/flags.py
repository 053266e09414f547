"""The command line's flags, grouped by topic; the only reader of ``FLAGS``.

The flags live in a ``FlagValues`` of their own, so that ``--help`` shows this
project's flags alone and ``-v`` is ours, whatever libraries are imported later.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import shutil
import textwrap
from fractions import Fraction
from typing import Any

from absl import flags

from tf_lottery.attack_config import NORMS
from tf_lottery.config import (
    ARCHITECTURES,
    DTYPE_POLICIES,
    KINDS,
    MODES,
    OBJECTIVES,
    PRUNING_SCHEDULES,
    RATE_SCHEDULES,
    SCOPES,
    SCORES,
    AttackConfig,
    LotteryConfig,
)
from tf_lottery.errors import UsageError
from tf_lottery.options import evaluation_attacks, lottery_config

FLAGS = flags.FlagValues()

_DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(lottery_config).parameters.items()
}


class _NumberParser(flags.ArgumentParser):
    """Accepts ``0.031`` and ``8/255`` alike."""

    syntactic_help = "a number such as 0.03 or 8/255"

    def parse(self, argument):
        if isinstance(argument, (int, float)):
            return float(argument)
        try:
            if re.fullmatch(r"\d{1,9}/\d{1,9}", argument):
                return float(Fraction(argument))
            return float(argument)
        except (ValueError, ZeroDivisionError):
            raise ValueError(f"got {argument!r}, must be {self.syntactic_help}") from None

    def flag_type(self):
        return "number"


def _flag(kind: str, name: str, text: str, default: Any = ..., **extra) -> str:
    """Defines one flag, its default that of ``lottery_config`` unless given; returns its name."""
    default = _DEFAULTS[name] if default is ... else default
    default = list(default) if isinstance(default, tuple) else default
    extra["flag_values"] = FLAGS
    if kind == "number":
        serializer: flags.ArgumentSerializer = flags.ArgumentSerializer()
        flags.DEFINE(_NumberParser(), name, default, text, serializer=serializer, **extra)
    else:
        getattr(flags, f"DEFINE_{kind}")(name, default=default, help=text, **extra)
    return name


def _enum(name: str, values, text: str, default: Any = ...) -> str:
    return _flag("enum", name, text, default, enum_values=list(values))


def _list(values) -> str:
    return ", ".join(values)


# Topic -> names, in the order of --help.
_TOPICS = {
    "What to do": [
        _enum(
            "mode",
            MODES,
            "run: search, train, compare. plan: list the stages, their cost and what is "
            "finished. evaluate: attacks on any models, with a report. export: a SavedModel. "
            "inspect: a ticket. report: rebuild the report of a work directory.",
            "run",
        ),
        _flag("list", "compare", f"Models to train and compare, of {_list(KINDS)}."),
        _flag(
            "string",
            "workdir",
            "Directory for results, report, tickets, SavedModels and TensorBoard logs.",
            "runs/lottery",
        ),
        _flag(
            "string",
            "store",
            "Directory of finished stages, shared between runs. Default: <workdir>/stages.",
            None,
        ),
        _flag(
            "string",
            "ticket",
            "A ticket directory: to inspect, evaluate or export, or in mode run to train "
            "instead of searching one.",
            None,
        ),
        _flag(
            "string",
            "model_path",
            "A SavedModel directory, a .keras file, or a finished training stage of a store: "
            "to evaluate or export. To evaluate also several with commas between, or a run's "
            "work directory for all its models.",
            None,
        ),
        _flag(
            "string",
            "export_dir",
            "Where mode export writes. Default: <workdir>/saved_model/exported.",
            None,
        ),
        _flag(
            "string",
            "evaluation_dir",
            "Where mode evaluate writes, and goes on from. Default: <workdir>/evaluation.",
            None,
        ),
    ],
    "Data": [
        _flag(
            "string",
            "dataset",
            "digits (comes with scikit-learn) or an image classification set of "
            "tensorflow-datasets, such as cifar10.",
        ),
        _flag("string", "data_dir", "Where tensorflow-datasets keeps its sets. Default: its own."),
        _flag("integer", "train_examples", "Size of a class-balanced training subset; 0: all."),
        _flag(
            "integer",
            "validation_examples",
            "Images held out of the training split; 0: a tenth of it (CIFAR-10: 5,000).",
        ),
        _flag("integer", "test_examples", "Number of test images used; 0: all."),
        _flag("boolean", "augment", "Random crops and flips. Default: for CIFAR sets only."),
    ],
    "Model": [
        _enum("model", ARCHITECTURES, "Network family."),
        _flag("integer", "depth", "vgg: 7, 8, 11, 16. wide_resnet: 6n + 4. 0: 16 and 34."),
        _flag("integer", "width", "Width factor of wide_resnet; 0: 10."),
        _flag("number", "width_multiplier", "Factor on every hidden layer's width."),
        _flag(
            "boolean",
            "normalize",
            "Standardise pixels in the first layer. Default: if both objectives are natural.",
        ),
    ],
    "Training": [
        _enum("objective", OBJECTIVES, "What dense training and retraining minimise."),
        _enum("search_objective", OBJECTIVES, "What the search of a ticket minimises."),
        _flag("integer", "epochs", "Epochs of the dense baseline."),
        _flag("integer", "ticket_epochs", "Epochs of retraining a ticket; 0: --epochs."),
        _flag("integer", "search_epochs", "Epochs of the search; 0: --epochs."),
        _flag("number", "learning_rate", "Peak rate; 0: 0.1."),
        _flag(
            "number",
            "search_learning_rate",
            "Start rate of the boosting search; 0: 0.01, ResNets 0.05.",
        ),
        _enum("schedule", RATE_SCHEDULES, "step: x0.1 at 50 % and 75 % of the epochs."),
        _flag("number", "warmup_start", "First rate of a warm-up; 0: 0.01, ResNets 0.05."),
        _flag(
            "integer",
            "warmup_epochs",
            "Epochs below the peak rate. Default: 9, ResNets 10, at most half of the epochs.",
        ),
        _flag("integer", "batch_size", "Images a step; 0: 64, ResNets 128."),
        _flag("number", "momentum", "Of SGD, in [0, 1)."),
        _flag("number", "weight_decay", "L2 coefficient, added to every gradient."),
        _enum(
            "dtype_policy",
            DTYPE_POLICIES,
            "Precision of training; evaluation is always float32.",
        ),
        _flag("boolean", "jit_compile", "Compile the training step with XLA (accelerators)."),
    ],
    "Pruning": [
        _flag("number", "sparsity", "Share of the weights removed, in [0, 1)."),
        _enum("score", SCORES, "normalized_magnitude: |w| over its layer's mean |w|."),
        _enum("scope", SCOPES, "One threshold for all layers, or one a layer."),
        _enum("pruning_schedule", PRUNING_SCHEDULES, "At once or over several search rounds."),
        _flag("integer", "rounds", "Rounds of the decreasing schedule."),
        _flag(
            "number",
            "round_fraction",
            "Share of the remaining weights that a round of the geometric schedule removes, "
            "in (0, 1).",
        ),
        _flag(
            "integer",
            "rewind_epoch",
            "0: rewind to the initialisation; k: to the weights after epoch k of the search.",
        ),
    ],
    "Attacks in training (l_inf, on pixels in [0, 1])": [
        _flag("number", "eps", "Radius of the ball; 8/255 works."),
        _flag("integer", "steps", "PGD steps while training."),
        _flag("number", "step_size", "PGD step. Default: eps/4."),
        _flag(
            "boolean",
            "random_start",
            "PGD starts at a random point of the ball while training (the authors' code: at "
            "the clean image).",
        ),
        _flag("string", "validation_attack", "Run after each epoch to pick the best one."),
        _flag("integer", "validation_images", "Validation images used each epoch; 0: all."),
    ],
    "Attacks in evaluation (on pixels in [0, 1])": [
        _flag(
            "list",
            "attacks",
            "Run on test images: autoattack (the standard version), its parts apgd_ce, apgd_t, "
            "fab_t, square, also apgd_dlr, fab, square<N>; fgsm, pgd<N>, cw<N> (PGD on the margin "
            "loss, 30 steps), mim<N>; cw_l2; noise<N>.",
        ),
        _enum("eval_norm", NORMS, "Norm of the ball."),
        _flag("number", "eval_eps", "Radius. Default: --eps; for l2 0.5."),
        _flag(
            "number",
            "eval_step_size",
            "Step of PGD, C&W and MIM. Default: eval_eps/4; MIM: eval_eps divided by its steps.",
        ),
        _flag("boolean", "eval_random_start", "PGD and C&W start at random."),
        _flag(
            "integer",
            "restarts",
            "Random restarts; the worst counts. Not of fgsm, noise, cw_l2, autoattack.",
        ),
        _flag(
            "string",
            "transfer_attack",
            "Mode evaluate, with several models: its adversarial examples of each are tried on "
            "the others. Empty: none.",
            "pgd20",
        ),
        _flag(
            "integer",
            "analysis_images",
            "Mode evaluate: test images for the diagnosis and the curves over eps and steps; "
            "0: none of them.",
            200,
        ),
        _flag(
            "integer",
            "eval_batch_size",
            "Images a batch in mode evaluate; changes no result. 0: 250 or less.",
            0,
        ),
    ],
    "Running": [
        _flag("integer", "seed", "Root of all random numbers."),
        _flag("boolean", "deterministic", "Bit-identical results on one machine, slower."),
        _flag(
            "boolean",
            "verbose",
            "Show tracebacks and TensorFlow's own messages.",
            False,
            short_name="v",
        ),
        _flag("boolean", "help", "Show this text.", False, short_name="h"),
        _flag("boolean", "version", "Show the version.", False),
    ],
}


# Flags that say where files lie, or how to talk: no part of a result.
_PLACES = (
    "workdir", "store", "data_dir", "ticket", "model_path", "export_dir", "evaluation_dir",
    "eval_batch_size", "verbose", "mode",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Command:
    """A parsed command line.

    Attributes:
      mode: one of ``config.MODES``.
      model_paths: what ``--model_path`` lists.
      transfer_attack, analysis_images, eval_batch_size: of mode evaluate.
      options: the arguments of ``lottery_config`` as given.
      given: names of the flags that were set.
      argv: what was set, flagfiles resolved, without the flags of ``_PLACES``.
    """

    mode: str
    workdir: str
    store: str
    ticket: str | None
    model_paths: tuple[str, ...]
    export_dir: str
    evaluation_dir: str
    transfer_attack: str
    analysis_images: int
    eval_batch_size: int
    verbose: bool
    options: dict[str, Any]
    given: frozenset[str]
    argv: tuple[str, ...]

    def config(self) -> LotteryConfig:
        """The validated configuration; raises ``UsageError``."""
        return lottery_config(**self.options)

    def evaluation_attack(self, name: str, flag: str) -> AttackConfig:
        """The attack of that name with the settings of evaluation; errors name ``flag``."""
        try:
            (attack,) = evaluation_attacks(
                [name],
                *(
                    self.options[option]
                    for option in (
                        "eps", "eval_norm", "eval_eps", "eval_step_size", "eval_random_start",
                        "restarts",
                    )
                ),
            )  # fmt: skip
        except UsageError as error:
            raise UsageError(str(error).replace("--attacks", f"--{flag}"), flag) from None
        return attack


def parse(argv: list[str]) -> Command | str:
    """Parses arguments (without the program's name).

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
    except flags.Error as error:
        raise UsageError(" ".join(str(error).replace("flag --", "--").split())) from None
    if FLAGS.help:
        return help_text()
    if FLAGS.version:
        import tf_lottery

        return f"tf_lottery {tf_lottery.__version__}"
    if rest:
        raise UsageError(
            f"{rest[0]!r} is no flag; flags read --name=value (in a flagfile one a line, "
            "# starts a comment)"
        )
    options = {name: getattr(FLAGS, name) for name in _DEFAULTS}
    for name in ("compare", "attacks"):
        options[name] = tuple(item for item in options[name] if item)
    return Command(
        mode=FLAGS.mode,
        workdir=FLAGS.workdir,
        store=FLAGS.store or f"{FLAGS.workdir}/stages",
        ticket=FLAGS.ticket,
        model_paths=tuple(path for path in (FLAGS.model_path or "").split(",") if path),
        export_dir=FLAGS.export_dir or f"{FLAGS.workdir}/saved_model/exported",
        evaluation_dir=FLAGS.evaluation_dir or f"{FLAGS.workdir}/evaluation",
        transfer_attack=FLAGS.transfer_attack,
        analysis_images=FLAGS.analysis_images,
        eval_batch_size=FLAGS.eval_batch_size,
        verbose=FLAGS.verbose,
        options=options,
        given=frozenset(name for name in FLAGS if FLAGS[name].present),
        argv=tuple(
            FLAGS[name].serialize()
            for names in _TOPICS.values()
            for name in names
            if FLAGS[name].present and name not in _PLACES
        ),
    )


def help_text() -> str:
    """All flags by topic, with defaults and units."""
    width = min(100, shutil.get_terminal_size().columns)
    lines = [
        "Boosting tickets: search a sparse network cheaply, retrain it robustly, compare.",
        "",
        "  python -m tf_lottery.main --flagfile=flags/quickstart.flags [--flag=value ...]",
        "",
        "A flagfile holds one --flag=value a line; later values win.",
    ]
    for topic, names in _TOPICS.items():
        lines += ["", f"{topic}:"]
        for name in names:
            flag = FLAGS[name]
            head = f"--{name}" if not flag.boolean else f"--[no]{name}"
            if flag.short_name:
                head += f", -{flag.short_name}"
            text = flag.help + (f" [{_shown(flag)}]" if flag.default is not None else "")
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
