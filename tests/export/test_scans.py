"""Sweeps in an exported file against `sweep` step by step, on lines of other lengths than the example's."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from detection.cells import (
    CELLS,
    GRU,
    IRNN,
    LSTM,
    MLSTM,
    MUT1,
    RGLRU,
    S6,
    SSD,
    Accumulator,
    IndRNN,
    MinLSTM,
    PeepholeLSTM,
    TanhRNN,
)
from detection.errors import UserError
from detection.export.boxes import settled
from detection.export.onnx_file import write_onnx
from detection.ops.sweep.dispatch import sweep, sweep_by_steps
from detection.ops.sweep.traced import lines_of_any_length

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

DIRECTIONS = ("right", "left", "up")
SIZES = {(1, 9): [(1, 9)], (17, 1): [(17, 1), (3, 1)], (12, 8): [(0, 0), (12, 8), (5, 7)]}
KINDS = {
    "minLSTM": MinLSTM,
    "RG-LRU": RGLRU,
    "RG-LRU, learned": partial(RGLRU, learned_initial_state=True),
    "accumulator": Accumulator,
    "IndRNN, learned": partial(IndRNN, learned_initial_state=True),
    "tanh, learned": partial(TanhRNN, learned_initial_state=True),
    "LSTM": LSTM,
    "peephole": PeepholeLSTM,
    "GRU": GRU,
    "GRU, before": partial(GRU, reset="before"),
    "S6": S6,
    "SSD": SSD,
    "mLSTM": MLSTM,
}
EVERY = [kind for kind in CELLS if kind not in KINDS.values()]


class Sweep(nn.Module):
    def __init__(self, cell):
        super().__init__()
        torch.manual_seed(0)
        self.cells = nn.ModuleList(cell(4) for _ in DIRECTIONS)
        for parameter in self.parameters():
            parameter.data += 0.2 * torch.rand_like(parameter) - (0.1 if not isinstance(self.cells[0], IndRNN) else 0.2)

    def forward(self, x, valid):
        return sweep(list(self.cells), x, valid, DIRECTIONS)

    def inputs(self, size, inside):
        x = torch.randn(len(inside), self.cells[0].projection_channels, *size)
        valid = torch.zeros(len(inside), 1, *size, dtype=torch.bool)
        for own, (height, width) in zip(valid, inside, strict=True):
            own[:, :height, :width] = True
        return {"x": x, "valid": valid}


def differences(module, path, sizes, dynamic):
    write_onnx(module, module.inputs((6, 7), [(6, 5), (4, 7)]), ["h"], path, opset=17, dynamic=dynamic)
    session = onnxruntime.InferenceSession(path)
    for size, inside in sizes.items():
        inputs = module.inputs(size, inside)
        expected = sweep_by_steps(list(module.cells), inputs["x"], inputs["valid"], DIRECTIONS).detach().numpy()
        (found,) = session.run(None, {name: t.numpy() for name, t in inputs.items()})
        yield np.abs(found - expected).max() / max(1, np.abs(expected).max())


ANY = {name: {0: "batch", 2: "height", 3: "width"} for name in ("x", "valid")}


@pytest.mark.parametrize("name", KINDS)
def test_a_scan_of_any_length_is_exact(name, tmp_path):
    with lines_of_any_length():
        assert max(differences(Sweep(KINDS[name]), tmp_path / "scan.onnx", SIZES, ANY)) < 1e-5


def test_a_cell_without_a_form_is_exact_at_one_size_and_refused_at_any(tmp_path):
    inside = {(6, 7): [(6, 7), (2, 3)]}
    assert max(differences(Sweep(MUT1), tmp_path / "scan.onnx", inside, None)) < 1e-5
    with lines_of_any_length(), pytest.raises(UserError, match="--dynamic: MUT1 has no ONNX operator"):
        next(differences(Sweep(MUT1), tmp_path / "scan.onnx", SIZES, ANY))


def test_a_negative_weight_of_an_indrnn_has_no_form(tmp_path):
    module = Sweep(IndRNN)
    module.cells[1].weight_hh.data[2] = -0.5
    with lines_of_any_length(), pytest.raises(UserError, match="IndRNN"):
        next(differences(module, tmp_path / "scan.onnx", SIZES, ANY))


def test_a_subclass_has_steps_of_its_own(tmp_path):
    class Own(IRNN):
        def step(self, x, state):
            return (torch.relu(x - self._recur(state[0])),)

    assert max(differences(Sweep(Own), tmp_path / "scan.onnx", {(6, 7): [(6, 7), (2, 3)]}, None)) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("cell", EVERY, ids=lambda cell: cell.__name__)
def test_every_other_cell_is_exact(cell, tmp_path):
    assert max(differences(Sweep(cell), tmp_path / "scan.onnx", {(6, 7): [(6, 7), (2, 3)]}, None)) < 1e-5


class Settle(nn.Module):
    def forward(self, over):
        return settled(over)


def test_what_settles_is_the_greedy_answer(tmp_path):
    write_onnx(Settle(), {"over": torch.zeros(1, 3, 3)}, ["kept"], tmp_path / "settle.onnx", opset=17,
               dynamic={"over": {0: "batch", 1: "boxes", 2: "boxes"}})  # fmt: skip
    session = onnxruntime.InferenceSession(tmp_path / "settle.onnx")
    generator = np.random.default_rng(0)
    chain = np.eye(40, k=1, dtype=np.float32)[None]  # each suppresses the next: every second one stays
    for over in (chain, np.triu(generator.random((2, 30, 30)) < 0.1, 1).astype(np.float32)):
        (kept,) = session.run(None, {"over": over})
        for own, found in zip(over, kept, strict=True):
            wanted = np.zeros(len(own), bool)
            for box in range(len(own)):
                wanted[box] = not own[wanted, box].any()
            assert (found == wanted).all()
