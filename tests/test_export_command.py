"""``--mode=export`` from the command line to the files it leaves and the table it prints."""

import contextlib
import errno
import io
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from tf_lottery import files, weights
from tf_lottery.attacks import make_attack
from tf_lottery.data import load
from tf_lottery.engine.store import seal
from tf_lottery.evaluation import evaluate
from tf_lottery.evaluation.loading import load_model
from tf_lottery.export import exporting, latency
from tf_lottery.keras import keras, tf
from tf_lottery.main import main
from tf_lottery.options.settings import DataConfig, ModelConfig, attack_from_name
from tf_lottery.pruning.masks import mask_weights, prunable_kernels
from tf_lottery.tickets import NetworkSpec, Ticket

IMAGES = 120
FORMATS = ["saved_model", "tflite", "tflite_int8", "tflite_sparse"]


def run(*arguments):
    """Exit code, standard output and error of a command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([*arguments])
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module", autouse=True)
def few_rounds():
    """What is timed here is of no interest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latency, "MOST", latency.FEWEST)
        yield


@pytest.fixture(scope="module")
def digits():
    return load(DataConfig("digits"))


@pytest.fixture(scope="module")
def network(digits):
    """A pruned network that knows most digits; three filters of conv1 have no weight."""
    spec = NetworkSpec(ModelConfig("convnet", width_multiplier=0.25), (8, 8, 1), 10)
    made = spec.build(0)
    rng = np.random.default_rng(0)
    masks = {n: rng.random(tuple(k.shape)) < 0.5 for n, k in prunable_kernels(made).items()}
    masks["conv1"][..., :3] = False
    made.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    made.optimizer.learning_rate = 0.01
    x = digits.train_images / np.float32(255)
    for _ in range(3):
        made.fit(x, digits.train_labels, batch_size=128, verbose=0, shuffle=False)
        mask_weights(made, masks)
    return spec, made


@pytest.fixture(scope="module")
def stage(network, tmp_path_factory):
    """The network as a training stage leaves it."""
    spec, made = network
    path = tmp_path_factory.mktemp("store") / "train-0123456789abcdef"
    path.mkdir()
    weights.write_arrays(path / "best.npz", weights.get_weights(made))
    files.write_json(path / "network.json", {"network": spec.to_json()})
    objective = {"name": "pgd", "attack": {"name": "pgd10", "eps": 0.1}}
    names = ("best.npz", "network.json")
    manifest = {
        "kind": "train",
        "label": "train: boosting",
        "settings": {"train": {"objective": objective}, "data": {"name": "digits"}},
        "files": {name: (path / name).stat().st_size for name in names},
        "sha256": {name: files.digest(path / name) for name in names},
    }
    files.write_json(path / "manifest.json", seal(manifest))
    return path


class Done:
    """An export of all the formats above, compacted."""

    def __init__(self, target, out):
        self.target, self.out = Path(target), out
        self.document = json.loads((self.target / "export.json").read_text())
        self.rows = {row["label"]: row for row in self.document["rows"]}


@pytest.fixture(scope="module")
def done(stage, tmp_path_factory):
    target = tmp_path_factory.mktemp("export") / "deep" / "e"
    code, out, err = run(
        "--mode=export", f"--model_path={stage}", f"--export_dir={target}", "--compact",
        f"--formats={','.join(FORMATS)}", f"--test_examples={IMAGES}",
    )  # fmt: skip
    assert code == 0, err
    return Done(target, out)


def test_the_files(done):
    assert [row["file"] for row in done.document["rows"]] == [
        None, ".", "model.tflite", "model_int8.tflite", "model_sparse.tflite",
    ]  # fmt: skip
    found = {path.name for path in done.target.iterdir()}
    assert found == {
        "assets", "export.json", "fingerprint.pb", "metadata.json", "model.tflite",
        "model_int8.tflite", "model_sparse.tflite", "saved_model.pb", "variables",
    }  # fmt: skip
    for row in done.document["rows"][2:]:
        assert row["bytes"] == (done.target / row["file"]).stat().st_size


