"""Comparison of finished runs: their metrics on the same images, and the images on which they differ most."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detection.data.checks import file_digest
from detection.data.image_identity import images_changed
from detection.errors import UserError
from detection.evaluation.bootstrap import DetectionResults, detection_results
from detection.evaluation.columns import CocoDataset, CocoResults
from detection.evaluation.curves import Matching, best_f1, match_results, precision_recall
from detection.evaluation.intervals import Interval, bootstrap_counts, difference_interval
from detection.evaluation.matching import FALSE_POSITIVE, overlapping_pairs
from detection.evaluation.results import read_ground_truth, read_results
from detection.runs.records import data_difference, read_record


@dataclass(frozen=True)
class FinishedRun:
    """A finished run, read from its folder.

    Attributes:
        name: name in the report.
        config: config as plain data.
        environment: `environment.json`, empty where there is none.
        split: `val` or `test`, on which it was evaluated.
        ground_truth: the data of that split.
        results: detections on it.
        per_image: matches by image, for metrics on resampled images.
        matching: matches at an IoU of 0.5.
        threshold: score of the best F1, from which detections are counted and drawn.
    """

    name: str
    config: dict[str, Any]
    environment: dict[str, Any]
    split: str
    ground_truth: CocoDataset
    results: CocoResults
    per_image: DetectionResults
    matching: Matching
    threshold: float

    @property
    def data(self) -> dict[str, Any]:
        """Record of the split: hashes of annotations and images."""
        return {"annotations": "", "sha256": self.per_image.images_key} | _recorded(self.environment, self.split)

    @property
    def files(self) -> dict[str, Any]:
        """The `annotations` and `images` that its config names."""
        return self.config["data"][self.split]

    def image_entry(self, position: int) -> dict[str, Any]:
        """The COCO entry of the image at a position by ascending id."""
        return sorted(self.ground_truth["images"], key=lambda image: image["id"])[position]


def open_finished(folder: Path, name: str, split: str = "val", *, last: bool = False) -> FinishedRun:
    """Read a run from its config.json and results.json, and the annotations that it names.

    The results on the split `test` are those of `test/`, and with `last` those of the last epoch, in `last/`.

    Raises:
        UserError: one of them is missing or cannot be read, or annotations or images have changed since the run.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if "network" in config:
            raise UserError(f"{folder}: is a classifier's run; give folders that `detection train` wrote.")
        named = config["data"].get(split) or {}
        if split == "test" and not named.get("annotations"):
            raise UserError(f"--split test: {folder} has no test split; compare on --split val.")
        annotations = Path(named["annotations"])
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{folder}: not a run folder, there is no config.json in it.") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / 'config.json'}: no readable config of a detector's run ({error!r}).") from None
    digest, environment = file_digest(annotations), read_record(folder)
    record = _recorded(environment, split)
    changed = annotations if digest != record.get("sha256", digest) else None
    if changed is None and images_changed(record):
        changed = f"an image in {record['image_folder']}"
    if changed is not None:
        raise UserError(f"{folder}: {changed} has changed since this run; restore it, or train again.")
    ground_truth = read_ground_truth(annotations, federated=False)
    results = read_results(folder / ("last" if last else "test" * (split == "test")) / "results.json", ground_truth)
    matching = match_results(ground_truth, results)
    score = best_f1(precision_recall(matching))["score"]
    per_image = detection_results(ground_truth, results, digest)
    threshold = score if score > 0 else 0.5
    return FinishedRun(name, config, environment, split, ground_truth, results, per_image, matching, threshold)


def _recorded(environment: dict[str, Any], split: str) -> dict[str, Any]:
    try:
        return dict(environment["data"][split])
    except (KeyError, TypeError, ValueError):
        return {}


