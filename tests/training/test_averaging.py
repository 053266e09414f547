"""Averaged weights: the numbers, the masks, which weights are kept, a resumed training."""

import dataclasses
import json

import numpy as np
import outside_training as outside
import pytest

from tf_lottery import weights
from tf_lottery.keras import tf
from tf_lottery.options.settings import (
    ObjectiveConfig,
    ScheduleConfig,
    TrainConfig,
    attack_from_name,
)
from tf_lottery.training import callbacks, checkpoints, guards
from tf_lottery.training.averaging import WeightAverage
from tf_lottery.training.distribution import Distribution
from tf_lottery.training.mask_updates import MaskUpdate
from tf_lottery.training.run import train
from tf_lottery.training.task import Reporting

ATTACK = attack_from_name("pgd2", eps=0.05)
NATURAL = TrainConfig(
    objective=ObjectiveConfig("natural"),
    epochs=3,
    batch_size=32,  # three steps an epoch
    schedule=ScheduleConfig("constant", peak=0.05),
    weight_decay=1e-3,
    ema_decay=0.9,
    checkpoint_minutes=1e-9,
)
ROBUST = dataclasses.replace(NATURAL, validation_attack=ATTACK)


def go(masked, data, directory, config=NATURAL, **options):
    directory.mkdir(exist_ok=True)
    options = {"seed": 3, "reporting": Reporting(verbose=0), **options}
    return train(masked, data, config, directory=directory, **options)


def bound(decay, step):
    return min(decay, (1 + step) / (10 + step))


def averaged(first, later, decay):
    """The averages after each of the weights in ``later``, in float64."""
    found = [{name: np.float64(value) for name, value in first.items()}]
    for step, values in enumerate(later, 1):
        d = bound(decay, step)
        found.append({n: d * found[-1][n] + (1 - d) * np.float64(v) for n, v in values.items()})
    return found[1:]


@pytest.fixture
def steps(monkeypatch):
    """Raw and averaged weights after every training step from here on."""
    seen, look = [], guards.NonFiniteGuard.on_train_batch_end

    def watched(self, batch, logs=None):
        average = self.model.average
        networks = [self.model.network, *([] if average is None else [average.network])]
        seen.append([weights.get_weights(network) for network in networks])
        look(self, batch, logs)

    monkeypatch.setattr(guards.NonFiniteGuard, "on_train_batch_end", watched)
    return seen


def test_three_updates_by_hand(sparse):
    """Of one number: 5 at first, then 10, 20, 30 with d = 2/11, 3/12 and, the largest, 0.26."""
    masked = sparse()
    bias = masked.network.get_layer("logits").bias
    bias.assign(tf.fill(bias.shape, 5.0))
    average = WeightAverage(0.26, masked, masked, masked.network, Distribution())
    update = tf.function(average.update)
    seen = []
    for step, value in enumerate((10.0, 20.0, 30.0), 1):
        bias.assign(tf.fill(bias.shape, value))
        update(tf.constant(step, tf.int64))
        seen.append(average.network.get_layer("logits").bias.numpy()[0])
    first = 10 + (5 - 10) * 2 / 11
    second = 20 + (first - 20) * 3 / 12
    np.testing.assert_allclose(seen, [first, second, 30 + (second - 30) * 0.26], rtol=1e-6)


def test_a_large_decay_keeps_its_digits(sparse):
    """1 - 0.9998 has an error of 3e-4 of itself where it is taken in float32."""
    masked = sparse()
    bias = masked.network.get_layer("logits").bias
    bias.assign(tf.zeros(bias.shape))
    average = WeightAverage(0.9998, masked, masked, masked.network, Distribution())
    bias.assign(tf.ones(bias.shape))
    average.update(tf.constant(10**7))
    np.testing.assert_allclose(average.plain.get_layer("logits").bias, 0.0002, rtol=1e-6)


