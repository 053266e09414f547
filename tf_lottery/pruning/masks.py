"""Masks as tfmot wrappers around Conv and Dense layers; the only importer of tfmot.

``wrap`` clones a network with every Conv/Dense inside ``PruneLowMagnitude``, in models
used as layers too; one that sits in another layer (``TimeDistributed``, a block of
somebody's own) is reached through that layer's wrapper. The
wrapper's ``mask`` variables are the truth about what is pruned. All computing
goes through the bare network (the wrappers stripped off the clone), which shares the
same kernels: a wrapped forward would re-assign every kernel at each call, and an
attack would advance its pruning step.

Layers go by their paths, see ``nesting``. Two decisions that the paper leaves open:

- The scale and shift of a BatchNorm channel are held at zero when every filter that is
  normalised by it has no weight left, as in the authors' code: such a channel is then
  exactly zero and can be removed. Other BatchNorm parameters are never pruned.
- Biases are never pruned. In the authors' code a dense layer's bias shrinks by its
  row's density at every step, which in effect deletes it; that is not repeated.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_model_optimization as tfmot

from tf_lottery.errors import DeadLayerError, UsageError
from tf_lottery.keras import keras, pinned, tf
from tf_lottery.nesting import is_graph, named_layers, unwrapped
from tf_lottery.pruning.batch_norms import alive_filters, layers_behind
from tf_lottery.type_aliases import NamedArrays
from tf_lottery.weights import named_variables

_NEVER = 2**40  # a pruning step no training reaches


def _schedule():
    return tfmot.sparsity.keras.ConstantSparsity(0.0, begin_step=_NEVER, frequency=_NEVER)


def is_prunable(layer: keras.layers.Layer) -> bool:
    """True for the layers whose kernel takes part in pruning: Conv2D and Dense."""
    return isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense))


def prunable_kernels(network: keras.Model) -> dict[str, tf.Variable]:
    """Kernels of a network by its layers' paths, in layer order, each once."""
    return {
        name: layer.kernel
        for name, layer in named_layers(network).items()
        if is_prunable(layer) and layer.built
    }


def mask_weights(network: keras.Model, masks: Mapping[str, np.ndarray]) -> None:
    """Zeroes a bare network's pruned weights, and the BatchNorm channels they leave dead, once.

    Args:
      network: as ``build_model`` returns.
      masks: by layer name, each of its kernel's shape.
    """
    layers = named_layers(network)
    for name, kernel in prunable_kernels(network).items():
        kernel.assign(kernel * masks[name].astype(np.float32))
    for name, sources in layers_behind(network).items():
        alive = alive_filters(layers, sources, masks)
        for variable in (layers[name].gamma, layers[name].beta):
            if variable is not None:
                variable.assign(variable * alive)


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
      sources: for each of these BatchNorm layers, the layers whose outputs it normalises.
    """

    wrapped: keras.Model
    network: keras.Model
    masks: dict[str, tf.Variable]
    filters: dict[tuple[str, str], tf.Variable]
    sources: dict[str, tuple[str, ...]]

    @property
    def kernels(self) -> dict[str, tf.Variable]:
        """Kernel variables by layer name, in layer order."""
        return prunable_kernels(self.network)

    def set_masks(
        self,
        masks: Mapping[str, np.ndarray],
        filters: Mapping[tuple[str, str], np.ndarray] | None = None,
    ) -> None:
        """Sets every mask and zeroes what it prunes.

        Args:
          masks: boolean or 0/1 arrays by layer name, each of its kernel's shape.
          filters: values of the field of that name; ``None``: as the masks say.

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
            variable.assign(np.asarray(masks[name], np.float32))
        layers = named_layers(self.network)
        for (layer, part), factor in self.filters.items():
            alive = alive_filters(layers, self.sources[layer], masks)
            factor.assign(alive if filters is None else filters[layer, part])
        self.enforce()

    def get_masks(self) -> NamedArrays:
        """Boolean copies of the masks."""
        return {name: variable.numpy() > 0.5 for name, variable in self.masks.items()}

    def multipliers(self) -> list[tf.Variable | None]:
        """For each trainable variable of ``network``, in its order, the 0/1 factor or ``None``."""
        by_id = {id(kernel): self.masks[name] for name, kernel in self.kernels.items()}
        layers = named_layers(self.network)
        for (layer, part), factor in self.filters.items():
            by_id[id(getattr(layers[layer], part))] = factor
        return [by_id.get(id(variable)) for variable in self.network.trainable_variables]

    def enforce(self) -> None:
        """Sets every pruned weight to exactly 0; runs eagerly and inside ``tf.function``."""
        layers = named_layers(self.network)
        for name, kernel in self.kernels.items():  # of layers that are not trained too
            kernel.assign(kernel * self.masks[name])
        for (layer, part), factor in self.filters.items():
            variable = getattr(layers[layer], part)
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


