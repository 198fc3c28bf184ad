import json
import os
import shutil

import pytest
import torch
from torch import nn

from detection.data.coco_index import Category
from detection.errors import UserError
from detection.runs.checkpoint import load_meta, load_training_state, load_weights, newest_complete, save_checkpoint

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


class PowerCuts:
    """Copies of a folder as a power cut before each operation would leave it: what was not synchronized is cut off."""

    def __init__(self, root, copies, monkeypatch):
        self.root, self.copies, self.synchronized, self.count = root, copies, set(), 0
        for module, name in ((os, "fsync"), (os, "rename"), (os, "replace"), (shutil, "rmtree")):
            monkeypatch.setattr(module, name, self.recorded(getattr(module, name), name))

    def recorded(self, operation, name):
        def run(*args, **kwargs):
            self.copy()
            result = operation(*args, **kwargs)
            if name == "fsync":
                self.synchronized.add(os.fstat(args[0]).st_ino)
            return result

        return run

    def copy(self):
        target = self.copies / str(self.count)
        for path in sorted(self.root.rglob("*")):
            copied = target / path.relative_to(self.root)
            if path.is_dir():
                copied.mkdir(parents=True, exist_ok=True)
                continue
            content = path.read_bytes()
            copied.parent.mkdir(parents=True, exist_ok=True)
            copied.write_bytes(content if path.stat().st_ino in self.synchronized else content[: len(content) // 2])
        self.count += 1


def test_a_power_cut_leaves_the_last_announced_checkpoint(tmp_path, monkeypatch):
    root, folder = tmp_path / "checkpoints", tmp_path / "checkpoints" / "last"
    modules = [nn.Linear(2, 1) for _ in range(4)]
    announced = {}
    with monkeypatch.context() as patched:
        cuts = PowerCuts(root, tmp_path / "cuts", patched)
        for epoch, module in enumerate(modules, start=1):
            save_checkpoint(folder, module, CATEGORIES, {"epoch": epoch}, state={"epoch": epoch})
            announced[cuts.count] = epoch
    tried = 0
    for cut in range(cuts.count):
        least = max((epoch for count, epoch in announced.items() if count <= cut), default=0)
        if least:
            found = newest_complete(tmp_path / "cuts" / str(cut) / "last")
            epoch, loaded = load_meta(found)["epoch"], nn.Linear(2, 1)
            load_weights(found, loaded)
            assert epoch >= least and torch.equal(loaded.weight, modules[epoch - 1].weight)
            assert load_training_state(found) == {"epoch": epoch}
            tried += 1
    assert tried > 20


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
