"""The hash of a split's images: what changes it, and which files are read for it."""

import os
import time
from pathlib import Path

import pytest

from detection.data import image_identity
from detection.data.image_identity import images_digest
from detection.errors import UserError

NAMES = ("a.png", "b.png", "deep/c.png")


@pytest.fixture
def folder(tmp_path):
    """Three small files that were last changed an hour ago."""
    (tmp_path / "images/deep").mkdir(parents=True)
    for name in NAMES:
        write(tmp_path / "images" / name, f"pixels of {name}", ago=3600)
    return tmp_path / "images"


def write(path, text, ago):
    path.write_text(text)
    os.utime(path, ns=2 * (time.time_ns() - int(ago * 1e9),))


@pytest.fixture
def reads(monkeypatch, tmp_path):
    """Names of the files that were read since the last call; the cache is the test's own."""
    names, real = [], image_identity._digest
    monkeypatch.setattr(image_identity, "_digest", lambda folder, name: (names.append(name), real(folder, name))[1])

    def since(folder, file_names=NAMES):
        names.clear()
        return images_digest(folder, file_names, cache_dir=tmp_path / "cache"), sorted(names)

    return since


def test_files_are_read_once_and_again_when_they_change(folder, reads):
    first, read = reads(folder)
    assert read == list(NAMES) and len(first) == 64
    assert reads(folder, NAMES[::-1] + NAMES[:1]) == (first, [])
    write(folder / "b.png", "pixels of c.png", ago=1800)  # of the same size
    second, read = reads(folder)
    assert second != first and read == ["b.png"]
    write(folder / "b.png", "pixels of b.png", ago=900)
    assert reads(folder) == (first, ["b.png"])


def test_the_hash_is_of_names_and_bytes_wherever_they_are(folder, reads, tmp_path):
    first, _ = reads(folder)
    moved = folder.rename(tmp_path / "moved")
    assert reads(moved) == (first, list(NAMES))
    assert reads(moved, NAMES[:2])[0] != first
    (moved / "a.png").rename(moved / "x.png")
    assert len({first, reads(moved)[0], reads(moved, ("x.png", *NAMES[1:]))[0]}) == 3


def test_what_is_no_file_of_the_folder_is_missing(folder, reads):
    os.mkfifo(folder / "pipe.png")
    (folder / "a.png").unlink()
    digests = {reads(folder, names)[0] for names in (NAMES[1:], NAMES, (*NAMES[1:], "../a.png"), (*NAMES, "pipe.png"))}
    assert len(digests) == 4
    assert reads(folder, ())[0] != reads(folder)[0]


def test_a_file_that_has_just_changed_is_not_trusted_to_stay(folder, reads):
    write(folder / "a.png", "one", ago=0.5)
    first, _ = reads(folder)
    state = os.stat(folder / "a.png")
    (folder / "a.png").write_text("two")
    os.utime(folder / "a.png", ns=(state.st_atime_ns, state.st_mtime_ns))
    second, read = reads(folder)
    assert second != first and read == ["a.png"]


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"a.png": 3}', '{"a.png": ["x", 2, "y"]}', '{"a.png": [1]}'])
def test_a_broken_cache_is_built_again(folder, reads, tmp_path, content, capsys):
    first, _ = reads(folder)
    (path,) = (tmp_path / "cache").glob("images-*.json")
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text(content)
    assert reads(folder) == (first, list(NAMES)) and reads(folder) == (first, [])


def test_without_a_cache_it_is_the_same(folder, reads, tmp_path):
    (tmp_path / "file").touch()
    assert images_digest(folder, NAMES, cache_dir=tmp_path / "file") == reads(folder)[0]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_image_that_cannot_be_read(folder, reads):
    (folder / "a.png").chmod(0)
    with pytest.raises(UserError, match="a.png cannot be read"):
        reads(folder)


def test_an_error_while_reading_is_one_sentence(folder, monkeypatch, tmp_path):
    def fail(path, mode):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("builtins.open", fail)
    with pytest.raises(UserError, match=r"a.png cannot be read \(Input/output error\)"):
        image_identity._digest(Path(folder), "a.png")


def test_progress_is_reported(folder, tmp_path):
    seen = []
    images_digest(folder, NAMES, lambda *counts: seen.append(counts), tmp_path / "cache")
    assert seen == [(1, 3)] * 3
