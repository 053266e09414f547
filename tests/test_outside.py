"""Scores, networks and ticket finders that come from outside the package."""

import dataclasses
import hashlib
import json
import shutil
import sys

import numpy as np
import pytest
from command_line import TINY, complaint
from outside import nothing_to_prune

from tf_lottery import models, weights
from tf_lottery.data import load
from tf_lottery.engine.store import seal
from tf_lottery.errors import NonFiniteError, TicketError, UsageError
from tf_lottery.keras import tf
from tf_lottery.lottery.graph import entries
from tf_lottery.lottery.resources import Resources
from tf_lottery.lottery.scoring import NetworkContext, network_context
from tf_lottery.main import main
from tf_lottery.models import build_model, forward_flops
from tf_lottery.models.spec import NetworkSpec
from tf_lottery.options.build import lottery_config
from tf_lottery.options.settings import ModelConfig
from tf_lottery.pruning import ScoreContext, prune, score
from tf_lottery.pruning.masks import prunable_kernels
from tf_lottery.tickets import Ticket

KERNELS = {"a": np.array([[1.0, -2.0], [3.0, 4.0]]), "b": np.array([0.5, -0.25])}


@pytest.fixture(autouse=True)
def nothing_allowed(monkeypatch):
    monkeypatch.setattr(models, "_allowed", set())


def run(*arguments):
    assert main([*TINY, *arguments]) == 0


def stage(workdir, label):
    """Directory of the finished stage of that label."""
    (found,) = (
        path.parent
        for path in (workdir / "stages").glob("*/manifest.json")
        if json.loads(path.read_text())["label"] == label
    )
    return found


def ledger(directory):
    return json.loads((directory / "ledger.json").read_text())


def rows(workdir):
    document = json.loads((workdir / "results.json").read_text())
    return {row["name"]: row for row in document["rows"]}


def tiny_config(**options):
    return lottery_config(
        width_multiplier=0.05,
        train_examples=64,
        validation_examples=20,
        test_examples=10,
        batch_size=16,
        epochs=1,
        objective="natural",
        search_objective="natural",
        attacks=(),
        **options,
    )


# --- scores -------------------------------------------------------------------------


class Barred:
    """A shop that must not be entered."""

    def __getattr__(self, name):
        raise AssertionError(f"asked for {name}")


@pytest.mark.parametrize("name", ["magnitude", "normalized_magnitude", "random"])
def test_a_score_of_weights_alone_pays_for_nothing_else(name):
    barred = NetworkContext(KERNELS, shop=Barred(), config=None, variables={})
    found = score(name, barred)
    for layer, expected in score(name, ScoreContext(KERNELS)).items():
        np.testing.assert_array_equal(found[layer], expected)
    assert barred.cost(2.0).to_json() == {**dict.fromkeys(barred.cost(0.0).to_json(), 0)} | {
        "seconds": 2.0
    }


