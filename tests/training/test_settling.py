"""Searches that end once their mask has settled, also when they were interrupted on the way."""

import dataclasses

import numpy as np
import pytest

from tf_lottery import weights
from tf_lottery.compaction import channel_groups
from tf_lottery.errors import UsageError
from tf_lottery.options.channels import ChannelOptions
from tf_lottery.options.searches import SettlingConfig
from tf_lottery.options.settings import ObjectiveConfig, ScheduleConfig, TrainConfig
from tf_lottery.pruning.masks import wrap
from tf_lottery.training import callbacks, checkpoints
from tf_lottery.training.run import train
from tf_lottery.training.settling import MaskDistance
from tf_lottery.training.task import Reporting
from tf_lottery.weights import named_variables

MAGNITUDE = SettlingConfig(0.1, 0.5, "magnitude", "global")
NATURAL = TrainConfig(
    objective=ObjectiveConfig("natural"),
    epochs=9,
    batch_size=48,
    schedule=ScheduleConfig("cosine", peak=0.1),
)


def top(kernels, alive, sparsity):
    """The largest sizes of all that is alive, by a sort."""
    flat = np.concatenate([np.abs(kernel).ravel() for kernel in kernels.values()])
    there = np.concatenate([mask.ravel() for mask in alive.values()])
    keep = round((1 - sparsity) * flat.size)
    order = sorted(np.flatnonzero(there), key=lambda i: (-flat[i], i))
    found = np.zeros(flat.size, bool)
    found[order[:keep]] = True
    return found


@pytest.fixture
def masked(tiny_network):
    return wrap(tiny_network())


def test_the_distance_by_hand(masked):
    """Weights are set so that each epoch's mask is a known one."""
    kernels = masked.kernels
    watch = MaskDistance(masked, MAGNITUDE, 0)
    rng = np.random.default_rng(3)
    seen = []
    for epoch in range(8):
        for kernel in kernels.values():
            noise = rng.normal(size=kernel.shape).astype(np.float32)
            kernel.assign(kernel * 0.7 + 0.1 * noise)
        seen.append(
            top({name: kernel.numpy() for name, kernel in kernels.items()},
                masked.get_masks(), MAGNITUDE.sparsity)
        )  # fmt: skip
        found = watch()
        if epoch < 4:
            assert found is None
        else:
            assert found == max(np.mean(seen[-1] != other) for other in seen[-5:-1])
    assert 0 < found <= 1


@pytest.mark.parametrize("score", ["batch_norm", "filter_norm"])
def test_the_distance_of_channels(masked, score):
    """Whole channels are made large and small, so that each epoch's mask is a known one."""
    chosen = ChannelOptions(
        structure="channels", channel_score=score, channel_floor=0.0, channel_multiple=1
    )
    watch = MaskDistance(masked, dataclasses.replace(MAGNITUDE, channels=chosen), 0)
    variables = named_variables(masked.network)
    groups = channel_groups(masked.network)
    total = sum(group.width for group in groups)
    rng, seen = np.random.default_rng(2), []
    for epoch in range(7):
        # One of each group's, lest one should lose all.
        sizes = [np.r_[9.0, rng.permutation(group.width - 1)] for group in groups]
        for group, size in zip(groups, sizes, strict=True):
            for name in group.norms:
                variables[f"{name}/gamma"].assign(-size)
            for name in group.makers:
                kernel = variables[f"{name}/kernel"]
                kernel.assign(np.broadcast_to(size, kernel.shape))
        values = [s / s.mean() if score == "filter_norm" else s for s in sizes]
        flat = np.concatenate(values)
        order = np.argsort(-flat, kind="stable")
        mask = np.zeros(total, bool)
        mask[order[: round(0.5 * total)]] = True
        assert all(part.any() for part in np.split(mask, np.cumsum([g.width for g in groups])[:-1]))
        seen.append(mask)
        found = watch()
        if epoch >= 4:
            assert found == max(np.mean(mask != other) for other in seen[-5:-1])
            assert found > 0


def test_what_is_pruned_stays_out_of_masks(sparse):
    masked = sparse()
    alive = masked.get_masks()
    watch = MaskDistance(masked, dataclasses.replace(MAGNITUDE, sparsity=0.7), 0)
    for name, kernel in masked.kernels.items():
        kernel.assign(np.where(alive[name], 1.0, 9.0) * np.ones(kernel.shape))
    bits = watch._mask()
    there = np.concatenate([mask.ravel() for mask in alive.values()])
    assert not (bits & ~there).any()


def test_a_score_of_more_than_weights_fails_before_the_first_epoch(masked):
    with pytest.raises(UsageError, match="--score: the function asks for a network"):
        MaskDistance(masked, dataclasses.replace(MAGNITUDE, score="snip"), 0)


