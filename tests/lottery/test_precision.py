"""``--dtype_policy=auto``: what is measured, what is chosen, and that it is chosen once."""

import json

import numpy as np
import pytest

from tests.command_line import TINY, complaint
from tf_lottery import find_ticket, lottery_config
from tf_lottery.engine.store import Store
from tf_lottery.errors import UsageError
from tf_lottery.lottery import precision
from tf_lottery.lottery.graph import make_entry
from tf_lottery.lottery.precision import faster_policy, interleaved, precision_stage
from tf_lottery.lottery.work import Workshop
from tf_lottery.main import main
from tf_lottery.models import build_model

AUTO = [*TINY, "--dtype_policy=auto"]


@pytest.fixture
def ratios(monkeypatch):
    """What the next measurements give, in the place of times; a list."""
    given = []

    def rounds(steps):
        return [{"float32": 2.0, "mixed_bfloat16": 2.0 * ratio} for ratio in given.pop(0)]

    monkeypatch.setattr(precision, "interleaved", rounds)
    return given


def read(workdir):
    (path,) = (workdir / "stages").glob("precision-*/precision.json")
    return json.loads(path.read_text())


def test_steps_take_turns_and_the_first_of_each_is_not_counted():
    calls = []
    steps = {name: lambda name=name: calls.append(name) or 0.0 for name in "ab"}
    rounds = interleaved(steps)
    assert len(rounds) == precision.MOST
    assert "".join(calls) == "ab" + "abba" * (len(rounds) // 2) + "ab"
    assert all(set(one) == {"a", "b"} and min(one.values()) >= 0 for one in rounds)


def test_slow_steps_are_measured_as_often_as_it_takes(monkeypatch):
    monkeypatch.setattr(precision, "SECONDS", 0.0)
    assert len(interleaved({"a": lambda: 0.0})) == precision.FEWEST


@pytest.mark.parametrize(
    ("measured", "policy", "ratio"),
    [
        ([0.5, 0.5, 0.6], "mixed_bfloat16", 0.5),
        ([0.2, 0.95, 0.97], "float32", 0.95),  # within what times scatter
        ([9.0, 0.9, 0.8], "mixed_bfloat16", 0.9),
        ([3.0, 4.0, 5.0], "float32", 4.0),
    ],
)
def test_bfloat16_must_be_faster_by_a_margin(ratios, tmp_path, measured, policy, ratio):
    ratios.append(measured)
    told = []
    workshop = Workshop(Store(tmp_path / "stages"))
    assert faster_policy(lottery_config(), workshop, told.append) == policy
    assert len(told) == 1
    assert f"--dtype_policy=auto: {policy}" in told[0]
    assert f"{ratio:.2f}" in told[0]
    assert read(tmp_path)["ratio"] == pytest.approx(ratio)
    # The next one would say the opposite; the store has the first.
    ratios.append([1 / r**2 for r in measured])
    assert faster_policy(lottery_config(seed=3), workshop, told.append) == policy
    assert len(ratios) == 1


def test_the_measured_step_is_the_same_in_either_precision():
    norms = [precision._step(policy, False)() for policy in ("float32", "mixed_bfloat16")]
    assert np.isfinite(norms).all()
    assert norms[0] > 0
    assert norms[1] == pytest.approx(norms[0], rel=0.05)


def test_a_measurement_in_truth(tmp_path):
    """No word on what is faster here."""
    policy = faster_policy(lottery_config(), Workshop(Store(tmp_path / "stages")), print)
    found = read(tmp_path)
    assert (found["policy"], found["ratio"] <= 0.9) == (policy, policy == "mixed_bfloat16")
    assert found["rounds"] >= precision.FEWEST
    assert min(found["seconds"].values()) > 0
    assert found["machine"]["cpu"]


def test_a_run_is_the_run_of_the_policy_and_never_flips(ratios, tmp_path, capsys):
    auto, named = tmp_path / "auto", tmp_path / "named"
    ratios += [[0.5], [2.0]]
    assert main([*AUTO, f"--workdir={auto}"]) == 0
    assert "--dtype_policy=auto: mixed_bfloat16" in capsys.readouterr().out
    assert main([*TINY, "--dtype_policy=mixed_bfloat16", f"--workdir={named}"]) == 0

    def stages(workdir):
        return {p.name for p in (workdir / "stages").iterdir() if (p / "manifest.json").exists()}

    assert {name for name in stages(auto) if not name.startswith("precision-")} == stages(named)
    document = json.loads((auto / "results.json").read_text())
    assert document["settings"]["train"]["dtype_policy"] == "mixed_bfloat16"
    capsys.readouterr()
    assert main([*AUTO, f"--workdir={auto}"]) == 0
    assert "everything is finished already" in capsys.readouterr().out
    assert len(ratios) == 1


def test_one_training_may_ask_alone(ratios, tmp_path):
    ratios.append([0.5])
    small = [*TINY, "--compare=dense,boosting", "--search_dtype_policy=auto"]
    assert main([*small, f"--workdir={tmp_path}"]) == 0
    found = json.loads((tmp_path / "results.json").read_text())["settings"]
    assert found["search"]["dtype_policy"] == "mixed_bfloat16"
    assert "dtype_policy" not in found["train"]


def test_a_plan_measures_and_leaves_nothing(ratios, tmp_path, capsys):
    ratios.append([0.5])
    assert main([*AUTO, "--mode=plan", f"--workdir={tmp_path / 'w'}"]) == 0
    assert "--dtype_policy=auto: mixed_bfloat16" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_an_experiment_is_measured_with_settings_of_its_own(ratios, tmp_path):
    """Of a comparison they would be refused."""
    ratios.append([2.0])
    flags = ["--experiment=fig1", "--mode=plan", "--dtype_policy=auto", "--depth=8"]
    small = ["--dataset=digits", "--validation_examples=20", "--epochs=2", "--search_epochs=2"]
    assert main([*flags, *small, f"--workdir={tmp_path / 'w'}"]) == 0
    assert ratios == []


@pytest.mark.parametrize("where", [["--executor=ray"], ["--distribute=multiworker"]])
def test_several_machines_are_told_their_policy(where, tmp_path, capsys):
    line = complaint(capsys, 2, [*AUTO, *where, f"--workdir={tmp_path / 'w'}"])
    assert line.startswith("tf_lottery: --dtype_policy: got 'auto', must be float32 or mixed_")


def test_python_measures_too(ratios, tmp_path):
    ratios.append([0.5])
    config = lottery_config(
        train_examples=64, validation_examples=20, test_examples=10, batch_size=16, epochs=1,
        width_multiplier=0.05, search_objective="natural", objective="natural", attacks=(),
        dtype_policy="auto",
    )  # fmt: skip
    ticket = find_ticket(config, tmp_path / "stages")
    assert ticket.found["search"]["dtype_policy"] == "mixed_bfloat16"
    assert config.train.dtype_policy == "auto"
    assert read(tmp_path)["policy"] == "mixed_bfloat16"


def test_what_was_not_measured_makes_no_stage_and_no_network():
    with pytest.raises(UsageError, match="--dtype_policy=auto has to be measured"):
        make_entry(lottery_config(dtype_policy="auto"), "dense")
    with pytest.raises(UsageError, match="--dtype_policy"):
        build_model("convnet", (8, 8, 1), 10, 0, dtype_policy="auto")


def test_xla_is_measured_by_itself():
    stages = [precision_stage(lottery_config(jit_compile=jit, epochs=5)) for jit in (False, True)]
    assert stages[0].key != stages[1].key
    assert stages[0].key == precision_stage(lottery_config(eps=0.1)).key
