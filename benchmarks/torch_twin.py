"""A network of this package a second time, in PyTorch: for second opinions and as a peer.

    twin = torch_twin.build(network)   # torch.nn.Module, inference mode, weights copied
    logits = torch_twin.logits(twin, images)   # NumPy in, NumPy out, as Keras shapes them

All families of ``tf_lottery.models``. PyTorch keeps images as (batch, channels, height,
width); the twin takes them so, as its attacks expect. ``train()`` puts its BatchNorm into
training mode as usual.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from tf_lottery.keras import keras


class Rescaling(nn.Module):
    """x * scale + offset, per channel."""

    def __init__(self, scale, offset):
        super().__init__()
        for name, value in (("scale", scale), ("offset", offset)):
            value = torch.tensor(np.reshape(value, -1), dtype=torch.float32)
            self.register_buffer(name, value[:, None, None])

    def forward(self, x):
        return x * self.scale + self.offset


class FlattenAsKeras(nn.Module):
    """Channels vary fastest, as Keras flattens (batch, height, width, channels)."""

    def forward(self, x):
        return x.permute(0, 2, 3, 1).flatten(1) if x.ndim == 4 else x.flatten(1)


class GlobalAverage(nn.Module):
    """(batch, channels, height, width) -> (batch, channels)."""

    def forward(self, x):
        return x.mean(dim=(2, 3))


class Sum(nn.Module):
    """The sum of its two inputs."""

    def forward(self, x, y):
        return x + y


class SamePadding(nn.Module):
    """Zeros as TensorFlow's "same" puts them, where they are not alike on both ends."""

    def __init__(self, size: int, stride: int):
        super().__init__()
        self.size, self.stride = size, stride

    def forward(self, x):
        def ends(side):
            total = max((-(-side // self.stride) - 1) * self.stride + self.size - side, 0)
            return total // 2, total - total // 2

        return nn.functional.pad(x, (*ends(x.shape[3]), *ends(x.shape[2])))


class Twin(nn.Module):
    """Layers in their order; each reads the outputs of named earlier ones."""

    def __init__(self, layers: list[tuple[str, tuple[str, ...], nn.Module]], pixels: str):
        super().__init__()
        self._pixels = pixels
        self._inputs = [(name, inputs) for name, inputs, _ in layers]
        self.layers = nn.ModuleList(module for _, _, module in layers)
        last = {source: i for i, (_, inputs) in enumerate(self._inputs) for source in inputs}
        # An activation is let go after its last reader, unless autograd holds it.
        self._dead = [[s for s, i in last.items() if i == n] for n in range(len(layers))]

    def named(self, name: str) -> nn.Module:
        """The layer of that name in Keras."""
        return self.layers[[layer for layer, _ in self._inputs].index(name)]

    def forward(self, x):
        values = {self._pixels: x}
        for (name, inputs), module, dead in zip(self._inputs, self.layers, self._dead, strict=True):
            x = values[name] = module(*(values[source] for source in inputs))
            for source in dead:
                del values[source]
        return x


def build(network: keras.Model, symmetric_padding: bool = False) -> Twin:
    """The same function in PyTorch, with copies of the weights, which ask for no gradient.

    Args:
      network: float32 functional model with one input and one output.
      symmetric_padding: strided convolutions pad both ends alike, as networks written for
        PyTorch do: not the same function, but without a copy of the padded images.

    Returns:
      Inference-mode module: float32 (batch, channels, height, width) in [0, 1] -> logits.

    Raises:
      ValueError: a layer, or an option of a layer, that has no counterpart here.
    """
    # Not by the layers' own inputs: a layer that several models share has several.
    readers = {entry["name"]: entry["inbound_nodes"] for entry in network.get_config()["layers"]}
    pixels, *rest = network.layers
    layers = []
    for layer in rest:
        if layer.compute_dtype != "float32":
            raise ValueError(f"layer {layer.name} computes in {layer.compute_dtype}, not float32")
        (calls,) = readers[layer.name]
        inputs = tuple(source for source, *_ in calls)
        layers.append((layer.name, inputs, nn.Sequential(*_counterpart(layer, symmetric_padding))))
        if len(inputs) > 1:
            layers[-1] = (layer.name, inputs, Sum())
    # This layout is the faster one on CPUs: the peer is measured at its best.
    twin = Twin(layers, pixels.name).to(memory_format=torch.channels_last)
    return twin.requires_grad_(False).eval()


def masks(twin: Twin, by_layer: Mapping[str, np.ndarray]) -> list[tuple[nn.Parameter, Any]]:
    """Each masked weight of the twin with its mask, a tensor of 0.0 and 1.0 in its layout.

    Args:
      by_layer: boolean masks in the shape of the Keras kernels, by layer name.
    """
    found = []
    for name, mask in by_layer.items():
        weight = twin.named(name)[-1].weight
        moved = mask.transpose(3, 2, 0, 1) if mask.ndim == 4 else mask.T
        value = torch.from_numpy(np.ascontiguousarray(moved, np.float32))
        found.append((weight, torch.empty_like(weight).copy_(value).detach()))
    return found


def logits(twin: nn.Module, images: np.ndarray) -> np.ndarray:
    """float32 (batch, height, width, channels) -> (batch, classes)."""
    with torch.no_grad():
        return twin(as_torch(images)).numpy()


def as_torch(images: np.ndarray) -> torch.Tensor:
    """(batch, height, width, channels) -> contiguous (batch, channels, height, width)."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(images, 3, 1)))


def as_numpy(images: torch.Tensor) -> np.ndarray:
    """The way back."""
    return np.moveaxis(images.detach().numpy(), 1, 3)


def _counterpart(layer: keras.layers.Layer, symmetric_padding: bool) -> list[nn.Module]:
    kinds = keras.layers
    if isinstance(layer, kinds.Rescaling):
        return [Rescaling(layer.scale, layer.offset)]
    if isinstance(layer, kinds.Conv2D):
        return [*_convolution(layer, symmetric_padding), *_activation(layer)]
    if isinstance(layer, kinds.Dense):
        weight, *bias = layer.get_weights()
        linear = nn.Linear(*weight.shape, bias=bool(bias))
        return [_filled(linear, weight.T, bias), *_activation(layer)]
    if isinstance(layer, kinds.BatchNormalization):
        return [_batch_norm(layer)]
    if isinstance(layer, kinds.ReLU):
        if layer.max_value is not None or layer.negative_slope or layer.threshold:
            raise ValueError(f"layer {layer.name}: only the plain ReLU has a counterpart")
        return [nn.ReLU()]
    # With an odd side the last window is cut off at the edge: nothing is averaged in.
    if isinstance(layer, (kinds.AveragePooling2D, kinds.MaxPooling2D)):
        average = isinstance(layer, kinds.AveragePooling2D)
        if not layer.pool_size == layer.strides == (2, 2):
            raise ValueError(f"layer {layer.name}: only 2x2 pooling has a counterpart")
        ceil = layer.padding == "same"
        return [(nn.AvgPool2d if average else nn.MaxPool2d)(2, ceil_mode=ceil)]
    if isinstance(layer, kinds.GlobalAveragePooling2D):
        return [GlobalAverage()]
    if isinstance(layer, kinds.Flatten):
        return [FlattenAsKeras()]
    if isinstance(layer, kinds.Add):
        return []
    raise ValueError(f"layer {layer.name}: {type(layer).__name__} has no counterpart")


def _convolution(layer: keras.layers.Conv2D, symmetric_padding: bool) -> list[nn.Module]:
    """Kernel (height, width, in, out) -> (out, in, height, width)."""
    size, stride = layer.kernel_size[0], layer.strides[0]
    if layer.padding != "same" or layer.dilation_rate != (1, 1) or layer.groups != 1:
        raise ValueError(f"layer {layer.name}: only plain 'same' padding has a counterpart")
    if layer.kernel_size != (size, size) or layer.strides != (stride, stride) or size % 2 == 0:
        raise ValueError(f"layer {layer.name}: only odd square kernels have a counterpart")
    weight, *bias = layer.get_weights()
    uneven = stride > 1 and size > 1 and not symmetric_padding
    convolution = nn.Conv2d(
        *weight.shape[2:],
        size,
        stride=stride,
        padding=0 if uneven else size // 2,
        bias=bool(bias),
    )
    modules: list[nn.Module] = [SamePadding(size, stride)] if uneven else []
    return [*modules, _filled(convolution, weight.transpose(3, 2, 0, 1), bias)]


def _batch_norm(layer: keras.layers.BatchNormalization) -> nn.Module:
    if not (layer.scale and layer.center):
        raise ValueError(f"layer {layer.name}: BatchNorm without scale or shift")
    gamma, beta, mean, variance = layer.get_weights()
    kind = nn.BatchNorm2d if layer.input_spec.ndim == 4 else nn.BatchNorm1d
    module = kind(len(gamma), eps=layer.epsilon, momentum=1 - layer.momentum)
    with torch.no_grad():
        module.running_mean.copy_(torch.from_numpy(mean))
        module.running_var.copy_(torch.from_numpy(variance))
    return _filled(module, gamma, [beta])


def _filled(module: nn.Module, weight: np.ndarray, bias: list[np.ndarray]) -> nn.Module:
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(np.ascontiguousarray(weight)))
        if bias:
            module.bias.copy_(torch.from_numpy(bias[0]))
    return module


def _activation(layer: keras.layers.Layer) -> list[nn.Module]:
    name = keras.activations.serialize(layer.activation)
    if name == "linear":
        return []
    if name == "relu":
        return [nn.ReLU()]
    raise ValueError(f"layer {layer.name}: activation {name} has no counterpart")
