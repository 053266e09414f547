"""Tickets of channels from the command line: every stage is of the small network, and says so."""

import contextlib
import io
import json
import shutil

import numpy as np
import pytest
from command_line import stage

from tf_lottery import weights
from tf_lottery.compaction import channel_groups, left_channels
from tf_lottery.cutting import trained_network
from tf_lottery.engine.store import Store
from tf_lottery.evaluation.loading import load_model
from tf_lottery.keras import tf
from tf_lottery.lottery.graph import make_entry
from tf_lottery.lottery.plan import plan
from tf_lottery.lottery.work import Workshop
from tf_lottery.main import main
from tf_lottery.models import build_model, forward_flops
from tf_lottery.models.spec import NetworkSpec
from tf_lottery.options.build import lottery_config
from tf_lottery.tickets import Ticket

KINDS = ("dense", "boosting", "reinit", "random_mask")
SETTINGS = {
    "width_multiplier": 0.25, "train_examples": 96, "test_examples": 30, "batch_size": 32,
    "epochs": 2, "search_epochs": 1, "eps": 0.1, "steps": 2, "validation_attack": "pgd2",
    "validation_images": 20, "learning_rate": 0.05, "batch_norm_l1": 1e-3,
    "structure": "channels", "channel_multiple": 1,
}  # fmt: skip
ATTACKS = ("pgd3",)


def run(workdir, **options):
    """Settings of a comparison, run; its document."""
    given = {**SETTINGS, "compare": ",".join(KINDS), "attacks": ",".join(ATTACKS), **options}
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = main([*(f"--{k}={v}" for k, v in given.items()), f"--workdir={workdir}"])
    assert code == 0, out.getvalue()
    return json.loads((workdir / "results.json").read_text())


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("channels") / "w"
    run(workdir)
    return workdir


@pytest.fixture(scope="module")
def document(workdir):
    return json.loads((workdir / "results.json").read_text())


def ticket(workdir, kind):
    return Ticket.load(workdir / "tickets" / kind)


def trained(workdir, kind, file="best.npz"):
    """A network made from what the training left, by its own words."""
    directory, _ = stage(workdir, f"train: {kind}")
    spec = NetworkSpec.from_json(json.loads((directory / "network.json").read_text())["network"])
    network = spec.build(0)
    weights.set_weights(network, weights.read_arrays(directory / file))
    return spec, network


def flops(network):
    return sum(forward_flops(network).values())


def test_half_of_the_channels_are_gone_by_their_scales(workdir):
    found = ticket(workdir, "boosting")
    assert found.structure == "channels"
    network = build_model("convnet", (8, 8, 1), 10, 0, width_multiplier=0.25)
    groups = channel_groups(network)
    left = left_channels(groups, found.masks)
    total = sum(group.width for group in groups)
    assert sum(int(keep.sum()) for keep in left) == round(0.5 * total)
    assert found.found["channels"] == {"total": total, "kept": round(0.5 * total)}
    directory, _ = stage(workdir, "search: boosting")
    final = weights.read_arrays(directory / "final.npz")
    scales = [np.abs(final[f"{group.norms[0]}/gamma"]) for group in groups]
    lowest = min(scale[keep].min() for scale, keep in zip(scales, left, strict=True))
    assert all(
        scale[~keep].max(initial=0) <= lowest for scale, keep in zip(scales, left, strict=True)
    )


def test_controls(workdir):
    boosting, reinit = ticket(workdir, "boosting"), ticket(workdir, "reinit")
    random = ticket(workdir, "random_mask")
    for name, mask in boosting.masks.items():
        np.testing.assert_array_equal(reinit.masks[name], mask)
        assert random.masks[name].sum() == mask.sum()
    assert any((random.masks[name] != mask).any() for name, mask in boosting.masks.items())
    assert reinit.init_digest != boosting.init_digest
    specs = {kind: trained(workdir, kind)[0] for kind in KINDS}
    assert specs["boosting"].widths == specs["reinit"].widths == specs["random_mask"].widths
    assert specs["boosting"].widths
    assert specs["dense"].widths == ()
    # Nothing of the retrained networks is masked: they are small dense ones.
    for kind in KINDS[1:]:
        masked, _ = trained_network(ticket(workdir, kind))
        assert masked.is_dense()


@pytest.mark.parametrize("kind", KINDS[1:])
def test_files_of_the_training_are_of_the_small_network(workdir, kind):
    found = ticket(workdir, kind)
    directory, _ = stage(workdir, f"train: {kind}")
    for file in ("best.npz", "final.npz"):
        for name, value in weights.read_arrays(directory / file).items():
            layer, _, part = name.rpartition("/")
            if part != "kernel":
                continue
            mask = found.masks[layer]
            positions = mask.shape[:-2]
            kept = [int(mask.any(axis=(*range(len(positions)), other)).sum()) for other in (-1, -2)]
            assert value.shape == (*positions, *kept)


