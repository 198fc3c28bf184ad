"""What a detector found, image by image, and its COCO numbers on any resampling of the images."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from detection.ablation.average_precision import Ranking, average_precision, rankings
from detection.evaluation.coco import match_images
from detection.evaluation.columns import class_names

AP50, AP75 = 0, 5
_SIZES = {"APs": 1, "APm": 2, "APl": 3}


@dataclass(frozen=True)
class DetectionEvidence:
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
            where a resampling has no truth to find.
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


def detection_evidence(truth: dict[str, Any], results: list[dict[str, Any]], images_key: str) -> DetectionEvidence:
    """Match results to the truth, once.

    Args:
        truth: COCO dataset dict.
        results: COCO results with original ids.
        images_key: of the annotations, such as their digest.
    """
    names = tuple(class_names(truth).values())
    return DetectionEvidence(images_key, len(truth["images"]), names, rankings(match_images(truth, results)))


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over classes and thresholds (K, S, T) of what is defined; NaN where nothing is."""
    defined = ~np.isnan(values)
    number = defined.sum(axis=(0, 2))
    total = np.where(defined, values, 0.0).sum(axis=(0, 2))
    return np.divide(total, number, out=np.full(len(number), np.nan), where=number > 0)
