"""Notes on results: one broken set of results for each cause, and detectors without skill that get none."""

import random

import pytest

from detection.evaluation import evaluate_detections
from detection.evaluation.reasons import find_notes
from tests.evaluation.coco_sets import make_results, make_truth

CLASSES = ("cat", "dog", "cow", "elk")
SIZES = ((640, 480), (480, 640), (500, 375), (1000, 800))
BOXES = [(1, 1, (10, 40, 30, 20)), (1, 2, (60, 50, 20, 30)), (2, 3, (45, 40, 50, 50)), (2, 1, (60, 10, 20, 40))]
FEW = make_truth(BOXES, categories=CLASSES, num_images=3)


def notes_of(rows, ground_truth):
    metrics = evaluate_detections(ground_truth, make_results(rows))
    return metrics["AP"], metrics["notes"]


def draw_box(rng, width, height):
    w, h = rng.uniform(0.06, 0.25) * width, rng.uniform(0.06, 0.25) * height
    return rng.uniform(0, width - w), rng.uniform(0, height - h), w, h


def draw_ground_truth(seed=0, num_images=16, per_image=4, weights=(1, 1, 1), sizes=SIZES):
    """Objects of the first classes at random places in images of several sizes."""
    rng = random.Random(seed)
    sizes = [rng.choice(sizes) for _ in range(num_images)]
    classes = range(1, len(weights) + 1)
    rows = [
        (image, rng.choices(classes, weights)[0], draw_box(rng, *size))
        for image, size in enumerate(sizes, start=1)
        for _ in range(per_image)
    ]
    ground_truth = make_truth(rows, categories=CLASSES[:3], num_images=num_images)
    for item, (width, height) in zip(ground_truth["images"], sizes, strict=True):
        item.update(width=width, height=height)
    return ground_truth, rows


def right_boxes(seed=0, weights=(1, 1, 1), category=lambda k: k, box=lambda b, w, h: b):
    """Ground truth of 64 objects, and slightly wrong boxes of them in which something else is changed."""
    ground_truth, rows = draw_ground_truth(seed, weights=weights)
    rng = random.Random(seed)
    sizes = {item["id"]: (item["width"], item["height"]) for item in ground_truth["images"]}
    found = []
    for number, (i, k, (x, y, w, h)) in enumerate(rows):
        near = (x + rng.uniform(-0.05, 0.05) * w, y, w, h * rng.uniform(0.95, 1.05))
        found.append((i, category(k), box(near, *sizes[i]), 0.9 - 0.001 * number))
    return ground_truth, found


def random_detections(ground_truth, seed, per_image=30, weights=(1, 1, 1), copies=1):
    rng = random.Random(1000 + seed)
    rows = []
    for item in ground_truth["images"]:
        for _ in range(per_image // copies):
            category = rng.choices(range(1, len(weights) + 1), weights)[0]
            x, y, w, h = draw_box(rng, item["width"], item["height"])
            rows += [(item["id"], category, (x + 0.01 * w * c, y, w, h), rng.random()) for c in range(copies)]
    return rows


def corners(box, width=1, height=1):
    x, y, w, h = box
    return x, y, x + w, y + h


def centers(box, width=1, height=1):
    x, y, w, h = box
    return x + w / 2, y + h / 2, w, h


def rows_first(box, width=1, height=1):
    x, y, w, h = box
    return y, x, h, w


def times(factor, height_factor=None):
    across = factor if height_factor is None else height_factor
    return lambda box: (box[0] * factor, box[1] * across, box[2] * factor, box[3] * across)


CAUSES = {
    "corners": ({"box": corners}, "boxes look like [x1, y1, x2, y2] rather than [x, y, width, height]"),
    "centers": ({"box": centers}, "boxes look like [center x, center y, width, height] rather than"),
    "rows first": ({"box": rows_first}, "boxes look like [y, x, height, width] rather than"),
    "normalized": (
        {"box": lambda b, w, h: times(1 / w, 1 / h)(b)},
        "boxes look like [x, y, width, height] normalized to 0..1 rather than",
    ),
    "normalized centers": (
        {"box": lambda b, w, h: times(1 / w, 1 / h)(centers(b))},
        "boxes look like [center x, center y, width, height] normalized to 0..1 rather than",
    ),
    "resized": (
        {"box": lambda b, w, h: times(1000 / min(w, h))(b)},
        "boxes look like [x, y, width, height] in pixels of an image resized to a shorter side of ",
    ),
    "twice the size": (
        {"box": lambda b, w, h: times(2)(b)},
        "boxes look like [x, y, width, height] in pixels of an image 2 times as large rather than",
    ),
    "ids too high": (
        {"category": lambda k: k % 3 + 1},
        "exchanged: 'cat' is predicted on 'cow', 'dog' is predicted on 'cat', 'cow' is predicted on 'dog'.",
    ),
    "classes exchanged": (
        {"category": lambda k: {1: 2, 2: 1}.get(k, k)},
        "classes look exchanged: 'cat' is predicted on 'dog', 'dog' is predicted on 'cat'.",
    ),
}


@pytest.mark.parametrize("name", CAUSES)
@pytest.mark.parametrize("false_positives", [0, 10])
def test_cause(name, false_positives):
    change, sentence = CAUSES[name]
    ground_truth, rows = right_boxes(**change)
    rows = rows + [(*row[:3], row[3] / 10) for row in random_detections(ground_truth, 0, false_positives)]
    notes = [note for note in notes_of(rows, ground_truth)[1] if note.startswith("AP is")]
    assert len(notes) == 1 and sentence in notes[0], notes


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda k: k + 1, "it seems that category ids are one too high."),
        (lambda k: k - 1, "it seems that category ids are one too low (counted from 0?)."),
    ],
)
def test_ids_that_are_shifted(change, sentence):
    ground_truth, rows = right_boxes(category=change)
    ground_truth["categories"] = [{"id": k, "name": f"class {k}"} for k in range(5)]
    (note,) = notes_of(rows, ground_truth)[1]
    assert note == f"AP is low: 63 of 64 objects that a detection overlaps are found as another class; {sentence}"


