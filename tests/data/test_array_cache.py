"""Entries of the cache: built once, by one process; planted, broken and foreign ones are built again, and named."""

import json
import os
import shutil
import stat
import threading
import time

import numpy as np
import pytest

from detection import cache
from detection.data.array_cache import cached_arrays, open_arrays
from detection.data.coco_index import load_index
from tests.coco_files import small, write


@pytest.fixture(autouse=True)
def _notes_again():
    cache._note.cache_clear()


def build():
    return {"a": np.arange(3), "b": np.zeros((0, 4))}, {"n": 1}


def test_an_entry_is_the_users_alone(tmp_path):
    previous = os.umask(0)
    try:
        _, folder = cached_arrays("x", build, tmp_path / "cache")
    finally:
        os.umask(previous)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700 and set(modes.values()) == {0o600} and len(modes) == 3


def planted_link(folder):
    target = folder.with_name("elsewhere")
    folder.rename(target)
    folder.symlink_to(target)


def linked_file(folder):
    (folder / "a.npy").rename(folder.parent / "a.npy")
    (folder / "a.npy").symlink_to(folder.parent / "a.npy")


def climbing_name(folder):
    shutil.copy(folder / "a.npy", folder.parent / "c.npy")
    meta = json.loads((folder / "meta.json").read_text())
    meta["checksums"]["../c"] = meta["checksums"]["a"]
    (folder / "meta.json").write_text(json.dumps(meta))


def a_file_for_a_folder(folder):
    shutil.rmtree(folder)
    folder.write_text("x")


def fifo(folder):
    (folder / "meta.json").unlink()
    os.mkfifo(folder / "meta.json")


PLANTS = {
    "link": planted_link,
    "linked file": linked_file,
    "climbing": climbing_name,
    "file": a_file_for_a_folder,
    "fifo": fifo,
    "writable folder": lambda folder: folder.chmod(0o777),
    "writable file": lambda folder: (folder / "a.npy").chmod(0o666),
    "deep": lambda folder: (folder / "meta.json").write_text("[" * 100_000),
    "unsound": lambda folder: None,
}


@pytest.mark.parametrize("plant", PLANTS)
def test_what_is_planted_is_built_again_and_named(tmp_path, plant, capsys):
    _, folder = cached_arrays("x", build, tmp_path)
    PLANTS[plant](folder)
    calls = []

    def again():
        calls.append(1)
        return build()

    (arrays, meta), place = cached_arrays("x", again, tmp_path, lambda arrays, meta: bool(calls) or plant != "unsound")
    assert calls == [1] and place == folder and not folder.is_symlink()
    assert arrays["a"].tolist() == [0, 1, 2] and meta == {"n": 1} and open_arrays(folder) is not None
    assert f"note: {folder}: damaged, or not written by this user alone" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("name", ["", "meta.json", "a.npy"])
def test_another_users_entry_is_built_again(tmp_path, name, capsys):
    _, folder = cached_arrays("x", build, tmp_path)
    os.chown(folder / name, 12345, 12345)
    assert open_arrays(folder) is None
    assert cached_arrays("x", build, tmp_path)[1] == folder and open_arrays(folder) is not None
    assert str(folder) in capsys.readouterr().err


def test_processes_that_want_the_same_build_it_once(tmp_path):
    calls = []

    def slow():
        calls.append(1)
        time.sleep(0.2)
        return build()

    threads = [threading.Thread(target=cached_arrays, args=("x", slow, tmp_path)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1 and [path.name for path in tmp_path.iterdir()] == ["x"]


def test_what_a_killed_process_left_is_removed(tmp_path, capsys):
    (tmp_path / ".x.123").mkdir()
    (tmp_path / ".x.lock").write_text("")
    cached_arrays("x", build, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["x"] and capsys.readouterr().err == ""


def replaced(array, value, place):
    changed = array.copy()
    changed[place] = value
    return changed


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("box_offsets", lambda a: replaced(a, 99, -1)),
        ("box_offsets", lambda a: replaced(a, 5, 1)),
        ("labels", lambda a: replaced(a, 3, 0)),
        ("labels", lambda a: a.astype(np.int64)),
        ("boxes", lambda a: a[:, :3]),
        ("widths", lambda a: a[:-1]),
        ("_name_offsets", lambda a: replaced(a, -1, 1)),
        ("_names", lambda a: a[:-1]),
    ],
)
def test_an_index_that_is_none_is_built_again(tmp_path, name, change, capsys):
    """Checksums fit: somebody wrote it so."""
    path = write(tmp_path, small(), images=False)
    index = load_index(path, cache_dir=tmp_path / "cache")
    expected = index.to_coco()
    arrays, meta = open_arrays(index._folder)
    arrays[name] = change(arrays[name])
    shutil.rmtree(index._folder)
    cached_arrays(index._folder.name, lambda: (arrays, meta), tmp_path / "cache")
    again = load_index(path, cache_dir=tmp_path / "cache")
    assert again.to_coco() == expected and again.counts["boxes"] == 4
    assert str(index._folder) in capsys.readouterr().err
