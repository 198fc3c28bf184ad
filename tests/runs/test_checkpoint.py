import json

import pytest
import torch
from torch import nn

from detection.data.coco_index import Category
from detection.errors import UserError
from detection.runs.checkpoint import load_meta, load_training_state, load_weights, save_checkpoint

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
    assert load_meta(folder) == {"categories": CATEGORIES, "epoch": 3}
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
