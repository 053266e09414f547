"""Learning rates, as a table with one entry per optimizer step.

The table is made in NumPy, where it is easy to test and to plot; on the device
a rate is one lookup.
"""

from __future__ import annotations

import numpy as np

from tf_lottery.keras import keras, tf
from tf_lottery.options.settings import ScheduleConfig


def learning_rates(config: ScheduleConfig, epochs: int, steps_per_epoch: int) -> np.ndarray:
    """The rate at every step of a run.

    - ``step``: the peak, x0.1 from half of the epochs and again from three quarters
      (arXiv 2003.05733, section 4), constant within an epoch.
    - ``cyclic``: linear up over the first 40 % of the steps, linear down to 0
      (Wong et al. 2020, "Fast is better than free").
    - ``cosine``: half a cosine from the peak to 0 (Loshchilov & Hutter 2017).
    - ``constant``: the peak.

    All but ``cyclic`` warm up first: epoch e < warmup_epochs runs at
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
    if config.name == "cyclic":
        return np.interp(done, [0, 0.4, 1], [0, config.peak, 0]).astype(np.float32)
    if config.name == "cosine":
        rate = config.peak * 0.5 * (1 + np.cos(np.pi * done))
    if config.warmup_epochs:
        start = config.warmup_start / config.peak
        climb = start + (1 - start) * np.minimum(1, epoch / config.warmup_epochs)
        rate = rate * climb
    if config.name == "step":
        share = epoch / epochs
        rate = np.where(share >= 0.5, config.peak * 0.1, rate)
        rate = np.where(share >= 0.75, config.peak * 0.01, rate)
    return rate.astype(np.float32)


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