@pinned()
def wrap(network: keras.Model, batch_norm: type | None = None) -> MaskedNetwork:
    """Clones a network with tfmot wrappers, all masks one, weights copied.

    Variables are made under the current distribution strategy. Masks share memory until they
    are set.

    Args:
      network: functional or sequential ``tf_keras`` model with uniquely named layers; models
        may be layers of it. Pruning wrappers it has already are left out.
      batch_norm: subclass of ``BatchNormalization`` that the clone has instead.

    Raises:
      ValueError: ``network`` is no such model, has no Conv/Dense, or has a layer that cannot be
        cloned.
      UsageError: a BatchNorm layer that ``batch_norm`` cannot stand for.
    """
    if not isinstance(network, keras.Model) or not is_graph(network):
        raise ValueError("wrap takes a functional tf_keras model, such as build_model returns")
    if not prunable_kernels(network):
        raise ValueError(f"{network.name} has no Conv2D or Dense layer to prune")
    if _wrappers(network):
        network = _stripped(network)
    made: dict[int, Any] = {}  # by the layer: models may share one

    def clone(layer):
        if id(layer) not in made:
            made[id(layer)] = _cloned(layer, clone, batch_norm)
        return made[id(layer)]

    wrapped = keras.models.clone_model(network, clone_function=clone)
    bare = _stripped(wrapped)
    if [*named_variables(bare)] != [*named_variables(network)]:
        raise ValueError(f"a copy of {network.name} has other variables than itself")
    copied = named_variables(bare)
    for name, variable in named_variables(network).items():
        copied[name].assign(variable.numpy())
    masks = _masks(wrapped, bare)
    _share_ones(masks.values())
    sources = layers_behind(network)
    layers = named_layers(bare)
    filters = {
        (name, part): tf.Variable(tf.ones_like(getattr(layers[name], part)), trainable=False)
        for name in sources
        for part in ("gamma", "beta")
        if getattr(layers[name], part) is not None
    }
    return MaskedNetwork(wrapped, bare, masks, filters, sources)


def _cloned(layer: Any, clone: Any, batch_norm: type | None) -> Any:
    """A new layer of the same kind; in a pruning wrapper where there is something to prune."""
    kind = type(layer)
    if isinstance(layer, keras.Model) and is_graph(layer):
        return keras.models.clone_model(layer, clone_function=clone)
    if batch_norm is not None and isinstance(layer, keras.layers.BatchNormalization):
        if kind is not keras.layers.BatchNormalization or not _over_last_axis(layer):
            raise UsageError(
                f"--distribute: devices cannot share the statistics of {layer.name}, a "
                f"{kind.__name__} over axis {list(layer.axis)}; give --nosync_batch_norm",
                "distribute",
            )
        kind = batch_norm
    try:
        copy = kind.from_config(layer.get_config())
    except Exception as error:  # whatever a layer of somebody's own raises
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"layer {layer.name} cannot be cloned: {reason}") from error
    copy._name = layer.name  # which a config that Keras makes for a layer may lack

    def weights():
        return [held.kernel for held in _prunable_in(copy) if held.built]

    if not _prunable_in(copy) or isinstance(copy, keras.Model):  # it refuses subclassed models
        return copy
    # Asked for by the wrapper, once the layer is built: it knows few kinds of layers itself.
    copy.get_prunable_weights = weights
    return tfmot.sparsity.keras.prune_low_magnitude(copy, pruning_schedule=_schedule())


def _over_last_axis(layer: Any) -> bool:
    return list(layer.axis) == [layer.input_spec.ndim - 1]


def _prunable_in(layer: Any) -> list[Any]:
    """The layer itself, or what it holds."""
    if is_prunable(layer):
        return [layer]
    return [held for held in named_layers(layer).values() if is_prunable(held)]


def _masks(wrapped: keras.Model, bare: keras.Model) -> dict[str, tf.Variable]:
    """The mask of every kernel of ``bare``, owned by ``wrapped``."""
    found = {
        id(kernel): mask for layer in _wrappers(wrapped) for kernel, mask, _ in layer.pruning_vars
    }
    kernels = prunable_kernels(bare)
    # Of subclassed models, and of layers that are built by their first call, after their wrapper.
    late = [kernel for kernel in kernels.values() if id(kernel) not in found]
    made = [tf.Variable(tf.ones(kernel.shape), trainable=False) for kernel in late]
    if late:
        wrapped.late_masks = made  # which makes them variables of it
    found.update(zip(map(id, late), made, strict=True))
    return {name: found[id(kernel)] for name, kernel in kernels.items()}


def _wrappers(network: keras.Model) -> list[Any]:
    return [layer for layer in network._flatten_layers() if hasattr(layer, "pruning_vars")]


def _stripped(network: keras.Model) -> keras.Model:
    """The network without wrappers, of the same layers and variables.

    As tfmot's ``strip_pruning``, which would make new weights for a layer that is a subclassed
    model.
    """

    def strip(layer):
        graph = isinstance(layer, keras.Model) and is_graph(layer)
        return _stripped(layer) if graph else unwrapped(layer)

    return keras.models.clone_model(network, clone_function=strip)


def load_network(path: str | Path) -> keras.Model:
    """A ``.keras`` file of ``tf_keras``; pruning wrappers are stripped, their masks applied.

    Raises:
      Exception: whatever Keras raises for the file's parts.
    """
    with tfmot.sparsity.keras.prune_scope():
        network = keras.models.load_model(path, compile=False, safe_mode=True)
    wrappers = _wrappers(network)
    for wrapper in wrappers:
        for weight, mask, _ in wrapper.pruning_vars:
            weight.assign(weight * mask)
    return _stripped(network) if wrappers and is_graph(network) else network