def test_positions_instead_of_sparse_ids():
    ids = (1, 2, 3, 5, 6, 7, 10, 11)  # classes 5, 6 and 7 are at 3, 4 and 5
    ground_truth, rows = right_boxes(category=lambda k: k + 2)
    ground_truth["categories"] = [{"id": k, "name": f"class {k}"} for k in ids]
    for annotation in ground_truth["annotations"]:
        annotation["category_id"] += 4
    rows = [(i, k, box, score) for i, k, box, score in rows if k != 4]
    (note,) = [note for note in notes_of(rows, ground_truth)[1] if note.startswith("AP")]
    assert "it seems that category ids are positions in the list of categories, counted from 0" in note


def test_positions_that_are_mostly_no_ids():
    """Of the positions 1, 2 and 3 of the ids 3, 7 and 11, only 3 is an id, of another class."""
    ground_truth, rows = right_boxes()
    ids = {1: 3, 2: 7, 3: 11}
    for item in ground_truth["categories"]:
        item["id"] = ids[item["id"]]
    for annotation in ground_truth["annotations"]:
        annotation["category_id"] = ids[annotation["category_id"]]
    lost = sum(k != 3 for _, k, _, _ in rows)
    assert notes_of(rows, ground_truth)[1] == [
        f"{lost} of 64 detections name an image or a category that the annotations lack and were left out.",
        "AP is 0: category ids look like positions in the list of categories, counted from 1, rather than its ids: "
        "read so, 64 of 64 detections overlap an object of their class, as given 0.",
    ]
    rng = random.Random(0)
    guessed = [(i, rng.choice((1, 2, 3)), box, score) for i, _, box, score in rows]
    assert not any("positions" in note for note in notes_of(guessed, ground_truth)[1])


GROUND_TRUTHS = {
    "corners": (corners, "corners (left, top, right, bottom): so read 64 of 64 boxes fit their image, as given "),
    "shares": (lambda b, w, h: times(1 / w, 1 / h)(b), "in shares of 1 of the image's sides: "),
}


@pytest.mark.parametrize("name", GROUND_TRUTHS)
def test_annotations_in_another_format(name):
    """The detections are right, so nothing is reported of them."""
    change, sentence = GROUND_TRUTHS[name]
    ground_truth, rows = right_boxes()
    sizes = {item["id"]: (item["width"], item["height"]) for item in ground_truth["images"]}
    for annotation in ground_truth["annotations"]:
        annotation["bbox"] = list(change(annotation["bbox"], *sizes[annotation["image_id"]]))
    (note,) = (note for note in notes_of(rows, ground_truth)[1] if note.startswith("AP is"))
    assert ": in the annotations, the boxes look like " in note and sentence in note
    assert note.endswith("; `detection doctor` examines them with their images, and converts.")
    same = [(a["image_id"], a["category_id"], tuple(a["bbox"]), 0.9) for a in ground_truth["annotations"]]
    assert not any("in the annotations, the boxes" in note for note in notes_of(same, ground_truth)[1])