def require_same_images(runs: Sequence[FinishedRun]) -> None:
    """Check that all runs were evaluated on the same annotations and images.

    Raises:
        UserError: they were not; it names which of them differ.
    """
    for run in runs[1:]:
        if what := data_difference(runs[0].data, run.data):
            files = [str(r.files.get(what.split()[0])) for r in (runs[0], run)]
            raise UserError(
                f"{runs[0].name} and {run.name} were evaluated on different data, their {what} differ ({files[0]}, "
                f"{files[1]}): they cannot be compared."
            )


def run_metrics(run: FinishedRun) -> dict[str, float]:
    """Compute the metrics of a run, those of each class as `METRIC/CLASS`; NaN where one is not defined."""
    every = np.ones((1, run.per_image.num_images), dtype=np.int64)
    return {name: float(value[0]) for name, value in run.per_image.resampled(every).items()}


def metric_differences(first: FinishedRun, second: FinishedRun) -> dict[str, Interval | None]:
    """Compute second − first by metric, each with an interval over the images; None where one is not defined."""
    counts = bootstrap_counts(first.per_image.num_images)
    a, b = (run_metrics(run) for run in (first, second))
    # Both on the same samples: how hard the images of a sample are cancels in the difference.
    resampled_a, resampled_b = (run.per_image.resampled(counts) for run in (first, second))
    return {
        name: difference_interval(np.array([b[name] - value]), (resampled_b[name] - resampled_a[name])[None])
        for name, value in a.items()
    }


@dataclass(frozen=True)
class ImageDifference:
    """Difference of two runs on one image, each at its threshold.

    An object counts as found when a detection of its class matches it at an IoU of 0.5 and no false positive of another
    class overlaps it with a higher score: a detector that names every class for it has not found it.

    Attributes:
        position: index of the image by ascending id.
        gained: indices of the ground-truth boxes that only the second run found.
        lost: those that only the first run found.
        false_positives: number of the first and of the second run.
    """

    position: int
    gained: tuple[int, ...]
    lost: tuple[int, ...]
    false_positives: tuple[int, int]

    @property
    def gain(self) -> tuple[int, int]:
        """Objects by which the second run is better, then false positives; below (0, 0) where it is worse."""
        return len(self.gained) - len(self.lost), self.false_positives[0] - self.false_positives[1]


def image_differences(first: FinishedRun, second: FinishedRun) -> list[ImageDifference]:
    """Return all images, from those where the second run is better than the first by most to where it is worse."""
    found_a, found_b = (_found(run) for run in (first, second))
    false_positives = zip(*(_false_positives(run).tolist() for run in (first, second)), strict=True)
    every = []
    for position, (false_a, false_b) in enumerate(false_positives):
        here = first.matching.targets.image == position
        gained, lost = (np.flatnonzero(here & boxes).tolist() for boxes in (found_b & ~found_a, found_a & ~found_b))
        every.append(ImageDifference(position, tuple(gained), tuple(lost), (false_a, false_b)))
    return sorted(every, key=lambda d: d.gain, reverse=True)


def _found(run: FinishedRun) -> np.ndarray:
    """Mask of the ground-truth boxes found at the run's threshold, (N,), as `ImageDifference` defines it."""
    targets, detections, matched = run.matching.targets, run.matching.detections, run.matching.matched
    kept = (matched >= 0) & (detections.score >= run.threshold)
    score = np.full(len(targets.box), -np.inf)
    score[matched[kept]] = detections.score[kept]
    detection, ground_truth, _ = overlapping_pairs(detections, targets, 0.5, same_category=False)
    other = (detections.category[detection] != targets.category[ground_truth]) & (matched[detection] == FALSE_POSITIVE)
    wrong_score = np.full(len(targets.box), -np.inf)
    np.maximum.at(wrong_score, ground_truth[other], detections.score[detection[other]])
    return np.isfinite(score) & (score >= wrong_score)


def _false_positives(run: FinishedRun) -> np.ndarray:
    """False positives of each image at the run's threshold."""
    kept = (run.matching.matched == FALSE_POSITIVE) & (run.matching.detections.score >= run.threshold)
    return np.bincount(run.matching.detections.image[kept], minlength=run.per_image.num_images)
