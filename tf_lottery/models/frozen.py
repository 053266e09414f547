"""A network in inference mode as a function of the pixels alone, for attacks.

An attack asks the same frozen network for a forward and an input-gradient pass at every
step. What does not depend on the pixels is computed once, when the function is made:

- BatchNorm right behind a convolution or dense layer is folded into its kernel and bias
  (``k * gamma / sqrt(var + eps)``, ``beta + (b - mean) * gamma / sqrt(var + eps)``): exact in
  inference mode, and an operation less to run through forward and backward;
- 3 x 3 convolutions of many channels on maps of at most 8 x 8 take a quarter of the products
  on a CPU, in float32 (see ``winograd``). They want positions before images; what lies between
  them and does not care, such as ReLU, is computed in that order too;
- another convolution on maps so small that each of its positions sees them whole (3 x 3 on
  2 x 2, the last block of VGG-16 on CIFAR-10) becomes the product with one matrix: what
  padding adds is not computed, and kernels are not laid out anew at every call;
- any other BatchNorm becomes a scale and a shift per channel, whose input gradient is one
  product. The library's gradient of BatchNorm sums up those of gamma and beta too, which an
  attack has no use for.

Reference: Jacob et al. 2018, arXiv 1712.05877, section 3.2 (folding BatchNorm).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from tf_lottery.keras import keras, tf
from tf_lottery.models.plain_graph import (
    Node,
    compute_alike,
    is_batch_norm,
    is_linear,
    is_own,
    is_relu,
    maker,
    plain_nodes,
)
from tf_lottery.models.winograd import share_of_products, winograd_convolution
from tf_lottery.type_aliases import LogitsFn, Tensor


class _Output:
    """What a layer gives, as (batch, ...) or with positions first, whichever is asked for."""

    def __init__(self, value: Tensor, positions_first: bool = False):
        self.positions_first = positions_first
        self.is_map = value.shape.rank == 4
        self._images = None if positions_first else value
        self._positions = value if positions_first else None

    @property
    def images(self) -> Tensor:
        """(batch, ...)."""
        if self._images is None:
            self._images = tf.transpose(self._positions, (2, 0, 1, 3))
        return self._images

    @property
    def positions(self) -> Tensor:
        """(height, width, batch, channels)."""
        if self._positions is None:
            self._positions = tf.transpose(self._images, (1, 2, 0, 3))
        return self._positions


# Outputs by the name of the layer that made them -> the output of one more layer.
_Step = Callable[[dict[str, _Output]], _Output]
# The input of a layer -> what it gives before its bias is added.
_Linear = Callable[[Tensor], Tensor]

# Layers that compute each number from those in its place.
_PLACE_BY_PLACE = (keras.layers.Add, keras.layers.ReLU)

# Where fewer products pay for the transforms around them: measured on two cores, batch 16 to 256.
_FEW_POSITIONS = 64
_MANY_CHANNELS = 96
_FEW_PRODUCTS = 0.5


@tf.autograph.experimental.do_not_convert  # it cannot, and warns: annotated names in a closure
def frozen_logits(network: keras.Model) -> LogitsFn:
    """``images -> logits`` with the weights that ``network`` has now.

    Call it where the weights are read once: in a training step, before the attack. Later
    changes of the weights do not reach the function. ``frozen_check`` compares it with the
    network.

    Args:
      network: any ``tf_keras`` model of one input and one output. One that is no plain
        graph of layers (subclassed, a layer called twice) is called as it is, and so are
        layers that are not mentioned above.

    Returns:
      float (batch, height, width, channels) -> what ``network(images, training=False)``
      gives, to float tolerance. Differentiable once, with respect to the images only.
    """
    layers = frozen_layers(network)
    if layers is None:
        return lambda images: network(images, training=False)
    # A folded output is the last of a few layers'; that of the network may come before others.
    (output,) = (layer.run for layer in layers if maker(layer.output) == maker(network.outputs[0]))
    return output


@dataclasses.dataclass(frozen=True)
class FrozenLayer:
    """A layer of a frozen network.

    Attributes:
      layer: of the network; the last one of those folded into one step.
      output: symbolic, of that layer.
      run: images -> what that layer gives.
    """

    layer: keras.layers.Layer
    output: Tensor
    run: LogitsFn


@tf.autograph.experimental.do_not_convert
def frozen_layers(network: keras.Model) -> list[FrozenLayer] | None:
    """All steps of ``frozen_logits``; ``None`` where the network is called as it is."""
    nodes = plain_nodes(network)
    if nodes is None:
        return None
    sources = {name: [maker(tensor) for tensor in node.inputs] for name, node in nodes.items()}
    readers: dict[str, list[Node]] = {}
    for name, inputs in sources.items():
        for source in inputs:
            readers.setdefault(source, []).append(nodes[name])
    last = maker(network.outputs[0])

    steps: list[tuple[str, _Step]] = []
    renamed: dict[str, str] = {}  # a folded layer -> the layer that gives its output
    for name, node in nodes.items():
        inputs = [renamed.get(source, source) for source in sources[name]]
        if name in renamed:
            continue
        follower = _only_reader(readers, name, last)
        if is_linear(node) and is_batch_norm(follower) and compute_alike(node, follower):
            steps.append((name, _folded(node, follower.layer, inputs[0])))
            renamed[follower.layer.name] = name
        elif is_batch_norm(node):
            relu = follower if is_relu(follower) and compute_alike(node, follower) else None
            steps.append((name, _scaled(node.layer, inputs[0], relu is not None)))
            if relu is not None:
                renamed[relu.layer.name] = name
        elif is_linear(node) and _has_few_products(node):
            steps.append((name, _folded(node, None, inputs[0])))
        else:
            steps.append((name, _called(node, inputs)))
    pixels = maker(network.inputs[0])

    def running(stop: int) -> LogitsFn:
        def run(images: Tensor) -> Tensor:
            values = {pixels: _Output(images)}
            for name, step in steps[:stop]:
                values[name] = step(values)
            return values[steps[stop - 1][0]].images

        return run

    ends = {name: nodes[name] for name in nodes}
    for folded, name in renamed.items():
        ends[name] = nodes[folded]
    return [
        FrozenLayer(ends[name].layer, ends[name].output, running(number))
        for number, (name, _) in enumerate(steps, 1)
    ]


def _only_reader(readers: dict[str, list[Node]], name: str, last: str) -> Node | None:
    """The layer that reads the output of ``name``, if nobody else does."""
    found = readers.get(name, [])
    return found[0] if len(found) == 1 and name != last else None


def _scale_and_shift(layer: keras.layers.BatchNormalization) -> tuple[Tensor, Tensor]:
    """float32 (channels,) each: BatchNorm in inference mode is ``x * scale + shift``."""
    scale = tf.math.rsqrt(layer.moving_variance + layer.epsilon)
    if layer.gamma is not None:
        scale *= layer.gamma
    shift = -layer.moving_mean * scale
    return scale, shift if layer.beta is None else shift + layer.beta


def _folded(node: Node, batch_norm: keras.layers.BatchNormalization | None, source: str) -> _Step:
    layer = node.layer
    kernel, bias = layer.kernel, layer.bias
    if batch_norm is not None:
        scale, shift = _scale_and_shift(batch_norm)
        kernel = kernel * scale
        bias = shift if bias is None else bias * scale + shift
    # Until here in float32, whatever the layer computes in: its rounding comes last.
    kernel = tf.cast(kernel, layer.compute_dtype)
    bias = None if bias is None else tf.cast(bias, layer.compute_dtype)

    def biased(linear: _Linear, x: Tensor) -> Tensor:
        y = linear(tf.cast(x, layer.compute_dtype))
        return y if bias is None else tf.nn.bias_add(y, bias)

    if _has_few_products(node):
        few = winograd_convolution(kernel, *node.input_shape[1:3])
        return lambda values: _Output(biased(few, values[source].positions), True)
    if isinstance(layer, keras.layers.Conv2D):
        linear = _convolution(node, kernel)
    else:
        linear = _multiplying(kernel)
    return lambda values: _Output(biased(linear, values[source].images))


def _in_place(compute: Callable[..., Tensor], sources: list[str]) -> _Step:
    """A step that works in either order: positions first where one of its inputs is so.

    Inputs of other ranks, which an addition may have, are added to images alone.
    """

    def step(values: dict[str, _Output]) -> _Output:
        inputs = [values[source] for source in sources]
        maps = all(value.is_map for value in inputs)
        if maps and any(value.positions_first for value in inputs):
            return _Output(compute(*(value.positions for value in inputs)), True)
        return _Output(compute(*(value.images for value in inputs)))

    return step


def _multiplying(kernel: Tensor) -> _Linear:
    return lambda x: tf.tensordot(x, kernel, 1) if x.shape.rank > 2 else x @ kernel


def _convolution(node: Node, kernel: Tensor) -> _Linear:
    if _sees_all(node):
        return _seeing_all(node, kernel)
    return _convolving(node.layer, kernel)


def _convolving(layer: keras.layers.Conv2D, kernel: Tensor) -> _Linear:
    padding, rates = layer.padding.upper(), layer.dilation_rate
    return lambda x: tf.nn.conv2d(x, kernel, layer.strides, padding, dilations=rates)


def _keeps_size(layer: keras.layers.Conv2D) -> bool:
    return layer.padding == "same" and (
        tuple(layer.strides) == tuple(layer.dilation_rate) == (1, 1)
    )


def _has_few_products(node: Node) -> bool:
    """Whether Winograd's convolution pays.

    Half precision would lose more by it, and accelerators' libraries choose for themselves.
    """
    layer = node.layer
    if not isinstance(layer, keras.layers.Conv2D) or not _keeps_size(layer):
        return False
    _, height, width, channels = node.input_shape
    return (
        tuple(layer.kernel_size) == (3, 3)
        and layer.compute_dtype == "float32"
        and min(channels, layer.filters) >= _MANY_CHANNELS
        and None not in (height, width)
        and height * width <= _FEW_POSITIONS
        and share_of_products(height, width) <= _FEW_PRODUCTS
        and all(device.device_type == "CPU" for device in tf.config.list_logical_devices())
    )


def _sees_all(node: Node) -> bool:
    """Whether every position of a convolution that keeps the map's size sees the whole map."""
    layer = node.layer
    return _keeps_size(layer) and all(
        kernel % 2 == 1 and size is not None and size <= kernel // 2 + 1
        for kernel, size in zip(layer.kernel_size, node.input_shape[1:3], strict=True)
    )


