"""The training step against a NumPy oracle, and what it must never touch."""

import functools

import numpy as np
import outside_training as outside
import pytest
from graphs import operations_behind

from tf_lottery import objectives, weights
from tf_lottery.attacks import make_attack
from tf_lottery.attacks.seeds import uniform_in_ball
from tf_lottery.data import evaluation_batches, training_batches
from tf_lottery.keras import keras, tf
from tf_lottery.objectives import Step
from tf_lottery.options.settings import (
    AttackConfig,
    ObjectiveConfig,
    ScheduleConfig,
    TrainConfig,
    attack_from_name,
)
from tf_lottery.pruning.masks import wrap
from tf_lottery.training.model import LotteryModel
from tf_lottery.training.optimizer import make_optimizer
from tf_lottery.training.run import train
from tf_lottery.training.task import Reporting

RATE, MOMENTUM, DECAY = 0.1, 0.9, 0.01


def parts(name):
    """An objective and its attack."""
    if name == "natural":
        return objectives.natural, None
    config = attack_from_name("fgsm" if name == "fgsm" else "pgd3", eps=0.1)
    return objectives.adversarial, functools.partial(make_attack, config)


def attacked(model, b):
    """The images that the step trains on."""
    freeze = lambda network: functools.partial(network, training=False)  # noqa: E731
    seeds = np.stack([3 + b["epoch"], b["index"]], 1)
    return Step(b["image"], b["label"], seeds, model.network, freeze, model.make_attack).attack()


def batch(seed=0, size=16):
    rng = np.random.default_rng(seed)
    return {
        "image": tf.constant(rng.random((size, 8, 8, 1)), tf.float32),
        "label": tf.constant(rng.integers(0, 4, size), tf.int32),
        "index": tf.range(size, dtype=tf.int32),
        "epoch": tf.fill([size], seed),
    }


def compiled(masked, name="natural", **options):
    model = LotteryModel(masked, *parts(name), attack_seed=3, weight_decay=DECAY, **options)
    model.compile(optimizer=keras.optimizers.SGD(RATE, momentum=MOMENTUM))
    return model


# --- an independent training step ----------------------------------------------------


