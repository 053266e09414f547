"""Every attack and norm against models whose robustness is known in closed form."""

import numpy as np
import pytest

from tf_lottery.attacks import make_attack
from tf_lottery.attacks.apgd import checkpoints
from tf_lottery.attacks.losses import dlr, ranked_target, targeted_dlr
from tf_lottery.attacks.search import pattern_of_side, window_sides
from tf_lottery.evaluation import evaluate
from tf_lottery.keras import tf
from tf_lottery.options.settings import attack_from_name

GRADIENT_ATTACKS = (
    "pgd40", "cw40", "mim40", "apgd_ce", "apgd_dlr", "apgd_t", "fab", "fab_t",
)  # fmt: skip
SIDE = 6


def linear_model(classes, seed=0):
    """logits = (pixels - 0.5) @ weights, and images so far inside the box that it never binds."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(SIDE * SIDE, classes)).astype("float32")
    x = rng.uniform(0.3, 0.7, (60, SIDE, SIDE, 1)).astype("float32")

    def logits_fn(images):
        return tf.reshape(images - 0.5, (-1, SIDE * SIDE)) @ weights

    logits = (x.reshape(len(x), -1).astype(np.float64) - 0.5) @ weights
    y = logits.argmax(1).astype("int32")
    return logits_fn, weights, logits, x, y


def smallest_perturbation(weights, logits, y, norm):
    """The distance to the nearest boundary: margin over the dual norm of the difference."""
    dual = 1 if norm == "linf" else 2
    best = np.full(len(y), np.inf)
    for c in range(weights.shape[1]):
        length = np.linalg.norm(weights[:, [c]] - weights[:, y], ord=dual, axis=0)
        margin = logits[np.arange(len(y)), y] - logits[:, c]
        best = np.where(y == c, best, np.minimum(best, margin / np.maximum(length, 1e-30)))
    return best


@pytest.mark.parametrize(("norm", "classes"), [("linf", 2), ("linf", 5), ("l2", 3)])
def test_gradient_attacks_reach_the_exact_robust_accuracy_of_a_linear_model(norm, classes):
    logits_fn, weights, logits, x, y = linear_model(classes)
    distance = smallest_perturbation(weights, logits, y, norm)
    eps = float(np.quantile(distance, 0.6))
    # Where a float decides nothing can be asked for; a margin of 1 % of eps.
    clear = np.abs(distance / eps - 1) > 0.01
    robust = distance > eps
    assert robust.sum() == 24
    assert clear.sum() > 50
    found = evaluate(logits_fn, x, y, GRADIENT_ATTACKS, eps=eps, norm=norm, restarts=3)
    for name in GRADIENT_ATTACKS:
        # No attack breaks what cannot be broken ...
        assert found.survived[name][clear & robust].all(), name
        # ... and every strong one breaks what can.
        if classes > 2 and name in ("pgd40", "mim40", "apgd_ce", "apgd_dlr"):
            # Of several wrong classes their loss may favour one that is not the nearest.
            assert (found.survived[name] == robust)[clear].mean() > 0.85, name
        else:
            assert (found.survived[name] == robust)[clear].all(), name


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_random_search_and_noise_never_break_the_unbreakable(norm):
    logits_fn, weights, logits, x, y = linear_model(5)
    distance = smallest_perturbation(weights, logits, y, norm)
    eps = float(np.quantile(distance, 0.6))
    robust = distance > eps * 1.01
    found = evaluate(logits_fn, x, y, ["square600", "noise"], eps=eps, norm=norm)
    for name in ("square600", "noise"):
        assert found.survived[name][robust].all()
    exact = robust.mean()
    assert found.robust["square600"] < exact + (0.05 if norm == "linf" else 0.35)
    assert found.robust["noise"] > exact + 0.2  # a control: it does little


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_suite_reaches_the_exact_answer(norm):
    logits_fn, weights, logits, x, y = linear_model(4, seed=3)
    distance = smallest_perturbation(weights, logits, y, norm)
    eps = float(np.quantile(distance, 0.6))
    clear = np.abs(distance / eps - 1) > 0.01
    small = [attack_from_name("autoattack", eps, norm=norm)]
    found = evaluate(logits_fn, x, y, small, batch_size=32)
    assert (found.survived["autoattack"] == (distance > eps))[clear].all()
    broken = ~found.survived["autoattack"]
    assert (found.broken_by["autoattack"][broken] != "").all()
    assert (found.distances["autoattack"][broken] <= eps + 1e-5).all()
    assert np.isnan(found.distances["autoattack"][~broken]).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_constant_model_cannot_be_broken(norm):
    x = np.random.default_rng(0).random((9, 4, 4, 1)).astype("float32")
    y = np.array([1, 0, 2] * 3)

    def constant(images):
        return tf.ones_like(images[:, 0, 0]) * [[0.0, 1.0, 0.5, 0.2]]

    names = ["pgd5", "cw5", "mim5", "apgd_ce", "apgd_dlr", "apgd_t", "fab_t", "square50", "noise"]
    names += ["cw_l2"] if norm == "l2" else []
    attacks = [attack_from_name(name, 0.3, norm=norm) for name in names]
    small = [a if a.method != "cw_l2" else short_cw(a) for a in attacks]
    found = evaluate(constant, x, y, small)
    assert found.natural == pytest.approx(1 / 3)
    for name in names:
        assert found.robust[name] == found.natural
        assert (found.survived[name] == found.correct).all()


def short_cw(attack):
    import dataclasses

    return dataclasses.replace(attack, steps=20, search_steps=2)


def curved(x):
    """Three classes, smooth, on (8, 8, 1) pixels."""
    rng = np.random.default_rng(5)
    first = rng.normal(size=(64, 12)).astype("float32")
    second = rng.normal(size=(12, 5)).astype("float32")
    return tf.tanh(tf.reshape(x - 0.5, (-1, 64)) @ first) @ second


def saturated(x):
    """Temperature 1/2000: the float32 softmax is exactly 1, its gradient exactly 0."""
    return curved(x) * 2000


def quantised(x):
    """Eleven grey levels: piecewise constant, so no gradient anywhere."""
    return curved(tf.round(x * 10) / 10)


@pytest.fixture(scope="module")
def eight_by_eight():
    x = np.random.default_rng(1).uniform(0.2, 0.8, (60, 8, 8, 1)).astype("float32")
    return x, np.argmax(curved(x), 1)


def test_masked_gradients_fool_gradient_attacks_and_square_breaks_them(eight_by_eight):
    x, y = eight_by_eight
    honest = evaluate(curved, x, y, ["pgd20"], eps=0.05).robust["pgd20"]
    assert honest < 0.1
    for masked, least in ((saturated, 0.6), (quantised, 0.4)):
        labels = np.argmax(masked(x), 1)
        attacks = ["fgsm", "pgd20", "square1000"]
        found = evaluate(masked, x, labels, attacks, eps=0.05)
        assert found.robust["pgd20"] > least
        assert found.robust["fgsm"] > least
        assert found.robust["square1000"] < 0.15
    # The scale of the logits does not matter to the ratio of their differences.
    found = evaluate(saturated, x, y, ["apgd_dlr", "cw20"], eps=0.05)
    assert found.robust["apgd_dlr"] < 0.1


def test_the_suite_sees_through_masked_gradients(eight_by_eight):
    x, _ = eight_by_eight
    labels = np.argmax(quantised(x), 1)
    found = evaluate(quantised, x[:20], labels[:20], ["autoattack"], eps=0.05)
    assert found.robust["autoattack"] < 0.15
    by_square = (found.broken_by["autoattack"] == "square").sum()
    assert by_square > 5


# --- pieces, by hand ------------------------------------------------------------------


def test_checkpoints_of_a_hundred_iterations():
    """22 %, then periods shorter by 3 down to 6: p = 0, .22, .41, .57, .70, .80, .87, .93, .99."""
    ends = np.flatnonzero(checkpoints(100)) + 1
    assert ends.tolist() == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(100)[ends - 1].tolist() == [22, 19, 16, 13, 10, 7, 6, 6]
    assert checkpoints(1).tolist() == [1]


def test_difference_of_logits_ratio_by_hand():
    logits = tf.constant([[5.0, 3.0, 1.0, 0.0], [5.0, 3.0, 1.0, 0.0]])
    y = tf.constant([0, 1])
    # (max wrong - true) / (z1 - z3)
    np.testing.assert_allclose(dlr(logits, y), [(3 - 5) / 4, (5 - 3) / 4], rtol=1e-6)
    # (target - true) / (z1 - (z3 + z4) / 2)
    target = tf.constant([2, 0])
    np.testing.assert_allclose(
        targeted_dlr(logits, y, target), [(1 - 5) / 4.5, (5 - 3) / 4.5], rtol=1e-6
    )
    assert ranked_target(logits, y, 0).numpy().tolist() == [1, 0]
    assert ranked_target(logits, y, 2).numpy().tolist() == [3, 3]
    shifted = dlr(logits * 1000 + 7, y)
    np.testing.assert_allclose(shifted, dlr(logits, y), rtol=1e-4)


@pytest.mark.parametrize("classes", [2, 3])
def test_too_few_classes_for_the_ratio_fall_back_to_differences(classes):
    logits = tf.constant([[3.0, 1.0, 0.5][:classes]])
    y = tf.constant([0])
    np.testing.assert_allclose(targeted_dlr(logits, y, tf.constant([1])), [-2.0])
    expected = -2.0 if classes == 2 else -2.0 / 2.5
    np.testing.assert_allclose(dlr(logits, y), [expected], rtol=1e-6)


def test_square_windows_follow_the_schedule_and_patterns_have_length_one():
    sides = window_sides(10_000, 32, 32, "linf")
    # p = 0.8, halved after queries 10, 50, 200, ...; side = sqrt(p * 32 * 32)
    for query, halvings in ((10, 0), (11, 1), (51, 2), (201, 3), (8001, 9)):
        assert sides[query] == round((0.8 / 2**halvings * 1024) ** 0.5)
    odd = window_sides(5000, 32, 32, "l2")
    assert (odd % 2 == 1).all()
    assert odd.min() == 3
    for side in (1, 2, 3, 7, 29):
        assert np.sum(pattern_of_side(side) ** 2) == pytest.approx(1, rel=1e-5)
    upper, lower = np.split(pattern_of_side(8), 2)
    assert (upper > 0).all()
    assert (lower < 0).all()


@pytest.mark.parametrize("name", ["apgd_ce", "apgd_t", "fab_t", "square100", "mim5", "noise"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_example_is_attacked_alike_alone_and_in_a_batch(name, norm, eight_by_eight):
    x, y = eight_by_eight
    attack = make_attack(name, eps=0.02 if norm == "linf" else 0.15, norm=norm)
    seeds = np.stack([np.full(12, 3), np.arange(12)], 1).astype("int32")
    run = tf.function(lambda x, y, s: attack(curved, x, y, s), reduce_retracing=True)
    together = run(x[:12], y[:12].astype("int32"), seeds).numpy()
    for i in (0, 7):
        alone = run(x[i : i + 1], y[i : i + 1].astype("int32"), seeds[i : i + 1]).numpy()
        np.testing.assert_allclose(alone[0], together[i], atol=2e-5)
