"""From one evaluation of classifiers under attacks to what a researcher reads. No TensorFlow.

``write_robustness_report(directory)`` turns ``evaluation.json`` into ``report.html``,
``report.md`` and ``figures/*.png``; ``robustness_table`` is the same for a terminal.
"""

from tf_lottery.report.robustness.document import (
    EVALUATION,
    read_evaluation,
    write_evaluation,
)
from tf_lottery.report.robustness.report import write_robustness_report
from tf_lottery.report.robustness.table import robustness_table

__all__ = [
    "EVALUATION",
    "read_evaluation",
    "robustness_table",
    "write_evaluation",
    "write_robustness_report",
]
