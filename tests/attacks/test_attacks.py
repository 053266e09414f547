"""Attacks against closed forms, NumPy oracles and cleverhans."""

import dataclasses
import doctest

import numpy as np
import pytest

import tf_lottery.attacks
from tf_lottery.attacks import make_attack
from tf_lottery.attacks.losses import cross_entropy, margin
from tf_lottery.attacks.seeds import example_seeds, uniform_in_ball
from tf_lottery.errors import UsageError
from tf_lottery.keras import tf
from tf_lottery.options.settings import AttackConfig

EPS = 0.1


def images(batch, shape=(6, 6, 2), seed=0):
    """Uniform pixels with some at both ends of [0, 1], where the box matters."""
    x = np.random.default_rng(seed).uniform(-0.2, 1.2, (batch, *shape))
    return np.clip(x, 0, 1).astype("float32")


def labels(batch, classes=4, seed=0):
    return np.random.default_rng(seed).integers(0, classes, batch).astype("int32")


def conv_net(x):
    """Tiny smooth network with fixed random weights: (batch, 6, 6, 2) -> (batch, 4)."""
    rng = np.random.default_rng(7)
    kernel = rng.normal(size=(3, 3, 2, 5)).astype("float32") * 0.5
    dense = rng.normal(size=(180, 4)).astype("float32") * 0.3
    hidden = tf.nn.softplus(tf.nn.conv2d(x, kernel, 1, "SAME"))
    return tf.matmul(tf.reshape(hidden, (-1, 180)), dense)


def linear(weights, bias):
    def logits_fn(x):
        return tf.matmul(tf.reshape(x, (-1, len(weights))), weights) + bias

    return logits_fn


def run(attack, logits_fn, x, y, seed=0, **options):
    """The attack inside a ``tf.function``, as training and evaluation call it."""
    return tf.function(lambda x, y: attack(logits_fn, x, y, seed), **options)(x, y).numpy()


# --- closed forms -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fgsm", "pgd12", "cw12"])
def test_binary_linear_model_worst_case(name):
    """The worst image is clip(x + eps sign(w_wrong - w_true)); 0-weight pixels are free."""
    rng = np.random.default_rng(1)
    weights = rng.normal(size=(72, 2)).astype("float32")
    weights[::9] = 0
    x, y = images(40), labels(40, 2)
    difference = (weights[:, 1] - weights[:, 0]).reshape(6, 6, 2)
    direction = np.where(y == 0, 1, -1)[:, None, None, None] * np.sign(difference)
    worst = np.clip(x + EPS * direction, 0, 1)
    bias = np.zeros(2, "float32")

    x_adv = run(make_attack(name, eps=EPS), linear(weights, bias), x, y)

    moved = difference != 0
    np.testing.assert_allclose(x_adv[:, moved], worst[:, moved], atol=1e-6)
    clean_right = np.argmax(x.reshape(40, -1) @ weights, 1) == y
    robust = np.argmax(worst.reshape(40, -1) @ weights, 1) == y
    np.testing.assert_array_equal(np.argmax(x_adv.reshape(40, -1) @ weights, 1) == y, robust)
    assert robust.sum() < clean_right.sum()  # the attack had something to do


def test_multi_class_linear_model_robustness_is_the_closed_form():
    """Robust: for every wrong k, (w_k - w_y) x + b_k - b_y + eps |w_k - w_y|_1 < 0."""
    rng = np.random.default_rng(2)
    weights = rng.normal(size=(72, 5)).astype("float32")
    bias = rng.normal(size=5).astype("float32")
    x = rng.uniform(0.1, 0.9, (60, 6, 6, 2)).astype("float32")  # the box does not bind
    y = np.argmax(x.reshape(60, -1) @ weights + bias, 1)
    eps = 0.03
    differences = weights.T[None] - weights.T[y][:, None]  # (batch, class, pixel)
    worst = np.einsum("bkp,bp->bk", differences, x.reshape(60, -1)) + bias - bias[y][:, None]
    worst += eps * np.abs(differences).sum(-1)
    worst[np.arange(60), y] = -np.inf
    robust = worst.max(1) < 0
    assert 10 < robust.sum() < 50

    attack = make_attack("cw40", eps=eps, step_size=eps / 10, restarts=5)
    x_adv = run(attack, linear(weights, bias), x, y)

    logits = x_adv.reshape(60, -1) @ weights + bias
    np.testing.assert_array_equal(np.argmax(logits, 1) == y, robust)
    reached = margin(logits, y.astype("int32")).numpy()
    assert (reached <= worst.max(1) + 1e-4).all()


