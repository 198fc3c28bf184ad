"""COCO's average precision on many bootstrap samples of the images at once.

pycocotools matches within an image, so an image drawn twice gives the same matches twice, and one left out none. A
resampling only repeats COCO's accumulation with a weight for each image, here for all resamplings together.

Shapes: S resamplings, N images, D detections of one class, T IoU thresholds (0.50 … 0.95).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from detection.evaluation.coco import match_images
from detection.evaluation.columns import CocoDataset, CocoResults, class_names

RECALLS = np.linspace(0, 1, 101)
_CHUNK = 2_000_000  # detections of all resamplings that are weighed at once


@dataclass(frozen=True)
class Ranking:
    """Detections of one class and size range that count, best first, and the numbers of ground-truth boxes.

    Attributes:
        image: index of each detection's image, (D,).
        matched: whether a detection matches a ground-truth box, (T, D).
        ignored: whether it is neither right nor wrong: on a crowd, or of another size, (T, D).
        targets: number of ground-truth boxes that count, of each image, (N,).
    """

    image: np.ndarray
    matched: np.ndarray
    ignored: np.ndarray
    targets: np.ndarray


def rankings(evaluation: Any) -> dict[tuple[int, int], Ranking]:
    """Read the matches of an evaluated `COCOeval`, by index of class and size range (all, small, medium, large)."""
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
    matched, ignored = (  # (T, D) each
        np.concatenate([nothing, *(image[key].reshape(num_thresholds, -1) for _, image in found)], axis=1) > 0
        for key in ("dtMatches", "dtIgnore")
    )
    # Stable, as pycocotools sorts: detections of equal scores keep their order.
    order = np.argsort(-score, kind="mergesort")
    # Detections that never count, and those after the last hit, change no AP.
    order = order[~ignored[:, order].all(axis=0)]
    hits = np.flatnonzero((matched & ~ignored)[:, order].any(axis=0))
    order = order[: hits[-1] + 1 if hits.size else 0]
    return Ranking(position[order], matched[:, order], ignored[:, order], targets)


def average_precision(ranking: Ranking, counts: np.ndarray) -> np.ndarray:
    """Compute COCO's 101-point AP at each IoU threshold.

    All copies of an image have the same scores, so they are adjacent in the ranking. Precision rises over the copies of
    a true positive, and COCO takes the highest precision from there on: the one after the last copy. That makes a
    weighted sum exact.

    Args:
        ranking: detections of one class.
        counts: how often each image is drawn, (S, N).

    Returns:
        (S, T); NaN where a resampling has no ground truth.
    """
    step = max(1, _CHUNK // max(1, len(ranking.image)))
    parts = [_average_precision(ranking, counts[start : start + step]) for start in range(0, len(counts), step)]
    return np.concatenate(parts)


def _average_precision(ranking: Ranking, counts: np.ndarray) -> np.ndarray:
    targets = (counts @ ranking.targets).astype(np.float64)
    weights = counts[:, ranking.image]
    result = np.zeros((len(counts), len(ranking.matched)))
    kept, seen = None, np.zeros(0)
    for threshold, (matched, ignored) in enumerate(zip(ranking.matched, ranking.ignored, strict=True)):
        # The sums are those of the threshold before, unless other detections are ignored at this one.
        if kept is None or (kept == ignored).any():
            kept = ~ignored
            seen = np.cumsum(weights * kept, axis=1)
        hits = np.flatnonzero(matched & kept)
        found = np.cumsum(weights[:, hits], axis=1)
        precision = found / (seen[:, hits] + np.spacing(1))  # pycocotools' guard against 0 / 0
        best_from_here = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        recall = np.divide(found, targets[:, None], out=np.zeros_like(precision), where=targets[:, None] > 0)
        reached = np.searchsorted(RECALLS, recall, side="right")
        # A recall level is read at the first detection that reaches it; a hit of weight 0 reaches no new one.
        result[:, threshold] = (best_from_here * np.diff(reached, axis=1, prepend=0)).sum(axis=1)
    return np.where(targets[:, None] > 0, result / len(RECALLS), np.nan)


_AP50, _AP75 = 0, 5  # indices of IoU thresholds
_SIZES = {"APs": 1, "APm": 2, "APl": 3}  # indices of size ranges


@dataclass(frozen=True)
class DetectionResults:
    """The matches of one run.

    Attributes:
        images_key: equal for runs that were evaluated on the same annotations.
        num_images: N.
        names: names of the classes.
        rankings: by index of class and size range.
    """

    images_key: str
    num_images: int
    names: tuple[str, ...]
    rankings: dict[tuple[int, int], Ranking]

    def resampled(self, counts: np.ndarray) -> dict[str, np.ndarray]:
        """Compute COCO's metrics on each resampling.

        Args:
            counts: how often each image is drawn, (S, N); all ones: the data set itself.

        Returns:
            `AP`, `AP50`, `AP75`, `APs`, `APm`, `APl`, and `AP/NAME` and `AP50/NAME` of each class, (S,) each; NaN
            where a resampling has no ground truth.
        """
        every = np.stack([average_precision(self.rankings[k, 0], counts) for k in range(len(self.names))])  # (K, S, T)
        metrics = {"AP": _mean(every), "AP50": _mean(every[..., [_AP50]]), "AP75": _mean(every[..., [_AP75]])}
        for name, size in _SIZES.items():
            of_size = [average_precision(self.rankings[k, size], counts) for k in range(len(self.names))]
            metrics[name] = _mean(np.stack(of_size))
        for k, name in enumerate(self.names):
            metrics[f"AP/{name}"] = every[k].mean(axis=-1)
            metrics[f"AP50/{name}"] = every[k, :, _AP50]
        return metrics


def detection_results(ground_truth: CocoDataset, results: CocoResults, images_key: str) -> DetectionResults:
    """Match results to the ground truth, which `images_key` identifies, such as a digest of the annotations."""
    names, matches = tuple(class_names(ground_truth).values()), rankings(match_images(ground_truth, results))
    return DetectionResults(images_key, len(ground_truth["images"]), names, matches)


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over classes and thresholds (K, S, T) of what is defined; NaN where nothing is."""
    return np.ma.masked_invalid(values).mean(axis=(0, 2)).filled(np.nan)
