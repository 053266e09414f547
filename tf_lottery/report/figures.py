"""The figures of a report. Each function returns a ``matplotlib.figure.Figure``.

No ``pyplot``: nothing here has global state or needs a display.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import EngFormatter, MaxNLocator

from tf_lottery.files import write_atomically
from tf_lottery.report import formats
from tf_lottery.report.results import Document, accuracy_names, is_search
from tf_lottery.report.style import WIDTH, Style, legend, short, styled, styles, tint
from tf_lottery.statistics import wilson

DPI = 150
PICTURES_SHOWN = 8
RIGHT, WRONG = "#00734F", "#B3261E"


@styled
def accuracy_per_epoch(document: Document) -> Figure | None:
    """Validation accuracy of every run: natural, and robust where it was measured."""
    panels = _panels(document)
    if not panels:
        return None
    figure = Figure(figsize=(WIDTH, 4.0), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, (key, title) in zip(axes, panels, strict=True):
        for row in document["rows"]:
            curve = document["curves"].get(row["name"], [])
            _line(ax, row["name"], curve, key, row, styles(document)[row["name"]])
        for label, curve in document["curves"].items():
            if is_search(label):
                _line(ax, label, curve, key)
        ax.set(title=title, xlabel="epoch", ylabel="accuracy (%)")
        ax.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
        if max(row["epochs"] for row in document["rows"]) == 1:
            ax.set_xlim(0.5, 1.5)
        _dense_level(ax, document, key, panels)
    legend(figure, axes)
    return figure


@styled
def accuracy_per_second(document: Document) -> Figure | None:
    """Validation accuracy against training seconds; a ticket starts where its search ends."""
    panels = _panels(document)
    if not panels:
        return None
    key, title = panels[-1]
    figure = Figure(figsize=(WIDTH, 3.8), layout="constrained")
    ax = figure.subplots()
    for row in document["rows"]:
        curve = document["curves"].get(row["name"], [])
        style = styles(document)[row["name"]]
        ends = row["search_seconds"] + np.cumsum([record["seconds"] for record in curve])
        _line(ax, row["name"], curve, key, row, style, list(ends))
    for end in sorted({row["search_seconds"] for row in document["rows"]} - {0}):
        ax.axvline(end, color="#8A8A8A", lw=1, zorder=1)
        ax.annotate(
            "search ends",
            (end, 0),
            (-4, 6),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            rotation=90,
            ha="right",
            fontsize=9,
            color="#666666",
        )
    ax.set(title=title, xlabel="seconds of search and training", ylabel="accuracy (%)")
    ax.xaxis.set_major_formatter(_tick)
    ax.set_xlim(left=0)
    _dense_level(ax, document, key, panels)
    legend(figure, [ax])
    return figure


@styled
def test_accuracy(document: Document) -> Figure:
    """Bars: best epoch with its 95 % interval; white diamond: last epoch."""
    names = accuracy_names(document)
    rows = document["rows"]
    figure = Figure(figsize=(WIDTH, 4.1), layout="constrained")
    ax = figure.subplots()
    width = min(0.82 / len(rows), 0.28)
    for index, row in enumerate(rows):
        style = styles(document)[row["name"]]
        x = np.arange(len(names)) + (index - (len(rows) - 1) / 2) * width
        best = np.array([row[name]["best"] for name in names])
        last = np.array([row[name]["last"] for name in names])
        bounds = np.array([wilson(share, row["test_examples"]) for share in best])
        bars = ax.bar(
            x,
            100 * best,
            width * 0.9,
            label=row["name"],
            facecolor=tint(style.color),
            edgecolor=style.color,
            hatch=style.hatch,
            linewidth=1.1,
        )
        spread = 100 * np.abs(bounds.T - best)
        ax.errorbar(x, 100 * best, spread, fmt="none", ecolor="#222222", elinewidth=1, capsize=2.5)
        ax.plot(
            x,
            100 * last,
            "D",
            ms=5,
            mfc="white",
            mec="#222222",
            mew=1.1,
            label="last epoch" if index == 0 else None,
        )
        if len(rows) * len(names) <= 20:
            for bar, value, high in zip(bars, best, bounds[:, 1], strict=True):
                middle = bar.get_x() + bar.get_width() / 2
                ax.annotate(
                    formats.percent(value),
                    (middle, 100 * max(high, value)),
                    (0, 3),
                    textcoords="offset points",
                    ha="center",
                    fontsize=8.5,
                )
    ax.set_xticks(np.arange(len(names)), names)
    ax.grid(visible=False, axis="x")
    ax.tick_params(axis="x", length=0)
    side = 0.55 if len(names) > 1 else 1.0
    ax.set(ylabel="test accuracy (%)", ylim=(0, 106), xlim=(-side, len(names) - 1 + side))
    ax.set_yticks(range(0, 101, 20))
    legend(figure, [ax], last="last epoch")
    return figure


@styled
def layer_density(document: Document) -> Figure | None:
    """Share of weights kept in each layer; kinds with the same counts share their bars."""
    masks = distinct_masks(document)
    if not masks:
        return None
    layers = [entry["layer"] for entry in masks[0][1]]
    weights = [entry["weights"] for entry in masks[0][1]]
    height = max(2.4, 1.1 + len(layers) * (0.14 + 0.17 * len(masks)))
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    ax = figure.subplots()
    thick = 0.8 / len(masks)
    drawn = styles(document)
    for index, (names, entries) in enumerate(masks):
        style = drawn[names[0]]
        kept = {entry["layer"]: 100 * entry["kept"] / entry["weights"] for entry in entries}
        y = np.arange(len(layers)) + (index - (len(masks) - 1) / 2) * thick
        shares = [kept.get(layer, 0.0) for layer in layers]
        ax.barh(
            y,
            shares,
            thick * 0.88,
            label=", ".join(names),
            facecolor=tint(style.color),
            edgecolor=style.color,
            hatch=style.hatch,
        )
        for where, share in zip(y, shares, strict=True):
            ax.annotate(
                f"{share:.1f}",
                (share, where),
                (4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8.5,
            )
        total = 100 * sum(e["kept"] for e in entries) / sum(e["weights"] for e in entries)
        ax.axvline(total, color=style.color, lw=1.2, ls=style.line, zorder=0.5)
    labels = [
        f"{short(layer, 28)}  ({formats.si(count)})"
        for layer, count in zip(layers, weights, strict=True)
    ]
    ax.set_yticks(np.arange(len(layers)), labels)
    ax.set_ylim(len(layers) - 0.4, -0.6)
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", length=0)
    ax.set(xlabel="weights kept (% of the layer)", xlim=(0, 108))
    ax.set_xticks(range(0, 101, 20))
    legend(figure, [ax])
    return figure


def distinct_masks(document: Document) -> list[tuple[list[str], list[dict]]]:
    """(row names, layers) of the first sparse row of each kind, equal counts merged."""
    masks: list[tuple[list[str], list[dict]]] = []
    seen = set()
    for row in document["rows"]:
        entries = document["layers"].get(row["name"])
        if not entries or row["kind"] in seen or row["density"] >= 1:
            continue
        seen.add(row["kind"])
        for names, others in masks:
            if others == entries:
                names.append(row["name"])
                break
        else:
            masks.append(([row["name"]], entries))
    return masks


@styled
def adversarial_examples(pictures: dict[str, np.ndarray]) -> Figure:
    """Clean images, attacked images and their amplified difference, with predictions."""
    count = min(PICTURES_SHOWN, len(pictures["label"]))
    names = [str(name) for name in np.atleast_1d(pictures["class_names"])]
    eps = float(pictures["eps"])
    factor = amplification(eps)
    clean = pictures["clean"][:count]
    adversarial = pictures["adversarial"][:count]
    change = (adversarial.astype(float) - clean.astype(float)) / 255
    rows = (clean / 255, adversarial / 255, np.clip(0.5 + factor * change, 0, 1))
    cell = min(1.7, (WIDTH - 1.1) / count)  # inches
    layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.03, wspace=0.02, hspace=0.01)
    figure = Figure(figsize=(1.1 + count * cell, 0.95 + 3 * cell), layout=layout)
    grid = figure.subplots(3, count, squeeze=False)
    sides = ("clean", f"adversarial\neps {formats.pixels(eps)}", f"difference\n×{factor:g}")
    for (axes, images), side in zip(zip(grid, rows, strict=True), sides, strict=True):
        for ax, image in zip(axes, images, strict=True):
            gray = {"cmap": "gray", "vmin": 0, "vmax": 1} if image.shape[-1] == 1 else {}
            shown = image[..., 0] if gray else image
            ax.imshow(shown, interpolation="nearest", **gray)
            ax.set(xticks=[], yticks=[])
            ax.grid(visible=False)
            for spine in ax.spines.values():
                spine.set(visible=True, linewidth=0.6, color="#999999")
        axes[0].set_ylabel(side, rotation=0, ha="right", va="center", labelpad=8)
    for column in range(count):
        label = int(pictures["label"][column])
        grid[0][column].set_title(short(names[label], 13), fontsize=10, loc="center")
        for ax, key in zip(
            grid[:, column], ("clean_prediction", "adversarial_prediction"), strict=False
        ):
            guess = int(pictures[key][column])
            mark, color = ("✓", RIGHT) if guess == label else ("✗", WRONG)
            ax.set_xlabel(f"{mark} {short(names[guess], 12)}", color=color, labelpad=3)
    return figure


def amplification(eps: float) -> float:
    """10, or less where a change of ``eps`` would leave the picture's range."""
    return 10.0 if eps <= 0.05 else round(0.5 / eps, 1)


