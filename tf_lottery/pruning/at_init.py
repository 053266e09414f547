"""Scores that need no training: SNIP, GraSP and SynFlow, made for an initialisation.

SNIP and GraSP look at ``IMAGES_A_CLASS`` training images a class, drawn at random, which
``ScoreContext.attacked`` attacks where the search trains on attacked ones; their loss is the
cross-entropy. As published, the network is in training mode: BatchNorm has the statistics of the
images, because its averages say nothing yet, and these are left as they are. At most ``PART``
images go through it at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tf_lottery.errors import LotteryError, NonFiniteError, UsageError
from tf_lottery.keras import keras, tf
from tf_lottery.nesting import is_graph
from tf_lottery.pruning.masks import prunable_kernels
from tf_lottery.pruning.scores import ScoreContext
from tf_lottery.pruning.selection import select
from tf_lottery.type_aliases import NamedArrays, Tensor
from tf_lottery.weights import named_variables

IMAGES_A_CLASS = 10
PART = 128  # images
TEMPERATURE = 200  # of GraSP's logits
ROUNDS = 100  # of SynFlow
_HVP = 3  # passes of each kind in a Hessian-vector product


def planned_passes(score: str, classes: int) -> tuple[int, int, int]:
    """Images, forward passes and gradients of each, attacks left out; (0, 0, 0) of other scores."""
    images = IMAGES_A_CLASS * classes
    return {
        "snip": (images, 1, 1),
        "grasp": (images, 1 + _HVP, 1 + _HVP),
        "synflow": (1, ROUNDS + 1, ROUNDS),
    }.get(score, (0, 0, 0))


def snip(context: ScoreContext) -> NamedArrays:
    """|w dL/dw|: how much the loss changes if the weight shrinks (Lee et al. 2019, 1810.02340)."""
    images, labels = _images(context)
    kernels = prunable_kernels(context.network)
    gradients = _summed(context.network, images, labels, _gradient, 1.0)
    context.count(len(images))
    _check("snip", gradients)
    return {name: np.abs(kernel.numpy() * gradients[name]) for name, kernel in kernels.items()}


def grasp(context: ScoreContext) -> NamedArrays:
    """w (Hg): what the squared norm of the gradient g loses, to first order, without the weight.

    Wang et al. 2020, arXiv 2002.07376, equation 8, who remove the largest -w (Hg). H is the
    Hessian with respect to the kernels, of the loss of logits over 200. A Hessian-vector
    product is counted as three passes of each kind: the gradient itself, and each of its passes
    differentiated with respect to both of its factors.
    """
    images, labels = _images(context)
    network = _copied("grasp", context.network, _TwiceDifferentiable)
    kernels = prunable_kernels(network)
    gradients = _summed(network, images, labels, _gradient, TEMPERATURE)
    context.count(len(images))
    constant = {name: tf.constant(gradients[name], tf.float32) for name in kernels}

    def product(loss, kernels):
        with tf.GradientTape() as tape:
            found = _gradient(loss, kernels)
            along = [tf.reduce_sum(found[name] * constant[name]) for name in kernels]
            total = tf.add_n(along)
        return _differentiated(tape, total, kernels)

    try:
        products = _summed(network, images, labels, product, TEMPERATURE)
    except LookupError as error:
        raise UsageError.bad_value(
            "score", "grasp", f"one without second derivatives for this network ({error})"
        ) from None
    context.count(len(images), forward=_HVP, gradients=_HVP)
    _check("grasp", products)
    return {name: kernel.numpy() * products[name] for name, kernel in kernels.items()}


def synflow(context: ScoreContext) -> NamedArrays:
    """Flow through a weight, |w dR/dw|, R the sum of the logits with |w| for an image of ones.

    Tanaka et al. 2020, arXiv 2006.05467, algorithm 1: in round k of ``ROUNDS`` the density falls
    to its power k / ``ROUNDS``, so that no layer that all flow has to pass is removed whole. One
    that has a way round it, a shortcut's convolution, could be: a layer's best weight stays, and
    its score is infinite. What goes in round k scores k - ``ROUNDS``, what is there before the
    last round its flow, which is not negative: the best of these are the mask. Computed in
    float64, whose range the flow of deep networks needs, with BatchNorm in inference mode; biases,
    shifts and moving means count as 0, which they are in an initialisation. Where the network
    begins with a ``Rescaling``, that gives the ones.

    Raises:
      UsageError: twice the image does not give twice the flow: the network has a softmax, say,
        or a layer that cannot be copied in float64.
      NonFiniteError: the flow overflows.
      DeadLayerError: as of ``select``.
    """
    flow = _Flow(context.network)
    flow.check()
    context.count(1, forward=1, gradients=0)
    masks = context.masks
    removed = {name: np.full(mask.shape, -float(ROUNDS)) for name, mask in masks.items()}
    total = sum(mask.size for mask in masks.values())
    start = sum(int(mask.sum()) for mask in masks.values()) / total
    share = (1 - context.sparsity) / start
    for number in range(1, ROUNDS + 1):
        scores = flow(masks)
        context.count(1)
        _check("synflow", scores)
        if number == ROUNDS or share >= 1:
            break
        sparsity = 1 - start * share ** (number / ROUNDS)
        thinner = select(_protected(scores, masks), masks, sparsity, context.scope)
        for name, mask in masks.items():
            removed[name][mask & ~thinner[name]] = number - ROUNDS
        masks = thinner
    scores = _protected(scores, masks)
    return {name: np.where(masks[name], scores[name], removed[name]) for name in masks}


def _protected(scores: NamedArrays, masks: NamedArrays) -> NamedArrays:
    """The best weight of each layer, among those that are left, scores infinity."""
    found = {name: array.copy() for name, array in scores.items()}
    for name, array in found.items():
        best = np.where(masks[name], array, -np.inf).argmax()
        array.flat[best] = np.inf
    return found


def _images(context: ScoreContext) -> tuple[np.ndarray, np.ndarray]:
    images, labels = context.batch(IMAGES_A_CLASS * context.network.output_shape[-1])
    return context.attacked(images, labels), labels


Kernels = dict[str, "tf.Variable"]


def _summed(
    network: keras.Model,
    images: np.ndarray,
    labels: np.ndarray,
    derive: Callable[[Callable[[], Tensor], Kernels], dict[str, Tensor]],
    temperature: float,
) -> NamedArrays:
    """``derive`` of the mean loss, in training mode; BatchNorm's averages stay what they were."""
    kernels = prunable_kernels(network)
    averages = [(average, average.numpy()) for average in network.non_trainable_variables]
    total = {name: np.zeros(kernel.shape) for name, kernel in kernels.items()}

    @tf.function(reduce_retracing=True)
    def derived(x, y):
        def loss():
            logits = tf.cast(network(x, training=True), tf.float32) / temperature
            lost = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits)
            return tf.reduce_sum(lost) / len(images)

        return derive(loss, kernels)

    for start in range(0, len(images), PART):
        part = slice(start, start + PART)
        found = derived(tf.constant(images[part]), tf.constant(labels[part]))
        for name, value in found.items():
            total[name] += value.numpy()
    for average, value in averages:
        average.assign(value)
    return total


