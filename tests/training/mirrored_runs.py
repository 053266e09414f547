"""Runs on one device and on two, in a process of its own: devices are fixed at the start.

    python mirrored_runs.py DIRECTORY

leaves weights and histories there, for ``test_distribution.py`` to compare.
"""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np

from tf_lottery import weights
from tf_lottery.data import evaluation_batches, load, training_batches
from tf_lottery.models import build_model
from tf_lottery.options.settings import (
    DataConfig,
    ObjectiveConfig,
    ScheduleConfig,
    TrainConfig,
    attack_from_name,
)
from tf_lottery.pruning.masks import wrap
from tf_lottery.training import callbacks, run
from tf_lottery.training.devices import make_distribution
from tf_lottery.training.distribution import Distribution
from tf_lottery.training.task import Reporting

STEPS = 5  # an epoch
BATCH = 64
NATURAL = TrainConfig(
    objective=ObjectiveConfig("natural"),
    epochs=4,
    batch_size=BATCH,
    schedule=ScheduleConfig("constant", peak=0.05),
    weight_decay=1e-2,
    keep_epochs=(1,),
)


def attacked(norm, eps):
    attack = attack_from_name("pgd3", eps=eps, norm=norm, random_start=True)
    return dataclasses.replace(
        NATURAL, objective=ObjectiveConfig("pgd", attack), validation_attack=attack
    )


PGD = {"linf": attacked("linf", 0.1), "l2": attacked("l2", 1.0)}


class InterruptionError(Exception):
    pass


def main(root: Path) -> None:
    two = make_distribution("mirrored", 2)
    one = Distribution()
    # 101 validation images: the last of the 102 in two parts is padding.
    data = load(DataConfig("digits", train_examples=STEPS * BATCH, validation_examples=101))

    def network():
        masked = wrap(
            build_model("convnet", data.input_shape, data.num_classes, 0, width_multiplier=0.1)
        )
        rng = np.random.default_rng(0)
        masks = {name: rng.random(tuple(k.shape)) < 0.6 for name, k in masked.kernels.items()}
        masks["conv2"][..., 3] = False
        masked.set_masks(masks)
        return masked

    def trained(name, config, distribution):
        directory = root / name
        directory.mkdir(exist_ok=True)
        masked = network()
        run.train(
            masked,
            data,
            config,
            seed=1,
            directory=directory,
            augment=True,
            distribution=distribution,
            reporting=Reporting(verbose=0, log_directory=root / "logs" / name),
        )
        weights.write_arrays(directory / "masks.npz", masked.get_masks())
        weights.write_arrays(directory / "network.npz", weights.get_weights(masked.network))

    def interrupted(name, config, distribution, epochs):
        class Stops(callbacks.History):
            def on_epoch_begin(self, epoch, logs=None):
                super().on_epoch_begin(epoch, logs)
                if epoch == epochs:
                    raise InterruptionError

        original, callbacks.History = callbacks.History, Stops
        try:
            trained(name, config, distribution)
        except InterruptionError:
            return
        finally:
            callbacks.History = original
        raise SystemExit(f"{name} was not interrupted")

    trained("natural-1", NATURAL, one)
    trained("natural-2", NATURAL, two)
    for norm, config in PGD.items():
        trained(f"{norm}-1", config, one)
        trained(f"{norm}-2", config, two)
    averaged = dataclasses.replace(NATURAL, ema_decay=0.9)
    trained("averaged-1", averaged, one)
    trained("averaged-2", averaged, two)
    apart = dataclasses.replace(NATURAL, batch_norm_groups=2)
    trained("apart", apart, two)
    # Goes on with other devices, or the same.
    interrupted("resumed", NATURAL, one, epochs=1)
    interrupted("resumed", NATURAL, two, epochs=2)
    trained("resumed", NATURAL, one)
    interrupted("resumed-averaged", averaged, one, epochs=1)
    trained("resumed-averaged", averaged, two)
    interrupted("resumed-apart", apart, two, epochs=1)
    trained("resumed-apart", apart, two)

    placed = two.place(network())
    copies = {
        name: [np.asarray(copy).tolist() for copy in mask.values]
        for name, mask in placed.masks.items()
    }
    (root / "mask_copies.json").write_text(json.dumps(copies))

    def pipeline(**parts):
        return training_batches(
            data.train_images, data.train_labels, batch_size=BATCH, epochs=4, order_seed=5, **parts
        )

    def validation(**parts):
        return evaluation_batches(data.validation_images, data.validation_labels, 34, **parts)

    seen = {}
    for name, make in (("training", pipeline), ("validation", validation)):
        for devices, distribution in ((1, one), (2, two)):
            batches = distribution.batches(make)
            seen[f"{name}-{devices}"] = [
                [
                    part.numpy().tolist()
                    for part in getattr(batch["index"], "values", [batch["index"]])
                ]
                for batch in batches
            ]
    (root / "index.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
