"""Notes on results: the causes of an AP near zero that ground truth and results show."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from detection.evaluation.columns import (
    CocoDataset,
    CocoResults,
    DetectionColumns,
    GroundTruthColumns,
    detection_columns,
    ground_truth_columns,
    known_results,
)
from detection.evaluation.matching import overlapping_pairs


def find_notes(ground_truth: CocoDataset, results: CocoResults, ap: float) -> list[str]:
    """Write sentences about what lowers metrics or leaves them undefined.

    Causes are searched where COCO's AP is 0, and a wrong box format (which hits by chance) where it is below 0.05.
    """
    notes = list(_always(ground_truth, results))
    if ap == 0:
        notes += [f"AP is 0: {cause}" for cause in _causes(ground_truth, results)]
    elif 0 < ap < 0.05:
        cause = _wrong_boxes(ground_truth_columns(ground_truth), detection_columns(ground_truth, results))
        notes += [f"AP is low: {cause}"] if cause else []
    return notes


def _always(ground_truth: CocoDataset, results: CocoResults) -> Iterator[str]:
    if all(annotation.get("iscrowd", 0) for annotation in ground_truth["annotations"]):
        yield "The annotations hold no object to find (crowds do not count), so AP is not defined."
    if ground_truth.get("dropped"):
        yield f"{ground_truth['dropped']} bad boxes of the annotations were left out (`detection doctor` lists them)."
    unknown = len(results) - len(known_results(ground_truth, results))
    if unknown:
        yield (
            f"{unknown} of {len(results)} detections name an image or a category that the annotations lack and were "
            "left out."
        )
    unique = {(r["image_id"], r["category_id"], *r["bbox"]) for r in results}
    if len(unique) < len(results):
        yield (
            f"{len(results) - len(unique)} of {len(results)} detections repeat the image, category and box of another; "
            "each repetition counts as a false positive (is non-maximum suppression missing, or were results of "
            "several processes joined twice?)."
        )


def _causes(ground_truth: CocoDataset, results: CocoResults) -> Iterator[str]:
    if not results:
        yield "there are no detections at all (score threshold too high, or the detector is untrained)."
        return
    real = [annotation for annotation in ground_truth["annotations"] if not annotation.get("iscrowd", 0)]
    true_images, images = ({item["image_id"] for item in items} for items in (real, results))
    if not true_images & images:
        yield f"none of the {len(images)} images with detections has an object in the annotations (another split?)."
        return
    true_categories, categories = ({item["category_id"] for item in items} for items in (real, results))
    if not true_categories & categories:
        yield (
            f"no predicted category has an object in the annotations (predicted ids {_some(categories)}, annotated ids "
            f"{_some(true_categories)})."
        )

    targets, detections = ground_truth_columns(ground_truth), detection_columns(ground_truth, results)
    cause = _wrong_boxes(targets, detections) or _wrong_categories(ground_truth, targets, detections)
    if cause:
        yield cause
        return
    iou = overlapping_pairs(detections, targets, 1e-9)[2].max(initial=0.0)
    if iou < 0.5:
        yield f"the best IoU of any detection with an object of its class is {iou:.2f}, below 0.5."
    else:
        yield (
            "detections reach an IoU of 0.5 with objects of their class only on crowds, or beyond the 100 best of an "
            "image and class."
        )


def _some(ids: set[int]) -> str:
    shown = ", ".join(map(str, sorted(ids)[:5]))
    return f"{shown}, …" if len(ids) > 5 else shown


def _hits(detections: DetectionColumns, targets: GroundTruthColumns, box: np.ndarray) -> int:
    """Count detections of any class that overlap an object when their boxes are replaced."""
    moved = replace(detections, box=box)
    return len(np.unique(overlapping_pairs(moved, targets, 0.5, same_category=False, crowd_union=False)[0]))


def _wrong_boxes(targets: GroundTruthColumns, detections: DetectionColumns) -> str | None:
    """Find a box format in which twice as many detections overlap objects as in the right one."""
    box = detections.box
    if not box.size:
        return None
    if np.abs(box).max() <= 1.01 and np.median(targets.box[:, 2:]) > 2:
        return "boxes look normalized to 0..1; results hold [x, y, width, height] in pixels of the image on disk."
    corners = np.concatenate([box[:, :2], box[:, 2:] - box[:, :2]], axis=1)
    centers = np.concatenate([box[:, :2] - box[:, 2:] / 2, box[:, 2:]], axis=1)
    formats = {
        "[x1, y1, x2, y2]": np.where((corners[:, 2:] < 0).any(axis=1, keepdims=True), 0.0, corners),
        "[center x, center y, width, height]": centers,
        "[y, x, height, width]": box[:, [1, 0, 3, 2]],
    }
    hits = {name: _hits(detections, targets, moved) for name, moved in formats.items()}
    name = max(hits, key=lambda key: hits[key])
    as_given = _hits(detections, targets, box)
    if hits[name] <= 2 * as_given:
        return None
    return (
        f"boxes look like {name} rather than [x, y, width, height]: read so, {hits[name]} of {len(box)} detections "
        f"overlap an object, as given {as_given}."
    )


def _wrong_categories(
    ground_truth: CocoDataset, targets: GroundTruthColumns, detections: DetectionColumns
) -> str | None:
    """Find a mistake in category ids, when boxes overlap objects of other classes only."""
    detection, found, _ = overlapping_pairs(detections, targets, 0.5, same_category=False, crowd_union=False)
    if not detection.size or (detections.category[detection] == targets.category[found]).any():
        return None
    ids = np.array(sorted({category["id"] for category in ground_truth["categories"]}))
    predicted, annotated = ids[detections.category[detection]], ids[targets.category[found]]
    count = len(np.unique(detection))
    start = f"{count} of {len(detections.score)} boxes overlap an object, but of another class"
    listed = "positions in the list of categories, counted from {}, not its ids"
    meant = {
        "one too low (counted from 0?)": predicted + 1,
        "one too high": predicted - 1,
        listed.format(0): _at(ids, predicted),
        listed.format(1): _at(ids, predicted - 1),
    }
    explained = {cause: (meant_ids == annotated).mean() for cause, meant_ids in meant.items()}
    cause = max(explained, key=lambda key: explained[key])
    if explained[cause] > 0.5:
        return f"{start}; it seems that category ids are {cause}."
    return f"{start} (do the category ids mean the same classes?)."


def _at(ids: np.ndarray, position: np.ndarray) -> np.ndarray:
    inside = (position >= 0) & (position < len(ids))
    return np.where(inside, ids[np.where(inside, position, 0)], np.iinfo(np.int64).min)
