"""Small results documents: of a comparison, of experiments over epochs, over a sweep, of transfer.

Numbers are such that a test can recompute them: accuracies are whole numbers of the images, the
ratios are those of the costs beside them.
"""

import copy
import math
import zlib

import numpy as np
from msgspec.structs import replace

from tf_lottery.options.attacks import attack_from_name
from tf_lottery.report import comparison
from tf_lottery.report.asked import About, Claim, Figure, Pair, Sweep
from tf_lottery.report.document import Data, Machine
from tf_lottery.report.json_document import plain
from tf_lottery.report.measures import parse
from tf_lottery.report.results import (
    Accuracy,
    Arm,
    Layer,
    LedgerEntry,
    Point,
    Record,
    Reference,
    Results,
    Row,
    Transfer,
)

TEST, VALIDATION = 1000, 500  # images
HOSTILE = "<script>alert('x')</script>|`*_[a](javascript:b)\"& $x_1$"
KINDS = ("dense", "boosting", "reinit", "winning", "random_mask")
# How fast the curve rises and where it ends, by kind.
_SPEED = {"dense": 0.25, "boosting": 0.9, "reinit": 0.22, "winning": 0.3, "random_mask": 0.2}
_TOP = {"dense": 0.8, "boosting": 0.81, "reinit": 0.76, "winning": 0.8, "random_mask": 0.74}
_LAYERS = (("conv1", 288), ("conv2", 9216), ("dense", 640))
_SEARCH = 36.0  # seconds; 1e9 operations a second, as in training


def share(value, images):
    """The nearest accuracy that so many images can give."""
    return round(min(max(value, 0.0), 1.0) * images) / images


def make_arm(kind, name="", **changes):
    arm = Arm(name or kind, kind, name or kind, "vgg8-w0.25", 0.0 if kind == "dense" else 0.8)
    return replace(arm, **changes)


