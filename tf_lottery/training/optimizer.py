"""The optimizer of a training run."""

from __future__ import annotations

from tf_lottery.keras import keras, tf
from tf_lottery.options.settings import TrainConfig
from tf_lottery.training.schedules import RateTable, learning_rates


class _SGD(keras.optimizers.SGD):
    """Decays the momentum of a variable when its gradient is there.

    Nothing else makes that product wait: all of them would be computed as a step begins, and
    held while it is at its peak of memory.
    """

    def update_step(self, gradient, variable):
        with tf.control_dependencies([gradient]):
            super().update_step(gradient, variable)


def make_optimizer(
    config: TrainConfig, steps: int, table: RateTable | None = None
) -> keras.optimizers.Optimizer:
    """SGD with momentum over the config's rate table; loss-scaled for ``mixed_float16``.

    Weight decay is not here: ``LotteryModel`` adds it to the gradients.

    Args:
      config: schedule and momentum.
      steps: an epoch.
      table: of the rates; made if it is not given.
    """
    if table is None:
        table = RateTable(learning_rates(config.schedule, config.epochs, steps))
    optimizer = _SGD(table, momentum=config.momentum)
    if config.dtype_policy == "mixed_float16":
        optimizer = keras.mixed_precision.LossScaleOptimizer(optimizer)
    return optimizer
