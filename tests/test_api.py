"""The Python API, as the documentation promises it."""

import importlib
import inspect

import numpy as np
import pytest

import tf_lottery
from tf_lottery.errors import TicketError, UsageError


def test_every_public_name_can_be_imported():
    assert {
        "build_model", "make_attack", "prune", "evaluate", "Ticket", "find_ticket", "train_ticket",
        "lottery_config",
    } <= set(tf_lottery.__all__)  # fmt: skip
    for name in tf_lottery.__all__:
        assert getattr(tf_lottery, name) is not None
    assert set(tf_lottery.__all__) <= set(dir(tf_lottery))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = tf_lottery.nonsense


@pytest.mark.parametrize("name", [n for n in tf_lottery.__all__ if n != "__version__"])
def test_every_public_name_is_documented(name):
    assert inspect.getdoc(getattr(tf_lottery, name))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("build_model", ["name", "input_shape", "num_classes", "seed"]),
        ("make_attack", ["attack"]),
        ("prune", ["weights", "masks", "sparsity", "score", "scope"]),
        ("evaluate", ["model", "x", "y", "attacks"]),
        ("find_ticket", ["config"]),
        ("train_ticket", ["ticket", "config"]),
    ],
)
def test_the_promised_arguments_come_first(name, parameters):
    found = list(inspect.signature(getattr(tf_lottery, name)).parameters)
    assert found[: len(parameters)] == parameters


def test_importing_a_name_imports_its_module_only():
    assert tf_lottery.prune is importlib.import_module("tf_lottery.pruning").prune


@pytest.fixture(scope="module")
def config():
    return tf_lottery.lottery_config(
        dataset="digits",
        width_multiplier=0.125,
        train_examples=320,
        test_examples=80,
        search_epochs=1,
        epochs=3,
        eps=0.1,
        steps=2,
        learning_rate=0.05,
        batch_size=32,
        sparsity=0.5,
        validation_attack="pgd2",
        attacks=("pgd3",),
        seed=1,
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def ticket(config, store):
    return tf_lottery.find_ticket(config, store)


@pytest.fixture(scope="module")
def trained(ticket, config, store):
    return tf_lottery.train_ticket(ticket, config, store)


@pytest.fixture(scope="module")
def images(config):
    from tf_lottery.data import load

    data = load(config.data)
    return data.test_images, data.test_labels


def test_a_ticket_is_found(ticket):
    total = sum(mask.size for mask in ticket.masks.values())
    assert ticket.weights_kept == round(0.5 * total)
    assert ticket.dataset == "digits"
    assert ticket.rewind_epoch == 0
    assert ticket.found["search"]["objective"]["name"] == "fgsm"
    assert ticket.found["search"]["epochs"] == 1


def test_finding_again_in_the_same_store_does_nothing(config, store, ticket):
    before = {path: path.stat().st_mtime_ns for path in store.rglob("manifest.json")}
    assert tf_lottery.find_ticket(config, store).digest == ticket.digest
    assert {path: path.stat().st_mtime_ns for path in store.rglob("manifest.json")} == before


def test_a_ticket_is_saved_loaded_and_applied(tmp_path, ticket):
    again = tf_lottery.Ticket.load(ticket.save(tmp_path / "ticket"))
    assert again.digest == ticket.digest
    model = tf_lottery.build_model("convnet", (8, 8, 1), 10, seed=99, width_multiplier=0.125)
    assert again.apply(model) is model
    initial = tf_lottery.build_model(
        "convnet", (8, 8, 1), 10, seed=ticket.init_seed, width_multiplier=0.125
    )
    for layer, mask in ticket.masks.items():
        kernel = model.get_layer(layer).kernel.numpy()
        np.testing.assert_array_equal(kernel, initial.get_layer(layer).kernel.numpy() * mask)
    other = tf_lottery.build_model("convnet", (8, 8, 1), 10, seed=99)
    with pytest.raises(TicketError):
        again.apply(other)


def test_a_ticket_is_trained(ticket, trained, images):
    assert [row["epoch"] for row in trained.history] == [1, 2, 3]
    for layer, mask in ticket.masks.items():
        kernel = trained.network.get_layer(layer).kernel.numpy()
        assert not kernel[~mask].any()
        assert np.count_nonzero(kernel) > 0.9 * mask.sum()
    x, y = images
    found = tf_lottery.evaluate(trained.network, x, y, attacks=["fgsm", "pgd5"], eps=0.1)
    assert found.natural > 0.3  # far above the tenth of a guess
    for attack in ("fgsm", "pgd5"):
        assert found.robust[attack] <= found.natural
        assert found.survived[attack].shape == (80,)
        assert found.survived[attack].dtype == bool
        assert found.robust[attack] == pytest.approx(found.survived[attack].mean())
    assert found.robust["pgd5"] <= found.robust["fgsm"] + 0.05


def test_an_attack_on_the_trained_network(trained, images):
    from functools import partial

    from tf_lottery.keras import tf

    x, y = images[0][:16].astype(np.float32) / 255, images[1][:16]
    attack = tf_lottery.make_attack("pgd5", eps=0.1)
    network = partial(trained.network, training=False)
    attacked = attack(network, tf.constant(x), tf.constant(y), 0).numpy()
    assert np.abs(attacked - x).max() <= 0.1 + 1e-6
    assert attacked.min() >= 0
    assert attacked.max() <= 1

    def loss(images):
        return float(
            tf.reduce_sum(
                tf.nn.sparse_softmax_cross_entropy_with_logits(
                    labels=y, logits=network(tf.constant(images))
                )
            )
        )

    assert loss(attacked) > loss(x)


def test_pruning_trained_weights(ticket, trained):
    kernels = {layer: trained.network.get_layer(layer).kernel.numpy() for layer in ticket.masks}
    masks = tf_lottery.prune(
        kernels, ticket.masks, 0.7, score="normalized_magnitude", scope="global"
    )
    total = sum(mask.size for mask in masks.values())
    assert sum(int(mask.sum()) for mask in masks.values()) == round(0.3 * total)
    for layer, mask in masks.items():
        assert not (mask & ~ticket.masks[layer]).any()


def test_a_ticket_of_another_network_is_refused(ticket, store):
    other = tf_lottery.lottery_config(width_multiplier=0.25, epochs=1)
    with pytest.raises(TicketError, match=r"convnet-w0\.125.*convnet-w0\.25"):
        tf_lottery.train_ticket(ticket, other, store)


def test_without_a_store_nothing_is_left(config, tmp_path, monkeypatch):
    import dataclasses
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    tiny = dataclasses.replace(config, data=dataclasses.replace(config.data, train_examples=32))
    assert tf_lottery.find_ticket(tiny).density == pytest.approx(0.5, abs=1e-3)
    assert list(tmp_path.iterdir()) == []


def test_wrong_arguments_are_usage_errors():
    with pytest.raises(UsageError, match="convnet"):
        tf_lottery.build_model("alexnet", (8, 8, 1), 10, seed=0)
    with pytest.raises(UsageError, match="eps"):
        tf_lottery.make_attack("pgd5", eps=3)
    with pytest.raises(UsageError, match="sparsity"):
        tf_lottery.prune({"a": np.ones(3)}, None, 1.5)