class Oracle:
    """The tiny network's step, written out in NumPy (float64), without Keras or TensorFlow."""

    def __init__(self, values, masks):
        self.w = {name: value.astype(np.float64) for name, value in values.items()}
        self.v = {name: np.zeros_like(value) for name, value in self.w.items()}
        self.factor = {f"{name}/kernel": mask.astype(float) for name, mask in masks.items()}
        for name, mask in masks.items():
            if name != "logits":
                alive = mask.any(axis=(0, 1, 2)).astype(float)
                bn = name.replace("conv", "bn")
                self.factor[f"{bn}/gamma"] = self.factor[f"{bn}/beta"] = alive
        for name, factor in self.factor.items():
            self.w[name] = self.w[name] * factor

    @staticmethod
    def windows(x):
        """(b, h, w, c) -> (b, h, w, 3, 3, c), zero padded."""
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        view = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
        return np.moveaxis(view, 3, -1)

    def step(self, x, y):
        gradients, tape = {}, []
        x = np.asarray(x, np.float64)
        for i in (1, 2, 3):
            kernel, gamma, beta = (
                self.w[n] for n in (f"conv{i}/kernel", f"bn{i}/gamma", f"bn{i}/beta")
            )
            patches = self.windows(x)
            z = np.einsum("bhwijc,ijcd->bhwd", patches, kernel)
            mean, var = z.mean((0, 1, 2)), z.var((0, 1, 2))
            count = z.size // z.shape[-1]
            # Keras updates the statistics with Bessel's correction in its fused kernel.
            for key, new in (("moving_mean", mean), ("moving_variance", var * count / (count - 1))):
                self.w[f"bn{i}/{key}"] = 0.9 * self.w[f"bn{i}/{key}"] + 0.1 * new
            scale = 1 / np.sqrt(var + 1e-5)
            normal = (z - mean) * scale
            out = gamma * normal + beta
            tape.append((patches, normal, scale, count, out > 0))
            x = np.maximum(out, 0)
            if i == 2:
                b, h, w, c = x.shape
                x = x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))
        flat = x.reshape(len(x), -1)
        logits = flat @ self.w["logits/kernel"] + self.w["logits/bias"]
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        loss = -np.log(p[np.arange(len(y)), y]).mean()
        d = (p - np.eye(p.shape[1])[y]) / len(y)
        gradients["logits/kernel"], gradients["logits/bias"] = flat.T @ d, d.sum(0)
        d = (d @ self.w["logits/kernel"].T).reshape(x.shape)
        for i in (3, 2, 1):
            if i == 2:
                d = d.repeat(2, 1).repeat(2, 2) / 4
            patches, normal, scale, count, positive = tape[i - 1]
            d = d * positive
            gradients[f"bn{i}/gamma"] = (d * normal).sum((0, 1, 2))
            gradients[f"bn{i}/beta"] = d.sum((0, 1, 2))
            d = d * self.w[f"bn{i}/gamma"]
            d = scale * (d - d.mean((0, 1, 2)) - normal * (d * normal).sum((0, 1, 2)) / count)
            gradients[f"conv{i}/kernel"] = np.einsum("bhwijc,bhwd->ijcd", patches, d)
            kernel = self.w[f"conv{i}/kernel"][::-1, ::-1]
            d = np.einsum("bhwijd,ijcd->bhwc", self.windows(d), kernel)
        for name, gradient in gradients.items():
            gradient = (gradient + DECAY * self.w[name]) * self.factor.get(name, 1.0)
            self.v[name] = MOMENTUM * self.v[name] - RATE * gradient
            self.w[name] = (self.w[name] + self.v[name]) * self.factor.get(name, 1.0)
        return loss


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "masked"])
def test_steps_equal_the_oracle(tiny_network, tiny_masks, sparse, steps):
    masked = wrap(tiny_network())
    masks = tiny_masks(
        masked.kernels, density=0.5 if sparse else 1.1, dead={"conv2": 2} if sparse else {}
    )
    oracle = Oracle(weights.get_weights(masked.network), masks)
    masked.set_masks(masks)
    model = compiled(masked)
    for i in range(steps):
        b = batch(i)
        expected = oracle.step(b["image"].numpy(), b["label"].numpy())
        model.reset_metrics()
        got = model.train_step(b)
        np.testing.assert_allclose(got["loss"], expected, atol=1e-5)
    for name, value in weights.get_weights(masked.network).items():
        np.testing.assert_allclose(value, oracle.w[name], atol=1e-5, rtol=1e-5, err_msg=name)
    slots = dict(
        zip(
            [id(v) for v in masked.network.trainable_variables],
            model.optimizer.momentums,
            strict=True,
        )
    )
    for name, variable in weights.named_variables(masked.network).items():
        if id(variable) in slots:
            np.testing.assert_allclose(slots[id(variable)], oracle.v[name], atol=1e-5, err_msg=name)


