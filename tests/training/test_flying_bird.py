"""Flying Bird: when masks change, what goes and what comes back, what a training leaves of it."""

import dataclasses
import math
from types import MappingProxyType

import numpy as np
import pytest

from tf_lottery import weights
from tf_lottery.errors import UsageError
from tf_lottery.keras import deterministic, tf
from tf_lottery.options.settings import (
    ObjectiveConfig,
    ScheduleConfig,
    SparsityUpdateConfig,
    TrainConfig,
    attack_from_name,
)
from tf_lottery.pruning.masks import wrap
from tf_lottery.tickets import read_masks
from tf_lottery.training import checkpoints, guards
from tf_lottery.training.callbacks import best_epoch
from tf_lottery.training.distribution import Distribution
from tf_lottery.training.flying_bird import exchange, interval, mask_update, updates
from tf_lottery.training.run import train
from tf_lottery.training.task import Reporting

QUIET = Reporting(verbose=0)
STEPS = 6  # an epoch of tiny_data


def config(epochs=12, **update):
    return TrainConfig(
        objective=ObjectiveConfig("natural"),
        epochs=epochs,
        batch_size=16,
        schedule=ScheduleConfig("constant", peak=0.05),
        sparsity_update=SparsityUpdateConfig(**{"name": "flying_bird", "interval": 4} | update),
    )


def due(config, steps=STEPS):
    update = mask_update(config, steps, 0)
    return [step for step in range(config.epochs * steps) if update.at(step)]


class TestWhen:
    def test_by_hand(self):
        # 72 steps: every 4 up to 36, then every 16 / 3, rounded.
        assert due(config()) == [4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 45, 50, 55, 60, 65, 70]
        # Of the steps 0 to 5, 6 to 11, and so on.
        counts = [updates(config(), STEPS, epoch) for epoch in range(12)]
        assert counts == [1, 1, 2, 1, 2, 1, 2, 1, 1, 1, 2, 1]

    def test_as_published(self):
        published = config(200, interval=0)
        steps = due(published, 391)
        assert steps[:2] == [900, 1800]
        assert steps[-2:] == [76800, 78000]
        # The 43 multiples of 900 up to 39,100, and the 33 of 1,200 above that.
        assert len(steps) == 43 + 33
        assert sum(updates(published, 391, epoch) for epoch in range(200)) == 43 + 33

    @pytest.mark.parametrize(
        ("steps", "expected"),
        [(78_200, 900), (11_730, 135), (2000, 100), (500, 50), (12, 2), (5, 1)],
    )
    def test_the_default_follows_the_length(self, steps, expected):
        assert interval(SparsityUpdateConfig("flying_bird"), steps) == expected
        assert interval(SparsityUpdateConfig("flying_bird", 7), steps) == 7

    def test_none_without_setting(self):
        plain = dataclasses.replace(config(), sparsity_update=None)
        assert mask_update(plain, STEPS, 0) is None
        assert updates(plain, STEPS, 0) == 0
        none = dataclasses.replace(config(), sparsity_update=SparsityUpdateConfig())
        assert none.sparsity_update is None


class TestExchange:
    kernel = np.array([[3.0, -1.0, 0.0, 2.0], [0.0, -2.0, 1.0, 0.0]])
    mask = np.array([[1, 1, 0, 1], [0, 1, 1, 0]], bool)

    def test_gradients_by_hand(self):
        scores = np.array([[9.0, 9.0, 0.1, 9.0], [0.3, 9.0, 9.0, 0.3]])
        new = exchange(self.kernel, self.mask, 2, scores=scores)
        # -1 and 1 go; of the free places those of 0.3 come, whatever 9 the others have.
        assert new.tolist() == [[1, 0, 0, 1], [1, 1, 0, 1]]

    def test_ties_by_position(self):
        new = exchange(self.kernel, self.mask, 1, scores=np.ones((2, 4)))
        # Of -1 and 1 the earlier one stays; of the free places the earliest comes.
        assert new.tolist() == [[1, 1, 1, 1], [0, 1, 0, 0]]

    def test_random_places_are_free_ones_and_all_of_them_have_a_chance(self):
        came = np.zeros((2, 4))
        for seed in range(60):
            new = exchange(self.kernel, self.mask, 1, seed=seed)
            assert new.sum() == 5
            assert (self.mask & ~new).tolist() == [[0, 0, 0, 0], [0, 0, 1, 0]]
            came += new & ~self.mask
            np.testing.assert_array_equal(new, exchange(self.kernel, self.mask, 1, seed=seed))
        assert came[~self.mask].min() >= 8  # 20 expected
        assert came[self.mask].max() == 0

    def test_no_more_than_there_is_room(self):
        assert exchange(self.kernel, self.mask, 5).tolist() == [[1, 0, 1, 1], [1, 0, 0, 1]]
        full = np.ones((2, 4), bool)
        np.testing.assert_array_equal(exchange(self.kernel, full, 3), full)

    def test_more_goes_or_comes(self):
        scores = np.arange(8.0).reshape(2, 4)
        fewer = exchange(self.kernel, self.mask, 1, pruned=2, scores=scores)
        assert fewer.tolist() == [[1, 0, 0, 1], [0, 0, 0, 1]]  # 1, -1 and -2 went
        more = exchange(self.kernel, self.mask, 1, grown=1, scores=scores)
        assert more.tolist() == [[1, 1, 0, 1], [1, 1, 0, 1]]

    def test_one_weight_stays(self):
        full = np.ones((2, 4), bool)
        last = exchange(self.kernel, full, 0, pruned=100)
        assert last.tolist() == [[1, 0, 0, 0], [0, 0, 0, 0]]


