"""The pieces that the network families share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from tf_lottery.errors import UsageError
from tf_lottery.keras import keras
from tf_lottery.models.initializers import FanInNormal
from tf_lottery.options.settings import derive_seed
from tf_lottery.type_aliases import Tensor

_IMAGES = "channels_last"  # said to every layer that would ask ~/.keras/keras.json


@dataclass(frozen=True)
class Layers:
    """Adds named layers that share a seed, a dtype policy and a width multiplier.

    Widths (``filters``, ``units``) are given as in the paper and scaled here.

    Attributes:
      most_weights: that conv and dense layers may have together; ``None``: any number. They
        are counted before they are made.
    """

    seed: int
    dtype_policy: str = "float32"
    width_multiplier: float = 1.0
    most_weights: int | None = None
    _made: list[int] = field(default_factory=list)

    def _count(self, weights: int) -> None:
        self._made.append(weights)
        if self.most_weights is not None and sum(self._made) > self.most_weights:
            raise UsageError(f"the network has more than {self.most_weights:,} weights")

    def scaled(self, width: int) -> int:
        """The width after ``width_multiplier``: rounded (half to even), at least 1."""
        return max(1, round(width * self.width_multiplier))

    def conv(
        self,
        x: Tensor,
        filters: int,
        size: int,
        name: str,
        *,
        strides: int = 1,
        use_bias: bool = False,
    ) -> Tensor:
        """Convolution with He-normal kernel (fan in) and "same" padding.

        At stride 2 an even side is padded at its end only (TensorFlow), not on
        both sides (PyTorch): same sizes and counts, a window shifted by a pixel.
        """
        self._count(size * size * x.shape[-1] * self.scaled(filters))
        return keras.layers.Conv2D(
            self.scaled(filters),
            size,
            strides=strides,
            padding="same",
            data_format=_IMAGES,
            use_bias=use_bias,
            kernel_initializer=FanInNormal(derive_seed(self.seed, name)),
            dtype=self.dtype_policy,
            name=name,
        )(x)

    def dense(self, x: Tensor, units: int, name: str) -> Tensor:
        """Hidden dense layer with bias, He-normal kernel."""
        self._count(x.shape[-1] * self.scaled(units))
        return keras.layers.Dense(
            self.scaled(units),
            kernel_initializer=FanInNormal(derive_seed(self.seed, name)),
            dtype=self.dtype_policy,
            name=name,
        )(x)

    def batch_norm(self, x: Tensor, name: str) -> Tensor:
        """BatchNorm with PyTorch's defaults, which the paper trains with.

        Keras' ``momentum`` is the share of the old average: 0.9 is PyTorch's 0.1.
        After a dense layer the moving variance is the biased one (PyTorch: unbiased).
        """
        return keras.layers.BatchNormalization(
            axis=-1, momentum=0.9, epsilon=1e-5, dtype=self.dtype_policy, name=name
        )(x)

    def relu(self, x: Tensor, name: str) -> Tensor:
        return keras.layers.ReLU(dtype=self.dtype_policy, name=name)(x)

    def bn_relu(self, x: Tensor, suffix: str) -> Tensor:
        """``bn<suffix>`` and ``relu<suffix>``."""
        return self.relu(self.batch_norm(x, f"bn{suffix}"), f"relu{suffix}")

    def average_pool(self, x: Tensor, name: str) -> Tensor:
        """2x2 averages; "same" padding keeps odd and 1-pixel sides, padding is not averaged in."""
        return keras.layers.AveragePooling2D(
            2, padding="same", data_format=_IMAGES, dtype=self.dtype_policy, name=name
        )(x)

    def max_pool(self, x: Tensor, name: str) -> Tensor:
        """2x2 maxima; "same" padding as in ``average_pool``."""
        return keras.layers.MaxPooling2D(
            2, padding="same", data_format=_IMAGES, dtype=self.dtype_policy, name=name
        )(x)

    def global_average_pool(self, x: Tensor) -> Tensor:
        """(batch, height, width, channels) -> (batch, channels)."""
        return keras.layers.GlobalAveragePooling2D(
            data_format=_IMAGES, dtype=self.dtype_policy, name="global_pool"
        )(x)

    def flatten(self, x: Tensor) -> Tensor:
        return keras.layers.Flatten(data_format=_IMAGES, dtype=self.dtype_policy, name="flatten")(x)

    def add(self, x: Tensor, shortcut: Tensor, name: str) -> Tensor:
        return keras.layers.Add(dtype=self.dtype_policy, name=name)([x, shortcut])

    def logits(self, x: Tensor, num_classes: int) -> Tensor:
        """The last layer: float32 under every policy, for loss and attack."""
        self._count(x.shape[-1] * num_classes)
        return keras.layers.Dense(
            num_classes,
            kernel_initializer=FanInNormal(derive_seed(self.seed, "logits"), gain=1.0),
            dtype="float32",
            name="logits",
        )(x)


def normalization(
    mean: Sequence[float] | None, std: Sequence[float] | None, channels: int
) -> keras.layers.Layer:
    """The layer (x - mean) / std, per channel.

    Float32 under every dtype policy: bfloat16 resolves a pixel near 1 to one grey
    level only, but the normalised value, which is what the next layer rounds, finer.

    Raises:
      UsageError: one of the two is missing, not one number per channel, or std is not above 0.
    """
    means = [] if mean is None else [float(m) for m in mean]
    stds = [] if std is None else [float(s) for s in std]
    if len(means) != channels or not all(map(math.isfinite, means)):
        raise UsageError.bad_value("mean", mean, f"{channels} numbers, one per channel")
    if len(stds) != channels or not all(math.isfinite(s) and s > 0 for s in stds):
        raise UsageError.bad_value("std", std, f"{channels} numbers above 0, one per channel")
    return keras.layers.Rescaling(
        scale=[1 / s for s in stds],
        offset=[-m / s for m, s in zip(means, stds, strict=True)],
        dtype="float32",
        name="normalization",
    )