# --- second opinion -----------------------------------------------------------------


def test_fgsm_agrees_with_cleverhans():
    from cleverhans.tf2.attacks.fast_gradient_method import fast_gradient_method

    x, y = images(16), labels(16)
    theirs = fast_gradient_method(
        conv_net, tf.constant(x), EPS, np.inf, clip_min=0.0, clip_max=1.0, y=tf.constant(y)
    )
    np.testing.assert_allclose(run(make_attack("fgsm", eps=EPS), conv_net, x, y), theirs, atol=1e-5)
    assert np.abs(theirs - x).max() > 0.09


@pytest.mark.parametrize("steps", [1, 7])
def test_pgd_agrees_with_cleverhans(steps):
    from cleverhans.tf2.attacks.projected_gradient_descent import projected_gradient_descent

    x, y = images(16), labels(16)
    theirs = projected_gradient_descent(
        conv_net,
        tf.constant(x),
        EPS,
        0.03,
        steps,
        np.inf,
        clip_min=0.0,
        clip_max=1.0,
        y=tf.constant(y),
        rand_init=False,
        sanity_checks=False,
    )
    attack = make_attack(f"pgd{steps}", eps=EPS, step_size=0.03, random_start=False)
    np.testing.assert_allclose(run(attack, conv_net, x, y), theirs, atol=1e-5)


# --- contract -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        AttackConfig("fgsm", eps=8 / 255, steps=1, step_size=8 / 255),
        AttackConfig(eps=0.3, steps=3, step_size=0.7),
        AttackConfig(eps=0.05, steps=4, step_size=0.02, random_start=True),
        AttackConfig(eps=1.0, steps=2, step_size=0.4, random_start=True, loss="margin"),
        AttackConfig(eps=0.02, steps=2, step_size=0.01, restarts=3, loss="margin"),
        AttackConfig(eps=0.02, steps=2, step_size=0.01, random_start=True, restarts=2),
    ],
    ids=str,
)
def test_result_is_in_ball_and_box(config):
    attack = make_attack(config)
    function = tf.function(lambda x, y, seed: attack(conv_net, x, y, seed))
    for trial in range(4):
        x, y = images(8, seed=trial), labels(8, seed=trial)
        x_adv = function(x, y, tf.constant([trial, 1])).numpy()
        assert x_adv.shape == x.shape
        assert x_adv.dtype == np.float32
        assert np.abs(x_adv - x).max() <= config.eps + 1e-6
        assert x_adv.min() >= 0
        assert x_adv.max() <= 1
        assert (x_adv != x).mean() > 0.5


@pytest.mark.parametrize("name", ["fgsm", "pgd2", "cw2"])
def test_eps_zero_returns_x_exactly(name):
    x, y = images(4), labels(4)
    np.testing.assert_array_equal(run(make_attack(name, eps=0.0), conv_net, x, y), x)


@pytest.mark.parametrize("random_start", [False, True])
def test_constant_model(random_start):
    """No gradient at all: the start is returned."""
    x, y = images(4), labels(4)
    attack = make_attack("pgd3", eps=EPS, random_start=random_start)
    x_adv = run(attack, lambda x: tf.zeros((tf.shape(x)[0], 4)), x, y)
    start = uniform_in_ball(example_seeds(0, 4), 0, x.shape[1:], EPS) if random_start else 0
    np.testing.assert_allclose(x_adv, np.clip(x + start, 0, 1), atol=1e-7)


def test_pgd_finds_higher_loss_than_fgsm():
    x, y = images(32), labels(32)
    losses = {
        name: cross_entropy(conv_net(run(make_attack(name, eps=EPS), conv_net, x, y)), y)
        for name in ("fgsm", "pgd20")
    }
    clean = cross_entropy(conv_net(x), y)
    assert np.mean(clean) < np.mean(losses["fgsm"]) < np.mean(losses["pgd20"])


