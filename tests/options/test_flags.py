"""Parsing of the command line and its flagfiles."""

import os
import re

import pytest

from tf_lottery.errors import UsageError
from tf_lottery.options import command as flags
from tf_lottery.options.build import lottery_config
from tf_lottery.options.option import MODES

# Names that scripts of others rely on.
PROMISED = {
    "mode", "dataset", "data_dir", "train_examples", "model", "depth", "width",
    "width_multiplier", "objective", "search_objective", "compare", "sparsity", "score", "scope",
    "epochs", "search_epochs", "learning_rate", "search_learning_rate", "batch_size", "eps",
    "steps", "step_size", "attacks", "seed", "deterministic", "workdir", "store", "ticket",
    "model_path", "restarts", "random_start", "jit_compile", "dtype_policy",
}  # fmt: skip


def test_promised_flags_exist():
    assert set(flags.FLAGS) >= PROMISED


def test_no_arguments_give_the_defaults():
    command = flags.parse([])
    assert command.config() == lottery_config()
    assert command.mode == "run"
    assert command.workdir == "runs/lottery"
    assert command.store == "runs/lottery/stages"
    assert command.export_dir == "runs/lottery/saved_model/exported"
    assert (command.ticket, command.model_paths) == (None, ())
    assert command.evaluation_dir == "runs/lottery/evaluation"
    assert (command.formats, command.compact) == (("saved_model",), False)
    assert command.verbose is False
    assert command.given == frozenset()


def test_where_data_lie_is_told_for_any_working_directory():
    assert flags.parse(["--data_dir=d"]).options["data_dir"] == os.path.abspath("d")
    assert flags.parse(["--data_dir=gs://d"]).options["data_dir"] == "gs://d"


def test_parsing_forgets_the_previous_command_line():
    flags.parse(["--eps=0.3", "--compare=dense", "-v", "--mode=plan"])
    assert flags.parse([]).options == flags.parse([]).options
    again = flags.parse([])
    assert again.config() == lottery_config()
    assert (again.verbose, again.mode, again.given) == (False, "run", frozenset())


def test_numbers_are_fractions_or_decimals():
    assert flags.parse(["--eps=8/255"]).options["eps"] == 8 / 255
    assert flags.parse(["--eps=1e-1"]).options["eps"] == 0.1
    assert flags.parse(["--eps=0"]).options["eps"] == 0


@pytest.mark.parametrize(
    "value", ["", "abc", "8//255", "8/0", "1,5", "0.1 0.2", "1e400", "9" * 400 + "/1", "0x10"]
)
def test_what_is_no_number(value):
    with pytest.raises(UsageError, match="--eps"):
        flags.parse([f"--eps={value}"]).config()


def test_formats_of_an_export():
    command = flags.parse(["--formats=tflite,,tflite_int8", "--compact"])
    assert (command.formats, command.compact) == (("tflite", "tflite_int8"), True)


def test_an_attack_at_the_radius_a_model_was_trained_at():
    def eps(*arguments):
        return flags.parse([*arguments]).evaluation_attack("pgd20", "eval_eps", 0.15).eps

    assert eps() == 0.15
    assert eps("--eps=0.2") == 0.2
    assert eps("--eval_eps=0.3") == 0.3
    assert eps("--eps=0.2", "--eval_eps=0.3") == 0.3
    assert flags.parse([]).evaluation_attack("pgd20", "eval_eps").eps == 8 / 255


def test_lists_drop_empty_items():
    assert flags.parse(["--attacks="]).options["attacks"] == ()
    assert flags.parse(["--attacks=fgsm, pgd5,"]).options["attacks"] == ("fgsm", "pgd5")


def test_places_follow_the_work_directory():
    command = flags.parse(["--workdir=w", "--store=s", "--export_dir=e"])
    assert (command.workdir, command.store, command.export_dir) == ("w", "s", "e")
    assert flags.parse(["--workdir=w"]).store == "w/stages"


# Help -------------------------------------------------------------------------


def test_help_lists_every_flag_once_under_a_topic():
    text = flags.parse(["--help"])
    listed = re.findall(r"^  --(?:\[no\])?(\w+)", text, re.MULTILINE)
    assert sorted(listed) == sorted(set(listed))
    hidden = {"flagfile", "undefok"}
    alone = re.findall(
        r"--((?:search|ticket)_\w+)(?=,|$)", text.partition("Of the search alone")[2]
    )
    assert sorted(alone) == sorted(set(alone))
    assert {"search_recipe", "ticket_phases"} <= set(alone)
    assert {*listed, *alone} == set(flags.FLAGS) - hidden - {"h", "v"}
    assert re.search(r"^Attacks.*:$", text, re.MULTILINE)
    topics = re.findall(r"^(\S.*):$", text, re.MULTILINE)
    assert len(topics) >= 6
    assert "--flagfile" in text


def test_help_shows_defaults_and_units():
    text = flags.parse(["-h"])
    assert re.search(r"--eps .*\[8/255\]", text)
    assert re.search(r"--momentum .*\[0\.9\]", text)
    assert re.search(r"--compare .*\[dense,boosting,reinit\]", re.sub(r"\s+", " ", text))
    assert "on pixels in [0, 1]" in text
    assert all(len(line) <= 100 for line in text.splitlines())
    for mode in MODES:
        assert f"{mode}:" in text


