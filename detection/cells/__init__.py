"""Recurrent cells, one step each, as the spatial RNN, the LSTM decoder and the attention module use them."""

from detection.cells.cell import Cell, ScannedCell, State, build_cell, with_short_memory
from detection.cells.gated import GRU, LSTM, MUT1, MUT2, MUT3, PeepholeLSTM, TiedLSTM
from detection.cells.initialization import (
    Initialization,
    chrono,
    forget_bias,
    framework_default,
    orthogonal,
    scaled_identity,
    uniform_decay,
    uniform_gate,
)
from detection.cells.linear import RGLRU, GatedLinear, LinearCell, MinGRU, MinLSTM
from detection.cells.matrix_memory import MLSTM, SLSTM
from detection.cells.recurrent import IRNN, Accumulator, IndRNN, TanhRNN
from detection.cells.state_space import S6, SSD, StateSpace

CELLS: tuple[type[Cell], ...] = (
    TanhRNN, IRNN, IndRNN, Accumulator, LSTM, PeepholeLSTM, TiedLSTM, GRU, MUT1, MUT2, MUT3, MinGRU, MinLSTM,
    GatedLinear, RGLRU, S6, SSD, MLSTM, SLSTM,
)  # fmt: skip
"""Cells that are compared with each other in a spatial RNN."""

__all__ = [
    "CELLS", "GRU", "IRNN", "LSTM", "MLSTM", "MUT1", "MUT2", "MUT3", "RGLRU", "S6", "SLSTM", "SSD", "Accumulator",
    "Cell", "GatedLinear", "IndRNN", "Initialization", "LinearCell", "MinGRU", "MinLSTM", "PeepholeLSTM",
    "ScannedCell", "State", "StateSpace", "TanhRNN", "TiedLSTM", "build_cell", "chrono", "forget_bias",
    "framework_default", "orthogonal", "scaled_identity", "uniform_decay", "uniform_gate", "with_short_memory",
]  # fmt: skip
