"""FGM, PGD and MIM against cleverhans, from the same start, in l_inf and l_2.

Images have pixels at 0 and 1, where the box binds. The network is smooth: a hair's
difference in arithmetic does not flip the sign of a gradient.
"""

import numpy as np
import pytest

from tf_lottery.attacks import make_attack
from tf_lottery.keras import tf
from tf_lottery.options.settings import AttackConfig

pytest.importorskip("cleverhans")

NORMS = {"linf": np.inf, "l2": 2}
EPS = {"linf": 0.1, "l2": 1.5}
BATCH, CLASSES, SHAPE = 24, 4, (6, 6, 2)


def images():
    """A quarter of the pixels at 0, a quarter at 1."""
    x = np.random.default_rng(0).uniform(-0.5, 1.5, (BATCH, *SHAPE))
    return np.clip(x, 0, 1).astype("float32")


def labels():
    return np.random.default_rng(1).integers(0, CLASSES, BATCH).astype("int32")


def network(x):
    """(batch, 6, 6, 2) -> (batch, 4), fixed random weights."""
    rng = np.random.default_rng(7)
    kernel = rng.normal(size=(3, 3, 2, 5)).astype("float32") * 0.5
    dense = rng.normal(size=(180, CLASSES)).astype("float32") * 0.3
    hidden = tf.nn.softplus(tf.nn.conv2d(x, kernel, 1, "SAME"))
    return tf.matmul(tf.reshape(hidden, (-1, 180)), dense)


def check(config, theirs):
    """Ours equals theirs, which is on the sphere for some image and cut by the box for some."""
    x = images()
    attack = make_attack(config)
    ours = tf.function(lambda x, y: attack(network, x, y, 0))(x, labels()).numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0)

    order = NORMS[config.norm]
    lengths = np.linalg.norm((ours - x).reshape(BATCH, -1), order, axis=1)
    assert lengths.max() <= config.eps + 1e-6
    assert lengths.max() > 0.7 * min(config.eps, config.steps * config.step_size)
    held = ((x == 0) | (x == 1)) & (ours == x)
    assert 0.1 < held.mean() < 0.4
    assert (ours != x).mean() > 0.5


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("share", [0.05, 0.5, 1.0])
def test_fgm(norm, share):
    from cleverhans.tf2.attacks.fast_gradient_method import fast_gradient_method

    eps = share * EPS[norm]
    theirs = fast_gradient_method(
        network,
        tf.constant(images()),
        eps,
        NORMS[norm],
        clip_min=0.0,
        clip_max=1.0,
        y=tf.constant(labels()),
    )
    check(AttackConfig("fgsm", norm, eps, 1, eps), theirs)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("steps", [1, 2, 10, 40])
def test_pgd(norm, steps):
    from cleverhans.tf2.attacks.projected_gradient_descent import projected_gradient_descent

    eps = EPS[norm]
    theirs = projected_gradient_descent(
        network,
        tf.constant(images()),
        eps,
        eps / 4,
        steps,
        NORMS[norm],
        clip_min=0.0,
        clip_max=1.0,
        y=tf.constant(labels()),
        rand_init=False,
    )
    check(AttackConfig(f"pgd{steps}", norm, eps, steps, eps / 4), theirs)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("steps", [1, 3, 10, 40])
@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_mim(norm, steps, decay):
    from cleverhans.tf2.attacks.momentum_iterative_method import momentum_iterative_method

    eps = EPS[norm]
    theirs = momentum_iterative_method(
        network,
        tf.constant(images()),
        eps,
        eps / 4,
        steps,
        NORMS[norm],
        clip_min=0.0,
        clip_max=1.0,
        y=tf.constant(labels()),
        decay_factor=decay,
    )
    config = AttackConfig(f"mim{steps}", norm, eps, steps, eps / 4, method="mim", decay=decay)
    check(config, theirs)
