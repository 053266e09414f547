"""Keras ``fit`` from anywhere in a training to its end, also after going back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tf_lottery.errors import CollapseError, NonFiniteError
from tf_lottery.interruption import Terminated
from tf_lottery.keras import keras
from tf_lottery.options.settings import TrainConfig
from tf_lottery.training import callbacks, checkpoints
from tf_lottery.training.checkpoints import Position

MOST_ROLLBACKS = 3


def goes_back(config: TrainConfig) -> bool:
    """Whether a training may go back to an earlier checkpoint."""
    return "rollback" in (config.on_nan, config.on_overfit)


@dataclasses.dataclass
class Fitting:
    """What carries a training on from a position.

    Attributes:
      model: compiled.
      config: epochs, patience, what to do about bad numbers.
      steps: of the optimizer, an epoch.
      batches: gives, for a first epoch, steps of it to leave out and the epoch to end before,
        the training batches and the arguments of ``fit`` that are about validation.
      used: callbacks of every ``fit``.
      history: one of them.
      saving: one of them; ``None`` where nothing is saved.
      return_to: restores a position, in all that has a state; ``None`` likewise.
      directory: where ``saving`` saves.
      verbose: of ``fit``.
      announce: told, in one line, of going back.
    """

    model: keras.Model
    config: TrainConfig
    steps: int
    batches: Callable[[int, int, int], tuple[Any, dict[str, Any]]]
    used: Sequence[keras.callbacks.Callback]
    history: callbacks.History
    saving: callbacks.Checkpoint | None
    return_to: Callable[[Position], None] | None
    directory: Path | None
    verbose: int
    announce: Callable[[str], None]

    def finish(self, position: Position) -> None:
        """Trains to the end; an interruption within an epoch saves first.

        Raises:
          NonFiniteError, CollapseError: nothing to go back to, or it did not help.
        """
        try:
            while not self._done(position):
                try:
                    position = self._fit(position)
                except (NonFiniteError, CollapseError) as error:
                    position = self._go_back(position, error)
        except (KeyboardInterrupt, Terminated):
            if self.saving is not None:
                self.saving.save_within_epoch()
            raise

    def _done(self, position: Position) -> bool:
        # A process may have died right after the epoch that decided to stop.
        return position.epoch >= self.config.epochs or callbacks.stopped_early(
            self.history.rows, self.config.patience
        )

    def _fit(self, position: Position) -> Position:
        """To the end of an epoch that is under way, or else of all."""
        end = position.epoch + 1 if position.step else self.config.epochs
        training, validation = self.batches(position.epoch, position.step, end)
        self.model.fit(
            training,
            epochs=end,
            initial_epoch=position.epoch,
            steps_per_epoch=self.steps - position.step,
            **validation,
            callbacks=list(self.used),
            verbose=self.verbose,
        )
        return Position(end, rollbacks=position.rollbacks)

    def _go_back(self, position: Position, error: NonFiniteError | CollapseError) -> Position:
        overfit = isinstance(error, CollapseError)
        chosen = self.config.on_overfit if overfit else self.config.on_nan
        found = checkpoints.between_epochs(self.directory) if self.directory else None
        if found is None:
            raise error
        if chosen != "rollback" or position.rollbacks >= MOST_ROLLBACKS:
            flag = "" if overfit else "; --on_nan=rollback goes on from there at half the rate"
            if chosen == "rollback":
                flag = f", after {position.rollbacks} rollbacks"
            raise type(error)(f"{error}; the checkpoint of {found.words()} is kept{flag}") from None
        assert self.return_to is not None
        assert self.saving is not None
        found = dataclasses.replace(found, rollbacks=position.rollbacks + 1)
        self.announce(
            f"{error}; going back to {found.words()} and on at half the rate "
            f"(rollback {found.rollbacks} of {MOST_ROLLBACKS})"
        )
        self.return_to(found)
        self.saving.save(found.epoch)  # a process that takes over knows of it
        return found
