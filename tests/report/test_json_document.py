import json
import math
import os
from typing import Annotated, ClassVar, Literal

import msgspec
import numpy as np
import pytest

from tf_lottery.errors import StoreError
from tf_lottery.options.attacks import AttackConfig
from tf_lottery.report.json_document import Document, read_document, write_document


class Part(msgspec.Struct):
    share: Annotated[float, msgspec.Meta(ge=0, le=1)]
    digest: str | None = None


class Note(Document):
    WHAT: ClassVar[str] = "a note"
    SIGN: ClassVar[str] = "parts"
    format: Literal[2]
    parts: list[Part]
    attacks: list[AttackConfig]
    most: float

    def problems(self):
        if any(part.share > self.most for part in self.parts):
            yield "a share is above the most"


@pytest.fixture
def note():
    return Note(format=2, parts=[Part(0.25), Part(0.5, "ab")], attacks=[AttackConfig()], most=0.9)


def read(path, upgrade=None):
    return read_document(path, "a pen", Note, 2, upgrade)


def test_round_trip_keeps_the_order_and_leaves_defaults_out(tmp_path, note):
    path = write_document(tmp_path / "note.json", note)
    assert read(path) == note
    stored = json.loads(path.read_text())
    assert list(stored) == ["format", "parts", "attacks", "most", "document_digest"]
    assert stored["parts"] == [{"share": 0.25}, {"share": 0.5, "digest": "ab"}]
    assert "restarts" in stored["attacks"][0]
    assert "method" not in stored["attacks"][0]  # as in the settings of every stage


def test_numpy_values_become_plain_ones(tmp_path, note):
    note.most = np.float64(0.75)
    note.parts = [Part(share) for share in np.array([0.5, 0.25])]
    found = read(write_document(tmp_path / "note.json", note))
    assert (found.most, found.parts[1].share) == (0.75, 0.25)


@pytest.mark.parametrize("number", [math.nan, math.inf, 0.1, "0.9"])
def test_nothing_wrong_is_written(tmp_path, note, number):
    note.most = number
    with pytest.raises(ValueError):
        write_document(tmp_path / "note.json", note)
    assert list(tmp_path.iterdir()) == []


def test_failing_replace_leaves_the_old_file(tmp_path, note, monkeypatch):
    path = write_document(tmp_path / "note.json", note)
    before = path.read_bytes()

    def fail(source, target):
        raise OSError(5, "disk gone")

    monkeypatch.setattr(os, "replace", fail)
    note.most = 1.0
    with pytest.raises(OSError, match="disk gone"):
        write_document(path, note)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["note.json"]


def put(path, **changes):
    content = {"format": 2, "parts": [{"share": 0.5}], "attacks": [], "most": 1} | changes
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
    return path


def test_unknown_keys_are_tolerated_and_kept_out(tmp_path):
    found = read(put(tmp_path / "note.json", new=[1], parts=[{"share": 0, "more": 2}]))
    assert found == Note(format=2, parts=[Part(0.0)], attacks=[], most=1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 3}, "format 3, this version reads 2: written by a newer tf_lottery; update"),
        ({"format": 1}, "format 1, .*older tf_lottery"),
        ({"format": "x"}, "format 'x', this version reads 2: unknown"),
        ({"format": None}, "not a note"),
        ({"parts": None}, "not a note"),
        ({"most": None}, "missing required field `most`"),
        ({"parts": [{"share": 0}, {"share": "1"}]}, r"Expected `float`.* at `\$.parts\[1\].share`"),
        ({"parts": [{"share": 1.5}]}, r"at `\$.parts\[0\].share`"),
        ({"most": 0.1}, "a share is above the most"),
        ({"attacks": [{"name": "x", "method": "magic"}]}, "attack method: unknown value 'magic'"),
        ({"document_digest": "00"}, "changed since it was written"),
    ],
)
def test_what_is_wrong_is_one_line_with_the_path(tmp_path, changes, message):
    path = put(tmp_path / "note.json", **changes)
    with pytest.raises(StoreError, match=message) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_an_older_format_is_upgraded_where_that_is_known(tmp_path):
    def upgrade(content):
        if content["format"] != 1:
            return None
        return content | {"format": 2, "most": content.pop("maximum")}

    old = {"most": None, "maximum": 0.75}
    assert read(put(tmp_path / "note.json", format=1, **old), upgrade).most == 0.75
    with pytest.raises(StoreError, match="older"):
        read(put(tmp_path / "note.json", format=0, **old), upgrade)
    with pytest.raises(StoreError, match="newer"):
        read(put(tmp_path / "note.json", format=3, **old), upgrade)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", '{"format": NaN}', "\x00", "[" * 100_000])
def test_no_json(tmp_path, text):
    path = tmp_path / "note.json"
    path.write_text(text)
    with pytest.raises(StoreError, match=r"not JSON|not a note") as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_missing_or_unreadable(tmp_path):
    with pytest.raises(StoreError, match="no such file; a pen leaves it"):
        read(tmp_path / "note.json")
    with pytest.raises(StoreError, match="cannot be read"):
        read(tmp_path)
