"""A transfer matrix as a picture."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle

from tf_lottery.report.style import WIDTH, readable, short, styled


@styled
def heat_map(names: Sequence[str], accuracy: Sequence[Sequence[float]] | np.ndarray) -> Figure:
    """Accuracy, a share, of the column's model on images crafted on the row's."""
    shares = 100 * np.array(accuracy, float)
    count = len(shares)
    names = [short(name, 24) for name in names]
    cell = min(1.7, (WIDTH - 3.6) / count)  # inches
    figure = Figure(
        figsize=(WIDTH, 1.0 + count * min(cell, 0.55)),
        layout=ConstrainedLayoutEngine(rect=_middle((3.6 + count * cell) / WIDTH)),
    )
    ax = figure.subplots()
    colors = mpl.colormaps["cividis"]  # perceptually uniform, for the colour-blind too
    image = ax.imshow(shares, cmap=colors, vmin=0, vmax=100, aspect="auto")
    for row, column in np.ndindex(shares.shape):
        ax.text(
            column,
            row,
            f"{shares[row, column]:.1f}",
            ha="center",
            va="center",
            fontsize=10 if count <= 7 else 8.5,
            fontweight="bold" if row == column else "normal",
            color=readable(colors(shares[row, column] / 100)),
        )
        if row == column:
            # Two frames, of which one shows on any shade.
            for color, width in (("white", 4.5), ("black", 2.0)):
                ax.add_patch(
                    Rectangle((row - 0.47, row - 0.47), 0.94, 0.94, fill=False, ec=color, lw=width)
                )
    sides = names
    if max(map(len, names)) * 0.09 > cell:
        # Numbers below the columns, which the rows spell out.
        names = [str(i + 1) for i in range(count)]
        sides = [f"{name}   {number}" for name, number in zip(sides, names, strict=True)]
    ax.set_xticks(np.arange(count), names)
    ax.set_yticks(np.arange(count), sides)
    ax.tick_params(length=0)
    ax.grid(visible=False)
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set(xlabel="classified by", ylabel="crafted on")
    bar = figure.colorbar(image, ax=ax, fraction=0.05, pad=0.03)
    bar.set_label("accuracy (%)")
    bar.outline.set_visible(False)
    return figure


def _middle(share: float) -> tuple[float, float, float, float]:
    """(left, bottom, width, height) of the middle of a figure, so that all are equally wide."""
    return (1 - min(share, 1)) / 2, 0, min(share, 1), 1