@pytest.mark.parametrize("decay", [0.3, 0.995])
def test_a_training_averages_all_its_variables(sparse, tiny_data, tmp_path, steps, decay):
    masked = sparse()
    first = weights.get_weights(masked.network)
    config = dataclasses.replace(NATURAL, epochs=1, ema_decay=decay)
    go(masked, tiny_data, tmp_path, config)
    raw, average = zip(*steps, strict=True)
    assert len(raw) == 3
    assert {name.split("/")[1] for name in raw[0]} >= {"kernel", "gamma", "moving_mean"}
    for found, expected in zip(average, averaged(first, raw, decay), strict=True):
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
    final = weights.read_arrays(tmp_path / "final.npz")
    assert weights.digest(final) == weights.digest(average[-1])
    assert weights.digest(weights.get_weights(masked.network)) == weights.digest(final)
    for layer, mask in masked.get_masks().items():
        assert not final[f"{layer}/kernel"][~mask].any()
        assert final[f"{layer}/kernel"][mask].all()
    assert final["bn2/gamma"][3] == final["bn2/beta"][3] == 0


def test_averaging_changes_nothing_of_what_is_trained(sparse, tiny_data, tmp_path, steps):
    with_average = go(sparse(), tiny_data, tmp_path / "a", ROBUST)
    alone = go(sparse(), tiny_data, tmp_path / "b", dataclasses.replace(ROBUST, ema_decay=0.0))
    for ours, theirs in zip(steps[:9], steps[9:], strict=True):
        for name, value in theirs[0].items():
            np.testing.assert_allclose(ours[0][name], value, atol=2e-5, err_msg=name)
    for ours, theirs in zip(with_average, alone, strict=True):
        assert ours["raw_natural"] == theirs["validation_natural"]
        assert ours["raw_robust"] == theirs["validation_robust"]
        assert theirs["raw_natural"] is theirs["raw_robust"] is None
        assert theirs["weights"] == "raw"


def test_masks_that_change_change_the_average(sparse, tiny_data, tmp_path, steps):
    update = MaskUpdate(outside.drop_and_grow, at=lambda step: step in (3, 5))
    masked = sparse()
    masks = [masked.get_masks()] * 3
    first = weights.get_weights(masked.network)

    def note(step, kernels, before, gradients):
        new = outside.drop_and_grow(step, kernels, before, gradients)
        masks.extend([new] * (2 if step == 3 else 4))
        return new

    go(masked, tiny_data, tmp_path, masks_change=dataclasses.replace(update, function=note))
    assert len(steps) == len(masks) == 9
    kernels = {f"{name}/kernel": name for name in masks[0]}
    expected = {name: np.float64(first[name]) for name in kernels}
    came = 0
    for step, ((raw, average), mask) in enumerate(zip(steps, masks, strict=True), 1):
        d = bound(0.9, step)
        for name, layer in kernels.items():
            # What is pruned goes at once; what grows starts at 0, where it was since then.
            expected[name] = (d * expected[name] + (1 - d) * np.float64(raw[name])) * mask[layer]
            np.testing.assert_allclose(average[name], expected[name], rtol=1e-4, atol=1e-6)
            assert not average[name][~mask[layer]].any()
            came += int((mask[layer] & ~masks[max(0, step - 2)][layer]).sum())
    assert came
    final = weights.read_arrays(tmp_path / "final.npz")
    assert weights.digest(final) == weights.digest(steps[-1][1])


def test_history_judges_the_networks_that_are_kept(sparse, tiny_network, tiny_data, tmp_path):
    rows = go(sparse(), tiny_data, tmp_path, dataclasses.replace(NATURAL, epochs=4))
    assert rows == json.loads((tmp_path / "history.json").read_text())
    network = tiny_network()
    images = tiny_data.validation_images.astype(np.float32) / 255
    right = {}
    for file in ("final", "best"):
        weights.set_weights(network, weights.read_arrays(tmp_path / f"{file}.npz"))
        classes = np.argmax(network(images, training=False), axis=1)
        right[file] = np.mean(classes == tiny_data.validation_labels)
    assert right["final"] == pytest.approx(rows[-1]["validation_natural"], abs=1e-6)
    best = rows[callbacks.best_epoch(rows) - 1]
    better = max(best["validation_natural"], best["raw_natural"])
    assert right["best"] == pytest.approx(better, abs=1e-6)
    assert better == max(max(r["validation_natural"], r["raw_natural"]) for r in rows)


