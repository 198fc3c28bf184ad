"""A file is there whole or not at all."""

import pytest

from detection.atomic_write import atomic_write


def test_a_file_is_replaced_by_what_was_written(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    atomic_write(path, lambda fresh: fresh.write_text("new"))
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_what_fails_halfway_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def half(fresh):
        fresh.write_text("ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        atomic_write(path, half)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
