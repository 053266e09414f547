"""One training step or evaluation batch, four times over: ours and three peers.

``make_side(name, network, masks)`` gives an object whose ``run(case)`` does the work of a case
once, on one fixed batch, and returns a number that every side should agree on: the loss at
the attacked images, or, for ``pgd20_evaluation``, the number of images that survive.

- ``ours``: ``LotteryModel`` under its train function, ``Evaluator``.
- ``torch_best``: PyTorch as fast as we could write it: channels last, the attack
  differentiates with respect to the pixels alone.
- ``torch_published``: PyTorch as published adversarial training has it (the repositories of
  arXiv 1706.06083's successors): default layout, ``loss.backward()`` in the attack, which
  computes the gradients of the weights too and throws them away.
- ``keras_cleverhans``: cleverhans' ``projected_gradient_descent`` on the Keras model and
  ``train_on_batch``, with tensorflow-model-optimization's pruning wrapper for the masks.

All of them: SGD with momentum and weight decay, float32, attacks on the network in inference
mode from the clean image. With ``dtype_policy="mixed_bfloat16"`` training steps of ``ours`` and
``keras_cleverhans`` are under that policy, and ``torch_best`` trains under autocast and attacks
a bfloat16 copy of its network; ``torch_published`` stays in float32.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import os

import numpy as np

from tf_lottery import lottery_config
from tf_lottery.evaluation import Evaluator
from tf_lottery.keras import keras, tf
from tf_lottery.options.settings import attack_from_name
from tf_lottery.pruning.masks import wrap
from tf_lottery.training.model import make_training_model
from tf_lottery.training.optimizer import make_optimizer

SIDES = ("ours", "torch_best", "torch_published", "keras_cleverhans")
CASES = ("natural", "fgsm", "pgd10", "pgd20_evaluation")
# Forward-equivalents an image: a step 3, an iteration of the attack 2; an evaluation also
# judges the clean and the attacked images.
PASSES = {"natural": 3, "fgsm": 5, "pgd10": 23, "pgd20_evaluation": 42}
EPS, STEP, RATE, MOMENTUM, DECAY = 8 / 255, 2 / 255, 0.01, 0.9, 1e-4


@dataclasses.dataclass(frozen=True)
class Batch:
    """``x`` float32 (batch, height, width, channels) in [0, 1], ``y`` int32 (batch,)."""

    x: np.ndarray
    y: np.ndarray


def make_batch(network: keras.Model, size: int) -> Batch:
    """Random pixels, labelled as the network sees them, so that evaluation attacks all."""
    x = np.random.default_rng(0).random((size, *network.input_shape[1:]), np.float32)
    return Batch(x, np.argmax(network.predict_on_batch(x), axis=-1).astype(np.int32))


def attack_steps(case: str) -> tuple[int, float]:
    """Iterations and their length."""
    return {"natural": (0, 0.0), "fgsm": (1, EPS), "pgd10": (10, STEP)}.get(case, (20, STEP))


class Ours:
    """This package."""

    def __init__(self, network, masks, batch: Batch, dtype_policy: str):
        self._batch, self._policy = batch, dtype_policy
        self._masked = wrap(network)
        if masks is not None:
            self._masked.set_masks(masks)
        self._start = self._masked.network.get_weights()
        self._case = ""

    def run(self, case: str) -> float:
        """The case once; its first call compiles it."""
        if case != self._case:
            self._case, self._made = case, None
            self._masked.network.set_weights(self._start)
            self._made = self._evaluation() if "eval" in case else self._step(case)
        return self._made()

    def _step(self, case: str):
        objective = "pgd" if case == "pgd10" else case
        config = lottery_config(
            objective=objective,
            search_objective=objective,
            eps=EPS,
            step_size=STEP,
            learning_rate=RATE,
            warmup_epochs=0,
            batch_size=len(self._batch.y),
            epochs=1,
            dtype_policy=self._policy,
        ).train
        model = make_training_model(self._masked, config, 0)
        model.compile(optimizer=make_optimizer(config, steps=10**6))
        size = len(self._batch.y)
        batch = {
            "image": self._batch.x,
            "label": self._batch.y,
            "index": np.arange(size, dtype=np.int32),
            "epoch": np.zeros(size, np.int32),
        }
        batches = iter(tf.data.Dataset.from_tensors(batch).cache().repeat())
        function = model.make_train_function()

        def step() -> float:
            model.reset_metrics()
            return float(function(batches)["loss"].numpy())

        return step

    def _evaluation(self):
        attack = attack_from_name("pgd20", EPS, STEP, random_start=False)
        evaluator = Evaluator(self._masked.network, [attack], len(self._batch.y))
        return lambda: float(evaluator(self._batch.x, self._batch.y).survived["pgd20"].sum())


class Torch:
    """PyTorch, either way."""

    def __init__(self, network, masks, batch: Batch, published: bool, half: bool):
        import torch
        import torch_twin

        torch.set_num_threads(len(os.sched_getaffinity(0)))
        self._torch, self._published, self._half = torch, published, half
        self._layout = torch.contiguous_format if published else torch.channels_last
        twin = torch_twin.build(network, symmetric_padding=True).to(memory_format=self._layout)
        self._twin = twin.requires_grad_(True)
        self._x = torch_twin.as_torch(batch.x).contiguous(memory_format=self._layout)
        self._y = torch.from_numpy(batch.y.astype(np.int64))
        self._masks = torch_twin.masks(twin, masks) if masks is not None else []
        with torch.no_grad():
            for parameter, mask in self._masks:
                parameter.mul_(mask)
        self._start = {key: value.clone() for key, value in twin.state_dict().items()}
        self._case, self._optimizer = "", None
        self._attacked = twin
        if half:  # its weights are copied once a step: autocast would cast them at every call
            self._attacked = copy.deepcopy(twin).to(torch.bfloat16).eval().requires_grad_(False)

    def run(self, case: str) -> float:
        """The case once."""
        torch, twin = self._torch, self._twin
        if case != self._case:  # as ours, which has a model for each case
            twin.load_state_dict(self._start)
            self._case = case
            self._optimizer = torch.optim.SGD(
                twin.parameters(), RATE, momentum=MOMENTUM, weight_decay=DECAY
            )
        if case == "pgd20_evaluation":
            twin.eval()
            with torch.no_grad():
                right = twin(self._x).argmax(1) == self._y
            attacked = self._attack(case)
            with torch.no_grad():
                return float((right & (twin(attacked).argmax(1) == self._y)).sum())
        x = self._attack(case)
        twin.train()
        self._optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=self._half):
            loss = torch.nn.functional.cross_entropy(twin(x).float(), self._y)
        loss.backward()
        for parameter, mask in self._masks:
            parameter.grad.mul_(mask)
        self._optimizer.step()
        with torch.no_grad():
            for parameter, mask in self._masks:
                parameter.mul_(mask)
        return float(loss)

    def _attack(self, case: str):
        torch, twin = self._torch, self._twin
        steps, size = attack_steps(case)
        x_adv = self._x
        twin.eval()
        if not self._published:
            twin.requires_grad_(False)
        if self._half and steps:
            self._attacked.load_state_dict(twin.state_dict())
            twin = self._attacked
        dtype = torch.bfloat16 if self._half else torch.float32
        for _ in range(steps):
            x_adv = x_adv.detach().requires_grad_()
            logits = twin(x_adv.to(dtype)).float()
            loss = torch.nn.functional.cross_entropy(logits, self._y, reduction="sum")
            if self._published:
                loss.backward()
                gradient = x_adv.grad
            else:
                (gradient,) = torch.autograd.grad(loss, x_adv)
            with torch.no_grad():
                moved = x_adv + size * gradient.sign()
                moved = torch.minimum(torch.maximum(moved, self._x - EPS), self._x + EPS)
                x_adv = moved.clamp(0, 1)
        self._twin.requires_grad_(True)
        return x_adv.detach()


class KerasCleverhans:
    """What a user puts together from cleverhans, Keras and tensorflow-model-optimization."""

    def __init__(self, network, masks, batch: Batch):
        from cleverhans.tf2.attacks.projected_gradient_descent import projected_gradient_descent

        self._attack = projected_gradient_descent
        self._batch = batch
        masked = wrap(network)
        model = masked.network
        if masks is not None:
            # tensorflow-model-optimization's own way: its wrappers mask at every call.
            masked.set_masks(masks)
            model = masked.wrapped
            for layer in model.layers:
                if hasattr(layer, "pruning_step"):
                    layer.pruning_step.assign(0)  # as its callback would; the masks stay
        self._model = model
        self._start = model.get_weights()
        self._case = ""

    def run(self, case: str) -> float:
        """The case once."""
        model, batch = self._model, self._batch
        if case != self._case:
            model.set_weights(self._start)
            model.compile(
                keras.optimizers.SGD(RATE, momentum=MOMENTUM, weight_decay=DECAY),
                keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            )
            self._case = case
        steps, size = attack_steps(case)
        x = tf.constant(batch.x)
        if case == "pgd20_evaluation":
            right = np.argmax(model.predict_on_batch(x), -1) == batch.y
        if steps:
            x = self._attack(
                functools.partial(model, training=False),
                x,
                EPS,
                size,
                steps,
                np.inf,
                clip_min=0.0,
                clip_max=1.0,
                y=tf.constant(batch.y),
                rand_init=False,
                sanity_checks=False,
            )
        if case == "pgd20_evaluation":
            return float((right & (np.argmax(model.predict_on_batch(x), -1) == batch.y)).sum())
        return float(model.train_on_batch(x, batch.y))


def network_policy(name: str, dtype_policy: str) -> str:
    """Of the network that a side is made from: PyTorch's casts what it needs itself."""
    return "float32" if name.startswith("torch") else dtype_policy


def make_side(name: str, network: keras.Model, masks, batch: Batch, dtype_policy: str = "float32"):
    """The side of that name, one of ``SIDES``.

    ``network`` is under ``network_policy(name, dtype_policy)``.
    """
    half = dtype_policy != "float32"
    if name == "ours":
        return Ours(network, masks, batch, dtype_policy)
    if name == "keras_cleverhans":
        return KerasCleverhans(network, masks, batch)
    published = name == "torch_published"
    return Torch(network, masks, batch, published, half and not published)
