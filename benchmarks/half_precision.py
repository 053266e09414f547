"""What half precision leaves of the input gradients of a trained network.

    python benchmarks/half_precision.py STAGE [--data_dir=DIR] [--logits=1,2] [--output=FILE]

``STAGE`` is the directory of a finished training stage (``<store>/train-<key>``). Its last
weights are loaded in float32 and in both half precisions, and the gradients of the
cross-entropy compared (``training.input_gradients.compare``) on the first images it was
trained on, for several scales of the attack's loss. ``--logits`` multiplies the logits, and
with them the margins: longer training has that effect. On a CPU the sums of a convolution are
rounded otherwise than on an accelerator.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from tf_lottery import weights
from tf_lottery.attacks.losses import cross_entropy, margin
from tf_lottery.attacks.procedure import value_and_gradient
from tf_lottery.data import load
from tf_lottery.keras import tf
from tf_lottery.machine import machine
from tf_lottery.options.settings import DataConfig
from tf_lottery.tickets import NetworkSpec
from tf_lottery.training.input_gradients import compare

CASES = (  # policy, scale of the loss; None: one for each image
    ("mixed_float16", 1.0),
    ("mixed_float16", 1024.0),
    ("mixed_float16", 65536.0),
    ("mixed_float16", None),
    ("mixed_bfloat16", 1.0),
)


def gradients(network, x, y, scale: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Logits and input gradients of a batch."""

    @tf.function
    def both(x, y):
        logits, _, gradient = value_and_gradient(
            lambda logits: cross_entropy(logits, y),
            lambda images: network(images, training=False),
            x,
            scale,
        )
        return logits, gradient

    return tuple(tensor.numpy() for tensor in both(x, y))


def measure(stage: Path, data_dir: str | None, factor: float, images: int) -> dict:
    """The row of one factor on the logits."""
    settings = json.loads((stage / "manifest.json").read_text())["settings"]["data"]
    names = ("name", "train_examples", "validation_examples")
    data = load(DataConfig(**{name: settings[name] for name in names}, data_dir=data_dir))
    x = tf.constant(data.train_images[:images] / np.float32(255))
    y = tf.constant(data.train_labels[:images])
    values = weights.read_arrays(stage / "final.npz")
    for name in ("logits/kernel", "logits/bias"):
        values[name] = values[name] * np.float32(factor)
    spec = NetworkSpec.from_json(json.loads((stage / "network.json").read_text())["network"])

    def found(policy: str, scale: float | None) -> tuple[np.ndarray, np.ndarray]:
        network = spec.build(0, policy)
        weights.set_weights(network, values)
        return gradients(network, x, y, scale)

    logits, full = found("float32", 1.0)
    margins = -margin(logits, y).numpy()
    return {
        "factor": factor,
        "images": images,
        "margin": {str(q): float(np.quantile(margins, q)) for q in (0, 0.25, 0.5, 0.75, 1)},
        "cases": [
            {"policy": policy, "scale": scale, **compare(found(policy, scale)[1], full)}
            for policy, scale in CASES
        ],
    }


def main() -> None:
    """Prints a table and writes ``--output``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", type=Path)
    parser.add_argument("--data_dir")
    parser.add_argument("--logits", default="1,2")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    rows = []
    for factor in arguments.logits.split(","):
        row = measure(arguments.stage, arguments.data_dir, float(factor), arguments.images)
        rows.append(row)
        spread = " ".join(f"{value:.1f}" for value in row["margin"].values())
        print(f"logits x {factor}: margins (minimum, quartiles, maximum) {spread}")
        for case in row["cases"]:
            scale = "per image" if case["scale"] is None else f"{case['scale']:g}"
            agreement = case["sign_agreement"]
            print(
                f"  {case['policy']:<15}{scale:>10}  lost {case['lost']:8.3%}  "
                f"whole images {case['lost_images']:7.2%}  "
                f"equal signs {'none left' if agreement is None else f'{agreement:.2%}'}"
            )
    if arguments.output:
        manifest = json.loads((arguments.stage / "manifest.json").read_text())
        document = {"machine": machine(), "settings": manifest["settings"], "rows": rows}
        arguments.output.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
