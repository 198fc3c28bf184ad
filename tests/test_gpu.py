"""What only a CUDA device can show; `pytest -m gpu`."""

import json
from functools import partial

import pytest
import torch
from accelerate.state import AcceleratorState

from detection.cells import CELLS, LSTM, S6, Accumulator, MinGRU
from detection.context import (
    AttentionLSTM,
    CrossScan,
    GridLSTM,
    LinePropagation,
    RecurrentConv,
    ScanBlock,
    SpatialRNN,
)
from detection.detector import build_detector, valid_mask
from detection.ops.sweep.directions import DIAGONALS, DIRECTIONS
from detection.ops.sweep.dispatch import sweep
from detection.training.evaluate import evaluate_run
from detection.training.loaders import build_accelerator
from detection.training.run import train
from tests.tiny_runs import DETECTOR, tiny_config

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
@pytest.mark.parametrize("head", ["FastRCNN", "SequenceHead"])
def test_a_run_trains_resumes_and_is_evaluated(shapes, tmp_path, precision, head):
    settings = (f"precision={precision}", "ema=0.9", f"detector.head=detection.heads.{head}")
    config = tiny_config(shapes, *settings, "schedule.epochs=1")
    train(config, tmp_path / "run", build_accelerator(precision, "cuda"))
    AcceleratorState._reset_state(True)
    config = tiny_config(shapes, *settings, "schedule.epochs=2")
    train(config, tmp_path / "run", build_accelerator(precision, "cuda"), resume=True)
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert {line["epoch"] for line in lines} == {0, 1}
    AcceleratorState._reset_state(True)
    assert evaluate_run(tmp_path / "run", output=tmp_path / "again", device="cuda")["images"] == 3


def test_detections_agree_with_the_cpu():
    torch.manual_seed(0)
    detector = build_detector(DETECTOR, 3).eval()
    images = [torch.rand(3, 64, 64), torch.rand(3, 50, 40)]
    with torch.no_grad():
        here = detector(images)
        there = detector.cuda()([image.cuda() for image in images])
    for a, b in zip(here, there, strict=True):
        # Equal up to the order of near-equal scores: the best detections agree.
        torch.testing.assert_close(a["scores"][:5], b["scores"][:5].cpu(), rtol=1e-3, atol=1e-4)


def test_valid_mask_stays_on_the_device():
    mask = valid_mask([(16, 17)], 8, torch.zeros(1, 1, 4, 4, device="cuda"))
    assert mask.is_cuda and mask.sum() == 6


# Of cells with an operation; the others go by steps in autograd.
SWEPT = [kind for kind in CELLS if kind.__name__ not in ("PeepholeLSTM", "TiedLSTM", "MUT1", "MUT2", "MUT3", "SLSTM")]


@pytest.mark.parametrize("cell", SWEPT)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("backend", ["auto", "ours"])
def test_sweeps_agree_with_the_cpu(cell, dtype, masked, backend, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch.manual_seed(0)
    cells = torch.nn.ModuleList(cell(20) for _ in DIRECTIONS)
    x = torch.randn(2, cells[0].projection_channels, 7, 9).to(dtype)
    valid = torch.ones(2, 1, 7, 9, dtype=torch.bool)
    valid[1, :, 5:] = valid[1, :, :, 6:] = False
    grad = torch.randn(2, 80, 7, 9).to(dtype)
    found = []
    for device in ("cpu", "cuda"):
        cells.to(device)
        m = x.to(device).requires_grad_()
        y = sweep(list(cells), m, valid.to(device) if masked else None, DIRECTIONS, backend=backend)
        found.append([y, *torch.autograd.grad(y, [m, *cells.parameters()], grad.to(device))])
    # Products add in another order, and a sum of 126 gradients of a tanh RNN's matrix was seen 1.2e-4 apart on an H100.
    tolerance = {"rtol": 3e-4, "atol": 3e-4} if dtype == torch.float32 else {"rtol": 0.05, "atol": 0.1}
    for here, there in zip(*found, strict=True):
        torch.testing.assert_close(there.cpu(), here, **tolerance)


@pytest.mark.parametrize("length", [64, 65, 400])
def test_long_lines_of_s6_agree_with_the_cpu(length):
    """More than 64 locations take 8 warps."""
    torch.manual_seed(0)
    cell = S6(20)
    x, grad = torch.randn(2, cell.projection_channels, 3, length), torch.randn(2, 20, 3, length)
    found = []
    for device in ("cpu", "cuda"):
        cell.to(device)
        m = x.to(device).requires_grad_()
        y = sweep([cell], m, None, ("left",))
        found.append([y, *torch.autograd.grad(y, [m, *cell.parameters()], grad.to(device))])
    for here, there in zip(*found, strict=True):
        torch.testing.assert_close(there.cpu(), here, rtol=3e-4, atol=3e-4)


CONTEXTS = {
    "AttentionLSTM, linear": partial(AttentionLSTM, hidden_channels=8, size=5, score="linear"),
    "AttentionLSTM, additive": partial(AttentionLSTM, hidden_channels=8, size=5, score="additive"),
    "RecurrentConv": partial(RecurrentConv, hidden_channels=8),
    "RecurrentConv, gated": partial(RecurrentConv, hidden_channels=8, norm="group", gated=True),
    "SpatialRNN, diagonals": partial(SpatialRNN, hidden_channels=8, layers=(DIAGONALS,)),
    "CrossScan": partial(CrossScan, hidden_channels=8),
    "LinePropagation": partial(LinePropagation, hidden_channels=8, groups=2),
    "GridLSTM": partial(GridLSTM, hidden_channels=8),
    "GridLSTM of 2007": partial(GridLSTM, hidden_channels=8, stable=False),
    "GridLSTM, linear": partial(GridLSTM, hidden_channels=8, linear=True),
    "GridLSTM, diffusion": partial(GridLSTM, hidden_channels=40, linear=True, mode="D"),
    "ScanBlock": partial(ScanBlock, mixer=partial(SpatialRNN, hidden_channels=8)),
}


@pytest.mark.parametrize("name", CONTEXTS)
def test_contexts_agree_with_the_cpu(name, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch.manual_seed(0)
    part = CONTEXTS[name](16)
    x, valid = torch.randn(2, 16, 7, 9), torch.ones(2, 1, 7, 9, dtype=torch.bool)
    valid[1, :, 5:] = valid[1, :, :, 6:] = False
    found = []
    for device in ("cpu", "cuda"):
        part.to(device)
        m = x.to(device).requires_grad_()
        y = part(m, valid.to(device))
        found.append([y, *torch.autograd.grad(y.square().sum(), [m, *part.parameters()])])
    for here, there in zip(*found, strict=True):
        torch.testing.assert_close(there.cpu(), here, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cell", [Accumulator, MinGRU, LSTM])
def test_sweeps_compile_on_the_device(cell):
    torch.manual_seed(0)
    cells = [cell(20).cuda() for _ in DIRECTIONS]
    x = torch.randn(2, cells[0].projection_channels, 7, 9, device="cuda", requires_grad=True)
    run = torch.compile(lambda m: sweep(cells, m, None, DIRECTIONS), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(run(x), sweep(cells, x, None, DIRECTIONS), rtol=1e-3, atol=1e-3)
