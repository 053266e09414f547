"""Attacks without gradients: Square, a random search, and plain noise as a control.

Square: Andriushchenko, Croce, Flammarion & Hein 2020, "Square Attack: a query-efficient
black-box adversarial attack via random search", arXiv 1912.00049, on the margin loss.
Each query changes one square window of the image and is kept if the margin rises.
"""

from __future__ import annotations

import numpy as np

from tf_lottery.attacks.losses import margin
from tf_lottery.attacks.norms import direction, project
from tf_lottery.attacks.procedure import Procedure, State, is_wrong
from tf_lottery.attacks.seeds import random_bits, uniform, uniform_in_ball
from tf_lottery.keras import tf
from tf_lottery.type_aliases import Tensor

_SHARE = 0.8  # of the pixels that the first windows cover
# The share is halved after each of these queries, of 10,000 (section 5 of the paper).
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_BLOCK = 50  # queries whose random numbers are drawn at once
_TINY = 1e-12


class Noise(Procedure):
    """The worst of ``steps`` uniformly random points of the ball."""

    step_cost = (1, 0)

    def start(self, logits_fn, x, y, seeds, attempt):
        """See ``Procedure``."""
        return {
            "x_adv": x,
            "broken": tf.zeros_like(y, tf.bool),
            "score": tf.fill(tf.shape(y), -float("inf")),
        }

    def step(self, logits_fn, x, y, seeds, attempt, state, i):
        """See ``Procedure``."""
        eps, norm = self.config.eps, self.config.norm
        noise = uniform_in_ball(seeds, self.salt(attempt) + i, tf.shape(x)[1:], eps, norm)
        return _keep_better(logits_fn, y, state, project(x + noise, x, eps, norm))


