"""An exported file, run by ONNX Runtime, against the detector that it was made of."""

# B images, N and M detections of one image by the detector and by the file.

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.models.detection.image_list import ImageList

from detection.contracts import Detections
from detection.detector import Detector
from detection.errors import UserError
from detection.export import predict_onnx
from detection.heads import LocalGlobal, SequenceHead
from detection.heads.stitching import NMS, SetNMS
from detection.image_batch import inside_images
from detection.ops.box_iou import pairwise_iou

MAX_PIXELS = 1e-2
"""Most by which a box may differ, in pixels of the batch."""

MAX_SCORE = 1e-4
"""Most by which a score may differ; what is decided by less (a threshold, the order of two boxes in NMS) may be
decided otherwise."""

BATCHES = (1, 2, 3)
"""Sizes of the batches that a file for any size is run with, in turn."""


@dataclass
class Verification:
    """A comparison of detections.

    Attributes:
        threshold: score that they are above.
        lowered: whether that is less than the detector's own, above which nothing was found.
        images: how many there were.
        compared: pairs of detections.
        undecided: detections left out, because less than `MAX_SCORE` decided about them.
        pixels: largest difference of two boxes.
        score: largest difference of two scores.
        batches: shapes of the batches.
        timed: images of all batches but the first, which warms up.
        torch_seconds, onnx_seconds: time for these.
    """

    threshold: float
    lowered: bool = False
    images: int = 0
    compared: int = 0
    undecided: int = 0
    pixels: float = 0.0
    score: float = 0.0
    batches: list[tuple[int, ...]] = field(default_factory=list)
    timed: int = 0
    torch_seconds: float = 0.0
    onnx_seconds: float = 0.0


def verify(detector: Detector, path: Path, images: Sequence[np.ndarray], meta: dict[str, Any]) -> Verification:
    """Compare a file with the detector.

    Args:
        detector: in evaluation mode, on a CPU.
        path: the file.
        images: (H, W, 3) uint8 RGB.
        meta: the file's metadata.

    Raises:
        UserError: a detection differs, or there is none to compare.
    """
    batches = list(_batches(images, meta))
    threshold = _visible_threshold(detector, batches)
    session, found = _session(path, threshold), Verification(threshold, threshold < score_threshold(detector))
    with _settings(detector, threshold):
        for number, inputs in enumerate(batches):
            began = time.perf_counter()
            expected = reference(detector, inputs)
            middle = time.perf_counter()
            outputs = session.run(None, inputs)
            end = time.perf_counter()
            found.batches.append(inputs["images"].shape)
            if number or len(batches) == 1:
                found.timed += len(inputs["sizes"])
                found.torch_seconds += middle - began
                found.onnx_seconds += end - middle
            candidates = _candidates(detector, inputs, threshold)
            for place, (own, all_of_it) in enumerate(zip(expected, candidates, strict=True)):
                found.images += 1
                _compare(own, _image(outputs, place), all_of_it, detector, found)
    if not found.compared:
        raise UserError(
            f"all of the {found.undecided} detections in {found.images} images are within {MAX_SCORE:g} of the score "
            f"threshold {threshold:.3g}, so that nothing could be compared; give other images with --images."
        )
    return found


def _batches(images: Sequence[np.ndarray], meta: dict[str, Any]) -> Iterator[dict[str, np.ndarray]]:
    """Yield inputs; each image also comes cropped, so that not every image fills its batch."""
    every = [predict_onnx.prepare(own, meta) for n, image in enumerate(images) for own in (_cropped(image, n), image)]
    if meta["size"]:
        yield from (predict_onnx.batched([image], meta) for image in every)
        return
    number = 0
    while every:
        size = BATCHES[number % len(BATCHES)]
        yield predict_onnx.batched(every[:size], meta)
        every, number = every[size:], number + 1


