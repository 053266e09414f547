"""Images of one's own: arrays, npz files and folders, and what is told of bad ones."""

import json
import shutil

import numpy as np
import pytest

import tf_lottery
from tests.command_line import complaint
from tf_lottery.data import load
from tf_lottery.data.own import fitted, from_arrays, hold, read_folder, read_npz
from tf_lottery.errors import DataError, UsageError
from tf_lottery.keras import tf
from tf_lottery.main import main
from tf_lottery.options import contents
from tf_lottery.options.settings import DataConfig, settings

RNG = np.random.default_rng(0)


def arrays(train=40, test=20, shape=(6, 5, 3)):
    return {
        "x_train": RNG.integers(0, 256, (train, *shape), np.uint8),
        "y_train": np.arange(train) % 4,
        "x_test": RNG.integers(0, 256, (test, *shape), np.uint8),
        "y_test": np.arange(test) % 4,
    }


def test_arrays_as_they_are():
    given = arrays()
    found = from_arrays(**given)
    np.testing.assert_array_equal(found.train_images, given["x_train"])
    np.testing.assert_array_equal(found.test_labels, given["y_test"])
    assert found.train_labels.dtype == np.int32
    assert found.class_names == ("0", "1", "2", "3")


def test_grey_images_and_columns_of_labels():
    given = arrays(shape=(6, 5))
    given["y_train"] = given["y_train"][:, None]
    found = from_arrays(**given, class_names=("a", "b", "c", "d"))
    assert found.train_images.shape == (40, 6, 5, 1)
    assert found.class_names == ("a", "b", "c", "d")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_are_rounded_to_levels(dtype):
    given = arrays()
    levels = given["x_train"]
    given["x_train"] = (levels / 255).astype(dtype)
    given["x_test"] = given["x_test"] / 255
    np.testing.assert_array_equal(from_arrays(**given).train_images, levels)


def test_labels_from_any_start_and_strings():
    given = arrays()
    kinds = np.array([-7, 3, 100, 101])
    given |= {"y_train": kinds[given["y_train"]], "y_test": kinds[given["y_test"]]}
    found = from_arrays(**given)
    assert found.class_names == ("-7", "3", "100", "101")
    np.testing.assert_array_equal(kinds[found.test_labels], given["y_test"])
    words = np.array(["cat", "ape", "dog", "bee"])
    given |= {"y_train": words[np.arange(40) % 4], "y_test": words[:3]}
    given["x_test"] = given["x_test"][:3]
    found = from_arrays(**given)
    assert found.class_names == ("ape", "bee", "cat", "dog")
    assert found.test_labels.tolist() == [2, 0, 3]


FAULTS = [
    ({"y_train": np.arange(39) % 4}, "y_train: got 39 labels, must be 40, as x_train has"),
    ({"x_train": np.zeros((40, 30))}, r"x_train: got the shape (40, 30), must be (n, height,"),
    ({"x_train": np.zeros((0, 6, 5, 3))}, "x_train: got the shape (0, 6, 5, 3), must be"),
    ({"x_test": np.zeros((20, 6, 6, 3), np.uint8)}, "x_test: got images of (6, 6, 3), must be (6,"),
    ({"x_train": np.zeros((40, 6, 5, 3), int)}, "x_train: got int64, must be uint8, or float in"),
    ({"x_train": np.full((40, 6, 5, 3), 255.0)}, "x_train: got values from 255 to 255, must be in"),
    ({"x_test": np.full((20, 6, 5, 3), np.nan)}, "x_test: got values from nan to nan, must be in"),
    ({"y_train": np.eye(4)[np.arange(40) % 4]}, "must be (n,); of one-hot labels give"),
    ({"y_train": np.arange(40) / 4}, "y_train: got float64, must be integers or strings"),
    ({"y_train": np.array([None] * 40)}, "y_train: got object, must be integers or strings"),
    ({"y_test": np.arange(20)}, "y_test: got the label"),
    ({"y_train": np.zeros(40, int), "y_test": np.zeros(20, int)}, "y_train: got the one label"),
]  # fmt: skip