def test_help_wins_over_the_rest():
    assert isinstance(flags.parse(["--mode=plan", "--help", "--eps=7"]), str)
    assert re.fullmatch(r"tf_lottery \d+\.\d+\.\d+", flags.parse(["--version"]))


# Flagfiles --------------------------------------------------------------------


def flagfile(folder, text, name="a.flags"):
    path = folder / name
    path.write_text(text)
    return f"--flagfile={path}"


def test_a_flagfile_with_comments_and_blank_lines(tmp_path):
    given = flagfile(
        tmp_path, "# a comment\n\n--eps=0.25\n  --epochs=3  \n// another\n--nonormalize\n"
    )
    command = flags.parse([given])
    assert command.given >= {"eps", "epochs", "normalize"}
    assert command.options["eps"] == 0.25
    assert command.options["epochs"] == 3
    assert command.options["normalize"] is False
    # What is recorded needs no flagfile, in the order of --help.
    assert command.argv == ("--nonormalize", "--epochs=3", "--eps=0.25")


def test_later_values_win(tmp_path):
    given = flagfile(tmp_path, "--eps=0.25\n--eps=0.26\n--epochs=3\n")
    assert flags.parse([given, "--eps=0.5"]).options["eps"] == 0.5
    assert flags.parse(["--eps=0.5", given]).options["eps"] == 0.26
    assert flags.parse([given, "--eps=0.5"]).options["epochs"] == 3


def test_lists_are_replaced_not_extended(tmp_path):
    given = flagfile(tmp_path, "--compare=dense,boosting\n")
    assert flags.parse([given, "--compare=winning"]).options["compare"] == ("winning",)


def test_a_flagfile_may_name_another(tmp_path):
    inner = flagfile(tmp_path, "--eps=0.1\n--epochs=7\n", "inner.flags")
    outer = flagfile(tmp_path, f"{inner}\n--eps=0.2\n", "outer.flags")
    command = flags.parse([outer])
    assert (command.options["eps"], command.options["epochs"]) == (0.2, 7)


@pytest.mark.parametrize(
    "line", ["eps=0.1", "--nosuch=3", "--eps", "--eps=x", "--epochs 5", "hello", "--epochs=1.5"]
)
def test_bad_lines(tmp_path, line):
    with pytest.raises(UsageError) as caught:
        flags.parse([flagfile(tmp_path, f"--epochs=3\n{line}\n--seed=1\n")])
    message = str(caught.value)
    assert "\n" not in message
    assert line.split("=")[0].split()[0].lstrip("-") in message


def test_a_missing_flagfile(tmp_path):
    with pytest.raises(UsageError, match=r"--flagfile: .*nowhere\.flags"):
        flags.parse([f"--flagfile={tmp_path}/nowhere.flags"])
    with pytest.raises(UsageError, match="--flagfile"):
        flags.parse([f"--flagfile={tmp_path}"])
    outer = flagfile(tmp_path, f"--flagfile={tmp_path}/nowhere.flags\n")
    with pytest.raises(UsageError, match=r"nowhere\.flags"):
        flags.parse([outer])


def test_a_flagfile_that_is_no_text(tmp_path):
    path = tmp_path / "binary.flags"
    path.write_bytes(b"\xff\xfe\x00\x80--eps=1\n")
    with pytest.raises(UsageError, match="flagfile"):
        flags.parse([f"--flagfile={path}"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["--nosuch=1"],
        ["--nosuch"],
        ["positional"],
        ["--mode=walk"],
        ["--eps"],
        ["--epochs=many"],
        ["--epochs=1e3"],
        ["--deterministic=maybe"],
        ["--model=alexnet"],
        ["--flagfile"],
        ["--epochs=3", "extra", "--eps=0.1"],
        ["--", "left"],
    ],
)
def test_bad_command_lines(arguments):
    with pytest.raises(UsageError) as caught:
        flags.parse(arguments)
    assert "\n" not in str(caught.value)


def test_messages_of_enumerations_list_the_choices():
    with pytest.raises(UsageError, match=r"--mode.*walk.*run"):
        flags.parse(["--mode=walk"])
    with pytest.raises(UsageError, match=r"--model.*alexnet.*convnet.*vgg"):
        flags.parse(["--model=alexnet"])


@pytest.mark.parametrize("rest", [["--jobs=2"], ["--executor=ray"]])
@pytest.mark.parametrize("kind", ["mirrored", "multiworker", "tpu"])
def test_devices_that_share_a_training_take_one_stage_at_a_time(kind, rest):
    with pytest.raises(UsageError, match=rf"^--distribute: got '{kind}'.*--jobs"):
        flags.parse([f"--distribute={kind}", *rest])
    assert flags.parse([f"--distribute={kind}"]).execution.distribute == kind


@pytest.mark.parametrize("seconds", [4, 0, -1])
def test_the_patience_with_silent_workers_has_a_least(seconds):
    with pytest.raises(UsageError, match=f"^--worker_timeout: got {seconds}, must be 5"):
        flags.parse([f"--worker_timeout={seconds}"])
