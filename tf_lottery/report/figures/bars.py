"""Figures of bars: accuracy on the test images, cost, and how much of each layer is kept."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure as Picture
from matplotlib.ticker import EngFormatter, MaxNLocator

from tf_lottery.report import formats, values
from tf_lottery.report.figures.panels import arm_styles, legend_name
from tf_lottery.report.measures import Measure
from tf_lottery.report.results import Figure, Layer, Results
from tf_lottery.report.style import WIDTH, legend, short, styled, tint, visible
from tf_lottery.report.text import printable


@styled
def test_accuracy(document: Results, figure: Figure) -> Picture | None:
    """Bars: best epoch with its 95 % interval; white diamond: last epoch; means over the seeds."""
    names, arms = document.tests, document.drawn(figure)
    if not names:
        return None
    picture = Picture(figsize=(WIDTH, 4.1), layout="constrained")
    ax = picture.subplots()
    width = min(0.82 / len(arms), 0.28)
    for index, arm in enumerate(arms):
        style = arm_styles(document)[arm.name]
        x = np.arange(len(names)) + (index - (len(arms) - 1) / 2) * width
        found = [values.mean(document, arm.name, Measure(f"test_{name}", "best")) for name in names]
        ends = [values.mean(document, arm.name, Measure(f"test_{name}", "last")) for name in names]
        if None in found or None in ends:
            continue
        best = np.array([100 * each.mean for each in found])  # type: ignore[union-attr]
        bounds = np.array([[100 * (each.low or 0), 100 * (each.high or 0)] for each in found])  # type: ignore[union-attr]
        last = [100 * each.mean for each in ends]  # type: ignore[union-attr]
        bars = ax.bar(
            x,
            best,
            width * 0.9,
            label=legend_name(arm.name),
            facecolor=tint(style.color),
            edgecolor=style.color,
            hatch=style.hatch,
            linewidth=1.1,
        )
        spread = np.abs(bounds.T - best)
        ax.errorbar(x, best, spread, fmt="none", ecolor="#222222", elinewidth=1, capsize=2.5)
        label = None if "last epoch" in ax.get_legend_handles_labels()[1] else "last epoch"
        ax.plot(x, last, "D", ms=5, mfc="white", mec="#222222", mew=1.1, label=label)
        if len(arms) * len(names) <= 20:
            for bar, value, high in zip(bars, best, bounds[:, 1], strict=True):
                ax.annotate(
                    formats.percent(value / 100),
                    (bar.get_x() + bar.get_width() / 2, max(high, value)),
                    (0, 3),
                    textcoords="offset points",
                    ha="center",
                    fontsize=8.5,
                )
    ax.set_xticks(np.arange(len(names)), [short(name, 24) for name in names])
    ax.grid(visible=False, axis="x")
    ax.tick_params(axis="x", length=0)
    side = 0.55 if len(names) > 1 else 1.0
    ax.set(ylabel="test accuracy (%)", ylim=(0, 106), xlim=(-side, len(names) - 1 + side))
    ax.set_yticks(range(0, 101, 20))
    legend(picture, [ax], last="last epoch")
    return picture


@styled
def layer_density(document: Results, figure: Figure) -> Picture | None:
    """Share of weights kept in each layer; arms with the same counts share their bars."""
    masks = distinct_masks(document, figure)
    if not masks:
        return None
    layers = masks[0][1]
    height = max(2.4, 1.1 + len(layers) * (0.14 + 0.17 * len(masks)))
    picture = Picture(figsize=(WIDTH, height), layout="constrained")
    ax = picture.subplots()
    thick = 0.8 / len(masks)
    for index, (names, entries) in enumerate(masks):
        style = arm_styles(document)[names[0]]
        kept = {entry.layer: 100 * entry.kept / entry.weights for entry in entries}
        y = np.arange(len(layers)) + (index - (len(masks) - 1) / 2) * thick
        shares = [kept.get(entry.layer, 0.0) for entry in layers]
        ax.barh(
            y,
            shares,
            thick * 0.88,
            label=visible(", ".join(map(printable, names))),
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
        total = 100 * sum(e.kept for e in entries) / sum(e.weights for e in entries)
        ax.axvline(total, color=style.color, lw=1.2, ls=style.line, zorder=0.5)
    labels = [f"{short(e.layer, 28)}  ({formats.si(e.weights)})" for e in layers]
    ax.set_yticks(np.arange(len(layers)), labels)
    ax.set_ylim(len(layers) - 0.4, -0.6)
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", length=0)
    ax.set(xlabel="weights kept (% of the layer)", xlim=(0, 108))
    ax.set_xticks(range(0, 101, 20))
    legend(picture, [ax])
    return picture


def distinct_masks(document: Results, figure: Figure) -> list[tuple[list[str], list[Layer]]]:
    """(arm names, layers) of the first seed's masks, equal counts merged."""
    masks: list[tuple[list[str], list[Layer]]] = []
    for arm in document.drawn(figure):
        entries = document.runs(arm.name)[0].layers
        if not entries:
            continue
        same = next((names for names, others in masks if others == entries), None)
        if same is None:
            masks.append(([arm.name], entries))
        else:
            same.append(arm.name)
    return masks


@styled
def cost(document: Results, figure: Figure) -> Picture:
    """Seconds and FLOPs of each arm: search, then training; means over the seeds."""
    arms = document.drawn(figure)
    picture = Picture(figsize=(WIDTH, 1.35 + 0.46 * len(arms)), layout="constrained")
    panels: Any = (
        ("Seconds", "seconds", "total_over_dense", formats.seconds),
        ("FLOPs", "flops", "total_flops_over_dense", formats.si),
    )

    def means(key: str) -> list[float | None]:
        found = [values.mean(document, arm.name, Measure(f"run:{key}")) for arm in arms]
        return [None if each is None else each.mean for each in found]

    axes = picture.subplots(1, 2, sharey=True)
    y = np.arange(len(arms))
    for ax, (title, unit, ratio_key, show) in zip(axes, panels, strict=True):
        search = np.array(means(f"search_{unit}"), float)
        train = np.array(means(f"train_{unit}"), float)
        ax.barh(y, search, 0.6, label="search", color="white", edgecolor="#333333", hatch="////")
        ax.barh(y, train, 0.6, search, label="training", color="#5B7FA6", edgecolor="#333333")
        for ratio, where, total in zip(means(ratio_key), y, search + train, strict=True):
            text = show(total) + (f"  ({ratio:.2f}x)" if ratio is not None else "")
            ax.annotate(
                text, (total, where), (5, 0), textcoords="offset points", va="center", fontsize=9.5
            )
        most = (search + train).max()
        ax.set(title=title, xlim=(0, 1.42 * most if most > 0 else 1))
        ax.grid(visible=False, axis="y")
        ax.tick_params(axis="y", length=0)
        ax.xaxis.set_major_locator(MaxNLocator(5))
    axes[0].xaxis.set_major_formatter(formats.tick)
    axes[1].xaxis.set_major_formatter(EngFormatter(sep=" "))
    axes[0].set_yticks(y, [short(arm.name, 24) for arm in arms])
    axes[0].invert_yaxis()
    legend(picture, axes[:1])
    return picture
