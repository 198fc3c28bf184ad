"""Caches are private: what others wrote or could have written is not read."""

import os
import stat

import pytest

from detection import cache
from detection.cache import cache_root, is_private, private_root, read_private, write_private


@pytest.fixture(autouse=True)
def _notes_again():
    cache._note.cache_clear()


def mode(path):
    return stat.S_IMODE(os.lstat(path).st_mode)


def test_the_folder_is_the_users_alone(tmp_path, monkeypatch):
    previous = os.umask(0o002)
    try:
        root = private_root(tmp_path / "a" / "cache")
        assert root == tmp_path / "a" / "cache" and mode(root) == 0o700
        assert write_private(root / "x", b"1") and mode(root / "x") == 0o600
    finally:
        os.umask(previous)
    assert read_private(root / "x") == b"1"
    monkeypatch.setenv("DETECTION_CACHE", str(tmp_path / "b"))
    assert private_root() == cache_root() == tmp_path / "b"


def test_a_folder_that_others_write_to_gets_one_inside(tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    root = private_root(shared)
    assert root == shared / f"user-{os.geteuid()}" and mode(root) == 0o700 and mode(shared) == 0o777


def test_a_foreign_folder_inside_is_not_used(tmp_path, capsys):
    tmp_path.chmod(0o777)
    (tmp_path / f"user-{os.geteuid()}").symlink_to(tmp_path)
    assert private_root(tmp_path) is None
    assert "nothing is cached; set DETECTION_CACHE" in capsys.readouterr().err


def test_a_link_of_ones_own_leads_to_the_folder(tmp_path):
    (tmp_path / "disk").mkdir(mode=0o700)
    (tmp_path / "cache").symlink_to(tmp_path / "disk")
    assert private_root(tmp_path / "cache") == tmp_path / "disk"


def test_where_no_folder_can_be_there_is_none(tmp_path):
    (tmp_path / "file").write_text("")
    assert private_root(tmp_path / "file") is None and private_root(tmp_path / "file" / "x") is None
    assert not write_private(tmp_path / "file" / "x", b"")


@pytest.mark.parametrize("kind", ["link", "writable", "folder", "fifo"])
def test_what_others_could_have_written_is_not_read(tmp_path, kind, capsys):
    path = tmp_path / "x"
    if kind == "link":
        (tmp_path / "y").write_bytes(b"1")
        path.symlink_to(tmp_path / "y")
    elif kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.write_bytes(b"1")
        path.chmod(0o666)
    assert read_private(path) is None
    assert str(path) in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_another_users_file_is_not_read(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"1")
    assert is_private(path)
    os.chown(path, 12345, 12345)
    assert read_private(path) is None and not is_private(path)


def test_a_missing_file_is_no_note(tmp_path, capsys):
    assert read_private(tmp_path / "none") is None and not is_private(tmp_path / "none")
    assert capsys.readouterr().err == ""
