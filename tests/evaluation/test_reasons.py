"""The reason for an AP of zero: one broken set of results for each sentence."""

import pytest

from detection.evaluation import evaluate_detections
from tests.evaluation.coco_sets import make_results, make_truth

BOXES = [(1, 1, (10, 40, 30, 20)), (1, 2, (60, 50, 20, 30)), (2, 3, (45, 40, 50, 50)), (2, 1, (60, 10, 20, 40))]
CLASSES = ("cat", "dog", "cow", "elk")
TRUTH = make_truth(BOXES, categories=CLASSES, num_images=3)


def notes_of(rows, ground_truth=TRUTH):
    metrics = evaluate_detections(ground_truth, make_results(rows))
    return metrics["AP"], metrics["notes"]


def changed(image=lambda i: i, category=lambda k: k, box=lambda x, y, w, h: (x, y, w, h)):
    """The true boxes as detections, something about them wrong."""
    return [(image(i), category(k), box(*b), 0.9) for i, k, b in BOXES]


WRONG = {
    "nothing": ([], "AP is 0: there are no detections at all"),
    "wrong split": (
        changed(image=lambda i: 3),
        "none of the 1 images with detections has an object in the annotations (another split?)",
    ),
    "no category": (
        changed(category=lambda k: 4),
        "no predicted category has an object in the annotations (predicted ids 4, annotated ids 1, 2, 3)",
    ),
    "ids too high": (
        changed(category=lambda k: k + 1),
        "of another class; it seems that category ids are one too high.",
    ),
    "ids too low": (
        [row for row in changed(category=lambda k: k - 1) if row[1] > 0],
        "of another class; it seems that category ids are one too low (counted from 0?).",
    ),
    "ids shuffled": (
        changed(category=lambda k: {1: 3, 2: 1, 3: 2}[k]),
        "4 of 4 boxes overlap an object, but of another class (do the category ids mean the same classes?).",
    ),
    "corners": (
        changed(box=lambda x, y, w, h: (x, y, x + w, y + h)),
        "boxes look like [x1, y1, x2, y2] rather than [x, y, width, height]: read so, 4 of 4 detections",
    ),
    "centers": (
        changed(box=lambda x, y, w, h: (x + w / 2, y + h / 2, w, h)),
        "boxes look like [center x, center y, width, height] rather than",
    ),
    "rows first": (
        changed(box=lambda x, y, w, h: (y, x, h, w))[:1],
        "boxes look like [y, x, height, width] rather than",
    ),
    "normalized": (
        changed(box=lambda x, y, w, h: (x / 100, y / 100, w / 100, h / 100)),
        "boxes look normalized to 0..1; results hold [x, y, width, height] in pixels",
    ),
    "far off": (
        changed(box=lambda x, y, w, h: (x + w * 0.75, y, w, h)),
        "the best IoU of any detection with an object of its class is 0.14, below 0.5.",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_reason(name):
    rows, sentence = WRONG[name]
    ap, notes = notes_of(rows)
    assert ap == 0
    assert any(sentence in note for note in notes), notes
    assert len([note for note in notes if note.startswith("AP is 0")]) <= 2


def test_positions_instead_of_sparse_ids():
    ground_truth = make_truth([(1, 1, (10, 40, 30, 20)), (2, 2, (45, 40, 50, 50))], num_images=2)
    ids = (1, 2, 3, 5, 6, 7, 10, 11)  # the ground-truth boxes' 10 and 11 are places 6 and 7
    ground_truth["categories"] = [{"id": k, "name": f"class {k}"} for k in ids]
    for annotation in ground_truth["annotations"]:
        annotation["category_id"] += 9
    ap, notes = notes_of([(1, 6, (10, 40, 30, 20), 0.9), (2, 7, (45, 40, 50, 50), 0.9)], ground_truth)
    assert ap == 0
    assert "it seems that category ids are positions in the list of categories, counted from 0" in notes[1]


def test_a_wrong_box_format_is_noted_when_a_few_boxes_hit_by_chance():
    at_origin = make_truth([*BOXES * 8, (1, 1, (0, 0, 20, 20))], categories=CLASSES, num_images=3)
    rows = changed(box=lambda x, y, w, h: (x, y, x + w, y + h)) + [(1, 1, (0, 0, 20, 20), 0.1)]
    ap, notes = notes_of(rows, at_origin)
    assert 0 < ap < 0.05
    assert len(notes) == 1 and notes[0].startswith("AP is low: boxes look like [x1, y1, x2, y2]")


def test_only_on_crowds():
    ground_truth = make_truth([(1, 1, (0, 0, 20, 20)), (1, 1, (40, 40, 50, 50), True)])
    ap, notes = notes_of([(1, 1, (50, 50, 20, 20), 0.9)], ground_truth)
    assert ap == 0
    assert notes == [
        "AP is 0: detections reach an IoU of 0.5 with objects of their class only on crowds, or beyond the 100 best of "
        "an image and class."
    ]


def test_duplicates_are_noted_at_any_ap():
    ap, notes = notes_of(changed() * 2)
    assert ap > 0
    assert len(notes) == 1 and notes[0].startswith("4 of 8 detections repeat the image, category and box of another")


def test_duplicates_that_push_the_right_box_out():
    rows = [(1, 1, (80, 80, 5, 5), 0.9)] * 100 + [(1, 1, (10, 40, 30, 20), 0.1)]
    ap, notes = notes_of(rows)
    assert ap == 0
    assert notes[0].startswith("99 of 101 detections repeat") and "beyond the 100 best" in notes[1]


def test_unknown_ids_are_counted():
    ap, notes = notes_of([*changed(), (9, 1, (0, 0, 9, 9), 0.9), (1, 77, (0, 0, 9, 9), 0.9)])
    assert ap > 0
    assert notes == ["2 of 6 detections name an image or a category that the annotations lack and were left out."]


def test_no_ground_truth():
    ap, notes = notes_of(changed(), make_truth([], categories=CLASSES, num_images=3))
    assert ap == -1
    assert notes == ["The annotations hold no object to find (crowds do not count), so AP is not defined."]


def test_all_well():
    assert notes_of(changed()) == (pytest.approx(1), [])
