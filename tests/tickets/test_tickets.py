"""Round trips and application of tickets."""

import dataclasses
import json
import os

import numpy as np
import pytest

from tf_lottery import weights
from tf_lottery.errors import TicketError
from tf_lottery.models import build_model
from tf_lottery.options.settings import ModelConfig
from tf_lottery.pruning.masks import wrap
from tf_lottery.tickets import NetworkSpec, Ticket, read_document

MODEL = ModelConfig("convnet", width_multiplier=0.1, normalize=True)
SPEC = NetworkSpec(MODEL, (8, 8, 1), 4, mean=(0.5,), std=(0.25,))
FOUND = {"kind": "boosting", "objective": "fgsm", "rates": [0.01, 1e-05], "cost": {"seconds": 1.5}}


def same(a, b):
    assert list(a.masks) == list(b.masks)
    for name, mask in a.masks.items():
        assert b.masks[name].dtype == bool
        np.testing.assert_array_equal(b.masks[name], mask)
    for field in ("spec", "dataset", "init_seed", "init_digest", "rewind_epoch", "found", "parent",
                  "package_version", "digest"):  # fmt: skip
        assert getattr(a, field) == getattr(b, field), field
    if a.rewind_weights is None:
        assert b.rewind_weights is None
    else:
        assert weights.digest(a.rewind_weights) == weights.digest(b.rewind_weights)


# --- round trips -----------------------------------------------------------------------


def test_round_trip(ticket, rewound, saved, saved_rewound):
    same(ticket, Ticket.load(saved))
    same(rewound, Ticket.load(str(saved_rewound)))
    assert sorted(os.listdir(saved)) == ["masks.npz", "ticket.json"]
    assert sorted(os.listdir(saved_rewound)) == ["masks.npz", "rewind.npz", "ticket.json"]


def test_saving_twice_gives_the_same_ticket(ticket, saved):
    first = (saved / "ticket.json").read_bytes()
    ticket.save(saved)
    assert (saved / "ticket.json").read_bytes() == first
    same(ticket, Ticket.load(saved))


def test_saving_over_another_ticket(ticket, rewound, saved_rewound):
    ticket.save(saved_rewound)
    same(ticket, Ticket.load(saved_rewound))


@pytest.mark.parametrize(
    "found",
    [
        {"rounds": {2: "a", 10: "b"}},
        {"rates": (0.1, 0.2), "name": "Zürich \u2028", "none": None, "big": 2**70},
    ],
    ids=["numbers as keys", "tuples and names"],
)
def test_whatever_can_be_saved_can_be_loaded(ticket, tmp_path, found):
    other = Ticket(SPEC, "tiny", 3, ticket.init_digest, ticket.masks, found=found)
    loaded = Ticket.load(other.save(tmp_path / "t"))
    assert loaded.found == json.loads(json.dumps(found))


def test_counts(ticket):
    total = sum(m.size for m in ticket.masks.values())
    kept = sum(int(m.sum()) for m in ticket.masks.values())
    assert (ticket.weights_total, ticket.weights_kept) == (total, kept)
    assert ticket.density == kept / total
    assert [layer["layer"] for layer in ticket.layers] == ["conv1", "conv2", "conv3", "logits"]
    kept_first = int(ticket.masks["conv1"].sum())
    assert ticket.layers[0] == {"layer": "conv1", "weights": 27, "kept": kept_first}


def test_document_says_it_all(ticket, saved):
    document = read_document(saved)
    assert document["format"] == 1
    assert document["dataset"] == "tiny"
    assert document["initialization"] == {"seed": 3, "digest": ticket.init_digest}
    assert document["density"] == ticket.density
    assert document["layers"] == ticket.layers
    assert document["found"] == FOUND
    assert document["shapes"]["conv1"] == [3, 3, 1, 3]
    assert document["network"]["width_multiplier"] == 0.1


def test_masks_take_a_bit_a_weight(tmp_path):
    n = 80_000
    mask = np.random.default_rng(0).random((400, 200)) < 0.2
    big = Ticket(SPEC, "tiny", 0, "", {"a": mask})
    big.save(tmp_path / "t")
    size = (tmp_path / "t" / "masks.npz").stat().st_size
    assert n / 8 <= size <= n / 8 + 400
    with np.load(tmp_path / "t" / "masks.npz", allow_pickle=False) as archive:
        np.testing.assert_array_equal(np.unpackbits(archive["a"])[:n], mask.ravel())


