"""Paths of every kind, in every flag that takes one: resumed, evaluated, exported, told."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import TINY, complaint, run_apart

from tf_lottery import files
from tf_lottery.errors import UsageError
from tf_lottery.main import main
from tf_lottery.options import command as flags
from tf_lottery.options.flags import OPTIONS
from tf_lottery.options.places import listed

HARD = [
    "[x]", "a\\b", "*", "?", "a*", "x[", "]", "ü n ï", " ", "-d", "--workdir=d", "'\"`$HOME;",
    "new\nline", "a,b", ",", "~", "~a", "a~", "%s", "{x}", "a:b", "#", "a" * 200,
]  # fmt: skip
EVERYTHING = "[x] a\\b *? ~ü,'\" -\nd"
PATHS = sorted(name for name, told in OPTIONS.items() if told.path)


def test_these_are_the_flags_that_take_a_path():
    assert PATHS == [
        "data_dir", "evaluation_dir", "export_dir", "model_path", "reference_csv", "store",
        "ticket", "workdir",
    ]  # fmt: skip


def value(name, text):
    command = flags.parse([f"--{name}={text}"])
    if name == "data_dir":
        return command.config().data.data_dir
    return command.model_paths[0] if name == "model_path" else getattr(command, name)


@pytest.mark.parametrize("name", PATHS)
def test_a_home_directory_is_expanded(name, monkeypatch, folder):
    monkeypatch.setenv("HOME", str(folder))
    assert value(name, "~/x") == f"{folder}/x"
    assert value(name, "~") == str(folder)
    assert value(name, "./~").endswith("./~" if name != "data_dir" else f"{folder}/~")


@pytest.mark.parametrize("name", [*PATHS, "flagfile"])
@pytest.mark.parametrize(
    "text", ["", "~nobody-of-that-name/x", "a\0b"], ids=["empty", "nobody", "nul"]
)
def test_what_is_no_path_is_refused_and_nothing_is_made(name, text, capsys, folder):
    if (name, text) == ("reference_csv", ""):
        return  # takes the curves away, in mode report
    assert complaint(capsys, 2, [f"--{name}={text}"]).startswith(f"tf_lottery: --{name}: ")
    assert not list(folder.iterdir())


@pytest.mark.parametrize("name", sorted(set(PATHS) - {"data_dir", "store"}))
def test_a_url_is_refused_where_it_would_become_a_directory(name, capsys, folder):
    assert "not a URL" in complaint(capsys, 2, [f"--{name}=gs://bucket/x"])
    assert not list(folder.iterdir())


@pytest.mark.parametrize("name", HARD)
def test_a_hard_name_is_taken_as_it_stands(name, folder):
    Path(name).mkdir()
    text = f"./{name}" if name.startswith("~") else name
    for flag in PATHS:
        got = value(flag, text)
        assert os.path.samefile(got, f"./{name}"), flag


def test_a_list_of_paths_finds_those_with_a_comma(folder):
    for name in ("a", "b", "a,b", "c,d,e", "d"):
        Path(name).touch()
    assert listed("model_path", "a,b") == ("a,b",)
    assert listed("model_path", "./a,b") == ("./a,b",)
    assert listed("model_path", "a,./b") == ("a", "./b")
    assert listed("model_path", "b,a,b,c,d,e,,d") == ("b", "a,b", "c,d,e", "d")
    assert listed("model_path", "missing,a") == ("missing", "a")
    with pytest.raises(UsageError, match="--model_path: got ''"):
        listed("model_path", ",,")


@pytest.mark.parametrize("name", HARD)
def test_tensorflow_reads_what_it_wrote_under_a_hard_name(name, tmp_path):
    from tf_lottery.keras import tf

    place = tmp_path / name
    for each in (place, tmp_path / "x", tmp_path / "ab", tmp_path / "a"):
        each.mkdir(exist_ok=True)  # what a pattern would find too
    variable = tf.Variable(1.0)
    checkpoint = tf.train.Checkpoint(v=variable)
    prefix = f"{files.plain_name(place)}/ckpt"
    checkpoint.write(prefix)
    variable.assign(2.0)
    checkpoint.read(prefix).assert_consumed()
    assert float(variable) == 1
    model = tf.Module()
    model.v = variable
    (place / "saved").mkdir()
    tf.saved_model.save(model, files.plain_name(place / "saved"))
    assert float(tf.saved_model.load(files.plain_name(place / "saved")).v) == 1
    assert sorted(p.name for p in place.iterdir()) == [
        "ckpt.data-00000-of-00001",
        "ckpt.index",
        "saved",
    ]
    assert not [*(tmp_path / "x").iterdir()]


def test_a_plain_name_stays_and_links_end_with_the_process(tmp_path):
    assert files.plain_name(tmp_path) == str(tmp_path)
    assert files.plain_name(tmp_path / "[m].keras").endswith(".keras")
    code = "from tf_lottery import files; print(files.plain_name('[x]'))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "[" not in out.stdout
    assert not os.path.lexists(out.stdout.strip())


def test_data_are_read_from_a_hard_name(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    from tf_lottery.data import sources

    def examples():
        for i in range(8):
            yield i, {"image": np.full((4, 5, 3), i, np.uint8), "label": i % 2}

    class HardPlace(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = Path(__file__).parent

        def _info(self):
            features = tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(4, 5, 3)),
                    "label": tfds.features.ClassLabel(num_classes=2),
                }
            )
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": examples(), "test": examples()}

        def _generate_examples(self):
            yield from ()

    place = tmp_path / EVERYTHING
    assert len(sources.read("hard_place", str(place)).train_labels) == 8
    assert place.is_dir()
    assert len(sources.read("hard_place", str(place)).train_labels) == 8


FLAGS = [*TINY, "--epochs=2", "--compare=boosting", "--search_epochs=1"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run below a hard name that was interrupted after an epoch and went on."""
    from tf_lottery.training import checkpoints

    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        restored = []
        save, restore = checkpoints.Checkpoints.save, checkpoints.Checkpoints.restore

        def save_and_stop(self, position, weights_files):
            save(self, position, weights_files)
            if position.epoch == 1:
                raise KeyboardInterrupt

        def note(self, position):
            restored.append(position.epoch)
            restore(self, position)

        arguments = [*FLAGS, f"--workdir={EVERYTHING}"]
        patch.setattr(checkpoints.Checkpoints, "restore", note)
        codes = []
        while not codes or (codes[-1] == 130 and len(codes) < 6):
            first = len(codes) == 0
            patch.setattr(checkpoints.Checkpoints, "save", save_and_stop if first else save)
            codes.append(main(arguments))
        assert codes == [130, 0]
        assert restored == [1]
    return home / EVERYTHING


