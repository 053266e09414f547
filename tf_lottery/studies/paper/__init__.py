"""The experiments of arXiv 2003.05733, declared: see ``definition`` for their parts."""

from tf_lottery.studies.definition import Experiment
from tf_lottery.studies.paper.factors import FIG4, FIG5, FIG6, FIG10
from tf_lottery.studies.paper.natural import FIG1, FIG2, FIG3, TABLE5
from tf_lottery.studies.paper.robust import FIG7, FIG8, FIG9, SEARCH_EPOCHS, TABLE3

__all__ = ["PAPER"]

PAPER: tuple[Experiment, ...] = (
    FIG1, FIG2, FIG3, FIG4, FIG5, FIG6, FIG7, FIG8, FIG9, TABLE3, FIG10, TABLE5, SEARCH_EPOCHS,
)  # fmt: skip
