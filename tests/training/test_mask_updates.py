"""Masks that change during training: what is pruned, what comes back, what a resumed run does."""

import dataclasses
import doctest

import numpy as np
import outside_training as outside
import pytest

from tf_lottery import weights
from tf_lottery.options.settings import (
    ObjectiveConfig,
    ScheduleConfig,
    TrainConfig,
    attack_from_name,
)
from tf_lottery.training import checkpoints, guards, mask_updates
from tf_lottery.training.mask_updates import MaskUpdate, UpdateMasks
from tf_lottery.training.run import train
from tf_lottery.training.task import Reporting

CONFIG = TrainConfig(
    objective=ObjectiveConfig("natural"),
    epochs=3,
    batch_size=16,  # six steps an epoch
    schedule=ScheduleConfig("constant", peak=0.05),
    checkpoint_minutes=1e-9,
)
QUIET = Reporting(verbose=0)
EVERY_THIRD = MaskUpdate(outside.drop_and_grow, at=lambda step: step and step % 3 == 0)


def go(masked, data, directory, update=EVERY_THIRD, config=CONFIG, **options):
    directory.mkdir(exist_ok=True)
    options = {"seed": 0, "reporting": QUIET, **options}
    return train(masked, data, config, directory=directory, masks_change=update, **options)


