"""Hand-made experiment documents: a few arms over epochs, over a sweep, with a transfer matrix."""

import math
import zlib

import numpy as np

from tf_lottery.options.attacks import attack_from_name
from tf_lottery.options.settings import settings

TEST_IMAGES, VALIDATION = 1000, 500
_KINDS = ("dense", "boosting", "reinit", "winning", "random_mask")
_NAMES = ("dense", "boosting", "re-initialised", "winning", "random mask")
# How fast the curve rises, and where it ends, by kind.
_SPEED = {"dense": 0.25, "boosting": 0.9, "reinit": 0.22, "winning": 0.3, "random_mask": 0.2}
_TOP = {"dense": 0.8, "boosting": 0.81, "reinit": 0.76, "winning": 0.8, "random_mask": 0.74}


def build_run(kind, seed, epochs=10, attacks=("pgd20",), lift=0.0, salt=""):
    """One run; ``lift`` moves its accuracies, ``salt`` its noise."""
    rng = np.random.default_rng(zlib.crc32(f"{kind}{seed}{salt}".encode()))
    curve = []
    for epoch in range(1, epochs + 1):
        share = 1 - math.exp(-_SPEED[kind] * epoch)
        natural = 0.1 + (_TOP[kind] + lift - 0.1) * share + rng.normal(0, 0.008)
        curve.append(
            {
                "epoch": epoch,
                "learning_rate": 0.1,
                "loss": 2.3 - 1.8 * share,
                "train_accuracy": 0.1 + 0.85 * share,
                "validation_natural": _grid(natural, VALIDATION),
                "validation_robust": _grid(0.55 * natural, VALIDATION) if attacks else None,
                "distance": round(0.6 * share + rng.normal(0, 0.004), 4),
                "seconds": 8.0 + rng.normal(0, 0.1),
                "validation_seconds": 0.5,
            }
        )
    natural = _grid(_TOP[kind] + lift + rng.normal(0, 0.006), TEST_IMAGES)
    best = max(1, epochs - 2)
    test = {"examples": TEST_IMAGES, "natural": {"best": natural, "last": natural - 0.004}}
    robust = _grid(0.5 * natural, TEST_IMAGES)
    for name in attacks:
        test[name] = {"best": robust, "last": robust - 0.012}
    if attacks:
        off = 0.001 if len(attacks) > 1 else 0.0
        test["worst"] = {"best": robust - off, "last": robust - 0.012 - off}
    sparse = kind != "dense"
    searched = kind in ("boosting", "winning", "reinit")
    seconds = sum(record["seconds"] for record in curve)
    flops, search = 2.4e11 * epochs, 1.1e12 * searched
    reached = 4.2 + rng.normal(0, 0.2) if kind in ("boosting", "winning") else None
    return {
        "seed": seed,
        "density": 0.2 if sparse else 1.0,
        "epochs": epochs,
        "best_epoch": best,
        "stopped": False,
        "curve": curve,
        "test": test,
        "search_seconds": 36.0 * searched,
        "train_seconds": seconds,
        "search_flops": search,
        "train_flops": flops,
        "search_passes": 2.2e6 * searched,
        "train_passes": 4.8e5 * epochs,
        "total_seconds_over_dense": (seconds + 36.0 * searched) / 80,
        "total_flops_over_dense": (flops + search) / 2.4e12,
        "epochs_to_dense": reached,
        "seconds_to_dense_over_dense": None if reached is None else 0.1 * reached + 0.45,
        "flops_to_dense_over_dense": None if reached is None else 0.1 * reached + 0.46,
        "break_even": 0.8 if reached is not None else None,
    }


def build_arm(name, kind, seeds, x=None, series=None, **run):
    """An arm with a run a seed; ``run`` goes to ``build_run``."""
    return {
        "name": name,
        "kind": kind,
        "series": series or name,
        "x": x,
        "model": "vgg8-w0.25",
        "sparsity": 0.0 if kind == "dense" else 0.8,
        "reference": f"{kind} curve" if kind in ("dense", "boosting") else None,
        "published": {},
        "runs": [build_run(kind, seed, salt=name, **run) for seed in seeds],
    }


