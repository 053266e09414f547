"""What a pruning score sees in a run: weights, and on demand the network, images, gradients."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tf_lottery import weights
from tf_lottery.attacks import make_attack
from tf_lottery.attacks.losses import cross_entropy
from tf_lottery.data import in_rounds
from tf_lottery.engine.stage import Stage
from tf_lottery.errors import UsageError
from tf_lottery.keras import keras, tf
from tf_lottery.lottery.costs import Cost
from tf_lottery.lottery.resources import Resources
from tf_lottery.models.frozen import frozen_logits
from tf_lottery.options.settings import LotteryConfig, ObjectiveConfig, derive_seed
from tf_lottery.pruning import ScoreContext
from tf_lottery.pruning.at_init import planned_passes
from tf_lottery.pruning.masks import mask_weights, prunable_kernels
from tf_lottery.type_aliases import NamedArrays, Tensor

_SLICE = 128  # images of one pass


def network_context(
    shop: Resources,
    config: LotteryConfig,
    variables: NamedArrays,
    masks: NamedArrays | None = None,
    **others: Any,
) -> NetworkContext:
    """The context of a configuration's network.

    Args:
      shop: has data and networks.
      config: of the run.
      variables: all of the network's, by name.
      masks: layer name -> bool; ``None``: nothing is pruned.
      **others: further attributes of the context.
    """
    kernels = {name: variables[f"{name}/kernel"] for name in prunable_kernels(shop.network(config))}
    return NetworkContext(
        kernels, masks or {}, shop=shop, config=config, variables=variables, **others
    )


def predicted_cost(shop: Resources, stage: Stage) -> Cost:
    """Of a built-in score, at most; what other scores take is not known, and 0 here."""
    config, chosen = stage.runtime["config"], stage.settings
    classes = shop.data(config).num_classes
    images, forward, gradients = planned_passes(chosen.get("score", ""), classes)
    if not images or (chosen.get("structure") == "channels" and not chosen["sparsity"]):
        return Cost()
    steps = config.search.objective.attack_steps if "objective" in chosen else 0
    passes = {
        "forward_passes": images * (forward + steps),
        "input_gradient_passes": images * (gradients + steps),
        "weight_gradient_passes": images * gradients,
    }
    return Cost(flops=sum(passes.values()) * shop.forward_flops(config), **passes)


@dataclass(frozen=True, kw_only=True)
class NetworkContext(ScoreContext):
    """Makes what is asked for, once, and counts the passes.

    Attributes:
      shop, config, variables: see ``network_context``.
      objective: whose attack ``attacked`` runs; ``None``: it is not to be asked for.
      passes: columns of ``Cost`` -> images so far.
    """

    shop: Resources
    config: LotteryConfig
    variables: NamedArrays
    objective: ObjectiveConfig | None = None
    passes: dict[str, int] = field(default_factory=dict)

    @functools.cached_property
    def network(self) -> keras.Model:
        network = self.shop.spec(self.config).build(0)
        weights.set_weights(network, self.variables)
        mask_weights(network, self.masks)
        return network

    def batch(self, images: int) -> tuple[np.ndarray, np.ndarray]:
        data = self.shop.data(self.config)
        there = len(data.train_labels)
        if not 0 < images <= there:
            raise UsageError(
                f"--score: the function asks for {images} images, there are {there} to train on",
                "score",
            )
        order = np.random.default_rng(derive_seed(self.seed, "score images")).permutation(there)
        chosen = in_rounds(order, data.train_labels)[:images]  # as many of each class
        return data.train_images[chosen] / np.float32(255), data.train_labels[chosen]

    def attacked(self, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        if self.objective is None:
            return super().attacked(images, labels)
        if self.objective.attack is None:
            return images
        attack = make_attack(self.objective.attack)
        index = np.arange(len(images))
        seeds = np.stack([np.full_like(index, derive_seed(self.seed, "score attack")), index], 1)
        parts = []
        for start in range(0, len(images), _SLICE):
            part = slice(start, start + _SLICE)
            x, y, s = (tf.constant(a[part]) for a in (images, labels, seeds.astype(np.int32)))
            parts.append(attack(frozen_logits(self.network), x, y, s).numpy())
        steps = self.objective.attack_steps
        self._note(len(images), examples=0, forward_passes=steps, input_gradient_passes=steps)
        return np.concatenate(parts)

    def gradients(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> NamedArrays:
        kernels = prunable_kernels(self.network)
        total = {name: np.zeros(kernel.shape) for name, kernel in kernels.items()}
        for start in range(0, len(images), _SLICE):
            part = slice(start, start + _SLICE)
            with tf.GradientTape() as tape:
                logits = self.network(tf.constant(images[part]), training=False)
                lost = tf.reduce_sum((loss or cross_entropy)(logits, tf.constant(labels[part])))
            found = tape.gradient(lost, list(kernels.values()), unconnected_gradients="zero")
            for name, gradient in zip(kernels, found, strict=True):
                total[name] += gradient.numpy()
        self.count(len(images))
        return {name: gradient / len(images) for name, gradient in total.items()}

    def count(self, images: int, forward: int = 1, gradients: int = 1) -> None:
        self._note(
            images,
            examples=1,
            forward_passes=forward,
            input_gradient_passes=gradients,  # back to the first layer
            weight_gradient_passes=gradients,
        )

    def _note(self, images: int, **times: int) -> None:
        for column, number in times.items():
            self.passes[column] = self.passes.get(column, 0) + images * number

    def cost(self, seconds: float) -> Cost:
        """Of the passes so far."""
        passes = sum(images for column, images in self.passes.items() if column != "examples")
        flops = passes * self.shop.forward_flops(self.config) if passes else 0
        return Cost(seconds=seconds, flops=flops, **self.passes)
