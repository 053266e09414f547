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

from collections.abc import Callable

from tf_lottery.keras import keras, tf
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
    changes of the weights do not reach the function.

    Args:
      network: any ``tf_keras`` model of one input and one output. One that is no plain
        graph of layers (subclassed, a layer called twice) is called as it is, and so are
        layers that are not mentioned above.

    Returns:
      float (batch, height, width, channels) -> what ``network(images, training=False)``
      gives, to float tolerance. Differentiable once, with respect to the images only.
    """
    if not _is_plain_graph(network):
        return lambda images: network(images, training=False)
    config = network.get_config()
    sources = {entry["name"]: _sources(entry) for entry in config["layers"]}
    readers: dict[str, list[str]] = {}
    for name, inputs in sources.items():
        for source in inputs:
            readers.setdefault(source, []).append(name)
    last = config["output_layers"][0][0]

    steps: list[tuple[str, _Step]] = []
    renamed: dict[str, str] = {}  # a folded layer -> the layer that gives its output
    for layer in network.layers:
        inputs = [renamed.get(source, source) for source in sources[layer.name]]
        if not inputs or layer.name in renamed:
            continue
        follower = _only_reader(network, readers, layer.name, last)
        if follower is not None and _is_linear(layer) and _is_plain_batch_norm(follower):
            steps.append((layer.name, _folded(layer, follower, inputs[0])))
            renamed[follower.name] = layer.name
        elif _is_plain_batch_norm(layer):
            relu = follower if _is_plain_relu(follower) else None
            steps.append((layer.name, _scaled(layer, inputs[0], relu is not None)))
            if relu is not None:
                renamed[relu.name] = layer.name
        elif _is_linear(layer) and _has_few_products(layer):
            steps.append((layer.name, _folded(layer, None, inputs[0])))
        else:
            steps.append((layer.name, _called(layer, inputs)))
    (pixels,) = [layer.name for layer in network.layers if not sources[layer.name]]
    output = renamed.get(last, last)

    def logits_fn(images: Tensor) -> Tensor:
        values = {pixels: _Output(images)}
        for name, step in steps:
            values[name] = step(values)
        return values[output].images

    return logits_fn


def _is_plain_graph(network: keras.Model) -> bool:
    """Whether every layer but the input is called once, on outputs of other layers."""
    if not getattr(network, "_is_graph_network", False):
        return False
    if len(network.inputs) != 1 or len(network.outputs) != 1:
        return False
    nodes = [entry["inbound_nodes"] for entry in network.get_config()["layers"]]
    return all(len(calls) <= 1 and _only_tensors(calls) for calls in nodes)


def _only_tensors(nodes: list) -> bool:
    """Whether a call takes first outputs of layers alone, no constants and no options."""
    return all(
        len(source) == 4 and source[1:3] == [0, 0] and not source[3]
        for node in nodes
        for source in node
    )


def _sources(entry: dict) -> list[str]:
    """Names of the layers that a layer reads, from its entry in a model's config."""
    return [source for node in entry["inbound_nodes"] for source, *_ in node]


def _only_reader(
    network: keras.Model, readers: dict[str, list[str]], name: str, last: str
) -> keras.layers.Layer | None:
    """The layer that reads the output of ``name``, if nobody else does."""
    names = readers.get(name, [])
    return network.get_layer(names[0]) if len(names) == 1 and name != last else None


def _is_linear(layer: keras.layers.Layer) -> bool:
    """Conv2D or Dense without an activation, channels last."""
    return (
        type(layer) in (keras.layers.Conv2D, keras.layers.Dense)
        and layer.activation is keras.activations.linear
        and getattr(layer, "data_format", "channels_last") == "channels_last"
        and getattr(layer, "groups", 1) == 1
    )


def _is_plain_batch_norm(layer: keras.layers.Layer | None) -> bool:
    """BatchNorm over the last axis."""
    if not isinstance(layer, keras.layers.BatchNormalization):
        return False
    return list(layer.axis) == [layer.input_spec.ndim - 1]


def _is_plain_relu(layer: keras.layers.Layer | None) -> bool:
    return (
        isinstance(layer, keras.layers.ReLU)
        and layer.max_value is None
        and not layer.negative_slope
        and not layer.threshold
    )


def _scale_and_shift(layer: keras.layers.BatchNormalization) -> tuple[Tensor, Tensor]:
    """float32 (channels,) each: BatchNorm in inference mode is ``x * scale + shift``."""
    scale = tf.math.rsqrt(layer.moving_variance + layer.epsilon)
    if layer.gamma is not None:
        scale *= layer.gamma
    shift = -layer.moving_mean * scale
    return scale, shift if layer.beta is None else shift + layer.beta


def _folded(layer, batch_norm: keras.layers.BatchNormalization | None, source: str) -> _Step:
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

    if _has_few_products(layer):
        few = winograd_convolution(kernel, *layer.input_shape[1:3])
        return lambda values: _Output(biased(few, values[source].positions), True)
    if isinstance(layer, keras.layers.Conv2D):
        linear = _convolution(layer, kernel)
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


def _convolution(layer: keras.layers.Conv2D, kernel: Tensor) -> _Linear:
    if _sees_all(layer):
        return _seeing_all(layer, kernel)
    return _convolving(layer, kernel)


def _convolving(layer: keras.layers.Conv2D, kernel: Tensor) -> _Linear:
    padding, rates = layer.padding.upper(), layer.dilation_rate
    return lambda x: tf.nn.conv2d(x, kernel, layer.strides, padding, dilations=rates)


def _keeps_size(layer: keras.layers.Conv2D) -> bool:
    return layer.padding == "same" and (
        tuple(layer.strides) == tuple(layer.dilation_rate) == (1, 1)
    )


def _has_few_products(layer: keras.layers.Layer) -> bool:
    """Whether Winograd's convolution pays.

    Half precision would lose more by it, and accelerators' libraries choose for themselves.
    """
    if not isinstance(layer, keras.layers.Conv2D) or not _keeps_size(layer):
        return False
    _, height, width, channels = layer.input_shape
    return (
        tuple(layer.kernel_size) == (3, 3)
        and layer.compute_dtype == "float32"
        and min(channels, layer.filters) >= _MANY_CHANNELS
        and None not in (height, width)
        and height * width <= _FEW_POSITIONS
        and share_of_products(height, width) <= _FEW_PRODUCTS
        and all(device.device_type == "CPU" for device in tf.config.list_logical_devices())
    )


def _sees_all(layer: keras.layers.Conv2D) -> bool:
    """Whether every position of a convolution that keeps the map's size sees the whole map."""
    return _keeps_size(layer) and all(
        kernel % 2 == 1 and size is not None and size <= kernel // 2 + 1
        for kernel, size in zip(layer.kernel_size, layer.input_shape[1:3], strict=True)
    )


def _seeing_all(layer: keras.layers.Conv2D, kernel: Tensor) -> _Linear:
    """The convolution as a product with a (outputs, inputs) matrix.

    The weight between two positions is the kernel at their distance, and every distance on
    the map is in the kernel.
    """
    height, width, channels = layer.input_shape[1:]
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


def _called(layer: keras.layers.Layer, sources: list[str]) -> _Step:
    def call(*inputs: Tensor) -> Tensor:
        return layer(list(inputs) if len(inputs) > 1 else inputs[0], training=False)

    if type(layer) in _PLACE_BY_PLACE:
        return _in_place(call, sources)
    return lambda values: _Output(call(*(values[source].images for source in sources)))