def test_digest_sees_masks_initialisation_and_rewind_point(ticket, rewound):
    flipped = {k: v.copy() for k, v in ticket.masks.items()}
    flipped["conv1"].reshape(-1)[0] ^= True
    others = [
        Ticket(SPEC, "tiny", 3, ticket.init_digest, flipped),
        Ticket(SPEC, "tiny", 3, "0" * 64, ticket.masks),
        Ticket(NetworkSpec(SPEC.model, (8, 8, 1), 5), "tiny", 3, ticket.init_digest, ticket.masks),
        rewound,
    ]
    assert len({t.digest for t in (ticket, *others)}) == 5
    described = Ticket(SPEC, "other", 3, ticket.init_digest, ticket.masks, found={"x": 1})
    assert described.digest == ticket.digest  # content, not story


# --- application -----------------------------------------------------------------------


def expected_weights(source, masks, dead_bn=("bn2", 1)):
    result = {k: v.copy() for k, v in source.items()}
    for name, mask in masks.items():
        result[f"{name}/kernel"] = result[f"{name}/kernel"] * mask
    bn, filter_ = dead_bn
    result[f"{bn}/gamma"][filter_] = result[f"{bn}/beta"][filter_] = 0
    return result


def scramble(network):
    for variable in network.weights:
        variable.assign(variable * 3 + 1)


def test_apply_to_a_masked_network_rewinds_everything(ticket, rewound, initial):
    for each, source in ((ticket, initial), (rewound, rewound.rewind_weights)):
        masked = wrap(SPEC.build(77))
        scramble(masked.network)
        assert each.apply(masked) is masked
        after = weights.get_weights(masked.network)
        for name, value in expected_weights(source, ticket.masks).items():
            np.testing.assert_array_equal(after[name], value, err_msg=name)
        for name, mask in ticket.masks.items():
            np.testing.assert_array_equal(masked.get_masks()[name], mask)
    # The initialisation's statistics are those of an untrained BatchNorm.
    ticket.apply(masked)
    after = weights.get_weights(masked.network)
    assert not after["bn1/moving_mean"].any()
    assert (after["bn1/moving_variance"] == 1).all()


@pytest.mark.parametrize("which", ["ticket", "rewound"])
def test_apply_to_a_bare_network_gives_the_same_network(which, request, initial):
    each = request.getfixturevalue(which)
    masked, bare = each.network(), SPEC.build(5)
    scramble(bare)
    assert each.apply(bare) is bare
    for name, mask in each.masks.items():
        assert not bare.get_layer(name).kernel.numpy()[~mask].any()
    x = np.random.default_rng(0).random((3, 8, 8, 1)).astype("float32")
    np.testing.assert_allclose(
        bare(x, training=False), masked.network(x, training=False), atol=1e-6
    )
    ours, theirs = weights.get_weights(bare), weights.get_weights(masked.network)
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)


def test_network_is_ready_to_train(saved, initial, ticket):
    masked = Ticket.load(saved).network()
    assert not masked.is_dense()
    np.testing.assert_array_equal(
        masked.kernels["conv3"].numpy(), initial["conv3/kernel"] * ticket.masks["conv3"]
    )


def test_apply_to_another_architecture(ticket):
    others = [
        build_model("lenet", (8, 8, 1), 4, 0, width_multiplier=0.1),
        build_model("convnet", (8, 8, 1), 4, 0, width_multiplier=0.2),
        build_model("convnet", (8, 8, 1), 5, 0, width_multiplier=0.1),
        build_model("convnet", (8, 8, 3), 4, 0, width_multiplier=0.1),
    ]
    for other in others:
        for network in (other, wrap(other)):
            bare = getattr(network, "network", network)
            before = weights.digest(weights.get_weights(bare))
            with pytest.raises(TicketError, match="the ticket is for convnet"):
                ticket.apply(network)
            assert weights.digest(weights.get_weights(bare)) == before


def test_another_initialisation_than_the_tickets(ticket):
    other = Ticket(SPEC, "tiny", 4, ticket.init_digest, ticket.masks)
    with pytest.raises(TicketError, match="seed 4 gives another initialisation"):
        other.apply(SPEC.build(4))
    with pytest.raises(TicketError, match="TensorFlow version"):
        other.network()


def test_whole_numbers_in_place_of_floats_make_the_same_ticket(ticket, tmp_path):
    model = ModelConfig("lenet", width_multiplier=1)
    spec = NetworkSpec(model, [8, 8, 1], 4, mean=[0], std=np.ones(1, np.float32))
    whole = dataclasses.replace(ticket, spec=spec)
    assert Ticket.load(whole.save(tmp_path / "whole")).digest == whole.digest
    same = NetworkSpec(ModelConfig("lenet"), (8, 8, 1), 4, mean=(0.0,), std=(1.0,))
    assert dataclasses.replace(ticket, spec=same).digest == whole.digest