@styled
def cost(document: Document) -> Figure:
    """Seconds and FLOPs of each model: search, then training."""
    rows = document["rows"]
    height = 1.35 + 0.46 * len(rows)
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    panels: Any = (
        ("Seconds", "search_seconds", "train_seconds", "total_over_dense", formats.seconds),
        ("FLOPs", "search_flops", "train_flops", "total_flops_over_dense", formats.si),
    )
    axes = figure.subplots(1, 2, sharey=True)
    y = np.arange(len(rows))
    for ax, (title, search_key, train_key, ratio_key, show) in zip(axes, panels, strict=True):
        search = np.array([row[search_key] for row in rows], float)
        train = np.array([row[train_key] for row in rows], float)
        ax.barh(y, search, 0.6, label="search", color="white", edgecolor="#333333", hatch="////")
        ax.barh(y, train, 0.6, search, label="training", color="#5B7FA6", edgecolor="#333333")
        for row, where, total in zip(rows, y, search + train, strict=True):
            ratio = row[ratio_key]
            text = show(total) + (f"  ({ratio:.2f}x)" if ratio is not None else "")
            ax.annotate(
                text, (total, where), (5, 0), textcoords="offset points", va="center", fontsize=9.5
            )
        most = (search + train).max()
        ax.set(title=title, xlim=(0, 1.42 * most if most > 0 else 1))
        ax.grid(visible=False, axis="y")
        ax.tick_params(axis="y", length=0)
        ax.xaxis.set_major_locator(MaxNLocator(5))
    axes[0].xaxis.set_major_formatter(_tick)
    axes[1].xaxis.set_major_formatter(EngFormatter(sep=" "))
    axes[0].set_yticks(y, [short(row["name"], 24) for row in rows])
    axes[0].invert_yaxis()
    legend(figure, axes[:1])
    return figure


