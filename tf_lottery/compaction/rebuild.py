"""The network of the channels that are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tf_lottery.compaction import graph
from tf_lottery.compaction.channels import Channels
from tf_lottery.compaction.constants import InInference, ThroughoutTraining, folded_bias
from tf_lottery.compaction.graph import Node, read_graph
from tf_lottery.flattening import flattened
from tf_lottery.narrowing import narrowed


@dataclass(frozen=True)
class Compaction:
    """A smaller network and what it is made of.

    Attributes:
      network: the new one, layers named as before.
      kept: for each Conv2D, Dense and BatchNormalization layer that was looked into: the
        positions kept on its kernel's last two axes, inputs and outputs, or on its
        vectors' only one; int64 arrays, ascending.
      widths: Conv2D or Dense layer -> (outputs before, outputs after).
    """

    network: Any
    kept: dict[str, tuple[np.ndarray, ...]]
    widths: dict[str, tuple[int, int]]

    @property
    def removed(self) -> int:
        """Number of output channels (filters and units) that are gone."""
        return sum(before - after for before, after in self.widths.values())

    def cut(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The kept part of the old network's arrays, by variable name ``<layer>/<variable>``.

        What was folded into biases is not in it.
        """
        return {name: value[self._index(name, value)] for name, value in values.items()}

    def embed(
        self, values: Mapping[str, np.ndarray], whole: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """The new network's arrays at their old places; elsewhere what ``whole`` has.

        Args:
          values: by variable name, of the new network.
          whole: by variable name, of the old network.
        """
        result = {}
        for name, value in whole.items():
            result[name] = value.copy()
            result[name][self._index(name, value)] = values[name]
        return result

    def _index(self, name: str, value: np.ndarray) -> tuple:
        layer, _, part = name.rpartition("/")
        kept = self.kept.get(layer)
        if kept is None:
            return (...,)
        return _last_two(*kept) if part == "kernel" else (kept[-1],)


def compact(network: Any) -> Compaction:
    """Cuts out what no output of a network depends on, in inference.

    Gone are filters and units that nothing reads, directly or through others, and those whose
    value is the same for every image where the layers behind can take that into their
    biases: zero anywhere, another number in front of dense layers and of convolutions
    without a border.

    Args:
      network: functional ``tf_keras`` model; it is left as it is. Models used as layers are
        entered, their layers named by their paths. Layers other than Conv2D,
        Dense, BatchNormalization, ReLU, Activation, 2-D pooling, Flatten and Add keep their
        channels, and so does what they read.

    Returns:
      The new network, of the same outputs but for rounding. Every layer keeps at least one
      channel.

    Raises:
      UsageError: ``network`` is no functional model.

    Example:
      >>> from tf_lottery.models import build_model
      >>> network = build_model("convnet", (8, 8, 1), 10, seed=0)
      >>> kernel = network.get_layer("conv1").kernel  # (3, 3, 1, 32)
      >>> _ = kernel.assign(kernel * np.repeat([0.0, 1.0], 16))
      >>> compact(network).widths["conv1"]
      (32, 16)
    """
    network = flattened(network)
    channels = Channels(read_graph(network), InInference())
    channels.keep_one_of_each()
    return _rebuild(network, channels, fold=True)


def compact_for_training(
    network: Any, masks: Mapping[str, np.ndarray], held: Mapping[str, np.ndarray]
) -> Compaction:
    """Cuts out what no output depends on, now and after any masked training.

    Gone are filters and units that nothing reads, and those that stay zero throughout; what
    remains takes the same steps as before, gradients and BatchNorm statistics included.

    Args:
      network: as in ``compact``; its Conv2D and Dense layers have no weight where their
        mask has none.
      masks: layer name -> bool array of its kernel's shape, True where the weight is kept,
        at least once in each layer.
      held: BatchNorm layer name -> bool (channels,), True where scale and shift are held at 0.

    Returns:
      The new network. Every layer keeps at least one weight that its mask has.

    Raises:
      UsageError: ``network`` is no functional model.
    """
    network = flattened(network)
    channels = Channels(read_graph(network), ThroughoutTraining(masks, held))
    for node in reversed(channels.nodes):
        if node.sort == graph.READER:
            _keep_a_weight(channels, node, np.asarray(masks[node.name], bool))
    channels.keep_one_of_each()
    return _rebuild(network, channels, fold=False)


def _keep_a_weight(channels: Channels, node: Node, mask: np.ndarray) -> None:
    """Keeps the channels of one weight of a layer that would be left without any."""
    if mask[_last_two(*_kept(channels, node, mask.shape))].any():
        return
    *_, row, column = np.argwhere(mask)[0]
    channels.keep(node.sources[0], int(row))
    channels.keep(node.name, int(column))


def _last_two(rows: np.ndarray, columns: np.ndarray) -> tuple:
    """Index of these rows and columns of an array's last two axes."""
    return (..., *np.ix_(rows, columns))


def _positions(kept: np.ndarray | None, size: int) -> np.ndarray:
    return np.arange(size) if kept is None else np.flatnonzero(kept)


def _kept(channels: Channels, node: Node, shape: Any) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and outputs that a Conv2D or Dense layer keeps."""
    return (
        _positions(channels.kept(node.sources[0]), shape[-2]),
        _positions(channels.kept(node.name), shape[-1]),
    )


def _rebuild(network: Any, channels: Channels, fold: bool) -> Compaction:
    kept: dict[str, tuple[np.ndarray, ...]] = {}
    widths: dict[str, tuple[int, int]] = {}
    biases: dict[str, np.ndarray] = {}
    for node in channels.nodes:
        if node.sort == graph.READER:
            kept[node.name] = _kept(channels, node, node.layer.kernel.shape)
            widths[node.name] = (node.layer.kernel.shape[-1], len(kept[node.name][1]))
            if fold:
                biases[node.name] = _bias(channels, node)
        elif node.sort == graph.NORM:
            size = node.layer.moving_mean.shape[0]
            kept[node.name] = (_positions(channels.kept(node.name), size),)

    biased = [name for name, bias in biases.items() if np.any(bias)]
    made = narrowed(network, {name: after for name, (_, after) in widths.items()}, biased)
    for node in channels.nodes:
        if node.layer is not None and node.layer.weights:
            _copy(node, made.get_layer(node.name), channels, kept, biases.get(node.name))
    return Compaction(made, kept, widths)


def _bias(channels: Channels, node: Node) -> np.ndarray:
    """float64 (outputs,): what inputs that go leave behind."""
    needed, values = channels.needed(node.sources[0]), channels.values[node.sources[0]]
    outputs = node.layer.kernel.shape[-1]
    if needed is None or values is None:
        return np.zeros(outputs)
    return folded_bias(node.layer, np.where(needed, np.nan, values))


def _copy(
    node: Node,
    new: Any,
    channels: Channels,
    kept: Mapping[str, tuple[np.ndarray, ...]],
    bias: np.ndarray | None,
) -> None:
    """Gives a layer of the new network its weights."""
    if node.sort == graph.READER:
        rows, columns = kept[node.name]
        kernel = node.layer.kernel.numpy()
        needed = channels.needed(node.sources[0])
        if bias is not None and needed is not None:
            # An input that is kept without need may be anything now.
            kernel = np.where(needed[:, None], kernel, 0)
        new.kernel.assign(kernel[_last_two(rows, columns)])
        if new.use_bias:
            old = node.layer.bias.numpy() if node.layer.use_bias else np.zeros(kernel.shape[-1])
            new.bias.assign((old + (0 if bias is None else bias))[columns].astype(np.float32))
    elif node.sort == graph.NORM:
        for variable in new.weights:
            part = variable.name.split("/")[-1].split(":")[0]
            variable.assign(getattr(node.layer, part).numpy()[kept[node.name][0]])
    else:
        new.set_weights(node.layer.get_weights())
