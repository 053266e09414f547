"""Names, digests and files of a network's variables."""

import hashlib
import os
import struct

import numpy as np
import pytest

from tf_lottery import files, weights
from tf_lottery.errors import StoreError
from tf_lottery.pruning.masks import wrap


@pytest.fixture(scope="module")
def network(tiny_network):
    return tiny_network()


def arrays():
    rng = np.random.default_rng(0)
    return {
        "b/kernel": rng.normal(size=(3, 4)).astype("float32"),
        "a/bias": np.array([np.nan, -0.0, np.inf], np.float32),
        "a/count": np.arange(5, dtype=np.int64),
    }


def test_names_are_layer_and_variable(network):
    assert list(weights.named_variables(network)) == [
        "conv1/kernel", "bn1/gamma", "bn1/beta", "bn1/moving_mean", "bn1/moving_variance",
        "conv2/kernel", "bn2/gamma", "bn2/beta", "bn2/moving_mean", "bn2/moving_variance",
        "conv3/kernel", "bn3/gamma", "bn3/beta", "bn3/moving_mean", "bn3/moving_variance",
        "logits/kernel", "logits/bias",
    ]  # fmt: skip


def test_names_do_not_depend_on_the_tfmot_wrappers(network):
    bare = wrap(network).network
    assert set(weights.named_variables(bare)) == set(weights.named_variables(network))


def test_get_weights_copies(network):
    before = weights.get_weights(network)
    kernel = weights.named_variables(network)["conv1/kernel"]
    held = before["conv1/kernel"].copy()
    kernel.assign(kernel + 1)
    try:
        np.testing.assert_array_equal(before["conv1/kernel"], held)
        np.testing.assert_array_equal(weights.get_weights(network)["conv1/kernel"], held + 1)
    finally:
        weights.set_weights(network, before)


def test_set_weights_by_name_whatever_the_order(tiny_network):
    source, target = weights.get_weights(tiny_network(1)), tiny_network(2)
    weights.set_weights(target, dict(reversed(source.items())))
    for name, value in weights.get_weights(target).items():
        np.testing.assert_array_equal(value, source[name], err_msg=name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("bn2/beta"), "bn2/beta"),
        (lambda w: w.update({"conv9/kernel": np.zeros(3)}), "conv9/kernel"),
        (lambda w: w.update({"logits/kernel": np.zeros((2, 2), "float32")}), "logits/kernel"),
    ],
)
def test_set_weights_of_another_network_changes_nothing(network, change, message):
    before = weights.get_weights(network)
    other = {name: value + 1 for name, value in before.items()}
    change(other)
    with pytest.raises(ValueError, match=message):
        weights.set_weights(network, other)
    for name, value in weights.get_weights(network).items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


def test_digest_is_sha256_of_name_dtype_shape_and_bytes():
    values = {"x": np.array([[1, 2]], np.int16)}
    expected = hashlib.sha256(b"x <i2 (1, 2)\n" + struct.pack("<2h", 1, 2)).hexdigest()
    assert weights.digest(values) == expected


def test_digest_sees_every_difference():
    base = arrays()
    changed = {
        "value": {**base, "a/count": np.array([0, 1, 2, 3, 5])},
        "dtype": {**base, "a/count": np.arange(5, dtype=np.int32)},
        "shape": {**base, "b/kernel": base["b/kernel"].reshape(4, 3)},
        "name": {("c" + k[1:] if k == "a/count" else k): v for k, v in base.items()},
        "order": dict(reversed(base.items())),
        "zero's sign": {**base, "a/bias": np.array([np.nan, 0.0, np.inf], np.float32)},
    }
    digests = {weights.digest(values) for values in (base, *changed.values())}
    assert len(digests) == 1 + len(changed)
    strided = {**base, "b/kernel": np.asfortranarray(base["b/kernel"])}
    assert weights.digest(strided) == weights.digest(base)  # same values, other layout


def test_arrays_round_trip_bit_exactly(tmp_path):
    weights.write_arrays(tmp_path / "w.npz", arrays())
    read = weights.read_arrays(tmp_path / "w.npz")
    assert list(read) == list(arrays())
    assert weights.digest(read) == weights.digest(arrays())
    assert os.listdir(tmp_path) == ["w.npz"]


def test_read_arrays_of_a_missing_pickled_or_cut_file(tmp_path):
    with pytest.raises(StoreError, match=r"none\.npz is missing"):
        weights.read_arrays(tmp_path / "none.npz")
    np.savez(tmp_path / "pickled.npz", x=np.array([{}], object))
    with pytest.raises(StoreError, match=r"pickled\.npz is damaged"):
        weights.read_arrays(tmp_path / "pickled.npz")
    weights.write_arrays(tmp_path / "w.npz", arrays())
    content = (tmp_path / "w.npz").read_bytes()
    for length in range(0, len(content), 37):
        (tmp_path / "cut.npz").write_bytes(content[:length])
        with pytest.raises(StoreError, match=r"cut\.npz is damaged"):
            weights.read_arrays(tmp_path / "cut.npz")


def test_read_arrays_of_a_file_with_one_flipped_byte(tmp_path):
    """Either the damage is reported, or it is in bytes that mean nothing (dates, padding).

    A zip's table of contents has no checksum, so whole arrays may go missing; nobody
    takes those for good: ``set_weights`` and the tickets compare the names.
    """
    weights.write_arrays(tmp_path / "w.npz", arrays())
    good = arrays()
    content = (tmp_path / "w.npz").read_bytes()
    unnoticed, other_errors = [], set()
    for position in range(len(content)):
        for flip in (0x01, 0x08, 0xFF):
            bad = bytearray(content)
            bad[position] ^= flip
            (tmp_path / "bad.npz").write_bytes(bad)
            try:
                read = weights.read_arrays(tmp_path / "bad.npz")
            except StoreError:
                continue
            except Exception as error:
                other_errors.add(repr(error))
                continue
            expected = {name: good[name] for name in read if name in good}
            if weights.digest(read) != weights.digest(expected):
                unnoticed.append((position, flip))
    assert (other_errors, unnoticed) == (set(), [])


def test_writing_is_atomic(tmp_path, monkeypatch):
    files.write_atomically(tmp_path / "f", b"old")

    def crash(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(OSError, match="disk full"):
        files.write_atomically(tmp_path / "f", b"new")
    assert (tmp_path / "f").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["f"]


def test_json_refuses_nan(tmp_path):
    files.write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        files.write_json(tmp_path / "x.json", {"a": float("nan")})
    assert (tmp_path / "x.json").read_text() == '{\n "a": 1\n}\n'
