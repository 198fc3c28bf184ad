"""Error analysis by hotcoco: TIDE's kinds of error, calibration, subsets of images and likely label errors.

Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors", ECCV 2020. Matches are COCO's at an IoU
of 0.5; a detection that overlaps every box by less than 0.1 is background.

On 300 images drawn at random all counts were those of the paper's program (tidecv 1.0.1), but for background on images
without ground truth, which it leaves out, and gains of AP50 within 0.003 of its (2026-11-27, hotcoco 1.3.0). A class of
which nothing was detected has no object left once its missed ones are mended; hotcoco then counts its AP as 0, and the
paper's program leaves the class out of the mean, as is done here.
"""

import csv
import importlib.util
import io
from typing import Any

import numpy as np

from detection.errors import UserError
from detection.evaluation.coco import renumbered
from detection.evaluation.columns import CocoDataset, CocoResults, class_names, known_results, positions
from detection.evaluation.curves import Matching, match_results
from detection.evaluation.matching import FALSE_POSITIVE, IGNORED, overlapping_pairs
from detection.names import csv_name, short_names
from detection.reports.document import markdown_table

KINDS = {
    "Cls": "wrong class",
    "Loc": "poor box",
    "Both": "wrong class and poor box",
    "Dupe": "duplicate",
    "Bkg": "background",
    "Miss": "missed",
}
"""TIDE's kinds of error, as hotcoco and here."""
MATCH_IOU, BACKGROUND_IOU = 0.5, 0.1
"""IoU from which a box matches an object, and below which it is on background."""
OBJECTS = {"no objects": 0, "1 object": 1, "2 to 4 objects": 4, "5 to 9 objects": 9, "10 objects or more": 1 << 30}
"""Subsets of images by their most ground-truth boxes, crowds left out."""
OVERLAPPING = ("overlapping objects", "no overlapping objects")
"""Subsets of images with any objects by whether two of them overlap."""
OVERLAP = 0.3
"""IoU from which two ground-truth boxes overlap."""
LISTED_VALUES = 50
"""Most values of an attribute by which images are divided."""


def analyze_errors(
    ground_truth: CocoDataset, results: CocoResults, slice_by: str | None = None, confident: float = 0.5
) -> dict[str, Any] | None:
    """Analyze what keeps detections from an AP50 of 1; None where hotcoco is not installed.

    Args:
        ground_truth: the data set.
        results: detections; those on unknown images or categories are left out.
        slice_by: a key of the ground truth's images, such as `weather`, by whose values metrics are given, too.
        confident: score from which a detection that fits no annotation makes the annotations doubtful.

    Returns:
        Plain data: `detections` (their number), `delta_AP50` (what AP50 would gain if all errors of a kind were
        mended, by kind, and `all false positives`, `all missed`), `counts` by kind, `calibration` (`error`, the
        expected calibration error, `largest` and `bins`; None without detections, or where a score is not in [0, 1]),
        `subsets` (`images`, `AP` and `AP50` of images by number of objects, with and without overlapping ones, and by
        `slice_by`: `KEY value` and `no KEY`, or `KEY=value` and `without KEY` where a name is taken) and
        `label_errors` (`file_name`, `image_id`, `kind`, `class`, `box` xywh, `score`, and of a wrong label
        `annotation_id` and `annotated`), the most confident first.

    Raises:
        UserError: hotcoco is needed for `slice_by`, or that has too many values.
    """
    if slice_by is not None:
        require_slices(ground_truth, slice_by)
    if not importlib.util.find_spec("hotcoco"):
        return None
    import hotcoco

    subsets = {**_by_objects(ground_truth), **({} if slice_by is None else _by_attribute(ground_truth, slice_by))}
    targets, detections = renumbered(ground_truth, results)
    evaluation: Any = hotcoco.COCOeval(hotcoco.COCO(targets), hotcoco.COCO(detections), "bbox")
    evaluation.evaluate()
    found = evaluation.tide_errors()
    # Of scores that are no probabilities, such as percentages or logits, hotcoco raises.
    scores = [detection["score"] for detection in detections["annotations"]]
    calibration = evaluation.calibration() if scores and all(0 <= score <= 1 for score in scores) else None
    candidates = evaluation.image_diagnostics(score_thr=confident)["label_errors"]
    evaluation.accumulate()
    places = positions(ground_truth["images"])
    sliced = evaluation.slice_by({name: [places[i] + 1 for i in ids] for name, ids in subsets.items() if ids})
    gains = {**{KINDS[kind]: found["delta_ap"][kind] for kind in KINDS}}
    gains |= {"all false positives": found["delta_ap"]["FP"], "all missed": found["delta_ap"]["FN"]}
    gains |= _gains_of_missed(gains, found["ap_base"], match_results(ground_truth, results))
    return {
        "delta_AP50": gains,
        "counts": {name: found["counts"][kind] for kind, name in KINDS.items()},
        "detections": len(scores),
        "calibration": calibration
        and {"error": calibration["ece"], "largest": calibration["mce"], "bins": calibration["bins"]},  # fmt: skip
        "subsets": {
            name: {"images": len(ids), "AP": sliced[name]["AP"], "AP50": sliced[name]["AP50"]}
            for name, ids in subsets.items()
            if ids
        },
        "label_errors": _label_errors(ground_truth, known_results(ground_truth, results), candidates),
    }


