"""Which channels a ticket keeps, and what the stages of such a ticket say."""

import json

import numpy as np
import pytest

from tf_lottery import weights
from tf_lottery.channels import (
    check_channels,
    choose_channels,
    planned_widths,
    random_channel_masks,
)
from tf_lottery.compaction import channel_groups, left_channels
from tf_lottery.cutting import trained_network, trained_spec
from tf_lottery.engine.store import Store
from tf_lottery.errors import UsageError
from tf_lottery.lottery import work
from tf_lottery.lottery.graph import make_entry
from tf_lottery.models import build_model
from tf_lottery.models.spec import NetworkSpec
from tf_lottery.options.build import lottery_config
from tf_lottery.options.settings import ModelConfig
from tf_lottery.pruning.channels import select_within
from tf_lottery.tickets import Ticket

CHOSEN = {
    "channel_sparsity": 0.5,
    "channel_score": "batch_norm",
    "channel_floor": 0.1,
    "channel_multiple": 1,
}


@pytest.fixture(scope="module")
def searched():
    """A network with BatchNorm scales that differ, and its variables."""
    network = build_model("resnet18", (8, 8, 3), 10, 0, width_multiplier=0.25)
    rng = np.random.default_rng(1)
    values = {
        name: rng.normal(size=value.shape).astype(np.float32) if "gamma" in name else value
        for name, value in weights.get_weights(network).items()
    }
    return network, values


@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("score", ["batch_norm", "filter_norm"])
def test_exactly_so_many_channels_stay(searched, score, sparsity):
    network, values = searched
    chosen = {**CHOSEN, "channel_score": score, "channel_sparsity": sparsity}
    found = choose_channels(network, values, chosen)
    groups = channel_groups(network)
    left = left_channels(groups, found.masks)
    assert found.total == sum(group.width for group in groups)
    assert found.kept == round((1 - sparsity) * found.total) == sum(int(k.sum()) for k in left)
    for group, keep in zip(groups, left, strict=True):
        assert keep.sum() >= np.ceil(group.width / 10)
    # By hand, without floors that bind.
    if not found.bound:
        scores = [by_hand(group, values, score) for group in groups]
        lowest = min(s[k].min() for s, k in zip(scores, left, strict=True))
        assert all((s[~k] <= lowest).all() for s, k in zip(scores, left, strict=True))


def by_hand(group, values, score):
    total = np.zeros(group.width)
    if score == "batch_norm":
        for name in group.norms:
            total += abs(values[f"{name}/gamma"])
        return total / len(group.norms)
    for name in group.makers:
        kernel = values[f"{name}/kernel"].astype(np.float64)
        norms = np.array([abs(kernel[..., c]).sum() for c in range(group.width)])
        total += norms / norms.mean()
    return total / len(group.makers)


def test_the_layers_that_a_floor_kept_are_told(searched):
    network, values = searched
    weak = dict(values)
    weak["block4_2_bn1/gamma"] = 1e-6 * values["block4_2_bn1/gamma"]
    found = choose_channels(network, weak, CHOSEN)
    assert found.bound == ("block4_2_conv1",)
    assert found.masks["block4_2_conv1"].any(axis=(0, 1, 2)).sum() == 13  # of 128
    assert found.to_json() == {
        "total": found.total,
        "kept": found.kept,
        "kept_by_floor": ["block4_2_conv1"],
    }


@pytest.mark.parametrize("way", ["snip", "random"])
def test_channels_need_a_search_by_training(way):
    with pytest.raises(UsageError) as caught:
        make_entry(lottery_config(structure="channels", search=way), "boosting")
    assert str(caught.value).startswith(f"--search: got '{way}', must be train or early with")


@pytest.mark.parametrize("kind", ["snip", "random", "flying_bird"])
def test_kinds_without_a_search_are_told_by_their_name(kind):
    with pytest.raises(UsageError) as caught:
        make_entry(lottery_config(structure="channels"), kind)
    assert str(caught.value) == (
        f"--compare: got '{kind}', must be kinds that search by training with --structure=channels"
    )


def test_what_cannot_change_the_channels_is_in_no_search():
    def search(**options):
        config = lottery_config(structure="channels", search="early", **options)
        return make_entry(config, "boosting").searches[0].key

    base = search()
    assert search(sparsity=0.5) == search(score="magnitude") == search(scope="layer") == base
    assert search(channel_sparsity=0.3) != base
    assert search(channel_multiple=1) != base


