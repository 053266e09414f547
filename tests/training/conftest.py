"""A masked network to train."""

import pytest


@pytest.fixture(scope="session")
def sparse(tiny_network, tiny_masks):
    """Makes the same masked starting network again and again."""
    from tf_lottery.pruning.masks import wrap

    def make(**options):
        masked = wrap(tiny_network(**options))
        masked.set_masks(tiny_masks(masked.kernels, density=0.6, dead={"conv2": 3}))
        return masked

    return make
