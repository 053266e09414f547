"""Batches for training and evaluation."""

import numpy as np
import pytest

from tf_lottery.data import (
    evaluation_batches,
    even_batch_size,
    steps_per_epoch,
    training_batches,
)
from tf_lottery.data.augmentation import crop_and_flip, draw
from tf_lottery.errors import UsageError
from tf_lottery.keras import tf

N, BATCH = 23, 5
IMAGES = np.random.default_rng(0).integers(0, 256, (N, 8, 8, 2)).astype(np.uint8)
LABELS = np.random.default_rng(1).integers(0, 10, N).astype(np.int64)


def batches(**settings):
    settings = {"batch_size": BATCH, "epochs": 3, "order_seed": 4} | settings
    return list(training_batches(IMAGES, LABELS, **settings).as_numpy_iterator())


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])


def test_no_tuning_thread_delays_the_end_of_a_training():
    training = training_batches(IMAGES, LABELS, batch_size=BATCH, epochs=1, order_seed=0)
    for dataset in (training, evaluation_batches(IMAGES, LABELS, BATCH)):
        assert dataset.options().autotune.enabled is False


class TestTraining:
    def test_shapes_and_types(self):
        dataset = training_batches(
            IMAGES, LABELS, batch_size=BATCH, epochs=3, order_seed=4, augmentation_seed=1
        )
        assert dataset.element_spec == {
            "image": tf.TensorSpec((BATCH, 8, 8, 2), tf.float32),
            "label": tf.TensorSpec((BATCH,), tf.int32),
            "index": tf.TensorSpec((BATCH,), tf.int32),
            "epoch": tf.TensorSpec((BATCH,), tf.int32),
        }
        assert dataset.cardinality().numpy() == 3 * 4

    def test_pixels_and_labels_belong_to_the_index(self):
        for batch in batches():
            np.testing.assert_array_equal(
                batch["image"], IMAGES[batch["index"]].astype(np.float32) / np.float32(255)
            )
            np.testing.assert_array_equal(batch["label"], LABELS[batch["index"]])

    def test_replays_come_in_a_row_and_go_on_wherever_one_begins(self):
        whole = batches(replays=3, epochs=7)
        assert len(whole) == 7 * 4
        plain = batches(epochs=3)  # passes: 28 replays of 3 are 9 batches and a third of one
        assert_same(whole, [each for each in plain for _ in range(3)][:28])
        assert [int(batch["epoch"][0]) for batch in whole[::12]] == [0, 1, 2]
        for done in (0, 1, 2, 3, 11, 12, 13, 27):
            epoch, step = divmod(done, 4)
            rest = batches(replays=3, epochs=7, first_epoch=epoch, first_step=step)
            assert_same(rest, whole[done:])
        dataset = training_batches(
            IMAGES, LABELS, batch_size=BATCH, epochs=7, order_seed=4, first_epoch=2, replays=3
        )
        assert dataset.cardinality().numpy() == 5 * 4

    def test_an_epoch_is_a_shuffle_without_repetition(self):
        found = batches(epochs=40)
        assert [b["epoch"].tolist() for b in found] == [
            [epoch] * BATCH for epoch in range(40) for _ in range(4)
        ]
        orders = [np.concatenate([b["index"] for b in found[4 * e : 4 * e + 4]]) for e in range(40)]
        dropped = [set(range(N)) - set(order) for order in orders]
        assert {len(missing) for missing in dropped} == {N % BATCH}  # so nothing is repeated
        assert len({tuple(order) for order in orders}) == 40
        assert set.union(*dropped) == set(range(N))  # nobody is always dropped

    @pytest.mark.parametrize("augmentation_seed", [None, 9])
    def test_resuming_gives_the_same_batches(self, augmentation_seed):
        whole = batches(epochs=4, augmentation_seed=augmentation_seed)
        for k in range(5):
            rest = batches(epochs=4, first_epoch=k, augmentation_seed=augmentation_seed)
            assert_same(rest, whole[4 * k :])

    def test_resumed_and_finished_cardinality(self):
        def cardinality(first_epoch):
            return training_batches(
                IMAGES, LABELS, batch_size=BATCH, epochs=3, order_seed=0, first_epoch=first_epoch
            ).cardinality()

        assert [int(cardinality(k)) for k in (0, 2, 3, 5)] == [12, 4, 0, 0]

    def test_the_seeds_are_independent(self):
        plain, augmented = batches(), batches(augmentation_seed=1)
        other_order = batches(order_seed=5, augmentation_seed=1)
        other_pixels = batches(augmentation_seed=2)
        for key in ("label", "index", "epoch"):  # augmentation leaves the order alone
            np.testing.assert_array_equal([b[key] for b in plain], [b[key] for b in augmented])
            np.testing.assert_array_equal([b[key] for b in plain], [b[key] for b in other_pixels])
        assert any(
            np.any(a["index"] != b["index"]) for a, b in zip(plain, other_order, strict=True)
        )
        assert any(np.any(a["image"] != b["image"]) for a, b in zip(plain, augmented, strict=True))
        assert any(
            np.any(a["image"] != b["image"]) for a, b in zip(augmented, other_pixels, strict=True)
        )

        def pixels(found):
            """(epoch, index) -> image; what an order must not change."""
            return {
                (int(b["epoch"][0]), int(i)): image
                for b in found
                for i, image in zip(b["index"], b["image"], strict=True)
            }

        ours, theirs = pixels(augmented), pixels(other_order)
        shared = ours.keys() & theirs.keys()
        assert len(shared) > 30
        for key in shared:
            np.testing.assert_array_equal(ours[key], theirs[key])

    def test_augmentation_follows_the_epochs_table(self):
        for batch in batches(augmentation_seed=7):
            table = draw(7, batch["epoch"][0], N, IMAGES.shape[1:]).numpy()
            expected = crop_and_flip(IMAGES[batch["index"]], table[batch["index"]])
            np.testing.assert_array_equal(batch["image"], expected.numpy() / np.float32(255))

    def test_batch_size(self):
        assert steps_per_epoch(23, 5) == 4
        assert steps_per_epoch(20, 5) == 4
        assert len(batches(batch_size=N)) == 3
        with pytest.raises(UsageError, match="--batch_size: got 24, must be at most 23"):
            batches(batch_size=N + 1)

    def test_no_function_holds_a_copy_of_the_images(self):
        images = np.zeros((2000, 16, 16, 3), np.uint8)
        dataset = training_batches(
            images, np.zeros(2000), batch_size=10, epochs=1, order_seed=0, augmentation_seed=0
        )
        graph = tf.compat.v1.GraphDef.FromString(dataset._as_serialized_graph().numpy())
        # The functions get the images as an argument; only the top level names them, once.
        assert graph.library.ByteSize() < images.nbytes / 10
        assert graph.ByteSize() < 1.2 * images.nbytes