@pytest.mark.parametrize(("fault", "line"), FAULTS)
def test_what_is_wrong_with_an_array_is_told(fault, line, tmp_path):
    with pytest.raises(DataError) as caught:
        from_arrays(**{**arrays(), **fault})
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
    if not any(np.asarray(array).dtype == object for array in fault.values()):
        np.savez(tmp_path / "set.npz", **{**arrays(), **fault})
        with pytest.raises(DataError) as caught:
            read_npz(str(tmp_path / "set.npz"))
        assert str(caught.value).startswith(f"--dataset=npz:{tmp_path}/set.npz: ")
        assert line in str(caught.value)


def test_class_names_that_are_too_few():
    with pytest.raises(DataError, match="class_names: got 2, must be 4"):
        from_arrays(**arrays(), class_names=("a", "b"))


def test_an_npz_file_is_split_like_any_set(tmp_path):
    given = arrays(train=60)
    path = tmp_path / "set.npz"
    np.savez_compressed(path, **given, other=np.zeros(3))
    data = load(DataConfig(name=f"npz:{path}", validation_examples=8, test_examples=10))
    assert data.name == f"npz:{path}"
    assert (len(data.train_labels), len(data.validation_labels), len(data.test_labels)) == (
        52, 8, 10,
    )  # fmt: skip
    np.testing.assert_array_equal(data.train_images, given["x_train"][data.train_index])
    np.testing.assert_array_equal(data.test_images, given["x_test"][data.test_index])
    # The choice is not the path's.
    path.rename(tmp_path / "moved.npz")
    moved = load(
        DataConfig(name=f"npz:{tmp_path}/moved.npz", validation_examples=8, test_examples=10)
    )
    assert moved.digest == data.digest


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no zip", b"\x93NUMPY", None])
def test_files_that_are_no_npz(content, tmp_path):
    path = tmp_path / "set.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read") as caught:
        read_npz(str(path))
    assert "\n" not in str(caught.value)


def test_a_single_array_and_objects_are_refused(tmp_path):
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(DataError, match=r"one\.npy: cannot be read"):
        read_npz(str(tmp_path / "one.npy"))
    np.savez(tmp_path / "objects.npz", **{**arrays(), "y_test": np.array([{}] * 20)})
    with pytest.raises(DataError, match=r"y_test: holds objects, must be numbers or strings"):
        read_npz(str(tmp_path / "objects.npz"))
    np.savez(tmp_path / "some.npz", x_train=np.zeros(3), labels=np.zeros(3))
    with pytest.raises(DataError, match="lacks y_train, x_test, y_test, it has x_train, labels"):
        read_npz(str(tmp_path / "some.npz"))


def write(path, image, kind="png"):
    path.parent.mkdir(parents=True, exist_ok=True)
    encode = tf.io.encode_png if kind == "png" else tf.io.encode_jpeg
    path.write_bytes(encode(image).numpy())


@pytest.fixture
def folder(tmp_path):
    """Two splits of two classes, 6 and 3 images each, of one size."""
    home = tmp_path / "images"
    for split, count in (("train", 6), ("test", 3)):
        for label, name in enumerate(("bee", "ape")):
            for i in range(count):
                image = np.full((8, 8, 3), 20 * i + 100 * label, np.uint8)
                write(home / split / name / f"{i}.png", image)
    return home


def test_a_folder(folder):
    found = read_folder(str(folder))
    assert found.class_names == ("ape", "bee")
    assert found.train_images.shape == (12, 8, 8, 3)
    # By path: first the apes.
    assert found.train_images[:, 0, 0, 0].tolist() == [100 + 20 * i for i in range(6)] + [
        20 * i for i in range(6)
    ]
    assert found.train_labels.tolist() == [0] * 6 + [1] * 6
    assert found.test_labels.tolist() == [0] * 3 + [1] * 3
    data = load(DataConfig(name=f"folder:{folder}", validation_examples=2))
    assert (data.name, data.class_names) == (f"folder:{folder}", ("ape", "bee"))


