"""What compaction and TFLite make of sparse networks: filters, operations, seconds, bytes.

    python benchmarks/compaction.py [--data_dir=DIR] [--output=FILE] [--only=PART,...]

Three parts, written to ``docs/results/compaction.json``:

``channels``: globally pruned by ``normalized_magnitude``, how many filters and units have no
weight left, how many compaction removes, and the share of a forward pass's FLOPs that is
left: in inference, and before retraining, where only what stays dead may go. Networks as
initialised; a VGG-16 of a quarter of the width after two epochs on 10,000 images of CIFAR-10
at the search's rate 0.01 and at 0.1; a convnet after ten epochs on digits.

``steps``: seconds of a natural training step, compacted over whole, in turns. FGSM and PGD
steps are made of the same passes.

``exports``: the last two networks at 80 %, 90 % and 98 % after an epoch or more of masked
retraining, as every format, whole and compacted, beside tfmot's own way: ``strip_pruning``
of the wrapped network and TensorFlow's converter, with and without its sparse encoding.
Timed in turns; accuracy on test images, and under PGD-20 with eps 8/255 (digits: 0.15),
crafted on the float network.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tensorflow_model_optimization as tfmot

from tf_lottery import lottery_config, pruning, weights
from tf_lottery.compaction import compact
from tf_lottery.cutting import cut
from tf_lottery.data import ImageData, load
from tf_lottery.errors import DeadLayerError
from tf_lottery.export import export_saved_model
from tf_lottery.export.artefacts import SavedModelArtefact, TFLiteArtefact, cores
from tf_lottery.export.exporting import (
    TEST_IMAGES,
    ExportConfig,
    Images,
    Measurable,
    measured,
    representative_images,
)
from tf_lottery.export.latency import interleaved
from tf_lottery.export.tflite import TFLITE_FORMATS, convert
from tf_lottery.keras import tf
from tf_lottery.machine import machine
from tf_lottery.models import build_model, forward_flops
from tf_lottery.options.settings import LotteryConfig, TrainConfig, attack_from_name, settings
from tf_lottery.pruning.masks import MaskedNetwork, wrap
from tf_lottery.report.json_document import plain
from tf_lottery.terminal import silent_stderr
from tf_lottery.tickets import NetworkSpec
from tf_lottery.training.model import make_training_model
from tf_lottery.training.optimizer import make_optimizer
from tf_lottery.training.run import train
from tf_lottery.training.task import Reporting

OUTPUT = Path(__file__).parents[1] / "docs" / "results" / "compaction.json"
SPARSITIES = (0.8, 0.9, 0.95, 0.98)
FRESH = {  # label -> build_model's arguments, input shape
    "vgg16": ({"name": "vgg", "depth": 16}, (32, 32, 3)),
    "resnet18": ({"name": "resnet18"}, (32, 32, 3)),
    "wide_resnet-28-2": ({"name": "wide_resnet", "depth": 28, "width": 2}, (32, 32, 3)),
    "lenet": ({"name": "lenet"}, (28, 28, 1)),
    "convnet": ({"name": "convnet"}, (8, 8, 1)),
}
PARTS = ("channels", "steps", "exports")

# Makes the same network again and again: (whole weights or as initialised) -> masked network.
Maker = Callable[[], MaskedNetwork]


def flops(network) -> int:
    return sum(forward_flops(network).values())


def options(data_dir: str | None, name: str, **changed) -> LotteryConfig:
    """Settings of a short training on digits or CIFAR-10."""
    own = (
        {"dataset": "digits", "model": "convnet", "epochs": 10, "learning_rate": 0.05, "eps": 0.15}
        if name == "digits"
        else {
            "dataset": "cifar10",
            "data_dir": data_dir,
            "model": "vgg",
            "width_multiplier": 0.25,
            "train_examples": 10_000,
            "validation_examples": 500,
            "epochs": 2,
        }
    )
    natural = {"objective": "natural", "search_objective": "natural"}
    return lottery_config(**{**natural, **own, **changed})


def trained(config: LotteryConfig, data: ImageData, training: TrainConfig, start=None, masks=None):
    """The masked network after a training, and how it was at the end."""
    normal = config.model.normalize
    spec = NetworkSpec(
        config.model,
        data.input_shape,
        data.num_classes,
        data.mean if normal else None,
        data.std if normal else None,
    )
    masked = wrap(spec.build(0))
    if start is not None:
        weights.set_weights(masked.network, start)
    if masks is not None:
        masked.set_masks(masks)
    with tempfile.TemporaryDirectory() as directory:
        history = train(
            masked,
            data,
            training,
            seed=0,
            directory=Path(directory),
            augment=config.data.augment,
            reporting=Reporting(verbose=0),
        )
    return spec, masked, history[-1]


def pruned(maker: Maker, sparsity: float) -> MaskedNetwork | None:
    """Globally pruned by normalised magnitude; ``None`` where a layer would be left empty."""
    masked = maker()
    kernels = {name: kernel.numpy() for name, kernel in masked.kernels.items()}
    try:
        masked.set_masks(pruning.prune(kernels, None, sparsity))
    except DeadLayerError as error:
        print(f"  {sparsity:.0%}: {error}", flush=True)
        return None
    return masked


def channel_row(label: str, sparsity: float, masked: MaskedNetwork) -> dict:
    """Filters and operations before and after."""
    masks = masked.get_masks()
    dead = sum(int((~m.reshape(-1, m.shape[-1]).any(axis=0)).sum()) for m in masks.values())
    inference, training = compact(masked.network), cut(masked)[1]
    whole = flops(masked.network)
    row = {
        "network": label,
        "sparsity": sparsity,
        "channels": sum(before for before, _ in inference.widths.values()),
        "without_weights": dead,
        "removed": inference.removed,
        "flops_left": flops(inference.network) / whole,
        "removed_before_training": training.removed,
        "flops_left_in_training": flops(training.network) / whole,
    }
    print(f"  {row}", flush=True)
    return row


def step_row(label: str, sparsity: float, masked: MaskedNetwork, batch_size: int = 64) -> dict:
    """Seconds of a natural training step, whole and compacted."""
    small, _ = cut(masked)
    config = lottery_config(objective="natural", search_objective="natural", epochs=1)
    random = np.random.default_rng(0)
    shape = masked.network.input_shape[1:]
    batch = {
        "image": random.random((batch_size, *shape), np.float32),
        "label": random.integers(0, 10, batch_size, np.int32),
        "index": np.arange(batch_size, dtype=np.int32),
        "epoch": np.zeros(batch_size, np.int32),
    }
    left = flops(small.network) / flops(masked.network)

    def step(network):
        model = make_training_model(network, config.train, 0)
        model.compile(optimizer=make_optimizer(config.train, steps=1000))
        batches = iter(tf.data.Dataset.from_tensors(batch).cache().repeat())
        function = model.make_train_function()
        return lambda: function(batches)["loss"].numpy()

    found = interleaved({"whole": step(masked), "compacted": step(small)}, seconds=20)
    row = {
        "network": label,
        "sparsity": sparsity,
        "batch_size": batch_size,
        "seconds": {name: latency.median for name, latency in found.items()},
        "time_left": found["compacted"].median / found["whole"].median,
        "flops_left_in_training": left,
        "rounds": found["whole"].rounds,
    }
    print(f"  {row}", flush=True)
    return row


def tfmot_files(masked: MaskedNetwork, directory: Path) -> Iterator[tuple[str, Path]]:
    """tfmot's way, from the wrapped network to a file."""
    stripped = tfmot.sparsity.keras.strip_pruning(masked.wrapped)
    for label, optimizations in (
        ("tfmot: strip_pruning, TFLite", []),
        ("tfmot: the same, sparse", [tf.lite.Optimize.EXPERIMENTAL_SPARSITY]),
    ):
        with silent_stderr():
            converter = tf.lite.TFLiteConverter.from_keras_model(stripped)
            converter.optimizations = optimizations
            content = converter.convert()
        path = directory / f"tfmot{len(optimizations)}.tflite"
        path.write_bytes(content)
        yield label, path


