"""AutoAttack and its parts beside torchattacks: verdicts and seconds an image.

    pip install '.[bench]' && pip install --no-deps torchattacks==3.5.1
    python benchmarks/autoattack.py [--images=500] [--batch_size=250] [--output=FILE]
    python benchmarks/autoattack.py --model_path=PATH --dataset=cifar10 --eps=8/255

Both sides attack the same weights (``torch_twin``), images and l_inf radius in one process,
one after the other and with as many threads, with the settings of Croce & Hein 2020 (arXiv
2003.01690): 100 steps, 9 targets, 5,000 queries, one try. torchattacks' own default is 10
steps; here it is given the 100.

Of the images only those that both networks classify correctly are attacked: torchattacks
judges the attacked image alone. Accuracies are shares of all images; ``disagree`` is the
share on which the two verdicts differ. Seconds are wall time over attacked images, and the
ratio is ours over the peer's; ``cpu_ratio`` is that of processor seconds, which suffer less
from what else the machine does. Two calls on a few images come first on both sides, so that
tracing a graph, which happens once a model and attack, is in neither; ``start-up`` is what
the first of the two took longer.

Without ``--model_path`` three small networks are trained on scikit-learn's digits first:
naturally, by FGSM and by PGD-10.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

# Before PyTorch is loaded: its threads would otherwise wait by spinning, which on a machine
# with anything else to do, TensorFlow in the same process included, made it ten times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import torch
import torch_twin
import torchattacks

from tf_lottery import lottery_config
from tf_lottery.data import load
from tf_lottery.evaluation import Evaluator
from tf_lottery.evaluation.loading import load_model
from tf_lottery.keras import keras, tf
from tf_lottery.machine import machine
from tf_lottery.models import build_model
from tf_lottery.options.settings import AttackConfig, DataConfig, attack_from_name
from tf_lottery.pruning.masks import wrap
from tf_lottery.training.run import train
from tf_lottery.training.task import Reporting

PARTS = ("apgd_ce", "apgd_t", "fab_t", "square")
SUITE = "suite"
OBJECTIVES = ("natural", "fgsm", "pgd")
# On the digits. The natural network has 17 % left at 0.15, and which of them depends on the
# random start: suites of other seeds then differ by up to 0.4 points.
EPS = {"natural": 0.1, "fgsm": 0.15, "pgd": 0.15}
VALIDATION = 287  # digits held out; with the 360 of the test split 647 never trained on
WARM_UP = 4  # images

# Images (n, height, width, channels), labels (n,) -> bool (n,), which survive.
Judge = Callable[[np.ndarray, np.ndarray], np.ndarray]


def digits(objectives: Sequence[str] = OBJECTIVES, epochs: int = 15, width: float = 0.5):
    """Convnets trained on the digits, and the images and labels none of them saw.

    Returns:
      Objective -> network; float32 (647, 8, 8, 1); int32 (647,).
    """
    data = load(DataConfig("digits", validation_examples=VALIDATION))
    networks = {}
    for objective in objectives:
        config = lottery_config(
            objective=objective,
            search_objective=objective,
            eps=EPS[objective],
            epochs=epochs,
            learning_rate=0.05,
            warmup_epochs=1,
            validation_examples=VALIDATION,
        )
        masked = wrap(build_model("convnet", data.input_shape, 10, 0, width_multiplier=width))
        with tempfile.TemporaryDirectory() as directory:
            train(
                masked,
                data,
                config.train,
                seed=0,
                directory=Path(directory),
                reporting=Reporting(verbose=0),
            )
        networks[objective] = masked.network
    return networks, *_unseen(data)


def _unseen(data) -> tuple[np.ndarray, np.ndarray]:
    images = np.concatenate([data.test_images, data.validation_images])
    labels = np.concatenate([data.test_labels, data.validation_labels])
    return images.astype(np.float32) / np.float32(255), labels


def our_configs(eps: float, steps: int = 100, queries: int = 5000) -> dict[str, AttackConfig]:
    """The parts, and with the paper's settings the suite too."""
    configs = {}
    for name in PARTS:
        count = queries if name == "square" else steps
        configs[name] = dataclasses.replace(attack_from_name(name, eps), steps=count)
    if (steps, queries) == (100, 5000):
        configs[SUITE] = attack_from_name("autoattack", eps)
    return configs