DOCUMENT_FIGURES: dict[str, Callable[[Document], Figure | None]] = {
    "accuracy_per_epoch": accuracy_per_epoch,
    "accuracy_per_second": accuracy_per_second,
    "test_accuracy": test_accuracy,
    "cost": cost,
    "layer_density": layer_density,
}


def save_all(
    document: Document, pictures: dict[str, np.ndarray] | None, folder: str | os.PathLike
) -> dict[str, Path]:
    """Writes ``<folder>/<name>.png`` for every figure that has data.

    A picture of ours that an earlier report left and this one has no data for is removed.

    Returns:
      Figure name -> path, in the order of the report.
    """
    shown = pictures is not None and len(pictures["label"]) > 0
    drawn = {name: draw(document) for name, draw in DOCUMENT_FIGURES.items()}
    drawn["adversarial_examples"] = adversarial_examples(pictures) if shown else None
    return save(drawn, folder)


def save(drawn: Mapping[str, Figure | None], folder: str | os.PathLike) -> dict[str, Path]:
    """Writes ``<folder>/<name>.png`` of each figure; removes the file where there is none.

    Returns:
      Figure name -> path, in the order given.
    """
    saved: dict[str, Path] = {}
    for name, figure in drawn.items():
        path = Path(folder) / f"{name}.png"
        if figure is None:
            path.unlink(missing_ok=True)
        else:
            saved[name] = write_atomically(path, png(figure))
    return saved


