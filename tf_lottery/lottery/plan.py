"""What a run would cost, before it is run."""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from tf_lottery.engine.stage import Stage, in_order
from tf_lottery.keras import keras, tf
from tf_lottery.lottery.costs import validation_cost
from tf_lottery.lottery.resources import Resources
from tf_lottery.lottery.work import Workshop
from tf_lottery.options.settings import LotteryConfig

_REPEATS = 3
_FLOAT = 4  # bytes
_GRAPHS = 400_000  # bytes that the functions of a SavedModel take, about


@dataclass(frozen=True)
class PlannedStage:
    """A stage with its prospects.

    Attributes:
      stage: the stage.
      cached: finished already.
      flops: as the ledger will state them, of an evaluation and of a search that may end early
        at most; 0 for stages without passes. Of a ticket of channels that is still to be found as
        if each layer lost the same share.
      seconds: measured if cached, else estimated; validation and tracing included.
      disk_bytes: what it will leave in the store, about; 0 if cached.
      memory_bytes: of its training step at the peak, about; 0 if cached or no training.
    """

    stage: Stage
    cached: bool
    flops: int
    seconds: float
    disk_bytes: int = 0
    memory_bytes: int = 0


@dataclass(frozen=True)
class Speed:
    """How fast this machine trains a network.

    Attributes:
      flops_per_second: of natural training passes (3F an image) at the batch size.
      startup_seconds: tracing and compiling one training step.
    """

    flops_per_second: float
    startup_seconds: float


def plan(targets: Sequence[Stage], workshop: Workshop) -> list[PlannedStage]:
    """All stages the targets need, with FLOPs, disk space and a time estimate.

    Nothing is run but a few forward and backward passes of each network on one batch,
    from whose FLOP/s the times of unfinished stages are extrapolated.
    """
    speeds: dict[Hashable, Speed] = {}
    result = []
    stages, store = in_order(targets), workshop.store
    finished = store.finished(stages)
    manifests = store.manifests([stage for stage in stages if stage.key in finished])
    for stage in stages:
        if stage.key in finished:
            ledger = next(manifests)["ledger"]
            seconds = ledger.get("seconds", 0.0) + ledger.get("validation_seconds", 0.0)
            result.append(PlannedStage(stage, True, ledger.get("flops", 0), seconds))
            continue
        config: LotteryConfig = stage.runtime["config"]
        flops = workshop.predicted_cost(stage).flops
        seconds = 0.0
        if flops:
            training = _training(stage)
            key = (workshop.spec(config, training), config.train.batch_size)
            if key not in speeds:
                speeds[key] = measure_speed(config, workshop, training)
            work = flops + _validation_flops(stage, workshop)
            seconds = work / speeds[key].flops_per_second
            if stage.kind == "train":
                seconds += speeds[key].startup_seconds
        disk, memory = _disk_bytes(stage, workshop), _memory_bytes(stage, workshop)
        result.append(PlannedStage(stage, False, flops, seconds, disk, memory))
    return result


def _training(stage: Stage) -> Stage | None:
    """The training whose network a stage runs; ``None``: the whole one."""
    return stage if stage.kind == "train" else stage.parents.get("trained")


def _validation_flops(stage: Stage, workshop: Workshop) -> int:
    """At most; the ledger keeps validation apart from training."""
    if stage.kind != "train":
        return 0
    config = stage.runtime["config"]
    data = workshop.data(config)
    flops = workshop.forward_flops(config, stage)
    images = len(data.validation_labels)
    return validation_cost(stage.runtime["train"], images, flops, data.num_classes).flops


def _disk_bytes(stage: Stage, workshop: Workshop) -> int:
    """What a stage leaves behind: mostly weights."""
    config = stage.runtime["config"]
    training = _training(stage) if stage.kind in ("train", "export") else None
    weights = workshop.footprint(config, training=training).weights
    match stage.kind:
        case "init":
            return weights
        case "train":  # best and last epoch, and those kept for rewinding
            training = stage.runtime["train"]
            masks = 2 * weights // (8 * _FLOAT) if training.sparsity_update else 0
            return weights * (2 + len(training.keep_epochs)) + masks
        case "prune":
            rewound = weights if stage.settings.get("rewind_epoch") else 0
            return weights // (8 * _FLOAT) + rewound
        case "export":
            return weights + _GRAPHS
        case "evaluate":  # a few int32 and float32 for each image and attack
            images = len(workshop.data(config).test_labels)
            return 4 * _FLOAT * images * (1 + len(config.attacks))
    return 0


