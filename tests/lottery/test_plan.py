"""What a run would cost, before it is run."""

import pytest

from tf_lottery.engine.serial import run_stages
from tf_lottery.engine.stage import Stage, in_order
from tf_lottery.engine.store import Store
from tf_lottery.lottery import plan as planning
from tf_lottery.lottery.graph import entries
from tf_lottery.lottery.plan import (
    PlannedStage,
    Speed,
    duration,
    measure_speed,
    plan,
    plan_text,
)
from tf_lottery.lottery.work import Workshop
from tf_lottery.options.build import lottery_config


@pytest.fixture(scope="module")
def config():
    return lottery_config(
        width_multiplier=0.05,
        train_examples=64,
        test_examples=20,
        batch_size=16,
        epochs=1,
        eps=0.1,
        steps=1,
        attacks=("pgd3",),
        compare=("dense", "boosting"),
    )


def wanted(config):
    return [stage for entry in entries(config) for stage in entry.stages]


def test_nothing_is_created(config, tmp_path, monkeypatch):
    speed = Speed(1e6, 5.0)
    monkeypatch.setattr(planning, "measure_speed", lambda config, workshop, training: speed)
    store = Store(tmp_path / "store", read_only=True)
    planned = plan(wanted(config), Workshop(store))
    assert not (tmp_path / "store").exists()
    assert [item.stage.key for item in planned] == [s.key for s in in_order(wanted(config))]
    assert not any(item.cached for item in planned)
    for item in planned:
        seconds = item.flops / 1e6
        if item.stage.kind == "train":
            # An epoch's validation: 180 of the 1,797 digits are held out by default, each
            # clean and under PGD-10, whose end is judged once more; one-step training adds FGSM.
            forward = Workshop(store).forward_flops(config)
            validated = len(Workshop(store).data(config).validation_labels)
            fgsm = item.stage.runtime["train"].objective.attack.steps == 1
            seconds += validated * (1 + 10 + 1 + 10 + 3 * fgsm) * forward / 1e6 + 5.0
        assert item.seconds == pytest.approx(seconds, rel=0.1)
        assert (item.flops > 0) == (item.stage.kind in ("train", "evaluate"))
        assert item.disk_bytes > 0
        # Weights, momentum, gradients and masks are four bytes each, and 16 images more.
        weights = 4 * Workshop(store).network(config).count_params()
        if item.stage.kind == "train":
            assert 3.5 * weights + 16 * 4 * 64 < item.memory_bytes < 4 * weights + 16 * 10**5
        else:
            assert item.memory_bytes == 0


def test_the_predicted_flops_are_what_the_ledger_says(config, tmp_path):
    store = Store(tmp_path)
    before = {
        item.stage.name: item.flops
        for item in plan(wanted(config), Workshop(Store(tmp_path, read_only=True)))
    }
    run_stages(wanted(config), Workshop(store), lambda line: None)
    after = plan(wanted(config), Workshop(store))
    assert all(item.cached for item in after)
    for item in after:
        twin = item.stage.runtime.get("twin")
        trained = store.path(item.stage.parents["trained"]) if twin else None
        if twin and (trained / "best.npz").read_bytes() == (trained / "final.npz").read_bytes():
            assert item.flops == 0  # the best epoch was the last: nothing was attacked twice
            continue
        if item.stage.kind == "evaluate":  # planned as if no image broke
            assert 0 < item.flops <= before[item.stage.name]
        else:
            assert item.flops == before[item.stage.name]
        if item.stage.kind in ("train", "evaluate", "export"):
            assert item.seconds > 0


