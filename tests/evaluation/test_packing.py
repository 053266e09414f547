"""The driver: survivors packed, nothing lost at a stop, counts and verdicts by hand."""

import dataclasses

import numpy as np
import pytest

from tf_lottery.attacks import make_attack
from tf_lottery.errors import StoreError
from tf_lottery.evaluation import Checkpoint, Evaluator, evaluate
from tf_lottery.evaluation.packing import PackedAttack, packed
from tf_lottery.keras import tf
from tf_lottery.options.settings import attack_from_name

EPS = 0.04


def curved(x):
    rng = np.random.default_rng(5)
    first = rng.normal(size=(64, 12)).astype("float32")
    second = rng.normal(size=(12, 5)).astype("float32")
    return tf.tanh(tf.reshape(x - 0.5, (-1, 64)) @ first) @ second


@pytest.fixture(scope="module")
def examples():
    x = np.random.default_rng(1).uniform(0.2, 0.8, (70, 8, 8, 1)).astype("float32")
    y = np.argmax(curved(x), 1).astype("int32")
    y[::10] = (y[::10] + 1) % 5  # clean errors
    return x, y


def short(name, steps, **changes):
    return dataclasses.replace(attack_from_name(name, EPS), steps=steps, **changes)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 31, 32, 33, 64, 95])
@pytest.mark.parametrize("batch_size", [1, 8, 32, 48])
def test_batches_cover_every_row_once_in_few_sizes(count, batch_size):
    parts = list(packed(count, batch_size))
    rows = np.concatenate([np.arange(part.start, part.stop) for part, _ in parts])
    assert rows.tolist() == list(range(count))
    assert all(part.stop - part.start <= size <= batch_size for part, size in parts)
    assert all(size == batch_size for _, size in parts[:-1])
    last = parts[-1]
    # Never more than twice too large, but for the smallest size.
    assert last[1] < 2 * (last[0].stop - last[0].start) or last[1] < 16 or batch_size < 16


def test_the_driver_and_the_plain_attack_agree(examples):
    """Dropping, packing and judging change no verdict: same seeds, same answers."""
    x, y = examples
    attacks = [short("apgd_ce", 12), short("square100", 60), short("fab_t", 6), short("pgd5", 5)]
    found = evaluate(curved, x, y, attacks, batch_size=16, seed=3)
    clean = np.argmax(curved(x), 1) == y
    seeds = np.stack([np.full(len(y), 3), np.arange(len(y))], 1).astype("int32")
    for attack in attacks:
        plain = tf.function(make_attack(attack))(curved, x, y, seeds)
        expected = clean & (np.argmax(curved(plain), 1) == y)
        assert (found.survived[attack.name] == expected).all(), attack.name
        assert 0 < expected.mean() < clean.mean()


@pytest.mark.parametrize("name", ["apgd_ce", "square100", "fab_t"])
def test_the_batch_size_does_not_matter(examples, name):
    x, y = examples
    found = [
        evaluate(curved, x, y, [short(name, 30)], batch_size=size, seed=1) for size in (7, 32, 200)
    ]
    for other in found[1:]:
        assert (other.survived[name] == found[0].survived[name]).all()
        np.testing.assert_allclose(other.distances[name], found[0].distances[name], atol=1e-6)
    if name == "fab_t":  # nothing about it is random
        return
    reseeded = evaluate(curved, x, y, [short(name, 30)], batch_size=32, seed=2)
    assert not np.array_equal(reseeded.distances[name], found[1].distances[name], equal_nan=True)


def test_the_order_of_the_suite_and_who_broke_what(examples):
    x, y = examples
    found = evaluate(curved, x, y, ["apgd_ce", "autoattack"], eps=EPS, batch_size=32)
    clean = np.argmax(curved(x), 1) == y
    by = found.broken_by["autoattack"]
    assert set(by) <= {"clean", "apgd_ce", "apgd_t", "fab_t", "square", ""}
    assert ((by == "clean") == ~clean).all()
    # The first part finds what it finds alone, and no later part sees it.
    assert ((by == "apgd_ce") == (clean & ~found.survived["apgd_ce"])).all()
    assert (found.survived["autoattack"] == (by == "")).all()
    parts = found.passes["autoattack"]
    left = int((found.survived["apgd_ce"]).sum())
    if left == 0:
        assert parts["square"].forward_passes == 0
    else:
        assert parts["square"].forward_passes <= left * 5002
    assert found.seconds["autoattack"] == pytest.approx(sum(p.seconds for p in parts.values()))


