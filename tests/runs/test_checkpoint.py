import json
import os

import pytest
import torch
from torch import nn

from detection.data.coco_index import Category
from detection.errors import UserError
from detection.runs import checkpoint
from detection.runs.checkpoint import (
    load_meta,
    load_training_state,
    load_weights,
    newest_complete,
    require_fitting_weights,
    save_checkpoint,
)

CATEGORIES = (Category(3, "cat"), Category(9, "dog"))


def test_round_trip(tmp_path):
    trained, evaluated, other = nn.Linear(2, 1), nn.Linear(2, 1), nn.Linear(2, 1)
    state = {"optimizer": {"x": torch.ones(2)}, "progress": {"epoch": 3}}
    folder = tmp_path / "checkpoints" / "last"
    save_checkpoint(folder, evaluated, CATEGORIES, {"epoch": 3}, trained=trained, state=state)
    load_weights(folder, other)
    assert torch.equal(other.weight, evaluated.weight)
    load_weights(folder, other, "training")
    assert torch.equal(other.weight, trained.weight)
    meta = load_meta(folder)
    assert (meta["categories"], meta["epoch"]) == (CATEGORIES, 3)
    assert set(meta["sha256"]) == {"model.safetensors", "training.safetensors", "state.pt"}
    assert load_training_state(folder)["progress"] == {"epoch": 3}


def test_a_newer_checkpoint_replaces_the_older_one(tmp_path):
    folder = tmp_path / "last"
    save_checkpoint(folder, nn.Linear(2, 1), CATEGORIES, {"epoch": 1}, trained=nn.Linear(2, 1))
    save_checkpoint(folder, nn.Linear(2, 1), CATEGORIES, {"epoch": 2})
    assert sorted(p.name for p in folder.iterdir()) == ["meta.json", "model.safetensors"]
    assert load_meta(folder)["epoch"] == 2
    assert [p.name for p in tmp_path.iterdir()] == ["last"]