class TestRule:
    kernels = MappingProxyType({"a": np.linspace(1, 2, 1000).reshape(10, 100)})

    def masks(self):
        return {"a": np.arange(1000).reshape(10, 100) % 5 == 0}

    def moved(self, chosen, step, rows=None, masks=None):
        """Weights that went and came at a step."""
        update = mask_update(chosen, STEPS, 7)
        masks = masks or self.masks()
        told = () if rows is None else (rows[: step // STEPS],)
        new = update.function(step, self.kernels, self.masks(), None, *told)["a"]
        return int((masks["a"] & ~new).sum()), int((new & ~masks["a"]).sum())

    def test_the_share_falls_along_a_cosine(self):
        for step in (4, 36, 60):
            share = 0.005 + 0.495 * (1 + math.cos(math.pi * step / 72)) / 2
            assert self.moved(config(), step) == (round(200 * share),) * 2
        share = 0.005 + 0.195 * (1 + math.cos(math.pi * 36 / 72)) / 2
        assert self.moved(config(fraction=0.2), 36) == (round(200 * share),) * 2

    def test_seeds_and_steps_move_it(self):
        def grown(seed, step):
            update = mask_update(config(fraction=0.3), STEPS, seed)
            return update.function(step, self.kernels, self.masks(), None)["a"]

        np.testing.assert_array_equal(grown(1, 4), grown(1, 4))
        assert np.any(grown(1, 4) != grown(2, 4))
        assert np.any(grown(1, 4) != grown(1, 5))

    @staticmethod
    def rows(gaps, losses):
        """12 epochs, of which the last ones have these gaps and losses."""
        before = 12 - len(gaps)
        return [
            {
                "epoch": epoch + 1,
                "train_accuracy": 0.5 + gap,
                "validation_robust": 0.5,
                "validation_natural": 0.1 * epoch,
                "validation_loss": loss,
            }
            for epoch, (gap, loss) in enumerate(
                zip([0.0] * before + [*gaps], [1.0] * before + [*losses], strict=True)
            )
        ]

    # Half of 12 epochs are 6. The window is epochs 7 to 10, each compared with the one before
    # it; step 60 is the first with ten epochs done, and an update.
    FALL = (0.3, 0.2, 0.1, 0.05, 0.01, 0.0, 0.0)
    HALF = (0.3, 0.2, 0.1, 0.15, 0.2, 9.0, 9.0)
    LESS = (0.3, 0.2, 0.1, 0.05, 0.2, 9.0, 9.0)

    @pytest.mark.parametrize(
        ("gaps", "losses", "more_pruned", "more_grown"),
        [
            (FALL, FALL, False, False),
            (HALF, FALL, True, False),
            (FALL, HALF, False, True),
            (HALF, HALF, True, True),
            (LESS, LESS, False, False),
        ],
    )
    def test_plus_follows_the_overfitting(self, gaps, losses, more_pruned, more_grown):
        rows = self.rows(gaps, losses)
        plus = config(name="flying_bird_plus", fraction=0.9)
        share = 0.005 + 0.895 * (1 + math.cos(math.pi * 60 / 72)) / 2
        count = round(200 * share)
        went = count + more_pruned * round(0.4 * 200 * share)
        came = count + more_grown * round(0.05 * 200)
        assert self.moved(plus, 60, rows) == (went, came)
        # Neither another update nor the plain rule.
        for step in (36, 45, 55, 65, 70):
            went, came = self.moved(plus, step, rows)
            assert went == came
        update = mask_update(config(fraction=0.9), STEPS, 7)
        assert update.function(60, self.kernels, self.masks(), None)["a"].sum() == 200

    def test_clean_accuracy_where_no_attack_is_validated(self):
        rows = [
            {**row, "validation_robust": None, "train_accuracy": 0.9, "validation_natural": 0.4}
            for row in self.rows(self.FALL, self.FALL)
        ]
        for row, accuracy in zip(rows[5:10], (0.5, 0.4, 0.3, 0.4, 0.5), strict=True):
            row["validation_natural"] = accuracy  # the gap rises twice
        went, came = self.moved(config(name="flying_bird_plus", fraction=0.9), 60, rows)
        assert went > came


# Trainings -------------------------------------------------------------------


def go(masked, data, directory, config, **options):
    directory.mkdir(exist_ok=True)
    options = {"seed": 0, "reporting": QUIET, **options}
    with deterministic(0):
        return train(masked, data, config, directory=directory, **options)


def shapes(masked):
    return {name: tuple(kernel.shape) for name, kernel in masked.kernels.items()}


def check_zeros(values, masks):
    for name, mask in masks.items():
        kernel = values[f"{name}/kernel"]
        assert not kernel[~mask].any()
        assert kernel[mask].any()


@pytest.mark.parametrize("growth", ["random", "gradient"])
def test_a_training_keeps_the_count_and_leaves_the_masks_of_its_best_epoch(
    sparse, tiny_data, tmp_path, growth, monkeypatch
):
    masked, counts = sparse(), []
    before = masked.get_masks()
    look = guards.NonFiniteGuard.on_train_batch_end

    def watch(self, batch, logs=None):
        look(self, batch, logs)
        masks = masked.get_masks()
        counts.append({name: int(mask.sum()) for name, mask in masks.items()})
        check_zeros(weights.get_weights(masked.network), masks)

    monkeypatch.setattr(guards.NonFiniteGuard, "on_train_batch_end", watch)
    rows = go(masked, tiny_data, tmp_path, config(5, growth=growth))
    assert len(counts) == 30
    assert all(count == {name: int(m.sum()) for name, m in before.items()} for count in counts)
    after = masked.get_masks()
    assert any(np.any(after[name] != mask) for name, mask in before.items())
    best = read_masks(tmp_path / "best-masks.npz", shapes(masked))
    check_zeros(weights.read_arrays(tmp_path / "best.npz"), best)
    check_zeros(weights.read_arrays(tmp_path / "final.npz"), after)
    assert all(row["validation_loss"] is None for row in rows)


def test_the_best_epoch_has_masks_of_its_own(sparse, tiny_data, tmp_path, monkeypatch):
    """Of a training whose first epoch is its best; and epochs that are kept have theirs."""
    from tf_lottery.training import callbacks

    measured = callbacks.History.on_epoch_end

    def worse_and_worse(self, epoch, logs=None):
        measured(self, epoch, {**logs, "val_natural": 0.5 - 0.1 * epoch})

    monkeypatch.setattr(callbacks.History, "on_epoch_end", worse_and_worse)
    masked = sparse()
    chosen = dataclasses.replace(config(3), keep_epochs=(2,))
    rows = go(masked, tiny_data, tmp_path, chosen)
    assert best_epoch(rows) == 1
    best = read_masks(tmp_path / "best-masks.npz", shapes(masked))
    second = read_masks(tmp_path / "epoch-2-masks.npz", shapes(masked))
    check_zeros(weights.read_arrays(tmp_path / "best.npz"), best)
    check_zeros(weights.read_arrays(tmp_path / "epoch-2.npz"), second)
    last = masked.get_masks()
    for masks in (best, second):
        assert any(np.any(masks[name] != last[name]) for name in last)


@pytest.mark.parametrize(
    ("name", "epoch", "step"),
    [("flying_bird", 6, 1), ("flying_bird_plus", 9, 4), ("flying_bird_plus", 10, 2)],
)
def test_a_resumed_training_ends_like_an_uninterrupted_one(
    sparse, tiny_data, tmp_path, monkeypatch, name, epoch, step
):
    chosen = config(name=name, growth="gradient", fraction=0.9)
    whole, cut = sparse(), sparse()
    rows = go(whole, tiny_data, tmp_path / "whole", chosen)
    original = guards.NonFiniteGuard.on_train_batch_end

    def end(self, batch, logs=None):
        original(self, batch, logs)
        if (self._epoch, batch) == (epoch, step):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(guards.NonFiniteGuard, "on_train_batch_end", end)
        with pytest.raises(KeyboardInterrupt):
            go(cut, tiny_data, tmp_path / "cut", chosen)
    position = checkpoints.newest(tmp_path / "cut")
    assert (position.epoch, position.step) == (epoch, step + 1)
    cut = sparse()
    again = go(cut, tiny_data, tmp_path / "cut", chosen)
    assert [row["validation_loss"] for row in again] == [row["validation_loss"] for row in rows]
    for layer, mask in whole.get_masks().items():
        np.testing.assert_array_equal(cut.get_masks()[layer], mask)
    for file in ("final.npz", "best.npz", "best-masks.npz"):
        ours, theirs = (weights.read_arrays(tmp_path / run / file) for run in ("whole", "cut"))
        for key, value in ours.items():
            np.testing.assert_array_equal(theirs[key], value, err_msg=f"{file} {key}")


def test_plus_changes_the_count_as_its_history_says(sparse, tiny_data, tmp_path, monkeypatch):
    masked, masks = sparse(), {}
    before = masked.get_masks()
    look = guards.NonFiniteGuard.on_train_batch_end

    def watch(self, batch, logs=None):
        look(self, batch, logs)
        masks[self._epoch * STEPS + batch] = masked.get_masks()  # after so many steps and one

    monkeypatch.setattr(guards.NonFiniteGuard, "on_train_batch_end", watch)
    chosen = config(name="flying_bird_plus", fraction=0.5)
    chosen = dataclasses.replace(
        chosen, validation_attack=attack_from_name("pgd1", eps=0.05), validation_images=20
    )
    rows = go(masked, tiny_data, tmp_path, chosen)
    kept = {step: sum(int(m.sum()) for m in each.values()) for step, each in masks.items()}
    first = sum(int(mask.sum()) for mask in before.values())
    assert {kept[step] for step in range(60)} == {first}
    gaps = [row["train_accuracy"] - row["validation_robust"] for row in rows[5:10]]
    losses = [row["validation_loss"] for row in rows[5:10]]
    prune, grow = (np.sum(np.diff(v) > 0) >= 2 for v in (gaps, losses))
    share = 0.005 + 0.495 * (1 + math.cos(math.pi * 60 / 72)) / 2
    expected = 0
    for mask in masks[59].values():
        left, free = int(mask.sum()), int((~mask).sum())
        count = min(round(share * left), free)
        come = min(count + grow * round(0.05 * left), free)
        go_ = min(count + prune * round(0.4 * share * left), left + come - 1, left)
        expected += left - go_ + come
    assert prune or grow, "nothing to see"
    assert {kept[step] for step in range(60, 72)} == {expected}
    assert all(mask.any() for mask in masked.get_masks().values())


def test_the_validation_loss_is_the_cross_entropy(sparse, tiny_data, tmp_path):
    masked = sparse()
    rows = go(masked, tiny_data, tmp_path, config(1, name="flying_bird_plus"))
    images = tiny_data.validation_images / np.float32(255)
    logits = masked.network(images, training=False).numpy().astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = -np.mean(log_p[np.arange(len(images)), tiny_data.validation_labels])
    assert rows[0]["validation_loss"] == pytest.approx(expected, rel=1e-5)


def test_nothing_to_change_is_refused(tiny_network, tiny_data, tmp_path):
    with pytest.raises(UsageError, match=r"--sparsity_update: got 'flying_bird'.*pruned"):
        go(wrap(tiny_network()), tiny_data, tmp_path, config())


def test_several_devices_are_refused():
    alone, shared = Distribution(), Distribution(tf.distribute.OneDeviceStrategy("/cpu:0"))
    alone.check(config())
    shared.check(dataclasses.replace(config(), sparsity_update=None))
    with pytest.raises(UsageError, match=r"--sparsity_update: got 'flying_bird'.*--distribute"):
        shared.check(config())
