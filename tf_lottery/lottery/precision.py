"""``--dtype_policy=auto``: bfloat16 where this machine multiplies faster in it, by measurement.

The measurement is a stage. A store keeps the first one, so that whoever goes on with its stages
or shares them has the same policy, whatever a second measurement, or another machine, would say.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tf_lottery import files
from tf_lottery.engine.serial import run_stages
from tf_lottery.engine.stage import Stage
from tf_lottery.keras import keras, tf
from tf_lottery.lottery.resources import Resources
from tf_lottery.lottery.work import Kind, Workshop
from tf_lottery.machine import machine
from tf_lottery.models.layers import Layers
from tf_lottery.options.settings import MEASURED, LotteryConfig, TrainConfig

PLAIN, HALF = "float32", "mixed_bfloat16"
# Of float32's time: half precision has to be worth its rounding, and times scatter.
AT_MOST = 0.9
# A layer of a VGG's middle: 29 GFLOP a step, a fifth of a second on two cores of a server.
IMAGES, SIDE, FILTERS = 64, 16, 128
FEWEST, MOST, SECONDS = 3, 9, 1.0  # rounds, and how long there are more than the fewest


def precision_stage(config: LotteryConfig) -> Stage:
    """The measurement that a run with this configuration goes by."""
    chosen = {"jit_compile": config.train.jit_compile, "deterministic": config.deterministic}
    return Stage(
        "precision",
        "bfloat16 against float32",
        chosen,
        runtime={"config": config, "work": Kind(_measure)},
    )


def faster_policy(
    config: LotteryConfig, workshop: Workshop, announce: Callable[[str], None]
) -> str:
    """``mixed_bfloat16`` or ``float32``: what the workshop's store says, or is told now.

    Args:
      config: of the run.
      workshop: measures, if its store knows nothing.
      announce: told what was chosen, and by which ratio.
    """
    stage = precision_stage(config)
    run_stages([stage], workshop)
    found = json.loads(workshop.store.file(stage, "precision.json").read_bytes())
    announce(
        f"--dtype_policy=auto: {found['policy']}, as a step in bfloat16 takes {found['ratio']:.2f} "
        f"of the time in float32 (at most {AT_MOST:g} would do)"
    )
    return found["policy"]


def with_measured_policy(
    config: LotteryConfig, workshop: Workshop, announce: Callable[[str], None]
) -> LotteryConfig:
    """The configuration with the policy in the place of ``auto``, if it has that."""
    trainings = {
        field.name: training
        for field in dataclasses.fields(config)
        if isinstance(training := getattr(config, field.name), TrainConfig)
        and training.dtype_policy == MEASURED
    }
    if not trainings:
        return config
    policy = faster_policy(config, workshop, announce)
    resolved: dict[str, Any] = {
        name: dataclasses.replace(training, dtype_policy=policy)
        for name, training in trainings.items()
    }
    return dataclasses.replace(config, **resolved)


def _measure(shop: Resources, stage: Stage, directory: Path) -> None:
    """Leaves ``precision.json``."""
    del shop
    steps = {policy: _step(policy, stage.settings["jit_compile"]) for policy in (PLAIN, HALF)}
    rounds = interleaved(steps)
    ratio = statistics.median(one[HALF] / one[PLAIN] for one in rounds)
    files.write_json(
        directory / "precision.json",
        {
            "policy": HALF if ratio <= AT_MOST else PLAIN,
            "ratio": ratio,
            "seconds": {name: statistics.median(one[name] for one in rounds) for name in steps},
            "rounds": len(rounds),
            "machine": machine(),
        },
    )


def interleaved(steps: dict[str, Callable[[], float]]) -> list[dict[str, float]]:
    """Seconds of each step, round by round, each round in the other order than the one before.

    What else the machine does at the time then falls on all of them.
    """
    for step in steps.values():  # compiles
        step()
    names, began = list(steps), time.perf_counter()
    rounds: list[dict[str, float]] = []
    while len(rounds) < MOST and (len(rounds) < FEWEST or time.perf_counter() - began < SECONDS):
        seconds = {}
        for name in names:
            start = time.perf_counter()
            steps[name]()
            seconds[name] = time.perf_counter() - start
        rounds.append(seconds)
        names.reverse()
    return rounds


def _step(policy: str, jit_compile: bool) -> Callable[[], float]:
    """Two convolutions with BatchNorm and ReLU, forwards and back to weights and pixels."""
    layers = Layers(0, policy)
    x = pixels = keras.Input((SIDE, SIDE, FILTERS), dtype="float32")
    for number in ("1", "2"):
        x = layers.bn_relu(layers.conv(x, FILTERS, 3, f"conv{number}"), number)
    network = keras.Model(pixels, layers.global_average_pool(x))
    shape = (IMAGES, SIDE, SIDE, FILTERS)
    images = tf.constant(np.random.default_rng(0).random(shape, np.float32))

    @tf.function(jit_compile=jit_compile)
    def step(images):
        with tf.GradientTape() as tape:
            tape.watch(images)
            loss = tf.reduce_sum(tf.cast(network(images, training=True), tf.float32))
        gradients = tape.gradient(loss, [images, *network.trainable_variables])
        return tf.linalg.global_norm(gradients)

    return lambda: float(step(images))
