"""Every flag of the command line, grouped by topic.

The flags live in a ``FlagValues`` of their own, so that ``--help`` shows this
project's flags alone and ``-v`` is ours, whatever libraries are imported later.
"""

from __future__ import annotations

import inspect
import re
from fractions import Fraction
from typing import Any

from absl import flags

from tf_lottery.options.attacks import NORMS
from tf_lottery.options.build import lottery_config
from tf_lottery.options.settings import (
    ARCHITECTURES,
    DATA_ON_DEVICE,
    DISTRIBUTIONS,
    DTYPE_POLICIES,
    EXECUTORS,
    EXPORT_FORMATS,
    KINDS,
    MODES,
    OBJECTIVES,
    ON_NAN,
    ON_OVERFIT,
    PRUNING_SCHEDULES,
    RATE_SCHEDULES,
    SCOPES,
    SCORES,
)

FLAGS = flags.FlagValues()

DEFAULTS = {
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


class _NumbersParser(_NumberParser):
    """Numbers with commas between."""

    syntactic_help = "numbers with commas between"

    def parse(self, argument):
        if isinstance(argument, (list, tuple)):
            return [float(value) for value in argument]
        return [super(_NumbersParser, self).parse(part) for part in argument.split(",") if part]


def _flag(kind: str, name: str, text: str, default: Any = ..., **extra) -> str:
    """Defines one flag, its default that of ``lottery_config`` unless given; returns its name."""
    default = DEFAULTS[name] if default is ... else default
    default = list(default) if isinstance(default, tuple) else default
    extra["flag_values"] = FLAGS
    if kind == "number":
        serializer: flags.ArgumentSerializer = flags.ArgumentSerializer()
        flags.DEFINE(_NumberParser(), name, default, text, serializer=serializer, **extra)
    elif kind == "numbers":
        commas: flags.ArgumentSerializer = flags.ListSerializer(",")
        flags.DEFINE(_NumbersParser(), name, default, text, serializer=commas, **extra)
    else:
        getattr(flags, f"DEFINE_{kind}")(name, default=default, help=text, **extra)
    return name


def _enum(name: str, values, text: str, default: Any = ...) -> str:
    return _flag("enum", name, text, default, enum_values=list(values))


def _list(values) -> str:
    return ", ".join(values)


# Flag of an experiment's sweep -> what its values are.
SWEEPS = {
    "sweep_epochs": "Epochs of retraining (fig2, fig4, fig8, table3).",
    "sweep_rates": "Learning rates of the search (fig4).",
    "sweep_sparsity": "Shares of the weights removed (fig5).",
    "sweep_widths": "Width factors (fig6).",
    "sweep_depths": "Depths (fig6).",
    "sweep_search_epochs": "Epochs of the search (search_epochs).",
}

# Topic -> names, in the order of --help.
TOPICS = {
    "What to do": [
        _enum(
            "mode",
            MODES,
            "run: search, train, compare. plan: list the stages, their cost and what is "
            "finished. evaluate: attacks on any models, with a report. export: a SavedModel, "
            "TFLite files, and a table of what they weigh and do. inspect: a ticket. report: "
            "rebuild the report of a work directory.",
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
    "Export": [
        _flag(
            "list",
            "formats",
            f"What mode export writes, of {_list(EXPORT_FORMATS)}. sparse: non-zeros with their "
            "positions. int8 is calibrated on training images.",
            ["saved_model"],
        ),
        _flag(
            "boolean",
            "compact",
            "Mode export: cut out the filters and units that no logit depends on. The logits "
            "stay the same.",
            False,
        ),
    ],
    "Experiments of the paper": [
        _flag(
            "string",
            "experiment",
            "Modes run and plan: instead of a comparison one of {experiments}.",
            None,
        ),
        _flag(
            "integer",
            "replicates",
            "Modes run and plan, with --experiment: how many seeds, the first being --seed.",
            1,
        ),
        *(
            _flag("numbers", name, f"{text} Default: the paper's.", None)
            for name, text in SWEEPS.items()
        ),
        _flag(
            "string",
            "reference_csv",
            "Published training curves to draw beside ours: columns run, epoch, valid_clean, "
            "valid_robust. Mode report draws the figures of an experiment's work directory anew "
            "with them.",
            None,
        ),
        _enum(
            "executor",
            EXECUTORS,
            "local: processes of this machine. ray: a Ray cluster (extra ray).",
            "local",
        ),
        _flag("integer", "jobs", "Stages at a time on this machine, which share its cores.", 1),
        _flag("string", "ray_address", "Of a running cluster. Default: one on this machine.", None),
        _flag("integer", "ray_cpus", "CPU cores that a stage takes of a Ray cluster.", 1),
        _flag("number", "ray_gpus", "GPUs that a stage takes of a Ray cluster.", 0.0),
    ],
    "Many devices (docs/distributed.md)": [
        _enum(
            "distribute",
            DISTRIBUTIONS,
            "What shares each batch of a training, in mode run. mirrored: this machine's GPUs. "
            "multiworker: processes, of several machines, that TF_CONFIG or Slurm names. tpu.",
            "none",
        ),
        _flag(
            "integer",
            "devices",
            "How many devices, of all machines together; 0: all. Mirrored without a GPU: so many "
            "devices are made of the CPU.",
        ),
        _flag(
            "boolean",
            "sync_batch_norm",
            "BatchNorm statistics over the whole batch, so that results do not depend on the "
            "devices. Off: over each device's part; --devices is then part of the result.",
        ),
        _flag("string", "tpu", "Name or address of the TPU; local: of this machine.", "local"),
        _flag(
            "integer",
            "worker_timeout",
            "Multiworker: seconds of silence after which a process counts as lost and the run "
            "stops.",
            120,
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
        _flag(
            "integer",
            "patience",
            "Early stopping of dense training and retraining: epochs without a new best "
            "validation accuracy; 0: never.",
        ),
        _flag(
            "number",
            "attack_loss_scale",
            "Factor on the training attack's loss under --dtype_policy; 0: in float16 one for "
            "each image, else 1.",
        ),
        _flag(
            "boolean",
            "jit_compile",
            "Compile training, validation and a run's evaluation with XLA (accelerators).",
        ),
        _enum(
            "data_on_device",
            DATA_ON_DEVICE,
            "Training images in the accelerator's memory; auto: on a GPU, up to 2 GiB. Changes "
            "no result.",
        ),
        _flag(
            "number",
            "checkpoint_minutes",
            "What is trained is saved at least so often, also within an epoch (on one device); 0: "
            "after each epoch alone. Changes no result.",
        ),
        _enum(
            "on_nan",
            ON_NAN,
            "A loss or gradient that is not finite: stop, or go back to the end of the last epoch "
            "and on at half the rate, three times at most.",
        ),
        _enum(
            "on_overfit",
            ON_OVERFIT,
            "FGSM training that becomes robust to FGSM alone (catastrophic overfitting).",
        ),
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