def _gradient(loss: Callable[[], Tensor], kernels: Kernels) -> dict[str, Tensor]:
    with tf.GradientTape() as tape:
        value = loss()
    return _differentiated(tape, value, kernels)


def _differentiated(tape: tf.GradientTape, value: Tensor, kernels: Kernels) -> dict[str, Tensor]:
    found = tape.gradient(value, list(kernels.values()), unconnected_gradients="zero")
    return dict(zip(kernels, found, strict=True))


def _check(score: str, found: NamedArrays) -> None:
    """Raises unless there is something finite to go by."""
    bad = [name for name, array in found.items() if not np.isfinite(array).all()]
    if bad:
        raise NonFiniteError(f"--score: {score} is NaN or infinite in {', '.join(bad)}")
    if not any(array.any() for array in found.values()):
        raise LotteryError(f"--score: {score} is 0 for every weight: nothing to prune by")


class _Flow:
    """A copy in float64 whose weights are positive, and the flow through each of them."""

    def __init__(self, network: keras.Model):
        self._name = network.name
        self._copy = _copied("synflow", network, dtype="float64")
        for name, variable in named_variables(self._copy).items():
            shift = name.endswith(("/bias", "/beta", "/moving_mean"))
            variable.assign(tf.zeros_like(variable) if shift else tf.abs(variable))
        self._kernels = prunable_kernels(self._copy)
        self._sizes = {name: kernel.numpy() for name, kernel in self._kernels.items()}
        self._differentiate = tf.function(lambda: _gradient(self._flow, self._kernels))

    def check(self) -> None:
        """Raises unless the network is positively homogeneous and its flow finite."""
        flow, twice = float(self._flow()), float(self._flow(2.0))
        if not np.isfinite([flow, twice]).all():
            raise NonFiniteError(f"--score: synflow: the flow through {self._name} overflows")
        if abs(twice - 2 * flow) > 1e-4 * abs(twice):
            raise UsageError.bad_value(
                "score",
                "synflow",
                f"another one for {self._name}, which is not positively homogeneous (ReLU, "
                f"pooling, BatchNorm): twice the pixels give {twice / flow:.3g} times the flow",
            )

    def __call__(self, masks: NamedArrays) -> NamedArrays:
        for name, kernel in self._kernels.items():
            kernel.assign(self._sizes[name] * masks[name])
        found = self._differentiate()
        return {
            name: found[name].numpy() * kernel.numpy() for name, kernel in self._kernels.items()
        }

    def _flow(self, brightness: float = 1.0) -> Tensor:
        image = np.full((1, *self._copy.input_shape[1:]), brightness)
        first = next(
            layer for layer in self._copy.layers if not isinstance(layer, keras.layers.InputLayer)
        )
        if isinstance(first, keras.layers.Rescaling):
            image = (image - np.asarray(first.offset)) / np.asarray(first.scale)
        return tf.reduce_sum(self._copy(tf.constant(image), training=False))


