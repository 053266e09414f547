"""Seconds and FLOPs of networks with whole channels cut out, over those of the whole network.

    python benchmarks/channels.py [--output=FILE] [--networks=NAME,...] [--quick]

For VGG-16, ResNet-18 and WideResNet-28-2 on images of 32 x 32: a natural training step, a PGD-3
step and a forward pass, whole, and cut as ``--structure=channels --channel_score=filter_norm`` cuts
the network as initialised, with 30, 50 and 70 % of the channels removed. In turns, so that the
ratios are of one machine in one state. ``time_left`` beside ``flops_left`` says how much of what
the FLOPs promise the machine keeps. ``--quick``: narrow networks, small batches and few turns, to
see that it runs; its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from tf_lottery import lottery_config, weights
from tf_lottery.channels import choose_channels
from tf_lottery.cutting import cut
from tf_lottery.export.latency import interleaved
from tf_lottery.keras import tf
from tf_lottery.machine import machine
from tf_lottery.models import build_model, forward_flops
from tf_lottery.options.channels import ChannelOptions
from tf_lottery.pruning.masks import MaskedNetwork, wrap
from tf_lottery.training.model import make_training_model
from tf_lottery.training.optimizer import make_optimizer

OUTPUT = Path(__file__).parents[1] / "docs" / "results" / "channels.json"
SPARSITIES = (0.3, 0.5, 0.7)
SHAPE = (32, 32, 3)
NETWORKS = {
    "vgg16": {"name": "vgg", "depth": 16},
    "resnet18": {"name": "resnet18"},
    "wide_resnet-28-2": {"name": "wide_resnet", "depth": 28, "width": 2},
}
CASES = ("natural", "pgd", "forward")


def flops(network) -> int:
    return sum(forward_flops(network).values())


def without_channels(network, sparsity: float, multiple: int) -> tuple[MaskedNetwork, dict]:
    """The small masked network, and how many channels it keeps."""
    options = ChannelOptions(
        structure="channels",
        channel_sparsity=sparsity,
        channel_score="filter_norm",
        channel_multiple=multiple,
    )
    found = choose_channels(network, weights.get_weights(network), asdict(options))
    masked = wrap(network)
    masked.set_masks(found.masks)
    return cut(masked)[0], found.to_json()


def forward(masked: MaskedNetwork, images: np.ndarray) -> Callable[[], Any]:
    """A forward pass in inference mode."""
    call = tf.function(lambda x: masked.network(x, training=False))
    pixels = tf.constant(images)
    return lambda: call(pixels).numpy()


def step(masked: MaskedNetwork, images: np.ndarray, **options: Any) -> Callable[[], Any]:
    """A training step; ``options``: of ``lottery_config``."""
    size = len(images)
    config = lottery_config(epochs=1, batch_size=size, **options)
    batch = {
        "image": images,
        "label": np.arange(size, dtype=np.int32) % 10,
        "index": np.arange(size, dtype=np.int32),
        "epoch": np.zeros(size, np.int32),
    }
    model = make_training_model(masked, config.train, 0)
    model.compile(optimizer=make_optimizer(config.train, steps=1000))
    batches = iter(tf.data.Dataset.from_tensors(batch).cache().repeat())
    function = model.make_train_function()
    return lambda: function(batches)["loss"].numpy()


def runner(case: str, masked: MaskedNetwork, batch_size: int) -> Callable[[], Any]:
    """One training step of the objective, or one forward pass."""
    images = np.random.default_rng(0).random((batch_size, *SHAPE), np.float32)
    if case == "forward":
        return forward(masked, images)
    return step(masked, images, objective=case, search_objective=case, steps=3)


def rows(
    label: str, case: str, width: float, batch_size: int, seconds: float, multiple: int
) -> list[dict]:
    """One row for each sparsity; the whole network has its turn among them."""

    def fresh():
        return build_model(
            **NETWORKS[label], input_shape=SHAPE, num_classes=10, seed=0, width_multiplier=width
        )

    networks, kept = {0.0: wrap(fresh())}, {}
    for sparsity in SPARSITIES:
        networks[sparsity], kept[sparsity] = without_channels(fresh(), sparsity, multiple)
    calls = {
        str(sparsity): runner(case, masked, batch_size) for sparsity, masked in networks.items()
    }
    found = interleaved(calls, seconds=seconds)
    whole = flops(networks[0.0].network)
    result = []
    for sparsity in SPARSITIES:
        times = {"whole": found["0.0"].median, "cut": found[str(sparsity)].median}
        row = {
            "network": label,
            "width_multiplier": width,
            "case": case,
            "batch_size": batch_size,
            "channel_sparsity": sparsity,
            "channel_multiple": multiple,
            "channels": kept[sparsity],
            "flops_left": flops(networks[sparsity].network) / whole,
            "seconds": times,
            "time_left": times["cut"] / times["whole"],
            "rounds": found["0.0"].rounds,
        }
        print(f"  {row}", flush=True)
        result.append(row)
    return result


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--channel_multiple", type=int, default=8)
    parser.add_argument("--quick", action="store_true", help="a try that measures nothing")
    given = parser.parse_args(arguments)
    width, size, seconds = (0.1, 4, 0.1) if given.quick else (1.0, given.batch_size, 20.0)
    document: dict[str, Any] = {"machine": machine(), "quick": given.quick, "rows": []}
    for label in given.networks.split(","):
        for case in given.cases.split(","):
            print(f"{label}, {case}", flush=True)
            document["rows"] += rows(label, case, width, size, seconds, given.channel_multiple)
            given.output.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
