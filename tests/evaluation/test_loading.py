"""Models from files, also those of Keras 3, and the names they get."""

import json
import os
import subprocess
import sys
import textwrap
import zipfile

import numpy as np
import pytest

from tf_lottery.errors import StoreError, UsageError
from tf_lottery.evaluation import evaluate
from tf_lottery.evaluation.loading import load_model, load_models, model_paths
from tf_lottery.export import export_saved_model


@pytest.fixture(scope="module")
def exported(tmp_path_factory, tiny_network):
    """Two SavedModels of other weights, as a run leaves them."""
    workdir = tmp_path_factory.mktemp("run")
    for seed, kind in enumerate(("dense", "boosting")):
        (workdir / "saved_model").mkdir(exist_ok=True)
        training = {"train": {"objective": {"name": "pgd", "attack": {"eps": 0.15}}}}
        export_saved_model(
            tiny_network(seed), workdir / "saved_model" / kind, metadata={"training": training}
        )
    rows = [{"name": "dense"}, {"name": "boosting"}]
    (workdir / "results.json").write_text(json.dumps({"rows": rows}))
    return workdir


def test_a_work_directory_stands_for_its_models_in_the_order_of_its_rows(exported):
    dense, boosting = (exported / "saved_model" / kind for kind in ("dense", "boosting"))
    assert model_paths(exported) == [dense, boosting]
    assert model_paths(dense) == [dense]
    found = load_models([exported])
    assert [model.name for model in found] == ["dense", "boosting"]
    assert [model.training_eps for model in found] == [0.15, 0.15]
    assert found[0].digest != found[1].digest
    assert found[0].digest == load_model(dense).digest


def test_names_tell_models_apart_and_a_copy_has_the_same_digest(exported, tmp_path):
    import shutil

    copy = tmp_path / "other" / "dense"
    shutil.copytree(exported / "saved_model" / "dense", copy)
    found = load_models([exported / "saved_model" / "dense", copy])
    assert [model.name for model in found] == ["saved_model-dense", "other-dense"]
    assert found[0].digest == found[1].digest
    with pytest.raises(UsageError, match="each model once"):
        load_models([copy, tmp_path / "other" / ".." / "other" / "dense"])


def test_names_keep_what_follows_a_dot_and_results_inside_a_model_do_not_change_it(
    exported, tmp_path
):
    import shutil

    paths = [tmp_path / f"net-{eps}" for eps in (0.5, 0.9)]
    for path in paths:
        shutil.copytree(exported / "saved_model" / "dense", path)
    (paths[0] / "evaluation").mkdir()
    (paths[0] / "evaluation" / "progress.npz").write_bytes(b"something")
    found = load_models(paths)
    assert [model.name for model in found] == ["net-0.5", "net-0.9"]
    assert found[0].digest == found[1].digest


def test_a_work_directory_without_models_is_told(tmp_path):
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(UsageError, match="SavedModels"):
        model_paths(tmp_path)


def test_a_damaged_keras_file_is_one_line(tmp_path):
    path = tmp_path / "model.keras"
    path.write_bytes(b"no zip")
    with pytest.raises(StoreError, match="cannot be loaded") as caught:
        load_model(path)
    assert "\n" not in str(caught.value)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", "{}")
    with pytest.raises(StoreError, match="cannot be loaded"):
        load_model(path)


def test_a_file_of_tf_keras(tmp_path, tiny_network, tiny_data):
    network = tiny_network(3)
    network.save(tmp_path / "mine.keras")
    loaded = load_model(tmp_path / "mine.keras")
    assert (loaded.name, loaded.input_shape) == ("mine", (8, 8, 1))
    x = tiny_data.test_images.astype("float32") / 255
    np.testing.assert_allclose(loaded.network(x), network(x), atol=1e-6)


KERAS_3 = """
    import sys

    import keras
    import numpy as np

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.layers.Input((8, 8, 1)),
            keras.layers.Conv2D(6, 3, strides=2, activation="relu"),
            keras.layers.Dropout(0.5),
            keras.layers.Flatten(),
            keras.layers.Dense(4, dtype="float16" if "half" in sys.argv[1] else "float32"),
        ]
    )
    model.save(sys.argv[1])
    x = np.random.default_rng(0).random((20, 8, 8, 1)).astype("float32")
    np.save(sys.argv[1] + ".npy", model(x, training=False))
"""


def save_with_keras_3(path):
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment.pop("TF_USE_LEGACY_KERAS", None)
    program = [sys.executable, "-c", textwrap.dedent(KERAS_3), str(path)]
    subprocess.run(program, check=True, env=environment, timeout=300, capture_output=True)


def test_a_file_of_keras_3_is_attacked_in_inference_mode(tmp_path):
    path = tmp_path / "theirs.keras"
    save_with_keras_3(path)
    loaded = load_model(path)
    assert loaded.input_shape == (8, 8, 1)
    assert loaded.what.startswith("Keras 3")
    x = np.random.default_rng(0).random((20, 8, 8, 1)).astype("float32")
    answers = np.load(f"{path}.npy").argmax(1)
    found = evaluate(loaded.model, x, answers, ["pgd20"], eps=0.3)
    # Dropout is off: all clean answers are those of the saved model. And the attack works.
    assert found.natural == 1
    assert found.robust["pgd20"] < 0.5


def test_half_precision_in_keras_3_is_refused(tmp_path):
    path = tmp_path / "half.keras"
    save_with_keras_3(path)
    x = np.zeros((2, 8, 8, 1), np.float32)
    with pytest.raises(ValueError, match="half precision"):
        evaluate(load_model(path).model, x, np.zeros(2, int), [])
