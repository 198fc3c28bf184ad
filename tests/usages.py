# pyright: strict
"""The public API as its users write it; `test_public_api.py` has pyright read this file, and nothing runs it."""

from functools import partial
from pathlib import Path
from typing import Any, assert_type

import numpy as np
from accelerate import Accelerator  # pyright: ignore[reportMissingTypeStubs]
from PIL import Image
from torch import Tensor, nn

from detection import (
    FPN,
    GRU,
    IRNN,
    LSTM,
    MLSTM,
    MUT1,
    MUT2,
    MUT3,
    RCNN,
    RGLRU,
    RPN,
    S6,
    SLSTM,
    SSD,
    VGG16,
    Accumulator,
    AttentionLSTM,
    Augmentation,
    Backbone,
    Cell,
    CenterCell,
    CocoIndex,
    Config,
    Context,
    DetectionDataset,
    Detections,
    Detector,
    DetectorConfig,
    FastRCNN,
    GatedLinear,
    GoogLeNet,
    GridCells,
    Head,
    IndRNN,
    InferenceConfig,
    LocalGlobal,
    MinGRU,
    MinLSTM,
    PeepholeLSTM,
    Pool,
    Predictor,
    RecurrentConv,
    RecurrentStages,
    Regions,
    ResNet,
    RoIAlign,
    SegmentationLoss,
    SequenceHead,
    SkipPool,
    Source,
    SpatialRNN,
    TanhRNN,
    TiedLSTM,
    Tiles,
    Timm,
    Tiny,
    UserError,
    add_context,
    build_detector,
    evaluate,
    evaluate_detections,
    load_config,
    load_index,
    load_pretrained,
    open_run,
    train,
    train_one_epoch,
    with_context,
)
from detection.data.coco_index import Category
from detection.weights import LoadReport

BACKBONES: list[type[Backbone]] = [FPN, GoogLeNet, RCNN, RecurrentStages, ResNet, Timm, Tiny, VGG16]
CONTEXTS: list[type[Context]] = [AttentionLSTM, RecurrentConv, SpatialRNN]
REGIONS: list[type[Regions]] = [GridCells, RPN]
POOLS: list[type[Pool]] = [CenterCell, RoIAlign, SkipPool]
HEADS: list[type[Head]] = [FastRCNN, LocalGlobal, SequenceHead]
CELLS: list[type[Cell]] = [
    GRU, IRNN, LSTM, MUT1, MUT2, MUT3, RGLRU, Accumulator, GatedLinear, IndRNN, MinGRU, MinLSTM, PeepholeLSTM, TanhRNN,
    TiedLSTM, S6, SSD, MLSTM, SLSTM,
]  # fmt: skip
MODULES: list[type[nn.Module]] = [Detector, SegmentationLoss]


def predict(run: Path, photo: np.ndarray[Any, np.dtype[np.uint8]], tensor: Tensor, image: Image.Image) -> None:
    predictor = Predictor(run, device="cpu", score=0.5, trust=["mylab"])
    assert_type(predictor.score, float)
    assert_type(predictor.detector, Detector)
    found = predictor("photo.jpg")
    assert_type(found, Detections)
    assert_type(predictor(photo), Detections)
    assert_type(predictor(tensor), Detections)
    assert_type(predictor([run, image, photo], batch_size=8), list[Detections])
    assert_type(predictor([photo], tiles=Tiles(640, overlap=0.3)), list[Detections])
    assert_type(predictor(photo, tiles=640), Detections)
    assert_type(predictor(["a.jpg", "b.jpg"]), list[Detections])
    assert_type(found.boxes, Tensor)
    assert_type(found.scores, Tensor)
    assert_type(found.labels, Tensor)
    assert_type(found.names, list[str])
    assert_type(found.image_size, tuple[int, int])
    assert_type(found.to_coco(image_id=1), list[dict[str, Any]])
    assert_type(found.draw(image), Image.Image)


def build(images: list[Tensor]) -> None:
    config = load_config("configs/finetune.py", ["schedule.epochs=1"])
    assert_type(config, Config)
    assert_type(config.detector, DetectorConfig)
    assert_type(config.detector.inference, InferenceConfig)
    assert_type(config.data.augmentation, Augmentation | None)
    detector = build_detector(config.detector, num_classes=2)
    assert_type(detector, Detector)
    assert_type(load_pretrained(detector, config.detector.weights), list[LoadReport])
    assert_type(add_context(detector, partial(SpatialRNN, hidden_channels=64), "p4"), Detector)
    settings = with_context(config.detector, partial(SpatialRNN, hidden_channels=64), "p3", output_size=5)
    assert_type(settings, DetectorConfig)
    assert_type(detector.forward(images), list[dict[str, Tensor]] | dict[str, Tensor])


def reopen_and_evaluate(accelerator: Accelerator, batches: list[tuple[list[Tensor], list[dict[str, Any]]]]) -> None:
    try:
        detector, categories, config = open_run("runs/quickstart", device="cpu", checkpoint="last")
    except UserError:
        return
    assert_type(detector, Detector)
    assert_type(categories, tuple[Category, ...])
    assert_type(config, Config)
    results = evaluate(detector, batches, accelerator, categories)
    assert_type(results, list[dict[str, Any]])
    index = load_index("val.json")
    assert_type(index, CocoIndex)
    assert_type(len(DetectionDataset(index, Path("val"))), int)
    assert_type(evaluate_detections({"images": [], "annotations": [], "categories": []}, results), dict[str, Any])


PART = partial(SkipPool, sources=(Source(("c4",), norm="channels"), Source(("context",))))
assert_type(PART, partial[SkipPool])
assert_type(train_one_epoch.__name__, str)
assert_type(train.__name__, str)