class Square(Procedure):
    """Square in l_inf or l_2; ``steps`` queries after that of the first image."""

    start_cost = (1, 0)
    step_cost = (1, 0)

    def stop_after(self, first: int) -> int:
        """Often at first, when the windows are large and most breaks."""
        return min(self.length, first + (10 if first < 50 else 50 if first < 500 else 100))

    def start(self, logits_fn, x, y, seeds, attempt):
        """See ``Procedure``."""
        height, width, channels = x.shape[1:]
        if self.config.norm == "linf":
            # Vertical stripes: one sign for each column and channel.
            signs = _signs(random_bits(seeds, self._salt(attempt, -1), [1, width, channels]))
            first = x + self.config.eps * signs
        else:
            first = x + self.config.eps * direction(
                self._tiles(seeds, attempt, height, width, channels), "l2"
            )
        first = tf.ensure_shape(project(first, x, self.config.eps, self.config.norm), x.shape)
        state = {
            "x_adv": x,
            "broken": tf.zeros_like(y, tf.bool),
            "score": tf.fill(tf.shape(y), -float("inf")),
        }
        bits = tf.zeros([tf.shape(y)[0], _BLOCK, self._numbers(channels)], tf.int32)
        return _keep_better(logits_fn, y, state, first) | {"bits": bits}

    def step(self, logits_fn, x, y, seeds, attempt, state, i):
        """See ``Procedure``."""
        height, width, channels = x.shape[1:]
        sides = window_sides(self.length, height, width, self.config.norm)
        side = tf.constant(sides)[i]
        place = i % _BLOCK

        def draw():
            shape = [_BLOCK, self._numbers(channels)]
            return random_bits(seeds, self._salt(attempt, i // _BLOCK), shape)

        bits = tf.cond(place == 0, draw, lambda: state["bits"])
        numbers = bits[:, place]  # (batch, numbers)
        window = _window(numbers[:, 0:2], side, height, width)
        signs = _signs(numbers[:, 5:])[:, None, None, :]
        if self.config.norm == "linf":
            moved = state["x_adv"] + tf.where(window.mask, 2 * self.config.eps * signs, 0.0)
            moved = project(moved, x, self.config.eps, "linf")
        else:
            source = _window(numbers[:, 2:4], side, height, width)
            table, index = _patterns(sides)
            pattern = tf.constant(table)[tf.constant(index)[i]]
            pattern = window.place(pattern, numbers[:, 4] > 0) * signs
            moved = self._shift_mass(x, state["x_adv"] - x, window.mask, source.mask, pattern)
        return _keep_better(logits_fn, y, state, moved) | {"bits": bits}

    def _shift_mass(
        self, x: Tensor, delta: Tensor, window: Tensor, source: Tensor, pattern: Tensor
    ) -> Tensor:
        """l_2: moves the perturbation's mass in ``source`` to ``window``, with what is unspent.

        Args:
          x: clean images.
          delta: the perturbation so far.
          window, source: bool (batch, height, width, 1).
          pattern: of length 1 in each channel, inside ``window``.

        Returns:
          The new images, on the sphere before they are clipped to the box.
        """
        eps = self.config.eps
        spent = tf.reduce_sum(tf.square(delta), axis=(1, 2, 3), keepdims=True)
        both = tf.where(window | source, delta, 0.0)
        mass = tf.reduce_sum(tf.square(both), axis=(1, 2, 3), keepdims=True)
        inside = tf.where(window, delta, 0.0)
        new = pattern + inside / (_TINY + _plane_length(inside))
        size = tf.sqrt(tf.maximum(eps**2 - spent, 0.0) / x.shape[-1] + mass)
        new = new / (_TINY + _plane_length(new)) * size
        delta = tf.where(window, new, tf.where(source, 0.0, delta))
        return tf.clip_by_value(x + eps * direction(delta, "l2"), 0.0, 1.0)

    def _tiles(self, seeds: Tensor, attempt, height: int, width: int, channels: int) -> Tensor:
        """l_2: the first perturbation, a grid of 5 x 5 patterns with random signs."""
        side = max(height // 5, 1)
        rows, columns = height // side, width // side
        signs = _signs(random_bits(seeds, self._salt(attempt, -1), [rows, columns, channels]))
        signs = tf.repeat(tf.repeat(signs, side, axis=1), side, axis=2)
        tile = np.tile(pattern_of_side(side), (rows, columns))[None, :, :, None]
        top, left = (height - rows * side) // 2, (width - columns * side) // 2
        edges = (top, height - rows * side - top), (left, width - columns * side - left)
        return tf.pad(signs * tf.constant(tile), [(0, 0), *edges, (0, 0)])

    def _numbers(self, channels: int) -> int:
        """Random numbers a query takes: two corners, an orientation, signs."""
        return 5 + channels

    def _salt(self, attempt: Tensor | int, block: Tensor | int) -> Tensor | int:
        """Of a block of queries; -1 is the first image."""
        return self.salt(0) + attempt * 2**20 + block + 1


class _Window:
    """A square window in each image, whose side is the same in all."""

    def __init__(self, top: Tensor, left: Tensor, side: Tensor, height: int, width: int):
        self._rows = tf.range(height)[None, :] - top[:, None]  # (batch, height), 0 at the top
        self._columns = tf.range(width)[None, :] - left[:, None]
        self._side = side
        rows = (self._rows >= 0) & (self._rows < side)
        columns = (self._columns >= 0) & (self._columns < side)
        self.mask = (rows[:, :, None] & columns[:, None, :])[..., None]

    def place(self, pattern: Tensor, turned: Tensor) -> Tensor:
        """``pattern`` (>= side, >= side) in the window, 0 elsewhere; transposed where turned."""
        rows = tf.clip_by_value(self._rows, 0, self._side - 1)
        columns = tf.clip_by_value(self._columns, 0, self._side - 1)
        upright = tf.gather(tf.gather(pattern, rows), columns, axis=2, batch_dims=1)
        flat = tf.gather(tf.gather(tf.transpose(pattern), rows), columns, axis=2, batch_dims=1)
        placed = tf.where(turned[:, None, None], flat, upright)[..., None]
        return tf.where(self.mask, placed, 0.0)


def _window(corner_bits: Tensor, side: Tensor, height: int, width: int) -> _Window:
    top = _below(corner_bits[:, 0], height - side + 1)
    left = _below(corner_bits[:, 1], width - side + 1)
    return _Window(top, left, side, height, width)


def window_sides(queries: int, height: int, width: int, norm: str) -> np.ndarray:
    """int32 (queries,): the side of each query's window, in pixels.

    In l_2 it is odd and at least 3, as far as the image allows.

    Example:
      >>> [int(side) for side in window_sides(5000, 32, 32, "linf")[[0, 10, 1000, 4999]]]
      [29, 20, 5, 1]
    """
    done = (np.arange(queries) / queries * 10_000).astype(int)
    halved = (done[:, None] > np.array(_HALVINGS)).sum(axis=1)
    sides = np.round(np.sqrt(_SHARE / 2**halved * height * width)).astype(int)
    if norm == "l2":
        sides = np.maximum(sides, 3)
        sides += sides % 2 == 0
        largest = min(height, width)
        sides = np.minimum(sides, max(largest - (largest % 2 == 0), 1))
    return np.clip(sides, 1, min(height, width)).astype(np.int32)


def pattern_of_side(side: int) -> np.ndarray:
    """float32 (side, side) of length 1: two rectangular bumps of opposite sign.

    Section 4.2 of the paper: each half is a sum of ever larger centred rectangles,
    the k-th with weight 1 / k**2.
    """
    if side == 1:
        return np.ones((1, 1), np.float32)
    upper = _bump(side // 2, side)
    lower = _bump(side - side // 2, side)
    pattern = np.concatenate([upper, -lower])
    return (pattern / np.sqrt(np.sum(pattern**2))).astype(np.float32)


def _bump(rows: int, columns: int) -> np.ndarray:
    """One rectangular bump, of length 1."""
    bump = np.zeros((rows, columns))
    top, left = rows // 2, columns // 2
    for k in range(max(rows // 2, columns // 2) + 1):
        low, right = max(top - k, 0), max(left - k, 0)
        bump[low : top + k + 1, right : left + k + 1] += 1 / (k + 1) ** 2
    return bump / np.sqrt(np.sum(bump**2))


def _patterns(sides: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All patterns that occur, padded to one size, and which one each query uses."""
    distinct, index = np.unique(sides, return_inverse=True)
    largest = int(distinct[-1])
    table = np.zeros((len(distinct), largest, largest), np.float32)
    for pattern, side in zip(table, distinct, strict=True):
        pattern[:side, :side] = pattern_of_side(int(side))
    return table, index.astype(np.int32)


def _keep_better(logits_fn, y: Tensor, state: State, x_adv: Tensor) -> State:
    """The state with ``x_adv`` where it is misclassified or has the larger margin."""
    logits = logits_fn(x_adv)
    score, broken = margin(logits, y), is_wrong(logits, y)
    wins = (broken | (score > state["score"])) & ~state["broken"]
    return state | {
        "x_adv": tf.where(wins[:, None, None, None], x_adv, state["x_adv"]),
        "broken": broken | state["broken"],
        "score": tf.where(wins, score, state["score"]),
    }


def _plane_length(delta: Tensor) -> Tensor:
    """l_2 length of each channel of each image: (batch, 1, 1, channels)."""
    return tf.sqrt(tf.reduce_sum(tf.square(delta), axis=(1, 2), keepdims=True))


def _signs(bits: Tensor) -> Tensor:
    return tf.where(bits < 0, -1.0, 1.0)


def _below(bits: Tensor, bound: Tensor) -> Tensor:
    """Full-range int32 -> int32 in [0, bound)."""
    share = (uniform(bits) + 1) / 2
    drawn = tf.cast(share * tf.cast(bound, tf.float32), tf.int32)
    return tf.minimum(drawn, bound - 1)