def test_the_saved_model_is_smaller_and_the_same(done, network, digits):
    _, made = network
    loaded = tf.saved_model.load(str(done.target))
    x = digits.test_images[:IMAGES] / np.float32(255)
    expected = made(x, training=False).numpy()
    assert expected.std() > 1
    np.testing.assert_allclose(loaded.logits(tf.constant(x)), expected, rtol=1e-4, atol=1e-4)
    assert loaded.kernels["conv1"].shape == (3, 3, 1, 5)
    kept = loaded.kernels["conv1"].numpy()
    np.testing.assert_array_equal(kept, made.get_layer("conv1").kernel.numpy()[..., 3:])
    record = json.loads((done.target / "metadata.json").read_text())
    assert record["compaction"]["kept"]["conv1"] == [3, 4, 5, 6, 7]
    assert record["compaction"]["removed"] == 3
    assert record["classes"] == list(digits.class_names)
    # conv1: 2 * 64 * 9 * filters; conv2 reads them at 64 places, of the widths 8, 16, 16.
    before = 128 * 9 * (8 + 8 * 16) + 32 * 9 * 16 * 16 + 2 * 256 * 10
    after = before - 128 * 9 * (3 + 3 * 16)
    assert record["compaction"]["flops"] == [before, after]
    assert f"{after / before:.1%}" in done.out


def test_weights_and_zeros(done, network):
    _, made = network
    values = [variable.numpy() for variable in made.variables]
    row = done.rows["before: SavedModel"]
    assert row["weights"] == sum(value.size for value in values)
    assert row["nonzero_weights"] == sum(np.count_nonzero(value) for value in values)
    # Three filters of 9 weights, with BatchNorm's four numbers, and what conv2 read of them.
    gone = 3 * 9 + 3 * 4 + 3 * 9 * 16
    assert done.rows["SavedModel"]["weights"] == row["weights"] - gone
    assert done.rows["TFLite float32"]["weights"] == done.rows["TFLite sparse float32"]["weights"]


def test_accuracies_are_those_of_the_files(done, network, digits):
    _, made = network
    x, y = digits.test_images[:IMAGES], digits.test_labels[:IMAGES]
    found = evaluate(made, x, y, ["pgd20"], eps=0.1)
    assert found.natural > 0.5
    assert 0 < found.robust["pgd20"] < found.natural
    for label in ("before: SavedModel", "SavedModel"):
        row = done.rows[label]
        assert row["natural"] == found.natural
        assert row["robust"] == pytest.approx(found.robust["pgd20"], abs=1.1 / IMAGES)
        assert row["crafted_on"] == label
    # A TFLite file, read by the interpreter alone, on the float network's examples.
    attack = make_attack(attack_from_name("pgd20", 0.1, None, True, 1, "linf"))
    seeds = np.stack([np.zeros(IMAGES), np.arange(IMAGES)], axis=1).astype(np.int32)
    pixels = x.astype(np.float32) / np.float32(255)
    attacked = attack(lambda z: made(z, training=False), pixels, y, seeds).numpy()
    interpreter = tf.lite.Interpreter(str(done.target / "model_int8.tflite"))
    source, sink = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    interpreter.allocate_tensors()
    scale, zero = source["quantization"]
    right = []
    for images in (pixels, attacked):
        classes = []
        for image in images:
            given = np.clip(np.round(image[None] / scale) + zero, -128, 127)
            interpreter.set_tensor(source["index"], given.astype(np.int8))
            interpreter.invoke()
            classes.append(interpreter.get_tensor(sink["index"])[0].argmax())
        right.append(np.array(classes) == y)
    row = done.rows["TFLite int8"]
    assert row["natural"] == pytest.approx(right[0].mean(), abs=1.1 / IMAGES)
    assert row["robust"] == pytest.approx((right[0] & right[1]).mean(), abs=2.1 / IMAGES)
    assert row["crafted_on"] == "SavedModel"
    accuracy = done.document["accuracy"]
    assert (accuracy["dataset"], accuracy["examples"]) == ("digits", IMAGES)
    assert (accuracy["attack"]["name"], accuracy["attack"]["eps"]) == ("pgd20", 0.1)