def export_rows(label: str, sparsity: float, masked: MaskedNetwork, data: ImageData, eps: float):
    """Every format, whole and compacted, and tfmot's."""
    network = masked.network
    compaction = compact(network)
    config = ExportConfig(attack_from_name("pgd20", eps))
    pixels = representative_images(data, 0)
    first = {
        p: getattr(data, p)[:TEST_IMAGES] for p in ("test_images", "test_labels", "test_index")
    }
    shown = dataclasses.replace(data, **first)
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        rows = []
        for word, made in (("", network), ("compacted, ", compaction.network)):
            path = export_saved_model(made, directory / f"saved{len(rows)}")
            artefact = SavedModelArtefact(path)
            rows.append(Measurable(f"{word}SavedModel", "saved_model", artefact))
        for word, made in (("", network), ("compacted, ", compaction.network)):
            for chosen in TFLITE_FORMATS.values():
                path = directory / f"{len(rows)}.tflite"
                path.write_bytes(convert(made, chosen, pixels))
                artefact = TFLiteArtefact(path, cores())
                rows.append(Measurable(f"{word}{chosen.label}", chosen.name, artefact))
        for name, path in tfmot_files(masked, directory):
            rows.append(Measurable(name, "tflite", TFLiteArtefact(path, cores())))
        found = plain(measured(rows, network.input_shape[1:], Images(shown), config))
    for row in found["rows"]:
        print(f"  {row}", flush=True)
    return {
        "network": label,
        "sparsity": sparsity,
        "channels": sum(before for before, _ in compaction.widths.values()),
        "removed": compaction.removed,
        "flops_left": flops(compaction.network) / flops(network),
        **found,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", help="where tensorflow-datasets keeps CIFAR-10")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument(
        "--only", default=",".join(PARTS), help="parts, others are kept as they are"
    )
    arguments = parser.parse_args()
    chosen = arguments.only.split(",")
    document = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    document |= {"machine": machine(), **{part: [] for part in chosen}}

    def save():
        arguments.output.write_text(json.dumps(document, indent=1) + "\n")

    for label, (kwargs, shape) in FRESH.items():
        if not {"channels", "steps"} & set(chosen):
            break
        print(f"{label}, as initialised", flush=True)

        def fresh(kwargs=kwargs, shape=shape):
            return wrap(build_model(**kwargs, input_shape=shape, num_classes=10, seed=0))

        for sparsity in SPARSITIES:
            masked = pruned(fresh, sparsity)
            if masked is None:
                continue
            if "channels" in chosen:
                document["channels"].append(channel_row(f"{label}, initialised", sparsity, masked))
            if "steps" in chosen:
                document["steps"].append(step_row(f"{label}, initialised", sparsity, masked))
            save()
    cases = [("convnet", "digits", {}), ("vgg16-w0.25", "cifar10", {"search_learning_rate": 0.01})]
    cases += [("vgg16-w0.25 at rate 0.1", "cifar10", {"search_learning_rate": 0.1})]
    for label, name, changed in cases:
        if "channels" not in chosen and ("exports" not in chosen or label.endswith("0.1")):
            continue
        config = options(arguments.data_dir, name, **changed)
        data = load(config.data)
        spec, dense, last = trained(config, data, config.search)
        start = weights.get_weights(dense.network)
        called = f"{label}, trained on {name}"
        print(f"{called}: validation accuracy {last['validation_natural']:.3f}", flush=True)
        document.setdefault("training", {})[called] = {
            "settings": settings(config.search),
            "data": settings(config.data),
            "validation": last["validation_natural"],
        }

        def searched(spec=spec, start=start):
            masked = wrap(spec.build(0))
            weights.set_weights(masked.network, start)
            return masked

        for sparsity in SPARSITIES:
            masked = pruned(searched, sparsity)
            if masked is None:
                continue
            if "channels" in chosen:
                document["channels"].append(channel_row(called, sparsity, masked))
            if "exports" in chosen and sparsity != 0.95 and not label.endswith("0.1"):
                masks = masked.get_masks()
                _, sparse, _ = trained(config, data, config.search, start, masks)
                eps = 0.15 if name == "digits" else 8 / 255
                document["exports"].append(export_rows(called, sparsity, sparse, data, eps))
            save()


if __name__ == "__main__":
    main()
