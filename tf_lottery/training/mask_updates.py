"""Masks that change while a network is trained: dynamic sparsity.

Between two steps a function gives new masks. What they prune is 0 from there on, in the
optimizer too; what they bring back starts at 0, with nothing in the optimizer. References:
RigL (Evci et al. 2020, arXiv 1911.11134), Flying Bird (Chen et al. 2022, arXiv 2202.09844).

>>> def drop_and_grow(step, kernels, masks, gradients):
...     '''In each layer the smallest third, for as many with the largest gradients.'''
...     for name, mask in masks.items():
...         left, free = np.flatnonzero(mask), np.flatnonzero(~mask)
...         count = min(len(left) // 3, len(free))
...         smallest = np.argsort(np.abs(kernels[name].ravel()[left]))[:count]
...         largest = np.argsort(-np.abs(gradients[name].ravel()[free]))[:count]
...         mask.reshape(-1)[left[smallest]] = False
...         mask.reshape(-1)[free[largest]] = True
...     return masks
>>> rigl = MaskUpdate(drop_and_grow, at=lambda step: step % 100 == 0, gradients=True)
>>> kernels, gradients = np.array([3.0, -1.0, 2.0, 0.0]), np.array([0.1, 0.0, 0.1, 0.4])
>>> masks = {"logits": np.array([True, True, True, False])}
>>> rigl.function(0, {"logits": kernels}, masks, {"logits": gradients})["logits"].tolist()
[True, False, True, True]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tf_lottery.keras import keras, tf
from tf_lottery.pruning.masks import MaskedNetwork
from tf_lottery.training.checkpoints import Position
from tf_lottery.type_aliases import NamedArrays


@dataclass(frozen=True)
class MaskUpdate:
    """When masks change, and to what.

    Attributes:
      function: (step, kernels, masks, gradients) -> masks. ``step`` counts the steps done, over
        all epochs; the others are by layer name, of the kernels' shapes: float32 kernels,
        boolean masks, and float32 gradients or ``None``. It must give the same for the same
        arguments, or a resumed training ends otherwise than an uninterrupted one: random
        numbers are keyed by ``step``.
      at: whether it is called when so many steps are done, right before the next one; not
        after the last of all.
      gradients: it wants the gradients of the loss with respect to the kernels, pruned weights
        too, without weight decay, on the batch of the next step: a step's passes each time.
      same_count: it must leave as many weights as there were.
      history: it wants, as a fifth argument, the history's rows of the finished epochs, see
        ``callbacks.History``, with ``validation_loss``. They survive a resumption; what is
        measured in seconds does not come out the same.
    """

    function: Callable[..., Mapping[str, np.ndarray]]
    at: Callable[[int], bool]
    gradients: bool = False
    same_count: bool = True
    history: bool = False


class UpdateMasks(keras.callbacks.Callback):
    """Changes the masks of a network that one device trains.

    A filter that comes back to life starts with a BatchNorm scale of 1 and shift of 0.

    Attributes:
      under_way: masks have changed, and the step after it is not done: not a place to go on
        from, where they would change again.

    Args:
      update: when, and to what.
      masked: that is trained.
      steps_per_epoch: optimizer steps.
      next_batch: epoch, and steps of it that are done -> the batch of the next one.
      rows: the history's, so far.

    Raises:
      DeadLayerError: a layer is left without a weight.
      ValueError: masks of another network, or of more or fewer weights than before.
    """

    def __init__(
        self,
        update: MaskUpdate,
        masked: MaskedNetwork,
        steps_per_epoch: int,
        next_batch: Callable[[int, int], dict],
        rows: Callable[[], list[dict]],
    ):
        super().__init__()
        self._update = update
        self._masked = masked
        self._steps_per_epoch = steps_per_epoch
        self._next_batch = next_batch
        self._rows = rows
        self._gradients_of: Any = None  # made when first needed
        self.under_way = False

    def go_on(self, position: Position) -> None:
        """Checkpoints hold masks, but not what follows from them."""
        self._first = position.step
        self.under_way = False
        if position.begun or position.rollbacks:
            self._masked.set_masks(self._masked.get_masks())

    def on_train_begin(self, logs=None):
        self._gradients_of = None  # the objective may be another one now

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        done = self._first + batch
        step = self._epoch * self._steps_per_epoch + done
        if self._update.at(step):
            self.under_way = True
            self._set(self._new_masks(step, done))

    def on_train_batch_end(self, batch, logs=None):
        self.under_way = False

    def on_epoch_end(self, epoch, logs=None):
        self._first = 0

    def _new_masks(self, step: int, done: int) -> NamedArrays:
        masks = self._masked.get_masks()
        before = sum(int(mask.sum()) for mask in masks.values())
        kernels = {name: kernel.numpy() for name, kernel in self._masked.kernels.items()}
        gradients = self._gradients(done) if self._update.gradients else None
        told = (self._rows(),) if self._update.history else ()
        found = self._update.function(step, kernels, masks, gradients, *told)
        new = {name: np.asarray(mask, bool) for name, mask in found.items()}
        after = sum(int(mask.sum()) for mask in new.values())
        if self._update.same_count and after != before:
            raise ValueError(f"mask update at step {step}: {after} weights left, not {before}")
        return new

    def _set(self, masks: NamedArrays) -> None:
        variables, factors = self._masked.network.trainable_variables, self._masked.multipliers()
        before = [None if factor is None else factor.numpy() for factor in factors]
        self._masked.set_masks(masks)
        slots: dict[str, list[tf.Variable]] = {}
        for slot in self.model.optimizer.variables:  # named by kind and variable
            slots.setdefault(slot.name.partition("/")[2], []).append(slot)
        scales = {
            id(factor) for (_, part), factor in self._masked.filters.items() if part == "gamma"
        }
        for variable, old, factor in zip(variables, before, factors, strict=True):
            if factor is None:
                continue
            for slot in slots.get(variable.name, ()):
                slot.assign(slot * old * factor)
            if id(factor) in scales:
                variable.assign(tf.where(factor > old, 1.0, variable))

    def _gradients(self, done: int) -> NamedArrays:
        network, model = self._masked.network, self.model
        if self._gradients_of is None:
            self._gradients_of = tf.function(
                lambda batch: model.loss_and_gradients(batch)[-1], jit_compile=model.jit_compile
            )
        averages = [(average, average.numpy()) for average in network.non_trainable_variables]
        gradients = self._gradients_of(self._next_batch(self._epoch, done))
        for average, value in averages:  # the step itself is to move them
            average.assign(value)
        pairs = zip(network.trainable_variables, gradients, strict=True)
        by_id = {id(variable): gradient.numpy() for variable, gradient in pairs}
        return {name: by_id[id(kernel)] for name, kernel in self._masked.kernels.items()}