@pytest.mark.parametrize(
    ("script", "epoch", "which", "robust"),
    [
        # (raw, average) accuracy of each epoch
        ([(0.5, 0.25), (0.25, 0.25), (0.25, 0.25)], 1, "raw", False),
        ([(0.5, 0.25), (0.25, 0.75), (0.5, 0.5)], 2, "average", True),
        ([(0.5, 0.5), (0.5, 0.25), (0.25, 0.5)], 1, "average", False),  # as good: the average
        ([(0.25, 0.5), (0.5, 0.25), (0.25, 0.5)], 1, "average", False),  # as good: the earliest
        ([(0.25, 0.5), (0.25, 0.5), (0.75, 0.5)], 3, "raw", True),
    ],
)
def test_the_best_is_the_best_of_both(
    sparse, tiny_data, tmp_path, monkeypatch, steps, script, epoch, which, robust
):
    measured = callbacks.History.on_epoch_end

    def record(self, number, logs=None):
        raw, average = script[number]
        told = {"val_natural": raw, "val_average_natural": average}
        if robust:  # which decides, whatever the clean accuracy
            told = {"val_natural": 1.0, "val_average_natural": number / 4}
            told |= {"val_robust": raw, "val_average_robust": average}
        measured(self, number, {**logs, **told})

    monkeypatch.setattr(callbacks.History, "on_epoch_end", record)
    config = dataclasses.replace(ROBUST if robust else NATURAL, keep_epochs=(1,))
    rows = go(sparse(), tiny_data, tmp_path, config)
    assert (callbacks.best_epoch(rows), callbacks.best_weights(rows)) == (epoch, which)
    assert callbacks.averaged(rows)
    expected = ["raw" if raw > average else "average" for raw, average in script]
    assert [row["weights"] for row in rows] == expected
    raw, average = steps[3 * epoch - 1]
    best = weights.read_arrays(tmp_path / "best.npz")
    assert weights.digest(best) == weights.digest(raw if which == "raw" else average)
    # A rewind goes on from what was trained.
    assert weights.digest(weights.read_arrays(tmp_path / "epoch-1.npz")) == weights.digest(
        steps[2][0]
    )
    final = weights.read_arrays(tmp_path / "final.npz")
    assert weights.digest(final) == weights.digest(steps[-1][1])


def test_patience_counts_the_better_of_both():
    def row(epoch, average, raw):
        return {
            "epoch": epoch, "validation_natural": average, "validation_robust": None,
            "raw_natural": raw, "raw_robust": None,
        }  # fmt: skip

    rows = [row(1, 0.5, 0.25), row(2, 0.25, 0.75), row(3, 0.6, 0.25)]
    assert not callbacks.stopped_early(rows, 2)
    rows.append(row(4, 0.7, 0.7))
    assert callbacks.stopped_early(rows, 2)  # epoch 2 has been the best ever since


@pytest.mark.parametrize(("epoch", "step"), [(0, 1), (1, 2)])
def test_a_resumed_training_goes_on_with_its_average(
    sparse, tiny_data, tmp_path, monkeypatch, epoch, step
):
    """To the bit with deterministic operations: see ``test_checkpoints``."""
    go(sparse(), tiny_data, tmp_path / "whole")
    look = guards.NonFiniteGuard.on_train_batch_end

    def end(self, batch, logs=None):
        look(self, batch, logs)
        if (self._epoch, batch) == (epoch, step):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(guards.NonFiniteGuard, "on_train_batch_end", end)
        with pytest.raises(KeyboardInterrupt):
            go(sparse(), tiny_data, tmp_path / "cut")
    position = checkpoints.newest(tmp_path / "cut")
    assert position.begun
    go(sparse(), tiny_data, tmp_path / "cut")
    for file in ("final", "best"):
        whole = weights.read_arrays(tmp_path / "whole" / f"{file}.npz")
        for name, value in weights.read_arrays(tmp_path / "cut" / f"{file}.npz").items():
            np.testing.assert_allclose(value, whole[name], atol=2e-5, err_msg=name)