def test_flops_are_those_of_the_small_network(workdir, document):
    whole = flops(trained(workdir, "dense")[1])
    examples = 2 * 96
    for row in document["rows"]:
        _, network = trained(workdir, row["name"])
        # PGD-2: two steps forward and back, then forward, input and weight gradients.
        assert row["train_flops"] == (2 * 2 + 3) * examples * flops(network)
        if row["name"] == "dense":
            assert flops(network) == whole
            assert "flops_left" not in row
        else:
            assert flops(network) < 0.6 * whole
            assert row["flops_left"] == pytest.approx(flops(network) / whole)
            expected = (row["search_flops"] + row["train_flops"]) / (7 * examples * whole)
            assert row["total_flops_over_dense"] == pytest.approx(expected)
    entry = next(e for e in document["ledger"] if e["label"] == "evaluate: boosting (best epoch)")
    passes = entry["forward_passes"] + entry["input_gradient_passes"]
    assert entry["flops"] == passes * flops(trained(workdir, "boosting")[1])


@pytest.mark.parametrize("kind", ["boosting", "random_mask"])
def test_every_way_to_the_trained_network_gives_the_same_logits(workdir, kind):
    images = np.random.default_rng(0).random((5, 8, 8, 1)).astype(np.float32)
    _, network = trained(workdir, kind)
    expected = network(images).numpy()
    directory, _ = stage(workdir, f"train: {kind}")
    loaded = load_model(directory)
    np.testing.assert_array_equal(loaded.model(images), expected)
    saved = tf.saved_model.load(str(workdir / "saved_model" / kind))
    np.testing.assert_allclose(saved.logits(images), expected, rtol=1e-5, atol=1e-6)
    metadata = json.loads((workdir / "saved_model" / kind / "metadata.json").read_text())
    assert metadata["structure"] == "channels"
    assert metadata["density"] == ticket(workdir, kind).density
    assert metadata["forward_flops"] == [flops(network), flops(trained(workdir, "dense")[1])]
    assert metadata["weights"] == sum(
        value.size
        for name, value in weights.get_weights(network).items()
        if name.endswith("kernel")
    )
    # And the network at its full size, masked, that these weights are part of.
    found = ticket(workdir, kind)
    masked = found.network()
    _, compaction = trained_network(found)
    whole = compaction.embed(weights.get_weights(network), weights.get_weights(masked.network))
    weights.set_weights(masked.network, whole)
    masked.enforce()
    np.testing.assert_allclose(masked.network(images), expected, rtol=1e-4, atol=1e-5)


def test_the_distance_counts_what_was_cut_out(workdir):
    directory, _ = stage(workdir, "train: boosting")
    final = weights.read_arrays(directory / "final.npz")
    searched = weights.read_arrays(stage(workdir, "search: boosting")[0] / "final.npz")
    found = ticket(workdir, "boosting")
    squares = size = 0.0
    for layer, mask in found.masks.items():
        reference = searched[f"{layer}/kernel"].astype(np.float64)
        whole = np.zeros(mask.shape)
        whole[mask] = final[f"{layer}/kernel"].ravel()
        squares += ((reference - whole) ** 2).sum()
        size += (reference**2).sum()
    history = json.loads((directory / "history.json").read_text())
    assert history[-1]["distance"] == pytest.approx(np.sqrt(squares / size), rel=1e-6)


def test_an_untrained_ticket_is_loaded_as_it_is_trained(workdir):
    loaded = load_model(workdir / "tickets" / "boosting")
    spec, _ = trained(workdir, "boosting")
    assert loaded.network.count_params() == spec.build(0).count_params()


def test_a_second_run_does_nothing(workdir, document):
    assert run(workdir)["rows"] == document["rows"]


def configuration(**options):
    return lottery_config(**{**SETTINGS, "attacks": ATTACKS, **options})


def test_the_plan_of_a_found_ticket_is_exact(workdir, tmp_path):
    config = configuration()
    entry = make_entry(config, "boosting")
    done = {
        item.stage.key: item for item in plan(entry.stages, Workshop(Store(workdir / "stages")))
    }
    assert all(item.cached for item in done.values())
    shutil.copytree(workdir / "stages", tmp_path / "stages")
    for one in (entry.train, *entry.stages):
        shutil.rmtree(tmp_path / "stages" / one.name)
    again = plan(entry.stages, Workshop(Store(tmp_path / "stages")))
    (training,) = (item for item in again if item.stage.key == entry.train.key)
    assert not training.cached
    assert training.flops == done[entry.train.key].flops
    # While the ticket is not known, each layer is taken to lose the same share.
    forecast = plan(entry.stages, Workshop(Store(tmp_path / "empty", read_only=True)))
    (training,) = (item for item in forecast if item.stage.key == entry.train.key)
    half = build_model("convnet", (8, 8, 1), 10, 0, width_multiplier=0.125)
    assert training.flops == 7 * 2 * 96 * flops(half)


def test_a_given_ticket_of_channels_is_cut_whatever_the_flags_say(workdir):
    given = ticket(workdir, "boosting")
    entry = make_entry(configuration(structure="weights"), "boosting", given)
    assert entry.ticket.settings == {"given": given.digest, "structure": "channels"}
    config = entry.train.runtime["config"]
    shop = Workshop(Store(workdir / "none", read_only=True))
    assert shop.spec(config, entry.train) == trained(workdir, "boosting")[0]


