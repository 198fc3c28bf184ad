"""Notes on results: facts that bound AP, and causes of a low AP that ground truth and results give evidence for.

Shapes: N ground-truth boxes, D detections, P pairs of the two in one image.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from detection.data.box_readings import Placement
from detection.data.format_evidence import find_reading
from detection.evaluation.columns import (
    BoxColumns,
    CocoDataset,
    CocoResults,
    DetectionColumns,
    GroundTruthColumns,
    detection_columns,
    ground_truth_columns,
    known_results,
)
from detection.evaluation.matching import image_sizes, overlapping_pairs
from detection.names import short_name

MIN_HITS, MIN_RATIO, MIN_OBJECTS, MIN_DEVIATIONS = 20, 5, 5, 4
"""Evidence for a cause: hits, hits for each one as given, different objects and standard deviations above chance."""

MAX_PAIRS = 300_000
"""Pairs of a detection and an object that box formats are tried on: they take a second, and more add no evidence."""

SHUFFLES = 100
"""Permutations of the classes of detections, which show what chance explains."""

Pairs = tuple[np.ndarray, np.ndarray]

GIVEN = "[x, y, width, height]"
FORMATS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    GIVEN: lambda box: box,
    "[x1, y1, x2, y2]": lambda box: np.concatenate([box[:, :2], (box[:, 2:] - box[:, :2]).clip(min=0)], axis=1),
    "[center x, center y, width, height]": lambda box: np.concatenate(
        [box[:, :2] - box[:, 2:] / 2, box[:, 2:]], axis=1
    ),
    "[y, x, height, width]": lambda box: box[:, [1, 0, 3, 2]],
}


def find_notes(ground_truth: CocoDataset, results: CocoResults, ap: float) -> list[str]:
    """Write sentences about what lowers metrics or leaves them undefined.

    A cause of a low AP is named when `MIN_HITS` detections are on objects under another reading of the results, which
    is `MIN_RATIO` times as many as under the given one and more than chance explains.
    """
    notes = list(_always(ground_truth, results))
    targets, detections = ground_truth_columns(ground_truth), detection_columns(ground_truth, results)
    objects = _select(targets, ~targets.crowd)
    sizes = image_sizes(ground_truth)
    boxes = _wrong_annotations(objects, detections, sizes) or _wrong_boxes(objects, detections, sizes)
    positions = None if boxes else _positions(ground_truth, results, objects, detections)
    cause = boxes or positions or _wrong_classes(ground_truth, objects, detections)
    notes += [] if boxes else _beyond_the_image(objects, detections, sizes)
    notes += [] if positions else _one_category(objects, detections)
    notes += _scores_above_1(detections)
    notes += _more_than_100(objects, detections)
    if cause or ap != 0:
        return notes + ([f"AP is {'0' if ap == 0 else 'low'}: {cause}"] if cause else [])
    missing = next(_missing(ground_truth, results), None)
    return [*notes, f"AP is 0: {missing}" if missing else _best_overlap(targets, detections)]


def _always(ground_truth: CocoDataset, results: CocoResults) -> Iterator[str]:
    if all(annotation.get("iscrowd", 0) for annotation in ground_truth["annotations"]):
        yield "The annotations hold no object to find (crowds do not count), so AP is not defined."
    if ground_truth.get("dropped"):
        count = ground_truth["dropped"]
        what = "bad box of the annotations was" if count == 1 else "bad boxes of the annotations were"
        yield f"{count} {what} left out (`detection doctor` lists them)."
    named = known_results({**ground_truth, "judged": None}, results)
    if ground_truth.get("judged") is not None:
        count = len(named) - len(known_results(ground_truth, results))
        yield (
            f"{count} of {len(results)} detections are of classes that are neither annotated in their image nor listed "
            "in neg_category_ids, and were left out; those of not_exhaustive_category_ids that match no box count as "
            "neither right nor wrong."
        )
    unknown = len(results) - len(named)
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


def _missing(ground_truth: CocoDataset, results: CocoResults) -> Iterator[str]:
    if not results:
        yield "there are no detections at all (score threshold too high, or the detector is untrained)."
    real = [annotation for annotation in ground_truth["annotations"] if not annotation.get("iscrowd", 0)]
    true_images, images = ({item["image_id"] for item in items} for items in (real, results))
    if not true_images & images:
        yield f"none of the {len(images)} images with detections has an object in the annotations (another split?)."
    true_categories, categories = ({item["category_id"] for item in items} for items in (real, results))
    if not true_categories & categories:
        yield (
            f"no predicted category has an object in the annotations (predicted ids {_some(categories)}, annotated ids "
            f"{_some(true_categories)})."
        )


def _best_overlap(targets: GroundTruthColumns, detections: DetectionColumns) -> str:
    iou = overlapping_pairs(detections, targets, 1e-9)[2].max(initial=0.0)
    if iou < 0.5:
        return f"The best IoU of any detection with an object of its class is {iou:.2f}, below 0.5."
    return (
        "Detections reach an IoU of 0.5 with objects of their class only on crowds, or beyond the 100 best of an image "
        "and class."
    )


def _some(ids: set[int]) -> str:
    shown = ", ".join(map(str, sorted(ids)[:5]))
    return f"{shown}, …" if len(ids) > 5 else shown


def _select(targets: GroundTruthColumns, keep: np.ndarray) -> GroundTruthColumns:
    columns = ("image", "category", "box", "crowd")
    return replace(targets, **{name: getattr(targets, name)[keep] for name in columns})


def _num_beyond(boxes: BoxColumns, sizes: np.ndarray) -> int:
    relative = boxes.box.reshape(-1, 2, 2) / sizes[boxes.image, None]  # (D, 2, 2): xy and wh
    return int(((relative[:, 0] < -0.1) | (relative.sum(axis=1) > 1.1)).any(axis=1).sum())


def _beyond_the_image(targets: GroundTruthColumns, detections: DetectionColumns, sizes: np.ndarray) -> Iterator[str]:
    beyond, total = _num_beyond(detections, sizes), len(detections.box)
    # Some data sets have boxes of hidden parts too, and detectors learn them.
    if beyond >= max(MIN_OBJECTS, 0.1 * total) and _num_beyond(targets, sizes) <= 0.01 * len(targets.box):
        yield (
            f"{beyond} of {total} detections reach beyond their image by more than a tenth of its side (are some boxes "
            f"[x1, y1, x2, y2] rather than {GIVEN}, or in pixels of a resized image?)."
        )


def _one_category(targets: GroundTruthColumns, detections: DetectionColumns) -> Iterator[str]:
    predicted = np.unique(detections.category)
    if len(predicted) != 1 or len(detections.box) < MIN_HITS or len(targets.names) < 2:
        return
    found = np.unique(overlapping_pairs(detections, targets, 0.5, same_category=False)[1])
    is_other = targets.category != predicted[0]
    others, overlapped = int(is_other.sum()), int(is_other[found].sum())
    # A detector that finds this category alone overlaps the others' objects less often than its own.
    own_share = (len(found) - overlapped) / max(1, len(is_other) - others)
    if overlapped >= MIN_OBJECTS and overlapped >= own_share * others / 2:
        yield (
            f"All {len(detections.box)} detections are of one category, '{short_name(targets.names[predicted[0]])}', "
            f"and overlap {overlapped} of {others} objects of other categories, whose AP is 0; "
            "`detection evaluate --ignore-classes` measures the finding alone."
        )


def _scores_above_1(detections: DetectionColumns) -> Iterator[str]:
    above = int((detections.score > 1).sum())
    if above:
        low, high = detections.score[-1], detections.score[0]
        percent = " (in percent?)" if high <= 100 and low >= 0 else " (no probabilities?)"
        yield (
            f"{above} of {len(detections.score)} scores are above 1, {low:.3g} to {high:.3g}{percent}: AP is the same "
            "on any scale, but thresholds such as those of the best F1 are on this one."
        )


def _more_than_100(targets: GroundTruthColumns, detections: DetectionColumns) -> Iterator[str]:
    objects, most = np.bincount(targets.image), int(np.bincount(detections.image).max(initial=0))
    by_class = np.zeros((len(objects), len(targets.names)), np.int64)
    np.add.at(by_class, (targets.image, targets.category), 1)
    full = objects > 100
    lost = int((objects - by_class.clip(max=100).sum(axis=1).clip(max=most))[full].sum())
    if most and lost:
        yield (
            f"More than 100 objects are in {full.sum()} of the images: COCO counts the 100 best detections of an image "
            f"and class, and these results hold at most {most} an image, so that at least {lost} of "
            f"{objects[full].sum()} objects cannot be found there."
        )


def _exceeds_chance(hits: int, by_chance: Sequence[int], spread: float) -> bool:
    return hits > max(by_chance) and hits >= float(np.mean(by_chance)) + MIN_DEVIATIONS * max(spread, 1.0)


def _hits(box: np.ndarray, detections: DetectionColumns, targets: GroundTruthColumns) -> tuple[int, int]:
    """Count detections of any class that overlap an object when their boxes are replaced, and such objects."""
    found = overlapping_pairs(replace(detections, box=box), targets, 0.5, same_category=False)
    return len(np.unique(found[0])), len(np.unique(found[1]))


def _wrong_annotations(targets: GroundTruthColumns, detections: DetectionColumns, sizes: np.ndarray) -> str | None:
    """Find a box format in which the annotations, and not the detections, are meant."""
    own = sizes[targets.image]
    finding = find_reading(targets.box, targets.image, Placement(own, own, np.ones(len(own), dtype=int)))
    if finding is None or 2 * _hits(detections.box, detections, targets)[1] > len(targets.box):
        return None
    return f"in the annotations, {finding.sentence}; `detection doctor` examines them with their images, and converts."


def _wrong_boxes(targets: GroundTruthColumns, detections: DetectionColumns, sizes: np.ndarray) -> str | None:
    """Find a box format, and a size the images were resized to, in which far more detections overlap objects."""
    pairs = np.bincount(targets.image, minlength=len(sizes)) * np.bincount(detections.image, minlength=len(sizes))
    images = np.flatnonzero(pairs)[:: 1 + int(pairs.sum()) // MAX_PAIRS]
    detections = detections.select(np.isin(detections.image, images))
    targets = _select(targets, np.isin(targets.image, images))
    detections = replace(detections, image=np.searchsorted(images, detections.image))
    targets = replace(targets, image=np.searchsorted(images, targets.image))
    given, found = _hits(detections.box, detections, targets)
    least = max(MIN_HITS, MIN_RATIO * given)
    # Where most objects are found as given, AP is low for other reasons.
    if len(detections.box) < least or 2 * found > len(targets.box) or len(images) < 2:
        return None

    sizes = sizes[images]
    units = {
        " in pixels of an image {:.3g} times as large": np.ones_like(sizes),
        " in pixels of an image resized to {:.0f} × {:.0f}": sizes,
        " in pixels of an image resized to a shorter side of {:.0f}": sizes.min(axis=1, keepdims=True),
        " in pixels of an image resized to a longer side of {:.0f}": sizes.max(axis=1, keepdims=True),
    }
    pairs = _pairs(detections, targets)
    readings = {
        (name, unit): _read(name, units[unit], detections, targets, pairs) for name in FORMATS for unit in units
    }
    most = max(hits for hits, _, _ in readings.values())
    # Where formats fit alike, as sizes do in images of one size, the plain one is meant.
    name, unit = min(
        (key for key in readings if readings[key][0] >= 0.95 * most), key=lambda key: readings[key][2] != 1
    )
    hits, found, factor = readings[name, unit]
    if hits < least or found < MIN_OBJECTS:
        return None
    shifts = np.unique(np.linspace(1, len(images) - 1, 20).astype(int))
    others = [_shifted(targets, sizes, shift) for shift in shifts]
    by_chance = [_read(name, units[unit], detections, other, _pairs(detections, other))[0] for other in others]
    # Detections come in groups, one around each object, so that counts of them vary more than Poisson's.
    if not _exceeds_chance(hits, by_chance, float(np.sqrt(np.mean(by_chance) * hits / found))):
        return None
    first, second = list(units)[:2]
    scale = unit.format(factor, factor)
    if factor == 1 and unit in (first, second):
        scale = "" if unit == first else " normalized to 0..1"
    return (
        f"boxes look like {name}{scale} rather than {GIVEN} in pixels of the image on disk: read so, {hits} of "
        f"{len(detections.box)} detections overlap an object, as given {given}."
    )


def _pairs(detections: DetectionColumns, targets: GroundTruthColumns) -> Pairs:
    """Find all pairs of an image, of any overlap."""
    return overlapping_pairs(detections, targets, 0.0, same_category=False)[:2]


def _read(
    name: str, unit: np.ndarray, detections: DetectionColumns, targets: GroundTruthColumns, pairs: Pairs
) -> tuple[int, int, float]:
    """Count hits and objects found when boxes have a format, and the factor on `unit`, (images, 1 or 2), that fits."""
    box = FORMATS[name](detections.box)
    unit = np.broadcast_to(unit, (len(unit), 2))[:, [0, 1, 0, 1]]  # (images, 4)
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled = _centered(targets.box) / unit[targets.image]
        ratios = np.log(_centered(box)[pairs[0]] / scaled[pairs[1]])  # (P, 4)
        # A pair that belongs together has one ratio in its center and its size.
        votes = np.sort(ratios[np.ptp(ratios, axis=1) < 0.4, :2].mean(axis=1))
    if not votes.size:
        return 0, 0, 1.0
    within = np.searchsorted(votes, votes + 0.1) - np.arange(len(votes))
    first = within.argmax()
    factor = float(np.exp(np.median(votes[first : first + within[first]])))
    factor = 1.0 if abs(factor - 1) < 0.05 else factor
    return *_hits(box * unit[detections.image] / factor, detections, targets), factor


def _centered(box: np.ndarray) -> np.ndarray:
    return np.concatenate([box[:, :2] + box[:, 2:] / 2, box[:, 2:]], axis=1)


def _shifted(targets: GroundTruthColumns, sizes: np.ndarray, shift: int) -> GroundTruthColumns:
    """Move all objects of an image to another one, at the same place relative to its size."""
    image = (targets.image + shift) % len(sizes)
    ratio = np.nan_to_num(sizes[image] / sizes[targets.image], nan=1.0)[:, [0, 1, 0, 1]]  # (N, 4)
    return replace(targets, image=image, box=targets.box * ratio)


def _positions(
    ground_truth: CocoDataset, results: CocoResults, targets: GroundTruthColumns, detections: DetectionColumns
) -> str | None:
    """Find that category ids, some of which the annotations lack, are positions in their list."""
    ids, used = sorted({c["id"] for c in ground_truth["categories"]}), {r["category_id"] for r in results}
    if used <= set(ids) or not all(1 <= id_ <= len(ids) for id_ in used):
        return None
    meant = detection_columns(ground_truth, [{**r, "category_id": ids[r["category_id"] - 1]} for r in results])
    hits, any_class, given = (
        len(np.unique(overlapping_pairs(found, targets, 0.5, same_category=same)[0]))
        for found, same in ((meant, True), (meant, False), (detections, True))
    )
    # Detections whose classes are guessed have the right one by chance.
    if hits < max(MIN_HITS, MIN_RATIO * given) or 4 * hits < 3 * any_class:
        return None
    return (
        "category ids look like positions in the list of categories, counted from 1, rather than its ids: read so, "
        f"{hits} of {len(results)} detections overlap an object of their class, as given {given}."
    )


def _wrong_classes(ground_truth: CocoDataset, targets: GroundTruthColumns, detections: DetectionColumns) -> str | None:
    """Find classes that are exchanged for others in the best detections of objects."""
    detection, found, _ = overlapping_pairs(detections, targets, 0.5, same_category=False)
    found, first = np.unique(found, return_index=True)  # pairs are sorted by descending score
    predicted, annotated = detections.category[detection[first]], targets.category[found]
    if len(found) < MIN_HITS:
        return None
    # Single objects show ids that are wrong throughout; two exchanged classes of many need some of each.
    for least in (1, MIN_OBJECTS):
        meant, hits = _exchanged(predicted, annotated, len(targets.names), least)
        if hits < MIN_HITS:
            continue
        rng = np.random.default_rng(0)
        by_chance = [_exchanged(rng.permutation(predicted), annotated, len(meant), least)[1] for _ in range(SHUFFLES)]
        if _exceeds_chance(hits, by_chance, float(np.std(by_chance))):
            break
    else:
        return None

    wrong = np.flatnonzero(meant >= 0)
    start = f"{hits} of {len(found)} objects that a detection overlaps are found as another class"
    ids = np.array(sorted({category["id"] for category in ground_truth["categories"]}))
    listed = "positions in the list of categories, counted from {}, not its ids"
    causes = {
        "one too low (counted from 0?)": ids[wrong] + 1,
        "one too high": ids[wrong] - 1,
        listed.format(0): _at(ids, ids[wrong]),
        listed.format(1): _at(ids, ids[wrong] - 1),
    }
    explained = {cause: (right == ids[meant[wrong]]).mean() for cause, right in causes.items()}
    cause = max(explained, key=lambda key: explained[key])
    if explained[cause] > 0.8 and len(wrong) > 1:
        return f"{start}; it seems that category ids are {cause}."
    shown = ", ".join(
        f"'{short_name(targets.names[k])}' is predicted on '{short_name(targets.names[meant[k]])}'" for k in wrong[:5]
    )
    return f"{start}; classes look exchanged: {shown}{', …' if len(wrong) > 5 else ''}."


def _exchanged(predicted: np.ndarray, annotated: np.ndarray, num_classes: int, least: int) -> tuple[np.ndarray, int]:
    """Find the class that each predicted one is on instead, at least `least` times; -1 for none. Count all of them."""
    count = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(count, (predicted, annotated), 1)
    right = np.diag(count)
    # One that is seldom right for either class: confusion with a frequent class is no exchange.
    count = np.where(count >= MIN_RATIO * np.maximum(right[:, None], right).clip(min=least / MIN_RATIO), count, 0)
    np.fill_diagonal(count, 0)
    most = count.max(axis=1)
    return np.where(most > 0, count.argmax(axis=1), -1), int(most.sum())


def _at(ids: np.ndarray, position: np.ndarray) -> np.ndarray:
    inside = (position >= 0) & (position < len(ids))
    return np.where(inside, ids[np.where(inside, position, 0)], np.iinfo(np.int64).min)