def test_a_run_below_a_hard_name_is_resumed_and_leaves_nothing_elsewhere(run):
    assert [p.name for p in run.parent.iterdir()] == [EVERYTHING]
    assert list((run / "tensorboard").glob("*/events*"))
    assert list((run / "tensorboard" / "report").glob("events*"))
    assert (run / "saved_model" / "boosting" / "saved_model.pb").is_file()


def test_every_mode_works_below_a_hard_name(run, capsys, monkeypatch):
    monkeypatch.chdir(run.parent)
    work = f"--workdir={EVERYTHING}"
    assert main([*FLAGS, "--mode=plan", work]) == 0
    assert main([*FLAGS, work]) == 0
    out = capsys.readouterr().out
    assert "everything is finished already" in out
    printed = out[out.index("TensorBoard  ") :].removeprefix("TensorBoard  ")
    assert shlex.split(printed)[1] == f"--logdir={EVERYTHING}/tensorboard"
    assert main(["--mode=report", work]) == 0
    ticket = f"--ticket={EVERYTHING}/tickets/boosting"
    assert main(["--mode=inspect", ticket]) == 0
    quick = ["--attacks=fgsm", "--test_examples=5", "--analysis_images=0", "--transfer_attack="]
    assert main(["--mode=evaluate", f"--model_path={EVERYTHING}", *quick, work]) == 0
    out = f"--export_dir={EVERYTHING}/out"
    assert main(["--mode=export", ticket, "--formats=saved_model,tflite", out, work]) == 0
    again = f"--evaluation_dir={EVERYTHING}/again"
    models = f"--model_path={EVERYTHING}/out,{EVERYTHING}/saved_model/boosting"
    assert main(["--mode=evaluate", models, *quick, again]) == 0
    found = json.loads((run / "again" / "evaluation.json").read_bytes())
    assert len(found["models"]) == 2
    assert [p.name for p in run.parent.iterdir()] == [EVERYTHING]


def test_a_keras_file_with_a_hard_name(run, tiny_network, monkeypatch, tmp_path):
    from tf_lottery.evaluation.loading import load_model

    monkeypatch.chdir(tmp_path)
    network = tiny_network()
    network.save("plain.keras")
    os.rename("plain.keras", "[ü].keras")
    assert load_model("[ü].keras").network.count_params() == network.count_params()


def test_a_store_behind_a_url_with_a_hard_name(tmp_path):
    url = f"file://{tmp_path}/s[x]"
    arguments = [*TINY, f"--store={url}", f"--workdir={tmp_path}/w[x]"]
    assert main(arguments) == 0
    assert main([*arguments[:-1], f"--workdir={tmp_path}/again"]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again", "s[x]", "w[x]"]


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"},
    ],
    ids=["ascii output", "ascii locale"],
)
def test_a_name_that_the_locale_does_not_know(tmp_path, environment):
    work = tmp_path / "ünï"
    done = run_apart([*TINY, f"--workdir={work}"], environment)
    assert done.returncode == 0, done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["ünï"]
    assert (work / "report.html").is_file()
    assert (work / "saved_model" / "dense" / "saved_model.pb").is_file()