def test_going_back_takes_the_average_back(sparse, tiny_data, tmp_path, monkeypatch, steps):
    look, left = guards.NonFiniteGuard.on_train_batch_end, [1]

    def spoil(self, batch, logs=None):
        if (self._epoch, batch) == (1, 2) and left[0]:
            left[0] -= 1
            logs = {**logs, "loss": float("nan")}
        look(self, batch, logs)

    monkeypatch.setattr(guards.NonFiniteGuard, "on_train_batch_end", spoil)
    masked = sparse()
    first = weights.get_weights(masked.network)
    reporting = Reporting(verbose=0, announce=lambda line: None)
    config = dataclasses.replace(NATURAL, epochs=2, on_nan="rollback")
    go(masked, tiny_data, tmp_path, config, reporting=reporting)
    assert len(steps) == 9
    raw = [steps[i][0] for i in (0, 1, 2, 6, 7, 8)]  # without the three that were undone
    final = weights.read_arrays(tmp_path / "final.npz")
    for name, value in averaged(first, raw, 0.9)[-1].items():
        np.testing.assert_allclose(final[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_averages_of_half_precision_are_float32(
    sparse, tiny_network, tiny_data, tmp_path, steps, policy
):
    masked = sparse(dtype_policy=policy)
    first = weights.get_weights(masked.network)
    config = dataclasses.replace(ROBUST, epochs=2, dtype_policy=policy)
    rows = go(masked, tiny_data, tmp_path, config, validation_network=tiny_network())
    raw, average = zip(*steps, strict=True)
    final = weights.read_arrays(tmp_path / "final.npz")
    assert {value.dtype for value in final.values()} == {np.dtype(np.float32)}
    assert weights.digest(final) == weights.digest(average[-1])
    if policy == "mixed_bfloat16":  # float16 leaves out its first steps, which count in neither
        for name, value in averaged(first, raw, 0.9)[-1].items():
            np.testing.assert_allclose(final[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
    network = tiny_network()
    weights.set_weights(network, final)
    images = tiny_data.validation_images.astype(np.float32) / 255
    right = np.argmax(network(images, training=False), axis=1) == tiny_data.validation_labels
    assert np.mean(right) == pytest.approx(rows[-1]["validation_natural"], abs=1e-6)


def test_a_compiled_step_averages_too(sparse, tiny_data, tmp_path):
    plain = dataclasses.replace(NATURAL, epochs=1)
    go(sparse(), tiny_data, tmp_path / "plain", plain)
    go(sparse(), tiny_data, tmp_path / "xla", dataclasses.replace(plain, jit_compile=True))
    ours, theirs = (weights.read_arrays(tmp_path / name / "final.npz") for name in ("xla", "plain"))
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, atol=1e-4, err_msg=name)


def test_validation_is_judged_twice_and_said_so_beforehand():
    from tf_lottery.lottery.costs import validation_cost

    alone, both = (
        validation_cost(dataclasses.replace(ROBUST, ema_decay=decay), 40, 1000)
        for decay in (0.0, 0.995)
    )
    assert both.flops == 2 * alone.flops
    assert both.forward_passes == 2 * alone.forward_passes
    assert both.examples == alone.examples
    fgsm = ObjectiveConfig("fgsm", attack_from_name("fgsm", eps=0.05))
    three = dataclasses.replace(ROBUST, objective=fgsm)
    # FGSM beside the attack is of the raw weights alone.
    without = dataclasses.replace(three, ema_decay=0.0)
    costs = [validation_cost(config, 40, 1000).flops for config in (three, without)]
    assert costs[0] - costs[1] == alone.flops < costs[1]