def _cropped(image: np.ndarray, number: int) -> np.ndarray:
    """Return three quarters of an image, of its height and of its width in turn."""
    height, width = image.shape[:2]
    return image[:, : -(-width * 3 // 4)] if number % 2 else image[: -(-height * 3 // 4)]


@torch.no_grad()
def reference(detector: Detector, inputs: dict[str, np.ndarray]) -> Detections:
    """Return the detector's own detections on the inputs of a file, which are resized already."""
    images, stride = torch.from_numpy(inputs["images"]), detector.transform.size_divisible
    sizes = [(height, width) for height, width in inputs["sizes"].tolist()]
    height, width = (-(-side // stride) * stride for side in images.shape[-2:])
    images = torch.nn.functional.pad(images, (0, width - images.shape[-1], 0, height - images.shape[-2]))
    mean, std = (torch.tensor(v)[:, None, None] for v in (detector.transform.image_mean, detector.transform.image_std))
    inside = inside_images(sizes, height, width, images.device)[:, None]
    return detector.detect(ImageList(torch.where(inside, (images - mean) / std, 0.0), sizes))


def _session(path: Path, threshold: float) -> Any:
    """Open the file, with another threshold than its own where that is asked for."""
    import onnx
    import onnxruntime

    model = onnx.load(path)
    (constant,) = (t for t in model.graph.initializer if t.name == "score_threshold")
    constant.CopyFrom(onnx.numpy_helper.from_array(np.array(threshold, np.float32), constant.name))
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def _image(outputs: Sequence[np.ndarray], place: int) -> dict[str, Tensor]:
    count = outputs[3][place]
    names = ("boxes", "labels", "scores")
    return {name: torch.from_numpy(values[place, :count]) for name, values in zip(names, outputs, strict=False)}


def score_threshold(detector: Detector) -> float:
    """Return the score that detections are above."""
    head = detector.head
    if isinstance(head, SequenceHead):
        return head.score_threshold
    return (head.fast_rcnn if isinstance(head, LocalGlobal) else head).roi_heads.score_thresh  # type: ignore[union-attr]


@contextmanager
def _settings(detector: Detector, threshold: float, all_candidates: bool = False) -> Iterator[None]:
    """Detect above this threshold, and with `all_candidates` without NMS, of any number."""
    head = detector.head
    if isinstance(head, SequenceHead):
        owner, wanted = head, {"score_threshold": threshold}
        everything = {"postprocess": NMS(1.0), "detections_per_image": 10**9}
    else:
        owner = (head.fast_rcnn if isinstance(head, LocalGlobal) else head).roi_heads  # type: ignore[union-attr]
        wanted, everything = {"score_thresh": threshold}, {"nms_thresh": 1.0, "detections_per_img": 10**9}
    wanted = {**wanted, **(everything if all_candidates else {})}
    before = {name: getattr(owner, name) for name in wanted}
    for name, value in wanted.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


def _visible_threshold(detector: Detector, batches: Sequence[dict[str, np.ndarray]]) -> float:
    """Return the detector's threshold, or half of the best score where nothing is above it.

    Raises:
        UserError: nothing has any score.
    """
    own, best = score_threshold(detector), 0.0
    for threshold in (own, 0.0):
        with _settings(detector, threshold):
            for inputs in batches:
                scores = [found["scores"] for found in reference(detector, inputs)]
                best = max(best, *(float(s.max()) if len(s) else 0.0 for s in scores))
                if best > own + MAX_SCORE:
                    return own
    if best <= 0:
        raise UserError(
            "the detector finds nothing in these images at any score, so that the file cannot be compared with it; "
            "give other images with --images."
        )
    return best / 2


def _candidates(detector: Detector, inputs: dict[str, np.ndarray], threshold: float) -> Detections:
    with _settings(detector, threshold, all_candidates=True):
        return reference(detector, inputs)


def _compare(
    expected: dict[str, Tensor],
    found: dict[str, Tensor],
    candidates: dict[str, Tensor],
    detector: Detector,
    result: Verification,
) -> None:
    """Compare the detections of one image, by class and IoU, and add what is found to `result`.

    Raises:
        UserError: a pair that differs, or a detection without one.
    """
    same_class = expected["labels"][:, None] == found["labels"]
    overlaps = pairwise_iou(expected["boxes"], found["boxes"])[0].nan_to_num(0) * same_class  # (N, M)
    rows, columns = linear_sum_assignment(overlaps.numpy(), maximize=True)
    open_rows, open_columns = set(range(len(expected["scores"]))), set(range(len(found["scores"])))
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        pixels = float((expected["boxes"][row] - found["boxes"][column]).abs().max())
        score = float((expected["scores"][row] - found["scores"][column]).abs())
        if overlaps[row, column] > 0 and pixels <= MAX_PIXELS and score <= MAX_SCORE:
            result.compared += 1
            result.pixels, result.score = max(result.pixels, pixels), max(result.score, score)
            open_rows.remove(row)
            open_columns.remove(column)
    for origin, own, rest in (("detector", expected, open_rows), ("file", found, open_columns)):
        for row in rest:
            if not _is_undecided(own, row, candidates, detector, result.threshold, len(expected["scores"])):
                box, other = own["boxes"][row], found if own is expected else expected
                raise UserError(_difference(origin, own, row, other, result.threshold, box))
            result.undecided += 1


def _is_undecided(
    own: dict[str, Tensor],
    row: int,
    candidates: dict[str, Tensor],
    detector: Detector,
    threshold: float,
    count: int,
) -> bool:
    """Return whether less than `MAX_SCORE` decides that an image has this detection."""
    score, iou, most = float(own["scores"][row]), *_nms(detector)
    # Just above the threshold, or the last of as many as are kept at most.
    if score <= threshold + MAX_SCORE:
        return True
    if count >= most and score <= float(own["scores"].min()) + MAX_SCORE:
        return True
    overlap = pairwise_iou(own["boxes"][row : row + 1], candidates["boxes"])[0][0]
    near = candidates["labels"] == own["labels"][row]
    tied = (candidates["scores"] - score).abs() <= MAX_SCORE
    distance = (candidates["boxes"] - own["boxes"][row]).abs().amax(1)
    is_candidate = (near & tied & (distance <= MAX_PIXELS)).any()
    # Another candidate that suppresses it, or not, by the order of nearly equal scores or an IoU close to the limit.
    rival = near & (distance > MAX_PIXELS) & ((overlap > iou) & tied | ((overlap - iou).abs() <= MAX_SCORE))
    return bool(is_candidate & rival.any())


def _nms(detector: Detector) -> tuple[float, int]:
    """Return the IoU over which a detection is dropped, and the most detections of an image."""
    head = detector.head
    if isinstance(head, SequenceHead):
        assert isinstance(head.postprocess, NMS | SetNMS)
        return head.postprocess.iou, head.detections_per_image
    heads = (head.fast_rcnn if isinstance(head, LocalGlobal) else head).roi_heads  # type: ignore[union-attr]
    return heads.nms_thresh, heads.detections_per_img  # type: ignore[return-value]


def _difference(
    origin: str, own: dict[str, Tensor], row: int, other: dict[str, Tensor], threshold: float, box: Tensor
) -> str:
    corners = ", ".join(f"{side:.2f}" for side in box.tolist())
    text = (
        f"the {origin} has a detection of class {int(own['labels'][row])}, score {own['scores'][row]:.5f}, at {corners}"
    )
    overlap = pairwise_iou(box[None], other["boxes"])[0][0] * (other["labels"] == own["labels"][row])
    if not len(overlap) or overlap.max() < 0.5:
        return f"the file differs from the detector: {text}, which the other lacks; no file was written."
    nearest = int(overlap.argmax())
    pixels = float((other["boxes"][nearest] - box).abs().max())
    score = float((other["scores"][nearest] - own["scores"][row]).abs())
    return (
        f"the file differs from the detector: {text}, and the other's is {pixels:.3g} pixels and a score of "
        f"{score:.2g} away (allowed: {MAX_PIXELS:g} and {MAX_SCORE:g}); no file was written."
    )
