"""Named bundles of training options: how a publication trains, for ``--recipe``.

A bundle says what differs from the defaults. Whatever a command line or flagfile says itself goes
before it, and ``--ticket_recipe`` before ``--recipe``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

# Rates, decays and schedules for CIFAR-10 as published; epochs too.
RECIPES: dict[str, dict[str, Any]] = {
    # Li et al. 2020, arXiv 2003.05733, section 4: the defaults.
    "paper": {},
    # Rice et al. 2020, arXiv 2002.11569, section 3, with their piecewise schedule.
    "pgd": {"epochs": 200, "batch_size": 128, "weight_decay": 5e-4},
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
            if flag not in said:
                values[prefix + flag] = value
    return values