class TestEvaluation:
    @pytest.mark.parametrize("batch_size", [1, 5, 22, 23, 24, 60])
    def test_every_image_once_in_order(self, batch_size):
        dataset = evaluation_batches(IMAGES, LABELS, batch_size)
        assert dataset.element_spec == {
            "image": tf.TensorSpec((batch_size, 8, 8, 2), tf.float32),
            "label": tf.TensorSpec((batch_size,), tf.int32),
            "index": tf.TensorSpec((batch_size,), tf.int32),
            "weight": tf.TensorSpec((batch_size,), tf.float32),
        }
        assert int(dataset.cardinality()) == -(-N // batch_size)
        found = list(dataset.as_numpy_iterator())
        joined = {key: np.concatenate([b[key] for b in found]) for key in found[0]}
        padding = len(joined["weight"]) - N
        assert 0 <= padding < batch_size
        assert joined["weight"].tolist() == [1.0] * N + [0.0] * padding
        expected = np.concatenate([np.arange(N), np.full(padding, N - 1)])
        np.testing.assert_array_equal(joined["index"], expected)
        np.testing.assert_array_equal(joined["label"], LABELS[expected])
        np.testing.assert_array_equal(
            joined["image"], IMAGES[expected].astype(np.float32) / np.float32(255)
        )

    def test_no_images(self):
        with pytest.raises(ValueError, match="no images"):
            evaluation_batches(IMAGES[:0], LABELS[:0], 5)


@pytest.mark.parametrize("num_examples", [1, 9, 249, 250, 251, 287, 360, 501, 1000, 9999])
def test_even_batch_size(num_examples):
    size = even_batch_size(num_examples)
    number = -(-num_examples // 250)
    assert size <= 250
    assert -(-num_examples // size) == number  # no more batches than of 250
    assert number * size - num_examples < number  # less than one image a batch is padding


@pytest.mark.parametrize("parts", [2, 3, 8])
@pytest.mark.parametrize("num_examples", [1, 9, 250, 287, 2001])
def test_even_batch_size_for_parts(num_examples, parts):
    size = even_batch_size(num_examples, parts=parts)
    number = -(-num_examples // (250 * parts))
    assert size % parts == 0
    assert size // parts <= 250
    assert -(-num_examples // size) <= number
    assert number * size - num_examples < number * parts


class TestParts:
    """Batches cut for several devices are those of one, in the same order."""

    def test_training(self):
        whole = batches(batch_size=6, augmentation_seed=1)
        cut = batches(batch_size=6, augmentation_seed=1, parts=3, mine=range(1, 3))
        assert len(cut) == 2 * len(whole)
        for number, part in enumerate(cut):
            batch, place = whole[number // 2], 1 + number % 2
            assert part.keys() == batch.keys()
            for key in part:
                np.testing.assert_array_equal(part[key], batch[key][2 * place : 2 * place + 2])

    def test_evaluation_with_padding(self):
        whole = list(evaluation_batches(IMAGES, LABELS, 8).as_numpy_iterator())
        assert whole[-1]["weight"].tolist() == [1] * 7 + [0]
        for mine in (range(0, 1), range(3, 4), range(1, 3)):
            cut = evaluation_batches(IMAGES, LABELS, 8, parts=4, mine=mine)
            expected = [
                {key: value[2 * place : 2 * place + 2] for key, value in batch.items()}
                for batch in whole
                for place in mine
            ]
            assert_same(list(cut.as_numpy_iterator()), expected)

    def test_the_number_of_batches_is_known(self):
        dataset = training_batches(
            IMAGES, LABELS, batch_size=6, epochs=2, order_seed=0, parts=2, mine=range(2)
        )
        assert dataset.cardinality().numpy() == 2 * 3 * 2
        assert dataset.element_spec["image"].shape == (3, 8, 8, 2)