def our_judges(
    network: keras.Model, configs: dict[str, AttackConfig], batch_size: int
) -> dict[str, Judge]:
    """This package's attacks, compiled at their first call."""

    def judge(config: AttackConfig) -> Judge:
        evaluator = Evaluator(network, [config], batch_size)
        return lambda x, y: evaluator(x, y).survived[config.name]

    return {name: judge(config) for name, config in configs.items()}


def peer_judges(
    twin: torch.nn.Module,
    eps: float,
    classes: int,
    batch_size: int,
    steps: int = 100,
    queries: int = 5000,
) -> dict[str, Judge]:
    """torchattacks, each part and all in turn.

    Raises:
      ValueError: (from a judge) an attacked image is outside the ball or the box.
    """
    common = {"norm": "Linf", "eps": eps, "n_restarts": 1, "seed": 0}
    attacks = {
        "apgd_ce": torchattacks.APGD(twin, steps=steps, loss="ce", **common),
        "apgd_t": torchattacks.APGDT(twin, steps=steps, n_classes=classes, **common),
        "fab_t": torchattacks.FAB(
            twin, steps=steps, multi_targeted=True, n_classes=classes, **common
        ),
        "square": torchattacks.Square(twin, n_queries=queries, **common),
    }
    attacks[SUITE] = torchattacks.MultiAttack([attacks[name] for name in PARTS])

    def judge(attack) -> Judge:
        def survive(x, y):
            found = []
            for start in range(0, len(x), batch_size):
                images = torch_twin.as_torch(x[start : start + batch_size])
                labels = torch.from_numpy(y[start : start + batch_size].astype(np.int64))
                x_adv = attack(images, labels)
                distance = (x_adv - images).abs().max().item()
                if distance > eps + 1e-6 or x_adv.min() < 0 or x_adv.max() > 1:
                    raise ValueError(f"{attack.attack} left the allowed set: {distance} of {eps}")
                with torch.no_grad():
                    found.append(twin(x_adv).argmax(1) == labels)
            return torch.cat(found).numpy()

        return survive

    return {name: judge(attack) for name, attack in attacks.items()}


def both_right(network: keras.Model, twin: torch.nn.Module, x, y) -> np.ndarray:
    """Positions of the images that both networks classify correctly."""
    ours = network.predict_on_batch(x)
    theirs = torch_twin.logits(twin, x)
    if not np.allclose(ours, theirs, rtol=0, atol=1e-4):
        raise ValueError(f"the twin's logits are off by {np.abs(ours - theirs).max():.2g}")
    return np.flatnonzero((ours.argmax(1) == y) & (theirs.argmax(1) == y))


@dataclasses.dataclass(frozen=True)
class Timed:
    """Verdicts of a call, and how long it took: wall time and time of all processors."""

    survived: np.ndarray
    seconds: float
    cpu_seconds: float


def timed(judge: Judge, x: np.ndarray, y: np.ndarray) -> Timed:
    began, cpu_began = time.perf_counter(), time.process_time()
    survived = judge(x, y)
    return Timed(survived, time.perf_counter() - began, time.process_time() - cpu_began)


def compare(
    label: str,
    network: keras.Model,
    x: np.ndarray,
    y: np.ndarray,
    eps: float,
    batch_size: int,
    attacks: Sequence[str] = (*PARTS, SUITE),
    show: Callable[[dict], None] = lambda row: None,
) -> list[dict]:
    """Rows of one model, an attack each."""
    twin = torch_twin.build(network)
    right = both_right(network, twin, x, y)
    ours = our_judges(network, our_configs(eps), batch_size)
    theirs = peer_judges(twin, eps, network.output_shape[-1], batch_size)
    rows = []
    few = right[:WARM_UP]
    for name in attacks:
        calls, start_up = {}, {}
        for side, judge in (("ours", ours[name]), ("peer", theirs[name])):
            first, second = (timed(judge, x[few], y[few]).seconds for _ in range(2))
            start_up[side] = max(first - second, 0.0)
            calls[side] = timed(judge, x[right], y[right])
        mine, peer = calls["ours"], calls["peer"]
        row = {
            "model": label,
            "eps": eps,
            "attack": name,
            "images": len(x),
            "attacked": len(right),
            "natural_accuracy": len(right) / len(x),
            "ours_accuracy": int(mine.survived.sum()) / len(x),
            "peer_accuracy": int(peer.survived.sum()) / len(x),
            "disagree": int(np.sum(mine.survived != peer.survived)) / len(x),
            "ours_seconds_per_image": mine.seconds / len(right),
            "peer_seconds_per_image": peer.seconds / len(right),
            "ratio": mine.seconds / peer.seconds,
            "cpu_ratio": mine.cpu_seconds / peer.cpu_seconds,
            "ours_start_up_seconds": start_up["ours"],
            "peer_start_up_seconds": start_up["peer"],
        }
        rows.append(row)
        show(row)
    return rows