def test_a_score_that_asks_for_more_than_there_is():
    with pytest.raises(UsageError, match="--score: the function asks for images"):
        prune(KERNELS, None, 0.5, "outside:snip")


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("outside:wrong_shapes", UsageError, r"shapes \(a has \(2, 2\), its scores \(4,\)\)"),
        ("outside:not_numbers", NonFiniteError, "outside:not_numbers gives NaN in a"),
        ("outside:missing", UsageError, "--score: got 'outside:missing', must be a score that"),
        ("taylor", UsageError, "--score: unknown value 'taylor'"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_scores_that_cannot_be_used(name, error, message):
    with pytest.raises(error, match=message):
        prune(KERNELS, None, 0.5, name)


def test_images_are_the_seeds_and_training_ones(tmp_path):
    config = tiny_config()
    shop = Resources(None)
    variables = weights.get_weights(shop.network(config))
    contexts = [network_context(shop, config, variables, seed=seed) for seed in (3, 3, 4)]
    (images, labels), (again, _), (other, _) = (context.batch(20) for context in contexts)
    np.testing.assert_array_equal(images, again)
    assert not np.array_equal(images, other)
    np.testing.assert_array_equal(contexts[0].batch(7)[0], images[:7])
    data = load(config.data)
    there = {(image.tobytes(), int(label)) for image, label in zip(
        data.train_images, data.train_labels, strict=True)}  # fmt: skip
    for image, label in zip(images, labels, strict=True):
        assert (np.round(image * 255).astype(np.uint8).tobytes(), int(label)) in there
    # Every class once, then every class once more: 20 of 10 classes are two of each.
    assert np.bincount(labels).tolist() == [2] * 10
    assert len(set(labels[:10].tolist())) == 10
    assert not np.array_equal(labels[:10], np.arange(10))
    everything = contexts[0].batch(64)[1]
    np.testing.assert_array_equal(np.bincount(everything), np.bincount(data.train_labels))
    for number in (0, 65):
        with pytest.raises(UsageError, match=f"asks for {number} images, there are 64"):
            contexts[0].batch(number)


def test_gradients_are_those_of_the_loss(tmp_path):
    """Central differences along random directions, of a network with pruned weights."""
    config = tiny_config()
    shop = Resources(None)
    variables = weights.get_weights(shop.spec(config).build(1))
    rng = np.random.default_rng(0)
    masks = {
        name: rng.random(tuple(kernel.shape)) < 0.7
        for name, kernel in prunable_kernels(shop.network(config)).items()
    }
    context = network_context(shop, config, variables, masks)
    images, labels = context.batch(32)
    network = context.network
    for name, kernel in prunable_kernels(network).items():
        assert not kernel.numpy()[~masks[name]].any()
        assert kernel.numpy()[masks[name]].all()

    def mean_loss():
        logits = network(images, training=False).numpy().astype(np.float64)
        shifted = logits - logits.max(-1, keepdims=True)
        log = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
        return -log[np.arange(len(labels)), labels].mean()

    found = context.gradients(images, labels)
    for name, kernel in prunable_kernels(network).items():
        before = kernel.numpy()
        direction = rng.normal(size=before.shape).astype(np.float32)
        direction /= np.linalg.norm(direction)
        step = 1e-2
        kernel.assign(before + step * direction)
        above = mean_loss()
        kernel.assign(before - step * direction)
        slope = (above - mean_loss()) / (2 * step)
        kernel.assign(before)
        np.testing.assert_allclose(np.sum(found[name] * direction), slope, rtol=0.05, atol=2e-3)
    flops = sum(forward_flops(network).values())
    assert context.cost(0.0).flops == 3 * 32 * flops
    context.count(10, forward=2, gradients=0)
    assert context.cost(0.0).flops == (3 * 32 + 20) * flops


def by_hand(network, drawn):
    """|g w| by a tape of the test's own, over the images that the score drew."""
    images, labels = drawn
    with tf.GradientTape() as tape:
        logits = network(images, training=False)
        loss = tf.reduce_mean(tf.keras.losses.sparse_categorical_crossentropy(
            labels, logits, from_logits=True))  # fmt: skip
    kernels = prunable_kernels(network)
    gradients = tape.gradient(loss, list(kernels.values()))
    return {
        name: np.abs(kernel.numpy() * gradient.numpy())
        for (name, kernel), gradient in zip(kernels.items(), gradients, strict=True)
    }


def assert_best_kept(scores, before, after, density):
    """Exact count, nested, and no removed weight scores above a kept one."""
    total = sum(mask.size for mask in after.values())
    assert sum(int(mask.sum()) for mask in after.values()) == round(density * total)
    assert all(not np.any(after[layer] & ~before[layer]) for layer in after)
    kept = np.concatenate([scores[layer][after[layer]] for layer in after])
    gone = np.concatenate([scores[layer][before[layer] & ~after[layer]] for layer in after])
    assert kept.min() >= gone.max() - 1e-6 * kept.max()  # sums in another order


def test_snip_from_the_command_line_over_two_rounds(tmp_path):
    run(
        f"--workdir={tmp_path}",
        "--compare=dense,boosting",
        "--score=outside:snip",
        "--pruning_schedule=geometric",
        "--round_fraction=0.4",
        "--sparsity=0.64",
    )
    config = tiny_config(
        score="outside:snip", pruning_schedule="geometric", round_fraction=0.4, sparsity=0.64
    )
    shop = Resources(None)
    flops = shop.forward_flops(config)
    network = shop.spec(config).build(0)
    before = {
        name: np.ones(tuple(kernel.shape), bool)
        for name, kernel in prunable_kernels(network).items()
    }
    for number, density in ((1, 0.6), (2, 0.36)):
        suffix = f"boosting, round {number} of 2"
        pruned = stage(tmp_path, f"prune: {suffix}")
        variables = weights.read_arrays(stage(tmp_path, f"search: {suffix}") / "final.npz")
        weights.set_weights(network, variables)
        seed = json.loads((pruned / "manifest.json").read_text())["settings"]["seed"]
        drawn = network_context(shop, config, variables, seed=seed).batch(48)
        ticket = Ticket.load(pruned / "ticket")
        assert_best_kept(by_hand(network, drawn), before, ticket.masks, density)
        before = ticket.masks
        found = ledger(pruned)
        assert found["flops"] == 3 * 48 * flops
        assert found["forward_passes"] == found["weight_gradient_passes"] == 48
    assert ticket.found["cost"]["forward_passes"] == 2 * (64 + 48)
    row = rows(tmp_path)["boosting"]
    assert row["search_flops"] == 2 * 3 * (64 + 48) * flops


def test_what_a_score_may_read_is_in_the_key():
    kinds = ("outside:scored_at_init",)

    def key(**options):
        (entry,) = entries(tiny_config(compare=kinds, **options))
        return entry.ticket.key

    ours = key(score="outside:snip")
    assert key(score="outside:snip", seed=0) == ours
    assert key(score="outside:other") != ours
    # The initialisation is the same; the images that the score reads are not.
    few, many = (
        entries(lottery_config(compare=kinds, score="outside:snip", train_examples=number))[0]
        for number in (32, 64)
    )
    assert few.ticket.parents["start"].key == many.ticket.parents["start"].key
    assert few.ticket.key != many.ticket.key


# --- networks -----------------------------------------------------------------------

SHAPE = (8, 8, 1)


def pixels(count=5):
    return np.random.default_rng(0).random((count, *SHAPE)).astype(np.float32)


@pytest.mark.parametrize("statistics", [{}, {"mean": (0.3,), "std": (0.2,)}])
def test_an_own_network_is_what_its_function_makes(statistics):
    from outside import small

    made = build_model("outside:small", SHAPE, 10, 3, **statistics)
    x = pixels()
    inside = (x - 0.3) / 0.2 if statistics else x
    expected = small(SHAPE, 10, 3)(inside, training=False)
    np.testing.assert_allclose(made(x, training=False), expected, rtol=1e-5, atol=1e-6)
    assert made.name == "outside.small"
    # Whatever was built before, layers have the same names and the weights are the seed's.
    again = build_model("outside:small", SHAPE, 10, 3, **statistics)
    assert [layer.name for layer in again.layers] == [layer.name for layer in made.layers]
    digests = [weights.digest(weights.get_weights(network)) for network in (made, again)]
    assert digests[0] == digests[1]
    # 2 x positions x weights; depthwise layers are not counted, as they are not pruned.
    assert list(forward_flops(made).values()) == [2 * 64 * 9 * 12, 2 * 16 * 12 * 8, 2 * 128 * 10]


def test_an_own_network_under_a_policy_keeps_float32_logits():
    from tf_lottery.keras import keras

    made = build_model("outside:small", SHAPE, 10, 3, dtype_policy="mixed_bfloat16")
    assert made.output.dtype == tf.float32
    assert made.get_layer("conv2d").compute_dtype == "bfloat16"
    assert {variable.dtype for variable in made.variables} == {tf.float32}
    assert keras.mixed_precision.global_policy().name == "float32"
    plain = build_model("outside:small", SHAPE, 10, 3)
    assert weights.get_weights(made).keys() == weights.get_weights(plain).keys()


def test_sizes_reach_a_function_that_takes_them():
    made = build_model("outside:small", SHAPE, 10, 3, width_multiplier=0.5)
    assert made.get_layer("conv2d").filters == 6
    assert made.name == "outside.small-w0.5"
    with pytest.raises(UsageError, match="--depth: got 4, must be left out: outside:small"):
        build_model("outside:small", SHAPE, 10, 3, depth=4)
    with pytest.raises(UsageError, match="more than 20 weights"):
        build_model("outside:small", SHAPE, 10, 3, most_weights=20)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing_to_prune", "must be a network with Conv2D or Dense layers"),
        ("too_many_classes", r"got \(None, 8, 8, 1\) to \(None, 11\), must be"),
        ("no_model", "got function"),
        ("missing", "a network that can be imported"),
    ],
)
def test_functions_that_make_no_network(name, message):
    with pytest.raises(UsageError, match=f"--model: got 'outside:{name}'.*{message}"):
        build_model(f"outside:{name}", SHAPE, 10, 3)


