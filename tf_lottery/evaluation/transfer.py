"""Adversarial examples made on one model, tried on another (Table 3 of arXiv 2003.05733)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from tf_lottery.attacks import make_attack
from tf_lottery.evaluation.models import predicted_classes
from tf_lottery.evaluation.packing import packed, unit_pixels
from tf_lottery.keras import tf
from tf_lottery.options.settings import AttackConfig
from tf_lottery.type_aliases import LogitsFn


def transfer_matrix(
    models: Mapping[str, LogitsFn],
    x: np.ndarray,
    y: np.ndarray,
    attack: AttackConfig,
    seed: int = 0,
    batch_size: int = 250,
    announce: Callable[[str], None] = lambda line: None,
) -> np.ndarray:
    """Accuracy of every model on the adversarial examples of every other.

    Args:
      models: name -> logits function (``logits_function``).
      x: (n, h, w, c), uint8 or float in [0, 1].
      y: int labels (n,).
      attack: run to its end on every image, also where the source is wrong already: what
        counts is whom else its result fools.
      seed: of random numbers, keyed by (seed, position in x): every source starts from
        the same points.
      batch_size: images a batch.
      announce: told of each source.

    Returns:
      float64 (sources, targets): the share of images that the target classifies
      correctly clean *and* attacked. The diagonal is the white-box attack.
    """
    functions = [_compiled(logits_fn, attack, x.shape[1:]) for logits_fn in models.values()]
    right = np.zeros((len(models), len(models), len(y)), bool)
    clean = np.zeros((len(models), len(y)), bool)
    for source, name in enumerate(models):
        announce(f"transfer: {attack.name} on {name}")
        for rows, size in packed(len(y), batch_size):
            index = np.minimum(np.arange(rows.start, rows.start + size), rows.stop - 1)
            count = rows.stop - rows.start
            images, labels = unit_pixels(x[index]), y[index].astype(np.int32)
            seeds = np.stack([np.full(size, seed), index], axis=1).astype(np.int32)
            attacked = functions[source][0](images, labels, seeds)
            clean[source, rows] = _predicted(functions[source][1], images, count) == y[rows]
            for target, (_, logits) in enumerate(functions):
                right[source, target, rows] = _predicted(logits, attacked, count) == y[rows]
    return (right & clean[None]).mean(axis=2)


def _compiled(logits_fn: LogitsFn, attack: AttackConfig, image_shape):
    run = make_attack(attack)
    images = tf.TensorSpec([None, *image_shape], tf.float32)
    labels = tf.TensorSpec([None], tf.int32)
    seeds = tf.TensorSpec([None, 2], tf.int32)
    attacked = tf.function(
        lambda x, y, seeds: run(logits_fn, x, y, seeds), input_signature=[images, labels, seeds]
    )
    return attacked, tf.function(logits_fn, input_signature=[images])


def _predicted(logits, images, count: int) -> np.ndarray:
    return predicted_classes(logits(images))[:count]
