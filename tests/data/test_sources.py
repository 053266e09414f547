"""Reading data sets: digits, prepared and unprepared sets of tensorflow-datasets."""

import importlib.resources
import importlib.util
import os
import socket
import sys
from pathlib import Path

import numpy as np
import pytest

from tf_lottery.data import sources
from tf_lottery.errors import DataError, UsageError

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "tfds"


@pytest.fixture
def offline(monkeypatch):
    """No name resolves; and TFDS's undeclared dependency is there."""
    asked = []

    def refuse(host, *args, **kwargs):
        asked.append(host)
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for variable in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.upper(), raising=False)
    if importlib.util.find_spec("importlib_resources") is None:
        monkeypatch.setitem(sys.modules, "importlib_resources", importlib.resources)
    return asked


@pytest.fixture(scope="module")
def make_set():
    """Makes and registers a little set: 8 images a split."""
    import tensorflow_datasets as tfds

    def make(name, *, image=None, features=None, splits=("train", "test"), fail=None, value=None):
        image = image or tfds.features.Image(shape=(4, 5, 3))
        features = features or {"image": image, "label": tfds.features.ClassLabel(num_classes=2)}

        def info(self):
            dictionary = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, features=dictionary)

        def split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in splits}

        def generate_examples(self, split):
            for i in range(8):
                if fail and i == 4:
                    raise fail
                pixel = i + 100 * (split == "test")
                example = {"image": np.full((4, 5, 3), pixel, np.uint8), "label": i % 2}
                yield i, value(i) if value else example

        camel = "".join(part.title() for part in name.split("_"))
        return type(
            camel,
            (tfds.core.GeneratorBasedBuilder,),
            {
                "VERSION": tfds.core.Version("1.0.0"),
                "__module__": __name__,
                "pkg_dir_path": Path(__file__).parent,
                "_info": info,
                "_split_generators": split_generators,
                "_generate_examples": generate_examples,
            },
        )

    return make


def one_line(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


class TestDigits:
    def test_matches_scikit_learn(self):
        from sklearn.datasets import load_digits

        bunch = load_digits()
        raw = sources.read("digits")
        assert raw.train_images.shape == (1437, 8, 8, 1)
        assert raw.test_images.shape == (360, 8, 8, 1)
        assert raw.train_images.dtype == np.uint8
        assert raw.train_labels.dtype == raw.test_labels.dtype == np.int32
        assert raw.class_names == tuple("0123456789")

        def pairs(images, labels):
            rows = np.concatenate([images.reshape(len(images), -1), labels[:, None]], axis=1)
            return sorted(map(tuple, rows.astype(int)))

        ours = pairs(
            np.concatenate([raw.train_images, raw.test_images]),
            np.concatenate([raw.train_labels, raw.test_labels]),
        )
        expected = [[int(v * 255 / 16 + 0.5) for v in image.ravel()] for image in bunch.images]
        assert ours == pairs(np.array(expected), bunch.target)
        assert raw.train_images.max() == 255

    def test_the_test_split_is_stratified(self):
        raw = sources.read("digits")
        test = np.bincount(raw.test_labels, minlength=10)
        both = test + np.bincount(raw.train_labels, minlength=10)
        assert test.sum() == 360
        assert np.all(np.abs(test - both * 360 / 1797) < 1)

    def test_is_the_same_every_time(self):
        np.testing.assert_array_equal(
            sources.read("digits").test_images[:9], sources.read("digits").test_images[:9]
        )


class TestNames:
    def test_a_typo_gets_suggestions(self, offline):
        with pytest.raises(UsageError) as error:
            sources.read("cifr10")
        text = one_line(error)
        assert error.value.flag == "dataset"
        assert "'cifr10'" in text
        assert "did you mean cifar10 or" in text

    def test_digits_is_suggested_too(self, offline):
        with pytest.raises(UsageError, match="did you mean digits"):
            sources.read("digit")

    def test_nonsense_gets_no_suggestion(self, offline):
        with pytest.raises(UsageError) as error:
            sources.read("zzqqzzqq")
        assert "did you mean" not in one_line(error)
        assert "digits" in one_line(error)
        assert offline == []

    @pytest.mark.parametrize(("name", "reason"), [("cifar10:9.9.9", "9.9.9"), ("mnist/bar", "bar")])
    def test_unknown_version_or_configuration(self, name, reason, offline):
        with pytest.raises(UsageError) as error:
            sources.read(name)
        assert one_line(error).startswith(f"--dataset: got '{name}': ")
        assert reason in one_line(error).partition(": got ")[2].partition(": ")[2]


class TestOffline:
    def test_names_the_folder_and_leaves_nothing(self, offline, tmp_path, capfd, caplog):
        folder = tmp_path / "not" / "there"
        with pytest.raises(DataError) as error:
            sources.read("cifar10", str(folder))
        text = one_line(error)
        for part in ("cifar10/3.0.2", f"--data_dir={folder}", "no connection to", "go online"):
            assert part in text
        assert len(offline) == 1  # asked once: no retries
        assert list(tmp_path.iterdir()) == []
        assert capfd.readouterr().out == ""
        assert caplog.records == []

    def test_a_folder_without_the_set_is_left_as_it_was(self, offline, tmp_path):
        other = tmp_path / "downloads" / "other"
        other.mkdir(parents=True)
        with pytest.raises(DataError, match="is not in --data_dir"):
            sources.read("mnist", str(tmp_path))
        assert sorted(tmp_path.rglob("*")) == [tmp_path / "downloads", other]

    def test_without_data_dir_says_where_it_looked(self, offline, tmp_path, monkeypatch):
        import tensorflow_datasets as tfds

        monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path / "home"))
        with pytest.raises(DataError) as error:
            sources.read("cifar10")
        assert f"is not in {tmp_path / 'home'} and" in one_line(error)
        assert list(tmp_path.iterdir()) == []

    def test_a_missing_package_is_named(self, offline, tmp_path, monkeypatch, make_set):
        builder = make_set("package_set")

        def prepare(self, **kwargs):
            raise ModuleNotFoundError("No module named 'pydub'", name="pydub")

        monkeypatch.setattr(builder, "download_and_prepare", prepare)
        with pytest.raises(DataError, match=r"pip install pydub$"):
            sources.read("package_set", str(tmp_path))

    def test_the_set_is_checked_before_any_download(self, offline, tmp_path):
        with pytest.raises(DataError, match=r"not an image classification set.*text, label"):
            sources.read("imdb_reviews", str(tmp_path))
        with pytest.raises(DataError, match="no fixed size"):
            sources.read("imagenet2012", str(tmp_path))
        assert offline == []

    def test_unreachable_wants_every_host_to_fail(self, monkeypatch):
        import requests

        def head(url, timeout):
            assert 0 < timeout < 10
            if "dead" in url:
                raise requests.exceptions.ConnectionError(url)

        monkeypatch.setattr(requests, "head", head)
        assert sources._unreachable([]) == ""
        assert "dead.example" in sources._unreachable(["https://dead.example/a"])
        assert sources._unreachable(["https://dead.example/a", "https://up.example/b"]) == ""


