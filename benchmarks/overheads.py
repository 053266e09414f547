"""What a training step costs besides its arithmetic, each against the same step without it.

    python benchmarks/overheads.py [--rounds=15] [--models=vgg16,...] [--measure=masks,...]
      [--output=FILE]

- masks: a natural and a PGD-10 step at sparsity 0.5, 0.8 and 0.95 over the dense one, which
  carries no masks, and over it a second dense one, which shows what chance does;
- input pipeline: a natural step fed by ``training_batches`` (random order, crops, flips of
  CIFAR-sized images) over one that is given the same batch again and again, and the
  pipeline alone;
- folding: the PGD-10 attack on the network as it is over the frozen one (``models.frozen``);
- attack steps: training steps with PGD-k over k, with a straight line fitted, which
  ``--figure`` draws.

The variants of a step take turns within each round; a ratio is the median over the rounds of
the quotient within a round, given with the quartiles. Random pixels, batches of 64.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import interleaved
import numpy as np
import worker

from tf_lottery import lottery_config
from tf_lottery.attacks import make_attack
from tf_lottery.data import training_batches
from tf_lottery.keras import keras, tf
from tf_lottery.machine import machine
from tf_lottery.models.frozen import frozen_logits
from tf_lottery.options.settings import AttackConfig
from tf_lottery.pruning.masks import wrap
from tf_lottery.training.model import make_training_model
from tf_lottery.training.optimizer import make_optimizer

MODELS = ("vgg16", "resnet18", "wide_resnet-28-2")
SPARSITIES = (0.0, 0.5, 0.8, 0.95)
STEPS = (0, 1, 2, 5, 10, 20)
IMAGES = 10_000
Run = Callable[[], object]


def training_function(label: str, sparsity: float, steps: int, batches) -> Run:
    """Runs a training step on the next of ``batches``; 0 attack ``steps`` are natural training."""
    network, masks = worker.build(label, sparsity)
    masked = wrap(network)
    if masks is not None:
        masked.set_masks(masks)
    objective = "pgd" if steps else "natural"
    config = lottery_config(
        objective=objective,
        search_objective=objective,
        steps=max(steps, 1),
        warmup_epochs=0,
        learning_rate=interleaved.RATE,
        epochs=1,
    ).train
    model = make_training_model(masked, config, 0)
    model.compile(optimizer=make_optimizer(config, steps=10**6))
    function = model.make_train_function()
    return lambda: function(batches)["loss"].numpy()


def fixed_batches(size: int):
    """The same random batch for ever."""
    random = np.random.default_rng(0)
    batch = {
        "image": random.random((size, 32, 32, 3), np.float32),
        "label": random.integers(0, 10, size, np.int32),
        "index": np.arange(size, dtype=np.int32),
        "epoch": np.zeros(size, np.int32),
    }
    return iter(tf.data.Dataset.from_tensors(batch).cache().repeat())


def piped_batches(size: int):
    """Batches as in training."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (IMAGES, 32, 32, 3), np.uint8)
    labels = random.integers(0, 10, IMAGES, np.int32)
    return iter(
        training_batches(
            images, labels, batch_size=size, epochs=10**6, order_seed=1, augmentation_seed=2
        )
    )


def attack_function(label: str, frozen: bool, size: int) -> Run:
    """PGD-10 on one batch."""
    network, _ = worker.build(label, 0.0)
    attack = make_attack(
        AttackConfig("pgd10", "linf", interleaved.EPS, 10, interleaved.STEP, False)
    )
    batch = next(fixed_batches(size))

    @tf.function
    def run(x, y):
        logits_fn = frozen_logits(network) if frozen else functools.partial(network, training=False)
        return attack(logits_fn, x, y, 0)

    return lambda: run(batch["image"], batch["label"]).numpy()


def timed(run: Run) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def in_turns(variants: dict[str, Run], rounds: int) -> dict[str, list[float]]:
    """Seconds of each variant in each round, after one call that is not counted."""
    for run in variants.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            seconds[name].append(timed(run))
    return seconds


def ratio(over: list[float], under: list[float]) -> dict[str, float]:
    """Median and quartiles of the quotients."""
    low, middle, high = statistics.quantiles([a / b for a, b in zip(over, under, strict=True)], n=4)
    return {"ratio": middle, "lower_quartile": low, "upper_quartile": high}


