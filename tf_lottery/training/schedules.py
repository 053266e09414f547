"""Learning rates, as a table with one entry per optimizer step.

The table is made in NumPy, where it is easy to test and to plot; on the device
a rate is one lookup.
"""

from __future__ import annotations

import numpy as np

from tf_lottery.keras import keras, tf
from tf_lottery.options.settings import ScheduleConfig

_TOP = {"cyclic": 0.4, "triangular": 0.5}  # share of the steps before the peak


def learning_rates(config: ScheduleConfig, epochs: int, steps_per_epoch: int) -> np.ndarray:
    """The rate at every step of a run.

    - ``step``: the peak, x0.1 at each of ``config.drops``, constant within an epoch; by
      default at half and at three quarters of the epochs (arXiv 2003.05733, section 4).
    - ``cyclic``: linear up over the first 40 % of the steps, linear down to 0 (the code of
      Rice et al. 2020, arXiv 2002.11569, there ``superconverge``).
    - ``triangular``: linear up over the first half of the steps, linear down to 0 (the CIFAR-10
      code of Wong et al. 2020, arXiv 2001.03994, there ``cyclic``: 15 epochs, peak 0.2).
    - ``one_cycle``: half a cosine from peak/25 up to the peak over the first 30 % of the steps,
      half a cosine down to peak/250,000: PyTorch's ``OneCycleLR`` with its defaults, after
      Smith & Topin 2017 (arXiv 1708.07120), who go up and down linearly in equal times. The
      momentum, which both move against the rate, stays as it is here.
    - ``cosine``: half a cosine from the peak to 0 (Loshchilov & Hutter 2017).
    - ``constant``: the peak.

    ``step``, ``cosine`` and ``constant`` warm up first: epoch e < warmup_epochs runs at
    start + (peak - start) * e / warmup_epochs (``step``, ``constant``: in the
    paper's stairs of whole epochs; ``cosine``: multiplied by that share). A drop of
    the ``step`` schedule ends the warm-up.

    Returns:
      float32 (epochs * steps_per_epoch,).
    """
    steps = np.arange(epochs * steps_per_epoch)
    epoch = steps // steps_per_epoch
    done = steps / len(steps)
    rate = np.full(len(steps), config.peak)
    if config.name in _TOP:
        top = _TOP[config.name]
        return np.interp(done, [0, top, 1], [0, config.peak, 0]).astype(np.float32)
    if config.name == "one_cycle":
        return _one_cycle(steps, config.peak).astype(np.float32)
    if config.name == "cosine":
        rate = config.peak * 0.5 * (1 + np.cos(np.pi * done))
    if config.warmup_epochs:
        start = config.warmup_start / config.peak
        climb = start + (1 - start) * np.minimum(1, epoch / config.warmup_epochs)
        rate = rate * climb
    if config.name == "step":
        share = epoch / epochs
        for number, drop in enumerate(config.drops, 1):
            rate = np.where(share >= drop, config.peak * 10.0**-number, rate)
    return rate.astype(np.float32)


def _one_cycle(steps: np.ndarray, peak: float) -> np.ndarray:
    """``steps`` count from 0; the first is at the start rate, the last at the end's."""
    last = len(steps) - 1
    top = 0.3 * len(steps) - 1  # need not be a step
    start, end = peak / 25, peak / 25e4
    up = peak + (start - peak) * _falling(steps / top)
    down = end + (peak - end) * _falling((steps - top) / (last - top))
    return np.where(steps <= top, up, down)


def _falling(done: np.ndarray) -> np.ndarray:
    """Half a cosine from 1 to 0 while ``done`` goes from 0 to 1."""
    return 0.5 * (1 + np.cos(np.pi * done))


def rate_factor(rollbacks: int) -> float:
    """On all rates of a training that went back so often: a half each time."""
    return 0.5**rollbacks


class RateTable(keras.optimizers.schedules.LearningRateSchedule):
    """A learning-rate schedule that reads step i's rate from a table.

    Attributes:
      factor: variable that multiplies all of them; 1 at first.
    """

    def __init__(self, rates: np.ndarray):
        self.rates = np.asarray(rates, np.float32)
        self.factor = tf.Variable(1.0, trainable=False, name="rate_factor")

    def __call__(self, step):
        last = len(self.rates) - 1
        rate = tf.gather(self.rates, tf.minimum(tf.cast(step, tf.int32), last))
        return rate * tf.cast(self.factor, rate.dtype)

    def get_config(self):
        return {"rates": self.rates.tolist()}
