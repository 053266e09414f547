"""What a training step of a network holds in memory, for the plan."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tf_lottery.keras import keras, tf
from tf_lottery.nesting import is_graph, named_layers

_FLOAT = 4  # bytes; variables, gradients and masks are float32 under every dtype policy


@dataclass(frozen=True)
class Footprint:
    """Bytes of a network in training.

    Attributes:
      weights: of all variables, the averages of BatchNorm included.
      trained: of those that training changes; gradients and momentum are as large.
      masks: one float a prunable weight; those of a dense network share memory, see
        ``pruning.masks.wrap``, and take less.
      kept: of the activations of one image that its backward pass reads again.
      widest: of one image's gradients on both sides of the layer where they are largest.
    """

    weights: int
    trained: int
    masks: int
    kept: int
    widest: int

    @property
    def state(self) -> int:
        """What lasts from step to step: variables, momentum, masks."""
        return self.weights + self.trained + self.masks

    @property
    def image(self) -> int:
        """What a training step needs more for each further image of its batch."""
        return self.kept + self.widest

    def step(self, batch_size: int) -> int:
        """What a training step holds at its peak, the framework itself aside."""
        return self.state + self.trained + batch_size * self.image


def footprint(model: keras.Model) -> Footprint:
    """The footprint of a bare network, its layers' dtypes taken as they are.

    Kept are, each tensor once: the inputs of conv and dense layers (for the gradient of
    the kernel) and of BatchNorm, the outputs of ReLU, both sides of max pooling. Averages,
    sums and reshapes need none. An attack keeps no more: its gradients reach the pixels
    through the same BatchNorm and ReLU, and it is over when the step proper begins.

    Args:
      model: built functional model without wrappers.
    """
    kept: dict[int, int] = {}
    widest = masks = 0
    for layer in named_layers(model).values():
        if isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense)):
            masks += _FLOAT * math.prod(layer.kernel.shape)
        if is_graph(layer) or not layer.inbound_nodes:  # its layers are counted; in another layer
            continue
        calls = range(len(layer.inbound_nodes))
        inputs = tf.nest.flatten([layer.get_input_at(call) for call in calls])
        outputs = tf.nest.flatten([layer.get_output_at(call) for call in calls])
        for tensor in _kept(layer, inputs, outputs):
            kept[id(tensor)] = _bytes(tensor)
        widest = max(widest, sum(map(_bytes, {id(t): t for t in [*inputs, *outputs]}.values())))
    return Footprint(
        weights=_FLOAT * model.count_params(),
        trained=_FLOAT * sum(math.prod(v.shape) for v in model.trainable_variables),
        masks=masks,
        kept=sum(kept.values()),
        widest=widest,
    )


def _kept(layer: keras.layers.Layer, inputs: list, outputs: list) -> list:
    kinds = keras.layers
    if isinstance(layer, (kinds.Conv2D, kinds.Dense, kinds.BatchNormalization)):
        return inputs
    if isinstance(layer, kinds.ReLU):
        return outputs
    if isinstance(layer, kinds.MaxPooling2D):
        return [*inputs, *outputs]
    return []


def _bytes(tensor) -> int:
    """Of one image's part of a symbolic (batch, ...) tensor."""
    return math.prod(tensor.shape[1:]) * tf.as_dtype(tensor.dtype).size