def test_the_table(done):
    lines = done.out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("file "))
    assert re.split(r"  +", lines[start]) == [
        "file", "weights", "non-zero", "size", "gzip", "batch 1, ms", "batch 64, ms", "natural %",
        "pgd20 %",
    ]  # fmt: skip
    for line, row in zip(lines[start + 2 :], done.document["rows"], strict=False):
        cells = re.split(r"  +", line)
        assert cells[0] == row["label"]
        assert cells[1:3] == [f"{row['weights']:,}", f"{row['nonzero_weights']:,}"]
        assert float(cells[5]) == pytest.approx(row["latency_ms"]["1"]["median"], abs=0.006)
        assert cells[7] == f"{100 * row['natural']:.1f}"
        transferred = row["label"].startswith("TFLite")
        assert cells[8] == f"{100 * row['robust']:.1f}" + "*" * transferred
    text = " ".join(done.out.split())
    assert "3 of 50 filters and units are cut out" in text
    assert f"{IMAGES} test images of digits" in text
    assert "* on examples crafted on the SavedModel" in text
    assert "l_inf radius 0.1" in text
    assert "of this machine" in text


def test_the_plain_command_leaves_a_saved_model_and_a_table(stage, tmp_path):
    target = tmp_path / "e"
    code, out, _ = run(
        "--mode=export", f"--model_path={stage}", f"--export_dir={target}", "--test_examples=20",
        "--eval_eps=0.05", "--eval_step_size=0.01",
    )  # fmt: skip
    assert code == 0
    document = json.loads((target / "export.json").read_text())
    assert [row["label"] for row in document["rows"]] == ["SavedModel"]
    assert document["compaction"] is None
    assert "cut out" not in out
    assert "*" not in out
    attack = document["accuracy"]["attack"]
    assert (attack["eps"], attack["step_size"]) == (0.05, 0.01)
    assert list(target.glob("*.tflite")) == []
    best = weights.read_arrays(stage / "best.npz")
    for layer, kernel in tf.saved_model.load(str(target)).kernels.items():
        np.testing.assert_array_equal(kernel.numpy(), best[f"{layer}/kernel"])


def test_tflite_alone_is_compared_with_the_saved_model_that_is_not_kept(stage, tmp_path):
    target = tmp_path / "e"
    code, out, _ = run(
        "--mode=export", f"--model_path={stage}", f"--export_dir={target}", "--formats=tflite",
        "--test_examples=20",
    )  # fmt: skip
    assert code == 0
    assert {path.name for path in target.iterdir()} == {"export.json", "model.tflite"}
    document = json.loads((target / "export.json").read_text())
    assert [row["label"] for row in document["rows"]] == ["before: SavedModel", "TFLite float32"]
    assert document["rows"][1]["crafted_on"] == "before: SavedModel"
    assert "before: SavedModel  " in out
    assert str(target / "model.tflite") in out


# Without images -----------------------------------------------------------------------


@pytest.fixture
def keras_file(network, tmp_path):
    """A model of which nobody wrote down what it was trained on."""
    path = tmp_path / "m.keras"
    network[1].save(path)
    return path


def test_without_a_record_accuracy_is_not_measured_and_nothing_fails(keras_file, tmp_path):
    target = tmp_path / "e"
    code, out, _ = run("--mode=export", f"--model_path={keras_file}", f"--export_dir={target}")
    assert code == 0
    text = " ".join(out.split())
    assert "accuracy: not measured: the model has no record of its data set" in text
    assert "--dataset=NAME" in text
    document = json.loads((target / "export.json").read_text())
    assert document["accuracy"] is None
    assert "natural" not in document["rows"][0]
    assert document["rows"][0]["latency_ms"]["64"]["median"] > 0
    assert (target / "saved_model.pb").exists()


def test_int8_without_images_is_an_error_that_leaves_nothing(keras_file, tmp_path):
    target = tmp_path / "e"
    code, _, err = run(
        "--mode=export", f"--model_path={keras_file}", f"--export_dir={target}",
        "--formats=tflite,tflite_int8",
    )  # fmt: skip
    assert code == 2
    assert len(err.splitlines()) == 1
    assert "--formats: int8 needs training images" in err
    assert not target.exists()


def test_a_data_set_that_cannot_be_had(stage, tmp_path, monkeypatch):
    from tf_lottery.errors import DataError

    def missing(config):
        raise DataError(f"--dataset={config.name}: no network")

    monkeypatch.setattr(exporting, "load", missing)
    code, out, _ = run("--mode=export", f"--model_path={stage}", f"--export_dir={tmp_path / 'e'}")
    assert code == 0
    assert "not measured: --dataset=digits: no network" in out


