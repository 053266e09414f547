"""Choice of training, validation and test examples."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from tf_lottery.data import load, sources, splits
from tf_lottery.errors import DataError, UsageError
from tf_lottery.options.settings import DataConfig

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "tfds"


@pytest.fixture
def raw(monkeypatch):
    """100 training and 30 test images of 3 classes whose pixels tell which they are."""
    rng = np.random.default_rng(3)
    data = sources.RawData(
        np.arange(100, dtype=np.uint8).repeat(2 * 3 * 2).reshape(100, 2, 3, 2),
        rng.choice(3, 100, p=(0.6, 0.3, 0.1)).astype(np.int32),
        np.arange(30, dtype=np.uint8).repeat(2 * 3 * 2).reshape(30, 2, 3, 2),
        rng.choice(3, 30).astype(np.int32),
        ("a", "b", "c"),
    )
    monkeypatch.setattr(sources, "read", lambda name, data_dir: data)
    return data


def pixel(images):
    return images[:, 0, 0, 0].astype(int)


class TestLoad:
    def test_every_training_image_is_in_one_part(self, raw):
        data = load(DataConfig("toy", validation_examples=17))
        assert len(data.validation_labels) == 17
        assert len(data.train_labels) == 83
        both = np.concatenate([data.train_index, data.validation_index])
        assert sorted(both) == list(range(100))
        assert sorted(data.test_index) == list(range(30))

    def test_images_labels_and_positions_stay_together(self, raw):
        data = load(DataConfig("toy", train_examples=40, test_examples=20))
        for part, labels in (
            ("train", raw.train_labels),
            ("validation", raw.train_labels),
            ("test", raw.test_labels),
        ):
            index = getattr(data, f"{part}_index")
            assert index.dtype == np.int64
            np.testing.assert_array_equal(pixel(getattr(data, f"{part}_images")), index)
            np.testing.assert_array_equal(getattr(data, f"{part}_labels"), labels[index])

    def test_attributes(self, raw):
        data = load(DataConfig("toy"))
        assert data.input_shape == (2, 3, 2)
        assert data.num_classes == 3
        assert data.name == "toy"
        assert data.train_images.dtype == np.uint8
        with pytest.raises(ValueError, match="read-only"):
            data.train_images[0] = 0
        with pytest.raises(dataclasses.FrozenInstanceError):
            data.name = "other"

    def test_default_validation_is_a_tenth(self, raw):
        assert len(load(DataConfig("toy")).validation_labels) == 10

    def test_the_version_changes_no_split(self, raw):
        assert load(DataConfig("toy:1.0.0")).digest == load(DataConfig("toy")).digest

    def test_another_name_another_split(self, raw):
        ours, theirs = load(DataConfig("toy")), load(DataConfig("toy/other"))
        assert set(ours.validation_index) != set(theirs.validation_index)

    def test_statistics_are_of_the_whole_training_split(self, raw):
        data = load(DataConfig("toy", train_examples=30))
        pixels = raw.train_images / 255
        assert data.mean == tuple(np.round(pixels.mean(axis=(0, 1, 2)), 4))
        assert data.std == tuple(np.round(pixels.std(axis=(0, 1, 2)), 4))

    def test_cifar10_gets_the_papers_constants(self, raw):
        data = load(DataConfig("cifar10:3.0.2"))
        assert data.mean == (0.4914, 0.4822, 0.4465)
        assert data.std == (0.2023, 0.1994, 0.2010)

    @pytest.mark.parametrize(
        ("field", "most"),
        [("validation_examples", 97), ("train_examples", 90), ("test_examples", 30)],
    )
    def test_too_many(self, raw, field, most):
        load(DataConfig("toy", **{field: most}))
        with pytest.raises(UsageError, match=f"--{field}: got {most + 1}, .*at most {most}") as e:
            load(DataConfig("toy", **{field: most + 1}))
        assert e.value.flag == field

    def test_digest_follows_every_array(self, raw):
        data = load(DataConfig("toy"))
        assert len(data.digest) == 64
        seen = {data.digest}
        for field in dataclasses.fields(data):
            array = getattr(data, field.name)
            if isinstance(array, np.ndarray):
                changed = array.copy()
                changed.flat[-1] += 1
                seen.add(dataclasses.replace(data, **{field.name: changed}).digest)
        assert len(seen) == 10


@pytest.fixture
def squares(monkeypatch):
    """Random images of 12 x 12 pixels."""
    rng = np.random.default_rng(5)
    images = [rng.integers(0, 256, (n, 12, 12, 2)).astype(np.uint8) for n in (60, 20)]
    labels = [(np.arange(n) % 3).astype(np.int32) for n in (60, 20)]
    data = sources.RawData(images[0], labels[0], images[1], labels[1], ("a", "b", "c"))
    monkeypatch.setattr(sources, "read", lambda name, data_dir: data)
    return data


class TestImageSize:
    def test_every_part_is_shrunk_and_chosen_as_before(self, squares):
        def blocks(images):
            return np.rint(images.reshape(-1, 4, 3, 4, 3, 2).mean((2, 4)))

        whole = load(DataConfig("toy", train_examples=30))
        small = load(DataConfig("toy", train_examples=30, image_size=4))
        assert small.input_shape == (4, 4, 2)
        for part in ("train", "validation", "test"):
            for what in ("index", "labels"):
                name = f"{part}_{what}"
                np.testing.assert_array_equal(getattr(small, name), getattr(whole, name))
            images = getattr(small, f"{part}_images")
            assert images.dtype == np.uint8
            np.testing.assert_array_equal(images, blocks(getattr(whole, f"{part}_images")))
        assert small.digest != whole.digest

    @pytest.mark.parametrize("name", ["toy", "cifar10"])
    def test_statistics_are_of_the_shrunk_training_split(self, squares, name):
        """The paper's constants are those of CIFAR-10's own size."""
        data = load(DataConfig(name, train_examples=30, image_size=6))
        pixels = np.rint(squares.train_images.reshape(-1, 6, 2, 6, 2, 2).mean((2, 4))) / 255
        assert data.mean == tuple(np.round(pixels.mean(axis=(0, 1, 2)), 4))
        assert data.std == tuple(np.round(pixels.std(axis=(0, 1, 2)), 4))

    def test_the_own_size_gives_the_own_images(self, squares):
        assert load(DataConfig("toy", image_size=12)).digest == load(DataConfig("toy")).digest

    def test_larger_ones_are_refused(self, squares):
        with pytest.raises(UsageError, match=r"--image_size: got 13, .*from 4 to 12") as caught:
            load(DataConfig("toy", image_size=13))
        assert caught.value.flag == "image_size"

    def test_what_is_not_square_is_refused(self, raw):
        with pytest.raises(UsageError, match=r"--image_size: got 4, .* 2x3, not square"):
            load(DataConfig("toy", image_size=4))


class TestChoices:
    def test_validation_grows_by_its_end(self):
        large = splits.validation_positions(1000, 500, 10, "x")
        np.testing.assert_array_equal(splits.validation_positions(1000, 120, 10, "x"), large[:120])
        assert len(set(large)) == 500
        assert abs(np.mean(large) - 499.5) < 50  # from all over the split

    def test_a_set_too_small_to_hold_out(self):
        assert len(splits.validation_positions(4, 0, 3, "x")) == 1
        with pytest.raises(DataError, match="3 training images of 3 classes"):
            splits.validation_positions(3, 0, 3, "x")

    def test_training_subsets_nest_and_are_balanced(self):
        labels = np.random.default_rng(0).choice(4, 200, p=(0.4, 0.3, 0.25, 0.05))
        have = np.bincount(labels)
        before = set()
        for examples in range(1, 201):
            chosen = splits.balanced_positions(labels, examples, "x")
            assert len(chosen) == len(set(chosen)) == examples
            assert np.all(np.diff(chosen) > 0)
            assert before <= set(chosen)
            before = set(chosen)
            counts = np.bincount(labels[chosen], minlength=4)
            open_classes = counts < have
            if open_classes.any():
                assert counts.max() - counts[open_classes].min() <= 1
        np.testing.assert_array_equal(splits.balanced_positions(labels, 0, "x"), np.arange(200))

    def test_the_subset_is_random_within_a_class(self):
        chosen = splits.balanced_positions(np.zeros(1000, int), 500, "x")
        assert abs(np.mean(chosen) - 499.5) < 50

    def test_test_images_grow_by_their_end(self):
        everything = splits.first_test_positions(50, 0, "x")
        assert sorted(everything) == list(range(50))
        assert everything.tolist() != list(range(50))
        np.testing.assert_array_equal(splits.first_test_positions(50, 7, "x"), everything[:7])

    def test_known_values(self):
        """Pins the splits: a change here changes every published number."""
        assert splits.validation_positions(45, 5, 2, "pin").tolist() == [19, 37, 8, 38, 2]
        assert splits.balanced_positions(np.arange(20) % 2, 4, "pin").tolist() == [1, 4, 10, 19]
        assert splits.first_test_positions(30, 4, "pin").tolist() == [0, 2, 14, 16]


def test_statistics_of_a_constant_channel():
    images = np.zeros((5, 2, 2, 2), np.uint8)
    images[..., 1] = np.random.default_rng(0).integers(0, 256, (5, 2, 2))
    mean, std = splits.channel_statistics(images)
    assert mean == (0.0, round(float(images[..., 1].mean() / 255), 4))
    assert std == (1.0, round(float((images[..., 1] / 255).std()), 4))


def test_digits_end_to_end():
    data = load(DataConfig("digits", train_examples=200, test_examples=100))
    assert data.train_images.shape == (200, 8, 8, 1)
    assert np.bincount(data.train_labels).tolist() == [20] * 10
    assert data.validation_images.shape == (143, 8, 8, 1)
    assert data.test_images.shape == (100, 8, 8, 1)
    assert len(data.mean) == len(data.std) == 1
    again = load(DataConfig("digits", train_examples=200, test_examples=100))
    assert again.digest == data.digest


@pytest.mark.skipif(not (SHARED / "cifar10").is_dir(), reason="no prepared CIFAR-10")
def test_real_cifar10():
    data = load(DataConfig("cifar10", data_dir=str(SHARED)))
    assert data.train_images.shape == (45000, 32, 32, 3)
    assert data.validation_images.shape == (5000, 32, 32, 3)
    assert data.test_images.shape == (10000, 32, 32, 3)
    assert data.class_names[:3] == ("airplane", "automobile", "bird")
    both = np.concatenate([data.train_labels, data.validation_labels])
    assert np.bincount(both).tolist() == [5000] * 10
    mean, _ = splits.channel_statistics(data.train_images)
    np.testing.assert_allclose(mean, data.mean, atol=6e-3)