def test_tickets_without_a_search_and_searches_that_may_end_early(tmp_path):
    ways = ("early", "snip", "grasp", "synflow", "random")
    config = lottery_config(
        width_multiplier=0.05, train_examples=128, test_examples=20, batch_size=32, epochs=1,
        eps=0.1, attacks=(), search_objective="pgd", steps=2, compare=ways,
    )  # fmt: skip
    made = {entry.kind: entry.ticket for entry in entries(config)}
    items = {item.stage.key: item for item in plan(list(made.values()), Workshop(Store(tmp_path)))}
    planned = {way: items[ticket.key] for way, ticket in made.items()}
    store = Store(tmp_path)
    run_stages(list(made.values()), Workshop(store), lambda line: None)
    done = {item.stage.key: item for item in plan(list(made.values()), Workshop(store))}
    forward = Workshop(store).forward_flops(config)
    # Ten images a class under two steps of PGD, each there and back; SNIP is one gradient more,
    # GraSP one and a Hessian-vector product of three; SynFlow a hundred of one image, and one
    # forward pass.
    expected = {
        "early": 0, "random": 0, "snip": 100 * (4 + 3), "grasp": 100 * (4 + 3 * 4),
        "synflow": 301,
    }  # fmt: skip
    for way, passes in expected.items():
        assert planned[way].flops == done[made[way].key].flops == passes * forward
        assert (planned[way].seconds > 0) == (passes > 0)
    text = plan_text(list(items.values()), [])
    assert "searches that may end early, once their mask has settled, count in full" in text
    rest = [item for item in items.values() if item.stage.kind != "train"]
    assert "end early" not in plan_text(rest, [])


def test_the_measured_speed_is_plausible(config, tmp_path):
    speed = measure_speed(config, Workshop(Store(tmp_path)))
    assert 1e5 < speed.flops_per_second < 1e16
    assert 0 <= speed.startup_seconds < 600


def test_the_text():
    dense = Stage("train", "train: dense", {"x": 1})
    search = Stage("train", "search: boosting", {"x": 2})
    init = Stage("init", "initialise (init)", {})
    planned = [
        PlannedStage(init, True, 0, 0.25),
        PlannedStage(dense, False, 2 * 10**12, 40.0, 3_200_000),
        PlannedStage(search, True, 10**12, 7.0),
    ]
    lines = plan_text(planned, [dense]).splitlines()
    assert lines[0].split() == ["stage", "what", "state", "TFLOP", "seconds", "MB"]
    assert lines[1].split()[-4:] == ["done", "-", "0.2", "-"]
    assert lines[2].split()[-5:] == ["to", "do", "2.000", "~40", "3.2"]
    assert lines[3].split()[-4:] == ["done", "1.000", "7.0", "-"]
    assert lines[4].startswith("1 of 3 stages to do, about 40 s on this machine")
    assert lines[4].endswith("3 MB of disk")
    assert lines[5] == "all training together: 1.50 x the FLOPs of the dense baseline"
    assert "2 jobs" in plan_text(planned, [dense], jobs=2)
    assert "memory" not in plan_text(planned, [dense])
    # Without a dense baseline a dense training is counted, where there is one to count.
    assert "dense" not in plan_text([PlannedStage(init, False, 0, 0.0)], [])
    assert (
        plan_text(planned[2:], [], counted=4 * 10**12)
        .splitlines()[-1]
        .startswith(
            "all training together: 0.25 x the FLOPs of one dense training of each network and seed"
        )
    )


def test_the_text_names_the_training_step_that_takes_most_memory():
    planned = [
        PlannedStage(Stage("train", label, {"x": label}), False, 10**12, 1.0, 0, memory)
        for label, memory in (("train: a", 4_000_000), ("train: b", 1_608_400_000))
    ]
    line = (
        "memory of a training step: up to about 1,608 MB (train: b), "
        "images and TensorFlow not included"
    )
    assert line in plan_text(planned, []).splitlines()
    assert f"{line}, times 3 jobs" in plan_text(planned, [], jobs=3).splitlines()


def test_the_ratio_is_of_all_replicates():
    trained = [Stage("train", f"train: dense {seed}", {"seed": seed}) for seed in range(3)]
    planned = [PlannedStage(stage, False, 10**12, 1.0) for stage in trained]
    text = plan_text(planned, trained)
    assert "all training together: 1.00 x" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (99.4, "99 s"),
        (99.6, "2 min"),
        (5969, "99 min"),
        (7200, "2.0 h"),
        (172_799, "48.0 h"),
        (172_800, "2.0 days"),
        (55_386_000, "641 days"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text
