"""A file or folder is complete or not there at all."""

import errno
import json
import os
import stat

import pytest

from detection.atomic_write import atomic_folder, atomic_write, write_json


def test_a_file_is_replaced_by_what_was_written(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    atomic_write(path, lambda temporary: temporary.write_text("new"))
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_what_fails_halfway_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def half(temporary):
        temporary.write_text("ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        atomic_write(path, half)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_is_indented_or_compact(tmp_path):
    write_json(tmp_path / "new" / "a.json", {"b": [1, 2]})
    assert (tmp_path / "new" / "a.json").read_text().count("\n") == 6
    write_json(tmp_path / "a.json", {"b": [1, 2]}, indent=None)
    assert (tmp_path / "a.json").read_text() == '{"b": [1, 2]}\n'
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", object())
    assert json.loads((tmp_path / "a.json").read_text()) == {"b": [1, 2]}


def test_a_folder_appears_with_all_its_files(tmp_path):
    folder = tmp_path / "new" / "folder"
    with atomic_folder(folder) as temporary:
        (temporary / "a.txt").write_text("a")
        assert not folder.exists()
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["folder"] and (folder / "a.txt").read_text() == "a"


def test_a_folder_that_fails_halfway_leaves_nothing(tmp_path):
    with pytest.raises(ValueError), atomic_folder(tmp_path / "folder") as temporary:
        (temporary / "a.txt").write_text("a")
        raise ValueError
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_another_process_made_first_stays(tmp_path):
    folder = tmp_path / "folder"
    with pytest.raises(OSError), atomic_folder(folder) as temporary:
        (temporary / "a.txt").write_text("ours")
        folder.mkdir()
        (folder / "a.txt").write_text("theirs")
    assert list(tmp_path.iterdir()) == [folder] and (folder / "a.txt").read_text() == "theirs"


def test_an_error_names_the_path_that_was_asked_for(tmp_path):
    def full(temporary):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError) as error:
        atomic_write(tmp_path / "a.txt", full)
    assert error.value.filename == str(tmp_path / "a.txt")
    with pytest.raises(OSError) as error, atomic_folder(tmp_path / "folder") as temporary:
        (temporary / "none" / "a.txt").write_text("a")
    assert error.value.filename == str(tmp_path / "folder")


def test_a_link_in_the_way_is_removed_and_its_target_stays(tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "a.txt").write_text("a")
    for name in (".folder.old", "folder"):
        (tmp_path / name).symlink_to(tmp_path / "target")
    with atomic_folder(tmp_path / "folder", replace=True) as temporary:
        (temporary / "b.txt").write_text("b")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.txt", "b.txt", "folder", "target"]


def test_a_file_system_that_synchronizes_no_folders_is_used_all_the_same(tmp_path, monkeypatch):
    fsync = os.fsync

    def refuse(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    write_json(tmp_path / "new" / "a.json", 1)
    monkeypatch.setattr(os, "fsync", lambda descriptor: refuse(os.open(tmp_path, os.O_RDONLY)))
    with pytest.raises(OSError):
        write_json(tmp_path / "b.json", 1)
    assert not (tmp_path / "b.json").exists()


def test_folders_that_were_made_for_what_fails_vanish(tmp_path):
    (tmp_path / "old").mkdir()
    with pytest.raises(ValueError), atomic_folder(tmp_path / "old/new/deep/folder"):
        raise ValueError
    with pytest.raises(KeyError):
        atomic_write(tmp_path / "old/new/file", lambda path: {}["fails"])
    assert list(tmp_path.rglob("*")) == [tmp_path / "old"]
