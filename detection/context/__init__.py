"""Contexts, the second pluggable part of a detector: `detection.contracts.Context` states what each does."""

from detection.context.attention_lstm import AttentionLSTM
from detection.context.baselines import ConvStack, GlobalAverage, NoContext, NonLocal
from detection.context.cross_scan import CrossScan
from detection.context.grid_lstm import GridLSTM
from detection.context.large_kernel import LargeKernel
from detection.context.line_propagation import LinePropagation
from detection.context.recurrent_conv import RecurrentConv
from detection.context.scan_block import ScanBlock
from detection.context.self_attention import SelfAttention
from detection.context.spatial_rnn import SpatialRNN

__all__ = [
    "AttentionLSTM",
    "ConvStack",
    "CrossScan",
    "GlobalAverage",
    "GridLSTM",
    "LargeKernel",
    "LinePropagation",
    "NoContext",
    "NonLocal",
    "RecurrentConv",
    "ScanBlock",
    "SelfAttention",
    "SpatialRNN",
]
