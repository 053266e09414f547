"""Learning rates against values by hand and against published curves."""

import csv
from pathlib import Path

import numpy as np
import pytest

from tf_lottery.keras import keras, tf
from tf_lottery.options.settings import ScheduleConfig
from tf_lottery.training.schedules import RateTable, learning_rates

CURVES = Path(__file__).parents[3] / "shared" / "reference" / "curves.csv"
VGG = ScheduleConfig("step", peak=0.1, warmup_start=0.01, warmup_epochs=9)
RESNET = ScheduleConfig("step", peak=0.1, warmup_start=0.05, warmup_epochs=10)


def per_epoch(config, epochs, steps=3):
    """The rate of each epoch; fails unless it is the same at all its steps."""
    rates = learning_rates(config, epochs, steps)
    assert rates.dtype == np.float32
    assert rates.shape == (epochs * steps,)
    table = rates.reshape(epochs, steps)
    np.testing.assert_array_equal(table, table[:, :1].repeat(steps, 1))
    return table[:, 0]


def test_vgg_of_the_paper():
    rates = per_epoch(VGG, 100)
    np.testing.assert_allclose(rates[:10], np.arange(1, 11) * 0.01, rtol=1e-6)
    np.testing.assert_allclose(rates[9:50], 0.1, rtol=1e-6)
    np.testing.assert_allclose(rates[50:75], 0.01, rtol=1e-6)
    np.testing.assert_allclose(rates[75:], 0.001, rtol=1e-6)


def test_resnet_of_the_paper():
    rates = per_epoch(RESNET, 100)
    expected = [0.05, 0.055, 0.06, 0.065, 0.07, 0.075, 0.08, 0.085, 0.09, 0.095, 0.1, 0.1]
    np.testing.assert_allclose(rates[:12], expected, rtol=1e-6)
    np.testing.assert_allclose(rates[[49, 50, 74, 75, 99]], [0.1, 0.01, 0.01, 0.001, 0.001])


def test_twenty_epochs_of_vgg():
    expected = [*np.arange(1, 11) * 0.01, *[0.01] * 5, *[0.001] * 5]
    np.testing.assert_allclose(per_epoch(VGG, 20), expected, rtol=1e-6)


def test_twenty_epochs_of_vgg_as_published():
    if not CURVES.exists():
        pytest.skip("the published curves are not part of the package")
    run = "fgsm_convergence/init_enhance20_madry_m0.01_nn_warmup0.1_nn"
    with CURVES.open() as file:
        rows = [row for row in csv.DictReader(file) if row["run"] == run]
    assert [int(row["epoch"]) for row in rows] == list(range(20))
    published = [float(row["lr"]) for row in rows]
    np.testing.assert_allclose(per_epoch(VGG, 20), published, rtol=1e-6)


def test_step_without_warm_up():
    config = ScheduleConfig("step", peak=0.2)
    np.testing.assert_allclose(per_epoch(config, 4), [0.2, 0.2, 0.02, 0.002], rtol=1e-6)


def test_a_drop_ends_the_warm_up():
    rates = per_epoch(VGG, 8)
    np.testing.assert_allclose(rates, [0.01, 0.02, 0.03, 0.04, 0.01, 0.01, 0.001, 0.001], 1e-6)


def test_one_epoch_is_not_dropped():
    np.testing.assert_allclose(per_epoch(ScheduleConfig("step", peak=0.1), 1), [0.1])


def test_constant():
    np.testing.assert_allclose(per_epoch(ScheduleConfig("constant", peak=0.3), 7), 0.3, rtol=1e-6)
    warm = ScheduleConfig("constant", peak=0.3, warmup_start=0.1, warmup_epochs=2)
    np.testing.assert_allclose(per_epoch(warm, 4), [0.1, 0.2, 0.3, 0.3], rtol=1e-6)


def test_cyclic_rises_for_two_fifths_and_falls_to_nothing():
    rates = learning_rates(ScheduleConfig("cyclic", peak=0.2), 5, 20)
    assert rates[0] == 0
    assert rates.argmax() == 40
    np.testing.assert_allclose(rates[40], 0.2, rtol=1e-6)
    np.testing.assert_allclose(rates[20], 0.1, rtol=1e-6)
    np.testing.assert_allclose(rates[70], 0.1, rtol=1e-6)
    np.testing.assert_allclose(rates[99], 0.2 / 60, rtol=1e-5)


def test_cosine():
    rates = learning_rates(ScheduleConfig("cosine", peak=0.2), 4, 25)
    np.testing.assert_allclose(rates[[0, 50]], [0.2, 0.1], rtol=1e-6)
    np.testing.assert_allclose(rates[25], 0.2 * (2 + 2**0.5) / 4, rtol=1e-6)
    assert 0 < rates[-1] < 1e-4
    assert (np.diff(rates) < 0).all()
    warm = ScheduleConfig("cosine", peak=0.2, warmup_start=0.1, warmup_epochs=2)
    ratio = learning_rates(warm, 4, 25) / rates
    np.testing.assert_allclose(ratio[[0, 24, 25, 49, 50, 99]], [0.5, 0.5, 0.75, 0.75, 1, 1], 1e-5)


def test_rate_table_looks_up_and_stays_at_its_end():
    table = RateTable(np.array([0.5, 0.25, 0.125]))
    for step, rate in [(0, 0.5), (1, 0.25), (2, 0.125), (3, 0.125), (10**9, 0.125)]:
        assert float(table(tf.constant(step, tf.int64))) == rate
    assert float(tf.function(table)(tf.constant(1, tf.int64))) == 0.25


def test_rate_table_config_round_trip():
    table = RateTable(np.array([0.5, 0.25], np.float32))
    assert table.get_config() == {"rates": [0.5, 0.25]}
    again = RateTable.from_config(table.get_config())
    assert float(again(1)) == 0.25


def test_an_optimizer_steps_through_the_table():
    optimizer = keras.optimizers.SGD(RateTable(np.array([1.0, 0.5, 0.25])))
    variable = tf.Variable([8.0])
    seen = []
    for _ in range(4):
        optimizer.apply_gradients([(tf.constant([1.0]), variable)])
        seen.append(float(variable[0]))
    assert seen == [7.0, 6.5, 6.25, 6.0]
