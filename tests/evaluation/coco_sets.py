"""Small COCO data sets for the tests of evaluation: written by hand, or drawn at random with every oddity."""

import random

from hypothesis import strategies as st

SPARSE_IDS = (0, 1, 2, 7, 90, 255, 100_003, 2**31 + 5, 9_007_199_254_740_993)


def make_truth(boxes, categories=("cat", "dog"), num_images=1, size=(100, 100)):
    """Rows of (image_id, category_id, box xywh[, iscrowd]); category ids count from 1, annotation ids from 0."""
    annotations = [
        {
            "id": number,
            "image_id": image,
            "category_id": category,
            "bbox": list(box),
            "area": box[2] * box[3],
            "iscrowd": int(bool(crowd)),
        }
        for number, (image, category, box, *crowd) in enumerate((*row[:3], *(c for c in row[3:] if c)) for row in boxes)
    ]
    return {
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": size[0], "height": size[1]} for i in range(1, num_images + 1)
        ],
        "annotations": annotations,
        "categories": [{"id": k, "name": name} for k, name in enumerate(categories, start=1)],
    }


def make_results(boxes):
    """Rows of (image_id, category_id, box xywh, score)."""
    return [
        {"image_id": image, "category_id": category, "bbox": list(box), "score": score}
        for image, category, box, score in boxes
    ]


@st.composite
def coco_sets(draw, most_detections=260):
    """Ground truth and results: crowds, none of either, annotation id 0, sparse ids, ties, > 100 boxes per image."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    image_ids = draw(st.lists(st.sampled_from(SPARSE_IDS), min_size=1, max_size=4, unique=True))
    category_ids = draw(st.lists(st.sampled_from(SPARSE_IDS), min_size=1, max_size=4, unique=True))
    num_ground_truth = draw(st.sampled_from((0, 1, 4, 15, 40)))
    num_results = draw(st.sampled_from((0, 1, 6, 30, most_detections)))
    on_grid = draw(st.booleans())
    truthless = draw(st.booleans())

    def box():
        if on_grid:
            return [float(rng.randint(-2, 8)), float(rng.randint(-2, 8)), *(float(rng.randint(0, 6)) for _ in "wh")]
        side = rng.choice((5, 32, 60, 96, 300))
        return [rng.uniform(0, 60), rng.uniform(0, 60), rng.uniform(0.1, 1.2) * side, rng.uniform(0.1, 1.2) * side]

    truth_ids = list(range(num_ground_truth))
    rng.shuffle(truth_ids)
    true_images = image_ids[1:] if truthless and len(image_ids) > 1 else image_ids
    annotations = []
    for number in truth_ids:
        xywh = box()
        area = rng.choice((xywh[2] * xywh[3],) * 4 + (xywh[2] * xywh[3] / 2, 32.0**2, 96.0**2))
        row = {"id": number, "image_id": rng.choice(true_images), "category_id": rng.choice(category_ids)}
        annotations.append({**row, "bbox": xywh, "area": area, "iscrowd": int(rng.random() < 0.2)})
    results = []
    for _ in range(num_results):
        row = {"image_id": rng.choice(image_ids), "category_id": rng.choice(category_ids), "bbox": box()}
        if annotations and rng.random() < 0.7:
            target = rng.choice(annotations)
            x, y, w, h = target["bbox"]
            moved = [x + rng.choice((0, 0, 1, -1, 0.5)), y, w * rng.choice((1, 1, 0.5, 0.9, 2)), h]
            row = {"image_id": target["image_id"], "category_id": target["category_id"], "bbox": moved}
        results.append({**row, "score": rng.choice((0.0, 0.5, 0.5, 1.0, rng.random(), rng.random()))})
    ground_truth = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 100, "height": 100} for i in image_ids],
        "annotations": annotations,
        "categories": [{"id": k, "name": f"class {k}"} for k in category_ids],
    }
    return ground_truth, results
