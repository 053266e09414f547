"""Adversarial examples: ``pictures.npz``, and the figure made of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from tf_lottery.errors import StoreError
from tf_lottery.report import formats
from tf_lottery.report.style import WIDTH, short, styled

PICTURES_SHOWN = 8
RIGHT, WRONG = "#00734F", "#B3261E"
KEYS = (
    "clean", "adversarial", "label", "clean_prediction", "adversarial_prediction",
    "class_names", "eps",
)  # fmt: skip

Pictures = Mapping[str, np.ndarray]


def read_pictures(path: str | os.PathLike) -> Pictures | None:
    """The arrays of ``pictures.npz``; ``None`` where there is no such file.

    ``clean`` and ``adversarial`` are uint8 (n, height, width, channels); ``label``
    and the predictions int (n,); ``class_names`` strings; ``eps`` on [0, 1] pixels. The
    optional ``model`` and ``attack`` say in words which model was attacked and how.

    Raises:
      StoreError: damaged, or an array is missing or of the wrong shape.
    """
    path = Path(path)
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:
            pictures = {key: archive[key] for key in archive.files}
    except Exception as error:  # a damaged zip raises five different types
        reason = " ".join(str(error).split())
        raise StoreError(f"{path}: cannot be read ({reason}); remove it") from error
    missing = [key for key in KEYS if key not in pictures]
    if missing:
        raise StoreError(f"{path}: lacks {', '.join(missing)}")
    clean = pictures["clean"]
    ok = clean.ndim == 4 and clean.shape[-1] in (1, 3) and clean.dtype == np.uint8
    ok = ok and pictures["adversarial"].shape == clean.shape
    ok = ok and pictures["adversarial"].dtype == np.uint8 and pictures["eps"].size == 1
    classes = len(np.atleast_1d(pictures["class_names"]))
    for key in ("label", "clean_prediction", "adversarial_prediction"):
        index = pictures[key]
        ok = ok and index.shape == clean.shape[:1] and index.dtype.kind in "iu"
        ok = ok and bool(np.all((index >= 0) & (index < classes)))
    if not ok:
        raise StoreError(f"{path}: arrays of the wrong shape, type or range")
    return pictures


@styled
def adversarial_examples(pictures: Pictures) -> Figure:
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
            gray: Any = {"cmap": "gray", "vmin": 0, "vmax": 1} if image.shape[-1] == 1 else {}
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