def test_a_ticket_is_not_trained_yet(network, tmp_path):
    spec, made = network
    digest = weights.digest(weights.get_weights(spec.build(3)))
    masks = {name: kernel.numpy() != 0 for name, kernel in prunable_kernels(made).items()}
    ticket = Ticket(spec, "digits", 3, digest, masks).save(tmp_path / "ticket")
    code, out, _ = run(
        "--mode=export", f"--ticket={ticket}", f"--export_dir={tmp_path / 'f'}",
        "--formats=tflite_int8",
    )  # fmt: skip
    assert code == 0  # its data set has the images that int8 needs
    assert "accuracy: not measured: a ticket's weights are not trained yet" in out
    assert (tmp_path / "f" / "model_int8.tflite").exists()
    loaded = load_model(ticket)
    without = exporting.find_images(loaded, DataConfig("digits"))
    assert (without.data, without.missing) == (None, "a ticket's weights are not trained yet")


def test_images_of_another_kind(keras_file, stage, tmp_path, monkeypatch):
    """An error where the data set was asked for, a remark where the record named it."""
    from dataclasses import replace

    def wide(config):
        data = load(config)
        return replace(data, train_images=np.zeros((10, 9, 9, 1), np.uint8))

    monkeypatch.setattr(exporting, "load", wide)
    arguments = ["--mode=export", f"--export_dir={tmp_path / 'e'}"]
    code, _, err = run(*arguments, f"--model_path={keras_file}", "--dataset=digits")
    assert code == 2
    assert "--dataset: images of digits are (9, 9, 1), the model takes (8, 8, 1)" in err
    code, out, _ = run(*arguments, f"--model_path={stage}")
    assert code == 0
    assert "not measured: --dataset: images of digits are (9, 9, 1)" in " ".join(out.split())


def test_at_most_a_thousand_test_images_unless_told(stage, network, monkeypatch):
    monkeypatch.setattr(exporting, "TEST_IMAGES", 50)
    loaded = load_model(stage)
    for given, count in ((frozenset(), 50), (frozenset({"test_examples"}), 360)):
        images = exporting.find_images(loaded, DataConfig("mnist"), given)
        assert (images.missing, images.data.name) == ("", "digits")
        assert len(images.data.test_labels) == len(images.data.test_images) == count
    drawn = exporting.representative_images(images.data, seed=1)
    assert drawn.shape == (200, 8, 8, 1)
    assert (drawn.dtype, drawn.min(), drawn.max()) == (np.float32, 0, 1)
    np.testing.assert_array_equal(drawn, exporting.representative_images(images.data, seed=1))
    assert (drawn != exporting.representative_images(images.data, seed=2)).any()
    assert len(np.unique(drawn, axis=0)) > 190


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--formats=onnx", ("--formats", "'onnx'", "tflite_int8")),
        ("--formats=", ("--formats", "some of saved_model")),
        ("--formats=tflite,tflite", ("--formats", "each of them once")),
        ("--compact=perhaps", ("--compact", "perhaps")),
    ],
)
def test_bad_flags(stage, tmp_path, flag, words):
    target = tmp_path / "e"
    code, _, err = run("--mode=export", f"--model_path={stage}", f"--export_dir={target}", flag)
    assert code == 2
    assert len(err.splitlines()) == 1
    for word in words:
        assert word in err
    assert not target.exists()


def test_an_export_that_died_does_not_block_the_same_command(keras_file, tmp_path, monkeypatch):
    from tf_lottery.export import exporting

    target = tmp_path / "e"
    command = ["--mode=export", f"--model_path={keras_file}", f"--export_dir={target}"]

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(exporting, "measured", full)  # the SavedModel is written by then
        code, _, err = run(*command)
    assert code == 1
    assert len(err.splitlines()) == 1
    assert "--export_dir: no space left under" in err
    assert "run the same command again" in err
    assert not target.exists()
    assert list(tmp_path.glob(".*")) == []
    (tmp_path / ".e.partial").mkdir()  # as a killed process leaves it
    (tmp_path / ".e.partial" / "half").touch()
    assert run(*command)[0] == 0
    assert (target / "export.json").exists()
    assert not (target / "half").exists()
