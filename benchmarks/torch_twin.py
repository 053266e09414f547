"""A network of this package a second time, in PyTorch, for second opinions on attacks.

    twin = torch_twin.build(network)   # torch.nn.Module, inference mode, weights copied
    logits = torch_twin.logits(twin, images)   # NumPy in, NumPy out, as Keras shapes them

Chains of layers only (convnet, lenet, vgg): no residual networks. PyTorch keeps images as
(batch, channels, height, width); the twin takes them so, as its attacks expect.
"""

from __future__ import annotations

import itertools

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


def build(network: keras.Model) -> nn.Sequential:
    """The same function in PyTorch, with copies of the weights, which ask for no gradient.

    Args:
      network: float32 functional model, each layer of which reads the one before.

    Returns:
      Inference-mode module: float32 (batch, channels, height, width) in [0, 1] -> logits.

    Raises:
      ValueError: a layer, or an option of a layer, that has no counterpart here.
    """
    modules: list[nn.Module] = []
    # Not by the layers' own inputs: a layer that several models share has several.
    readers = {entry["name"]: entry["inbound_nodes"] for entry in network.get_config()["layers"]}
    for before, layer in itertools.pairwise(network.layers):
        if readers[layer.name] != [[[before.name, 0, 0, {}]]]:
            raise ValueError(f"layer {layer.name} reads not {before.name} alone: not a chain")
        if layer.compute_dtype != "float32":
            raise ValueError(f"layer {layer.name} computes in {layer.compute_dtype}, not float32")
        modules += _counterpart(layer)
    # Attacks need the pixels' gradient alone, and this layout is the faster one on CPUs:
    # the peer is measured at its best.
    twin = nn.Sequential(*modules).to(memory_format=torch.channels_last)
    return twin.requires_grad_(False).eval()


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


def _counterpart(layer: keras.layers.Layer) -> list[nn.Module]:
    kinds = keras.layers
    if isinstance(layer, kinds.Rescaling):
        return [Rescaling(layer.scale, layer.offset)]
    if isinstance(layer, kinds.Conv2D):
        return [_convolution(layer), *_activation(layer)]
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
    raise ValueError(f"layer {layer.name}: {type(layer).__name__} has no counterpart")


def _convolution(layer: keras.layers.Conv2D) -> nn.Module:
    """Kernel (height, width, in, out) -> (out, in, height, width)."""
    if layer.strides != (1, 1) or layer.padding != "same" or layer.dilation_rate != (1, 1):
        raise ValueError(f"layer {layer.name}: only stride 1 with 'same' padding has a counterpart")
    if layer.groups != 1 or any(size % 2 == 0 for size in layer.kernel_size):
        raise ValueError(f"layer {layer.name}: groups and even kernels have no counterpart")
    weight, *bias = layer.get_weights()
    padding = tuple(size // 2 for size in layer.kernel_size)
    convolution = nn.Conv2d(*weight.shape[2:], layer.kernel_size, padding=padding, bias=bool(bias))
    return _filled(convolution, weight.transpose(3, 2, 0, 1), bias)


def _batch_norm(layer: keras.layers.BatchNormalization) -> nn.Module:
    if not (layer.scale and layer.center):
        raise ValueError(f"layer {layer.name}: BatchNorm without scale or shift")
    gamma, beta, mean, variance = layer.get_weights()
    kind = nn.BatchNorm2d if layer.input_spec.ndim == 4 else nn.BatchNorm1d
    module = kind(len(gamma), eps=layer.epsilon)
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
