"""Keras callbacks that watch a training: numbers that are not finite, catastrophic overfitting."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NoReturn

import numpy as np

from tf_lottery import weights
from tf_lottery.errors import CollapseError, NonFiniteError
from tf_lottery.keras import keras
from tf_lottery.training.checkpoints import Position

MOST_ROLLBACKS = 3  # of a training
LARGEST_NORM = 1e6  # of a gradient; healthy ones are below 100


class NonFiniteGuard(keras.callbacks.Callback):
    """Stops a run at the first step, or epoch, whose numbers cannot be trusted.

    Looked at after each step: the loss, and the norm of the gradient (all weights together),
    which must be finite and at most ``LARGEST_NORM``; after each epoch: the weights.

    Args:
      stage: name used in the error.
      network: bare.
      rate_flag: the flag whose rate the stage runs at.
      scaled: gradients of float16 networks may be infinite: such steps are left out, and
        the loss scale goes down.

    Raises:
      NonFiniteError: names stage, epoch and step (both counted from 1).
    """

    def __init__(
        self,
        stage: str,
        network: keras.Model,
        rate_flag: str = "learning_rate",
        scaled: bool = False,
    ):
        super().__init__()
        self._stage = stage
        self._network = network
        self._advice = f"a lower --{rate_flag} may help"
        self._scaled = scaled
        self._done = 0
        self._epoch = 0

    def go_on(self, position: Position) -> None:
        """The next step comes after ``position``."""
        self._done = position.step

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        # Keras reports the running mean, which stays NaN from the bad step on.
        where = f"in epoch {self._epoch + 1}, step {self._done + batch + 1}"
        if not math.isfinite(logs["loss"]):
            self._stop(f"loss is {logs['loss']} {where}")
        norm = logs.get("gradient_norm", 0.0)
        if not self._scaled and not norm <= LARGEST_NORM:
            exploded = math.isfinite(norm)
            said = f"{norm:.3g}, more than {LARGEST_NORM:g}," if exploded else str(norm)
            self._stop(f"the norm of the gradient is {said} {where}")

    def on_epoch_end(self, epoch, logs=None):
        self._done = 0
        # The last update of an epoch is judged by no loss before it is saved.
        for name, variable in weights.named_variables(self._network).items():
            if not np.all(np.isfinite(variable.numpy())):
                self._stop(f"{name} is not finite after the last step of epoch {epoch + 1}")

    def _stop(self, what: str) -> NoReturn:
        raise NonFiniteError(f"{self._stage}: {what}; {self._advice}")


class CollapseGuard(keras.callbacks.Callback):
    """Notices catastrophic overfitting: a network robust to FGSM and to nothing else.

    Wong et al. 2020 (arXiv 2001.03994, section 5.4): within an epoch the accuracy of a one-step
    training under PGD may fall to 0 while that under FGSM rises. Looked at after each epoch,
    on the validation images: FGSM at the radius of training beside the validation attack. A
    training that has gone back, or comes from a phase of another kind, recovers over some epochs:
    while the accuracy under the validation attack rises from epoch to epoch, it has not collapsed.
    With the most steps it goes on whatever is seen: that is no one-step training any more.

    Attributes:
      collapsed: whether the last epoch is one; ``None`` before the first. An epoch of a phase of
        another kind is none: natural training leads to networks that look alike.

    Args:
      stage: name used in what is said.
      images: how many validation images are used.
      stop: raise instead of telling.
      announce: told of it, in one line, the first time.
      one_step: whether an epoch, counted from 0, is of one-step training.

    Raises:
      CollapseError: it happened, and ``stop``.
    """

    def __init__(
        self,
        stage: str,
        images: int,
        stop: bool,
        announce: Callable[[str], None],
        one_step: Callable[[int], bool] = lambda epoch: True,
    ):
        super().__init__()
        self._one_step = one_step
        self._stage = stage
        self._images = images
        self._stop = stop
        self._announce = announce
        self._told = False
        self.collapsed: bool | None = None
        self.go_on(Position())

    def go_on(self, position: Position) -> None:
        """What is judged from now on comes after ``position``."""
        self._gone_back = position.overfit_rollbacks > 0
        self._most = position.overfit_rollbacks >= MOST_ROLLBACKS
        last = position.rows[-1] if position.rows else {}
        raw = last.get("raw_robust")  # of averaged weights' trainings
        self._robust = (last.get("validation_robust") if raw is None else raw) or 0.0

    def on_epoch_end(self, epoch, logs=None):
        fgsm, robust = float(logs["val_fgsm"]), float(logs["val_robust"])
        from_elsewhere = self._gone_back or not all(map(self._one_step, range(epoch)))
        recovers = from_elsewhere and robust > self._robust
        collapsed = has_collapsed(fgsm, robust, self._images) and not recovers
        self.collapsed = collapsed and self._one_step(epoch)
        self._robust = robust
        if not self.collapsed:
            return
        text = (
            f"{self._stage}: catastrophic overfitting in epoch {epoch + 1}: {fgsm:.1%} of the "
            f"validation images withstand FGSM, {robust:.1%} the validation attack"
        )
        if self._stop and not self._most:
            raise CollapseError(text)
        if not self._told:
            remedy = "; --on_overfit=rollback goes back and on against more steps"
            self._announce(f"warning: {text}{'' if self._most else remedy}")
            self._told = True


def has_collapsed(fgsm: float, robust: float, images: int) -> bool:
    """Whether accuracy under FGSM says nothing of that under a stronger attack.

    At most a quarter of what withstands FGSM withstands the other attack, and the difference is
    0.1 or more and clearly more than so few images may show by chance.

    Args:
      fgsm, robust: accuracies in [0, 1] on the same images.
      images: how many.
    """
    return robust <= fgsm / 4 and fgsm - robust >= max(0.1, 2 / math.sqrt(images))


def all_finite(network: keras.Model) -> bool:
    """Whether every variable of a bare network is free of NaN and infinity."""
    return all(np.all(np.isfinite(value)) for value in weights.get_weights(network).values())


def trained_epochs(rows: list[dict]) -> list[tuple[int, int]]:
    """Each epoch that was trained, from 0, and how often it had gone back from overfitting then.

    Those that were undone are among them: one each time, the one that is counted once more.
    """
    kept = [row.get("overfit_rollbacks", 0) for row in rows]
    undone = [
        (next(epoch for epoch, times in enumerate(kept) if times > before), before)
        for before in range(kept[-1] if kept else 0)
    ]
    return [*enumerate(kept), *undone]


def collapsed_epochs(rows: list[dict]) -> list[int]:
    """The epochs of a history that ``CollapseGuard`` found catastrophically overfitted."""
    return [row["epoch"] for row in rows if row.get("collapsed")]