def slots(masked, optimizer):
    """Momentum by the identity of the variable it is of."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    pairs = zip(masked.network.trainable_variables, optimizer.momentums, strict=True)
    return {id(variable): slot.numpy() for variable, slot in pairs}


class Watch:
    """Looks at a training right after masks may have changed, and after every step."""

    def __init__(self, monkeypatch, masked):
        self.masked, self.masks, self.steps = masked, [masked.get_masks()], 0
        begin, end = UpdateMasks.on_train_batch_begin, guards.NonFiniteGuard.on_train_batch_end

        def begun(callback, batch, logs=None):
            begin(callback, batch, logs)
            self.look(callback.model, came_back=True)

        def ended(callback, batch, logs=None):
            end(callback, batch, logs)
            self.look(callback.model, came_back=False)
            self.steps += 1

        monkeypatch.setattr(UpdateMasks, "on_train_batch_begin", begun)
        monkeypatch.setattr(guards.NonFiniteGuard, "on_train_batch_end", ended)

    def look(self, model, came_back):
        masked, masks = self.masked, self.masked.get_masks()
        momentum = slots(masked, model.optimizer)
        changed = any(np.any(masks[name] != old) for name, old in self.masks[-1].items())
        assert changed == (came_back and self.steps in (3, 6, 9, 12, 15))
        for name, kernel in masked.kernels.items():
            zero = ~masks[name]
            if changed:  # what came back starts at nothing
                zero = zero | ~self.masks[-1][name]
                assert masks[name].sum() == self.masks[-1][name].sum()
            assert not kernel.numpy()[zero].any()
            assert not momentum[id(kernel)][zero].any()
            bn = name.replace("conv", "bn")
            if name != "logits":
                dead = ~masks[name].any(axis=(0, 1, 2))
                layer = masked.network.get_layer(bn)
                for part in (layer.gamma, layer.beta):
                    assert not part.numpy()[dead].any()
                    assert not momentum[id(part)][dead].any()
        if changed:
            self.masks.append(masks)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_masks_and_slots_after_every_step(
    sparse, tiny_network, tiny_data, tmp_path, monkeypatch, policy
):
    masked = sparse(dtype_policy=policy)
    watch = Watch(monkeypatch, masked)
    config = dataclasses.replace(CONFIG, dtype_policy=policy)
    go(masked, tiny_data, tmp_path, config=config, validation_network=tiny_network())
    assert watch.steps == 18
    assert len(watch.masks) == 6  # the first, and five others
    # Weights that came back are trained: all that are left differ from 0.
    final = weights.read_arrays(tmp_path / "final.npz")
    for name, mask in masked.get_masks().items():
        alive = watch.masks[-1][name] & (watch.masks[-2][name] | ~watch.masks[-1][name])
        assert final[f"{name}/kernel"][alive].all()
        assert np.array_equal(mask, watch.masks[-1][name])
    grown = watch.masks[-1]["logits"] & ~watch.masks[-2]["logits"]
    assert np.any(final["logits/kernel"][grown])


def test_a_dense_layer_may_be_pruned_on_the_way(sparse, tiny_data, tmp_path, tiny_network):
    """Its mask keeps all at first, and is not part of the graph of a training without updates."""
    from tf_lottery.pruning.masks import wrap

    def halve(step, kernels, masks, gradients):
        return {name: np.arange(mask.size).reshape(mask.shape) % 2 for name, mask in masks.items()}

    masked = wrap(tiny_network())
    update = MaskUpdate(halve, at=lambda step: step == 4, same_count=False)
    go(masked, tiny_data, tmp_path, update)
    for kernel in masked.kernels.values():
        flat = kernel.numpy().ravel()
        assert not flat[::2].any()
        assert flat[1::2].all()


class Killed(BaseException):
    """Nothing may save on it: so ends a process that is killed."""


@pytest.mark.parametrize(
    ("epoch", "step", "error", "saved"),
    [
        (0, 5, Killed, (0, 5)),
        (1, 0, Killed, (1, 0)),  # masks changed, nothing trained since
        (1, 1, KeyboardInterrupt, (1, 2)),
        (1, 3, KeyboardInterrupt, (1, 3)),  # likewise: what was saved before counts
    ],
)
def test_a_resumed_training_ends_like_an_uninterrupted_one(
    sparse, tiny_data, tmp_path, monkeypatch, epoch, step, error, saved
):
    whole, cut = sparse(), sparse()
    go(whole, tiny_data, tmp_path / "whole")
    place = (UpdateMasks, "on_train_batch_begin") if step in (0, 3) else None
    owner, name = place or (guards.NonFiniteGuard, "on_train_batch_end")
    original = getattr(owner, name)

    def end(self, batch, logs=None):
        original(self, batch, logs)
        if (self._epoch, batch) == (epoch, step):
            raise error

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, end)
        with pytest.raises(error):
            go(cut, tiny_data, tmp_path / "cut")
    position = checkpoints.newest(tmp_path / "cut")
    assert (position.epoch, position.step) == saved
    cut = sparse()
    go(cut, tiny_data, tmp_path / "cut")
    for name, mask in whole.get_masks().items():
        np.testing.assert_array_equal(cut.get_masks()[name], mask)
    final = weights.read_arrays(tmp_path / "whole" / "final.npz")
    for name, value in weights.read_arrays(tmp_path / "cut" / "final.npz").items():
        np.testing.assert_allclose(value, final[name], atol=2e-5, err_msg=name)


def test_dense_gradients_are_those_of_the_next_step(sparse, tiny_data, tmp_path, monkeypatch):
    """And looking at them changes nothing: a step without mask takes just that gradient."""
    seen = {}

    def note(step, kernels, masks, gradients):
        seen.update(kernels=kernels, gradients=gradients)
        return masks

    config = dataclasses.replace(
        CONFIG,
        objective=ObjectiveConfig("pgd", attack_from_name("pgd2", eps=0.05)),
        epochs=1,
        weight_decay=0.0,
        momentum=0.0,
    )
    after = {}
    look = guards.NonFiniteGuard.on_train_batch_end

    def watch(self, batch, logs=None):
        look(self, batch, logs)
        if batch == 2:
            after.update({name: kernel.numpy() for name, kernel in masked.kernels.items()})

    monkeypatch.setattr(guards.NonFiniteGuard, "on_train_batch_end", watch)
    masked, plain = sparse(), sparse()
    update = MaskUpdate(note, at=lambda step: step == 2, gradients=True)
    go(masked, tiny_data, tmp_path / "a", update, config, augment=True)
    for name, mask in masked.get_masks().items():
        step = seen["kernels"][name] - 0.05 * seen["gradients"][name] * mask
        np.testing.assert_allclose(after[name], step, atol=1e-6)
        assert np.any(seen["gradients"][name][~mask])
    go(plain, tiny_data, tmp_path / "b", None, config, augment=True)
    ours = weights.read_arrays(tmp_path / "a" / "final.npz")
    for name, value in weights.read_arrays(tmp_path / "b" / "final.npz").items():
        np.testing.assert_allclose(ours[name], value, atol=2e-5, err_msg=name)


def test_a_filter_that_comes_back_has_a_scale_again(sparse, tiny_data, tmp_path):
    masked = sparse()  # filter 3 of conv2 is dead
    bn = masked.network.get_layer("bn2")

    def revive(step, kernels, masks, gradients):
        assert bn.gamma.numpy()[3] == bn.beta.numpy()[3] == 0
        masks["conv2"][0, 0, :, 3] = True
        return masks

    update = MaskUpdate(revive, at=lambda step: step == 5, same_count=False)
    config = dataclasses.replace(CONFIG, keep_epochs=(1,))
    go(masked, tiny_data, tmp_path, update, dataclasses.replace(config, epochs=1))
    assert bn.gamma.numpy()[3] == pytest.approx(1, abs=0.1)
    # Another process knows that it lives.
    masked = sparse()
    go(masked, tiny_data, tmp_path, update, config)
    assert masked.network.get_layer("bn2").gamma.numpy()[3] == pytest.approx(1, abs=0.3)


def test_the_example():
    assert doctest.testmod(mask_updates, raise_on_error=True).attempted


def test_another_number_of_weights_is_refused(sparse, tiny_data, tmp_path):
    masked = sparse()
    kept = sum(mask.sum() for mask in masked.get_masks().values())

    def all_but_one(step, kernels, masks, gradients):
        masks["conv1"].reshape(-1)[np.flatnonzero(masks["conv1"])[0]] = False
        return masks

    update = MaskUpdate(all_but_one, at=lambda step: step == 2)
    said = f"mask update at step 2: {kept - 1} weights left, not {kept}"
    with pytest.raises(ValueError, match=said):
        go(masked, tiny_data, tmp_path, update)


def test_going_back_restores_the_masks(sparse, tiny_data, tmp_path, monkeypatch):
    masked, look, left = sparse(), guards.NonFiniteGuard.on_train_batch_end, [1]

    def spoil(self, batch, logs=None):
        if (self._epoch, batch) == (1, 4) and left[0]:
            left[0] -= 1
            logs = {**logs, "loss": float("nan")}
        look(self, batch, logs)

    monkeypatch.setattr(guards.NonFiniteGuard, "on_train_batch_end", spoil)
    seen = []

    def note(step, kernels, masks, gradients):
        seen.append((step, masks))
        return outside.drop_and_grow(step, kernels, {k: m.copy() for k, m in masks.items()}, None)

    config = dataclasses.replace(CONFIG, epochs=2, on_nan="rollback")
    update = dataclasses.replace(EVERY_THIRD, function=note)
    reporting = Reporting(verbose=0, announce=lambda line: None)
    go(masked, tiny_data, tmp_path, update, config, reporting=reporting)
    assert [step for step, _ in seen] == [3, 6, 9, 6, 9]
    for name, mask in seen[1][1].items():
        np.testing.assert_array_equal(seen[3][1][name], mask)


def test_an_update_may_look_at_the_history(sparse, tiny_data, tmp_path):
    """At the rows of the epochs that are finished, also where a resumed training begins."""
    seen = {}

    def note(step, kernels, masks, gradients, rows):
        seen.setdefault(step, []).append([(row["epoch"], row["validation_loss"]) for row in rows])
        return masks

    update = MaskUpdate(note, at=lambda step: step in (5, 6, 13), history=True)
    config = dataclasses.replace(CONFIG, keep_epochs=(1, 2))  # which the way on needs
    go(sparse(), tiny_data, tmp_path, update, dataclasses.replace(config, epochs=2))
    rows = go(sparse(), tiny_data, tmp_path, update, config)
    told = [(row["epoch"], row["validation_loss"]) for row in rows]
    assert seen == {5: [[]], 6: [told[:1]], 13: [told[:2]]}
    assert all(loss > 0 for _, loss in told)


def test_without_update_no_loss_is_measured(sparse, tiny_data, tmp_path):
    (row,) = go(sparse(), tiny_data, tmp_path, None, dataclasses.replace(CONFIG, epochs=1))
    assert row["validation_loss"] is None
    assert not list(tmp_path.glob("*masks*"))


def test_going_back_to_the_start_restores_what_follows_from_the_masks(
    sparse, tiny_data, tmp_path, monkeypatch
):
    """A filter that died and one that lived again in the first epoch."""
    masked = sparse()
    first = masked.get_masks()

    def swap(step, kernels, masks, gradients):
        assert not masks["conv2"][..., 3].any()
        masks["conv2"] = masks["conv2"][..., [3, 1, 2, 0, 4, 5]]
        return masks

    look, seen = guards.NonFiniteGuard.on_train_batch_end, []

    def spoil(self, number, logs=None):
        gamma, beta = (masked.filters["bn2", part].numpy() for part in ("gamma", "beta"))
        seen.append((gamma.tolist(), beta.tolist()))
        look(self, number, {**logs, "loss": float("nan")} if len(seen) == 2 else logs)

    monkeypatch.setattr(guards.NonFiniteGuard, "on_train_batch_end", spoil)
    config = dataclasses.replace(CONFIG, epochs=1, on_nan="rollback")
    go(masked, tiny_data, tmp_path, MaskUpdate(swap, at=lambda step: step == 1), config)
    before, after = [[1, 1, 1, 0, 1, 1]] * 2, [[0, 1, 1, 1, 1, 1]] * 2
    assert [list(each) for each in seen] == [before, after, before, *[after] * (len(seen) - 3)]
    final = weights.read_arrays(tmp_path / "final.npz")
    assert final["bn2/gamma"][0] == final["bn2/beta"][0] == 0
    assert final["bn2/gamma"][3] != 0
    np.testing.assert_array_equal(masked.get_masks()["conv2"][..., 3], first["conv2"][..., 0])
