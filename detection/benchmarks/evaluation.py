"""COCO metrics of 200 000 detections: pycocotools against hotcoco."""

import time

import numpy as np

from detection.analysis.timing import Measurements
from detection.evaluation.coco import coco_metrics


def benchmark_evaluation(device: str) -> Measurements:
    """Measure 80 classes, 7 ground-truth boxes and 100 detections an image, a third of them near a ground-truth box."""
    rng = np.random.default_rng(0)
    images, targets, found = 2000, 14_000, 200_000
    boxes = np.concatenate([rng.uniform(0, 400, (targets, 2)), rng.uniform(10, 200, (targets, 2))], axis=1)
    owners, labels = rng.integers(1, images + 1, targets), rng.integers(1, 81, targets)
    near = rng.integers(0, targets, found)
    shift = np.where(rng.random(found) < 1 / 3, 5, 200)[:, None]
    guesses = np.abs(boxes[near] + rng.normal(0, 1, (found, 4)) * shift) + 1
    ground_truth = {
        "images": [{"id": i, "width": 640, "height": 640} for i in range(1, images + 1)],
        "categories": [{"id": k, "name": str(k)} for k in range(1, 81)],
        "annotations": [
            {"id": i, "image_id": int(o), "category_id": int(c), "bbox": b, "area": b[2] * b[3], "iscrowd": 0}
            for i, (o, c, b) in enumerate(zip(owners, labels, boxes.tolist(), strict=True), start=1)
        ],
    }
    rows = zip(near, guesses.tolist(), rng.random(found).tolist(), strict=True)
    results = [{"image_id": int(owners[n]), "category_id": int(labels[n]), "bbox": b, "score": s} for n, b, s in rows]
    times, metrics = {}, {}
    for backend in ("pycocotools", "hotcoco"):
        began = time.perf_counter()
        metrics[backend] = coco_metrics(ground_truth, results, backend)
        times[backend] = time.perf_counter() - began
        del metrics[backend]["backend"]
    equal = metrics["hotcoco"] == metrics["pycocotools"]
    return {**{f"{name} (s)": seconds for name, seconds in times.items()}, "equal metrics": str(equal)}
