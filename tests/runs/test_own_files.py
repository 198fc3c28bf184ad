"""Files of a run folder are read with bounds, as regular files, and never out of the folder."""

import json
import os

import pytest

from detection.errors import UserError
from detection.runs.own_files import read_bounded_json, require_own_files


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run" / "checkpoints" / "last").mkdir(parents=True)
    (tmp_path / "run" / "config.json").write_text("{}")
    (tmp_path / "outside").mkdir()
    return tmp_path / "run"


@pytest.mark.parametrize(
    "name", ["metrics.json", "tensorboard", "evaluation-test", "checkpoints/best", "checkpoints/last/meta.json"]
)
@pytest.mark.parametrize("target", ["outside", "outside/a.json", "/dev/zero"])
def test_links_out_of_the_folder_are_not_followed(run, name, target):
    (run / name).symlink_to(run.parent / target)
    with pytest.raises(UserError, match=f"{name}: is a link out of the run folder"):
        require_own_files(run)


def test_links_within_the_folder_and_what_is_not_the_run_s_are_none_of_its_concern(run):
    (run / "checkpoints" / "best").symlink_to("last")
    (run / "metrics.json").symlink_to(run / "config.json")
    (run / "data").symlink_to(run.parent / "outside")
    linked = run.parent / "linked"
    linked.symlink_to(run)
    for folder in (run, linked, run.parent / "none"):
        require_own_files(folder)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda run: os.mkfifo(run / "log.jsonl"), "log.jsonl: is no regular file"),
        (lambda run: os.mkfifo(run / "checkpoints/last/model.safetensors"), "model.safetensors: is no regular file"),
        (lambda run: (run / "metrics.json").mkdir(), "metrics.json: is no regular file"),
        (lambda run: (run / "tensorboard").touch(), "tensorboard: is no folder"),
        (lambda run: (run / "plots").symlink_to("plots"), "plots: is a link"),
        (lambda run: (run / "plots").symlink_to("nothing"), "plots: is a link to nothing"),
    ],
)
def test_what_is_no_file_or_folder_is_named(run, make, sentence):
    make(run)
    with pytest.raises(UserError, match=sentence):
        require_own_files(run)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[" * 100_000 + "]" * 100_000, "nested deeper than 64 levels"),
        ('{"a":' * 70 + "1" + "}" * 70, "nested deeper than 64 levels"),
        ("{", "not readable as JSON"),
        (b"\xff\xfe\xff", "not readable as JSON"),
        ("1" * 10_000, "not readable as JSON"),
        (" " * 2000, "has more than 0 MB"),
    ],
)
def test_json_is_bounded(tmp_path, text, sentence):
    path = tmp_path / "a.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=sentence):
        read_bounded_json(path, 1000 if sentence.startswith("has") else 1_000_000)


def test_json_within_the_bounds_is_read(tmp_path):
    data = {"a": [None, 1, {"b": "ü"}]}
    (tmp_path / "a.json").write_text(json.dumps(data))
    assert read_bounded_json(tmp_path / "a.json") == data
    (tmp_path / "a.json").write_text("null")
    assert read_bounded_json(tmp_path / "a.json") is None
    with pytest.raises(FileNotFoundError):
        read_bounded_json(tmp_path / "a.json" / "b.json")
