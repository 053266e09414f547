"""The experiments by name, ``--experiment``: those of the paper, and the frontier."""

from tf_lottery.errors import UsageError
from tf_lottery.studies.definition import Experiment
from tf_lottery.studies.frontier import FRONTIER
from tf_lottery.studies.paper import PAPER

EXPERIMENTS: dict[str, Experiment] = {each.id: each for each in (*PAPER, FRONTIER)}
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
