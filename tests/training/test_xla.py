"""The compiled step: the same weights, one trace, attack and validation included."""

import dataclasses
import functools

import numpy as np
import pytest

from tf_lottery import objectives, weights
from tf_lottery.attacks import make_attack
from tf_lottery.data import evaluation_batches, training_batches
from tf_lottery.keras import keras, tf
from tf_lottery.options.settings import (
    AttackConfig,
    ObjectiveConfig,
    ScheduleConfig,
    TrainConfig,
    attack_from_name,
)
from tf_lottery.training.model import LotteryModel
from tf_lottery.training.run import train
from tf_lottery.training.task import Reporting

QUIET = Reporting(verbose=0)
PGD = AttackConfig("pgd3", "linf", 0.05, 3, 0.02, random_start=True)
OBJECTIVES = {
    "natural": ObjectiveConfig("natural"),
    "fgsm": ObjectiveConfig("fgsm", attack_from_name("fgsm", eps=0.05)),
    "pgd": ObjectiveConfig("pgd", PGD),
}


class Counted:
    """An objective and a validation attack that count how often Python runs them: traces.

    Validation is attacked beside FGSM training alone, as compiling it takes seconds.
    """

    def __init__(self, name):
        attack = OBJECTIVES[name].attack
        plain = objectives.adversarial if attack else objectives.natural
        self.make_attack = functools.partial(make_attack, attack) if attack else None
        validation = make_attack("pgd2", eps=0.05)
        self.traced = {"training": 0}

        def objective(step):
            self.traced["training"] += 1
            return plain(step)

        def validated(*args):
            self.traced["validation"] += 1
            return validation(*args)

        self.objective, self.validation_attack = objective, None
        if name == "fgsm":
            self.traced["validation"], self.validation_attack = 0, validated


def fitted(masked, data, name, jit_compile):
    """Three steps an epoch, two epochs, with masks, momentum and weight decay."""
    counted = Counted(name)
    model = LotteryModel(
        masked,
        counted.objective,
        counted.make_attack,
        attack_seed=3,
        weight_decay=0.01,
        validation_attack=counted.validation_attack,
    )
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
    optimizer.build(masked.network.trainable_variables)
    model.compile(optimizer=optimizer, jit_compile=jit_compile)
    history = model.fit(
        training_batches(
            data.train_images, data.train_labels, batch_size=32, epochs=2, order_seed=0
        ),
        epochs=2,
        steps_per_epoch=3,
        validation_data=evaluation_batches(data.validation_images, data.validation_labels, 25),
        verbose=0,
    )
    assert model.train_function.experimental_get_tracing_count() == 1
    assert model.test_function.experimental_get_tracing_count() == 1
    assert set(counted.traced.values()) == {1}
    return history.history


@pytest.mark.parametrize("name", OBJECTIVES)
def test_compiled_and_plain_training_agree_and_are_traced_once(sparse, tiny_data, name):
    masked, plain = sparse(), sparse()
    compiled = fitted(masked, tiny_data, name, True)
    expected = fitted(plain, tiny_data, name, False)
    for column, values in expected.items():
        np.testing.assert_allclose(compiled[column], values, atol=1e-4, err_msg=column)
    ours = weights.get_weights(masked.network)
    for key, value in weights.get_weights(plain.network).items():
        np.testing.assert_allclose(ours[key], value, atol=1e-4, err_msg=key)
    start = weights.get_weights(sparse().network)["conv1/kernel"]
    assert np.abs(ours["conv1/kernel"] - start).max() > 1e-2
    for layer, mask in masked.get_masks().items():
        assert not ours[f"{layer}/kernel"][~mask].any()
        assert ours[f"{layer}/kernel"][mask].all()


@pytest.mark.parametrize("part", ["training", "validation"])
def test_the_whole_of_a_step_is_compiled(sparse, tiny_data, part):
    """What XLA cannot compile, such as a call of Python, has to fail in either step."""

    def in_python(logits_fn, x, y, seed):
        return tf.ensure_shape(tf.numpy_function(lambda images: images, [x], tf.float32), x.shape)

    objective = objectives.adversarial if part == "training" else objectives.natural
    model = LotteryModel(sparse(), objective, lambda: in_python, validation_attack=in_python)
    model.compile(optimizer=keras.optimizers.SGD(0.1), jit_compile=True)
    images, labels = tiny_data.train_images, tiny_data.train_labels
    if part == "training":
        run = model.fit
        batches = training_batches(images, labels, batch_size=32, epochs=1, order_seed=0)
    else:
        run, batches = model.evaluate, evaluation_batches(images, labels, 32)
    with pytest.raises(tf.errors.InvalidArgumentError, match="PyFunc"):
        run(batches, verbose=0)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_compiled_mixed_precision(sparse, tiny_network, tiny_data, tmp_path, policy):
    """Loss scaling and the attack's scale inside XLA, beside the float32 run."""
    config = TrainConfig(
        objective=OBJECTIVES["fgsm"],
        epochs=2,
        batch_size=32,
        schedule=ScheduleConfig("constant", peak=0.02),
        dtype_policy=policy,
        jit_compile=True,
    )
    found = {}
    for name, own in {
        "half": config,
        "float32": dataclasses.replace(config, dtype_policy="float32", jit_compile=False),
    }.items():
        (tmp_path / name).mkdir()
        masked = sparse(dtype_policy=own.dtype_policy)
        rows = train(
            masked,
            tiny_data,
            own,
            seed=0,
            directory=tmp_path / name,
            validation_network=tiny_network(),
            reporting=QUIET,
        )
        found[name] = (masked, rows)
    (masked, rows), (_, expected) = found["half"], found["float32"]
    np.testing.assert_allclose(
        [row["loss"] for row in rows], [row["loss"] for row in expected], rtol=0.05
    )
    assert rows[1]["loss"] < rows[0]["loss"]
    assert rows[1]["input_gradients"]["lost"] < 0.01
    for layer, mask in masked.get_masks().items():
        kernel = masked.kernels[layer].numpy()
        assert not kernel[~mask].any()
        assert kernel[mask].all()


@pytest.mark.parametrize("jit_compile", [False, True], ids=["plain", "xla"])
def test_images_on_the_device_train_the_same_weights(
    sparse, tiny_data, tmp_path, monkeypatch, jit_compile
):
    config = TrainConfig(
        objective=OBJECTIVES["natural"],
        epochs=2,
        batch_size=32,
        schedule=ScheduleConfig("constant", peak=0.05),
        jit_compile=jit_compile,
    )
    fed = []
    fit = keras.Model.fit

    def watched(model, batches, **options):
        fed.append(set(batches.element_spec))
        return fit(model, batches, **options)

    monkeypatch.setattr(keras.Model, "fit", watched)
    results = []
    for where in ("off", "on"):
        (tmp_path / where).mkdir()
        own = dataclasses.replace(config, data_on_device=where)
        rows = train(
            sparse(),
            tiny_data,
            own,
            seed=0,
            directory=tmp_path / where,
            augment=True,
            reporting=QUIET,
        )
        results.append((rows, weights.read_arrays(tmp_path / where / "final.npz")))
    assert fed == [{"image", "label", "index", "epoch"}, {"label", "index", "epoch", "draws"}]
    (rows, values), (other_rows, other) = results
    for row, other_row in zip(rows, other_rows, strict=True):
        np.testing.assert_allclose(row["loss"], other_row["loss"], atol=1e-5)
    for name, value in values.items():
        np.testing.assert_allclose(value, other[name], atol=1e-5, err_msg=name)
