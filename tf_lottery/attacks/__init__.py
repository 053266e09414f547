"""l_inf and l_2 attacks on images in [0, 1], as graph operations.

``make_attack`` turns settings (``tf_lottery.options.settings.AttackConfig``) into a function
``(logits_fn, x, y, seed) -> x_adv``:

- ``fgsm``: one step of eps from the clean image (Goodfellow et al. 2015, arXiv
  1412.6572).
- ``pgd<N>``: N steps of ``step_size`` on the cross-entropy (Madry et al. 2018,
  arXiv 1706.06083).
- ``cw``, ``cw<N>``: the same on the margin loss of Carlini & Wagner 2017 (arXiv
  1608.04644): largest wrong logit minus true logit.
- ``mim``, ``mim<N>``: PGD with momentum (Dong et al. 2018, arXiv 1710.06081).
- ``apgd_ce``, ``apgd_dlr``, ``apgd_t``: PGD that sets its own step size, on the
  cross-entropy, the difference of logits ratio, and that towards nine targets; ``fab``,
  ``fab_t``: the smallest perturbation by linearising the decision boundary (Croce &
  Hein 2020, arXiv 1907.02044); ``square``: random search without gradients
  (Andriushchenko et al. 2020, arXiv 1912.00049).
- ``autoattack``: ``apgd_ce``, ``apgd_t``, ``fab_t`` and ``square`` in turn, each on
  what still stands (Croce & Hein 2020, arXiv 2003.01690, the standard version).
- ``cw_l2``: the smallest l_2 perturbation by Adam and a binary search (Carlini & Wagner
  2017).
- ``noise<N>``: the worst of N random points, a control that no robust model minds.

Lengths are on [0, 1] pixels: 8/255 is eight grey levels. The attack functions here run
all examples to the end; ``tf_lottery.evaluation`` drives the same procedures faster, by
dropping examples as they break.

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

import math
from collections.abc import Callable
from typing import Any

from tf_lottery.attacks.losses import margin
from tf_lottery.attacks.norms import length
from tf_lottery.attacks.pgd import ProjectedGradient
from tf_lottery.attacks.procedure import Procedure, as_attack, better, checked, is_wrong
from tf_lottery.keras import tf
from tf_lottery.options.registries import METHODS
from tf_lottery.options.settings import AttackConfig, attack_from_name
from tf_lottery.type_aliases import Attack, Tensor

__all__ = ["Procedure", "length", "make_attack", "make_procedure"]


def make_attack(
    attack: AttackConfig | str,
    *,
    gradient_scale: float | None = 1.0,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    **overrides: Any,
) -> Attack:
    """An attack that can be called as often as one likes.

    Args:
      attack: settings, or a name as in ``--attacks``: ``fgsm``, ``pgd20``, ``autoattack``.
      gradient_scale: factor on the summed loss of ``pgd`` and ``mim``. The step depends on
        the gradient's direction alone, so it changes nothing but what underflows in a
        network that computes in float16. ``None`` gives each image a factor of its own,
        which brings its largest derivative with respect to a logit to 16: a fixed 1024
        is too little where the network is confident.
      loss: what ``pgd`` and ``mim`` maximise instead of the loss of the settings: (logits,
        y) -> float32 (batch,).
      **overrides: with a name only: ``eps``, ``step_size``, ``random_start``,
        ``restarts`` and ``norm``, see ``tf_lottery.options.settings.attack_from_name`` (``fgsm``
        heeds ``eps`` and ``norm`` alone; for FGSM from a random start, give an
        ``AttackConfig``).

    Returns:
      ``(logits_fn, x, y, seed) -> x_adv``. ``logits_fn`` is any differentiable
      function of images that treats them independently; ``x`` float32 (batch,
      height, width, channels) in [0, 1]; ``y`` integer labels (batch,); ``seed``
      an integer or int32 (2,), which key examples by their place in the batch, or
      int32 (batch, 2), one seed per example, which makes the result independent of
      batch size and order. ``x_adv`` is like ``x``, within eps of it and within
      [0, 1], with no gradient. Where an attack found nothing it is the last iterate (PGD,
      MIM), the point of the highest loss, or ``x`` itself (``fab``, ``cw_l2``). Cost of
      PGD: a forward and an input-gradient pass a step and restart, and one more forward
      a restart if there are several.

    Raises:
      UsageError: unknown name or value out of range.
      TypeError: overrides together with an ``AttackConfig``, or ``loss`` with another attack
        than ``pgd`` and ``mim``.
      ValueError: ``gradient_scale`` not finite and above 0.
    """
    if isinstance(attack, str):
        attack = attack_from_name(attack, **overrides)
    elif overrides:
        raise TypeError(f"{', '.join(overrides)}: go with a name; use dataclasses.replace instead")
    if gradient_scale is not None and not 0 < gradient_scale < math.inf:
        raise ValueError(f"gradient_scale: got {gradient_scale!r}, must be finite and above 0")
    if attack.method in ("pgd", "mim"):
        return ProjectedGradient(attack, gradient_scale=gradient_scale, loss=loss).attack
    if loss is not None:
        raise TypeError(f"{attack.name}: pgd and mim alone take another loss")
    if attack.method == "autoattack":
        return _in_turn([make_attack(component) for component in attack.components])
    return as_attack(make_procedure(attack, stop_when_broken=False))


def make_procedure(attack: AttackConfig, stop_when_broken: bool = True) -> Procedure:
    """The attack as iterations to drive (see ``attacks.procedure``).

    Args:
      attack: settings of a single attack, no suite.
      stop_when_broken: an example's search may end with its first misclassification.
    """
    return METHODS.find("attacks", attack.method)(attack, stop_when_broken)


def _in_turn(attacks: list[Attack]) -> Attack:
    """The first of several attacks that breaks an example; else the highest margin."""

    def attack(logits_fn, x, y, seed):
        x, y, seeds = checked(x, y, seed)

        def judged(component):
            x_adv = component(logits_fn, x, y, seeds)
            logits = logits_fn(x_adv)
            return {"x_adv": x_adv, "broken": is_wrong(logits, y), "score": margin(logits, y)}

        best = judged(attacks[0])
        for component in attacks[1:]:
            state = judged(component)
            best = better(state | {"broken": state["broken"] & ~best["broken"]}, best)
        return tf.stop_gradient(best["x_adv"])

    return attack