_LINE = "{:<12}{:<9}{:>8}{:>8}{:>10}{:>9}{:>9}{:>8}{:>10}{:>10}{:>7}".format


def print_head() -> None:
    print(_LINE("", "", "robust", "", "", "ms/image", "", "", "", "start-up", "s"))
    sides = ("ours", "peer")
    print(_LINE("model", "attack", *sides, "disagree", *sides, "ratio", "cpu_ratio", *sides))


def print_row(row: dict) -> None:
    print(
        _LINE(
            row["model"],
            row["attack"],
            f"{row['ours_accuracy']:.2%}",
            f"{row['peer_accuracy']:.2%}",
            f"{row['disagree']:.2%}",
            f"{1000 * row['ours_seconds_per_image']:.2f}",
            f"{1000 * row['peer_seconds_per_image']:.2f}",
            f"{row['ratio']:.2f}",
            f"{row['cpu_ratio']:.2f}",
            f"{row['ours_start_up_seconds']:.1f}",
            f"{row['peer_start_up_seconds']:.1f}",
        ),
        flush=True,
    )


def set_threads() -> int:
    """The same number for both libraries: the cores this process may use."""
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    return threads


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=500, help="of the held-out ones; 500")
    parser.add_argument("--batch_size", type=int, default=250, help="of both sides; 250")
    parser.add_argument("--models", default=",".join(OBJECTIVES), help="of the digits; all three")
    parser.add_argument("--attacks", default=",".join((*PARTS, SUITE)), help="all of them")
    parser.add_argument("--eps", type=Fraction, help="such as 8/255, which is --model_path's")
    parser.add_argument("--model_path", help="a training stage of a store or a .keras file")
    parser.add_argument("--dataset", default="digits", help="of --model_path; digits")
    parser.add_argument("--data_dir", help="where tensorflow-datasets keeps its sets")
    parser.add_argument("--output", type=Path, help="write rows and machine as JSON")
    arguments = parser.parse_args()
    threads = set_threads()
    if arguments.model_path:
        loaded = load_model(arguments.model_path)
        if loaded.network is None:
            parser.error("--model_path: a SavedModel cannot be built again in PyTorch")
        networks = {loaded.network.name: loaded.network}
        data = load(DataConfig(arguments.dataset, data_dir=arguments.data_dir))
        x = data.test_images.astype(np.float32) / np.float32(255)
        y = data.test_labels
    else:
        networks, x, y = digits(arguments.models.split(","))
    if arguments.images > len(y):
        parser.error(f"--images: got {arguments.images}, there are {len(y)}")
    x, y = x[: arguments.images], y[: arguments.images]

    rows = []
    print_head()
    for label, network in networks.items():
        eps = EPS.get(label, 8 / 255) if arguments.eps is None else float(arguments.eps)
        rows += compare(
            label,
            network,
            x,
            y,
            eps,
            arguments.batch_size,
            arguments.attacks.split(","),
            print_row,
        )
    if arguments.output:
        versions = {
            name: importlib.metadata.version(name)
            for name in ("tensorflow", "torch", "torchattacks")
        }
        settings = {
            "norm": "linf",
            "batch_size": arguments.batch_size,
            "threads": threads,
            "dataset": arguments.dataset,
            "steps": 100,
            "queries": 5000,
            "ratios": "our seconds over the peer's; start-up (tracing) is in neither",
        }
        document = {"machine": machine(), "versions": versions, "settings": settings, "rows": rows}
        arguments.output.write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
