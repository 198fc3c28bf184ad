"""Recurrent cells, one step each, as the spatial RNN, the LSTM decoder and the attention module use them."""

from detection.cells.cell import Cell, State
from detection.cells.gated import GRU, LSTM, MUT1, MUT2, MUT3, PeepholeLSTM, TiedLSTM
from detection.cells.linear import LinearCell, MinGRU, MinLSTM
from detection.cells.recurrent import IRNN, Accumulator, IndRNN, TanhRNN

CELLS: tuple[type[Cell], ...] = (
    TanhRNN, IRNN, IndRNN, Accumulator, LSTM, PeepholeLSTM, TiedLSTM, GRU, MUT1, MUT2, MUT3, MinGRU, MinLSTM,
)  # fmt: skip
"""Cells that are compared with each other in a spatial RNN."""

__all__ = [
    "CELLS", "GRU", "IRNN", "LSTM", "MUT1", "MUT2", "MUT3", "Accumulator", "Cell", "IndRNN", "LinearCell",
    "MinGRU", "MinLSTM", "PeepholeLSTM", "State", "TanhRNN", "TiedLSTM",
]  # fmt: skip
