"""From one results document to what a researcher reads. No TensorFlow.

``write_report(workdir)`` turns ``results.json`` (and ``pictures.npz``, if it is
there) into ``report.html``, ``report.md`` and ``figures/*.png``.
"""

from tf_lottery.report.figures import save_all
from tf_lottery.report.report import write_report
from tf_lottery.report.results import (
    check_same_settings,
    read_pictures,
    read_results,
    table,
    write_results,
)
from tf_lottery.report.verdict import Finding, findings

__all__ = [
    "Finding",
    "check_same_settings",
    "findings",
    "read_pictures",
    "read_results",
    "save_all",
    "table",
    "write_report",
    "write_results",
]
