"""What stages share while they are carried out."""

import numpy as np

from tf_lottery import weights
from tf_lottery.engine.store import Store
from tf_lottery.lottery.work import Workshop
from tf_lottery.options.build import lottery_config

OPTIONS = {
    "train_examples": 32, "validation_examples": 10, "test_examples": 200, "batch_size": 16,
    "width_multiplier": 0.1, "attacks": (), "compare": ("dense",),
}  # fmt: skip


def test_attacks_are_of_the_network_that_gets_the_weights(tmp_path):
    """Also after networks of other widths, as tickets of channels have, were looked at."""
    shop, config = Workshop(Store(tmp_path)), lottery_config(**OPTIONS)
    data = shop.data(config)

    def accuracies(seed):
        network = shop.network(config)
        weights.set_weights(network, weights.get_weights(shop.spec(config).build(seed)))
        found = shop.evaluator(config)(data.test_images, data.test_labels, 0)
        logits = network(data.test_images / np.float32(255)).numpy()
        return found.natural, np.mean(logits.argmax(axis=1) == data.test_labels)

    first, expected = accuracies(1)
    assert first == expected
    for width in (0.2, 0.3, 0.4, 0.5):
        shop.forward_flops(lottery_config(**{**OPTIONS, "width_multiplier": width}))
    later = [accuracies(seed) for seed in (2, 3, 4, 5)]
    assert all(found == expected for found, expected in later)
    assert any(found != first for found, _ in later)
