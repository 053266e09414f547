"""Boosting against winning tickets under natural training: Fig. 1 to 3, Tables 1 and 5."""

from __future__ import annotations

from tf_lottery.options.architectures import architecture
from tf_lottery.report.asked import Claim, Figure
from tf_lottery.studies.definition import (
    Arm,
    Base,
    Experiment,
    number,
    of_epochs,
)
from tf_lottery.studies.paper.scale import CIFAR10, CURVES, EPOCHS, NATURAL_TRAINING

# Test accuracy after so many of the 100 epochs: Table 1.
_TABLE1 = {
    "winning": {20: 0.8810, 40: 0.9003, 60: 0.9096, 80: 0.9179, 100: 0.9200},
    "boosting": {20: 0.9125, 40: 0.9184, 60: 0.9213, 80: 0.9214, 100: 0.9205},
}


def _run(base: Base, kind: str) -> str | None:
    return CURVES.get(base.model, {}).get(kind)


def _fig1_arms(base: Base) -> list[Arm]:
    kinds = ("dense", "boosting", "winning", "reinit")
    return [Arm(kind, kind, reference=_run(base, kind)) for kind in kinds]


def _fig1_claims(base: Base) -> list[Claim]:
    del base
    first = "validation_natural@1"
    return [
        Claim("reinit_1", "boosting beats re-initialised after epoch 1", "boosting", "reinit",
              first, "more", "79.7 against 57.0 (VGG-16), 78.2 against 52.2 (ResNet-18)"),
        Claim("winning_1", "boosting beats winning after epoch 1", "boosting", "winning",
              first, "more", "79.7 against 56.4 (VGG-16), 78.2 against 52.1 (ResNet-18)"),
        Claim("dense_1", "boosting beats dense after epoch 1", "boosting", "dense",
              first, "more", "79.7 against 51.7 (VGG-16), by the authors' curves"),
        Claim("winning_last", "boosting ends no more than 1 point below winning", "boosting",
              "winning", "test_natural@last", "not_less", "92.1 against 91.6 (VGG-16)", 0.01),
        Claim("dense_last", "boosting ends no more than 1 point below dense", "boosting",
              "dense", "test_natural@last", "not_less",
              "92.1 against 93.1 (VGG-16), 93.4 against 93.4 (ResNet-18), by the authors' curves",
              0.01),
    ]  # fmt: skip


FIG1 = Experiment(
    "fig1",
    "Fig. 1",
    "Boosting, winning, dense and re-initialised networks under natural training",
    "Does a ticket found at a small learning rate train faster than one found at a large rate, "
    "the same mask on fresh weights, and the dense network?",
    "The boosting ticket is far ahead after the first epoch and ends at the same accuracy.",
    _fig1_arms,
    _fig1_claims,
    (
        Figure("accuracy_per_epoch", "epochs", "Natural validation accuracy",
                   ("validation_natural",)),
    ),
    CIFAR10,
    fixed=NATURAL_TRAINING,
    baseline="dense",
)  # fmt: skip


def _fig2_arms(base: Base) -> list[Arm]:
    arms = []
    for kind in ("boosting", "winning"):
        for epochs in base.sweeps["sweep_epochs"]:
            published = base.of_full(epochs, _TABLE1[kind]) if base.model == "vgg" else None
            arms.append(
                Arm(
                    f"{kind}, {of_epochs(epochs)}",
                    kind,
                    {"ticket_epochs": epochs},
                    kind,
                    epochs,
                    published={} if published is None else {"test_natural@last": published},
                )
            )
    return arms


def _fig2_claims(base: Base) -> list[Claim]:
    short, full = base.sweeps["sweep_epochs"][0], base.sweeps["sweep_epochs"][-1]
    measure = "test_natural@last"
    return [
        Claim("short", f"boosting beats winning when both train for {of_epochs(short)}",
              f"boosting, {of_epochs(short)}", f"winning, {of_epochs(short)}", measure,
              "more", "91.25 against 88.10 (20 epochs)"),
        Claim("short_full", f"boosting in {of_epochs(short)} is no more than 1 point below "
              f"winning in {number(full)}", f"boosting, {of_epochs(short)}",
              f"winning, {of_epochs(full)}", measure, "not_less",
              "91.25 (20 epochs) against 92.00 (100 epochs)", 0.01),
        Claim("full", f"in {of_epochs(full)} both come to within 1 point",
              f"boosting, {of_epochs(full)}", f"winning, {of_epochs(full)}", measure,
              "same", "92.05 against 92.00 (100 epochs)", 0.01),
    ]  # fmt: skip


