import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from detection.errors import UserError
from detection.weights import load_state, read_state, renamed


def test_report_puts_every_tensor_in_one_list():
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1), nn.BatchNorm1d(1))
    state = {k: torch.full_like(v, 7) for k, v in module.state_dict().items()}
    state["1.weight"] = torch.zeros(5, 3)
    del state["1.bias"], state["2.num_batches_tracked"]
    state["extra"] = torch.zeros(1)
    report = load_state(module, state, "here", at_least=0.5)
    assert report.loaded == ["0.weight", "0.bias", "2.weight", "2.bias", "2.running_mean", "2.running_var"]
    assert (report.resized, report.missing, report.unexpected) == (["1.weight"], ["1.bias"], ["extra"])
    assert module[0].weight.eq(7).all()
    assert str(report) == "here: loaded 6; resized 1 (1.weight); missing 1 (1.bias); unexpected 1 (extra)"


def test_too_little_loaded_is_an_error_and_changes_nothing():
    module = nn.Linear(2, 3)
    before = module.weight.clone()
    with pytest.raises(UserError, match="too little fits this model .1 of 2 tensors"):
        load_state(module, {"weight": torch.ones(3, 2)}, "here", at_least=0.9)
    assert torch.equal(module.weight, before)


def test_first_matching_prefix_is_renamed():
    state = {"a.b.c": torch.zeros(1), "a.d": torch.zeros(2), "z": torch.zeros(3)}
    assert list(renamed(state, [("a.b.", "x."), ("a.", "y.")])) == ["x.c", "y.d", "z"]


class Evil:
    def __reduce__(self):
        return (print, ("run!",))


def test_files_are_read_without_running_anything(tmp_path, capsys):
    save_file({"w": torch.ones(2)}, tmp_path / "a.safetensors")
    torch.save({"model": {"w": torch.ones(2)}, "epoch": 3}, tmp_path / "b.pth")
    assert list(read_state(str(tmp_path / "a.safetensors"))) == ["w"]
    assert list(read_state(str(tmp_path / "b.pth"))) == ["w"]
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Evil(), protocol=2))
    torch.save({"x": Evil()}, tmp_path / "evil.pth")
    for name in ("evil.pt", "evil.pth"):
        with pytest.raises(UserError, match=name):
            read_state(str(tmp_path / name))
    assert "run!" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["cut.safetensors", "cut.pth"])
def test_a_damaged_file_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"not weights")
    with pytest.raises(UserError, match=name):
        read_state(str(tmp_path / name))


def test_something_else_than_tensors_is_refused(tmp_path):
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(UserError, match="no plain dictionary of tensors"):
        read_state(str(tmp_path / "list.pth"))
