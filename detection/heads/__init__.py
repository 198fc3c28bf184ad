"""Heads: descriptors, boxes and targets → detections at test, losses in training."""

from detection.heads.fast_rcnn import FastRCNN

__all__ = ["FastRCNN"]