class TestPreparing:
    def test_prepares_then_reads(self, offline, tmp_path, make_set, capfd):
        make_set("tiny_set")
        for _ in range(2):  # the second time from disk
            raw = sources.read("tiny_set", str(tmp_path))
            assert raw.train_images.shape == raw.test_images.shape == (8, 4, 5, 3)
            assert raw.train_images.dtype == np.uint8
            assert raw.train_labels.dtype == np.int32
            pixels = raw.train_images[:, 0, 0, 0]
            assert sorted(pixels) == list(range(8))
            np.testing.assert_array_equal(raw.train_labels, pixels % 2)
            assert sorted(raw.test_images[:, 3, 4, 2]) == list(range(100, 108))
            assert raw.class_names == ("0", "1")
        assert "%" not in capfd.readouterr().err  # no progress bars

    def test_a_failure_half_way_leaves_nothing(self, offline, tmp_path, make_set):
        make_set("half_set", fail=RuntimeError("disk full\nand more"))
        with pytest.raises(DataError) as error:
            sources.read("half_set", str(tmp_path / "new"))
        assert "cannot be prepared (disk full)" in one_line(error)
        assert list(tmp_path.iterdir()) == []

    def test_validation_stands_in_for_test(self, offline, tmp_path, make_set):
        make_set("val_set", splits=("train", "validation"))
        assert len(sources.read("val_set", str(tmp_path)).test_labels) == 8

    def test_missing_splits(self, offline, tmp_path, make_set):
        make_set("lone_set", splits=("train",))
        with pytest.raises(DataError, match="has the splits train; needed are train and test"):
            sources.read("lone_set", str(tmp_path))

    def test_the_right_names_with_other_types(self, offline, tmp_path, make_set):
        import tensorflow_datasets as tfds

        features = {"image": tfds.features.Tensor(shape=(4, 5, 3), dtype=np.uint8)}
        make_set("tensor_set", features={**features, "label": tfds.features.Text()})
        with pytest.raises(DataError) as error:
            sources.read("tensor_set", str(tmp_path))
        text = one_line(error)
        assert "its image and label are Tensor and Text; needed are Image and ClassLabel" in text

    def test_other_image_types(self, offline, tmp_path, make_set):
        import tensorflow_datasets as tfds

        image = tfds.features.Image(shape=(4, 5, 1), dtype=np.uint16)
        make_set("deep_set", image=image)
        with pytest.raises(DataError, match=r"uint16.*uint8"):
            sources.read("deep_set", str(tmp_path))

    def test_hidden_labels(self, offline, tmp_path, make_set):
        make_set(
            "hidden_set", value=lambda i: {"image": np.zeros((4, 5, 3), np.uint8), "label": -1}
        )
        with pytest.raises(DataError, match="train split has no labels"):
            sources.read("hidden_set", str(tmp_path))

    def test_a_damaged_file(self, offline, tmp_path, make_set):
        make_set("torn_set")
        sources.read("torn_set", str(tmp_path))
        (file,) = (tmp_path / "torn_set" / "1.0.0").glob("*-train.*")
        os.truncate(file, file.stat().st_size - 7)
        with pytest.raises(DataError, match=r"cannot read .*torn_set.*delete that folder") as error:
            sources.read("torn_set", str(tmp_path))
        one_line(error)


@pytest.mark.skipif(not (SHARED / "mnist").is_dir(), reason="no prepared MNIST")
def test_real_mnist(offline):
    raw = sources.read("mnist", str(SHARED))
    assert raw.train_images.shape == (60000, 28, 28, 1)
    assert raw.test_images.shape == (10000, 28, 28, 1)
    # The published class counts of MNIST.
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(raw.train_labels).tolist() == counts
    assert offline == []