def test_what_a_killed_save_left_behind_is_in_nobodys_way(tmp_path):
    folder = tmp_path / "last"
    save_checkpoint(folder, nn.Linear(2, 1), CATEGORIES, {"epoch": 1})
    for name in (".last.old", ".last.12345"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").touch()
    save_checkpoint(folder, nn.Linear(2, 1), CATEGORIES, {"epoch": 2})
    assert load_meta(folder)["epoch"] == 2 and [p.name for p in tmp_path.iterdir()] == ["last"]


def test_a_save_that_fails_leaves_the_older_one(tmp_path):
    folder = tmp_path / "last"
    save_checkpoint(folder, nn.Linear(2, 1), CATEGORIES, {"epoch": 1})
    with pytest.raises(TypeError):
        save_checkpoint(folder, nn.Linear(2, 1), CATEGORIES, {"epoch": object()})
    assert load_meta(folder)["epoch"] == 1


def test_damage_is_named(tmp_path):
    folder = tmp_path / "last"
    with pytest.raises(UserError, match="no checkpoint here"):
        load_meta(folder)
    with pytest.raises(UserError, match="no such checkpoint"):
        load_weights(folder, nn.Linear(2, 1))
    with pytest.raises(UserError, match="nothing to resume from"):
        load_training_state(folder)
    save_checkpoint(folder, nn.Linear(2, 1), CATEGORIES, {}, state={})
    with pytest.raises(UserError, match="does not fit the model"):
        load_weights(folder, nn.Linear(3, 1))
    (folder / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(UserError, match="damaged"):
        load_weights(folder, nn.Linear(2, 1))
    (folder / "meta.json").write_text(json.dumps({}))
    with pytest.raises(UserError, match="damaged"):
        load_meta(folder)
    (folder / "state.pt").write_bytes(b"cut")
    with pytest.raises(UserError, match="cannot be read"):
        load_training_state(folder)


def test_what_may_not_be_read_is_not_damaged(tmp_path, monkeypatch):
    """An intact best checkpoint of another user was called damaged, and replaced by a worse one."""
    save_checkpoint(tmp_path / "best", nn.Linear(2, 1), CATEGORIES, {}, state={})
    errors = [PermissionError(13, "Permission denied"), OSError(24, "Too many open files")]
    refused = lambda path: (_ for _ in ()).throw(errors[0])  # noqa: E731
    monkeypatch.setattr(checkpoint, "file_digest", refused)
    for read in (newest_complete, load_training_state, lambda folder: load_weights(folder, nn.Linear(2, 1))):
        for _ in range(2):
            checkpoint._digest.cache_clear()
            with pytest.raises(type(errors[0])):
                read(tmp_path / "best")
            errors.reverse()


def test_files_have_the_mode_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        save_checkpoint(tmp_path / "last", nn.Linear(2, 1), CATEGORIES, {}, trained=nn.Linear(2, 1), state={})
    finally:
        os.umask(before)
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in (tmp_path / "last").iterdir()}
    assert len(modes) == 4 and set(modes.values()) == {"0o640"}
    assert (tmp_path / "last").stat().st_mode & 0o777 == 0o750


def test_what_was_changed_since_it_was_written_is_refused(tmp_path):
    module, folder = nn.Linear(2, 1), tmp_path / "last"
    readers = {
        "model.safetensors": lambda: load_weights(folder, nn.Linear(2, 1)),
        "training.safetensors": lambda: load_weights(folder, nn.Linear(2, 1), "training"),
        "state.pt": lambda: load_training_state(folder),
    }
    for name, read in readers.items():
        save_checkpoint(folder, module, CATEGORIES, {}, trained=module, state={"a": torch.ones(9)})
        read()
        data = bytearray((folder / name).read_bytes())
        data[-3 if name.endswith("tensors") else 300] ^= 1
        (folder / name).write_bytes(data)
        with pytest.raises(UserError, match="content is not what was written"):
            read()


def test_shapes_are_compared_without_reading_the_weights(tmp_path):
    save_checkpoint(tmp_path / "last", nn.Linear(2, 1), CATEGORIES, {})
    with torch.device("meta"):
        require_fitting_weights(tmp_path / "last", nn.Linear(2, 1))
        with pytest.raises(UserError, match=r"bias has the shape \[1\], the model's \[1000000000\] and 1 others"):
            require_fitting_weights(tmp_path / "last", nn.Linear(2, 1_000_000_000))
        with pytest.raises(UserError, match=r"bias has the shape \[1\], the model's None\."):
            require_fitting_weights(tmp_path / "last", nn.Linear(2, 1, bias=False))


@pytest.mark.parametrize(
    "changed",
    [
        {"categories": [{"id": "1", "name": "a"}]},
        {"categories": [{"id": 1, "name": None}]},
        {"categories": {"id": 1}},
        {"epoch": "3"},
        {"epoch": float("nan")},
        {"metrics": []},
        {"sha256": ["model.safetensors"]},
        {"sha256": {"../../secret": ""}},
        {"sha256": {"/dev/zero": ""}},
    ],
)
def test_a_meta_of_another_form_is_damaged(tmp_path, changed):
    save_checkpoint(tmp_path / "last", nn.Linear(2, 1), CATEGORIES, {})
    path = tmp_path / "last" / "meta.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    with pytest.raises(UserError, match="meta.json: damaged"):
        load_meta(tmp_path / "last")
    assert newest_complete(tmp_path / "last") == tmp_path / "last"


def test_a_damaged_checkpoint_is_passed_by_for_an_older_complete_one(tmp_path):
    folder = tmp_path / "last"
    save_checkpoint(folder, nn.Linear(2, 1), CATEGORIES, {"epoch": 1})
    os.rename(folder, tmp_path / ".last.old")
    save_checkpoint(tmp_path / "new", nn.Linear(2, 1), CATEGORIES, {"epoch": 2})
    os.rename(tmp_path / "new", folder)
    assert newest_complete(folder) == folder
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    assert newest_complete(folder) == tmp_path / ".last.old"


@pytest.mark.parametrize("name", ["last", "se[e]d"])
def test_only_what_a_save_leaves_stands_in_for_a_checkpoint(tmp_path, name):
    folder, other = tmp_path / name, (f"{name}0", f"{name}.diverged", f"my_{name}", f".{name}.kept", f".{name}0.12")
    for epoch, path in enumerate([name, *other], start=1):
        save_checkpoint(tmp_path / path, nn.Linear(2, 1), CATEGORIES, {"epoch": epoch})
    assert newest_complete(folder) == folder
    os.rename(folder, tmp_path / f".{name}.old")
    assert newest_complete(folder) == tmp_path / f".{name}.old"
    os.rename(tmp_path / f"{name}0", tmp_path / f".{name}.12")  # newer, cut between the two renames
    assert newest_complete(folder) == tmp_path / f".{name}.12"
    save_checkpoint(folder, nn.Linear(2, 1), CATEGORIES, {"epoch": 9})
    assert {path.name for path in tmp_path.iterdir()} == {name, *other} - {f"{name}0"}


class Planted:
    """What makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_a_training_state_executes_nothing(tmp_path):
    torch.save({"optimizer": Planted(tmp_path / "made")}, tmp_path / "state.pt")
    with pytest.raises(UserError, match="cannot be read"):
        load_training_state(tmp_path)
    assert not (tmp_path / "made").exists()
