"""Trainings whose objective changes on the way."""

import dataclasses

import pytest

from tf_lottery import weights
from tf_lottery.keras import keras
from tf_lottery.lottery.costs import training_cost, validation_cost
from tf_lottery.options.settings import (
    ObjectiveConfig,
    Phase,
    ScheduleConfig,
    TrainConfig,
    attack_from_name,
)
from tf_lottery.training.run import train
from tf_lottery.training.task import Reporting

NATURAL = ObjectiveConfig("natural")
FGSM = ObjectiveConfig("fgsm", attack_from_name("fgsm", eps=0.05))
PGD = ObjectiveConfig("pgd", attack_from_name("pgd2", eps=0.05, random_start=False))
PHASES = TrainConfig(
    objective=FGSM,
    phases=(Phase(FGSM, 1), Phase(PGD, 2)),
    epochs=3,
    batch_size=32,
    schedule=ScheduleConfig("cosine", peak=0.1),
    validation_attack=attack_from_name("pgd2", eps=0.05),
    keep_epochs=(1, 2),
)
ALONE = dataclasses.replace(PHASES, phases=())


class StoppedError(Exception):
    pass


def run(sparse, data, config, directory, end=0):
    """Trains; ``end``: dies right after so many epochs, its checkpoint made."""
    fit = keras.Model.fit

    def die(epoch, logs=None):
        if epoch + 1 == end:
            raise StoppedError

    def dying(model, *args, callbacks, **options):
        last = keras.callbacks.LambdaCallback(on_epoch_end=die)
        return fit(model, *args, callbacks=[*callbacks, last], **options)

    directory.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.Model, "fit", dying)
        reporting = Reporting(verbose=0)
        return train(sparse(), data, config, seed=7, directory=directory, reporting=reporting)


def digests(directory):
    names = ("epoch-1.npz", "epoch-2.npz", "final.npz")
    return [weights.digest(weights.read_arrays(directory / name)) for name in names]


def test_each_phase_trains_its_own_objective_on_one_schedule(sparse, tiny_data, tmp_path):
    rows = run(sparse, tiny_data, PHASES, tmp_path / "phases")
    fgsm = run(sparse, tiny_data, ALONE, tmp_path / "fgsm")
    assert [row["learning_rate"] for row in rows] == [row["learning_rate"] for row in fgsm]
    assert all(row["validation_fgsm"] is not None for row in rows)
    first, second, last = digests(tmp_path / "phases")
    assert first == digests(tmp_path / "fgsm")[0]
    # FGSM for an epoch, then as a training of PGD alone goes on from that checkpoint.
    with pytest.raises(StoppedError):
        run(sparse, tiny_data, ALONE, tmp_path / "by_hand", end=1)
    run(sparse, tiny_data, dataclasses.replace(ALONE, objective=PGD), tmp_path / "by_hand")
    assert digests(tmp_path / "by_hand") == [first, second, last]
    assert second != digests(tmp_path / "fgsm")[1]


@pytest.mark.parametrize("end", [1, 2])
def test_an_interrupted_one_ends_as_an_uninterrupted_one(sparse, tiny_data, tmp_path, end):
    run(sparse, tiny_data, PHASES, tmp_path / "whole")
    with pytest.raises(StoppedError):
        run(sparse, tiny_data, PHASES, tmp_path / "cut", end=end)
    run(sparse, tiny_data, PHASES, tmp_path / "cut")
    assert digests(tmp_path / "cut") == digests(tmp_path / "whole")


def test_the_first_step_of_a_phase_is_traced(sparse, tiny_data, tmp_path):
    rows = run(sparse, tiny_data, PHASES, tmp_path / "phases")
    assert [row["startup_seconds"] > 0 for row in rows] == [True, True, False]


def test_the_ledger_counts_each_phase():
    phases = (Phase(NATURAL, 2), Phase(FGSM, 3), Phase(PGD, 5))
    config = dataclasses.replace(PHASES, objective=NATURAL, phases=phases, epochs=10)
    cost = training_cost(config, images=70, forward_flops=11)  # 64 of the images an epoch
    forward = 64 * (2 * 1 + 3 * 2 + 5 * 3)
    assert (cost.examples, cost.forward_passes) == (640, forward)
    assert (cost.input_gradient_passes, cost.weight_gradient_passes) == (forward, 640)
    assert cost.flops == 11 * (2 * forward + 640)


def test_validation_looks_for_collapse_where_any_phase_is_fgsm():
    forward_flops, images = 3, 10
    own = [
        validation_cost(config, images, forward_flops).flops
        for config in (PHASES, ALONE, dataclasses.replace(ALONE, objective=PGD))
    ]
    assert own[0] == own[1] > own[2]


def test_patience_is_for_the_last_phase(sparse, tiny_data, tmp_path):
    """Natural training stays at a robust accuracy of 0, which is not the end."""
    judge = attack_from_name("pgd10", eps=0.4)
    phases = (Phase(NATURAL, 4), Phase(PGD, 3))
    config = dataclasses.replace(
        PHASES,
        objective=NATURAL,
        phases=phases,
        epochs=7,
        validation_attack=judge,
        patience=2,
        keep_epochs=(),
    )
    rows = run(sparse, tiny_data, config, tmp_path)
    assert [row["validation_robust"] for row in rows] == [0] * len(rows)
    assert [row["attack"] for row in rows] == [None] * 4 + ["pgd2"] * 2