def test_passes_are_counted_by_hand():
    """A model no attack can break: every iteration of every image is done."""
    x = np.random.default_rng(0).random((10, 4, 4, 1)).astype("float32")
    y = np.array([0] * 6 + [1] * 4)  # six clean errors

    def constant(images):
        return tf.ones_like(images[:, 0, 0]) * [[0.0, 1.0, 0.5, 0.2, 0.1]]

    attacks = [short("apgd_ce", 10), short("apgd_t", 10), short("square20", 20), short("pgd4", 4)]
    found = evaluate(constant, x, y, attacks, batch_size=8)
    counts = {
        name: (parts[name].forward_passes, parts[name].input_gradient_passes)
        for name, parts in found.passes.items()
    }
    assert counts == {
        "natural": (10, 0),
        "apgd_ce": (4 * 11, 4 * 11),
        "apgd_t": (4 * 4 * (2 + 10), 4 * 4 * (1 + 10)),  # four wrong classes
        "square20": (4 * 21, 0),
        "pgd4": (4 * 5, 4 * 4),
    }


def test_an_attack_that_leaves_the_ball_is_a_loud_error(examples, monkeypatch):
    x, y = examples
    from tf_lottery.attacks.search import Noise

    step = Noise.step

    def too_far(self, *args):
        state = step(self, *args)
        return state | {"x_adv": state["x_adv"] + 0.5, "broken": tf.ones_like(state["broken"])}

    monkeypatch.setattr(Noise, "step", too_far)
    monkeypatch.setattr(
        "tf_lottery.evaluation.evaluator.Evaluator._predict",
        lambda self, x, original=Evaluator._predict: original(self, np.clip(x, 0, 1)),
    )
    with pytest.raises(ValueError, match="left the allowed set"):
        evaluate(curved, x, y, ["noise3"], eps=EPS)


def test_a_claim_the_network_does_not_confirm_is_not_counted(examples, monkeypatch):
    x, y = examples
    from tf_lottery.attacks.search import Noise

    monkeypatch.setattr(
        Noise, "step", lambda self, f, x, y, s, a, state, i: state | {"broken": y >= 0}
    )
    found = evaluate(curved, x, y, ["noise3"], eps=EPS)
    assert found.robust["noise3"] == found.natural


# --- stopping and going on -------------------------------------------------------------


class KilledError(Exception):
    pass


class Stopping(Checkpoint):
    """Writes at every opportunity and stops the program at the n-th."""

    def __init__(self, path, writes):
        super().__init__(path, every=0)
        self.left = writes

    def write(self, progress, identity):
        super().write(progress, identity)
        self.left -= 1
        if self.left == 0:
            raise KilledError


@pytest.mark.parametrize("writes", [1, 4, 9, 15])
def test_a_killed_evaluation_goes_on_where_it_was(examples, tmp_path, writes, monkeypatch):
    x, y = examples
    attacks = [short("apgd_ce", 12), short("square300", 250), short("pgd3", 3, restarts=3)]
    monkeypatch.setattr("tf_lottery.evaluation.packing._POOL_BYTES", 1)  # a batch a pool
    evaluator = Evaluator(curved, attacks, 32)
    whole = evaluator(x, y, seed=2)
    path = tmp_path / "progress.npz"
    with pytest.raises(KilledError):
        evaluator(x, y, seed=2, checkpoint=Stopping(path, writes))
    known = Checkpoint(path).read(
        {"model": {}, "attacks": settings_of(attacks), "seed": 2, "images": 70}
    )
    assert known is not None
    resumed = evaluator(x, y, seed=2, checkpoint=Checkpoint(path))
    for name in whole.robust:
        np.testing.assert_array_equal(resumed.survived[name], whole.survived[name])
        np.testing.assert_array_equal(resumed.distances[name], whole.distances[name])
        np.testing.assert_array_equal(resumed.broken_by[name], whole.broken_by[name])
        done, expected = resumed.passes[name][name], whole.passes[name][name]
        assert done.forward_passes == expected.forward_passes
        assert done.input_gradient_passes == expected.input_gradient_passes