# --- invariants --------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("name", ["natural", "fgsm", "pgd"])
def test_pruned_weights_are_zero_after_every_step(tiny_network, tiny_masks, name, mode):
    masked = wrap(tiny_network())
    masks = tiny_masks(masked.kernels, dead={"conv1": 1, "conv3": 0})
    masked.set_masks(masks)
    model = compiled(masked, name)
    step = tf.function(model.train_step) if mode == "graph" else model.train_step
    start = weights.get_weights(masked.network)
    model.optimizer.build(masked.network.trainable_variables)
    variables = masked.network.trainable_variables
    slots = {id(v): m for v, m in zip(variables, model.optimizer.momentums, strict=True)}
    for i in range(3):
        step(batch(i))
        for layer, kernel in masked.kernels.items():
            pruned = ~masks[layer]
            assert not np.any(kernel.numpy()[pruned]), (i, layer)
            assert not np.any(slots[id(kernel)].numpy()[pruned]), (i, layer)
            assert np.all(kernel.numpy()[masks[layer]] != 0), (i, layer)
        for bn, filter_ in (("bn1", 1), ("bn3", 0)):
            layer = masked.network.get_layer(bn)
            for part in (layer.gamma, layer.beta):
                assert part.numpy()[filter_] == 0
                assert slots[id(part)].numpy()[filter_] == 0
    end = weights.get_weights(masked.network)
    # Everything that may learn does.
    for key in ("bn1/gamma", "bn1/beta", "bn2/beta", "logits/bias"):
        changed = end[key] != start[key]
        dead = {"bn1/gamma": [1], "bn1/beta": [1]}.get(key, [])
        assert np.delete(changed, dead).all(), key


@pytest.mark.parametrize("name", ["natural", "fgsm", "pgd"])
def test_attack_and_inference_leave_statistics_and_pruning_step(tiny_network, tiny_masks, name):
    masked = wrap(tiny_network())
    masked.set_masks(tiny_masks(masked.kernels))
    model = compiled(masked, name, validation_attack=make_attack("pgd3", eps=0.1))
    steps = [w.pruning_step for w in masked.wrapped.layers if hasattr(w, "pruning_step")]
    started = [int(step) for step in steps]
    before = weights.digest(weights.get_weights(masked.network))
    b = batch()
    model.test_step({**b, "weight": tf.ones(16)})
    model(b["image"])
    model.predict(b["image"], verbose=0)
    if name != "natural":
        attacked(model, b)
    assert weights.digest(weights.get_weights(masked.network)) == before
    for i in range(2):
        model.train_step(batch(i))
    assert len(steps) == 4
    assert [int(step) for step in steps] == started


@pytest.mark.parametrize("name", ["fgsm", "pgd"])
def test_statistics_move_once_and_by_the_images_trained_on(tiny_network, name):
    masked = wrap(tiny_network())
    model = compiled(masked, name)
    b = batch(1)
    x = attacked(model, b)
    assert float(tf.reduce_max(tf.abs(x - b["image"]))) > 0.05
    z = tf.nn.conv2d(x, masked.kernels["conv1"], 1, "SAME").numpy().astype(np.float64)
    model.train_step(b)
    np.testing.assert_allclose(
        masked.network.get_layer("bn1").moving_mean, 0.1 * z.mean((0, 1, 2)), atol=1e-6
    )


def test_training_attack_is_keyed_by_seed_epoch_and_example(tiny_network):
    seen = []

    def note(*args):
        seen.append(args[-1])
        return args[1]

    model = LotteryModel(wrap(tiny_network()), objectives.adversarial, lambda: note, attack_seed=3)
    model.compile(optimizer=keras.optimizers.SGD(RATE))
    model.train_step(batch(5))
    np.testing.assert_array_equal(seen[0], np.stack([np.full(16, 3 + 5), np.arange(16)], 1))


def test_step_reports_what_it_trained_on(tiny_network):
    masked = wrap(tiny_network())
    model = compiled(masked)
    b = batch()
    logits = masked.network(b["image"], training=True).numpy()
    result = model.train_step(b)
    assert set(result) == {"loss", "accuracy", "gradient_norm"}
    accuracy = (logits.argmax(1) == b["label"].numpy()).mean()
    np.testing.assert_allclose(result["accuracy"], accuracy, atol=1e-6)