@pytest.mark.parametrize("graph", [False, True])
def test_gradient_is_stopped(graph):
    x, y = tf.constant(images(4)), labels(4)
    scale = tf.Variable(1.0)
    for restarts in (1, 2):
        attack = make_attack("pgd2", eps=EPS, restarts=restarts)

        def gradients(attack=attack):
            with tf.GradientTape() as tape:
                tape.watch(x)
                total = tf.reduce_sum(attack(lambda x: scale * conv_net(x), x, y, 0))
            return [g is None for g in tape.gradient(total, [x, scale])]

        assert (tf.function(gradients) if graph else gradients)() == [True, True]


# --- seeds in the whole attack ------------------------------------------------------

SHORT = AttackConfig(eps=EPS, steps=2, step_size=0.01, random_start=True)  # the start shows


def test_same_seed_same_result():
    x, y = images(8), labels(8)
    first, again, other = (run(make_attack(SHORT), conv_net, x, y, seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert np.mean(np.abs(first - other) > 1e-3) > 0.5


@pytest.mark.parametrize("restarts", [1, 3])
def test_example_seeds_make_the_result_independent_of_batch_and_order(restarts):
    attack = make_attack(dataclasses.replace(SHORT, restarts=restarts))
    function = tf.function(
        lambda x, y, seed: attack(conv_net, x, y, seed),
        input_signature=[
            tf.TensorSpec((None, 6, 6, 2)),
            tf.TensorSpec((None,), tf.int32),
            tf.TensorSpec((None, 2), tf.int32),
        ],
    )
    x, y = images(12), labels(12)
    seeds = np.stack([np.full(12, 9), np.arange(12)], 1).astype("int32")
    whole = function(x, y, seeds).numpy()
    parts = np.concatenate(
        [function(x[i], y[i], seeds[i]) for i in np.split(np.arange(12), [1, 5])]
    )
    order = np.random.default_rng(0).permutation(12)
    np.testing.assert_allclose(parts, whole, atol=1e-6)
    np.testing.assert_allclose(function(x[order], y[order], seeds[order]), whole[order], atol=1e-6)


# --- restarts -----------------------------------------------------------------------


def one_pixel(batch):
    return np.full((batch, 1, 1, 1), 0.5, "float32"), np.zeros(batch, "int32")


@pytest.mark.parametrize("random_start", [False, True])
def test_restarts_keep_the_highest_loss(random_start):
    """A loss with two slopes: up to 0.1 at +eps, up to 0.21 at -eps for starts below -0.0225."""

    def logits_fn(x):
        t = tf.reshape(x, (-1, 1)) - 0.5
        return tf.concat([tf.ones_like(t), tf.maximum(t, -3 * (t + 0.03))], 1)

    x, y = one_pixel(64)
    restarts = 3
    config = AttackConfig(
        eps=EPS, steps=9, step_size=0.03, restarts=restarts, random_start=random_start
    )
    starts = np.stack(
        [np.ravel(uniform_in_ball(example_seeds(0, 64), r, (1, 1, 1), EPS)) for r in (0, 1, 2)]
    )
    if not random_start:
        starts[0] = 0
    expected = np.where((starts < -0.0225).any(0), 0.4, 0.6)
    assert 0 < (expected == 0.6).sum() < 32

    x_adv = run(make_attack(config), logits_fn, x, y)
    np.testing.assert_allclose(np.ravel(x_adv), expected, atol=1e-6)


def test_restarts_prefer_misclassified_to_higher_loss():
    """Above 0.5 loss 1.09 but still correct; below it loss 0.72 and misclassified."""

    def logits_fn(x):
        t = tf.reshape(x, (-1,)) - 0.5
        above = t >= 0
        return tf.stack(
            [
                tf.zeros_like(t),
                tf.where(above, 9.9 * t - 1, -0.5 * t),
                tf.where(above, 9.9 * t - 1, -100.0),
            ],
            1,
        )

    x, y = one_pixel(16)
    one = AttackConfig(eps=EPS, steps=5, step_size=0.05)
    x_adv = run(make_attack(one), logits_fn, x, y)
    np.testing.assert_allclose(np.ravel(x_adv), 0.6, atol=1e-6)
    assert (cross_entropy(logits_fn(x_adv), y) > 1.08).numpy().all()

    x_adv = run(make_attack(dataclasses.replace(one, restarts=20)), logits_fn, x, y)
    np.testing.assert_allclose(np.ravel(x_adv), 0.4, atol=1e-6)
    assert (cross_entropy(logits_fn(x_adv), y) < 0.73).numpy().all()


# --- graphs, dtypes -----------------------------------------------------------------


@pytest.mark.parametrize(
    "config", [AttackConfig(eps=EPS, steps=3, step_size=0.03), SHORT], ids=["clean", "random"]
)
@pytest.mark.parametrize("restarts", [1, 2])
def test_eager_graph_and_xla_agree(config, restarts):
    attack = make_attack(dataclasses.replace(config, restarts=restarts))
    x, y = images(4), labels(4)
    graph = run(attack, conv_net, x, y)
    np.testing.assert_allclose(run(attack, conv_net, x, y, jit_compile=True), graph, atol=1e-6)
    np.testing.assert_allclose(attack(conv_net, x, y, 0), graph, atol=1e-6)


def test_graph_does_not_grow_with_steps_or_restarts():
    def nodes(steps, restarts):
        attack = make_attack(AttackConfig(steps=steps, random_start=True, restarts=restarts))
        function = tf.function(lambda x, y: attack(conv_net, x, y, 0))
        graph = function.get_concrete_function(images(2), labels(2)).graph.as_graph_def()
        return len(graph.node) + sum(len(f.node_def) for f in graph.library.function)

    assert nodes(20, 1) == nodes(5, 1)
    assert nodes(5, 9) == nodes(5, 2)


def test_number_of_forward_passes():
    calls = tf.Variable(0)

    def counted(x):
        calls.assign_add(1)
        return conv_net(x)

    for restarts, expected in ((1, 4), (3, 15)):
        calls.assign(0)
        attack = make_attack("pgd4", eps=EPS, restarts=restarts)
        run(attack, counted, images(2), labels(2))
        assert calls.numpy() == expected


def test_gradient_scale_saves_float16_gradients():
    """Logit margin 15: the softmax error 3e-7 times a weight 0.01 is 0 in float16."""
    weights = np.array([[0.01, -0.01], [-0.01, 0.01]], "float32")

    def logits_fn(x):
        x = tf.cast(tf.reshape(x, (-1, 2)), tf.float16)
        return tf.matmul(x, tf.cast(weights, tf.float16)) + tf.constant([15, 0], tf.float16)

    x, y = np.full((1, 1, 2, 1), 0.5, "float32"), np.array([0])
    np.testing.assert_array_equal(run(make_attack("fgsm", eps=EPS), logits_fn, x, y), x)
    x_adv = run(make_attack("fgsm", eps=EPS, gradient_scale=1024.0), logits_fn, x, y)
    np.testing.assert_allclose(np.ravel(x_adv), [0.4, 0.6], atol=1e-6)


def test_any_integer_labels():
    x, y = images(4), labels(4)
    attack = make_attack("cw2", eps=EPS, restarts=2)
    expected = run(attack, conv_net, x, y)
    for dtype in ("uint8", "int64"):
        np.testing.assert_array_equal(run(attack, conv_net, x, y.astype(dtype)), expected)


# --- arguments ----------------------------------------------------------------------


def test_bad_arguments():
    with pytest.raises(UsageError, match=r"unknown value 'pgd', may be one of fgsm, pgd<N>"):
        make_attack("pgd")
    with pytest.raises(UsageError, match=r"--eps: got 8, must be in \[0, 1\]"):
        make_attack("pgd5", eps=8)
    with pytest.raises(TypeError, match="eps: go with a name"):
        make_attack(AttackConfig(), eps=0.1)
    with pytest.raises(ValueError, match="gradient_scale: got 0"):
        make_attack("fgsm", gradient_scale=0)
    attack = make_attack("fgsm")
    with pytest.raises(ValueError, match="x: must be float32 of rank 4, got float64"):
        attack(conv_net, images(2).astype("float64"), labels(2), 0)
    with pytest.raises(ValueError, match=r"y: must be integers of shape \(batch,\), got float32"):
        attack(conv_net, images(2), np.eye(4, dtype="float32")[labels(2)], 0)


def test_tutorial():
    result = doctest.testmod(tf_lottery.attacks)
    assert result.attempted > 5
    assert result.failed == 0