@pytest.mark.parametrize("writes", [2, 6])
def test_another_batch_size_may_go_on(examples, tmp_path, writes):
    """Who has had which tries does not depend on the size of a pool."""
    x, y = examples
    attacks = [short("pgd3", 3, restarts=4), short("fab_t", 6), short("square300", 60)]
    whole = Evaluator(curved, attacks, 8)(x, y, seed=2)
    path = tmp_path / "progress.npz"
    with pytest.raises(KilledError):
        Evaluator(curved, attacks, 8)(x, y, seed=2, checkpoint=Stopping(path, writes))
    resumed = Evaluator(curved, attacks, 70)(x, y, seed=2, checkpoint=Checkpoint(path))
    for name in whole.robust:
        np.testing.assert_array_equal(resumed.survived[name], whole.survived[name])
        np.testing.assert_allclose(resumed.distances[name], whole.distances[name], atol=1e-5)


def test_no_number_is_no_answer(examples):
    """NaN on attacked images counts as broken, on clean ones it is an error."""
    x, y = examples

    def nan_off_the_grid(images):
        off = tf.reduce_max(tf.abs(images * 100 - tf.round(images * 100)), (1, 2, 3)) > 1e-3
        return tf.where(off[:, None], float("nan"), curved(images))

    x = np.round(x * 100).astype("float32") / np.float32(100)
    y = np.where(np.arange(len(y)) < 60, np.argmax(curved(x), 1), 0)
    found = evaluate(nan_off_the_grid, x, y, [short("pgd5", 5), short("apgd_ce", 5)], eps=EPS)
    assert found.natural > 0.8
    assert set(found.robust.values()) == {0.0}
    assert (found.predictions["pgd5"][found.correct] == -1).all()
    with pytest.raises(ValueError, match="NaN for 70 of the clean images"):
        evaluate(lambda images: curved(images) * float("nan"), x, y, [])


def test_outputs_that_are_no_rows_of_logits_are_refused(examples):
    x, y = examples
    with pytest.raises(ValueError, match=r"shape \(None, 1, 5\).*logits are needed"):
        evaluate(lambda images: curved(images)[:, None], x, y, [])


def settings_of(attacks):
    from tf_lottery.options.settings import settings

    return [settings(attack) for attack in attacks]


def test_what_is_finished_is_not_done_again(examples, tmp_path, monkeypatch):
    x, y = examples
    attacks = [short("pgd3", 3), short("square300", 100)]
    evaluator = Evaluator(curved, attacks, 32)
    path = tmp_path / "progress.npz"
    whole = evaluator(x, y, checkpoint=Checkpoint(path))

    def fail(*args, **kwargs):
        raise AssertionError("attacked again")

    monkeypatch.setattr(PackedAttack, "run", fail)
    again = evaluator(x, y, checkpoint=Checkpoint(path))
    assert again.robust == whole.robust
    assert again.seconds == whole.seconds


def test_damaged_and_foreign_checkpoints_are_refused(examples, tmp_path):
    x, y = examples
    path = tmp_path / "progress.npz"
    attack = [short("pgd3", 3)]
    evaluate_with = Evaluator(curved, attack, 32)
    evaluate_with(x, y, checkpoint=Checkpoint(path))
    with pytest.raises(StoreError, match="other settings"):
        evaluate_with(x, y, seed=1, checkpoint=Checkpoint(path))
    with pytest.raises(StoreError, match="other settings"):
        evaluate_with(x, y, checkpoint=Checkpoint(path), identity={"model": "another"})


@pytest.mark.parametrize("place", [0, 0.3, 0.5, None])
def test_a_damaged_checkpoint_is_told_and_costs_no_more_than_work(
    examples, tmp_path, capsys, place
):
    x, y = examples
    path = tmp_path / "progress.npz"
    evaluate_with = Evaluator(curved, [short("pgd3", 3)], 32)
    whole = evaluate_with(x, y, checkpoint=Checkpoint(path))
    content = path.read_bytes()
    if place is None:
        path.write_bytes(content[:-100])
    else:
        at = int(place * len(content)) if isinstance(place, float) else place
        spoilt = bytearray(content)
        spoilt[at] ^= 4
        path.write_bytes(bytes(spoilt))
    again = evaluate_with(x, y, checkpoint=Checkpoint(path))
    assert again.robust == whole.robust
    assert f"{path} is damaged: starting this evaluation again" in capsys.readouterr().err


def test_pools_of_any_size_give_the_same(examples, monkeypatch):
    x, y = examples
    attack = [short("apgd_t", 8)]
    together = evaluate(curved, x, y, attack, batch_size=16)
    monkeypatch.setattr("tf_lottery.evaluation.packing._POOL_BYTES", 1)
    apart = evaluate(curved, x, y, attack, batch_size=16)
    assert (together.survived["apgd_t"] == apart.survived["apgd_t"]).all()
