"""A hand-made evaluation: images that a few classifiers get right or wrong under attacks."""

import itertools
import zlib

import msgspec
import numpy as np

from tf_lottery.options.attacks import attack_from_name
from tf_lottery.options.settings import settings
from tf_lottery.report.json_document import plain
from tf_lottery.report.robustness.document import Evaluation
from tf_lottery.statistics import compare

MODELS = ("dense", "boosting", "broken gradients")
ATTACKS = ("fgsm", "pgd20", "autoattack")
# Shares that hold: natural, then how much of the rest each attack leaves.
_LEFT = {"fgsm": 0.66, "pgd20": 0.58, "autoattack": 0.53, "square": 0.6, "noise": 0.97}
_PARTS = {"apgd_ce": 0.8, "apgd_t": 0.17, "fab_t": 0.01, "square": 0.02}
_PASSES = {"fgsm": 2, "pgd20": 21, "autoattack": 1020, "square": 5000, "noise": 10}
CHECKS = {
    "zero_gradients": "0 of 1,000 images have an input gradient of exactly 0 everywhere.",
    "black_box_beats_gradients": "Random search breaks 2 images that PGD does not.",
    "stronger_is_weaker": "20 steps break every image but one that one step breaks.",
    "unbounded_attack": "With radius 1 the accuracy is 0.0 %.",
    "probabilities": "The outputs do not sum to 1: they are logits.",
    "randomness": "The same images give the same logits twice.",
    "half_precision": "The model computes in float32.",
    "eps_curve": "Accuracy falls with every larger radius.",
}
WARNINGS = {
    "zero_gradients": "412 of 1,000 images have an input gradient of exactly 0 everywhere: "
    "a gradient attack cannot move them.",
    "black_box_beats_gradients": "Random search breaks 187 images that PGD does not.",
}


def build_evaluation(**arguments):
    """A full document; for ``arguments`` see ``build_content``."""
    return msgspec.convert(plain(build_content(**arguments)), Evaluation)


def build_content(models=MODELS, attacks=ATTACKS, examples=1000, norm="linf", warn=None):
    """The JSON of a full document.

    Args:
      models: names.
      attacks: names as in ``--attacks``.
      examples: images.
      norm: of all attacks.
      warn: models with warnings; ``None`` means "broken gradients", if it is there.
    """
    eps = 8 / 255 if norm == "linf" else 0.5
    warn = [name for name in models if name == "broken gradients"] if warn is None else warn
    configs = {name: attack_from_name(name, eps, norm=norm) for name in attacks}
    right = {name: _right(name, attacks, examples) for name in models}
    return {
        "format": 1,
        "kind": "evaluation",
        "package_version": "0.2.0",
        "command": ["--mode=evaluate", "--model_path=/tmp/my runs/dense", "--attacks=autoattack"],
        "settings": {"data": {"name": "cifar10", "test_examples": examples}, "seed": 0},
        "machine": {
            "cpu": "Example CPU",
            "cores": 2,
            "memory_gb": 7.8,
            "python": "3.11.7",
            "tensorflow": "2.21.0",
            "devices": ["CPU"],
        },
        "data": {
            "name": "cifar10",
            "test": examples,
            "digest": "ab" * 32,
            "classes": ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse",
                        "ship", "truck"],
        },
        "attacks": [settings(config) for config in configs.values()],
        "models": [_model(name, right[name], configs, examples) for name in models],
        "pairs": [
            {"a": a, "b": b, "measure": measure} | compare(right[a][measure], right[b][measure])
            for a, b in itertools.combinations(models, 2)
            for measure in ("natural", *attacks, *(["worst"] if len(attacks) > 1 else []))
        ],
        "transfer": _transfer(models, norm, eps) if attacks and len(models) > 1 else None,
        "curves": {key: _curve(key, models, norm, eps) for key in ("eps", "steps")}
        if attacks
        else None,
        "diagnosis": {name: _checks(name in warn) for name in models} if attacks else {},
    }  # fmt: skip


def _rng(name):
    return np.random.default_rng(zlib.crc32(name.encode()))


