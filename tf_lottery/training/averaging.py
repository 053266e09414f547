"""The average of a network's weights over its training, as a network of its own.

After step t, counted from 1, with w the weights:

    average <- d * average + (1 - d) * w,    d = min(decay, (1 + t) / (10 + t))

Averages over a training generalise better than its last weights (Izmailov et al. 2018, arXiv
1803.05407), under attack too: Gowal et al. 2020 (arXiv 2010.03593) train with a decay of 0.995,
NuAT-WA (Sriramanan et al. 2021) with 0.9998. The bound on d is that of TensorFlow's
``ExponentialMovingAverage`` with ``num_updates``, which Gowal et al. use as well: the average
begins as about the last tenth of the steps, so that a short training is not mostly its
initialisation.

BatchNorm's moving statistics are averaged like the weights. The statistics that belong to an
average would take a pass over the training images (Izmailov et al.); those of the weights of
the moment, as in a port of Gowal et al.'s code, are of another network.

What is pruned is 0 in the average, and what comes back starts from 0 in it.
"""

from __future__ import annotations

from tf_lottery import weights
from tf_lottery.keras import keras, tf
from tf_lottery.pruning.masks import MaskedNetwork, wrap
from tf_lottery.training.distribution import Distribution
from tf_lottery.type_aliases import Tensor


class WeightAverage:
    """The average of what is trained.

    Attributes:
      network: float32; its variables are the averages, on the devices that train.
      plain: the network without devices, which is validated, kept and saved; for one device
        ``network`` itself.

    Args:
      decay: in (0, 1).
      masked: the training's network, whose weights are the first average.
      placed: the same on the devices.
      twin: float32 network of the same architecture; ``masked.network`` if it is float32.
      distribution: of the devices.
      masks_change: the masks do; otherwise zeros stay zeros by themselves.
    """

    def __init__(
        self,
        decay: float,
        masked: MaskedNetwork,
        placed: MaskedNetwork,
        twin: keras.Model,
        distribution: Distribution,
        masks_change: bool = False,
    ):
        self.plain = self.network = wrap(twin).network
        weights.set_weights(self.plain, weights.get_weights(masked.network))
        if placed is not masked:
            with distribution.scope():
                self.network = wrap(self.plain).network
        self._least = 1 - decay
        trained, averages = map(weights.named_variables, (placed.network, self.network))
        factors = {}
        if masks_change:
            pairs = zip(placed.network.trainable_variables, placed.multipliers(), strict=True)
            factors = {id(variable): factor for variable, factor in pairs}
        self._parts = [
            (trained[name], average, factors.get(id(trained[name])))
            for name, average in averages.items()
        ]

    def update(self, step: Tensor) -> None:
        """Moves the averages after an optimizer step; inside ``tf.function``, on every device.

        Args:
          step: how many are done.
        """
        # 1 - d, of which little would be left in float32.
        share = tf.maximum(self._least, 9 / (10 + tf.cast(step, tf.float32)))
        for variable, average, factor in self._parts:
            if not average.dtype.is_floating:
                average.assign(variable)
                continue
            moved = average - tf.cast(share, average.dtype) * (average - variable)
            average.assign(moved if factor is None else moved * factor)

    def resume(self, distribution: Distribution) -> None:
        """Brings what the chief has restored to all devices."""
        distribution.share(self.plain.variables)
        if self.network is not self.plain:
            weights.set_weights(self.network, weights.get_weights(self.plain))
