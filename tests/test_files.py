"""Files written whole, locks, and disk errors as one line."""

import errno
import threading

import pytest

from tf_lottery import files
from tf_lottery.errors import StoreError


def fail(number, filename=None):
    raise OSError(number, "as the system says", filename)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
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


def test_a_lock_is_held_by_one_at_a_time(tmp_path):
    order = []
    first_has_it, go_on = threading.Event(), threading.Event()

    def first():
        with files.locked(tmp_path / "lock"):
            first_has_it.set()
            go_on.wait(10)
            order.append("first")

    def second():
        with files.locked(tmp_path / "lock"):
            order.append("second")

    threads = [threading.Thread(target=first)]
    threads[0].start()
    assert first_has_it.wait(10)
    threads.append(threading.Thread(target=second))
    threads[1].start()
    threads[1].join(0.2)
    assert order == []  # the second waits
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert order == ["first", "second"]
