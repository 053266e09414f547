"""The networks of the paper, and two small ones, as functional ``tf_keras`` models.

Each takes float32 pixels in [0, 1] (batch, height, width, channels) and returns
float32 logits (batch, classes), no softmax. Input normalisation, if any, is the
first layer, so attacks work on pixels and an exported model is self-contained.

Layer names and initial weights do not depend on what else the process has built:
a kernel is a pure function of the seed, its layer's name and its shape.

Reference: Li et al. 2020, arXiv 2003.05733, section 4 (architectures).
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

from tf_lottery.errors import UsageError
from tf_lottery.keras import keras, pinned
from tf_lottery.models.custom import custom_network
from tf_lottery.models.flops import forward_flops
from tf_lottery.models.layers import Layers, normalization
from tf_lottery.models.memory import Footprint, footprint
from tf_lottery.options.architectures import check_depth
from tf_lottery.options.registries import MODELS
from tf_lottery.options.settings import DTYPE_POLICIES, ModelConfig

__all__ = ["Footprint", "allow", "build_model", "footprint", "forward_flops", "is_allowed"]

_allowed: set[str] = set()


def allow(name: str) -> None:
    """Lets the networks of tickets and stages that name this function be built in this process.

    To build one imports its module, which runs code: nothing that a file says is a reason to.

    Args:
      name: ``package.module:function``, given by the user.
    """
    _allowed.add(name)


def is_allowed(name: str) -> bool:
    """True for the networks of this package and for what ``allow`` was told."""
    return name in MODELS or name in _allowed


@pinned()
def build_model(
    name: str,
    input_shape: Sequence[int],
    num_classes: int,
    seed: int,
    *,
    depth: int = 0,
    width: int = 0,
    width_multiplier: float = 1.0,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype_policy: str = "float32",
    most_weights: int | None = None,
) -> keras.Model:
    """A freshly initialised network.

    Args:
      name: family: ``convnet``, ``lenet``, ``resnet18``, ``vgg`` or ``wide_resnet``; or
        ``package.module:function``, which is imported, see ``models.custom``.
      input_shape: (height, width, channels) of an image.
      num_classes: 2 or more.
      seed: of the initial weights.
      depth: of ``vgg`` (7, 8, 11, 16) and ``wide_resnet`` (6n + 4); 0 takes the
        paper's (16 and 34).
      width: of ``wide_resnet``, 10 in the paper's WideResNet-34-10; 0 takes that.
      width_multiplier: scales every hidden width, rounded, at least 1.
      mean: per channel, on [0, 1] pixels; goes with ``std``.
      std: per channel, above 0. Without ``mean`` and ``std`` there is no such layer.
      dtype_policy: of every layer but the normalisation and the logits, which stay
        float32. Variables are float32 under all policies.
      most_weights: that conv and dense layers may have together; ``None``: any number.

    Raises:
      UsageError: unknown name or policy, a value out of range for the family, or more
        weights, told before they are made.

    Example:
      >>> model = build_model("vgg", (32, 32, 3), 10, seed=0, width_multiplier=0.05)
      >>> model.name, model.output_shape, model.get_layer("conv1_1").kernel.shape[-1]
      ('vgg16-w0.05', (None, 10), 3)
    """
    MODELS.check("model", name)
    check_depth(name, depth)  # before ModelConfig: its message lists the valid depths
    config = ModelConfig(name, depth, width, width_multiplier)
    shape = tuple(input_shape)
    if len(shape) != 3 or not all(isinstance(n, Integral) and n > 0 for n in shape):
        raise UsageError.bad_value(
            "input_shape", input_shape, "(height, width, channels), all above 0"
        )
    if num_classes < 2:
        raise UsageError.bad_value("num_classes", num_classes, "2 or more")
    if dtype_policy not in DTYPE_POLICIES:
        raise UsageError.unknown("dtype_policy", dtype_policy, DTYPE_POLICIES)

    function = MODELS.find("model", name)
    if name not in MODELS:
        return custom_network(
            function, config, shape, num_classes, seed, mean, std, dtype_policy, most_weights
        )
    layers = Layers(seed, dtype_policy, width_multiplier, most_weights)
    x = pixels = keras.Input(shape, name="pixels", dtype="float32")
    if mean is not None or std is not None:
        x = normalization(mean, std, channels=shape[2])(x)
    x = function(layers, x, config.depth, config.width)
    return keras.Model(pixels, layers.logits(x, num_classes), name=config.label)
