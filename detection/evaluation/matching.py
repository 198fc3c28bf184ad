"""Which detection found which truth at an IoU of 0.5, by COCO's rules, over a whole data set at once.

Shapes: N truths, D detections, P pairs of the two in one image.
"""

from collections.abc import Iterator

import numpy as np

from detection.evaluation.columns import Detections, Truths

FALSE_POSITIVE = -1
IGNORED = -2
MAX_PAIRS = 2_000_000


def pair_iou(boxes: np.ndarray, truths: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """IoU of boxes and truths, row by row, on continuous coordinates (no extra pixel), as pycocotools computes it.

    Args:
        boxes: Detected boxes xywh, (P, 4).
        truths: True boxes xywh, (P, 4).
        crowd: Where true, the union is the detection's own area: a person inside a crowd lies in it fully, (P,).

    Returns:
        IoU, (P,); 0 where the overlap has no area.
    """
    overlap = np.minimum(boxes[:, :2] + boxes[:, 2:], truths[:, :2] + truths[:, 2:])
    overlap = (overlap - np.maximum(boxes[:, :2], truths[:, :2])).clip(min=0)
    intersection = overlap[:, 0] * overlap[:, 1]
    area, true_area = boxes[:, 2] * boxes[:, 3], truths[:, 2] * truths[:, 3]
    union = np.where(crowd, area, area + true_area - intersection)
    return np.divide(intersection, union, out=np.zeros_like(union), where=intersection > 0)


def overlapping_pairs(
    detections: Detections, truths: Truths, min_iou: float, *, same_category: bool = True, crowd_union: bool = True
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All pairs of a detection and a truth of one image that overlap enough.

    Args:
        detections: Detections, D of them.
        truths: Truths, N of them.
        min_iou: Smallest IoU of a pair.
        same_category: Leave out pairs of two categories.
        crowd_union: Measure crowds as COCO does, by the detection's own area.

    Returns:
        Index of the detection, index of the truth and their IoU, (P,) each, by detection, then by truth.
    """
    num_categories = len(truths.names) if same_category else 1
    key = detections.image * num_categories + (detections.category if same_category else 0)
    truth_key = truths.image * num_categories + (truths.category if same_category else 0)
    order = np.argsort(truth_key, kind="stable")
    first = np.searchsorted(truth_key[order], key, side="left")
    count = np.searchsorted(truth_key[order], key, side="right") - first
    crowd = truths.crowd if crowd_union else np.zeros_like(truths.crowd)

    found = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    for start, stop in _chunks(count):
        number = count[start:stop]
        detection = np.repeat(np.arange(start, stop), number)
        within = np.arange(len(detection)) - np.repeat(np.cumsum(number) - number, number)
        truth = order[first[detection] + within]
        iou = pair_iou(detections.box[detection], truths.box[truth], crowd[truth])
        keep = iou >= min_iou
        found.append((detection[keep], truth[keep], iou[keep]))
    detection, truth, iou = (np.concatenate(part) for part in zip(*found, strict=True))
    return detection, truth, iou


def _chunks(count: np.ndarray) -> Iterator[tuple[int, int]]:
    """Ranges of detections with about `MAX_PAIRS` pairs each: crowded data sets have more than memory holds."""
    chunk = np.cumsum(count) // MAX_PAIRS
    bounds = [0, *(np.flatnonzero(np.diff(chunk)) + 1).tolist(), len(count)]
    yield from zip(bounds, bounds[1:], strict=False)


def best_per_image(detections: Detections, limit: int = 100) -> Detections:
    """The best detections of every image and category, as many as COCO's AP looks at.

    Args:
        detections: Detections, best first.
        limit: How many to keep of an image and category.
    """
    group = np.lexsort((detections.category, detections.image))
    image, category = detections.image[group], detections.category[group]
    starts = np.ones(len(group), dtype=bool)
    starts[1:] = (np.diff(image) != 0) | (np.diff(category) != 0)
    index = np.arange(len(group))
    place = index - np.maximum.accumulate(np.where(starts, index, 0))
    return detections.select(np.sort(group[place < limit]))


def match_detections(detections: Detections, truths: Truths, iou: float = 0.5) -> np.ndarray:
    """Give every detection, best first, the truth of its class it overlaps most among those still free.

    A detection with no free truth is ignored if it lies on a crowd of its class. Of equal overlaps the later truth
    wins. All of it is COCO's rule for objects of any size.

    Args:
        detections: Detections, best first, (D,).
        truths: Truths, (N,).
        iou: Smallest IoU of a match.

    Returns:
        Index of the truth found, `FALSE_POSITIVE` or `IGNORED`, (D,).
    """
    matched = np.full(len(detections.score), FALSE_POSITIVE)
    best: dict[int, float] = {}
    pairs = overlapping_pairs(detections, truths, iou)
    free = (~truths.crowd).tolist()
    crowd = truths.crowd.tolist()
    previous = -1
    for detection, truth, overlap in zip(*(part.tolist() for part in pairs), strict=True):
        if detection != previous and previous in best:
            free[matched[previous]] = False
        previous = detection
        if free[truth] and overlap >= best.get(detection, 0.0):
            best[detection] = overlap
            matched[detection] = truth
        elif crowd[truth] and matched[detection] == FALSE_POSITIVE:
            matched[detection] = IGNORED
    return matched
