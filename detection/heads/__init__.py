"""Heads: descriptors, boxes and targets → detections at test, losses in training."""

from detection.heads.fast_rcnn import FastRCNN
from detection.heads.local_global import LocalGlobal
from detection.heads.sequence_head import SequenceHead

__all__ = ["FastRCNN", "LocalGlobal", "SequenceHead"]
