"""COCO's twelve metrics for boxes: pycocotools is the reference, hotcoco a fast backend with bit-equal arrays.

Lin et al., "Microsoft COCO", ECCV 2014. Ids are renumbered in memory: pycocotools takes a match with annotation id 0
for no match. The backends give precision and recall; both are averaged by one function.
"""

import contextlib
import importlib.util
import io
from typing import Any, Literal

import numpy as np

from detection.errors import UserError
from detection.evaluation.columns import CocoDataset, CocoResults, class_names, known_results, positions

AP_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
METRICS = (*AP_METRICS, "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")

Arrays = tuple[np.ndarray, np.ndarray]
BackendName = Literal["auto", "pycocotools", "hotcoco"]


def coco_metrics(ground_truth: CocoDataset, results: CocoResults, backend: BackendName = "auto") -> dict[str, Any]:
    """Evaluate results by COCO's rules; those on images or categories that the ground truth lacks are left out.

    `auto` takes the backend hotcoco where it is installed; the metrics are the same.

    Returns:
        `METRICS` (-1 where there is no ground truth), `per_class` (`AP` and `AP50` by class name) and `backend` (the
        one used).

    Raises:
        UserError: hotcoco is asked for and not installed.
    """
    if backend == "auto":
        backend = "hotcoco" if importlib.util.find_spec("hotcoco") else "pycocotools"
    precision, recall = BACKENDS[backend](*renumbered(ground_truth, results))
    metrics = dict(zip(METRICS, _summary(precision, recall), strict=True))
    per_class = {
        # Of all sizes (0), with 100 detections an image (-1).
        name: {"AP": _mean(precision[:, :, k, 0, -1]), "AP50": _mean(precision[0, :, k, 0, -1])}
        for k, name in enumerate(class_names(ground_truth).values())
    }
    return {**metrics, "per_class": per_class, "backend": backend}


def renumbered(ground_truth: CocoDataset, results: CocoResults) -> tuple[CocoDataset, CocoDataset]:
    """Convert ground truth and results to COCO dataset dicts with all ids counted from 1, in the same order."""
    images, categories = positions(ground_truth["images"]), positions(ground_truth["categories"])
    shared = {
        "images": [{"id": i + 1, "file_name": "", "width": 0, "height": 0} for i in range(len(images))],
        "categories": [{"id": k + 1, "name": str(k + 1)} for k in range(len(categories))],
    }

    def annotation(number: int, item: dict[str, Any], **more: float) -> dict[str, Any]:
        place = {"image_id": images[item["image_id"]] + 1, "category_id": categories[item["category_id"]] + 1}
        return {"id": number, **place, "bbox": [float(value) for value in item["bbox"]], **more}

    # COCO sorts objects into sizes by the annotation's area, which counts the mask's pixels, and detections by their
    # box's.
    targets = [
        annotation(n, a, area=float(a.get("area", a["bbox"][2] * a["bbox"][3])), iscrowd=int(a.get("iscrowd", 0)))
        for n, a in enumerate(ground_truth["annotations"], start=1)
    ]
    detections = [
        annotation(n, r, area=float(r["bbox"][2]) * float(r["bbox"][3]), iscrowd=0, score=float(r["score"]))
        for n, r in enumerate(known_results(ground_truth, results), start=1)
    ]
    return {**shared, "annotations": targets}, {**shared, "annotations": detections}


def match_images(ground_truth: CocoDataset, results: CocoResults) -> Any:
    """Run pycocotools' `COCOeval` up to `evalImgs`, the matches of each image, without accumulating them."""
    return _evaluated(*renumbered(ground_truth, results))


def _pycocotools(ground_truth: CocoDataset, detections: CocoDataset) -> Arrays:
    evaluation = _evaluated(ground_truth, detections)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.accumulate()
    return evaluation.eval["precision"], evaluation.eval["recall"]


def _evaluated(ground_truth: CocoDataset, detections: CocoDataset) -> Any:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def index(dataset: Any) -> COCO:
        coco = COCO()
        coco.dataset = dataset
        coco.createIndex()
        return coco

    # Detections are indexed as a data set, because `loadRes` fails on an empty list.
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(index(ground_truth), index(detections), "bbox")
        evaluation.evaluate()
    return evaluation


def _hotcoco(ground_truth: CocoDataset, detections: CocoDataset) -> Arrays:
    try:
        import hotcoco
    except ImportError:
        raise UserError(
            "The backend hotcoco is not installed: pip install 'context-detection[fast-eval]', or use pycocotools."
        ) from None

    evaluation = hotcoco.COCOeval(hotcoco.COCO(ground_truth), hotcoco.COCO(detections), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    arrays = evaluation.eval
    assert arrays is not None
    return np.asarray(arrays["precision"]), np.asarray(arrays["recall"])


BACKENDS = {"pycocotools": _pycocotools, "hotcoco": _hotcoco}


def _mean(values: np.ndarray) -> float:
    """Mean of the defined entries; COCO marks undefined ones by -1, and so does this if none is defined."""
    values = values[values > -1]
    return float(np.mean(values)) if values.size else -1.0


def _summary(precision: np.ndarray, recall: np.ndarray) -> list[float]:
    """Compute the twelve metrics of arrays (10, 101, K, 4, 3) and, without the second axis, (10, K, 4, 3).

    The axes are IoU threshold (0.50 … 0.95), recall (0 … 1), class, size (all, small, medium, large) and most
    detections of an image (1, 10, 100).
    """
    average_precision = [precision[..., 0, 2], precision[0, ..., 0, 2], precision[5, ..., 0, 2]]
    average_precision += [precision[..., size, 2] for size in (1, 2, 3)]
    average_recall = [recall[..., 0, most] for most in (0, 1, 2)] + [recall[..., size, 2] for size in (1, 2, 3)]
    return [_mean(values) for values in average_precision + average_recall]
