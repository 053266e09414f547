"""What a run would cost, before it is run."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from tf_lottery.experiments.stage import Stage, in_order
from tf_lottery.experiments.work import Workshop
from tf_lottery.keras import tf

_REPEATS = 3


@dataclass(frozen=True)
class PlannedStage:
    """A stage with its prospects.

    Attributes:
      stage: the stage.
      cached: finished already.
      flops: as the ledger will state them, of an evaluation at most; 0 for stages
        without passes.
      seconds: measured if cached, else estimated.
    """

    stage: Stage
    cached: bool
    flops: int
    seconds: float


def plan(targets: list[Stage], workshop: Workshop) -> list[PlannedStage]:
    """All stages the targets need, with FLOPs and a time estimate.

    Nothing is run but a few forward and backward passes on one batch, from whose
    FLOP/s the times of unfinished stages are extrapolated. Validation, tracing
    and reading data are not in the estimate.
    """
    stages = in_order(targets)
    speed = None
    result = []
    for stage in stages:
        if workshop.store.has(stage):
            ledger = workshop.store.manifest(stage)["ledger"]
            result.append(
                PlannedStage(stage, True, ledger.get("flops", 0), ledger.get("seconds", 0.0))
            )
            continue
        flops = workshop.predicted_cost(stage).flops
        if flops and speed is None:
            speed = measure_speed(workshop)
        result.append(PlannedStage(stage, False, flops, flops / speed if flops and speed else 0.0))
    return result


def measure_speed(workshop: Workshop) -> float:
    """FLOP/s of natural training passes of the run's network at its batch size.

    The median of a few repeats; forward, input and weight gradients (3F an image).
    """
    batch = workshop.config.train.batch_size
    network = workshop.spec.build(0)
    images = tf.constant(
        np.random.default_rng(0).random((batch, *workshop.spec.input_shape)), tf.float32
    )
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

    timed()  # traces
    seconds = float(np.median([timed() for _ in range(_REPEATS)]))
    return 3 * workshop.forward_flops * batch / seconds


def plan_text(planned: list[PlannedStage], dense: Stage | None) -> str:
    """The plan as an aligned table with a total and the ratio to the dense baseline."""
    row = "{:<27}{:<34}{:>8}{:>12}{:>12}".format
    lines = [row("stage", "what", "state", "TFLOP", "seconds")]
    for item in planned:
        seconds = "-"
        if item.cached:
            seconds = f"{item.seconds:.1f}"
        elif item.flops:
            seconds = f"~{item.seconds:.0f}"
        lines.append(
            row(
                item.stage.name,
                item.stage.label[:32],
                "done" if item.cached else "to do",
                f"{item.flops / 1e12:.3f}" if item.flops else "-",
                seconds,
            )
        )
    left = [item for item in planned if not item.cached]
    lines.append(
        f"{len(left)} of {len(planned)} stages to do, about "
        f"{sum(item.seconds for item in left):.0f} s on this machine "
        "(validation, tracing and data not counted)"
    )
    if dense is not None:
        baseline = next(item for item in planned if item.stage.key == dense.key)
        training = sum(item.flops for item in planned if item.stage.kind == "train")
        ratio = training / baseline.flops
        lines.append(f"all training together: {ratio:.2f} x the FLOPs of the dense baseline")
    return "\n".join(lines)
