"""Files written whole, and disk errors as one line."""

import errno
import os
import shutil

import pytest

from tf_lottery import files
from tf_lottery.errors import StoreError


def fail(number, filename=None):
    raise OSError(number, "as the system says", filename)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_named(tmp_path, number):
    with (
        pytest.raises(StoreError, match="--store: no space left under"),
        files.disk_errors("store", tmp_path),
    ):
        fail(number)


def test_a_full_disk_that_another_library_reports(tmp_path):
    with pytest.raises(StoreError, match="no space left"), files.disk_errors("store", tmp_path):
        raise RuntimeError("write failed: No space left on device")


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS, errno.EACCES])
def test_a_failing_disk_is_named_only_for_its_own_files(tmp_path, number):
    mine = str(tmp_path / "x")
    with pytest.raises(StoreError, match="cannot be written"), files.disk_errors("store", tmp_path):
        fail(number, mine)
    with pytest.raises(OSError, match="as the system says"), files.disk_errors("store", tmp_path):
        fail(number, "/elsewhere/y")


def test_a_tree_that_could_not_be_copied(tmp_path):
    """As ``shutil.copytree`` says it: no number, words alone."""
    why = f"[Errno {errno.EIO}] {os.strerror(errno.EIO)}"
    with pytest.raises(StoreError, match="cannot be written"), files.disk_errors("store", tmp_path):
        raise shutil.Error([("/from", str(tmp_path / "to"), why)])


def test_a_new_directory_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "deep" / "e"
    with files.new_directory(target) as partial:
        (partial / "one").write_text("1")
        assert not target.exists()
    assert (target / "one").read_text() == "1"
    assert [p.name for p in target.parent.iterdir()] == ["e"]
    with pytest.raises(KeyError), files.new_directory(tmp_path / "f") as partial:
        raise KeyError
    assert [p.name for p in tmp_path.iterdir()] == ["deep"]


def test_an_empty_directory_is_replaced_and_a_link_to_it_followed(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    with files.new_directory(tmp_path / "link") as partial:
        (partial / "one").touch()
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "empty" / "one").exists()


def test_what_a_dead_process_left_of_a_directory_is_no_hindrance(tmp_path):
    (tmp_path / ".e.partial").mkdir()
    (tmp_path / ".e.partial" / "half").touch()
    with files.new_directory(tmp_path / "e") as partial:
        (partial / "one").touch()
    assert [p.name for p in (tmp_path / "e").iterdir()] == ["one"]
    assert [p.name for p in tmp_path.iterdir()] == ["e"]


def test_only_leavings_are_removed(tmp_path):
    files.write_atomically(tmp_path / "a" / "kept.tmp", "x")
    (tmp_path / "a" / ".kept.0.tmp").touch()
    (tmp_path / "a" / ".ticket.0.tmp").mkdir()
    (tmp_path / "a" / ".ticket.0.tmp" / ".masks.npz.1.tmp").touch()
    files.remove_leavings(tmp_path)
    assert [p.name for p in tmp_path.rglob("*")] == ["a", "kept.tmp"]