PLACES = {"export": "export_dir", "evaluate": "evaluation_dir"}
OWN = ["--model=outside:small", "--width_multiplier=1"]


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A run with an own network, its stages in two other processes."""
    workdir = tmp_path_factory.mktemp("own")
    assert main([*TINY, *OWN, f"--workdir={workdir}", "--compare=dense,boosting", "--jobs=2"]) == 0
    return workdir


def test_an_own_network_through_a_run(own):
    found = rows(own)
    assert {row["model"] for row in found.values()} == {"outside.small"}
    ticket = Ticket.load(own / "tickets" / "boosting")
    assert set(ticket.masks) == {"conv2d", "conv2d_1", "dense"}
    total = 9 * 12 + 12 * 8 + 128 * 10
    assert ticket.weights_kept == round(0.2 * total)
    final = weights.read_arrays(stage(own, "train: boosting") / "final.npz")
    for name, mask in ticket.masks.items():
        assert not final[f"{name}/kernel"][~mask].any()
    assert (own / "saved_model" / "boosting" / "saved_model.pb").is_file()


def test_a_file_does_not_get_its_network_imported(own, tmp_path, capsys):
    ticket = Ticket.load(own / "tickets" / "boosting")
    with pytest.raises(TicketError, match="outside:small, which is run only if you name it"):
        ticket.network()
    trained = stage(own, "train: boosting")
    for path in (own / "tickets" / "boosting", trained):
        line = complaint(
            capsys, 1, ["--mode=export", f"--model_path={path}", f"--export_dir={tmp_path}/no"]
        )
        assert "give --model=outside:small" in line


def test_no_file_runs_code(own, tmp_path, monkeypatch, capsys):
    """A ticket and a stage that name a module which could be imported."""
    (tmp_path / "trap.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    ticket = Ticket.load(own / "tickets" / "boosting")
    spec = dataclasses.replace(ticket.spec, model=ModelConfig("trap:net", normalize=True))
    sent = dataclasses.replace(ticket, spec=spec).save(tmp_path / "ticket")
    with pytest.raises(TicketError, match="the function trap:net"):
        Ticket.load(sent).network()
    trained = tmp_path / "stage"
    shutil.copytree(stage(own, "train: boosting"), trained)
    document = json.loads((trained / "network.json").read_text())
    document["network"]["name"] = "trap:net"
    (trained / "network.json").write_text(json.dumps(document))
    manifest = json.loads((trained / "manifest.json").read_text())
    digest = hashlib.sha256((trained / "network.json").read_bytes()).hexdigest()
    manifest["sha256"]["network.json"] = digest
    manifest["files"]["network.json"] = (trained / "network.json").stat().st_size
    (trained / "manifest.json").write_text(json.dumps(seal(manifest)))
    for path in (sent, trained):
        for mode in ("export", "evaluate"):
            line = complaint(capsys, 1, [
                f"--mode={mode}", f"--model_path={path}", f"--{PLACES[mode]}={tmp_path}/no",
            ])  # fmt: skip
            assert "give --model=trap:net" in line
    assert main(["--mode=inspect", f"--ticket={sent}"]) == 0
    line = complaint(
        capsys, 1, [*TINY, f"--workdir={tmp_path}/w", "--compare=boosting", f"--ticket={sent}"]
    )
    assert "the ticket is for trap.net on" in line
    assert not (tmp_path / "sprung").exists()
    assert "trap" not in sys.modules


def test_a_network_of_networks_is_searched_and_trained(tmp_path):
    run("--model=outside:nested", "--width_multiplier=1", f"--workdir={tmp_path}",
        "--compare=boosting", "--sparsity=0.5", "--score=outside:snip")  # fmt: skip
    models.allow("outside:nested")
    ticket = Ticket.load(tmp_path / "tickets" / "boosting")
    assert list(ticket.masks) == ["conv1", "inner/conv1", "dense"]
    assert ticket.weights_total == 36 + 144 + 2560
    assert ticket.weights_kept == ticket.weights_total / 2
    loaded = tf.saved_model.load(str(tmp_path / "saved_model" / "boosting"))
    for name, mask in ticket.masks.items():
        kernel = loaded.kernels[name].numpy()
        assert not kernel[~mask].any()
        assert kernel[mask].all()
    assert rows(tmp_path)["boosting"]["density"] == 0.5


def test_a_network_without_anything_to_prune_is_told_before_anything_is_written(tmp_path, capsys):
    odd = ["--model=outside:nothing_to_prune", "--width_multiplier=1"]
    line = complaint(capsys, 2, [*TINY, *odd, f"--workdir={tmp_path}/work"])
    assert "--model: got 'outside:nothing_to_prune', must be a network with Conv2D" in line
    network = nothing_to_prune(SHAPE, 10, 0)
    network.save(tmp_path / "none.keras")
    model = f"--model_path={tmp_path}/none.keras"
    run("--mode=export", model, f"--export_dir={tmp_path}/out", "--formats=saved_model")
    told = capsys.readouterr().out
    assert "no Conv2D or Dense layer: there is nothing to prune in it" in told.splitlines()[0]
    assert "weights are 0" not in told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["none.keras", "out"]
    run("--mode=evaluate", model, f"--evaluation_dir={tmp_path}/judged", "--analysis_images=0")
    spec = NetworkSpec(ModelConfig("convnet"), SHAPE, 10)
    with pytest.raises(TicketError, match="a ticket without masks"):
        Ticket(spec, "digits", 0, "", {})


def test_a_ticket_for_another_network_than_the_runs(own, tmp_path, capsys):
    ticket = f"--ticket={own / 'tickets' / 'boosting'}"
    line = complaint(capsys, 1, [*TINY, f"--workdir={tmp_path}", "--compare=boosting", ticket])
    assert "the ticket is for outside.small on" in line
    assert models._allowed <= {"convnet"}


def test_what_the_user_names_is_built(own, tmp_path, capsys):
    trained = stage(own, "train: boosting")
    common = [*OWN, "--formats=saved_model"]
    run("--mode=export", f"--model_path={trained}", f"--export_dir={tmp_path}/out", *common)
    loaded = tf.saved_model.load(str(tmp_path / "out"))
    network = build_model("outside:small", SHAPE, 10, 0, **normalization(own))
    weights.set_weights(network, weights.read_arrays(trained / "best.npz"))
    np.testing.assert_allclose(loaded.logits(pixels()), network(pixels()), rtol=1e-4, atol=1e-5)
    run(
        "--mode=evaluate", *OWN, f"--ticket={own / 'tickets' / 'boosting'}",
        f"--evaluation_dir={tmp_path}/evaluation", "--analysis_images=0",
    )  # fmt: skip


def normalization(own):
    spec = Ticket.load(own / "tickets" / "boosting").spec
    return {"mean": spec.mean, "std": spec.std}


def test_a_ticket_is_applied_to_a_network_that_the_user_built(own):
    ticket = Ticket.load(own / "tickets" / "boosting")
    network = build_model("outside:small", SHAPE, 10, ticket.init_seed, **normalization(own))
    initial = weights.get_weights(network)
    ticket.apply(network)
    for name, mask in ticket.masks.items():
        expected = initial[f"{name}/kernel"] * mask
        np.testing.assert_array_equal(network.get_layer(name).kernel.numpy(), expected)
    other = build_model("outside:small", SHAPE, 10, ticket.init_seed + 1, **normalization(own))
    with pytest.raises(TicketError, match="which is run only if you name it"):
        ticket.apply(other)
    models.allow("outside:small")
    ticket.apply(other)
    for ours, theirs in zip(network.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_weights_that_are_not_the_seeds(tmp_path, capsys):
    line = complaint(
        capsys,
        2,
        [*TINY, "--width_multiplier=1", "--model=outside:unseeded", f"--workdir={tmp_path}"],
    )
    assert "must be a function whose initial weights are the seed's alone" in line


# --- ticket finders -----------------------------------------------------------------


@pytest.fixture(scope="module")
def found_at_init(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finders")
    kinds = "dense,outside:at_init,outside:scored_at_init"
    options = [f"--compare={kinds}", "--score=outside:snip", "--sparsity=0.5", "--jobs=2"]
    assert main([*TINY, f"--workdir={workdir}", *options]) == 0
    return workdir


def test_a_ticket_found_without_a_search(found_at_init):
    row = rows(found_at_init)["outside:at_init"]
    assert row["search_flops"] == row["search_seconds"] == 0
    assert row["search_source"] == "run"
    assert row["total_flops_over_dense"] == 1
    assert row["density"] == pytest.approx(0.5, abs=1e-3)
    ticket = Ticket.load(found_at_init / "tickets" / "outside-at_init")
    initial = ticket.initial_weights()
    sizes = {name: np.abs(initial[f"{name}/kernel"]) for name in ticket.masks}
    everything = {name: np.ones(mask.shape, bool) for name, mask in ticket.masks.items()}
    assert_best_kept(sizes, everything, ticket.masks, 0.5)
    assert ticket.found == {"by": "magnitude at initialisation"}


def test_a_score_at_initialisation_costs_its_passes(found_at_init):
    config = tiny_config()
    flops = Resources(None).forward_flops(config)
    row = rows(found_at_init)["outside:scored_at_init"]
    assert row["search_flops"] == 3 * 48 * flops
    assert row["search_seconds"] > 0
    directory = stage(found_at_init, "prune: scored at init")
    pruned = Ticket.load(directory / "ticket")
    network = pruned.spec.build(pruned.init_seed)
    seed = json.loads((directory / "manifest.json").read_text())["settings"]["seed"]
    variables = weights.get_weights(network)
    drawn = network_context(Resources(None), config, variables, seed=seed).batch(48)
    everything = {name: np.ones(mask.shape, bool) for name, mask in pruned.masks.items()}
    assert_best_kept(by_hand(network, drawn), everything, pruned.masks, 0.5)


def test_the_plan_of_a_finder(found_at_init, capsys):
    run(
        "--mode=plan", f"--workdir={found_at_init}/other", "--compare=dense,outside:at_init",
        f"--store={found_at_init}/elsewhere",
    )  # fmt: skip
    text = capsys.readouterr().out
    assert "magnitude_at_init-" in text
    assert "all training together: 2.00 x" in text


def test_a_finder_that_is_not_there(capsys, tmp_path):
    line = complaint(capsys, 2, [*TINY, "--compare=dense,luck", f"--workdir={tmp_path}"])
    assert "--compare: unknown value 'luck', may be one of dense, dense_twin, boosting" in line
    line = complaint(capsys, 2, [*TINY, "--compare=outside:luck", f"--workdir={tmp_path}"])
    assert "--compare: got 'outside:luck', must be a ticket finder that can be imported" in line
