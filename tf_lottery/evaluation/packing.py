"""Attacks on many examples: those that break leave, the rest is packed into full batches.

The graph of an attack is traced once, for any batch size; the batches that run have
few sizes, so that nothing is compiled or tuned over and over: full ones and, for the
rest, the next of size/2, size/4 ....
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tf_lottery.attacks import make_procedure
from tf_lottery.keras import tf
from tf_lottery.options.checks import at_least
from tf_lottery.options.settings import AttackConfig
from tf_lottery.type_aliases import LogitsFn

_SMALLEST = 8  # images; below it a batch costs about as much as this one
_POOL_BYTES = 2**28  # of attack state kept at a time, unless a single batch needs more
_POOL_BATCHES = 8  # under way at a time: what a kill can cost is a few iterations of these
_TOLERANCE = 1e-5  # on lengths and pixels, of float32 sums over an image


@dataclass
class Passes:
    """Images passed through the network, and the wall time of it."""

    seconds: float = 0.0
    forward_passes: int = 0
    input_gradient_passes: int = 0

    def count(self, images: int, forward: int, gradient: int) -> None:
        """Adds passes of ``images`` images each."""
        self.forward_passes += images * forward
        self.input_gradient_passes += images * gradient


@dataclass
class Cursor:
    """Where an attack stands, between two iterations.

    Attributes:
      pool: first of the examples (in the order of those it began with) under way.
      size: how many these are; 0 before they are chosen. Kept, because another batch
        size after an interruption must not change who has had which tries.
      attempt: number of the try.
      first: the next iteration; 0 with an empty ``state`` means that the try has not begun.
      began_with: int (k,), the examples that stood when the attack began.
      active: int (a,), those still in this try.
      state: arrays of the attack, one row for each of ``active``.
    """

    began_with: np.ndarray
    pool: int = 0
    attempt: int = 0
    first: int = 0
    active: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    state: dict[str, np.ndarray] = field(default_factory=dict)
    size: int = 0


@dataclass
class Verdicts:
    """What an attack did to each of n examples.

    Attributes:
      standing: bool (n,), right clean and not broken.
      prediction: int32 (n,), the class of the attacked image; of the clean one where
        it is wrong already, and the label where the example stands.
      distance: float32 (n,), length of the perturbation that broke it; 0 where the
        clean image is wrong, NaN where it stands.
      broken_by: int8 (n,), number of the part of the suite; -1 where none did.
    """

    standing: np.ndarray
    prediction: np.ndarray
    distance: np.ndarray
    broken_by: np.ndarray

    @classmethod
    def before(cls, clean_prediction: np.ndarray, labels: np.ndarray) -> Verdicts:
        """Nothing attacked yet: clean errors are down."""
        right = clean_prediction == labels
        return cls(
            right,
            clean_prediction.astype(np.int32).copy(),
            np.where(right, np.nan, 0).astype(np.float32),
            np.full(len(labels), -1, np.int8),
        )


class PackedAttack:
    """One attack (no suite), compiled for one network and image shape.

    Args:
      config: settings.
      freeze: makes the network's function; called in each graph, with the weights as they are.
      image_shape: (height, width, channels).
      classes: number of logits.
      batch_size: of a full batch.
      jit_compile: XLA.
    """

    def __init__(
        self,
        config: AttackConfig,
        freeze: Callable[[], LogitsFn],
        image_shape: tuple[int, ...],
        classes: int,
        batch_size: int,
        jit_compile: bool = False,
    ):
        self.config = config
        self._batch_size = batch_size
        self._procedure = procedure = make_procedure(config)
        self._tries = procedure.tries(classes)
        images = tf.TensorSpec([None, *image_shape], tf.float32)
        labels = tf.TensorSpec([None], tf.int32)
        seeds = tf.TensorSpec([None, 2], tf.int32)
        number = tf.TensorSpec([], tf.int32)
        examples = [images, labels, seeds]

        def start(x, y, seeds, attempt):
            return procedure.start(freeze(), x, y, seeds, attempt)

        self._start = tf.function(
            start, input_signature=[*examples, number], jit_compile=jit_compile
        )
        outputs = self._start.get_concrete_function().structured_outputs
        state_spec = {
            name: tf.TensorSpec([None, *output.shape[1:]], output.dtype)
            for name, output in outputs.items()
        }
        self._row_bytes = sum(
            int(np.prod(spec.shape[1:])) * spec.dtype.size for spec in state_spec.values()
        )

        def advance(x, y, seeds, attempt, state, first, last):
            return procedure.advance(freeze(), x, y, seeds, attempt, state, first, last)

        self._advance = tf.function(
            advance,
            input_signature=[*examples, number, state_spec, number, number],
            jit_compile=jit_compile,
        )

        def end(x, y, state):
            return procedure.end(freeze(), x, y, state)

        self._end = None
        if procedure.end_cost != (0, 0):
            self._end = tf.function(
                end, input_signature=[images, labels, state_spec], jit_compile=jit_compile
            )

    @property
    def iterations(self) -> int:
        """Of all tries, for one pool of examples."""
        return self._tries * self._procedure.length

    def pool_size(self) -> int:
        """Examples under way at a time, a whole number of batches."""
        batches = _POOL_BYTES // (max(self._row_bytes, 1) * self._batch_size)
        return self._batch_size * min(max(1, batches), _POOL_BATCHES)

    def run(
        self,
        x: np.ndarray,
        y: np.ndarray,
        seed: int,
        verdicts: Verdicts,
        part: int,
        cursor: Cursor,
        passes: Passes,
        judge: Callable[[np.ndarray], np.ndarray],
        between: Callable[[Cursor, int], None] = lambda cursor, iterations: None,
    ) -> None:
        """Attacks what stands; fills in ``verdicts`` and ``passes``.

        Args:
          x: all images, float32 in [0, 1] or uint8.
          y: all labels, int32.
          seed: of random numbers, which are keyed by (seed, position in x).
          verdicts: of this attack so far.
          part: this attack's number in its suite.
          cursor: where to begin; kept up to date.
          passes: added to.
          judge: images -> predictions, by the code that judges clean images.
          between: called between iterations, with the number done in this pool.

        Raises:
          ValueError: the attack left the ball or the box (a defect of the attack).
        """
        if self.config.eps == 0:
            return
        length = self._procedure.length
        while cursor.pool < len(cursor.began_with):
            cursor.size = cursor.size or self.pool_size()
            pool = cursor.began_with[cursor.pool : cursor.pool + cursor.size]
            while cursor.attempt < self._tries:
                began = time.perf_counter()
                if not cursor.state:
                    cursor.active = pool[verdicts.standing[pool]]
                    if len(cursor.active):
                        cursor.state = self._in_batches(x, y, seed, cursor, "start", passes)
                    self._sort_out(x, y, verdicts, part, cursor, judge, passes)
                while cursor.first < length and len(cursor.active):
                    last = self._procedure.stop_after(cursor.first)
                    cursor.state = self._in_batches(x, y, seed, cursor, last, passes)
                    cursor.first = last
                    if last == length and self._end is not None:
                        cursor.state = self._in_batches(x, y, seed, cursor, "end", passes)
                    self._sort_out(x, y, verdicts, part, cursor, judge, passes)
                    passes.seconds += time.perf_counter() - began
                    began = time.perf_counter()
                    if cursor.first < length:
                        between(cursor, cursor.attempt * length + cursor.first)
                passes.seconds += time.perf_counter() - began
                cursor.attempt, cursor.first, cursor.state = cursor.attempt + 1, 0, {}
                if not verdicts.standing[pool].any():
                    cursor.attempt = self._tries
                between(cursor, cursor.attempt * length)
            cursor.pool, cursor.attempt, cursor.size = cursor.pool + cursor.size, 0, 0

    def _in_batches(
        self, x, y, seed: int, cursor: Cursor, to: int | str, passes: Passes
    ) -> dict[str, np.ndarray]:
        """The new state of the active examples: started, advanced to iteration ``to``, ended."""
        found: list[dict[str, np.ndarray]] = []
        for rows, padded in packed(len(cursor.active), self._batch_size):
            index = cursor.active[rows]
            fill = padded - len(index)
            examples = _padded(index, fill)
            images, labels = unit_pixels(x[examples]), y[examples].astype(np.int32)
            state = {name: _padded(value[rows], fill) for name, value in cursor.state.items()}
            seeds = np.stack([np.full(padded, seed), examples], axis=1).astype(np.int32)
            attempt = np.int32(cursor.attempt)
            if to == "start":
                result = self._start(images, labels, seeds, attempt)
                passes.count(len(index), *self._procedure.start_cost)
            elif to == "end":
                assert self._end is not None
                result = self._end(images, labels, state)
                passes.count(len(index), *self._procedure.end_cost)
            else:
                first, last = np.int32(cursor.first), np.int32(to)
                done, result = self._advance(images, labels, seeds, attempt, state, first, last)
                forward, gradient = self._procedure.step_cost
                steps = int(done) - cursor.first
                passes.count(len(index), steps * forward, steps * gradient)
            found.append({name: value.numpy()[: len(index)] for name, value in result.items()})
        return {name: np.concatenate([part[name] for part in found]) for name in found[0]}

    def _sort_out(
        self, x, y, verdicts: Verdicts, part: int, cursor: Cursor, judge, passes: Passes
    ) -> None:
        """Takes the broken examples out of the cursor, once ``judge`` agrees."""
        if not cursor.state or not cursor.state["broken"].any():
            return
        broken = np.flatnonzero(cursor.state["broken"])
        index = cursor.active[broken]
        x_adv = cursor.state["x_adv"][broken]
        predicted = judge(x_adv)
        passes.count(len(index), 1, 0)
        distance = self._distances(x_adv, unit_pixels(x[index]))
        # The attack's word is not enough: a network with random layers, or rounding in
        # a batch of another size, may disagree.
        agreed = predicted != y[index]
        down = index[agreed]
        verdicts.standing[down] = False
        verdicts.prediction[down] = predicted[agreed]
        verdicts.distance[down] = distance[agreed]
        verdicts.broken_by[down] = part
        cursor.state["broken"][broken] = False
        stays = np.ones(len(cursor.active), bool)
        stays[broken[agreed]] = False
        cursor.active = cursor.active[stays]
        cursor.state = {name: value[stays] for name, value in cursor.state.items()}

    def _distances(self, x_adv: np.ndarray, x: np.ndarray) -> np.ndarray:
        delta = (x_adv - x).reshape(len(x), -1)
        order = np.inf if self.config.norm == "linf" else 2
        distance = np.linalg.norm(delta, ord=order, axis=1)
        low, high = x_adv.min(), x_adv.max()
        if distance.max() > self.config.eps + _TOLERANCE or low < -_TOLERANCE or high > 1.00001:
            raise ValueError(
                f"{self.config.name} left the allowed set: a perturbation of length "
                f"{distance.max():.6g} for eps {self.config.eps:.6g}, pixels in "
                f"[{low:.6g}, {high:.6g}]"
            )
        return distance.astype(np.float32)


def packed(count: int, batch_size: int) -> Iterator[tuple[slice, int]]:
    """Batches for ``count`` examples: which rows, and the size to pad them to.

    Example:
      >>> [(rows.start, rows.stop, size) for rows, size in packed(70, 32)]
      [(0, 32, 32), (32, 64, 32), (64, 70, 8)]

    Raises:
      UsageError: ``batch_size`` is below 1.
    """
    at_least(1)("batch_size", batch_size)
    full = count - count % batch_size
    for start in range(0, full, batch_size):
        yield slice(start, start + batch_size), batch_size
    rest = count - full
    if rest:
        size = batch_size
        while size // 2 >= max(rest, _SMALLEST):
            size //= 2
        yield slice(full, count), size


def unit_pixels(images: np.ndarray) -> np.ndarray:
    """uint8 or float images as float32 in [0, 1]."""
    if images.dtype == np.uint8:
        return images.astype(np.float32) / np.float32(255)
    return images.astype(np.float32)


def _padded(rows: Any, fill: int) -> np.ndarray:
    """``rows`` and ``fill`` repetitions of the last."""
    return np.concatenate([rows, np.repeat(rows[-1:], fill, axis=0)]) if fill else rows