def build_experiment(form="epochs", seeds=(0, 1, 2), arms=3, epochs=10, attacks=("pgd20",)):
    """A full document.

    Args:
      form: of its figures.
      seeds: of the replicates.
      arms: how many; over a sweep two series share them, with a dense arm without x.
      epochs: of every run.
      attacks: names as in ``--attacks``; none stands for natural training.
    """
    run = {"epochs": epochs, "attacks": attacks}
    if form == "sweep":
        sides = [("boosting", "boosting"), ("re-initialised", "reinit")]
        steps = (0, 18, 32, 45, 56, 65, 73, 80, 87, 92, 98)[:: max(1, 22 // arms)]
        built = [
            build_arm(
                f"{series}, {x} %", kind, seeds, float(x), series,
                lift=-0.0015 * abs(x - 70), **run,
            )
            for series, kind in sides
            for x in steps
        ]  # fmt: skip
        for arm in built[: len(steps)]:
            arm["published"] = {"validation_natural@1": 0.55 - 0.002 * abs(arm["x"] - 75)}
        built.append(build_arm("dense", "dense", seeds, **run))
        built[-1]["series"] = "dense"
    else:
        kinds = [_KINDS[i % len(_KINDS)] for i in range(arms)]
        names = [
            _NAMES[i % len(_NAMES)] + (f" {i // len(_NAMES) + 1}" if i >= len(_NAMES) else "")
            for i in range(arms)
        ]
        built = [
            build_arm(name, kind, seeds, lift=-0.02 * (i // len(_NAMES)), **run)
            for i, (name, kind) in enumerate(zip(names, kinds, strict=True))
        ]
        built[1]["published"] = {
            "validation_natural@1": 0.54,
            "validation_natural@last": 0.88,
            "test_natural@best": 0.87,
        }
    names = [arm["name"] for arm in built]
    ours = next(arm["name"] for arm in built if arm["kind"] == "boosting")
    return {
        "format": 1,
        "package_version": "0.3.0",
        "command": ["--mode=experiment", "--experiment=fig5", "--workdir=/tmp/my runs/fig5"],
        "experiment": {
            "id": "fig5",
            "source": {"epochs": "Fig. 1", "sweep": "Fig. 5", "transfer": "Table 3"}[form],
            "title": {
                "epochs": "Boosting tickets learn faster",
                "sweep": "How many weights may go",
                "transfer": "Adversarial examples carried over",
            }[form],
            "question": "Does the boosting ticket learn faster than the dense network?",
            "paper": "Yes: after one epoch it is ahead of every other network by ten points.",
            "sweep": {"label": "weights removed (%)", "log": False} if form == "sweep" else None,
        },
        "scale": "reduced: vgg8-w0.25, 2,000 of 45,000 training images, 10 epochs of 100",
        "settings": {"data": {"name": "cifar10"}, "train": {"epochs": epochs}, "seed": seeds[0]},
        "machine": {"cpu": "Example CPU", "cores": 2, "memory_gb": 7.8, "python": "3.11.7",
                    "tensorflow": "2.21.0"},
        "data": {"name": "cifar10", "train": 2000, "validation": VALIDATION, "test": TEST_IMAGES,
                 "digest": "ab" * 32, "classes": ["airplane", "automobile", "bird"],
                 "validation_used": VALIDATION},
        "seeds": list(seeds),
        "attacks": [settings(attack_from_name(name, 8 / 255)) for name in attacks],
        "baseline": "dense" if "dense" in names else None,
        "arms": built,
        "claims": _claims(names, ours),
        "figures": _figures(form),
        "transfer": _transfer(names[:8], seeds) if form == "transfer" else None,
        "reference": _reference(epochs) if form == "epochs" else None,
        "ledger": _ledger(built),
    }  # fmt: skip


def build_claim(ours, theirs=None, **changes):
    """One claim; ``changes`` replace its defaults."""
    claim = {"id": "c", "text": "ours beats theirs", "ours": ours, "theirs": theirs, "value": None,
             "measure": "validation_natural@1", "expect": "more", "margin": 0.0,
             "paper": "54 against 40 %"}  # fmt: skip
    return claim | changes


def _claims(names, ours):
    other = next((name for name in names if name.startswith("re-initialised")), names[0])
    claims = [
        build_claim(ours, other, id="first", text=f"{ours} beats {other} after epoch 1"),
        build_claim(ours, other, id="late", text="the two are the same after epoch 100",
                    measure="validation@100", expect="same", margin=0.01),
    ]  # fmt: skip
    if "dense" in names:
        claims += [
            build_claim(ours, "dense", id="final", text="the ticket is no worse than dense at the "
                        "end", measure="test@last", expect="not_less", margin=0.02,
                        paper="92.05 against 92.00 %"),
            build_claim(ours, id="cost", text="search and retraining cost less than dense training",
                        value=1.0, measure="run:total_flops_over_dense", expect="less",
                        paper="0.51 of the seconds"),
            build_claim(other, ours, id="reach", text=f"{other} gets there later",
                        measure="run:epochs_to_dense", paper="never"),
        ]  # fmt: skip
    return claims


def build_figure(form, measures, name="figure", **changes):
    """One figure of all arms; ``changes`` replace its defaults."""
    figure = {"name": name, "form": form, "title": "Accuracy", "measures": list(measures),
              "x_label": "", "y_label": "", "log_x": False, "arms": None}  # fmt: skip
    return figure | changes


def _figures(form):
    if form == "sweep":
        return [
            build_figure(form, ["validation_natural@1", "validation_natural@5"], "early",
                         title="Accuracy after epochs 1 and 5"),
            build_figure(form, ["run:total_flops_over_dense"], "cost", title="Cost"),
        ]  # fmt: skip
    if form == "transfer":
        return [build_figure(form, [], "transfer", title="Transfer of adversarial examples")]
    return [
        build_figure(form, ["validation_natural", "validation_robust"], "accuracy",
                     title="Accuracy per epoch"),
        build_figure(form, ["distance", "validation"], "distance", title="Distance per epoch",
                     log_x=True),
    ]  # fmt: skip


def _transfer(names, seeds):
    matrices = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        matrix = 0.6 + 0.02 * rng.normal(size=(len(names), len(names)))
        np.fill_diagonal(matrix, 0.42 + 0.01 * rng.normal(size=len(names)))
        matrices.append(np.round(matrix, 3).tolist())
    published: list = [[None] * len(names) for _ in names]
    published[0][-1] = 0.5869
    return {
        "attack": "pgd20", "examples": 1000, "arms": names, "matrices": matrices,
        "published": published,
    }  # fmt: skip


def _reference(epochs):
    return {
        "file": "curves.csv",
        "runs": {
            f"{kind} curve": [
                {
                    "epoch": epoch,
                    "natural": round(0.9 - 0.6 * math.exp(-1.1 * _SPEED[kind] * epoch), 4),
                    "robust": round(0.5 - 0.3 * math.exp(-1.1 * _SPEED[kind] * epoch), 4),
                }
                for epoch in range(1, 10 * epochs + 1)
            ]
            for kind in ("dense", "boosting")
        },
    }


def _ledger(arms):
    entries = []
    for i, run in enumerate(arms[0]["runs"]):
        shared = [arm["name"] for arm in arms if arm["kind"] in ("boosting", "reinit")]
        entries.append(_stage("train", "search: boosting", shared, run["seed"], 36.0, cached=True))
        for arm in arms:
            seconds = arm["runs"][i]["train_seconds"]
            entries.append(_stage("train", arm["name"], [arm["name"]], run["seed"], seconds))
            entries.append(_stage("evaluate", arm["name"], [arm["name"]], run["seed"], 2.5))
    return entries


def _stage(kind, label, models, seed, seconds, cached=False):
    return {
        "stage": f"{kind}-{zlib.crc32(f'{label}{seed}'.encode()):08x}",
        "kind": kind,
        "label": label,
        "models": models,
        "seed": seed,
        "seconds": seconds,
        "startup_seconds": 4.5,
        "validation_seconds": 2.0,
        "examples": 20000,
        "forward_passes": 220000,
        "input_gradient_passes": 200000,
        "weight_gradient_passes": 20000,
        "flops": seconds * 1e9,
        "cached": cached,
    }


def _grid(share, images):
    """The nearest share that ``images`` images can have."""
    return round(min(max(share, 0.0), 1.0) * images) / images