def test_validation_does_not_count_padding(tiny_network):
    masked = wrap(tiny_network())
    b = batch()
    prediction = masked.network(b["image"], training=False).numpy().argmax(1)
    label = prediction.copy()
    label[:2] = (label[:2] + 1) % 4  # two of the first five wrong, all padding right
    weight = np.r_[np.ones(5), np.zeros(11)].astype("float32")
    model = compiled(masked)
    result = model.test_step({**b, "label": tf.constant(label, tf.int32), "weight": weight})
    assert set(result) == {"natural"}
    np.testing.assert_allclose(result["natural"], 0.6, atol=1e-6)


def test_validation_attack_is_what_robust_is_measured_under(tiny_network):
    masked = wrap(tiny_network())
    attack = make_attack("pgd3", eps=0.2)
    model = compiled(masked, validation_attack=attack)
    b = batch()

    def logits_fn(x):
        return masked.network(x, training=False)

    label = tf.constant(logits_fn(b["image"]).numpy().argmax(1), tf.int32)
    seeds = tf.stack([tf.zeros(16, tf.int32), b["index"]], 1)
    attacked = attack(logits_fn, b["image"], label, seeds)
    expected = (logits_fn(attacked).numpy().argmax(1) == label.numpy()).mean()
    result = model.test_step({**b, "label": label, "weight": tf.ones(16)})
    assert float(result["natural"]) == 1
    np.testing.assert_allclose(result["robust"], expected, atol=1e-6)
    assert expected < 1


def test_step_is_traced_once_over_two_epochs(tiny_network, tiny_data):
    calls = []
    masked = wrap(tiny_network())
    adversarial, attack = parts("pgd")

    def counted(step):
        calls.append(None)  # Python runs only while tracing
        return adversarial(step)

    model = LotteryModel(masked, counted, attack, attack_seed=1)
    optimizer = keras.optimizers.SGD(0.01)
    optimizer.build(masked.network.trainable_variables)  # else its first step makes variables
    model.compile(optimizer=optimizer)
    validation = []
    model.validation_attack = lambda f, x, y, seed: (validation.append(None), x)[1]
    model.fit(
        training_batches(
            tiny_data.train_images, tiny_data.train_labels, batch_size=40, epochs=2, order_seed=0
        ),
        epochs=2,
        steps_per_epoch=2,
        validation_data=evaluation_batches(
            tiny_data.validation_images, tiny_data.validation_labels, 25
        ),
        verbose=0,
    )
    assert model.train_function.experimental_get_tracing_count() == 1
    assert model.test_function.experimental_get_tracing_count() == 1
    assert len(calls) == 1
    assert len(validation) == 1


# --- objectives from elsewhere -----------------------------------------------------------


def test_a_trades_step_equals_its_formula(sparse):
    """Attack, loss and gradient written out, in the network's own layers."""
    masked, other = sparse(), sparse()
    config = AttackConfig("pgd2", "linf", 0.1, 2, 0.05, random_start=True)
    made = functools.partial(make_attack, config)
    model = LotteryModel(masked, outside.trades, made, attack_seed=3)
    model.compile(optimizer=keras.optimizers.SGD(RATE))
    b = batch(1)
    result = tf.function(model.train_step)(b)

    def kl(p, logits):
        p, q = tf.nn.softmax(tf.cast(p, tf.float64)), tf.nn.softmax(tf.cast(logits, tf.float64))
        return tf.reduce_sum(p * tf.math.log(p / q), -1)

    network, x = other.network, b["image"]
    clean = network(x, training=False)
    seeds = tf.stack([tf.fill([16], 3 + 1), tf.range(16)], 1)
    adv = tf.clip_by_value(x + uniform_in_ball(seeds, 0, (8, 8, 1), 0.1), 0, 1)
    for _ in range(2):
        with tf.GradientTape() as tape:
            tape.watch(adv)
            apart = kl(clean, network(adv, training=False))
        moved = adv + 0.05 * tf.sign(tape.gradient(apart, adv))
        adv = tf.clip_by_value(tf.clip_by_value(moved, x - 0.1, x + 0.1), 0, 1)
    variables = network.trainable_variables
    with tf.GradientTape() as tape:
        natural, logits = network(x, training=True), network(adv, training=True)
        wrong = kl(tf.one_hot(b["label"], 4) * 200, natural)  # one-hot, but for e^-200
        loss = tf.reduce_mean(wrong) + outside.BETA * tf.reduce_mean(kl(natural, logits))
    np.testing.assert_allclose(result["loss"], loss, rtol=1e-4)
    right = logits.numpy().argmax(1) == b["label"].numpy()
    np.testing.assert_allclose(result["accuracy"], right.mean(), atol=1e-6)
    gradients = tape.gradient(loss, variables)
    ours = masked.network.trainable_variables
    for mine, variable, gradient, factor in zip(
        ours, variables, gradients, other.multipliers(), strict=True
    ):
        expected = variable - RATE * gradient
        expected = expected if factor is None else expected * factor
        np.testing.assert_allclose(mine, expected, atol=2e-5, err_msg=mine.name)
        assert factor is None or not np.any(mine.numpy()[factor.numpy() == 0])


