"""From one experiment of the paper, run with several seeds, to what a researcher reads.

``write_experiment_report(directory)`` turns ``experiment.json`` into ``report.html``,
``report.md``, ``figures/*.png`` and ``figures/*.svg``; ``verdicts`` says which of the paper's
claims hold, ``experiment_table`` the same and the numbers for a terminal. No TensorFlow.
"""

from tf_lottery.report.experiment.document import (
    EXPERIMENT,
    read_experiment,
    write_experiment,
)
from tf_lottery.report.experiment.overlay import lay_over
from tf_lottery.report.experiment.report import write_experiment_report
from tf_lottery.report.experiment.text import experiment_table
from tf_lottery.report.experiment.verdict import Verdict, verdicts

__all__ = [
    "EXPERIMENT",
    "Verdict",
    "experiment_table",
    "lay_over",
    "read_experiment",
    "verdicts",
    "write_experiment",
    "write_experiment_report",
]