@pytest.mark.parametrize(
    ("distances", "ends"),
    [
        ((), False),
        ((None,), False),
        ((None, 0.2), False),
        ((None, 0.1), True),  # at most
        ((0.05, 0.2), False),  # the last epoch's counts
    ],
)
def test_settled(distances, ends):
    rows = [{"mask_distance": distance} for distance in distances]
    assert callbacks.settled(rows, MAGNITUDE) is ends
    assert not callbacks.settled(rows, None)


def go(data, directory, network, distance, told=None, **changes):
    directory.mkdir(exist_ok=True)
    config = dataclasses.replace(
        NATURAL, settling=dataclasses.replace(MAGNITUDE, distance=distance), **changes
    )
    reporting = Reporting("search", verbose=0, announce=[].append if told is None else told.append)
    masked = wrap(network())
    return train(masked, data, config, seed=3, directory=directory, reporting=reporting)


@pytest.fixture(scope="module")
def whole(tiny_network, tiny_data, tmp_path_factory):
    """The distances of a training that does not end early, whose weights are kept."""
    told, home = [], tmp_path_factory.mktemp("whole")
    keep = tuple(range(1, NATURAL.epochs + 1))
    rows = go(tiny_data, home, tiny_network, 0.0, told, keep_epochs=keep)
    return rows, home, told


def test_distances_are_those_of_the_weights(whole, tiny_network):
    rows, home, told = whole
    network = tiny_network()
    names = [name for name in weights.get_weights(network) if name.endswith("kernel")]
    masks = []
    for row in rows:
        kept = weights.read_arrays(home / f"epoch-{row['epoch']}.npz")
        kernels = {name: kept[name] for name in names}
        ones = {name: np.ones(kernel.shape, bool) for name, kernel in kernels.items()}
        masks.append(top(kernels, ones, MAGNITUDE.sparsity))
    expected = [None] * 4 + [
        max(float(np.mean(masks[i] != masks[j])) for j in range(i - 4, i))
        for i in range(4, len(masks))
    ]
    assert [row["mask_distance"] for row in rows] == pytest.approx(expected)
    assert rows[-1]["mask_distance"] > 0
    (line,) = told
    assert line.startswith("search: the mask has not settled in 9 epochs (")


@pytest.fixture(scope="module")
def ending(whole):
    """A threshold, and the epoch at which it ends the training: not the first that it could."""
    rows, _, _ = whole
    for row in rows[5:-1]:
        below = row["mask_distance"]
        if below < min(r["mask_distance"] for r in rows[4 : row["epoch"] - 1]):
            return below, row["epoch"]
    raise AssertionError("the distances never fall")


def test_it_ends_where_the_mask_has_settled(whole, ending, tiny_network, tiny_data, tmp_path):
    rows, home, _ = whole
    distance, epoch = ending
    told = []
    found = go(tiny_data, tmp_path, tiny_network, distance, told)
    assert len(found) == epoch
    assert told == [f"search: the mask has settled after epoch {epoch}, {9 - epoch} epochs saved"]
    final = weights.read_arrays(tmp_path / "final.npz")
    kept = weights.read_arrays(home / f"epoch-{epoch}.npz")
    for name, value in kept.items():
        np.testing.assert_allclose(final[name], value, atol=2e-5, err_msg=name)
    assert [row["learning_rate"] for row in found] == [
        row["learning_rate"] for row in rows[:epoch]
    ]  # the schedule is that of all epochs


class InterruptionError(Exception):
    pass


@pytest.mark.parametrize(
    ("where", "before"), [("History", 1), ("Checkpoint", 2), ("Checkpoint", 0)]
)
def test_an_interrupted_search_ends_at_the_same_epoch(
    ending, tiny_network, tiny_data, tmp_path, monkeypatch, where, before
):
    """Killed right after the work of a callback, so many epochs before the end."""
    distance, epoch = ending
    cls = getattr(callbacks, where)
    work = cls.on_epoch_end

    def interrupt(self, number, logs=None):
        work(self, number, logs)
        if number + 1 == epoch - before:
            raise InterruptionError

    with monkeypatch.context() as patch:
        patch.setattr(cls, "on_epoch_end", interrupt)
        with pytest.raises(InterruptionError):
            go(tiny_data, tmp_path, tiny_network, distance)
    assert checkpoints.newest(tmp_path) is not None
    told = []
    found = go(tiny_data, tmp_path, tiny_network, distance, told)
    whole = go(tiny_data, tmp_path / "whole", tiny_network, distance)
    assert len(found) == len(whole) == epoch
    assert [row["mask_distance"] for row in found] == [row["mask_distance"] for row in whole]
    assert len(told) == 1
    ours, theirs = (
        weights.read_arrays(home / "final.npz") for home in (tmp_path, tmp_path / "whole")
    )
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, atol=2e-5, err_msg=name)


def test_an_epoch_to_rewind_to_that_was_never_reached(ending, tiny_network, tiny_data, tmp_path):
    distance, epoch = ending
    with pytest.raises(UsageError, match=rf"--rewind_epoch: got 9, .* {epoch}: .*--search=early"):
        go(tiny_data, tmp_path, tiny_network, distance, keep_epochs=(9,))
