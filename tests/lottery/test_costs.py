"""Costs in multiples of F, the FLOPs of one forward pass."""

import pytest

from tf_lottery.lottery.costs import Cost, evaluation_cost, training_cost, validation_cost
from tf_lottery.options.build import AttackOptions
from tf_lottery.options.settings import (
    AttackConfig,
    ObjectiveConfig,
    SparsityUpdateConfig,
    TrainConfig,
    attack_from_name,
)

F = 1000


def objective(name, steps=1, restarts=1):
    if name == "natural":
        return ObjectiveConfig("natural", None)
    return ObjectiveConfig(name, AttackConfig(steps=steps, restarts=restarts))


@pytest.mark.parametrize(
    ("target", "multiple"),
    [
        (objective("natural"), 3),
        (objective("fgsm", 1), 5),
        (objective("pgd", 7), 17),
        (objective("pgd", 10), 23),
    ],
)
def test_a_training_image_costs(target, multiple):
    cost = training_cost(TrainConfig(target, epochs=1, batch_size=1), 1, F)
    assert cost.flops == multiple * F
    assert cost.examples == 1


def test_passes_and_the_dropped_remainder():
    config = TrainConfig(objective("pgd", 10), epochs=3, batch_size=32)
    cost = training_cost(config, 100, F)
    examples = 3 * 96  # three full batches of 100 images
    assert cost == Cost(
        examples=examples,
        forward_passes=11 * examples,
        input_gradient_passes=11 * examples,
        weight_gradient_passes=examples,
        flops=23 * F * examples,
    )


@pytest.mark.parametrize(("growth", "extra"), [("random", 0), ("gradient", 2 * 32)])
def test_updates_of_the_masks_take_a_steps_passes_where_they_look_at_gradients(growth, extra):
    update = SparsityUpdateConfig("flying_bird", interval=3, growth=growth)
    config = TrainConfig(objective("pgd", 10), epochs=3, batch_size=32, sparsity_update=update)
    cost = training_cost(config, 100, F)  # 9 steps: updates at 3 and, every 4 from half on, at 8
    assert cost.examples == 3 * 96
    assert cost.forward_passes == 11 * (3 * 96 + extra)
    assert cost.weight_gradient_passes == 3 * 96 + extra
    assert cost.flops == 23 * F * (3 * 96 + extra)
    stopped = training_cost(config, 100, F, [(0, 0), (1, 0)])  # before the second
    assert stopped.flops == 23 * F * (2 * 96 + extra // 2)


@pytest.mark.parametrize("name", ["fgsm", "n_fgsm", "nuat", "free", "pgd1"])
def test_validation_of_one_step_training_has_a_probe(name):
    judge = attack_from_name("pgd10")
    one, several = (
        TrainConfig(AttackOptions().objective(each), epochs=2, validation_attack=judge)
        for each in (name, "pgd2")
    )
    # Clean once; PGD ten times, at its end and of what broke; for the probe FGSM likewise.
    assert validation_cost(several, 7, F).flops == 2 * 7 * F * (1 + 10 + 2 + 10)
    assert validation_cost(one, 7, F).flops == 2 * 7 * F * (23 + 1 + 2 + 1)


def test_evaluation():
    attacks = (
        AttackConfig("fgsm", steps=1),
        AttackConfig("pgd20", steps=20),
        AttackConfig("pgd5", steps=5, restarts=3),
    )
    cost = evaluation_cost(attacks, 7, F)
    gradients = 7 * (1 + 20 + 15)
    # A forward pass with every gradient, one for the clean image, one at the end of each
    # try, and one to judge what each attack broke.
    forwards = gradients + 7 * (1 + (1 + 1 + 3) + 3)
    assert cost.input_gradient_passes == gradients
    assert cost.forward_passes == forwards
    assert cost.weight_gradient_passes == 0
    assert cost.flops == (gradients + forwards) * F
    assert evaluation_cost((), 7, F).flops == 7 * F


def test_the_ledger_of_an_attack_counts_what_the_attack_does():
    from tf_lottery.attacks import make_attack
    from tf_lottery.keras import tf

    forward = tf.Variable(0)

    def logits_fn(x):
        forward.assign_add(1)
        return tf.reshape(x, (-1, 4)) @ tf.constant([[1.0, -1.0]] * 4)

    attack = AttackConfig("pgd4", eps=0.1, steps=4, step_size=0.05, random_start=True, restarts=3)
    make_attack(attack)(logits_fn, tf.fill((1, 2, 2, 1), 0.5), tf.constant([0]), 0)
    predicted = evaluation_cost((attack,), 1, F).forward_passes
    # Evaluation classifies the clean image and the result once more.
    assert int(forward) == predicted - 2


def test_json_has_every_column():
    assert set(Cost(seconds=1.5).to_json()) == {
        "seconds", "startup_seconds", "validation_seconds", "examples", "forward_passes",
        "input_gradient_passes", "weight_gradient_passes", "flops",
    }  # fmt: skip
