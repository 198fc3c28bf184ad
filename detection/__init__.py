"""Faster R-CNN whose parts are sockets, with recurrent modules that plug into them.

The names below are the public API; each is imported when it is first used, so that `import detection` costs nothing.
"""

import importlib

__version__ = "0.2.0"

_WHERE = {
    "InferenceConfig": "detection.config",
    "AttentionLSTM": "detection.context",
    "Augmentation": "detection.data.transforms",
    "Backbone": "detection.backbones",
    "CenterCell": "detection.pooling",
    "CocoIndex": "detection.data.coco_index",
    "Config": "detection.config",
    "DetectionDataset": "detection.data.dataset",
    "Detector": "detection.detector",
    "FPN": "detection.backbones",
    "FastRCNN": "detection.heads",
    "GoogLeNet": "detection.backbones",
    "GridCells": "detection.regions",
    "LocalGlobal": "detection.heads",
    "RCNN": "detection.backbones",
    "RPN": "detection.regions",
    "RecurrentConv": "detection.context",
    "RecurrentStages": "detection.backbones",
    "ResNet": "detection.backbones",
    "RoIAlign": "detection.pooling",
    "SkipPool": "detection.pooling",
    "SequenceHead": "detection.heads",
    "SegmentationLoss": "detection.segmentation",
    "Source": "detection.pooling",
    "SpatialRNN": "detection.context",
    "Timm": "detection.backbones",
    "Tiny": "detection.backbones",
    "UserError": "detection.errors",
    "VGG16": "detection.backbones",
    "add_context": "detection.insertion",
    "build_detector": "detection.detector",
    "evaluate": "detection.training.engine",
    "evaluate_detections": "detection.evaluation",
    "load_config": "detection.config",
    "load_index": "detection.data.coco_index",
    "load_pretrained": "detection.pretrained",
    "open_run": "detection.runs.folder",
    "train": "detection.training.run",
    "train_one_epoch": "detection.training.engine",
}

__all__ = sorted(_WHERE)


def __getattr__(name: str):
    if name not in _WHERE:
        raise AttributeError(f"module 'detection' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return __all__
