"""Learning rates against values by hand and against published curves."""

import csv
import math
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


def test_triangular_rises_for_half_and_falls_to_nothing():
    """Fast AT's 15 epochs up to 0.2, here of two steps each, and a number of steps that is odd."""
    rates = learning_rates(ScheduleConfig("triangular", peak=0.2), 15, 2)
    assert rates.dtype == np.float32
    up, down = np.arange(16) / 15, np.arange(14, 0, -1) / 15
    np.testing.assert_allclose(rates, 0.2 * np.array([*up, *down]), rtol=1e-6)
    odd = learning_rates(ScheduleConfig("triangular", peak=1.0), 5, 1)
    np.testing.assert_allclose(odd, [0, 0.4, 0.8, 0.8, 0.4], rtol=1e-6)  # 2.5 is the peak


def test_the_two_triangles_differ():
    cyclic, triangular = (
        learning_rates(ScheduleConfig(name, peak=0.2), 10, 10) for name in ("cyclic", "triangular")
    )
    assert (cyclic.argmax(), triangular.argmax()) == (40, 50)


def test_one_cycle_by_hand():
    rates = learning_rates(ScheduleConfig("one_cycle", peak=0.1), 10, 2)
    assert rates.dtype == np.float32
    # 30 % of twenty steps: the sixth is at the peak; half-way, half of the difference.
    np.testing.assert_allclose(rates[[0, 5]], [0.1 / 25, 0.1], rtol=1e-6)
    np.testing.assert_allclose(rates[12], (0.1 + 0.1 / 250_000) / 2, rtol=1e-6)
    np.testing.assert_allclose(rates[19], 0.1 / 250_000, rtol=1e-4)
    assert (np.diff(rates[:6]) > 0).all()
    assert (np.diff(rates[5:]) < 0).all()


@pytest.mark.parametrize(("epochs", "steps"), [(1, 1), (1, 3), (3, 1), (7, 5), (30, 11)])
def test_one_cycle_step_by_step(epochs, steps):
    """PyTorch's ``OneCycleLR`` as its documentation has it: where the phases end, how they bend."""

    def between(first, second, share):
        return second + (first - second) / 2 * (1 + math.cos(math.pi * share))

    total, peak = epochs * steps, 0.3
    top, last, expected = 0.3 * total - 1, total - 1, []
    for step in range(total):
        if step <= top:
            expected.append(between(peak / 25, peak, step / top))
        else:
            expected.append(between(peak, peak / 25 / 1e4, (step - top) / (last - top)))
    rates = learning_rates(ScheduleConfig("one_cycle", peak=peak), epochs, steps)
    np.testing.assert_allclose(rates, expected, rtol=1e-5)


def test_drops_where_they_are_asked_for():
    early = ScheduleConfig("step", peak=0.1, drops=(0.2, 0.4, 0.9))
    expected = [0.1] * 2 + [0.01] * 2 + [0.001] * 5 + [0.0001]
    np.testing.assert_allclose(per_epoch(early, 10), expected, rtol=1e-6)
    one = ScheduleConfig("step", peak=0.1, warmup_start=0.01, warmup_epochs=9, drops=(0.25,))
    np.testing.assert_allclose(per_epoch(one, 8), [0.01, 0.02, *[0.01] * 6], rtol=1e-6)
    between = ScheduleConfig("step", peak=0.1, drops=(0.3,))  # within the third of eight epochs
    np.testing.assert_allclose(per_epoch(between, 8), [0.1] * 3 + [0.01] * 5, rtol=1e-6)
    hundredths = ScheduleConfig("step", peak=0.1, drops=(0.07, 0.29, 0.55, 0.58))
    rates = per_epoch(hundredths, 100)
    assert [*np.flatnonzero(np.diff(rates)) + 1] == [7, 29, 55, 58]


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
