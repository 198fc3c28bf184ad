"""Room on the disk is checked before a run trains."""

import shutil

import pytest
import torch
from torch import nn

from detection.errors import UserError
from detection.runs.checkpoint import save_checkpoint
from detection.runs.room import checkpoint_bytes, require_room

MODEL = nn.Linear(100, 1000)
OPTIMIZERS = [
    lambda p: torch.optim.SGD(p, momentum=0.9, lr=0.1),
    lambda p: torch.optim.SGD(p, lr=0.1),
    lambda p: torch.optim.AdamW(p),
]


@pytest.mark.parametrize("build", OPTIMIZERS)
@pytest.mark.parametrize("averaged", [False, True])
def test_the_bytes_of_a_checkpoint_are_estimated(build, averaged, tmp_path):
    optimizer = build(MODEL.parameters())
    MODEL(torch.ones(1, 100)).sum().backward()
    optimizer.step()
    state = {"optimizer": optimizer.state_dict()}
    save_checkpoint(tmp_path / "last", MODEL, (), {}, trained=MODEL if averaged else None, state=state)
    save_checkpoint(tmp_path / "best", MODEL, (), {})
    found = [sum(p.stat().st_size for p in (tmp_path / name).iterdir()) for name in ("last", "best")]
    assert checkpoint_bytes(MODEL, optimizer, averaged=averaged) == pytest.approx(found, rel=0.02)


def test_a_disk_without_room_is_refused(tmp_path, monkeypatch):
    optimizer, free = OPTIMIZERS[0](MODEL.parameters()), 3_000_000
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9e9, 9e9 - free, free))
    with pytest.raises(UserError, match=r"run: the checkpoints of this run need 3.0 MB more, and 3.0 MB are free"):
        require_room(tmp_path / "run", MODEL, optimizer, averaged=False)
    # What a resumed run has saved is replaced.
    save_checkpoint(tmp_path / "run" / "checkpoints" / "best", MODEL, (), {})
    require_room(tmp_path / "run", MODEL, optimizer, averaged=False)