def _memory_bytes(stage: Stage, workshop: Workshop) -> int:
    """Of a training step; without the images and what TensorFlow itself takes."""
    if stage.kind != "train":
        return 0
    training = stage.runtime["train"]
    network = workshop.footprint(stage.runtime["config"], training.dtype_policy, stage)
    average = network.weights if training.ema_decay else 0
    return network.step(training.batch_size) + average


def measure_speed(
    config: LotteryConfig, workshop: Resources, training: Stage | None = None
) -> Speed:
    """Natural training passes of a configuration's network at its batch size, timed.

    The median of a few repeats; forward, input and weight gradients (3F an image).
    ``training`` as of ``Resources.spec``.
    """
    batch = config.train.batch_size
    spec = workshop.spec(config, training)
    network: keras.Model = spec.build(0)
    images = tf.constant(np.random.default_rng(0).random((batch, *spec.input_shape)), tf.float32)
    labels = tf.zeros([batch], tf.int32)

    @tf.function
    def passes():
        with tf.GradientTape() as tape:
            tape.watch(images)
            logits = network(images, training=True)
            loss = tf.reduce_sum(
                tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
            )
        return tape.gradient(loss, [images, *network.trainable_variables])

    def timed() -> float:
        began = time.perf_counter()
        passes()[0].numpy()
        return time.perf_counter() - began

    first = timed()  # traces
    seconds = float(np.median([timed() for _ in range(_REPEATS)]))
    flops = 3 * workshop.forward_flops(config, training) * batch
    return Speed(flops / seconds, max(0.0, first - seconds))


def plan_text(
    planned: Sequence[PlannedStage], baseline: Sequence[Stage], jobs: int = 1, counted: int = 0
) -> str:
    """The plan as an aligned table with totals and the ratio to the dense baseline.

    Args:
      planned: of ``plan``.
      baseline: the dense trainings that everything is compared with, one a replicate.
      jobs: processes that will share the work.
      counted: without a baseline, FLOPs of the dense trainings that would be it.
    """
    width = max(34, *(len(item.stage.label) + 2 for item in planned))
    row = ("{:<27}{:<" + str(min(width, 60)) + "}{:>8}{:>12}{:>12}{:>10}").format
    lines = [row("stage", "what", "state", "TFLOP", "seconds", "MB")]
    for item in planned:
        shown = "-"
        if item.cached:
            shown = f"{item.seconds:.1f}"
        elif item.flops:
            shown = f"~{item.seconds:.0f}"
        lines.append(
            row(
                item.stage.name,
                item.stage.label[:58],
                "done" if item.cached else "to do",
                f"{item.flops / 1e12:.3f}" if item.flops else "-",
                shown,
                "-" if item.cached else f"{item.disk_bytes / 1e6:.1f}",
            )
        )
    left = [item for item in planned if not item.cached]
    seconds = sum(item.seconds for item in left)
    disk = sum(item.disk_bytes for item in left)
    lines.append(
        f"{len(left)} of {len(planned)} stages to do, about {duration(seconds)} on this machine "
        f"(validation included, reading data not), {disk / 1e6:,.0f} MB of disk"
    )
    largest = max(left, key=lambda item: item.memory_bytes, default=None)
    if largest is not None and largest.memory_bytes:
        lines.append(
            f"memory of a training step: up to about {largest.memory_bytes / 1e6:,.0f} MB "
            f"({largest.stage.label}), images and TensorFlow not included"
            + (f", times {jobs} jobs" if jobs > 1 else "")
        )
    if jobs > 1 and left:
        lines.append(f"{jobs} jobs at a time share that work and the machine's cores")
    if any("settling" in item.stage.settings.get("train", {}) for item in left):
        lines.append("searches that may end early, once their mask has settled, count in full")
    keys = {stage.key for stage in baseline}
    dense = sum(item.flops for item in planned if item.stage.key in keys)
    training = sum(item.flops for item in planned if item.stage.kind == "train")
    if dense:
        lines.append(
            f"all training together: {training / dense:.2f} x the FLOPs of the dense baseline"
        )
    elif counted:
        lines.append(
            f"all training together: {training / counted:.2f} x the FLOPs of one dense training of "
            "each network and seed, which is not part of it"
        )
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """``42 s``, ``12 min``, ``3.4 h``, ``12 days``."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if seconds < 172_800:
        return f"{seconds / 60:.0f} min" if seconds < 5970 else f"{seconds / 3600:.1f} h"
    days = seconds / 86_400
    return f"{days:.1f} days" if days < 10 else f"{days:,.0f} days"