@pytest.mark.parametrize("name", ["outside_training:trades", "outside_training:smoothed"])
def test_an_objective_from_elsewhere_trains(sparse, tiny_data, tmp_path, name):
    attack = attack_from_name("pgd2", eps=0.05) if name == "outside_training:trades" else None
    schedule = ScheduleConfig("constant", peak=0.02)
    config = TrainConfig(ObjectiveConfig(name, attack), 3, 32, schedule)
    masked = sparse()
    reporting = Reporting(verbose=0)
    rows = train(masked, tiny_data, config, seed=0, directory=tmp_path, reporting=reporting)
    assert rows[-1]["loss"] < rows[0]["loss"]
    for layer, mask in masked.get_masks().items():
        assert not masked.kernels[layer].numpy()[~mask].any()


# --- precision, memory -------------------------------------------------------------------


def test_loss_scaling_does_not_change_the_step(tiny_network):
    results = []
    for scaled in (False, True):
        masked = wrap(tiny_network())
        optimizer = keras.optimizers.SGD(RATE, momentum=MOMENTUM)
        if scaled:
            optimizer = keras.mixed_precision.LossScaleOptimizer(optimizer)
        model = LotteryModel(masked, objectives.natural, weight_decay=DECAY)
        model.compile(optimizer=optimizer)
        for i in range(2):
            model.train_step(batch(i))
        results.append(weights.get_weights(masked.network))
    for name, value in results[0].items():
        np.testing.assert_allclose(value, results[1][name], atol=1e-5, err_msg=name)


def test_no_product_of_a_weights_size_precedes_the_gradients(tiny_network, tiny_masks):
    """Decay and momentum of all weights would be held through the step's peak of memory."""
    masked = wrap(tiny_network())
    masked.set_masks(tiny_masks(masked.kernels))
    model = LotteryModel(masked, objectives.natural, weight_decay=DECAY)
    optimizer = make_optimizer(TrainConfig(ObjectiveConfig("natural"), 1, 16), steps=5)
    optimizer.build(masked.network.trainable_variables)
    model.compile(optimizer=optimizer)
    graph = tf.function(model.train_step).get_concrete_function(batch()).graph
    assigned = [op for op in graph.get_operations() if op.type.startswith("Assign")]
    sizes = {tuple(kernel.shape) for kernel in masked.kernels.values()}
    images = graph.inputs[[tuple(x.shape) for x in graph.inputs].index((16, 8, 8, 1))].op
    products = [
        op
        for op in operations_behind(*assigned)
        if op.type == "Mul" and op.outputs[0].shape.rank and tuple(op.outputs[0].shape) in sizes
    ]
    # Decay, momentum, rate, the gradient's mask and the weights': five a kernel.
    assert len(products) == 5 * len(masked.kernels)
    early = [op.name for op in products if images not in operations_behind(op)]
    assert not early
