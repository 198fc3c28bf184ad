"""Heads: descriptors of regions → detections at inference, losses in training."""

from detection.contracts import Head
from detection.heads.box_codes import Deltas, PixelOffsets
from detection.heads.classifier_loss import name_classes
from detection.heads.costs import Lexicographic, ReInspectCost, SetCost
from detection.heads.fast_rcnn import FastRCNN
from detection.heads.local_global import LocalGlobal
from detection.heads.lstm_decoder import LSTMDecoder
from detection.heads.sequence_head import Embed, MeetsWindow, Overlaps, SequenceHead
from detection.heads.stitching import NMS, SetNMS, Stitch

__all__ = [
    "NMS", "Deltas", "Embed", "FastRCNN", "Head", "LSTMDecoder", "Lexicographic", "LocalGlobal", "MeetsWindow",
    "Overlaps", "PixelOffsets", "ReInspectCost", "SequenceHead", "SetCost", "SetNMS", "Stitch",
    "name_classes",
]  # fmt: skip
