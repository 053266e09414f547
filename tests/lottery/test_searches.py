"""Tickets by each way of ``--search``, cut from a network of milliseconds."""

import json

import numpy as np
import pytest

from tf_lottery import weights
from tf_lottery.engine.serial import run_stages
from tf_lottery.engine.store import Store
from tf_lottery.errors import UsageError
from tf_lottery.lottery.graph import make_entry
from tf_lottery.lottery.work import Workshop
from tf_lottery.options.build import lottery_config
from tf_lottery.pruning import quotas

WAYS = ("early", "snip", "grasp", "synflow", "random")
SMALL = {
    "width_multiplier": 0.15, "train_examples": 128, "test_examples": 20, "batch_size": 32,
    "epochs": 7, "eps": 0.1, "attacks": (), "validation_attack": "fgsm", "validation_examples": 40,
    "mask_distance": 0.3,
}  # fmt: skip


def found(home, kind, **changes):
    """The ticket of a kind, the stage that left it and the workshop."""
    config = lottery_config(**{**SMALL, **changes})
    workshop = Workshop(Store(home))
    entry = make_entry(config, kind)
    run_stages([entry.ticket], workshop, lambda line: None)
    return workshop.ticket(entry.ticket), entry, workshop


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.mark.parametrize("way", WAYS)
def test_a_ticket(way, home, tmp_path):
    ticket, _, _ = found(home, way)
    assert ticket.weights_kept == round(0.2 * ticket.weights_total)
    assert all(mask.any() for mask in ticket.masks.values())
    assert ticket.found["way"] == way
    assert ticket.rewind_weights is None
    # The same again elsewhere; another seed finds another.
    again, _, _ = found(tmp_path, way)
    assert again.digest == ticket.digest
    assert found(tmp_path, way, seed=1)[0].digest != ticket.digest
    # As the boosting ticket it has the same mask and controls of its own.
    boosting, _, _ = found(home, "boosting", search=way)
    assert boosting.digest == ticket.digest
    fresh, _, _ = found(home, "reinit", search=way)
    assert fresh.init_digest != ticket.init_digest
    random, _, _ = found(home, "random_mask", search=way)
    assert random.init_digest == ticket.init_digest
    for name, mask in ticket.masks.items():
        np.testing.assert_array_equal(fresh.masks[name], mask)
        assert random.masks[name].sum() == mask.sum()
    assert random.found["way"] == fresh.found["way"] == way
    assert [random.found["control"], fresh.found["control"]] == ["random_mask", "reinit"]
    # No cost but what was spent.
    assert (ticket.found["cost"]["flops"] > 0) == (way != "random")


def test_higher_sparsity_is_a_part_where_scores_do_not_depend_on_it(home):
    for way in ("snip", "grasp"):
        dense, thin = (found(home, way, sparsity=s)[0].masks for s in (0.5, 0.9))
        assert all(not (thin[name] & ~mask).any() for name, mask in dense.items())


@pytest.mark.parametrize("way", ["snip", "grasp"])
def test_attacked_images_are_looked_at_where_the_search_attacks(way, home):
    attacked, natural = found(home, way)[0], found(home, way, search_objective="natural")[0]
    assert attacked.digest != natural.digest
    passes = {"snip": 1, "grasp": 4}[way]
    for ticket, steps in ((attacked, 1), (natural, 0)):
        cost = ticket.found["cost"]
        assert cost["forward_passes"] == cost["input_gradient_passes"] == 100 * (passes + steps)
        assert cost["weight_gradient_passes"] == 100 * passes


def test_a_score_by_that_name_is_the_same_thing(home):
    """``--score=snip`` after a training looks at the trained weights, masks included."""
    ticket, _, _ = found(home, "boosting", score="snip", pruning_schedule="decreasing", rounds=2,
                         search_epochs=1)  # fmt: skip
    assert ticket.found["pruning"]["score"] == "snip"
    assert ticket.found["way"] == "train"
    assert ticket.weights_kept == round(0.2 * ticket.weights_total)


@pytest.mark.parametrize("density", ["uniform", "erk", "igq"])
def test_densities_of_random_layers(density, home):
    ticket, _, _ = found(home, "random", layer_density=density)
    shapes = [mask.shape for mask in ticket.masks.values()]
    sizes = np.array([mask.size for mask in ticket.masks.values()])
    function = quotas.DENSITIES["layer" if density == "uniform" else density]
    kept = np.array([mask.sum() for mask in ticket.masks.values()])
    assert np.abs(kept - function(shapes, 0.2) * sizes).max() <= 1
    assert kept.sum() == ticket.weights_kept == round(0.2 * sizes.sum())


def test_too_few_images_for_a_score(home):
    with pytest.raises(UsageError, match="--score: the function asks for 100 images, there are 64"):
        found(home, "snip", train_examples=64)


def test_an_early_search_counts_the_epochs_it_took(home, capfd):
    ticket, entry, workshop = found(home, "early", mask_distance=1.0)
    (search,) = entry.searches
    assert len(workshop.history(search)) == 5
    assert ticket.found["searched_epochs"] == ["5 of 7"]
    assert "search: early: the mask has settled after epoch 5, 2 epochs saved" in (
        capfd.readouterr().err
    )
    ledger = workshop.ledger(search)
    assert ledger["examples"] == 5 * 128
    assert ticket.found["cost"]["examples"] == 5 * 128


@pytest.mark.parametrize("way", ["train", "early"])
def test_a_ticket_may_keep_the_weights_of_the_search(way, home):
    ticket, entry, workshop = found(home, "boosting", search=way, rewind_epoch="current",
                                    mask_distance=1.0, epochs=6)  # fmt: skip
    (search,) = entry.searches
    final = weights.read_arrays(workshop.store.file(search, "final.npz"))
    assert ticket.rewind_epoch == len(workshop.history(search)) == {"train": 6, "early": 5}[way]
    assert weights.digest(ticket.rewind_weights) == weights.digest(final)
    trained = weights.get_weights(ticket.network().network)
    statistics = [name for name in final if "moving" in name]
    assert statistics
    initial = weights.read_arrays(workshop.store.file(entry.ticket.parents["start"], "weights.npz"))
    for name in statistics:  # BatchNorm's go with the weights
        np.testing.assert_array_equal(trained[name], final[name])
        assert not np.array_equal(final[name], initial[name])
    for name, mask in ticket.masks.items():
        np.testing.assert_array_equal(trained[f"{name}/kernel"], final[f"{name}/kernel"] * mask)
    # The control starts afresh.
    control, _, _ = found(home, "reinit", search=way, rewind_epoch="current", mask_distance=1.0,
                          epochs=6)  # fmt: skip
    assert control.rewind_epoch == 0
    assert control.rewind_weights is None
    document = json.loads(workshop.store.file(entry.ticket, "ticket/ticket.json").read_bytes())
    assert document["found"]["pruning"]["rewind_epoch"] == "current"
