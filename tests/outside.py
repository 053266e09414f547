"""What a user brings along: a score, networks, ways to find a ticket. Named ``outside:...``."""

import time

import numpy as np

from tf_lottery import weights
from tf_lottery.engine.stage import Stage
from tf_lottery.keras import keras
from tf_lottery.lottery.costs import Cost
from tf_lottery.lottery.finding import leave_ticket, new_ticket
from tf_lottery.lottery.graph import init_stage, prune_stage
from tf_lottery.lottery.work import Kind
from tf_lottery.pruning import prune

SNIP_IMAGES = 48


# Scores.


def snip(context):
    """|g w| (Lee et al. 2019, arXiv 1810.02340)."""
    gradients = context.gradients(*context.batch(SNIP_IMAGES))
    return {layer: np.abs(gradients[layer] * kernel) for layer, kernel in context.weights.items()}


def wrong_shapes(context):
    return {layer: np.abs(kernel).ravel() for layer, kernel in context.weights.items()}


def not_numbers(context):
    return {layer: np.sqrt(-np.abs(kernel)) for layer, kernel in context.weights.items()}


# Networks.


def small(input_shape, num_classes, seed, width_multiplier=1.0):
    """A depthwise convolution among others; layers without names."""
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input(input_shape),
            keras.layers.Conv2D(round(12 * width_multiplier), 3, padding="same"),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.DepthwiseConv2D(3, padding="same", strides=2, use_bias=False),
            keras.layers.Conv2D(8, 1, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(num_classes),
        ]
    )


def unseeded(input_shape, num_classes, seed):
    pixels = keras.Input(input_shape)
    logits = keras.layers.Dense(num_classes)(keras.layers.Flatten()(pixels))
    return keras.Model(pixels, logits)


def nested(input_shape, num_classes, seed):
    """Two models one in the other, each with a layer named conv1."""
    keras.utils.set_random_seed(seed)
    pixels = keras.Input(input_shape)
    x = features = keras.Input((*input_shape[:2], 4))
    for layer in (
        keras.layers.Conv2D(4, 3, padding="same", name="conv1"),
        keras.layers.BatchNormalization(name="bn"),
        keras.layers.ReLU(),
    ):
        x = layer(x)
    x = keras.Model(features, x, name="inner")(
        keras.layers.Conv2D(4, 3, padding="same", name="conv1")(pixels)
    )
    return keras.Model(pixels, keras.layers.Dense(num_classes)(keras.layers.Flatten()(x)))


def nothing_to_prune(input_shape, num_classes, seed):
    pixels = keras.Input(input_shape)
    x = keras.layers.DepthwiseConv2D(3, depth_multiplier=num_classes)(pixels)
    return keras.Model(pixels, keras.layers.GlobalAveragePooling2D()(x))


def too_many_classes(input_shape, num_classes, seed):
    return unseeded(input_shape, num_classes + 1, seed)


def no_model(input_shape, num_classes, seed):
    return lambda x: x


# Ticket finders.


def at_init(config, name, given):
    """Keeps the largest initial weights, by work of its own."""
    return Stage(
        "magnitude_at_init",
        f"prune: {name or 'at init'}",
        {"sparsity": config.prune.sparsity},
        {"start": init_stage(config)},
        {"config": config, "work": Kind(_prune_at_init)},
    )


def _prune_at_init(shop, stage, directory):
    began = time.perf_counter()
    initial = weights.read_arrays(shop.store.file(stage.parents["start"], "weights.npz"))
    names = shop.network(stage.runtime["config"]).layers
    kernels = {n.name: initial[f"{n.name}/kernel"] for n in names if f"{n.name}/kernel" in initial}
    masks = prune(kernels, None, stage.settings["sparsity"], "magnitude")
    ticket = new_ticket(shop, stage, masks, {"by": "magnitude at initialisation"})
    leave_ticket(directory, ticket, Cost(seconds=time.perf_counter() - began))


def scored_at_init(config, name, given):
    """Keeps what ``--score`` likes best of the initial weights."""
    label = f"prune: {name or 'scored at init'}"
    return prune_stage(config, label, config.prune.sparsity, {"start": init_stage(config)})
