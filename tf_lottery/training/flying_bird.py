"""Flying Bird: each layer's smallest weights make way for others, again and again.

Chen et al. 2022, "Sparsity Winning Twice" (arXiv 2202.09844). A share of each layer's weights,
from a half to 0.005 along a cosine, is replaced at every update: the smallest go, as many come
back at random places (SET; Mocanu et al. 2018, arXiv 1707.04780) or where the gradients are
largest (RigL; Evci et al. 2020, arXiv 1911.11134). What went does not come straight back.

Flying Bird+ follows the overfitting in the second half of the epochs. At the first update after
each window of four epochs it looks at the window's four changes from epoch to epoch:

- the gap between training and validation accuracy (robust, where it was measured) rose in at
  least half of them: 0.4 times as many as are replaced are pruned besides;
- the validation loss rose in at least half of them: 5 % of the layer's weights come back besides.

A training of fewer than ten epochs has no such window with an update after it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable

import numpy as np

from tf_lottery.options.settings import SparsityUpdateConfig, TrainConfig, derive_seed
from tf_lottery.training.callbacks import averaged, judged_by
from tf_lottery.training.mask_updates import MaskUpdate

LAST_FRACTION = 0.005
# Published: every 900 of 200 epochs' 78,200 steps (50,000 images, 128 a step), 1,200 from half on.
UPDATES = 78_200 / 900
LATER = 4 / 3
SHORTEST = 100  # steps, in which new weights can grow (RigL's)
WINDOW = 4  # epochs
EXTRA_PRUNED = 0.4  # of the share that is replaced
EXTRA_GROWN = 0.05  # of a layer's weights


def mask_update(config: TrainConfig, steps_per_epoch: int, seed: int) -> MaskUpdate | None:
    """What ``config.sparsity_update`` asks for; ``None``: nothing.

    Args:
      config: of the training.
      steps_per_epoch: optimizer steps.
      seed: the run's root seed.
    """
    chosen = config.sparsity_update
    if chosen is None:
        return None
    plus = chosen.name == "flying_bird_plus"
    at = _due(chosen, config.epochs * steps_per_epoch)

    def function(step, kernels, masks, gradients, rows=()):
        fraction = _fraction(chosen, step, config.epochs * steps_per_epoch)
        window = _window(at, step, steps_per_epoch, config.epochs // 2) if plus else 0
        gap, loss = _rose(rows, window) if window else (False, False)
        return {
            name: exchange(
                kernels[name],
                mask,
                round(fraction * np.count_nonzero(mask)),
                pruned=round(gap * EXTRA_PRUNED * fraction * np.count_nonzero(mask)),
                grown=round(loss * EXTRA_GROWN * np.count_nonzero(mask)),
                scores=None if gradients is None else np.abs(gradients[name]),
                seed=derive_seed(seed, "growth", step, name),
            )
            for name, mask in masks.items()
        }

    return MaskUpdate(
        function, at, gradients=chosen.growth == "gradient", same_count=not plus, history=plus
    )


def updates(config: TrainConfig, steps_per_epoch: int, epoch: int) -> int:
    """How many updates a training makes in an epoch, counted from 0."""
    if config.sparsity_update is None:
        return 0
    at = _due(config.sparsity_update, config.epochs * steps_per_epoch)
    return sum(map(at, range(epoch * steps_per_epoch, (epoch + 1) * steps_per_epoch)))


def interval(chosen: SparsityUpdateConfig, steps: int) -> int:
    """Steps between two updates in the first half of ``steps``."""
    shortest = min(SHORTEST, -(-steps // 10))
    return chosen.interval or max(1, shortest, round(steps / UPDATES))


def exchange(
    kernel: np.ndarray,
    mask: np.ndarray,
    count: int,
    *,
    pruned: int = 0,
    grown: int = 0,
    scores: np.ndarray | None = None,
    seed: int = 0,
) -> np.ndarray:
    """A layer's mask with its smallest weights replaced.

    Args:
      kernel, mask: of the same shape.
      count: weights to replace, as long as there are so many places that were free before.
      pruned: smallest weights that go besides; one weight stays in any case.
      grown: that come back besides, likewise as there is room.
      scores: what scores higher comes back first; ``None``: at random, by ``seed``. Of equal
        magnitudes and scores the earlier position has the better place.
    """
    left, free = np.flatnonzero(mask), np.flatnonzero(~mask)
    count = min(count, len(free))
    grown = min(count + grown, len(free))
    pruned = min(count + pruned, len(left), len(left) + grown - 1)
    stays = np.argsort(-np.abs(kernel.ravel()[left]), kind="stable")[: len(left) - pruned]
    if scores is None:
        comes = np.random.default_rng(seed).choice(len(free), grown, replace=False)
    else:
        comes = np.argsort(-scores.ravel()[free], kind="stable")[:grown]
    new = np.zeros(mask.size, bool)
    new[left[stays]] = new[free[comes]] = True
    return new.reshape(mask.shape)


def _due(chosen: SparsityUpdateConfig, steps: int) -> Callable[[int], bool]:
    """Whether an update is due when so many steps are done."""
    early = interval(chosen, steps)
    late = round(LATER * early)
    return lambda step: step > 0 and step % (early if step <= steps // 2 else late) == 0


def _fraction(chosen: SparsityUpdateConfig, step: int, steps: int) -> float:
    """Share of a layer's weights that are replaced at ``step`` of ``steps``."""
    last = min(LAST_FRACTION, chosen.fraction)
    return last + (chosen.fraction - last) * (1 + math.cos(math.pi * step / steps)) / 2


def _window(at: Callable[[int], bool], step: int, steps_per_epoch: int, half: int) -> int:
    """The last epoch of a window that has ended since the update before ``step``; 0: none has."""
    before = next(filter(at, range(step - 1, 0, -1)), 0)
    now, then = ((s // steps_per_epoch - half) // WINDOW for s in (step, before))
    return half + WINDOW * now if now >= 1 and now > then else 0


def _rose(rows: list[dict], last: int) -> tuple[bool, bool]:
    """Whether gap and validation loss rose in at least half of the window to epoch ``last``.

    Both of the weights that are trained, also where they are averaged.
    """
    seen, column = rows[last - WINDOW - 1 : last], judged_by(rows)
    raw = column.replace("validation", "raw") if averaged(rows) else column
    gaps = [row["train_accuracy"] - row[raw] for row in seen]
    return _mostly_rises(gaps), _mostly_rises(row["validation_loss"] for row in seen)


def _mostly_rises(values: Iterable[float]) -> bool:
    values = list(values)
    rises = [after > before for before, after in itertools.pairwise(values)]
    return 2 * sum(rises) >= len(rises)