def _right(name, attacks, examples):
    """Measure -> bool (examples,); the images that all models find hard are the same ones."""
    ease = np.random.default_rng(0).random(examples) + 0.12 * _rng(name).random(examples)
    order = np.argsort(np.argsort(ease)) / examples  # uniform over [0, 1)
    shift = 0.05 * _rng(name + "!").random()
    found = {"natural": order > 0.17 + shift}
    for attack in attacks:
        share = _LEFT.get(attack, 0.55)
        if name == "broken gradients":
            share = 0.9 if attack in ("fgsm", "pgd20") else 0.4
        found[attack] = found["natural"] & (order > 1 - share * (0.83 - shift))
    if "pgd20" in attacks and "autoattack" in attacks:
        # One image that the stronger attack misses.
        found["pgd20"][np.flatnonzero(found["autoattack"])[0]] = False
    if attacks:
        found["worst"] = np.all(list(found.values()), axis=0)
    return found


def _model(name, right, configs, examples):
    broken, standing, cost = {}, {}, {"natural": _cost(1, examples, 0.9)}
    for attack, config in configs.items():
        held = int(right[attack].sum())
        lost = int(right["natural"].sum()) - held
        names = [part.name for part in config.components]
        shares = {part: round(lost * _PARTS.get(part, 1.0)) for part in names[1:]}
        broken[attack] = {names[0]: lost - sum(shares.values()), **shares}
        standing[attack] = held
        cost[attack] = _cost(_PASSES.get(attack, 100), examples, 0.012)
        if attack == "square":
            cost[attack]["input_gradient_passes"] = 0
    return {
        "name": name,
        "what": f"SavedModel runs/{name}",
        "examples": examples,
        "natural": float(right["natural"].mean()),
        "robust": {attack: float(right[attack].mean()) for attack in configs},
        "worst": float(right["worst"].mean()) if configs else None,
        "broken_by": broken,
        "standing": standing,
        "cost": cost,
    }


def _cost(passes, examples, seconds):
    return {
        "seconds": seconds * passes * examples / 1000,
        "forward_passes": passes * examples,
        "input_gradient_passes": (passes - 1) * examples,
    }


def _transfer(models, norm, eps):
    """500 images; what is crafted on the model with broken gradients fools nobody."""
    rows = []
    for source in models:
        row = [0.62 + 0.15 * _rng(source + target).random() for target in models]
        if source == "broken gradients":
            row = [0.8] * len(models)
        else:
            row[models.index(source)] = 0.45
        rows.append([round(share * 500) / 500 for share in row])
    return {
        "attack": settings(attack_from_name("pgd20", eps, norm=norm)),
        "examples": 500,
        "models": list(models),
        "accuracy": rows,
    }


def _curve(key, models, norm, eps):
    """200 images. The last model but one rises once, by one image."""
    if key == "eps":
        values = [eps * factor for factor in (0, 0.25, 0.5, 0.75, 1, 1.5, 2, 4)]
        shape = np.exp(-0.6 * np.array(values) / eps)
    else:
        values = [1, 2, 5, 10, 20, 50, 100]
        shape = 0.52 + 0.3 * np.exp(-np.array(values) / 4)
    accuracy, rises = {}, {}
    for i, name in enumerate(models):
        shares = np.round(200 * (0.83 - 0.02 * i) * shape) / 200
        if i == len(models) - 2:
            shares[3] = shares[2] + 1 / 200
            rises[name] = [[values[2], values[3], float(shares[3] - shares[2])]]
        else:
            rises[name] = []
        accuracy[name] = shares.tolist()
    return {
        "attack": settings(attack_from_name("pgd20", eps, norm=norm)),
        "examples": 200,
        "values": values,
        "accuracy": accuracy,
        "rises": rises,
    }


def _checks(warned):
    found = []
    for check, text in CHECKS.items():
        outcome = "warn" if warned and check in WARNINGS else "pass"
        if check == "half_precision":
            outcome, text = "skipped", "The policy of a SavedModel is not known."
        text = WARNINGS[check] if outcome == "warn" else text
        value = 0.412 if outcome == "warn" else None
        found.append({"check": check, "outcome": outcome, "text": text, "value": value})
    return found
