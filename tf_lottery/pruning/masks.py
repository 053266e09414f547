"""Masks as tfmot wrappers around Conv and Dense layers; the only importer of tfmot.

``wrap`` clones a network with every Conv/Dense inside ``PruneLowMagnitude``. The
wrapper's ``mask`` variables are the truth about what is pruned. All computing
goes through the bare network (``strip_pruning`` of the clone), which shares the
same kernels: a wrapped forward would re-assign every kernel at each call, and an
attack would advance its pruning step.

Two decisions that the paper leaves open:

- The scale and shift of a BatchNorm channel are held at zero when the filter in
  front of it has no weight left, as in the authors' code: such a channel is then
  exactly zero and can be removed. Other BatchNorm parameters are never pruned.
- Biases are never pruned. In the authors' code a dense layer's bias shrinks by its
  row's density at every step, which in effect deletes it; that is not repeated.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import tensorflow_model_optimization as tfmot

from tf_lottery.errors import DeadLayerError
from tf_lottery.keras import keras, tf
from tf_lottery.type_aliases import NamedArrays

_NEVER = 2**40  # a pruning step no training reaches


def _schedule():
    return tfmot.sparsity.keras.ConstantSparsity(0.0, begin_step=_NEVER, frequency=_NEVER)


def is_prunable(layer: keras.layers.Layer) -> bool:
    """True for the layers whose kernel takes part in pruning: Conv2D and Dense."""
    return isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense))


def prunable_kernels(network: keras.Model) -> dict[str, tf.Variable]:
    """Kernels of a bare network by layer name, in layer order."""
    return {layer.name: layer.kernel for layer in network.layers if is_prunable(layer)}


def _batchnorm_followers(network: keras.Model) -> dict[str, list[str]]:
    """Layer name -> BatchNorm layers that read that layer's output directly.

    Reads the graph of a model whose layers were called once; in a clone that
    shares layers the inbound nodes of several models are mixed.
    """
    followers: dict[str, list[str]] = {}
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            source = layer.inbound_nodes[0].inbound_layers
            source = getattr(source, "layer", source)  # first called behind a wrapper
            if is_prunable(source):
                followers.setdefault(source.name, []).append(layer.name)
    return followers


def _alive_filters(mask: np.ndarray) -> np.ndarray:
    """1.0 for each filter (last axis) that has a weight left, else 0.0."""
    alive: np.ndarray = np.any(mask.reshape(-1, mask.shape[-1]), axis=0)
    return alive.astype(np.float32)


def mask_weights(network: keras.Model, masks: Mapping[str, np.ndarray]) -> None:
    """Zeroes a bare network's pruned weights, and the BatchNorm channels they leave dead, once.

    Args:
      network: as ``build_model`` returns.
      masks: by layer name, each of its kernel's shape.
    """
    followers = _batchnorm_followers(network)
    for name, kernel in prunable_kernels(network).items():
        kernel.assign(kernel * masks[name].astype(np.float32))
        for follower in followers.get(name, ()):
            layer = network.get_layer(follower)
            for variable in (layer.gamma, layer.beta):
                if variable is not None:
                    variable.assign(variable * _alive_filters(masks[name]))


def keeps_all(factor: tf.Variable) -> bool:
    """True while a mask, or another 0/1 factor, is one everywhere."""
    return bool(tf.reduce_all(factor > 0.5))


@dataclass(frozen=True)
class MaskedNetwork:
    """A network together with its masks.

    Attributes:
      wrapped: the clone with tfmot wrappers; owns ``mask`` variables, never called.
      network: the bare network, float images (batch, h, w, c) -> logits; same kernels.
      masks: mask variables (0.0 or 1.0, the kernel's shape) by layer name.
      filters: for each BatchNorm parameter that follows a prunable layer, a 0/1
        vector (channels,) that is 0 where the filter has no weight left; by
        ``(batchnorm layer, "gamma" | "beta")``.
    """

    wrapped: keras.Model
    network: keras.Model
    masks: dict[str, tf.Variable]
    filters: dict[tuple[str, str], tf.Variable]
    followers: dict[str, list[str]]

    @property
    def kernels(self) -> dict[str, tf.Variable]:
        """Kernel variables by layer name, in layer order."""
        return prunable_kernels(self.network)

    def set_masks(self, masks: Mapping[str, np.ndarray]) -> None:
        """Sets every mask and zeroes what it prunes.

        Args:
          masks: boolean or 0/1 arrays by layer name, each of its kernel's shape.

        Raises:
          ValueError: names or shapes differ from the network's.
          DeadLayerError: a layer is left without a weight.
        """
        if set(masks) != set(self.masks):
            odd = sorted(set(masks) ^ set(self.masks))
            raise ValueError(f"masks of another network: {', '.join(odd[:4])} in one of the two")
        for name, variable in self.masks.items():
            if tuple(variable.shape) != masks[name].shape:
                raise ValueError(
                    f"mask of {name} has shape {masks[name].shape}, "
                    f"its kernel {tuple(variable.shape)}"
                )
            if not np.any(masks[name]):
                raise DeadLayerError(
                    f"layer {name} has none of its {masks[name].size} weights left; "
                    "lower --sparsity or use --scope=layer"
                )
        for name, variable in self.masks.items():
            mask = np.asarray(masks[name], np.float32)
            variable.assign(mask)
            for follower in self.followers.get(name, ()):
                for part in ("gamma", "beta"):
                    if (follower, part) in self.filters:
                        self.filters[follower, part].assign(_alive_filters(mask))
        self.enforce()

    def get_masks(self) -> NamedArrays:
        """Boolean copies of the masks."""
        return {name: variable.numpy() > 0.5 for name, variable in self.masks.items()}

    def multipliers(self) -> list[tf.Variable | None]:
        """For each trainable variable of ``network``, in its order, the 0/1 factor or ``None``."""
        by_id = {id(kernel): self.masks[name] for name, kernel in self.kernels.items()}
        for (layer, part), factor in self.filters.items():
            by_id[id(getattr(self.network.get_layer(layer), part))] = factor
        return [by_id.get(id(variable)) for variable in self.network.trainable_variables]

    def enforce(self) -> None:
        """Sets every pruned weight to exactly 0; runs eagerly and inside ``tf.function``."""
        for variable, factor in zip(
            self.network.trainable_variables, self.multipliers(), strict=True
        ):
            if factor is not None:
                variable.assign(variable * factor)

    def is_dense(self) -> bool:
        """True while nothing is pruned."""
        return all(keeps_all(mask) for mask in self.masks.values())


def _share_ones(masks: Collection[tf.Variable]) -> None:
    """Sets masks to one, all in the memory of the largest.

    TensorFlow does not copy what a variable is assigned, nor the beginning of a tensor where
    it is a multiple of 64 bytes. A dense network, which never reads its masks, need not hold as
    many numbers again as it has weights. What changes a mask gives it memory of its own first.
    """
    ones = tf.ones([max(mask.shape.num_elements() for mask in masks)])
    for mask in masks:
        mask.assign(tf.reshape(ones[: mask.shape.num_elements()], mask.shape))


def wrap(network: keras.Model, batch_norm: type | None = None) -> MaskedNetwork:
    """Clones a bare network with tfmot wrappers, all masks one, weights copied.

    Variables are made under the current distribution strategy. Masks share memory until they
    are set.

    Args:
      network: functional ``tf_keras`` model with uniquely named layers.
      batch_norm: subclass of ``BatchNormalization`` that the clone has instead.

    Raises:
      ValueError: ``network`` is not a functional ``tf_keras`` model, or has no Conv/Dense.
    """
    if not isinstance(network, keras.Model) or not getattr(network, "_is_graph_network", False):
        raise ValueError("wrap takes a functional tf_keras model, such as build_model returns")
    if not prunable_kernels(network):
        raise ValueError(f"{network.name} has no Conv2D or Dense layer to prune")

    def clone(layer):
        kind = type(layer)
        if batch_norm is not None and isinstance(layer, keras.layers.BatchNormalization):
            kind = batch_norm
        copy = kind.from_config(layer.get_config())
        if not is_prunable(layer):
            return copy
        return tfmot.sparsity.keras.prune_low_magnitude(copy, pruning_schedule=_schedule())

    wrapped = keras.models.clone_model(network, clone_function=clone)
    bare = tfmot.sparsity.keras.strip_pruning(wrapped)
    masks = {
        layer.layer.name: layer.pruning_vars[0][1]
        for layer in wrapped.layers
        if hasattr(layer, "pruning_vars")
    }
    _share_ones(masks.values())
    for layer in network.layers:
        bare.get_layer(layer.name).set_weights(layer.get_weights())
    followers = _batchnorm_followers(network)
    filters = {
        (follower, part): tf.Variable(
            tf.ones_like(getattr(bare.get_layer(follower), part)), trainable=False
        )
        for names in followers.values()
        for follower in names
        for part in ("gamma", "beta")
        if getattr(bare.get_layer(follower), part) is not None
    }
    return MaskedNetwork(wrapped, bare, masks, filters, followers)
