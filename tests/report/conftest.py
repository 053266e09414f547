"""A hand-made results document and pictures, small enough to recompute by hand."""

import math

import numpy as np
import pytest
from evaluations import build_evaluation

# kind: (natural best, last), (fgsm), (pgd20), speed of the curve, epochs to dense's best.
# All accuracies are multiples of 1/360, the number of test images.
_ACCURACY = {
    "dense": ((342, 340), (270, 266), (252, 241), 0.25, None),
    "boosting": ((345, 343), (274, 268), (255, 240), 0.9, 5.2),
    "winning": ((340, 338), (268, 262), (248, 238), 0.3, 17.5),
    "reinit": ((330, 330), (250, 246), (225, 222), 0.22, None),
    "random_mask": ((320, 318), (240, 233), (215, 209), 0.2, None),
}
_SEARCH = {"boosting": 40.0, "reinit": 40.0, "winning": 40.0}
_TRAIN = {"dense": 100.0, "boosting": 86.0, "reinit": 90.0, "winning": 95.0, "random_mask": 92.0}
_STEPS = {"fgsm": 1, "pgd20": 20, "pgd100": 100, "cw": 30}


def _curve(speed, top, epochs, robust, seconds):
    records = []
    for epoch in range(1, epochs + 1):
        wobble = 0.012 * math.sin(2.1 * epoch)
        share = 1 - math.exp(-speed * epoch)
        records.append(
            {
                "epoch": epoch,
                "learning_rate": 0.1,
                "loss": 2.3 - 1.8 * share,
                "train_accuracy": 0.1 + 0.85 * share,
                "validation_natural": round(0.1 + (top - 0.1) * share + wobble, 4),
                "validation_robust": round(0.08 + (top - 0.3) * share + wobble, 4)
                if robust
                else None,
                "seconds": seconds / epochs,
                "validation_seconds": 0.1,
            }
        )
    return records


def build(kinds=("dense", "boosting", "reinit"), attacks=("fgsm", "pgd20"), epochs=20, layers=None):
    """A full document; ``attacks=()`` stands for natural training."""
    layers = layers or [("conv1", 288), ("conv2", 9216), ("conv3", 18432), ("dense", 640)]
    rows, curves, densities, ledger = [], {}, {}, []
    for kind in kinds:
        natural, fgsm, pgd, speed, reached = _ACCURACY[kind]
        dense = "dense" in kinds
        search, train = _SEARCH.get(kind, 0.0), _TRAIN[kind]
        row = {
            "name": kind,
            "kind": kind,
            "model": "convnet",
            "dataset": "digits",
            "seed": 0,
            "density": 1.0 if kind == "dense" else 0.2,
            "natural": {"best": natural[0] / 360, "last": natural[1] / 360},
            "epochs": epochs,
            "best_epoch": max(1, epochs - 2),
            "search_seconds": search,
            "train_seconds": train,
            "search_flops": search * 1e9,
            "train_flops": 120e9,
            "total_over_dense": (search + train) / _TRAIN["dense"] if dense else None,
            "total_flops_over_dense": (search * 1e9 + 120e9) / 120e9 if dense else None,
            "test_examples": 360,
            "epochs_to_dense": reached if dense else None,
            "seconds_to_dense_over_dense": 0.61 if dense and reached else None,
            "flops_to_dense_over_dense": 0.57 if dense and reached else None,
            "search_source": "run" if search else "none",
        }
        for attack in attacks:
            best, last = fgsm if attack == "fgsm" else pgd
            row[attack] = {"best": best / 360, "last": last / 360}
        if attacks:
            # An image that survives both attacks survives the stronger; one image does not.
            lowest = [min(row[name][which] for name in attacks) for which in ("best", "last")]
            off = 1 / 360 if len(attacks) > 1 else 0
            row["worst"] = {"best": lowest[0] - off, "last": lowest[1] - off}
        rows.append(row)
        curves[kind] = _curve(speed, natural[0] / 360, epochs, bool(attacks), train)
        if search and kind != "reinit":
            label = f"search: {kind}"
            curves[label] = _curve(0.4, 0.85, max(1, epochs // 2), bool(attacks), search)
            ledger.append(_stage(label, [kind, "reinit"], search, cached=True))
        ledger.append(_stage(kind, [kind], train, cached=False))
        if kind != "dense":
            share = 0.3 if kind == "random_mask" else 0.2
            densities[kind] = [
                {"layer": name, "weights": count, "kept": round(count * share)}
                for name, count in layers
            ]
    return {
        "format": 1,
        "package_version": "0.1.0",
        "settings": {
            "data": {"name": "digits"},
            "search": {"epochs": 10, "schedule": {"peak": 0.01}},
            "compare": list(kinds),
            "seed": 0,
        },
        "command": ["tf_lottery", "--flagfile=flags/digits.flags", "--workdir=/tmp/my runs/digits"],
        "machine": {
            "cpu": "Example CPU",
            "cores": 2,
            "memory_gb": 7.8,
            "python": "3.11.7",
            "tensorflow": "2.21.0",
        },
        "data": {
            "name": "digits",
            "train": 1257,
            "validation": 180,
            "test": 360,
            "digest": "ab" * 32,
            "classes": [str(digit) for digit in range(10)],
        },
        "rows": rows,
        "curves": curves,
        "layers": densities,
        "ledger": ledger,
        "attacks": [
            {
                "name": name,
                "eps": 0.1,
                "steps": _STEPS[name],
                "step_size": 0.1 if name == "fgsm" else 0.025,
                "random_start": name != "fgsm",
                "restarts": 1,
                "loss": "margin" if name == "cw" else "cross_entropy",
            }
            for name in attacks
        ],
    }


def _stage(label, models, seconds, cached):
    return {
        "stage": "train-ab12cd34",
        "kind": "train",
        "label": label,
        "models": models,
        "seconds": seconds,
        "startup_seconds": 4.5,
        "validation_seconds": 2.0,
        "examples": 25140,
        "forward_passes": 276540,
        "input_gradient_passes": 251400,
        "weight_gradient_passes": 25140,
        "flops": seconds * 1e9,
        "cached": cached,
    }


def build_pictures(count=3, side=8, channels=1, names=None, eps=0.1):
    """Pictures of which the attack turns every second one."""
    rng = np.random.default_rng(0)
    clean = rng.integers(60, 190, (count, side, side, channels), dtype=np.uint8)
    step = round(eps * 255)
    sign = rng.choice([-1, 1], clean.shape)
    label = np.arange(count) % 3
    return {
        "clean": clean,
        "adversarial": (clean.astype(int) + step * sign).astype(np.uint8),
        "label": label,
        "clean_prediction": label,
        "adversarial_prediction": np.where(np.arange(count) % 2 == 0, (label + 1) % 3, label),
        "class_names": np.array(names or ["zero", "one", "two"]),
        "eps": np.float32(eps),
    }


@pytest.fixture(scope="session")
def make_document():
    return build


@pytest.fixture(scope="session")
def make_pictures():
    return build_pictures


@pytest.fixture(scope="session")
def make_evaluation():
    return build_evaluation