def _seeing_all(node: Node, kernel: Tensor) -> _Linear:
    """The convolution as a product with a (outputs, inputs) matrix.

    The weight between two positions is the kernel at their distance, and every distance on
    the map is in the kernel.
    """
    layer = node.layer
    height, width, channels = node.input_shape[1:]
    top, left = layer.kernel_size[0] // 2, layer.kernel_size[1] // 2
    kernel = tf.transpose(kernel, (3, 0, 1, 2))
    seen = [
        kernel[:, top - row : top - row + height, left - column : left - column + width]
        for row in range(height)
        for column in range(width)
    ]  # (filters, height, width, channels) for each position of the output
    inputs = height * width * channels
    matrix = tf.reshape(tf.concat(seen, 0), (-1, inputs))

    def multiply(x: Tensor) -> Tensor:
        # In this order neither pass has to transpose the matrix, only the images.
        y = tf.matmul(matrix, tf.reshape(x, (-1, inputs)), transpose_b=True)
        return tf.reshape(tf.transpose(y), (-1, height, width, layer.filters))

    return multiply


def _scaled(layer: keras.layers.BatchNormalization, source: str, relu: bool) -> _Step:
    scale, shift = (tf.cast(value, layer.compute_dtype) for value in _scale_and_shift(layer))

    def normalise(x: Tensor) -> Tensor:
        x = tf.cast(x, layer.compute_dtype)
        # No tf.custom_gradient: TensorFlow keeps what it registers, and the graph with it, for
        # ever. Where shapes are static, as here, its own input gradient is one product too.
        y = x * scale + shift
        return tf.nn.relu(y) if relu else y

    return _in_place(normalise, [source])


def _called(node: Node, sources: list[str]) -> _Step:
    def call(*inputs: Tensor) -> Tensor:
        return node.layer(list(inputs) if node.listed else inputs[0], training=False)

    if type(node.layer) in _PLACE_BY_PLACE and is_own(node.layer):
        return _in_place(call, sources)
    return lambda values: _Output(call(*(values[source].images for source in sources)))
