"""What an evaluation gives: accuracies, and what became of each example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tf_lottery.evaluation.checkpoint import Progress
from tf_lottery.evaluation.packing import Passes
from tf_lottery.options.settings import AttackConfig


@dataclass(frozen=True)
class Evaluation:
    """Accuracies as fractions of 1, with the flags they are means of.

    Attributes:
      natural: clean accuracy.
      robust: accuracy by attack name.
      labels: int (n,).
      clean_predictions: int (n,).
      predictions: by attack name, int (n,): the class of the attacked image. Images
        that are wrong clean are not attacked.
      correct: bool (n,): clean image classified correctly.
      survived: by attack name, bool (n,): correct clean and under that attack.
      seconds: by attack name and for ``natural``.
      distances: by attack name, float32 (n,): length of the perturbation that broke an
        image; 0 where it is wrong clean, NaN where it survived. An image leaves with the
        first perturbation inside the ball, which for ``fab`` and ``cw_l2`` is not the
        smallest they could find: ``make_attack`` gives that.
      broken_by: by attack name, (n,) names of the part of a suite that broke an image;
        ``clean`` where it is wrong already, empty where it survived.
      passes: by attack name, then by part: images passed forward and back, seconds.
      warnings: a sentence for each sign that these accuracies are not what they seem; see
        ``cautions``.
    """

    natural: float
    robust: dict[str, float]
    labels: np.ndarray
    clean_predictions: np.ndarray
    predictions: dict[str, np.ndarray]
    correct: np.ndarray
    survived: dict[str, np.ndarray]
    seconds: dict[str, float] = field(default_factory=dict)
    distances: dict[str, np.ndarray] = field(default_factory=dict)
    broken_by: dict[str, np.ndarray] = field(default_factory=dict)
    passes: dict[str, dict[str, Passes]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def arrays(self) -> dict[str, np.ndarray]:
        """The examples as arrays for ``weights.write_arrays``, one entry an image.

        ``label``, ``clean_prediction``, and for each attack ``prediction_<attack>``,
        ``distance_<attack>`` and ``broken_by_<attack>``.
        """
        arrays = {"label": self.labels, "clean_prediction": self.clean_predictions}
        for name in self.robust:
            arrays[f"prediction_{name}"] = self.predictions[name]
            arrays[f"distance_{name}"] = self.distances[name]
            arrays[f"broken_by_{name}"] = self.broken_by[name]
        return arrays


def result_of(y: np.ndarray, known: Progress, attacks: Sequence[AttackConfig]) -> Evaluation:
    """What is known at the end, as accuracies and examples."""
    correct = known.clean == y
    broken_by = {}
    for config in attacks:
        names = np.array([part.name for part in config.components] + [""])
        by = names[known.verdicts[config.name].broken_by]  # -1 is the empty one
        broken_by[config.name] = np.where(correct, by, "clean")
    verdicts = {config.name: known.verdicts[config.name] for config in attacks}
    seconds = {
        name: sum(part.seconds for part in parts.values()) for name, parts in known.passes.items()
    }
    return Evaluation(
        natural=float(correct.mean()),
        robust={name: float(found.standing.mean()) for name, found in verdicts.items()},
        labels=y,
        clean_predictions=known.clean,
        predictions={
            name: np.where(found.standing, y, found.prediction) for name, found in verdicts.items()
        },
        correct=correct,
        survived={name: found.standing for name, found in verdicts.items()},
        seconds={"natural": known.clean_passes.seconds, **seconds},
        distances={name: found.distance for name, found in verdicts.items()},
        broken_by=broken_by,
        passes={"natural": {"natural": known.clean_passes}, **known.passes},
    )