def test_images_of_many_sizes_and_kinds(folder):
    write(folder / "train" / "ape" / "wide.png", np.full((8, 20, 1), 7, np.uint8))
    write(folder / "train" / "ape" / "clear.png", np.full((9, 9, 4), 9, np.uint8))
    write(folder / "train" / "ape" / "photo.jpg", np.full((30, 16, 3), 50, np.uint8), "jpeg")
    write(folder / "train" / "ape" / "pale.png", np.full((4, 4, 2), 3, np.uint8))
    with pytest.raises(DataError, match=r"has images of 4x4 and 30x16; --image_size brings them"):
        read_folder(str(folder))
    found = read_folder(str(folder), image_size=6)
    assert found.train_images.shape == (16, 6, 6, 3)
    values = {tuple(image[0, 0]) for image in found.train_images}
    assert {(7, 7, 7), (9, 9, 9), (3, 3, 3)} <= values
    data = load(DataConfig(name=f"folder:{folder}", image_size=6, validation_examples=2))
    assert data.input_shape == (6, 6, 3)


def test_grey_images_stay_grey(tmp_path):
    for split in ("train", "val"):
        for name in "ab":
            write(tmp_path / split / name / "1.png", np.full((5, 5, 1), 4, np.uint8))
            write(tmp_path / split / name / "2.png", np.full((5, 5, 1), 4, np.uint8))
    assert read_folder(str(tmp_path)).train_images.shape == (4, 5, 5, 1)


def test_the_middle_of_an_image():
    image = np.zeros((4, 8, 1), np.uint8)
    image[:, 2:6] = 200
    np.testing.assert_array_equal(fitted(image, 2), np.full((2, 2, 1), 200))
    grown = fitted(np.arange(4, dtype=np.uint8).reshape(2, 2, 1) * 60, 4)
    assert grown.shape == (4, 4, 1)
    assert (grown[0, 0], grown[-1, -1]) == (0, 180)


def test_broken_files_are_named_and_left_out_on_request(folder):
    for i in range(5):
        (folder / "train" / "bee" / f"broken{i}.png").write_bytes(b"\x89PNG no image")
    (folder / "train" / "bee" / "empty.jpg").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        read_folder(str(folder))
    line = str(caught.value)
    assert f"cannot decode {folder}/train/bee/broken0.png" in line
    assert "and 3 more; --skip_broken_images leaves such files out" in line
    assert len(read_folder(str(folder), skip_broken=True).train_labels) == 12


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda home: None, "there is no such folder"),
        (lambda home: home.mkdir(), "has images in none of its folders; needed are train/<class>"),
        (
            lambda home: write(home / "train" / "a" / "1.png", np.zeros((4, 4, 3), np.uint8)),
            "has images in train; needed are train/<class> and test/<class>",
        ),
        (
            lambda home: [
                write(home / split / "a" / "1.png", np.zeros((4, 4, 3), np.uint8))
                for split in ("train", "test")
            ],
            "y_train: got the one label 'a', must be two or more",
        ),
    ],
)
def test_folders_without_images_to_learn_from(make, line, tmp_path):
    make(tmp_path / "set")
    with pytest.raises(DataError) as caught:
        read_folder(str(tmp_path / "set"))
    assert line in str(caught.value)
    assert str(caught.value).startswith(f"--dataset=folder:{tmp_path}/set: ")


def test_a_run_on_a_file_of_ones_own(tmp_path, capsys):
    given = arrays(train=80, test=20, shape=(8, 8))
    path = tmp_path / "set.npz"
    np.savez(path, **given)
    words = [
        f"--dataset=npz:{path}", "--width_multiplier=0.05", "--epochs=1", "--batch_size=16",
        "--validation_examples=16", "--compare=dense,random", "--eps=0.1", "--steps=1",
        "--attacks=pgd2", f"--workdir={tmp_path}/w",
    ]  # fmt: skip
    assert main(words) == 0
    assert f"npz:{path}" in (tmp_path / "w" / "report.md").read_text().replace("\\", "")
    document = json.loads((tmp_path / "w" / "results.json").read_text())
    assert len(document["settings"]["data"]["content"]) == 16
    # Other images in the same file are another run.
    np.savez(path, **arrays(train=80, test=20, shape=(8, 8)))
    contents._content.cache_clear()
    line = complaint(capsys, 1, words)
    assert "holds the results of other settings (data.content" in line