def make_row(arm, seed, epochs=10, attacks=("pgd20",), lift=0.0):
    """A run of ``epochs`` times 8 seconds and 8e9 operations."""
    kind = arm.kind if arm.kind in _TOP else "boosting"
    noise = np.random.default_rng(zlib.crc32(f"{arm.name}{seed}".encode()))
    top = _TOP[kind] + lift
    curve = []
    for epoch in range(1, epochs + 1):
        risen = 1 - math.exp(-_SPEED[kind] * epoch)
        natural = 0.1 + (top - 0.1) * risen + noise.normal(0, 0.008)
        curve.append(
            Record(
                epoch, 0.1, 2.3 - 1.8 * risen, 0.1 + 0.85 * risen,
                share(natural, VALIDATION), share(0.55 * natural, VALIDATION) if attacks else None,
                8.0, 0.5, round(0.6 * risen + noise.normal(0, 0.004), 4),
            )
        )  # fmt: skip
    natural = share(top + noise.normal(0, 0.006), TEST)
    tests = {"natural": Accuracy(natural, share(natural - 0.004, TEST))}
    for name in attacks:
        robust = share(0.5 * natural, TEST)
        tests[name] = Accuracy(robust, share(robust - 0.012, TEST))
    if attacks:
        off = 0.001 * (len(attacks) > 1)
        lowest = tests[attacks[0]]
        tests["worst"] = Accuracy(share(lowest.best - off, TEST), share(lowest.last - off, TEST))
    sparse = arm.kind != "dense"
    search = _SEARCH * (arm.kind in ("boosting", "winning", "reinit"))
    there = 4.0 + 0.5 * seed if arm.kind in ("boosting", "winning") else None
    return Row(
        name=arm.name, kind=arm.kind, model=arm.model, dataset="cifar10", seed=seed,
        density=0.2 if sparse else 1.0, test_examples=TEST, tests=tests,
        epochs=epochs, best_epoch=max(1, epochs - 2),
        search_seconds=search, train_seconds=8.0 * epochs,
        total_over_dense=(search + 8.0 * epochs) / (8.0 * epochs),
        search_flops=search * 1e9, train_flops=8e9 * epochs,
        total_flops_over_dense=(search + 8.0 * epochs) / (8.0 * epochs),
        search_passes=int(search * 1e5), train_passes=480_000 * epochs,
        search_source="run" if search else "none",
        epochs_to_dense=there,
        seconds_to_dense_over_dense=None if there is None else 0.1 * there + 0.45,
        flops_to_dense_over_dense=None if there is None else 0.1 * there + 0.46,
        break_even=None if there is None else 0.8,
        curve=curve,
        layers=[Layer(name, n, n // (4 if kind == "random_mask" else 5)) for name, n in _LAYERS]
        if sparse else [],
    )  # fmt: skip


def make_study(arms, seeds=(0, 1, 2), attacks=("pgd20",), epochs=10, lift=lambda arm: 0.0):
    """A document without claims and figures; its baseline is the arm ``dense``, if there."""
    rows = [make_row(arm, seed, epochs, attacks, lift(arm)) for arm in arms for seed in seeds]
    names = [arm.name for arm in arms]
    return Results(
        format=2,
        package_version="0.2.0",
        command=["--mode=run", "--workdir=/tmp/my runs/study"],
        study=About("fig5", "Fig. 5", "Boosting tickets learn faster"),
        settings={"data": {"name": "cifar10"}, "train": {"epochs": epochs}, "seed": seeds[0]},
        machine=Machine(cpu="Example CPU", cores=2, memory_gb=7.8, python="3.11.7",
                        tensorflow="2.21.0", devices=["CPU"]),
        data=Data(name="cifar10", train=2000, validation=VALIDATION, test=TEST,
                  digest="ab" * 32, classes=["airplane", "automobile", "bird"]),
        seeds=list(seeds),
        attacks=[attack_from_name(name, 8 / 255) for name in attacks],
        baseline="dense" if "dense" in names else None,
        arms=list(arms), rows=rows, claims=[], figures=[], transfer=None, reference=None,
        searches={}, ledger=_ledger(arms, rows, seeds),
    )  # fmt: skip


def make_comparison(kinds=KINDS[:3], attacks=("fgsm", "pgd20"), seeds=(0,), epochs=10, pairs=False):
    """As ``--compare`` leaves it; with ``pairs`` the networks are compared image by image."""
    document = make_study([make_arm(kind) for kind in kinds], seeds, attacks, epochs)
    document.study = replace(comparison.ABOUT)
    document.claims = comparison.claims(kinds, bool(attacks))
    document.figures = list(comparison.FIGURES)
    document.searches = {"search: boosting": make_row(document.arms[-1], 7, 5, attacks).curve}
    if pairs:
        document.claims = [_paired(document, claim) for claim in document.claims]
    return document


def make_experiment(kinds=KINDS[:3], seeds=(0, 1, 2), attacks=("pgd20",), epochs=10):
    """As an experiment over epochs leaves it, with values of the paper and published curves."""
    arms = [make_arm(kind) for kind in kinds]
    for arm in arms:
        arm.reference = f"{arm.kind} curve" if arm.kind in ("dense", "boosting") else None
    arms[-1].published = {
        "validation_natural@1": 0.54, "validation_natural@last": 0.88, "test_natural@best": 0.87,
    }  # fmt: skip
    document = make_study(arms, seeds, attacks, epochs)
    document.study = About(
        "fig1", "Fig. 1", "Boosting tickets learn faster", "Does the ticket learn faster?",
        "Yes: ten points after one epoch.", None, "reduced: vgg8-w0.25, 10 epochs of 100",
    )  # fmt: skip
    document.figures = [
        Figure("accuracy", "epochs", "Accuracy per epoch",
               ("validation_natural", "validation_robust")),
        Figure("distance", "epochs", "Distance per epoch", ("distance",), log_x=True),
    ]  # fmt: skip
    document.reference = Reference("curves.csv", {
        f"{kind} curve": [Point(at, share(0.9 - 0.6 / at, TEST), share(0.5 - 0.3 / at, TEST))
                          for at in range(1, 101)]
        for kind in ("dense", "boosting")
    })  # fmt: skip
    if {"dense", "boosting", "reinit"} <= set(kinds):
        document.claims = [
            claim("boosting", "reinit", id="first", paper="54 against 40 %"),
            claim("boosting", "reinit", "validation@100", "same", id="late", margin=0.01),
            claim("boosting", "dense", "test@last", "not_less", id="final", margin=0.05),
            claim("boosting", None, "run:total_flops_over_dense", "less", id="cost", value=1.0),
            claim("reinit", "boosting", "run:epochs_to_dense", id="reach", text="reinit is later"),
        ]  # fmt: skip
    return document


def make_sweep(steps=3, seeds=(0, 1, 2), attacks=("pgd20",)):
    """Two series over the share of weights removed, the paper's values, and a dense level."""
    arms = [
        make_arm(kind, f"{kind}, {10 * i} %", series=kind, x=10.0 * i)
        for kind in ("boosting", "reinit")
        for i in range(steps)
    ] + [make_arm("dense")]
    for arm in arms[:steps]:
        arm.published = {"validation_natural@1": 0.55 - 0.002 * arm.x}
    document = make_study(arms, seeds, attacks, 5, lambda arm: -0.001 * (arm.x or 0.0))
    document.study.sweep = Sweep("weights removed (%)")
    document.figures = [
        Figure("early", "sweep", "Accuracy early", ("validation_natural@1", "test@best")),
        Figure("cost", "sweep", "Cost", ("run:total_flops_over_dense",)),
    ]  # fmt: skip
    return document


def make_transfer(kinds=KINDS[:3], seeds=(0, 1, 2)):
    """An experiment with a matrix, of which the paper gives one entry."""
    document = make_study([make_arm(kind) for kind in kinds], seeds)
    side, found = len(kinds), []
    for seed in seeds:
        matrix = 0.6 + 0.02 * np.random.default_rng(seed).normal(size=(side, side))
        np.fill_diagonal(matrix, 0.42)
        found.append([[share(value, TEST) for value in row] for row in matrix])
    published: list = [[None] * side for _ in kinds]
    published[0][-1] = 0.5869
    document.transfer = Transfer("pgd20", TEST, list(kinds), found, published)
    document.figures = [Figure("transfer", "transfer", "Transfer of adversarial examples")]
    return document


def claim(ours, theirs=None, measure="validation_natural@1", expect="more", **changes):
    made = Claim("c", "ours beats theirs", ours, theirs, measure, expect)
    return replace(made, **changes)


def put(document, arm, word, values):
    """Sets what the rows of an arm say under a measure, one value a seed."""
    measure = parse(word)
    for row, value in zip(document.runs(arm), values, strict=True):
        if measure.key is not None:
            setattr(row, measure.key, value)
        elif measure.quantity.startswith("test_"):
            setattr(row.tests[measure.quantity.removeprefix("test_")], measure.at, value)
        else:
            setattr(row.curve[measure.at - 1], measure.quantity, value)


def tree(document):
    """The document as its file holds it, without the digest; nothing is shared with it."""
    return copy.deepcopy(type(document).to_file(plain(document)))


def renamed(document, names):
    """The document with other names of arms, wherever they stand."""

    def other(name):
        return names.get(name, name)

    for arm in document.arms:
        arm.name = other(arm.name)
    for row in document.rows:
        row.name = other(row.name)
    for entry in document.ledger:
        entry.models = [other(name) for name in entry.models]
    document.baseline = other(document.baseline)
    document.claims = [
        replace(each, ours=other(each.ours), theirs=other(each.theirs)) for each in document.claims
    ]
    return document


def make_pictures(count=3, side=8, channels=1, names=("zero", "one", "two"), eps=0.1):
    """Pictures of which the attack turns every second one."""
    rng = np.random.default_rng(0)
    clean = rng.integers(60, 190, (count, side, side, channels), dtype=np.uint8)
    change = round(eps * 255) * rng.choice([-1, 1], clean.shape)
    label = np.arange(count) % 3
    return {
        "clean": clean,
        "adversarial": (clean.astype(int) + change).astype(np.uint8),
        "label": label,
        "clean_prediction": label,
        "adversarial_prediction": np.where(np.arange(count) % 2 == 0, (label + 1) % 3, label),
        "class_names": np.array(names),
        "eps": np.float32(eps),
    }


def _paired(document, claim):
    """Image by image: as many as can be are right with both, or with none."""
    measure = parse(claim.measure)
    if claim.theirs is None or not measure.quantity.startswith("test"):
        return claim
    name = measure.quantity.removeprefix("test").removeprefix("_")
    name = name or ("worst" if document.attacks else "natural")
    pairs = []
    for seed, *sides in zip(
        document.seeds, document.runs(claim.ours), document.runs(claim.theirs), strict=True
    ):
        mine, other = (round(TEST * getattr(row.tests[name], measure.at)) for row in sides)
        pairs.append(Pair(seed, TEST, max(mine - other, 0) + 5, max(other - mine, 0) + 5))
    return replace(claim, pairs=tuple(pairs))


def _ledger(arms, rows, seeds):
    entries = []
    sharing = [arm.name for arm in arms if arm.kind in ("boosting", "reinit")]
    for seed in seeds:
        if sharing:
            entries.append(_stage("train", "search: boosting", sharing, seed, _SEARCH, True))
        for row in rows:
            if row.seed == seed:
                seconds = row.train_seconds
                entries.append(_stage("train", f"train: {row.name}", [row.name], seed, seconds))
                entries.append(_stage("evaluate", row.name, [row.name], seed, 2.5))
    return entries


def _stage(kind, label, models, seed, seconds, cached=False):
    key = zlib.crc32(f"{label}{models}{seed}".encode())
    return LedgerEntry(
        f"{kind}-{key:08x}", kind, label, models, seconds, 4.5, 2.0,
        20_000, 220_000, 200_000, 20_000, seconds * 1e9, cached, seed,
    )  # fmt: skip
