"""Metrics for crowds: AP50, EER, error of the count, miss rate, Jaccard index and recall of overlapping boxes.

AP, EER and COUNT are those of ReInspect (Stewart, Andriluka, Ng, CVPR 2016), MR that of Dollár et al. (TPAMI 2012),
which CrowdHuman (Shao et al., 2018) uses too, and JI that of CrowdDet (Chu et al., CVPR 2020). Their
definitions are in `operating_points.py`, `counting.py` and `jaccard.py`. -1 stands for a metric that is not defined.

Shapes: N ground-truth boxes.
"""

from typing import Any

import numpy as np

from detection.evaluation.coco import coco_metrics
from detection.evaluation.columns import CocoDataset, CocoResults, GroundTruthColumns, class_names
from detection.evaluation.counting import counting, two_fold_count
from detection.evaluation.curves import Matching
from detection.evaluation.jaccard import jaccard_indices
from detection.evaluation.matching import image_sizes, overlapping_pairs
from detection.evaluation.operating_points import equal_error, match_all, miss_rate, operating_points

CROWD_METRICS = ("AP50", "EER", "COUNT", "MR", "JI", "overlapping_recall", "overlapping_recall_at_EER")


def overlapping_ground_truth(targets: GroundTruthColumns, iou: float = 0.3) -> np.ndarray:
    """Mask of ground-truth boxes, no crowds, that overlap another one of their image and class, (N,)."""
    first, second, _ = overlapping_pairs(targets, targets, iou)
    real = (first != second) & ~targets.crowd[first] & ~targets.crowd[second]
    return np.bincount(first[real], minlength=len(targets.box)) > 0


def found_ground_truth(matching: Matching, threshold: float = -np.inf) -> np.ndarray:
    """Mask of ground-truth boxes that are matched by detections down to a score, (N,)."""
    kept = (matching.matched >= 0) & (matching.detections.score >= threshold)
    return np.bincount(matching.matched[kept], minlength=len(matching.targets.box)) > 0


def crowd_metrics(
    ground_truth: CocoDataset, results: CocoResults, count_threshold: float | None = None
) -> dict[str, Any]:
    """Compute all metrics for crowds.

    4370 images with 23 ground-truth boxes and 100 detections each take 13 seconds of one slow core. COUNT counts scores
    from `count_threshold`, chosen on other images by `choose_count_threshold`; None chooses it on each half of the
    images for the other, as `two_fold_count` does.

    Returns:
        Plain data: `CROWD_METRICS`, each the mean of the classes where it is defined; `count_thresholds` (the one
        given, or the two chosen); `per_class` by name with the same, `EER_score`, `JI_score` and the numbers of
        `ground_truth` boxes and `overlapping_ground_truth` (IoU 0.3 or more with another); `images`, `ground_truth`,
        `overlapping_ground_truth`, `detections`.
    """
    matching, num_images = match_all(ground_truth, results), len(ground_truth["images"])
    counts = counting(matching, num_images)
    if count_threshold is None:
        count, thresholds = two_fold_count(counts)
    else:
        count, thresholds = counts.errors(np.full(num_images, count_threshold)), [count_threshold]
    ap50 = coco_metrics(ground_truth, results)["per_class"]
    jaccard = jaccard_indices(matching.targets, matching.detections, image_sizes(ground_truth))
    per_class = {
        name: _class_metrics(matching, num_images, category)
        | {"AP50": ap50[name]["AP50"], "COUNT": _mean([count[category]])}
        | dict(zip(("JI", "JI_score"), jaccard[category], strict=True))
        for category, name in enumerate(class_names(ground_truth).values())
    }
    classes = per_class.values()
    sums = {key: sum(metrics[key] for metrics in classes) for key in ("ground_truth", "overlapping_ground_truth")}
    means = {key: _mean([metrics[key] for metrics in classes]) for key in CROWD_METRICS}
    means |= {"count_thresholds": thresholds, "per_class": per_class, "images": num_images}
    return means | sums | {"detections": len(results)}


def _class_metrics(matching: Matching, num_images: int, category: int) -> dict[str, Any]:
    """EER, MR and the recalls of overlapping ground-truth boxes of one class."""
    points = operating_points(matching, num_images, category)
    equal, score = equal_error(points)
    overlapping = overlapping_ground_truth(matching.targets) & (matching.targets.category == category)
    at_equal = score if score != -1 else -np.inf
    return {
        "EER": equal,
        "EER_score": score,
        "MR": miss_rate(points),
        "overlapping_recall": _share(found_ground_truth(matching), overlapping),
        "overlapping_recall_at_EER": _share(found_ground_truth(matching, at_equal), overlapping),
        "ground_truth": points.num_ground_truth,
        "overlapping_ground_truth": int(overlapping.sum()),
    }


def _share(found: np.ndarray, among: np.ndarray) -> float:
    return float(found[among].mean()) if among.any() else -1.0


def _mean(values: list[float]) -> float:
    """Mean of the values that are defined, -1 if none is."""
    defined = [value for value in values if value == value and value != -1]
    return float(np.mean(defined)) if defined else -1.0
