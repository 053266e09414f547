"""A small ticket, one that rewinds to a later epoch, and both on disk."""

import numpy as np
import pytest

from tf_lottery import weights
from tf_lottery.options.settings import ModelConfig
from tf_lottery.pruning.masks import prunable_kernels
from tf_lottery.tickets import NetworkSpec, Ticket

MODEL = ModelConfig("convnet", width_multiplier=0.1, normalize=True)
SPEC = NetworkSpec(MODEL, (8, 8, 1), 4, mean=(0.5,), std=(0.25,))
FOUND = {"kind": "boosting", "objective": "fgsm", "rates": [0.01, 1e-05], "cost": {"seconds": 1.5}}


@pytest.fixture(scope="module")
def initial():
    return weights.get_weights(SPEC.build(3))


@pytest.fixture(scope="module")
def ticket(tiny_masks, initial):
    masks = tiny_masks(prunable_kernels(SPEC.build(3)), density=0.3, dead={"conv2": 1})
    return Ticket(SPEC, "tiny", 3, weights.digest(initial), masks, found=FOUND)


@pytest.fixture(scope="module")
def rewound(ticket, initial):
    """A ticket that goes back to epoch 2, whose weights and statistics have moved."""
    rng = np.random.default_rng(0)
    later = {k: (v + rng.uniform(0.1, 0.9, v.shape)).astype("float32") for k, v in initial.items()}
    return Ticket(
        SPEC, "tiny", 3, ticket.init_digest, ticket.masks, rewind_epoch=2,
        rewind_weights=later, found=FOUND, parent=ticket.digest,
    )  # fmt: skip


@pytest.fixture
def saved(ticket, tmp_path):
    return ticket.save(tmp_path / "ticket")


@pytest.fixture
def saved_rewound(rewound, tmp_path):
    return rewound.save(tmp_path / "rewound")
