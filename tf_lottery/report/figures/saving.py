"""Figures as files: the same data gives the same bytes."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from tf_lottery.files import write_atomically
from tf_lottery.report.style import styled

DPI = 150


def save(
    drawn: Mapping[str, Figure | None], folder: str | os.PathLike, vector: bool = False
) -> dict[str, Path]:
    """Writes ``<folder>/<name>.png`` of each figure, with ``vector`` an SVG beside it; removes
    the files where there is none.

    Returns:
      Figure name -> path of the PNG, in the order given.
    """
    saved: dict[str, Path] = {}
    for name, figure in drawn.items():
        path = Path(folder) / f"{name}.png"
        if figure is None:
            path.unlink(missing_ok=True)
            path.with_suffix(".svg").unlink(missing_ok=True)
            continue
        saved[name] = write_atomically(path, png(figure))
        if vector:
            write_atomically(path.with_suffix(".svg"), svg(figure))
    return saved


@styled
def png(figure: Figure) -> bytes:
    """The figure as PNG bytes at ``DPI`` dots an inch."""
    buffer = io.BytesIO()
    # Without the Software entry, the same data gives the same bytes on every version.
    FigureCanvasAgg(figure).print_figure(buffer, dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


@styled
def svg(figure: Figure) -> bytes:
    """The figure as SVG, text as outlines; the same data gives the same bytes."""
    buffer = io.BytesIO()
    # Identifiers are random otherwise, and the date and version would be written.
    with mpl.rc_context({"svg.hashsalt": "tf_lottery"}):
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
