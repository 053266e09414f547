"""Files written whole, and disk errors as one line."""

import errno

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