FIG2 = Experiment(
    "fig2",
    "Fig. 2 and Table 1",
    "How few epochs boosting and winning tickets need",
    "What accuracy do boosting and winning tickets reach in fewer epochs, "
    "each with a whole schedule of its own?",
    "With 20 of 100 epochs the boosting ticket is at 91.25 %, the winning ticket at 88.10 %.",
    _fig2_arms,
    _fig2_claims,
    (
        Figure("test_accuracy", "sweep", "Natural test accuracy, last epoch",
                   ("test_natural@last",), "epochs of retraining"),
    ),
    CIFAR10,
    aliases=("table1",),
    sets=("ticket_epochs",),
    sweeps=(EPOCHS,),
    fixed=NATURAL_TRAINING,
    sweep_label="epochs of retraining",
)  # fmt: skip


def _fig3_arms(base: Base) -> list[Arm]:
    return [Arm(kind, kind, reference=_run(base, kind)) for kind in ("boosting", "winning")]


def _fig3_claims(base: Base) -> list[Claim]:
    del base
    return [
        Claim(f"distance_{when}", f"after {words} boosting is closer to the network it was cut "
              "from than winning", "boosting", "winning", f"distance@{at}", "less",
              "closer all the way (Fig. 3)")
        for when, words, at in (("first", "epoch 1", "1"), ("last", "the last epoch", "last"))
    ]  # fmt: skip


FIG3 = Experiment(
    "fig3",
    "Fig. 3",
    "Distance between a ticket in training and the trained network it was cut from",
    "Does a boosting ticket stay closer to the weights that its search ended with?",
    "The relative l2 distance |w_full - w_ticket| / |w_full| of boosting tickets is smaller than "
    "that of winning tickets.",
    _fig3_arms,
    _fig3_claims,
    (
        Figure("distance_per_epoch", "epochs", "Relative l2 distance", ("distance",),
                   y_label="relative l2 distance"),
        Figure("accuracy_per_epoch", "epochs", "Natural validation accuracy",
                   ("validation_natural",)),
    ),
    CIFAR10,
    fixed=NATURAL_TRAINING,
)  # fmt: skip


_TABLE5 = {
    "dense": (20, 0.9918), "winning": (18, 0.9924), "boosting": (11, 0.9923),
    "reinit": (16, 0.9897),
}  # fmt: skip


def _table5_arms(base: Base) -> list[Arm]:
    """All trainings run at the small rate; only the winning ticket's search at the large one."""
    large = architecture(base.model).learning_rate
    return [
        Arm(
            name,
            "boosting" if name == "winning" else name,
            {"search_learning_rate": large} if name == "winning" else {},
            published={"run:best_epoch": epoch, "test_natural@best": accuracy}
            if base.model == "lenet"
            else {},
        )
        for name, (epoch, accuracy) in _TABLE5.items()
    ]


def _table5_claims(base: Base) -> list[Claim]:
    del base
    return [
        Claim("dense", "boosting reaches its best epoch earlier than dense", "boosting", "dense",
              "run:best_epoch", "less", "epoch 11 against 20"),
        Claim("reinit", "boosting reaches its best epoch earlier than re-initialised", "boosting",
              "reinit", "run:best_epoch", "less", "epoch 11 against 16"),
        Claim("accuracy", "boosting is no more than 0.5 points below dense", "boosting", "dense",
              "test_natural@best", "not_less", "99.23 against 99.18", 0.005),
    ]  # fmt: skip


TABLE5 = Experiment(
    "table5",
    "Table 5",
    "LeNet on MNIST with early stopping",
    "In which epoch does each network reach its best validation accuracy?",
    "Full network in epoch 20, winning ticket 18, boosting ticket 11, re-initialised 16, at 99.2, "
    "99.2, 99.2 and 99.0 % test accuracy.",
    _table5_arms,
    _table5_claims,
    (
        Figure("accuracy_per_epoch", "epochs", "Natural validation accuracy",
                   ("validation_natural",)),
    ),
    {"dataset": "mnist", "train_examples": 0, "validation_examples": 5000, "test_examples": 0,
     "width_multiplier": 1.0},
    models=("lenet",),
    # The paper names no rate here. Under a warm-up that rises, as everywhere else, early
    # stopping would find the epoch in which the rate becomes too large.
    defaults={"epochs": 50, "search_epochs": 20, "patience": 10, "learning_rate": 0.01,
              "warmup_epochs": 0},
    fixed={**NATURAL_TRAINING, "schedule": "constant"},
    baseline="dense",
)  # fmt: skip
