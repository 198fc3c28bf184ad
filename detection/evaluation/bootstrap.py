"""COCO's average precision of many resamplings of the images at once.

pycocotools matches within an image, so an image drawn twice is the same matches twice, and one left out is none. What
is left to do for a resampling is COCO's accumulation with a weight for each image, here for all resamplings together.

Shapes: S resamplings, N images, D detections of one class, T IoU thresholds (0.50 … 0.95).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from detection.evaluation.coco import match_images
from detection.evaluation.columns import class_names

RECALLS = np.linspace(0, 1, 101)
_CHUNK = 2_000_000


@dataclass(frozen=True)
class Ranking:
    """The detections that count, of one class and range of sizes, best first, and how many ground-truth boxes there
    are to find.

    Attributes:
        image: position of each detection's image, (D,).
        matched: whether a detection found a ground truth, (T, D).
        ignored: whether it counts neither way: it lies on a crowd, or is of another size, (T, D).
        targets: ground-truth boxes that count, of each image, (N,).
    """

    image: np.ndarray
    matched: np.ndarray
    ignored: np.ndarray
    targets: np.ndarray


def rankings(evaluation: Any) -> dict[tuple[int, int], Ranking]:
    """What pycocotools matched, by position of the class and of the size range (all, small, medium, large).

    Args:
        evaluation: a `COCOeval` after `evaluate()`.
    """
    parameters = evaluation.params
    num_images, num_sizes = len(parameters.imgIds), len(parameters.areaRng)
    return {
        (k, size): _ranking(
            evaluation.evalImgs[(k * num_sizes + size) * num_images :][:num_images], len(parameters.iouThrs)
        )
        for k in range(len(parameters.catIds))
        for size in range(num_sizes)
    }


def _ranking(images: list[dict[str, Any] | None], num_thresholds: int) -> Ranking:
    found = [(position, image) for position, image in enumerate(images) if image is not None]
    targets = np.zeros(len(images), dtype=np.int64)
    for position, image in found:
        targets[position] = np.count_nonzero(~np.asarray(image["gtIgnore"], dtype=bool))
    position = np.concatenate([np.full(len(i["dtScores"]), p) for p, i in found] or [np.zeros(0)]).astype(np.int64)
    score = np.concatenate([i["dtScores"] for _, i in found] or [np.zeros(0)])
    nothing = np.zeros((num_thresholds, 0))
    matched = np.concatenate([nothing, *(i["dtMatches"].reshape(num_thresholds, -1) for _, i in found)], axis=1) > 0
    ignored = np.concatenate([nothing, *(i["dtIgnore"].reshape(num_thresholds, -1) for _, i in found)], axis=1) > 0
    order = np.argsort(-score, kind="mergesort")
    # What never counts, and what comes after the last hit, changes no AP.
    order = order[~ignored[:, order].all(axis=0)]
    hits = np.flatnonzero((matched & ~ignored)[:, order].any(axis=0))
    order = order[: hits[-1] + 1 if hits.size else 0]
    return Ranking(position[order], matched[:, order], ignored[:, order], targets)


def average_precision(ranking: Ranking, counts: np.ndarray) -> np.ndarray:
    """COCO's 101-point AP at each IoU threshold.

    All copies of an image have the same scores, so they stand beside each other in the ranking. Between the copies of
    a detection that found something precision rises, and COCO takes the highest from there on: it is enough to look
    behind the last copy. That makes a weighted sum exact.

    Args:
        ranking: of one class.
        counts: how often each resampling holds each image, (S, N).

    Returns:
        (S, T); NaN where a resampling has no ground truth to find.
    """
    parts = [_average_precision(ranking, counts[rows]) for rows in _chunks(len(counts), len(ranking.image))]
    return np.concatenate(parts)


def _chunks(resamplings: int, detections: int) -> Iterator[slice]:
    step = max(1, _CHUNK // max(1, detections))
    yield from (slice(start, start + step) for start in range(0, resamplings, step))


def _average_precision(ranking: Ranking, counts: np.ndarray) -> np.ndarray:
    targets = (counts @ ranking.targets).astype(np.float64)
    weights = counts[:, ranking.image]
    result = np.zeros((len(counts), len(ranking.matched)))
    kept, seen = None, np.zeros(0)
    for threshold, (matched, ignored) in enumerate(zip(ranking.matched, ranking.ignored, strict=True)):
        if kept is None or (kept == ignored).any():
            kept = ~ignored
            seen = np.cumsum(weights * kept, axis=1)
        hits = np.flatnonzero(matched & kept)
        found = np.cumsum(weights[:, hits], axis=1)
        precision = found / (seen[:, hits] + np.spacing(1))
        best_from_here = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        recall = np.divide(found, targets[:, None], out=np.zeros_like(precision), where=targets[:, None] > 0)
        reached = np.searchsorted(RECALLS, recall, side="right")
        # A recall level is read at the first detection that reaches it; a hit of weight 0 reaches none of its own.
        result[:, threshold] = (best_from_here * np.diff(reached, axis=1, prepend=0)).sum(axis=1)
    return np.where(targets[:, None] > 0, result / len(RECALLS), np.nan)


AP50, AP75 = 0, 5


_SIZES = {"APs": 1, "APm": 2, "APl": 3}


@dataclass(frozen=True)
class DetectionResults:
    """The matches of one run.

    Attributes:
        images_key: equal for runs that were measured on the same annotations.
        num_images: N.
        names: the classes.
        rankings: by position of class and size range.
    """

    images_key: str
    num_images: int
    names: tuple[str, ...]
    rankings: dict[tuple[int, int], Ranking]

    def resampled(self, counts: np.ndarray) -> dict[str, np.ndarray]:
        """COCO's numbers of each resampling.

        Args:
            counts: how often a resampling holds each image, (S, N); all ones: the data set itself.

        Returns:
            `AP`, `AP50`, `AP75`, `APs`, `APm`, `APl`, and `AP/NAME` and `AP50/NAME` of each class, (S,) each; NaN
            where a resampling has no ground truth to find.
        """
        every = np.stack([average_precision(self.rankings[k, 0], counts) for k in range(len(self.names))])  # (K, S, T)
        numbers = {"AP": _mean(every), "AP50": _mean(every[..., [AP50]]), "AP75": _mean(every[..., [AP75]])}
        for name, size in _SIZES.items():
            of_size = [average_precision(self.rankings[k, size], counts) for k in range(len(self.names))]
            numbers[name] = _mean(np.stack(of_size))
        for k, name in enumerate(self.names):
            numbers[f"AP/{name}"] = every[k].mean(axis=-1)
            numbers[f"AP50/{name}"] = every[k, :, AP50]
        return numbers


def detection_results(ground_truth: dict[str, Any], results: list[dict[str, Any]], images_key: str) -> DetectionResults:
    """Match results to the ground truth, once.

    Args:
        ground_truth: COCO dataset dict.
        results: COCO results with original ids.
        images_key: of the annotations, such as their digest.
    """
    names = tuple(class_names(ground_truth).values())
    return DetectionResults(
        images_key, len(ground_truth["images"]), names, rankings(match_images(ground_truth, results))
    )


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over classes and thresholds (K, S, T) of what is defined; NaN where nothing is."""
    defined = ~np.isnan(values)
    number = defined.sum(axis=(0, 2))
    total = np.where(defined, values, 0.0).sum(axis=(0, 2))
    return np.divide(total, number, out=np.full(len(number), np.nan), where=number > 0)