def test_what_is_in_the_files_is_in_the_keys(folder, tmp_path):
    name = f"folder:{folder}"
    before = DataConfig(name=name)
    assert before.content == settings(before)["content"] != ""
    assert "content" not in settings(DataConfig(name="mnist"))
    shutil.copytree(folder, tmp_path / "copy")
    assert contents.content(f"folder:{tmp_path}/copy") == before.content
    (tmp_path / "copy" / "train" / "ape" / "0.png").rename(tmp_path / "copy" / "train" / "0.png")
    contents._content.cache_clear()
    assert contents.content(f"folder:{tmp_path}/copy") != before.content
    assert contents.content(f"npz:{tmp_path}/none") == ""


def test_bad_names(tmp_path, capsys):
    with pytest.raises(UsageError, match="npz:FILE or folder:DIR"):
        DataConfig(name="zip:file")
    line = complaint(capsys, 1, [f"--dataset=npz:{tmp_path}/none.npz", f"--workdir={tmp_path}/w"])
    assert f"--dataset=npz:{tmp_path}/none.npz: cannot be read" in line
    assert not (tmp_path / "w").exists()


def test_arrays_are_held_under_a_name_of_what_is_in_them():
    given = arrays()
    name = hold(tuple(given.values()))
    assert name == hold(list(given.values())) == hold(tuple(map(np.array, given.values())))
    assert name.startswith("arrays:")
    assert hold("mnist") == "mnist"
    data = load(DataConfig(name=name, validation_examples=4))
    assert (data.name, len(data.test_labels)) == (name, 20)
    given["x_train"][0, 0, 0, 0] ^= 1
    assert hold(tuple(given.values())) != name
    with pytest.raises(DataError, match=r"arrays:00: these arrays are not in this process"):
        load(DataConfig(name="arrays:00"))


@pytest.mark.parametrize("batch", [0, 7])
def test_datasets_of_tensorflow(batch):
    given = arrays()
    pairs = [
        tf.data.Dataset.from_tensor_slices((given[f"x_{part}"], given[f"y_{part}"]))
        for part in ("train", "test")
    ]
    if batch:
        pairs = [pair.batch(batch) for pair in pairs]
    assert hold(tuple(pairs)) == hold(tuple(given.values()))


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (3, "data: must be (x_train, y_train, x_test, y_test), two tf.data.Dataset"),
        ((1, 2, 3), "got tuple of 3 parts"),
        (
            (tf.data.Dataset.range(3), tf.data.Dataset.range(3)),
            "data: the elements of a tf.data.Dataset must be (image, label)",
        ),
        (
            tuple(
                tf.data.Dataset.from_tensor_slices((np.zeros((0, 4, 4, 1)), np.zeros(0, int)))
                for _ in range(2)
            ),
            "data: a tf.data.Dataset has no elements",
        ),
    ],
)
def test_data_that_is_none(data, line):
    with pytest.raises(DataError) as caught:
        hold(data)
    assert line in str(caught.value)


def test_find_and_train_on_arrays(tmp_path):
    given = arrays(train=80, test=20, shape=(8, 8))
    data = tuple(given.values())
    config = tf_lottery.lottery_config(
        width_multiplier=0.05, epochs=1, search_epochs=1, batch_size=16, validation_examples=16,
        eps=0.1, steps=1, validation_attack="pgd2",
    )  # fmt: skip
    ticket = tf_lottery.find_ticket(config, tmp_path, data=data)
    assert ticket.dataset == hold(data)
    assert ticket.spec.num_classes == 4
    trained = tf_lottery.train_ticket(ticket, config, tmp_path, data=data)
    assert trained.network.output_shape == (None, 4)
    assert len(trained.history) == 1