def require_slices(ground_truth: CocoDataset, key: str) -> None:
    """Check that images can be divided by the values of a key.

    Raises:
        UserError: hotcoco is needed for it, or it has too many values.
    """
    if not importlib.util.find_spec("hotcoco"):
        raise UserError(f"--slice-by {key} needs hotcoco: pip install 'context-detection[fast-eval]'.")
    _by_attribute(ground_truth, key)


def errors_table(errors: dict[str, Any]) -> str:
    """Format what `analyze_errors` returned as Markdown tables; label errors are only counted."""
    counts = errors["counts"]
    rows = [[kind, f"{gain:+.3f}", str(counts.get(kind, ""))] for kind, gain in errors["delta_AP50"].items()]
    tables = [markdown_table(["error", "AP50 gained without it", "errors"], rows)]
    subsets = errors["subsets"]
    shown = short_names(list(subsets))
    rows = [
        [name, str(s["images"]), _text(s["AP"]), _text(s["AP50"])]
        for name, s in zip(shown, subsets.values(), strict=True)
    ]
    tables.append(markdown_table(["images with", "images", "AP", "AP50"], rows))
    calibration, number = errors["calibration"], len(errors["label_errors"])
    fit = "detections fit" if number != 1 else "detection fits"
    if calibration is None:
        calibrated = f"no calibration error, as {no_calibration(errors)}"
    else:
        calibrated = f"calibration error {calibration['error']:.3f} (a score is off by so much on average)"
    tables.append(f"{calibrated}; {number} confident {fit} no annotation, which may be wrong or missing")
    return "\n\n".join(tables)


def no_calibration(errors: dict[str, Any]) -> str:
    """Return why there is no calibration, to end a sentence."""
    # Metrics of an older run do not have the number.
    return "scores are not between 0 and 1" if errors.get("detections", 1) else "nothing was detected"


def label_errors_csv(errors: dict[str, Any]) -> str:
    """Format likely label errors, one a line, the most confident first; names as `csv_name` does."""
    columns = ["file_name", "image_id", "kind", "class", "annotated", "annotation_id", "score", "x", "y", "w", "h"]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in errors["label_errors"]:
        names = {key: csv_name(row[key]) for key in ("file_name", "class", "annotated") if key in row}
        writer.writerow({**row, **names, **dict(zip("xywh", row["box"], strict=True))})
    return text.getvalue()


def _gains_of_missed(gains: dict[str, float], ap50: float, matching: Matching) -> dict[str, float]:
    """Leave the classes that mending missed objects empties out of the mean, in which hotcoco counts them as 0."""
    targets = matching.targets
    number = np.bincount(targets.category[~targets.crowd], minlength=len(targets.names))
    detected = np.unique(matching.detections.category[matching.matched != IGNORED])
    undetected = number > 0
    undetected[detected] = False
    reached = np.zeros_like(undetected)
    reached[targets.category[_reached_by_wrong_class(matching)]] = True
    classes = int((number > 0).sum())
    mended = {}
    for kind, emptied in ((KINDS["Miss"], undetected & ~reached), ("all missed", undetected)):
        left = classes - int(emptied.sum())
        # Without any class left nothing is missed, and nothing was detected.
        mended[kind] = (gains[kind] + ap50) * classes / left - ap50 if left else 1 - ap50
    return mended if classes else {}