def test_fewer_than_twenty_detections_are_no_evidence():
    ground_truth, rows = right_boxes(box=corners)
    assert any("[x1, y1, x2, y2]" in note for note in find_notes(ground_truth, make_results(rows[:28]), 0.0))
    notes = find_notes(ground_truth, make_results(rows[:19]), 0.0)
    assert not any("boxes look like" in note for note in notes)


DETECTORS = {
    "images of one size": ({"sizes": ((200, 150),)}, {}),
    "images of several sizes": ({}, {}),
    "groups around a place": ({}, {"copies": 10}),
    "two images": ({"num_images": 2, "per_image": 10}, {"per_image": 60, "copies": 5}),
    "rare class predicted": ({"weights": (95, 5)}, {"weights": (5, 95)}),
}


@pytest.mark.parametrize("name", DETECTORS)
def test_a_random_detector_gets_no_cause(name):
    drawn, detected = DETECTORS[name]
    for seed in range(40):
        ground_truth, _ = draw_ground_truth(seed, **{"num_images": 12, **drawn})
        results = make_results(random_detections(ground_truth, seed, **detected))
        notes = find_notes(ground_truth, results, ap=0.01)
        assert not notes, (seed, notes)


def test_one_box_for_all_images_gets_no_cause():
    """Objects at the center, detections always right of it and below: read as centers, they overlap all objects."""
    rng = random.Random(0)
    boxes = [(i, 1, (140 + rng.uniform(-9, 9), 90 + rng.uniform(-9, 9), 120, 120)) for i in range(1, 41)]
    ground_truth = make_truth(boxes, num_images=40, size=(400, 300))
    notes = find_notes(ground_truth, make_results([(i, 1, (200, 150, 120, 120), 0.5) for i in range(1, 41)]), ap=0.01)
    assert not notes


WITHOUT_SKILL = {
    "random": ((1, 1, 1), lambda k, rng: [rng.randint(1, 3)]),
    "rare one only": ((95, 5), lambda k, rng: [2]),
    "rare one mostly": ((95, 5), lambda k, rng: rng.choices([[1], [2]], (5, 95))[0]),
    "all": ((1, 1, 1), lambda k, rng: [1, 2, 3]),
}


@pytest.mark.parametrize("name", WITHOUT_SKILL)
def test_right_boxes_of_classes_without_skill_get_no_cause(name):
    weights, predict = WITHOUT_SKILL[name]
    for seed in range(40):
        rng = random.Random(seed)
        ground_truth, rows = right_boxes(seed, weights)
        rows = [(i, p, box, rng.random()) for i, k, box, _ in rows for p in predict(k, rng)]
        notes = find_notes(ground_truth, make_results(rows), ap=0.01)
        assert not [note for note in notes if "are of one category" not in note], seed  # which is a fact, no cause


def test_boxes_beyond_the_image():
    _, rows = right_boxes(box=corners)
    ground_truth, right = right_boxes()
    notes = notes_of([*right[::2], *rows[1::2]], ground_truth)[1]
    assert len(notes) == 1 and "of 64 detections reach beyond their image by more than a tenth" in notes[0]


def test_objects_may_reach_beyond_the_image():
    ground_truth, rows = right_boxes()
    for item in ground_truth["images"]:
        item.update(width=item["width"] / 2)
    assert notes_of(rows, ground_truth)[1] == []