def masks(label: str, size: int, rounds: int) -> list[dict]:
    rows = []
    for case, steps in (("natural", 0), ("pgd10", 10)):
        batches = fixed_batches(size)
        variants = {
            str(sparsity): training_function(label, sparsity, steps, batches)
            for sparsity in SPARSITIES
        }
        variants["dense"] = training_function(label, 0.0, steps, batches)
        seconds = in_turns(variants, rounds if case == "natural" else max(3, rounds // 3))
        for sparsity in SPARSITIES:
            rows.append(
                {
                    "what": "masks",
                    "model": label,
                    "case": case,
                    "sparsity": sparsity,
                    "seconds": statistics.median(seconds[str(sparsity)]),
                    **ratio(seconds[str(sparsity)], seconds["dense"]),
                }
            )
    return rows


def pipeline(label: str, size: int, rounds: int) -> list[dict]:
    batches = piped_batches(size)
    variants = {
        "fixed": training_function(label, 0.0, 0, fixed_batches(size)),
        "piped": training_function(label, 0.0, 0, batches),
    }
    seconds = in_turns(variants, rounds)
    alone = piped_batches(size)
    for _ in range(20):
        next(alone)
    count = 200
    began = time.perf_counter()
    for _ in range(count):
        next(alone)
    batch_seconds = (time.perf_counter() - began) / count
    return [
        {
            "what": "input pipeline",
            "model": label,
            "case": "natural",
            "seconds": statistics.median(seconds["piped"]),
            "pipeline_alone_seconds": batch_seconds,
            **ratio(seconds["piped"], seconds["fixed"]),
        }
    ]


def folding(label: str, size: int, rounds: int) -> list[dict]:
    variants = {
        "plain": attack_function(label, False, size),
        "frozen": attack_function(label, True, size),
    }
    seconds = in_turns(variants, max(3, rounds // 3))
    return [
        {
            "what": "folding",
            "model": label,
            "case": "attack of pgd10",
            "seconds": statistics.median(seconds["frozen"]),
            **ratio(seconds["frozen"], seconds["plain"]),
        }
    ]


def attack_steps(label: str, size: int, rounds: int) -> list[dict]:
    batches = fixed_batches(size)
    variants = {str(steps): training_function(label, 0.0, steps, batches) for steps in STEPS}
    seconds = in_turns(variants, max(3, rounds // 3))
    medians = [statistics.median(seconds[str(steps)]) for steps in STEPS]
    slope, intercept = np.polyfit(STEPS, medians, 1)
    fitted = intercept + slope * np.array(STEPS)
    return [
        {
            "what": "attack steps",
            "model": label,
            "steps": list(STEPS),
            "seconds": medians,
            "seconds_a_step": float(slope),
            "seconds_without": float(intercept),
            # A natural step is 3 passes, an attack step 2: the ledger says 2/3.
            "step_over_natural": float(slope / medians[0]),
            "largest_deviation": float(np.max(np.abs(np.array(medians) / fitted - 1))),
        }
    ]


def draw(rows: list[dict], path: Path) -> None:
    """Seconds of a training step over the steps of its attack."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for row, marker in zip(
        [row for row in rows if row["what"] == "attack steps"], "os^vD", strict=False
    ):
        ends = np.array([0, max(row["steps"])])
        (points,) = axes.plot(row["steps"], row["seconds"], marker, label=row["model"])
        axes.plot(
            ends, row["seconds_without"] + row["seconds_a_step"] * ends, color=points.get_color()
        )
    axes.set_xlabel("steps of the attack")
    axes.set_ylabel("seconds of a training step, batch 64")
    axes.set_ylim(bottom=0)
    axes.legend()
    figure.savefig(path, dpi=120)


MEASURES = {
    "masks": masks,
    "input_pipeline": pipeline,
    "folding": folding,
    "attack_steps": attack_steps,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15, help="15; a third for PGD steps")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--measure", default=",".join(MEASURES))
    parser.add_argument("--output", type=Path, help="write rows and machine as JSON")
    parser.add_argument("--figure", type=Path, help="draw time over attack steps")
    options = parser.parse_args()
    for name in options.measure.split(","):
        if name not in MEASURES:
            parser.error(f"--measure: got {name}, must be of {', '.join(MEASURES)}")
    rows: list[dict] = []
    for label in options.models.split(","):
        for measure in options.measure.split(","):
            found = MEASURES[measure](label, options.batch_size, options.rounds)
            rows += found
            for row in found:
                told = {
                    key: round(value, 4) if isinstance(value, float) else value
                    for key, value in row.items()
                }
                print(told, flush=True)
            keras.backend.clear_session()
    if options.output:
        document = {"machine": machine(), "batch_size": options.batch_size, "rows": rows}
        options.output.write_text(json.dumps(document, indent=1) + "\n")
    if options.figure:
        draw(rows, options.figure)


if __name__ == "__main__":
    main()