def _reached_by_wrong_class(matching: Matching) -> np.ndarray:
    """Indices of the ground-truth boxes whose own class a detection of another would have to be: TIDE's kind `Cls`."""
    targets = matching.targets
    false = matching.detections.select(matching.matched == FALSE_POSITIVE)
    detection, ground_truth, iou = overlapping_pairs(false, targets, BACKGROUND_IOU, same_category=False)
    real = ~targets.crowd[ground_truth]
    detection, ground_truth, iou = detection[real], ground_truth[real], iou[real]
    same = false.category[detection] == targets.category[ground_truth]
    best = np.zeros((2, len(false.score)))  # IoU with objects of other classes, and of the detection's own
    np.maximum.at(best, (same.astype(int), detection), iou)
    # A box of its own class that it fits poorly comes first: such a detection is of the kind `Loc`.
    poor = (best[1] >= BACKGROUND_IOU) & (best[1] < MATCH_IOU)
    wrong = ~same & (iou >= MATCH_IOU) & (iou == best[0, detection]) & ~poor[detection]
    return ground_truth[wrong]


def _by_objects(ground_truth: CocoDataset) -> dict[str, list[int]]:
    boxes: dict[int, list[list[float]]] = {image["id"]: [] for image in ground_truth["images"]}
    for annotation in ground_truth["annotations"]:
        if not annotation.get("iscrowd", 0):
            boxes[annotation["image_id"]].append(annotation["bbox"])
    subsets: dict[str, list[int]] = {name: [] for name in OBJECTS}
    for image, found in boxes.items():
        subsets[next(name for name, most in OBJECTS.items() if len(found) <= most)].append(image)
    overlapping = {image for image, found in boxes.items() if _overlap(np.array(found, float).reshape(-1, 4))}
    some, none = OVERLAPPING
    subsets[some] = [image for image in boxes if image in overlapping]
    subsets[none] = [image for image in boxes if boxes[image] and image not in overlapping]
    return subsets


def _overlap(boxes: np.ndarray) -> bool:
    """Whether any two boxes xywh (N, 4) have an IoU of `OVERLAP`."""
    low, high, area = boxes[:, :2], boxes[:, :2] + boxes[:, 2:], boxes[:, 2:].prod(1)
    for i in range(len(boxes) - 1):
        others = slice(i + 1, None)
        common = (np.minimum(high[i], high[others]) - np.maximum(low[i], low[others])).clip(min=0).prod(1)
        if (common >= OVERLAP * np.maximum(area[i] + area[others] - common, 1e-9)).any():
            return True
    return False


def _by_attribute(ground_truth: CocoDataset, key: str) -> dict[str, list[int]]:
    """Divide images by their value of a key; null is no value."""
    images = ground_truth["images"]
    values = {image["id"]: str(image[key]) for image in images if image.get(key) is not None}
    found = sorted(set(values.values()))
    if len(found) > LISTED_VALUES:
        raise UserError(f"--slice-by {key}: {len(found)} values, more than {LISTED_VALUES}; name another key.")
    names = [*(f"{key} {value}" for value in found), f"no {key}"]
    if len({*names, *OBJECTS, *OVERLAPPING}) < len(names) + len(OBJECTS) + len(OVERLAPPING):
        names = [*(f"{key}={value}" for value in found), f"without {key}"]
    subsets: dict[str, list[int]] = {name: [] for name in names}
    by_value = dict(zip(found, names, strict=False))
    for image in images:
        subsets[by_value[values[image["id"]]] if image["id"] in values else names[-1]].append(image["id"])
    return subsets


def _label_errors(
    ground_truth: CocoDataset, results: CocoResults, candidates: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Name what hotcoco found by the ids and names of the ground truth."""
    ids = {place + 1: key for key, place in positions(ground_truth["images"]).items()}
    files = {image["id"]: image.get("file_name", "") for image in ground_truth["images"]}
    names, annotations = class_names(ground_truth), ground_truth["annotations"]
    rows = []
    for candidate in sorted(candidates, key=lambda c: -c["dt_score"]):
        image, result = ids[candidate["image_id"]], results[candidate["dt_id"] - 1]
        row = {
            "file_name": files[image],
            "image_id": image,
            "kind": candidate["type"].replace("_", " "),
            "class": names[result["category_id"]],
            "box": [float(value) for value in result["bbox"]],
            "score": float(result["score"]),
        }
        if candidate["gt_id"] is not None:
            annotation = annotations[candidate["gt_id"] - 1]
            row |= {"annotation_id": annotation["id"], "annotated": names[annotation["category_id"]]}
        rows.append(row)
    return rows


def _text(value: float) -> str:
    return "n/a" if value == -1 else f"{value:.3f}"
