"""An attack that is not part of the package, by its importable name."""

import numpy as np
import pytest

from tf_lottery.attacks import make_attack
from tf_lottery.attacks.procedure import Procedure, is_wrong
from tf_lottery.errors import UsageError
from tf_lottery.evaluation import evaluate
from tf_lottery.keras import tf
from tf_lottery.options.attacks import attack_from_name
from tf_lottery.report.text import attack_words


class Brighter(Procedure):
    """Makes images brighter, as far as the radius allows."""

    step_cost = (1, 0)

    def start(self, logits_fn, x, y, seeds, attempt):
        return {
            "x_adv": x,
            "broken": tf.zeros_like(y, tf.bool),
            "score": tf.zeros(tf.shape(y), tf.float32),
        }

    def step(self, logits_fn, x, y, seeds, attempt, state, i):
        x_adv = tf.minimum(x + self.config.eps, 1.0)
        return state | {"x_adv": x_adv, "broken": is_wrong(logits_fn(x_adv), y)}


NAME = f"{__name__}:Brighter"


def bright(images):
    """Two classes: dark on average (0), or bright (1)."""
    mean = tf.reduce_mean(images, axis=(1, 2, 3))
    return 10 * tf.stack([0.5 - mean, mean - 0.5], axis=1)


def test_it_is_driven_like_any_other():
    x = np.linspace(0.1, 0.9, 8, dtype=np.float32)[:, None, None, None] * np.ones((8, 2, 2, 1), "f")
    y = (x.mean((1, 2, 3)) > 0.5).astype(np.int32)
    attacked = make_attack(NAME, eps=0.2)(bright, x, y, 0)
    np.testing.assert_allclose(attacked, np.minimum(x + 0.2, 1), atol=1e-6)
    found = evaluate(bright, x, y, (attack_from_name(NAME, 0.2),))
    # Of the dark images those within 0.2 of the border are broken, of the bright ones none.
    mean = x.mean((1, 2, 3))
    assert found.natural == 1
    assert found.robust[NAME] == np.mean((mean > 0.5) | (mean + 0.2 < 0.5))


def test_its_settings_and_words():
    config = attack_from_name(NAME, 0.2, restarts=2)
    assert (config.method, config.steps, config.eps, config.restarts) == (NAME, 10, 0.2, 2)
    assert attack_words(config) == f"10 steps of {NAME}, l_inf radius 51/255, 2 restarts"


def test_what_cannot_be_imported_is_told():
    with pytest.raises(UsageError, match=r"--attacks.*cannot_be_found"):
        make_attack("cannot_be_found:Attack")