def test_random_masks_have_as_many_channels_of_each_group(searched):
    network, values = searched
    groups = channel_groups(network)
    masks = choose_channels(network, values, CHOSEN).masks
    drawn = random_channel_masks(network, masks, 5)
    ours, theirs = left_channels(groups, masks), left_channels(groups, drawn)
    assert [int(k.sum()) for k in ours] == [int(k.sum()) for k in theirs]
    assert any((a != b).any() for a, b in zip(ours, theirs, strict=True))
    assert all(drawn[name].sum() == mask.sum() for name, mask in masks.items())
    # And of weights within channels as many a layer.
    scores = {name: np.random.default_rng(2).random(mask.shape) for name, mask in masks.items()}
    mixed = select_within(scores, masks, 0.6, "layer")
    drawn = random_channel_masks(network, mixed, 5)
    assert all(drawn[name].sum() == mask.sum() for name, mask in mixed.items())
    ours, theirs = left_channels(groups, mixed), left_channels(groups, drawn)
    assert all(b.sum() <= a.sum() for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_a_ticket_is_cut_alike_under_every_policy(searched, policy):
    network, values = searched
    masks = choose_channels(network, values, CHOSEN).masks
    spec = NetworkSpec(ModelConfig("resnet18", width_multiplier=0.25), (8, 8, 3), 10)
    digest = weights.digest(weights.get_weights(network))
    ticket = Ticket(spec, "digits", 0, digest, masks, found={"structure": "channels"})
    masked, compaction = trained_network(ticket, policy)
    widths = {name: after for name, (_, after) in compaction.widths.items()}
    for name, mask in masks.items():
        assert widths[name] == mask.any(axis=(*range(mask.ndim - 1),)).sum()
    assert masked.network.get_layer("stem_conv").dtype_policy.name == policy
    built = trained_spec(ticket).build(0, policy)
    weights.set_weights(built, weights.get_weights(masked.network))  # of the same shapes
    again = NetworkSpec.from_json(trained_spec(ticket).to_json())
    assert again == trained_spec(ticket) != spec


@pytest.mark.parametrize(
    "widths", [{"stem_conv": 99}, {"stem_conv": 0}, {"conv": 3}, {"logits": "x"}]
)
def test_widths_of_no_such_network_are_refused(widths):
    spec = NetworkSpec(ModelConfig("resnet18", width_multiplier=0.25), (8, 8, 3), 10)
    with pytest.raises(ValueError):
        NetworkSpec.from_json({**spec.to_json(), "widths": widths}).build(0)


def test_other_processes_build_the_network_that_the_chief_names(monkeypatch, tmp_path):
    config = lottery_config(epochs=1, eps=0.1, width_multiplier=0.25, structure="channels")
    entry, made = make_entry(config, "boosting"), []

    def noted(shop, stage, spec, start, directory, **telling):
        made.append(start)

    monkeypatch.setattr(work, "_train", noted)
    widths = json.loads(json.dumps((("conv1", 3), ("conv2", 5))))
    work.Workshop(Store(tmp_path, read_only=True)).train_along(entry.train, widths)
    kernels = made[0].kernels
    assert (kernels["conv1"].shape[-1], kernels["conv2"].shape[-2:]) == (3, (3, 5))


def test_a_forecast_takes_the_same_share_of_each_layer(searched):
    network, _ = searched
    found = dict(planned_widths(network, {**CHOSEN, "channel_sparsity": 0.95}))
    assert found["stem_conv"] == 2  # of 16: the floor
    assert found["block4_1_conv1"] == 13  # of 128: the floor
    assert dict(planned_widths(network, CHOSEN))["block4_1_conv1"] == 64
    assert "logits" not in found
    blocks = dict(
        planned_widths(network, {**CHOSEN, "channel_sparsity": 0.7, "channel_multiple": 8})
    )
    assert blocks["stem_conv"] == 8  # of 16, 4.8 would stay
    assert blocks["block4_1_conv1"] == 40  # of 128, 38.4 would


def test_without_batch_norm_a_filter_norm_is_asked_for():
    network = build_model("lenet", (12, 12, 1), 10, 0, width_multiplier=0.5)
    with pytest.raises(UsageError) as caught:
        check_channels(network, "batch_norm")
    line = str(caught.value)
    assert line.startswith("--channel_score: got 'batch_norm', must be filter_norm for lenet-w0.5")
    assert line.endswith("no BatchNorm with a scale is behind conv1")
    assert check_channels(network, "filter_norm")


def test_floors_that_leave_nothing_to_cut(searched):
    network, values = searched
    with pytest.raises(
        UsageError, match="--channel_floor=1 and --channel_multiple=1 removes none of the"
    ):
        choose_channels(network, values, {**CHOSEN, "channel_floor": 1})


def test_the_settings_of_channels_are_in_the_key_of_such_tickets_alone():
    def ticket(**options):
        return make_entry(lottery_config(epochs=2, eps=0.1, **options), "boosting").ticket

    plain = ticket()
    assert set(plain.settings) == {"sparsity", "score", "scope", "rewind_epoch"}
    assert plain.settings["sparsity"] == 0.8
    assert ticket(channel_sparsity=0.3).key == plain.key
    cut = ticket(structure="channels")
    assert cut.settings == {
        **plain.settings, "sparsity": 0.0, "structure": "channels", **CHOSEN,
        "channel_multiple": 8,
    }  # fmt: skip
    assert cut.parents["trained"].key == plain.parents["trained"].key
    others = [
        {"channel_sparsity": 0.3}, {"channel_score": "filter_norm"}, {"channel_floor": 0.2},
        {"channel_multiple": 1}, {"sparsity": 0.8},
    ]  # fmt: skip
    keys = {ticket(structure="channels", **other).key for other in others}
    assert len(keys | {cut.key, plain.key}) == 7


def test_the_penalty_is_of_searches_alone():
    config = lottery_config(batch_norm_l1=1e-4)
    assert (config.search.batch_norm_l1, config.winning_search.batch_norm_l1) == (1e-4, 1e-4)
    assert (config.train.batch_norm_l1, config.ticket_train.batch_norm_l1) == (0, 0)


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"structure": "channels", "pruning_schedule": "geometric"}, "pruning_schedule"),
        (
            {"structure": "channels", "sparsity": 0.5, "sparsity_update": "flying_bird"},
            "sparsity_update",
        ),
        ({"channel_sparsity": 0.0}, "channel_sparsity"),
        ({"channel_sparsity": 1.0}, "channel_sparsity"),
        ({"channel_floor": 1.5}, "channel_floor"),
        ({"structure": "filters"}, "structure"),
        ({"channel_score": "taylor"}, "channel_score"),
        ({"batch_norm_l1": -1.0}, "batch_norm_l1"),
    ],
    ids=str,
)
def test_bad_values_name_the_flag(options, flag):
    with pytest.raises(UsageError) as caught:
        lottery_config(**options)
    assert caught.value.flag == flag
    assert "\n" not in str(caught.value)