@styled
def png(figure: Figure) -> bytes:
    """The figure as PNG bytes at ``DPI`` dots an inch."""
    buffer = io.BytesIO()
    # Without the Software entry, the same data gives the same bytes on every version.
    FigureCanvasAgg(figure).print_figure(buffer, dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def _panels(document: Document) -> list[tuple[str, str]]:
    """The validation accuracies that at least one record has, robust last."""
    records = [record for curve in document["curves"].values() for record in curve]
    panels = [
        ("validation_natural", "Natural validation accuracy"),
        ("validation_robust", "Robust validation accuracy"),
    ]
    return [
        (key, title) for key, title in panels if any(record[key] is not None for record in records)
    ]


def _line(
    ax: Axes,
    label: str,
    curve: list[dict],
    key: str,
    row: dict | None = None,
    style: Style | None = None,
    x: list[float] | None = None,
) -> None:
    """One run over ``x`` (default: its epochs); a search run, which has no row, in thin grey."""
    x = [record["epoch"] for record in curve] if x is None else x
    points = [
        (at, 100 * record[key], record["epoch"])
        for at, record in zip(x, curve, strict=True)
        if record[key] is not None
    ]
    if not points:
        return
    at, values, epochs = map(list, zip(*points, strict=True))
    if style is None or row is None:
        ax.plot(at, values, color="#8A8A8A", lw=1, ls=(0, (3, 2)), label=label, zorder=1.5)
        return
    ax.plot(
        at,
        values,
        color=style.color,
        ls=style.line,
        marker=style.marker,
        ms=5,
        markevery=max(1, len(at) // 10),
        lw=2.2 if row["kind"] == "boosting" else 1.7,
        label=label,
        zorder=3 if row["kind"] == "boosting" else 2,
    )
    if row["best_epoch"] in epochs:
        index = epochs.index(row["best_epoch"])
        ax.plot(at[index], values[index], "o", ms=11, mfc="none", mec=style.color, mew=1.4)


def _tick(value: float, _: float = 0) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:g}"


def _dense_level(ax: Axes, document: Document, key: str, panels) -> None:
    """A thin line at the dense run's best, in the panel that decides the best epoch."""
    dense = [row for row in document["rows"] if row["kind"] == "dense"]
    values = [
        record[key]
        for row in dense[:1]
        for record in document["curves"].get(row["name"], [])
        if record[key] is not None
    ]
    if values and key == panels[-1][0]:
        ax.axhline(100 * max(values), color="#333333", lw=0.9, ls=(0, (1, 2)), zorder=1)
