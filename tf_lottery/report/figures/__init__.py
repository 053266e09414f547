"""The figures of a study, as PNG for pages and as SVG for print; no ``pyplot``, no display."""
