"""Named bundles of training options: how a publication trains, for ``--recipe``.

A bundle says what differs from the defaults. Whatever a command line or flagfile says itself goes
before it, and ``--ticket_recipe`` before ``--recipe``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

# What CIFAR-10 is trained with at 8/255; where a source says nothing, the default holds. All take
# momentum 0.9 and a peak rate of 0.1 unless they say so.
_USUAL: dict[str, Any] = {"batch_size": 128, "weight_decay": 5e-4, "warmup_epochs": 0}
RECIPES: dict[str, dict[str, Any]] = {
    # Li et al. 2020, arXiv 2003.05733, section 4: the defaults.
    "paper": {},
    # Rice et al. 2020, arXiv 2002.11569, section 3: PGD-10, piecewise schedule.
    "pgd": {"epochs": 200, **_USUAL},
    # Pang et al. 2021, arXiv 2010.00467: drops at epochs 100 and 105.
    "tricks": {"epochs": 110, "rate_drops": (100 / 110, 105 / 110), **_USUAL},
    # Wong et al. 2020, arXiv 2001.03994, train_fgsm.py.
    "fast": {
        "objective": "fgsm_rs",
        "epochs": 15,
        "schedule": "triangular",
        "learning_rate": 0.2,
        **_USUAL,
    },
    # de Jorge et al. 2022, arXiv 2202.01181, section 5.
    "n_fgsm": {
        "objective": "n_fgsm",
        "epochs": 30,
        "schedule": "triangular",
        "learning_rate": 0.2,
        **_USUAL,
    },
    # Shafahi et al. 2019, arXiv 1904.12843, with the short schedule of Wong et al.'s train_free.py:
    # ten passes over the images, each batch eight times.
    "free": {
        "objective": "free",
        "epochs": 80,
        "schedule": "triangular",
        "learning_rate": 0.04,
        **_USUAL,
    },
    # Sriramanan et al. 2021 (NeurIPS), NuAT-WA; when they drop the rate is not taken over.
    "nuat": {
        "objective": "nuat",
        "epochs": 100,
        "batch_size": 64,
        "weight_decay": 5e-4,
        "warmup_epochs": 0,
        "ema_decay": 0.9998,
    },
    # Zhang et al. 2019, arXiv 1901.08573, train_trades_cifar10.py; they attack at 0.031 with steps
    # of 0.007, here eps and steps are those of the command line.
    "trades": {
        "objective": "trades",
        "epochs": 76,
        "rate_drops": (75 / 76,),
        "batch_size": 128,
        "weight_decay": 2e-4,
        "warmup_epochs": 0,
    },
    # Wang et al. 2020 (ICLR), the authors' code.
    "mart": {
        "objective": "mart",
        "epochs": 120,
        "rate_drops": (75 / 120, 90 / 120, 100 / 120),
        "learning_rate": 0.01,
        "batch_size": 128,
        "weight_decay": 3.5e-3,
        "warmup_epochs": 0,
    },
    # Wu et al. 2020, arXiv 2004.05884, section 5: the recipe pgd with perturbed weights.
    "awp": {"epochs": 200, "awp_gamma": 0.01, **_USUAL},
}


def filled(
    given: Mapping[str, Any], defaults: Mapping[str, Any], roles: Collection[str]
) -> dict[str, Any]:
    """All options: as given, else of a recipe, else the default.

    Args:
      given: option -> value, as far as somebody said something.
      defaults: option -> value, of all.
      roles: trainings with options of their own, ``<role>_<option>`` and ``<role>_recipe``.
    """
    values = dict(defaults) | dict(given)
    for role in ("", *roles):
        prefix = f"{role}_" if role else ""
        bundle = RECIPES.get(values.get(f"{prefix}recipe") or "paper", {})
        said = {flag.removeprefix(prefix) for flag in given if flag.startswith(prefix)}
        if "objective" in said:
            bundle = {flag: value for flag, value in bundle.items() if flag != "phases"}
        if "phases" in said:
            bundle = {flag: value for flag, value in bundle.items() if flag != "objective"}
        for flag, value in bundle.items():
            if flag not in said and prefix + flag in defaults:
                values[prefix + flag] = value
    return values
