"""Results that 0.1.0 wrote, in format 1, as documents of the format of today."""

from __future__ import annotations

from typing import Any

from msgspec import to_builtins

from tf_lottery.report import comparison

_RENAMED = {"total_seconds_over_dense": "total_over_dense"}


def upgraded(tree: dict[str, Any]) -> dict[str, Any] | None:
    """A tree of format 2 from one of format 1, of a comparison or an experiment; else ``None``.

    What was not recorded then, such as which images two networks get right, stays out.

    Raises:
      LookupError, TypeError, AttributeError: it is neither.
    """
    if tree["format"] != 1:
        return None
    common = {
        key: tree[key]
        for key in ("package_version", "command", "settings", "machine", "data", "attacks")
    }
    common["format"] = 2
    if "arms" in tree:
        return common | _experiment(tree)
    return common | _comparison(tree)


def _comparison(tree: dict[str, Any]) -> dict[str, Any]:
    names = [row["name"] for row in tree["rows"]]
    seeds = list(dict.fromkeys(row["seed"] for row in tree["rows"]))
    arms = [
        {
            "name": row["name"],
            "kind": row["kind"],
            "series": row["name"],
            "model": row["model"],
            "sparsity": 1 - row["density"],
        }
        for row in tree["rows"]
    ]
    rows = [
        {
            **row,
            **_unknown_search(row),
            "stopped": row["epochs"] < _planned(tree, row),
            "curve": tree["curves"].get(row["name"], []),
            "layers": tree["layers"].get(row["name"], []),
        }
        for row in tree["rows"]
    ]
    kinds = [row["kind"] for row in tree["rows"]]
    distinct = len(set(kinds)) == len(kinds)
    asked = comparison.claims(kinds, bool(tree["attacks"])) if distinct else []
    return {
        "study": to_builtins(comparison.ABOUT),
        "seeds": seeds,
        "baseline": next((row["name"] for row in tree["rows"] if row["kind"] == "dense"), None),
        "arms": arms,
        "rows": rows,
        "claims": to_builtins(asked),
        "figures": to_builtins(comparison.FIGURES),
        "transfer": None,
        "reference": None,
        "searches": {k: v for k, v in tree["curves"].items() if k not in names},
        "ledger": tree["ledger"],
    }


def _unknown_search(row: dict[str, Any]) -> dict[str, Any]:
    """A given ticket that did not say what it cost counted as if that were nothing."""
    if row["search_source"] != "ticket" or min(row["search_seconds"], row["search_flops"]) > 0:
        return {}
    ratios = ("total_over_dense", "total_flops_over_dense", "seconds_to_dense_over_dense",
              "flops_to_dense_over_dense")  # fmt: skip
    return {"search_source": "unknown", **dict.fromkeys(ratios)}


def _planned(tree: dict[str, Any], row: dict[str, Any]) -> int:
    part = "train" if row["kind"] == "dense" else "ticket_train"
    return tree["settings"].get(part, {}).get("epochs", row["epochs"])


def _experiment(tree: dict[str, Any]) -> dict[str, Any]:
    arms, rows = [], []
    for arm in tree["arms"]:
        kept = {key: value for key, value in arm.items() if key not in ("runs", "published")}
        arms.append({**kept, "published": _renamed(arm["published"])})
        rows += [_row(tree, arm, run) for run in arm["runs"]]
    return {
        "study": {**tree["experiment"], "scale": tree["scale"]},
        "seeds": tree["seeds"],
        "baseline": tree["baseline"],
        "arms": arms,
        "rows": rows,
        "claims": [{**claim, "measure": _word(claim["measure"])} for claim in tree["claims"]],
        "figures": [
            {**figure, "measures": [_word(word) for word in figure["measures"]]}
            for figure in tree["figures"]
        ],
        "transfer": tree["transfer"],
        "reference": tree["reference"],
        "searches": {},
        "ledger": tree["ledger"],
    }


def _row(tree: dict[str, Any], arm: dict[str, Any], run: dict[str, Any]) -> dict[str, Any]:
    test = dict(run["test"] or {"examples": 0})
    rest = {_RENAMED.get(key, key): value for key, value in run.items() if key != "test"}
    return {
        "name": arm["name"],
        "kind": arm["kind"],
        "model": arm["model"],
        "dataset": tree["data"]["name"],
        "test_examples": test.pop("examples"),
        "search_source": "run" if run["search_flops"] else "none",
        **test,
        **rest,
    }


def _word(measure: str) -> str:
    key = measure.removeprefix("run:")
    return f"run:{_RENAMED[key]}" if key in _RENAMED else measure


def _renamed(published: dict[str, float]) -> dict[str, float]:
    return {_word(measure): number for measure, number in published.items()}