def test_an_early_end_of_the_search(tmp_path):
    """Every mask of channels is near enough to every other: five epochs, of eight."""
    document = run(
        tmp_path / "w", compare="boosting", search="early", mask_distance=1, search_epochs=8,
        epochs=1, channel_multiple=8, channel_score="filter_norm", rewind_epoch="current",
    )  # fmt: skip
    found = ticket(tmp_path / "w", "boosting")
    assert found.found["searched_epochs"] == ["5 of 8"]
    assert (found.structure, found.rewind_epoch) == ("channels", 5)
    directory, _ = stage(tmp_path / "w", "search: boosting (early)")
    history = json.loads((directory / "history.json").read_text())
    assert [row["mask_distance"] is None for row in history] == [True] * 4 + [False]
    # In layers of 8 channels one by one, in those of 16 or more by eights.
    network = build_model("convnet", (8, 8, 1), 10, 0, width_multiplier=0.25)
    widths = dict(trained(tmp_path / "w", "boosting")[0].widths)
    groups = channel_groups(network)
    assert {group.width for group in groups} >= {8, 16}
    for group in groups:
        for name in group.makers:
            left = widths.get(name, group.width)
            assert left % 8 == 0 or group.width < 16
    assert document["rows"][0]["flops_left"] < 1


def test_weights_within_channels(tmp_path):
    document = run(
        tmp_path / "w", compare="boosting,random_mask", channel_sparsity=0.3, sparsity=0.6,
        epochs=1, channel_score="filter_norm",
    )  # fmt: skip
    boosting, random = (ticket(tmp_path / "w", kind) for kind in ("boosting", "random_mask"))
    network = build_model("convnet", (8, 8, 1), 10, 0, width_multiplier=0.25)
    groups = channel_groups(network)
    total = sum(group.width for group in groups)
    assert boosting.found["channels"]["kept"] == round(0.7 * total)
    # Of the weights that the channels leave, 40 % are kept.
    widths = {name: kernel.shape[-1] for name, kernel in trained_kernels(tmp_path / "w")}
    spec, small = trained(tmp_path / "w", "boosting")
    assert dict(spec.widths).items() <= widths.items()
    masked, compaction = trained_network(boosting)
    assert compaction.widths["logits"] == (10, 10)
    pairs = random.layers, boosting.layers
    assert all(ours["kept"] == theirs["kept"] for ours, theirs in zip(*pairs, strict=True))
    directory, _ = stage(tmp_path / "w", "train: boosting")
    final = weights.read_arrays(directory / "final.npz")
    for layer, mask in masked.get_masks().items():
        assert not final[f"{layer}/kernel"][~mask].any()
        assert final[f"{layer}/kernel"][mask].any()
    before = sum(int(mask.sum()) for mask in boosting.masks.values())
    assert before == round(0.4 * weights_left(groups, boosting, network))
    assert document["rows"][0]["flops_left"] < 1
    assert small.count_params() < network.count_params()


def trained_kernels(workdir):
    directory, _ = stage(workdir, "train: boosting")
    for name, value in weights.read_arrays(directory / "final.npz").items():
        if name.endswith("/kernel"):
            yield name.removesuffix("/kernel"), value


def weights_left(groups, found, network):
    """Of the network without the channels that the search's filters say, by hand."""
    from tf_lottery.compaction import group_masks
    from tf_lottery.pruning.masks import prunable_kernels

    shapes = {name: kernel.shape for name, kernel in prunable_kernels(network).items()}
    masks = group_masks(groups, left_channels(groups, found.masks), shapes)
    return sum(int(mask.sum()) for mask in masks.values())


def test_a_ticket_of_another_structure_is_refused(workdir):
    from tf_lottery.errors import TicketError

    found = ticket(workdir, "boosting")
    with pytest.raises(TicketError, match="a ticket of 'rows', must be of weights or channels"):
        Ticket(**{**vars(found), "found": {"structure": "rows"}})


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--model=lenet"], "--channel_score: got 'batch_norm', must be filter_norm for lenet"),
        (["--channel_floor=1"], "--channel_sparsity: got 0.5, which with --channel_floor=1"),
        (["--pruning_schedule=geometric"], "--pruning_schedule: got 'geometric', must be one_shot"),
        (
            ["--model=lenet", "--structure=weights", "--batch_norm_l1=0.1"],
            "--batch_norm_l1: got 0.1, must be 0 for lenet",
        ),
    ],
)
def test_bad_command_lines_end_in_one_line(flags, line, tmp_path, capsys):
    given = {**SETTINGS, "batch_norm_l1": 0, "compare": "boosting", "attacks": "pgd3"}
    if "--structure=weights" in flags:
        del given["channel_multiple"]
    words = [f"--{name}={value}" for name, value in given.items()]
    code = main([*words, *flags, f"--workdir={tmp_path / 'w'}"])
    assert code == 2
    (told,) = [text for text in capsys.readouterr().err.splitlines() if "tf_lottery:" in text]
    assert line in told
