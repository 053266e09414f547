"""The experiments of arXiv 2003.05733, declared: see ``definition`` for their parts."""

from tf_lottery.errors import UsageError
from tf_lottery.studies.definition import Experiment
from tf_lottery.studies.paper.factors import FIG4, FIG5, FIG6, FIG10
from tf_lottery.studies.paper.natural import FIG1, FIG2, FIG3, TABLE5
from tf_lottery.studies.paper.robust import FIG7, FIG8, FIG9, SEARCH_EPOCHS, TABLE3

__all__ = ["EXPERIMENTS", "SWEEPS", "find_experiment"]

_IN_ORDER = (
    FIG1, FIG2, FIG3, FIG4, FIG5, FIG6, FIG7, FIG8, FIG9, TABLE3, FIG10, TABLE5, SEARCH_EPOCHS,
)  # fmt: skip
EXPERIMENTS: dict[str, Experiment] = {each.id: each for each in _IN_ORDER}
# Every sweep's flag; experiments that share one differ in its values at most.
SWEEPS: tuple[str, ...] = tuple(
    dict.fromkeys(sweep.flag for each in EXPERIMENTS.values() for sweep in each.sweeps)
)


def find_experiment(name: str) -> Experiment:
    """The experiment of that id or alias; ``UsageError`` lists them if there is none."""
    names = {each.id: each for each in EXPERIMENTS.values()}
    names |= {alias: each for each in EXPERIMENTS.values() for alias in each.aliases}
    if name not in names:
        raise UsageError.unknown("experiment", name, tuple(names))
    return names[name]