class _TwiceDifferentiable(keras.layers.BatchNormalization):
    """BatchNorm over the last axis, whose gradient has the right gradient.

    After a dense layer Keras' own takes ``tf.nn.moments``, which keeps gradients from the mean
    within the variance: of no effect on a first derivative, but on a second.
    """

    def call(self, inputs, training=None, mask=None):
        if not training:
            return super().call(inputs, training=training, mask=mask)
        axes = list(range(inputs.shape.rank - 1))
        mean = tf.reduce_mean(inputs, axes)
        variance = tf.reduce_mean(tf.square(inputs - mean), axes)
        beta, gamma = self.beta, self.gamma
        return tf.nn.batch_normalization(inputs, mean, variance, beta, gamma, self.epsilon)


def _copied(score: str, network: keras.Model, batch_norm: type | None = None, **config: Any):
    """A network with the same weights.

    Args:
      score: named where there is no copy.
      network: that is copied.
      batch_norm: takes the place of ``BatchNormalization`` over the last axis.
      **config: of every layer, instead of its own.
    """

    def clone(layer):
        if isinstance(layer, keras.Model) and is_graph(layer):
            return keras.models.clone_model(layer, clone_function=clone)
        kind = type(layer)
        plain = kind is keras.layers.BatchNormalization
        if batch_norm and plain and list(layer.axis) == [layer.input_spec.ndim - 1]:
            kind = batch_norm
        try:
            copy = kind.from_config({**layer.get_config(), **config})
        except Exception as error:  # whatever a layer of somebody's own raises
            reason = " ".join(str(error).split())[:200]
            raise UsageError.bad_value(
                "score", score, f"another one: {layer.name} cannot be copied ({reason})"
            ) from error
        copy._name = layer.name  # which a config that Keras makes for a layer may lack
        return copy

    copy = keras.models.clone_model(network, clone_function=clone)
    theirs = named_variables(network)
    for name, variable in named_variables(copy).items():
        variable.assign(theirs[name].numpy().astype(variable.dtype.as_numpy_dtype))
    return copy
