"""Matching of detections to ground truth at an IoU of 0.5, by COCO's rules, over a data set at once.

Shapes: N ground-truth boxes, D detections, P pairs of the two in one image.
"""

from collections.abc import Iterator

import numpy as np

from detection.evaluation.columns import BoxColumns, CocoDataset, DetectionColumns, GroundTruthColumns, positions

FALSE_POSITIVE = -1
IGNORED = -2
MAX_PAIRS = 2_000_000


def image_sizes(ground_truth: CocoDataset) -> np.ndarray:
    """Width and height of every image, (images, 2); NaN where the annotations lack them."""
    places = positions(ground_truth["images"])
    sizes = np.full((len(places), 2), np.nan)
    for item in ground_truth["images"]:
        sizes[places[item["id"]]] = item.get("width") or np.nan, item.get("height") or np.nan
    return sizes


def pair_iou(boxes: np.ndarray, targets: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """Compute the IoU of boxes row by row, on continuous coordinates (no extra pixel) as pycocotools.

    Args:
        boxes: Detected boxes xywh, (P, 4).
        targets: Ground-truth boxes xywh, (P, 4).
        crowd: Where true, the union is the detection's area, so that a person inside a crowd has an IoU of 1, (P,).

    Returns:
        IoU, (P,); 0 where the overlap has no area.
    """
    overlap = np.minimum(boxes[:, :2] + boxes[:, 2:], targets[:, :2] + targets[:, 2:])
    overlap = (overlap - np.maximum(boxes[:, :2], targets[:, :2])).clip(min=0)
    intersection = overlap[:, 0] * overlap[:, 1]
    area, true_area = boxes[:, 2] * boxes[:, 3], targets[:, 2] * targets[:, 3]
    union = np.where(crowd, area, area + true_area - intersection)
    return np.divide(intersection, union, out=np.zeros_like(union), where=intersection > 0)


def overlapping_pairs(
    detections: BoxColumns,
    targets: GroundTruthColumns,
    min_iou: float,
    *,
    same_category: bool = True,
    crowd_union: bool = True,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find all pairs of a detection and a ground-truth box of one image that overlap enough.

    Args:
        detections: Detections, D of them; other ground-truth boxes serve as well.
        targets: Ground-truth boxes, N of them.
        min_iou: Smallest IoU of a pair.
        same_category: Leave out pairs of two categories.
        crowd_union: For crowds take the detection's area as the union, as COCO does.

    Returns:
        Index of the detection, index of the ground-truth box and their IoU, (P,) each, sorted by these indices.
    """
    num_categories = len(targets.names) if same_category else 1
    key = detections.image * num_categories + (detections.category if same_category else 0)
    ground_truth_key = targets.image * num_categories + (targets.category if same_category else 0)
    order = np.argsort(ground_truth_key, kind="stable")
    first = np.searchsorted(ground_truth_key[order], key, side="left")
    count = np.searchsorted(ground_truth_key[order], key, side="right") - first
    crowd = targets.crowd if crowd_union else np.zeros_like(targets.crowd)

    found = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    for start, stop in _chunks(count):
        number = count[start:stop]
        detection = np.repeat(np.arange(start, stop), number)
        within = np.arange(len(detection)) - np.repeat(np.cumsum(number) - number, number)
        ground_truth = order[first[detection] + within]
        iou = pair_iou(detections.box[detection], targets.box[ground_truth], crowd[ground_truth])
        keep = iou >= min_iou
        found.append((detection[keep], ground_truth[keep], iou[keep]))
    detection, ground_truth, iou = (np.concatenate(part) for part in zip(*found, strict=True))
    return detection, ground_truth, iou


def _chunks(count: np.ndarray) -> Iterator[tuple[int, int]]:
    """Ranges of detections with about `MAX_PAIRS` pairs each: crowded data sets have more than memory holds."""
    chunk = np.cumsum(count) // MAX_PAIRS
    bounds = [0, *(np.flatnonzero(np.diff(chunk)) + 1).tolist(), len(count)]
    yield from zip(bounds, bounds[1:], strict=False)


def best_per_image(detections: DetectionColumns, limit: int = 100) -> DetectionColumns:
    """Select the best `limit` detections of every image and category: 100, as COCO's AP does."""
    num_categories = detections.category.max(initial=0) + 1
    return detections.select(rank_among_equals(detections.image * num_categories + detections.category) < limit)


def rank_among_equals(keys: np.ndarray) -> np.ndarray:
    """Count how many equal keys stand before each one, (D,)."""
    order = np.argsort(keys, kind="stable")
    rank = np.zeros(len(keys), np.int64)
    rank[order] = np.arange(len(keys)) - np.searchsorted(keys[order], keys[order])
    return rank


def match_detections(detections: DetectionColumns, targets: GroundTruthColumns, iou: float = 0.5) -> np.ndarray:
    """Match every detection, best first, to the free ground-truth box of its class that it overlaps most.

    A detection without a free one is ignored if it is on a crowd of its class. Of equal overlaps the later ground-truth
    box wins. These are COCO's rules for objects of any size.

    Args:
        detections: Detections, best first, (D,).
        targets: Ground-truth boxes, (N,).
        iou: Smallest IoU of a match.

    Returns:
        Index of the matched ground-truth box, `FALSE_POSITIVE` or `IGNORED`, (D,).
    """
    matched = np.full(len(detections.score), FALSE_POSITIVE)
    best: dict[int, float] = {}
    pairs = overlapping_pairs(detections, targets, iou)
    free = (~targets.crowd).tolist()
    crowd = targets.crowd.tolist()
    previous = -1
    for detection, ground_truth, overlap in zip(*(part.tolist() for part in pairs), strict=True):
        # Pairs come detection by detection. One takes its box only after its last pair, as that may overlap more.
        if detection != previous and previous in best:
            free[matched[previous]] = False
        previous = detection
        if free[ground_truth] and overlap >= best.get(detection, 0.0):
            best[detection] = overlap
            matched[detection] = ground_truth
        elif crowd[ground_truth] and matched[detection] == FALSE_POSITIVE:
            matched[detection] = IGNORED
    return matched
