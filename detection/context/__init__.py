"""Contexts: a feature map (B, C, H, W) and its valid cells (B, 1, H, W) → a map (B, `out_channels`, H, W).

The first argument of each is the input channels. No valid cell depends on what lies outside of `valid`, and the output
is 0 there.
"""

from detection.context.attention_lstm import AttentionLSTM
from detection.context.baselines import ConvStack, GlobalAverage, NoContext, NonLocal
from detection.context.recurrent_conv import RecurrentConv
from detection.context.spatial_rnn import SpatialRNN

__all__ = ["AttentionLSTM", "ConvStack", "GlobalAverage", "NoContext", "NonLocal", "RecurrentConv", "SpatialRNN"]
