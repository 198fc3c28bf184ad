"""Faster R-CNN of five pluggable parts, with recurrent context modules.

The names below are the public API; each is imported when it is first used, so that `import detection` costs nothing.
"""

from typing import TYPE_CHECKING

__version__ = "0.2.0"

__all__ = [
    "FPN", "GRU", "IRNN", "LSTM", "MLSTM", "MUT1", "MUT2", "MUT3", "RCNN", "RGLRU", "RPN", "S6", "SLSTM", "SSD",
    "VGG16", "Accumulator", "AttentionLSTM", "Augmentation", "Backbone", "Cell", "CenterCell", "CocoIndex", "Config",
    "Context", "DetectionDataset", "Detections", "Detector", "DetectorConfig", "FastRCNN", "GatedLinear", "GoogLeNet",
    "GridCells", "Head", "IndRNN", "InferenceConfig", "LocalGlobal", "MinGRU", "MinLSTM", "PeepholeLSTM", "Pool",
    "Predictor", "RecurrentConv", "RecurrentStages", "Regions", "ResNet", "RoIAlign", "SegmentationLoss",
    "SequenceHead", "SkipPool", "Source", "SpatialRNN", "TanhRNN", "TiedLSTM", "Tiles", "Timm", "Tiny", "UserError",
    "add_context", "build_detector", "evaluate", "evaluate_detections", "load_config", "load_index", "load_pretrained",
    "open_run", "train", "train_one_epoch", "with_context",
]  # fmt: skip

if TYPE_CHECKING:
    from detection.backbones import FPN, RCNN, VGG16, Backbone, GoogLeNet, RecurrentStages, ResNet, Timm, Tiny
    from detection.cells.cell import Cell
    from detection.cells.gated import GRU, LSTM, MUT1, MUT2, MUT3, PeepholeLSTM, TiedLSTM
    from detection.cells.linear import RGLRU, GatedLinear, MinGRU, MinLSTM
    from detection.cells.matrix_memory import MLSTM, SLSTM
    from detection.cells.recurrent import IRNN, Accumulator, IndRNN, TanhRNN
    from detection.cells.state_space import S6, SSD
    from detection.config import Augmentation, Config, DetectorConfig, InferenceConfig, load_config
    from detection.context import AttentionLSTM, RecurrentConv, SpatialRNN
    from detection.contracts import Context, Head, Pool, Regions
    from detection.data.coco_index import CocoIndex, load_index
    from detection.data.dataset import DetectionDataset
    from detection.detector import Detector, build_detector
    from detection.errors import UserError
    from detection.evaluation import evaluate_detections
    from detection.heads import FastRCNN, LocalGlobal, SequenceHead
    from detection.insertion import add_context, with_context
    from detection.pooling import CenterCell, RoIAlign, SkipPool, Source
    from detection.predictor import Detections, Predictor
    from detection.pretrained import load_pretrained
    from detection.regions import RPN, GridCells
    from detection.runs.folder import open_run
    from detection.segmentation import SegmentationLoss
    from detection.tiles import Tiles
    from detection.training.engine import evaluate, train_one_epoch
    from detection.training.run import train
else:

    def __getattr__(name: str):
        """Import a public name from the module that the block above names."""
        import importlib

        if name not in __all__:
            raise AttributeError(f"module 'detection' has no attribute {name!r}")
        value = globals()[name] = getattr(importlib.import_module(_modules()[name]), name)
        return value

    def __dir__() -> list[str]:
        return __all__

    def _modules() -> dict[str, str]:
        """The module of each public name, read from the imports above instead of a second list."""
        import ast
        from pathlib import Path

        nodes = ast.walk(ast.parse(Path(__file__).read_text(encoding="utf-8")))
        return {alias.name: node.module for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}
