"""Pruned networks whose weights and statistics look trained."""

import numpy as np
import pytest


@pytest.fixture(scope="session")
def pruned():
    """Makes a network look trained and prunes it, in place.

    The masks keep the weights that are largest over their layer's mean, ``sparsity`` of all
    removed, at least one in each layer. ``held``: BatchNorm behind a filter without a weight is
    zero, as ``mask_weights`` leaves it.
    """
    from tf_lottery.pruning.masks import mask_weights, prunable_kernels

    def prune(network, sparsity, images, seed=0, held=True):
        rng = np.random.default_rng(seed)
        kernels = prunable_kernels(network)
        scores = {}
        for name, kernel in kernels.items():
            values = rng.normal(0, np.sqrt(2 / np.prod(kernel.shape[:-1])), kernel.shape)
            kernel.assign(values)
            scores[name] = np.abs(values) / np.abs(values).mean()
        cut = np.quantile(np.concatenate([s.ravel() for s in scores.values()]), sparsity)
        masks = {name: score >= min(cut, score.max()) for name, score in scores.items()}
        for name, kernel in kernels.items():
            kernel.assign(kernel * masks[name])
        norms = [layer for layer in network.layers if hasattr(layer, "moving_mean")]
        for layer in norms:
            layer.momentum = 0.0  # the averages become those of the next batch
            layer.gamma.assign(rng.uniform(0.5, 1.5, layer.gamma.shape))
            layer.beta.assign(rng.normal(0, 0.3, layer.beta.shape))
        for name in kernels:
            if network.get_layer(name).use_bias:
                bias = network.get_layer(name).bias
                bias.assign(rng.normal(0, 0.1, bias.shape))
        if norms:
            network(images, training=True)
        for layer in norms:
            deviation = np.sqrt(layer.moving_variance.numpy())
            layer.moving_mean.assign_add(rng.normal(0, 0.1, deviation.shape) * deviation)
            layer.moving_variance.assign(deviation**2 * rng.uniform(0.7, 1.4, deviation.shape))
        if held:
            mask_weights(network, masks)
        return masks

    return prune
