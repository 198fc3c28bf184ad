"""Export of a trained detector: the graph, its metadata, and the check of both before a file appears."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detection.atomic_write import atomic_write
from detection.data.coco_index import Category
from detection.detector import Detector
from detection.errors import UserError
from detection.export import predict_onnx
from detection.export.network import INPUTS, OUTPUTS, DetectorGraph
from detection.export.onnx_file import NEWEST_OPSET, OLDEST_OPSET, require_onnx, write_onnx
from detection.export.verification import Verification, score_threshold, verify
from detection.ops.sweep.traced import lines_of_any_length

DYNAMIC = {
    "images": {0: "batch", 2: "height", 3: "width"},
    "sizes": {0: "batch"},
    **{name: {0: "batch", 1: "detections"} for name in ("boxes", "labels", "scores")},
    "counts": {0: "batch"},
}
"""Axes of any size; the number of detections is not fixed in any file."""


@dataclass(frozen=True)
class ExportSettings:
    """Settings of an exported file.

    Attributes:
        size: height and width of the one batch that it takes; None: of any size, and any number of images.
        opset: version of ONNX's operators.
        score: least score of a detection that `predict_onnx.py` prints.
    """

    size: tuple[int, int] | None
    opset: int = OLDEST_OPSET
    score: float = 0.5


def default_size(detector: Detector) -> tuple[int, int]:
    """Return the height and width that hold every image as the detector resizes it."""
    stride = detector.transform.size_divisible
    side = -(-detector.max_size // stride) * stride
    return side, side


def export(
    detector: Detector,
    categories: Sequence[Category],
    path: Path,
    settings: ExportSettings,
    images: Sequence[np.ndarray],
) -> Verification:
    """Write a detector as an ONNX file, and next to it `predict_onnx.py`, unless the file differs from the detector.

    Args:
        detector: in evaluation mode, on a CPU, in float32.
        categories: of the detector.
        path: the file.
        settings: what it takes.
        images: (H, W, 3) uint8 RGB that both are run on.

    Raises:
        UserError: a part that has no ONNX form, or not for any size, or a file that differs from the detector.
    """
    require_onnx()
    script, source = path.with_name("predict_onnx.py"), Path(predict_onnx.__file__).read_bytes()
    if path.name == script.name:
        raise UserError(f"{path}: is the name of the script beside the model; give it another, such as model.onnx.")
    if os.path.lexists(script) and not (script.is_file() and script.read_bytes() == source):
        raise UserError(f"{script}: is another file; move it away, or choose another folder for the export.")
    graph = DetectorGraph(detector).eval()
    meta = metadata(detector, categories, settings)
    found: list[Verification] = []

    def write(temporary: Path) -> None:
        _trace(graph, temporary, settings, meta)
        found.append(verify(detector, temporary, images, meta))

    atomic_write(path, write)
    atomic_write(script, lambda temporary: temporary.write_bytes(source))
    return found[0]


def metadata(detector: Detector, categories: Sequence[Category], settings: ExportSettings) -> dict[str, Any]:
    """Return what a user of the file needs to know besides its inputs."""
    return {
        "categories": [{"id": c.id, "name": c.name} for c in categories],
        "min_size": detector.min_size,
        "max_size": detector.max_size,
        "size": settings.size,
        "score": settings.score,
        "image_mean": list(map(float, detector.transform.image_mean)),
        "image_std": list(map(float, detector.transform.image_std)),
        "input": "RGB in [0, 1], resized to min_size and max_size, each image in the top left; normalized in the graph",
    }


def _trace(graph: DetectorGraph, path: Path, settings: ExportSettings, meta: dict[str, Any]) -> None:
    is_dynamic = settings.size is None
    # Of a size that no check below repeats by chance; the second image is smaller than the batch.
    height, width = settings.size or (96, 160)
    sizes = torch.tensor([[height, width], [height - 17, width - 39]] if is_dynamic else [[height, width]])
    inputs = {
        "images": torch.rand(len(sizes), 3, height, width),
        "sizes": sizes,
        "score_threshold": torch.tensor(float(score_threshold(graph.detector))),
    }
    assert tuple(inputs) == INPUTS
    arguments: dict[str, Any] = {"opset": settings.opset, "constants": ["score_threshold"], "metadata": meta}
    if not is_dynamic:
        free = {name: {1: "detections"} for name in ("boxes", "labels", "scores")}
        return write_onnx(graph, inputs, OUTPUTS, path, dynamic=free, **arguments)
    with lines_of_any_length():
        write_onnx(graph, inputs, OUTPUTS, path, dynamic=DYNAMIC, **arguments)


def require_opset(opset: int) -> None:
    """Check that this version of ONNX's operators can be written.

    Raises:
        UserError: it cannot.
    """
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise UserError(f"--opset {opset}: must be between {OLDEST_OPSET} and {NEWEST_OPSET}.")