@pytest.mark.parametrize(("classes", "most", "lost"), [(1, 150, 50), (2, 150, 0), (2, 100, 50)])
def test_more_than_100_objects(classes, most, lost):
    boxes = [(1, n % classes + 1, (n % 15 * 6, n // 15 * 6, 5, 5)) for n in range(150)]
    notes = notes_of([(*row, 0.5) for row in boxes[:most]], make_truth(boxes))[1]
    assert len(notes) == bool(lost)
    if lost:
        assert notes[0] == (
            "More than 100 objects are in 1 of the images: COCO counts the 100 best detections of an image and class, "
            f"and these results hold at most {most} an image, so that at least 50 of 150 objects cannot be found there."
        )


def test_100_objects_are_not_more_than_100():
    boxes = [(1, 1, (n % 15 * 6, n // 15 * 6, 5, 5)) for n in range(100)]
    assert notes_of([(*row, 0.5) for row in boxes[:60]], make_truth(boxes))[1] == []


MISSING = {
    "nothing": ([], "AP is 0: there are no detections at all"),
    "wrong split": (
        [(3, k, box, 0.9) for _, k, box in BOXES],
        "AP is 0: none of the 1 images with detections has an object in the annotations (another split?)",
    ),
    "no category": (
        [(i, 4, box, 0.9) for i, _, box in BOXES],
        "AP is 0: no predicted category has an object in the annotations (predicted ids 4, annotated ids 1, 2, 3)",
    ),
    "far off": (
        [(i, k, (x + w * 0.75, y, w, h), 0.9) for i, k, (x, y, w, h) in BOXES],
        "The best IoU of any detection with an object of its class is 0.14, below 0.5.",
    ),
}


@pytest.mark.parametrize("name", MISSING)
def test_facts_of_an_ap_of_zero(name):
    rows, sentence = MISSING[name]
    ap, notes = notes_of(rows, FEW)
    assert ap == 0
    assert notes[-1].startswith(sentence) and len([note for note in notes if note.startswith("AP")]) <= 1


def test_only_on_crowds():
    ground_truth = make_truth([(1, 1, (0, 0, 20, 20)), (1, 1, (40, 40, 50, 50), True)])
    ap, notes = notes_of([(1, 1, (50, 50, 20, 20), 0.9)], ground_truth)
    assert ap == 0
    assert notes == [
        "Detections reach an IoU of 0.5 with objects of their class only on crowds, or beyond the 100 best of an image "
        "and class."
    ]


def exact(repeats=1):
    return [(*row, 0.9) for row in BOXES] * repeats


def test_results_without_classes():
    """One category for all objects; a detector of that category alone gets no such note."""
    ground_truth, found = right_boxes(category=lambda k: 1)
    others = sum(a["category_id"] != 1 for a in ground_truth["annotations"])
    notes = find_notes(ground_truth, make_results(found), 0.3)
    assert any(
        f"All 64 detections are of one category, 'cat', and overlap {others} of {others} objects" in n for n in notes
    )
    alone = [row for row, a in zip(found, ground_truth["annotations"], strict=True) if a["category_id"] == 1]
    alone += random_detections(ground_truth, 0, per_image=2, weights=(1, 0, 0))
    assert not any("one category" in note for note in find_notes(ground_truth, make_results(alone), 0.3))


def test_scores_in_percent():
    ground_truth, found = right_boxes()
    percent = [(*row[:3], 100 * row[3]) for row in found]
    (note,) = find_notes(ground_truth, make_results(percent), 0.9)
    assert note.startswith("64 of 64 scores are above 1, 83.7 to 90 (in percent?): AP is the same on any scale")
    assert find_notes(ground_truth, make_results(found), 0.9) == []
    logits = [(*row[:3], 10 * row[3] - 8.5) for row in found]
    assert not any("percent" in note for note in find_notes(ground_truth, make_results(logits), 0.9))


def test_duplicates_are_noted_at_any_ap():
    ap, notes = notes_of(exact(2), FEW)
    assert ap > 0
    assert len(notes) == 1 and notes[0].startswith("4 of 8 detections repeat the image, category and box of another")


def test_duplicates_that_push_the_right_box_out():
    rows = [(1, 1, (80, 80, 5, 5), 0.9)] * 100 + [(1, 1, (10, 40, 30, 20), 0.1)]
    ap, notes = notes_of(rows, FEW)
    assert ap == 0
    assert notes[0].startswith("99 of 101 detections repeat") and "beyond the 100 best" in notes[1]


def test_unknown_ids_are_counted():
    ap, notes = notes_of([*exact(), (9, 1, (0, 0, 9, 9), 0.9), (1, 77, (0, 0, 9, 9), 0.9)], FEW)
    assert ap > 0
    assert notes == ["2 of 6 detections name an image or a category that the annotations lack and were left out."]


def test_no_ground_truth():
    ap, notes = notes_of(exact(), make_truth([], categories=CLASSES, num_images=3))
    assert ap == -1
    assert notes == ["The annotations hold no object to find (crowds do not count), so AP is not defined."]


def test_images_without_a_size():
    ground_truth, rows = right_boxes(box=corners)
    ground_truth["images"] = [
        {k: v for k, v in item.items() if k in ("id", "file_name")} for item in ground_truth["images"]
    ]
    (note,) = find_notes(ground_truth, make_results(rows), 0.0)
    assert "boxes look like [x1, y1, x2, y2] rather than" in note


def test_all_well():
    assert notes_of(exact(), FEW) == (pytest.approx(1), [])
