"""How trainings went otherwise than to the last epoch with the last weights, in sentences."""

from __future__ import annotations

from collections.abc import Iterator

from tf_lottery.report.results import LedgerEntry, Results


def training(entry: LedgerEntry) -> str:
    """``train: dense, seed 0``."""
    seed = "" if entry.seed is None else f", seed {entry.seed}"
    return f"{entry.label}{seed}"


def early_ends(document: Results) -> Iterator[str]:
    """Which trainings ended early, by patience or settled masks, and what that saved."""
    ended = [entry for entry in document.ledger if entry.epochs]
    if not ended:
        return
    each = "; ".join(
        f"{training(entry)}: {entry.epochs} of {entry.planned_epochs} epochs, "
        f"{_saved(entry.flops, entry.planned_flops)} of its FLOPs saved"
        for entry in ended
    )
    spent, planned = (sum(getattr(e, key) for e in ended) for key in ("flops", "planned_flops"))
    together = f" Together: {_saved(spent, planned)}." if len(ended) > 1 else ""
    yield (
        "Ended before the last planned epoch, as validation accuracy rose no more (--patience) or "
        f"the mask of a search had settled: {each}.{together} All costs "
        "are of the epochs that were run; “last” is the last of these."
    )


def _saved(spent: float, planned: float) -> str:
    # Of a training that went back and did epochs again perhaps nothing.
    return f"{100 * max(0.0, 1 - spent / planned):.0f} %"


def averages(document: Results) -> Iterator[str]:
    """Where weights were averaged: which of them the accuracies are of."""
    rows = [row for row in document.rows if row.weights]
    if not rows:
        return
    raw = [f"{row.name}, seed {row.seed}" for row in rows if row.weights == "raw"]
    exceptions = f"the raw ones in {'; '.join(raw)}" if raw else "the raw ones nowhere"
    yield (
        "Weights were averaged over the training (--ema_decay). Validation curves and “last” are "
        "of the averaged weights; “best” is the better, on the validation images, of all epochs' "
        f"averaged and raw weights: {exceptions}."
    )
