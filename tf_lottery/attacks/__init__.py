"""White-box l_inf attacks on images in [0, 1], as graph operations.

``make_attack`` turns settings into a function ``(logits_fn, x, y, seed) -> x_adv``.
Every attack here is projected gradient ascent on the pixels; the settings
(``tf_lottery.config.AttackConfig``) say how many steps on which loss:

- ``fgsm``: one step of eps from the clean image (Goodfellow et al. 2015, arXiv
  1412.6572).
- ``pgd<N>``: N steps of ``step_size`` on the cross-entropy (Madry et al. 2018,
  arXiv 1706.06083).
- ``cw``, ``cw<N>``: the same on the margin loss of Carlini & Wagner 2017 (arXiv
  1608.04644): largest wrong logit minus true logit.

Lengths are on [0, 1] pixels: 8/255 is eight grey levels.

A linear model of two classes has one weight per pixel, class 1 minus class 0.
Its margin cannot fall by more than eps times the sum of their magnitudes, and
both attacks get there:

>>> import numpy as np
>>> from tf_lottery.attacks import make_attack
>>> weights = np.array([[0.0, 1.0], [0.0, -2.0], [0.0, 3.0], [0.0, 4.0]], "float32")
>>> def logits_fn(x):  # (batch, 2, 2, 1) -> (batch, 2)
...     return tf.reshape(x, (-1, 4)) @ weights
>>> x = tf.fill((1, 2, 2, 1), 0.5)
>>> y = tf.constant([1])
>>> fgsm = make_attack("fgsm", eps=0.1)
>>> x_adv = fgsm(logits_fn, x, y, seed=0)
>>> (x_adv - x).numpy().ravel().round(3).tolist()
[-0.10000000149011612, 0.10000000149011612, -0.10000000149011612, -0.10000000149011612]
>>> pgd = make_attack("pgd10", eps=0.1, step_size=0.03, restarts=2)
>>> margin_lost = (logits_fn(x) - logits_fn(pgd(logits_fn, x, y, seed=0))).numpy()[0, 1]
>>> round(float(margin_lost), 5)  # 0.1 * (1 + 2 + 3 + 4)
1.0

For a Keras network pass ``functools.partial(network, training=False)``: attacks
are run in inference mode, so that they do not move BatchNorm's averages. Call
attacks inside a ``tf.function`` (``jit_compile`` or not); eagerly they work too,
slowly.
"""

from __future__ import annotations

import functools
import math
from typing import Any

from tf_lottery.attacks.pgd import projected_gradient_ascent
from tf_lottery.config import AttackConfig, attack_from_name
from tf_lottery.keras import tf  # noqa: F401  (for the tutorial)
from tf_lottery.types import Attack

__all__ = ["make_attack"]


def make_attack(
    attack: AttackConfig | str, *, gradient_scale: float = 1.0, **overrides: Any
) -> Attack:
    """An attack that can be called as often as one likes.

    Args:
      attack: settings, or a name as in ``--attacks``: ``fgsm``, ``pgd20``, ``cw``.
      gradient_scale: factor on the summed loss. The step is the sign of the
        gradient, so it changes nothing but what underflows: with a network that
        computes in float16, 1024 keeps input gradients from becoming exactly 0.
      **overrides: with a name only: ``eps``, ``step_size``, ``random_start`` and
        ``restarts``, see ``tf_lottery.config.attack_from_name`` (``fgsm`` heeds
        ``eps`` alone; for FGSM from a random start, give an ``AttackConfig``).

    Returns:
      ``(logits_fn, x, y, seed) -> x_adv``. ``logits_fn`` is any differentiable
      function of images that treats them independently; ``x`` float32 (batch,
      height, width, channels) in [0, 1]; ``y`` integer labels (batch,); ``seed``
      an integer or int32 (2,), which key examples by their place in the batch, or
      int32 (batch, 2), one seed per example, which makes the result independent of
      batch size and order. ``x_adv`` is like ``x``, within eps of it and within
      [0, 1], with no gradient. Cost: a forward and an input-gradient pass a step
      and restart, and one more forward a restart if there are several.

    Raises:
      UsageError: unknown name or value out of range.
      TypeError: overrides together with an ``AttackConfig``.
      ValueError: ``gradient_scale`` not finite and above 0.
    """
    if isinstance(attack, str):
        attack = attack_from_name(attack, **overrides)
    elif overrides:
        raise TypeError(f"{', '.join(overrides)}: go with a name; use dataclasses.replace instead")
    if not (math.isfinite(gradient_scale) and gradient_scale > 0):
        raise ValueError(f"gradient_scale: got {gradient_scale!r}, must be finite and above 0")
    return functools.partial(projected_gradient_ascent, attack, gradient_scale=gradient_scale)
