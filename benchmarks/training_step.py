"""Seconds of one training step: natural, FGSM and PGD-10, dense and 80 % masked.

    python benchmarks/training_step.py [--quick] [--output=FILE]

The cases of one model are measured in turns, several times each, so that noise of
a shared machine falls on all of them alike; medians and ratios are reported.
``flop_ratio`` is what the cost ledger predicts (natural 1, FGSM 5/3, PGD-10 23/3).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np

from tf_lottery import lottery_config, pruning
from tf_lottery.experiments.provenance import machine
from tf_lottery.keras import tf
from tf_lottery.models import build_model, forward_flops
from tf_lottery.pruning.masks import wrap
from tf_lottery.training.run import make_optimizer, make_training_model

OBJECTIVES = ("natural", "fgsm", "pgd")
SPARSITIES = (0.0, 0.8)
MODELS = {  # label -> build_model arguments, input shape, batch size
    "convnet": ({"name": "convnet"}, (8, 8, 1), 64),
    "vgg16-w0.25": ({"name": "vgg", "width_multiplier": 0.25}, (32, 32, 3), 64),
}


def make_step(
    arguments: dict,
    shape: tuple,
    batch_size: int,
    objective: str,
    sparsity: float,
    attack_steps: int = 10,
):
    """A function that runs one training step to its end."""
    config = lottery_config(
        model=arguments["name"],
        objective=objective,
        search_objective=objective,
        steps=attack_steps or 10,
        batch_size=batch_size,
        epochs=1,
    )
    options = {key: value for key, value in arguments.items() if key != "name"}
    masked = wrap(build_model(arguments["name"], shape, 10, 0, **options))
    if sparsity:
        kernels = {name: kernel.numpy() for name, kernel in masked.kernels.items()}
        masked.set_masks(pruning.prune(kernels, None, sparsity, scope="layer"))
    model = make_training_model(masked, config.train, 0)
    model.compile(optimizer=make_optimizer(config.train, steps=1000))
    random = np.random.default_rng(0)
    batch = {
        "image": random.random((batch_size, *shape), np.float32),
        "label": random.integers(0, 10, batch_size, np.int32),
        "index": np.arange(batch_size, dtype=np.int32),
        "epoch": np.zeros(batch_size, np.int32),
    }
    batches = iter(tf.data.Dataset.from_tensors(batch).cache().repeat())
    function = model.make_train_function()
    return lambda: function(batches)["loss"].numpy()


def measure(label: str, repeats: int) -> list[dict]:
    """Rows of one model, cases interleaved."""
    arguments, shape, batch_size = MODELS[label]
    steps = {
        (objective, sparsity): make_step(arguments, shape, batch_size, objective, sparsity)
        for objective in OBJECTIVES
        for sparsity in SPARSITIES
    }
    for step in steps.values():
        step()  # traces
    seconds: dict = {case: [] for case in steps}
    for _ in range(repeats):
        for case, step in steps.items():
            began = time.perf_counter()
            step()
            seconds[case].append(time.perf_counter() - began)
    options = {key: value for key, value in arguments.items() if key != "name"}
    flops = sum(forward_flops(build_model(arguments["name"], shape, 10, 0, **options)).values())
    passes = {"natural": 3, "fgsm": 5, "pgd": 23}
    base = statistics.median(seconds["natural", 0.0])
    rows = []
    for (objective, sparsity), times in seconds.items():
        median = statistics.median(times)
        rows.append(
            {
                "case": "pgd10" if objective == "pgd" else objective,
                "model": label,
                "sparsity": sparsity,
                "batch_size": batch_size,
                "seconds": median,
                "over_natural_dense": median / base,
                "flop_ratio": passes[objective] / 3,
                "gflops_per_second": passes[objective] * flops * batch_size / median / 1e9,
                "repeats": repeats,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    parser.add_argument("--output", type=Path, help="write rows and machine as JSON")
    arguments = parser.parse_args()
    rows = []
    header = "{:<14}{:<10}{:>9}{:>12}{:>14}{:>12}{:>11}".format
    print(header("model", "case", "sparsity", "seconds", "over natural", "FLOP ratio", "GFLOP/s"))
    for label in MODELS:
        for row in measure(label, 5 if arguments.quick else 20):
            rows.append(row)
            print(
                header(
                    row["model"],
                    row["case"],
                    f"{row['sparsity']:.0%}",
                    f"{row['seconds']:.4f}",
                    f"{row['over_natural_dense']:.2f}",
                    f"{row['flop_ratio']:.2f}",
                    f"{row['gflops_per_second']:.0f}",
                )
            )
    if arguments.output:
        arguments.output.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
