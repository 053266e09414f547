"""Seconds and passes of a training step under each objective, over those of PGD-10.

    python benchmarks/objectives.py [--output=FILE] [--dtype_policy=POLICY] [--quick]

A VGG of depth 8 and a quarter of the width, batches of 128. In turns, so that the ratios are of one
machine in one state. ``passes`` are those the ledger counts; where ``time`` is more than ``passes``
the objective keeps less than its FLOPs promise. ``--quick``: a small batch and few turns, to see
that it runs; its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from channels import step

from tf_lottery import lottery_config
from tf_lottery.export.latency import interleaved
from tf_lottery.machine import machine
from tf_lottery.models import build_model
from tf_lottery.objectives import passes_of
from tf_lottery.pruning.masks import wrap

OUTPUT = Path(__file__).parents[1] / "docs" / "results" / "objectives.json"
AGAINST = "pgd10"
CASES: dict[str, dict[str, Any]] = {
    name: {"objective": name}
    for name in (
        "natural", "free", "fgsm", "fgsm_rs", "n_fgsm", "nuat", "pgd2", "pgd3", AGAINST, "trades",
        "mart",
    )
} | {
    "n_fgsm, label smoothing": {"objective": "n_fgsm", "label_smoothing": 0.1},
    "n_fgsm, weight perturbation": {"objective": "n_fgsm", "awp_gamma": 0.005},
}  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--image_size", type=int, default=16)
    parser.add_argument("--dtype_policy", default="float32")
    parser.add_argument("--cases", default="; ".join(CASES), help="with ; between them")
    parser.add_argument("--quick", action="store_true", help="a try that measures nothing")
    given = parser.parse_args(arguments)
    size, seconds = (4, 0.1) if given.quick else (128, 60.0)
    shape = (given.image_size, given.image_size, 3)
    images = np.random.default_rng(0).random((size, *shape), np.float32)
    cases = given.cases.split("; ")
    if AGAINST not in cases:
        parser.error(f"--cases: must have {AGAINST}, which the others are compared with")
    calls = {}
    for name in cases:
        options = CASES[name]
        network = build_model(
            "vgg", shape, 10, 0, depth=8, width_multiplier=0.25, dtype_policy=given.dtype_policy
        )
        chosen = {**options, "search_objective": "natural", "dtype_policy": given.dtype_policy}
        calls[name] = step(wrap(network), images, **chosen)
    found = interleaved(calls, seconds=seconds)
    rows = []
    passes = {
        name: sum(
            passes_of(lottery_config(**CASES[name], search_objective="natural").train.objective)
        )
        for name in found
    }
    for name, latency in found.items():
        row = {
            "case": name,
            "seconds": latency.median,
            "passes_over_pgd10": passes[name] / passes[AGAINST],
            "time_over_pgd10": latency.median / found[AGAINST].median,
            "rounds": latency.rounds,
        }
        print(row, flush=True)
        rows.append(row)
    document = {
        "machine": machine(),
        "quick": given.quick,
        "network": "vgg8-w0.25",
        "batch_size": size,
        "image_size": given.image_size,
        "dtype_policy": given.dtype_policy,
        "rows": rows,
    }
    given.output.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
