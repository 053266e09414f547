"""Named bundles of training options: how a publication trains, for ``--recipe``.

A bundle says what differs from the defaults. Whatever a command line or flagfile says itself goes
before it. ``--ticket_recipe`` takes the place of ``--recipe``: of that one nothing is left in the
training of tickets.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

# What CIFAR-10 is trained with at 8/255; where a source says nothing, the default holds, such as a
# momentum of 0.9. Objective and peak rate are said by all: searches have other defaults.
_USUAL: dict[str, Any] = {
    "learning_rate": 0.1,
    "batch_size": 128,
    "weight_decay": 5e-4,
    "warmup_epochs": 0,
}
RECIPES: dict[str, dict[str, Any]] = {
    # Li et al. 2020, arXiv 2003.05733, section 4: the defaults.
    "paper": {},
    # Rice et al. 2020, arXiv 2002.11569, section 3: PGD-10, piecewise schedule.
    "pgd": {"objective": "pgd", "epochs": 200, **_USUAL},
    # Pang et al. 2021, arXiv 2010.00467: drops at epochs 100 and 105.
    "tricks": {
        "objective": "pgd",
        "epochs": 110,
        "rate_drops": (100 / 110, 105 / 110),
        **_USUAL,
    },
    # Wong et al. 2020, arXiv 2001.03994, train_fgsm.py.
    "fast": {
        **_USUAL,
        "objective": "fgsm_rs",
        "epochs": 15,
        "schedule": "triangular",
        "learning_rate": 0.2,
    },
    # de Jorge et al. 2022, arXiv 2202.01181, section 5.
    "n_fgsm": {
        **_USUAL,
        "objective": "n_fgsm",
        "epochs": 30,
        "schedule": "triangular",
        "learning_rate": 0.2,
    },
    # Shafahi et al. 2019, arXiv 1904.12843, with the short schedule of Wong et al.'s train_free.py:
    # ten passes over the images, each batch eight times.
    "free": {
        **_USUAL,
        "objective": "free",
        "epochs": 80,
        "schedule": "triangular",
        "learning_rate": 0.04,
    },
    # Sriramanan et al. 2021 (NeurIPS), NuAT-WA; when they drop the rate is not taken over.
    "nuat": {
        **_USUAL,
        "objective": "nuat",
        "epochs": 100,
        "batch_size": 64,
        "ema_decay": 0.9998,
    },
    # Zhang et al. 2019, arXiv 1901.08573, train_trades_cifar10.py; they attack at 0.031 with steps
    # of 0.007, here eps and steps are those of the command line. Their epochs count from 1, and the
    # 75th has the lower rate.
    "trades": {
        **_USUAL,
        "objective": "trades",
        "epochs": 76,
        "rate_drops": (74 / 76,),
        "weight_decay": 2e-4,
    },
    # Wang et al. 2020 (ICLR), the authors' code: from the 75th, 90th and 100th epoch on.
    "mart": {
        **_USUAL,
        "objective": "mart",
        "epochs": 120,
        "rate_drops": (74 / 120, 89 / 120, 99 / 120),
        "learning_rate": 0.01,
        "weight_decay": 3.5e-3,
    },
    # Wu et al. 2020, arXiv 2004.05884, section 5: the recipe pgd with perturbed weights.
    "awp": {"objective": "pgd", "epochs": 200, "awp_gamma": 0.01, **_USUAL},
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
    shared = RECIPES.get(values["recipe"], {})
    for role in ("", *roles):
        prefix = f"{role}_" if role else ""
        bundle = RECIPES.get(values[f"{prefix}recipe"], {})
        if role and values[f"{prefix}recipe"]:
            undone = (
                flag for flag in shared if flag not in given and _follows(prefix + flag, defaults)
            )
            bundle = {flag: defaults[flag] for flag in undone} | bundle
        said = {flag.removeprefix(prefix) for flag in given if flag.startswith(prefix)}
        left = {_INSTEAD[flag] for flag in said if flag in _INSTEAD}
        for flag, value in bundle.items():
            if flag not in said | left and prefix + flag in defaults:
                values[prefix + flag] = value
    return values


# What of a recipe goes, where something else is given.
_INSTEAD = {"objective": "phases", "phases": "objective", "schedule": "rate_drops"}


def _follows(flag: str, defaults: Mapping[str, Any]) -> bool:
    """Whether the option of one training is what that of all says, unless it is given."""
    return flag in defaults and (defaults[flag] is None or flag.endswith("_epochs"))
