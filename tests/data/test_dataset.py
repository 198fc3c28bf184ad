import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from detection.data.coco_index import load_index
from detection.data.dataset import DetectionDataset, collate, item_seed, match_categories, require_training_boxes
from detection.data.masks import load_masks
from detection.data.sampling import TrainBatches
from detection.data.transforms import Augmentation, Transform
from detection.errors import UserError
from tests.coco_files import small, write, write_image


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTION_CACHE", str(tmp_path / "cache"))


def _dataset(tmp_path, data=None, **options):
    index = load_index(write(tmp_path, small() if data is None else data))
    return DetectionDataset(index, tmp_path / "images", **options)


def test_items_as_on_disk(tmp_path):
    dataset = _dataset(tmp_path)
    image, target = dataset[0]
    expected = np.asarray(Image.open(tmp_path / "images/a.png"))
    assert (image.permute(1, 2, 0).numpy() == expected).all() and image.dtype == torch.uint8 and image.is_contiguous()
    # The crowd region is no target; the box that reaches over the border is clipped.
    assert target["boxes"].tolist() == [[30.5, 10, 40, 15]] and target["boxes"].dtype == torch.float32
    assert target["labels"].tolist() == [2] and target["labels"].dtype == torch.int64
    assert target["image_id"] == 20 and target["size"] == (30, 40)
    crowd = next(a["bbox"] for a in small()["annotations"] if a.get("iscrowd"))
    x, y, width, height = crowd
    assert target["ignored"].tolist() == [[x, y, min(x + width, 40), min(y + height, 30)]]
    assert target["ignored"].dtype == torch.float32 and "ignored" not in dataset[1][1]
    _, target = dataset[1]
    assert target["boxes"].tolist() == [[1, 2, 4, 6], [0, 0, 20, 50]] and target["labels"].tolist() == [2, 1]
    _, target = dataset[2]
    assert target["boxes"].shape == (0, 4) and target["labels"].shape == (0,)


def test_empty_images_are_kept_or_left_out_and_counted(tmp_path):
    data = small()
    del data["annotations"][2]  # image 20 has only its crowd region left
    keep, drop = _dataset(tmp_path, data), _dataset(tmp_path, data, empty_images="drop")
    assert keep.image_ids.tolist() == [20, 10, 30] and drop.image_ids.tolist() == [10]
    assert keep.counts["images"] == 3 and keep.counts["images_left_out"] == 0
    assert drop.counts == {
        "images": 1, "images_left_out": 2, "images_without_boxes": 2, "boxes": 2, "crowd_left_out": 1,
        "clipped": 0, "dropped": 0,
    }  # fmt: skip
    assert drop.aspect_ratios.tolist() == [0.4] and len(drop) == 1 and drop[(3, 0)][1]["image_id"] == 10


def _many(tmp_path):
    data = small()
    data["images"] = [{"id": i, "file_name": f"{i}.png", "width": 30 + i, "height": 40} for i in range(9)]
    data["annotations"] = [
        {"id": 9 * k + i, "image_id": i, "category_id": 3, "bbox": [5 * k, 3, 8, 20 + i]}
        for i in range(9)
        for k in range(3)
    ]
    everything = Augmentation(0.5, 0.5, (30, 40, 50), crop=0.5, photometric=0.5, jitter=0.5)
    return _dataset(tmp_path, data, transform=Transform(everything, 40, 80), seed=3)


def _flat(batches):
    return [
        (target["image_id"], image, target["boxes"], target["labels"])
        for images, targets in batches
        for image, target in zip(images, targets, strict=True)
    ]


def _equal(a, b):
    return len(a) == len(b) and all(
        x[0] == y[0] and all(torch.equal(p, q) for p, q in zip(x[1:], y[1:], strict=True))
        for x, y in zip(a, b, strict=True)
    )


def test_workers_change_nothing_and_epochs_do(tmp_path):
    dataset = _many(tmp_path)

    def epoch(number, workers):
        batches = TrainBatches(len(dataset), 2, seed=3, aspect_ratios=dataset.aspect_ratios)
        batches.set_epoch(number)
        return _flat(DataLoader(dataset, batch_sampler=batches, collate_fn=collate, num_workers=workers))

    zero, two = epoch(0, 0), epoch(0, 2)
    assert _equal(zero, two)
    later = epoch(1, 2)
    assert _equal(later, epoch(1, 0))
    images = [{entry[0]: entry[1] for entry in entries} for entries in (zero, later)]
    assert sum(not torch.equal(images[0][i], images[1][i]) for i in range(9)) >= 7


def test_a_map_of_labels_comes_along_and_changes_nothing_else(tmp_path):
    plain = _many(tmp_path)
    index = plain.index
    segmented = DetectionDataset(index, plain.images, plain.transform, 3, masks=load_masks(index, "boxes"))

    def epoch(dataset, workers):
        batches = TrainBatches(len(dataset), 2, seed=3, aspect_ratios=dataset.aspect_ratios)
        return list(DataLoader(dataset, batch_sampler=batches, collate_fn=collate, num_workers=workers))

    zero, two = epoch(segmented, 0), epoch(segmented, 2)
    assert _equal(_flat(epoch(plain, 0)), _flat(zero)) and _equal(_flat(zero), _flat(two))
    features = [[target["semantic"] for _, targets in batches for target in targets] for batches in (zero, two)]
    assert len(features[0]) == 10 and all(torch.equal(a, b) for a, b in zip(*features, strict=True))
    images = [image for images, _ in zero for image in images]
    assert all(m.shape == i.shape[1:] and m.dtype == torch.uint8 for m, i in zip(features[0], images, strict=True))
    assert set(torch.cat([m.flatten() for m in features[0]]).tolist()) == {0, 1, 255}  # 255: uncovered by a jitter
    assert not any("semantic" in target for _, targets in epoch(plain, 0) for target in targets)


def test_without_a_transform_the_map_is_on_the_grid_of_the_file(tmp_path):
    data = small()
    del data["annotations"][2]  # the first image has only its crowd region left
    dataset = _dataset(tmp_path, data, empty_images="drop")
    dataset.masks = load_masks(dataset.index, "boxes")
    semantic = dataset[0][1]["semantic"]
    assert semantic.shape == (50, 20) and semantic.dtype == torch.uint8
    assert semantic[2:6, 1:4].unique().tolist() == [2] and (semantic == 1).sum() == 1000 - 12


def test_an_image_has_its_stream_wherever_it_stands(tmp_path):
    dataset = _many(tmp_path)
    assert _equal(_flat([collate([dataset[4]])]), _flat([collate([dataset[(0, 4)]])]))
    assert len({item_seed(s, e, i) for s in range(4) for e in range(4) for i in range(-4, 4)}) == 128
    assert len({item_seed(0, 1, i, repeat) for i in range(-4, 4) for repeat in range(4)}) == 32
    once, first, again = (_flat([collate([dataset[key]])]) for key in ((2, 4), (2, 4, 0), (2, 4, 1)))
    assert _equal(once, first) and not _equal(once, again)
    kept = pickle.loads(pickle.dumps(dataset))
    kept._kept = kept._kept[::-1]
    assert _equal(_flat([collate([dataset[(2, 1)]])]), _flat([collate([kept[(2, 7)]])]))


def test_missing_files_are_reported_at_the_start(tmp_path):
    path = write(tmp_path, small())
    for name in ("sub/b.png", "c.png"):
        (tmp_path / "images" / name).unlink()
    with pytest.raises(UserError) as error:
        DetectionDataset(load_index(path), tmp_path / "images")
    for part in (str(path), "image 10", "'sub/b.png'", "and 1 more of 3", "detection doctor"):
        assert part in str(error.value)
    # An image that is left out need not be there.
    write_image(tmp_path / "images/sub/b.png", 20, 50)
    assert len(DetectionDataset(load_index(path), tmp_path / "images", empty_images="drop")) == 2


def test_links_out_of_the_folder_are_reported(tmp_path):
    path = write(tmp_path, small())
    (tmp_path / "images/c.png").rename(tmp_path / "c.png")
    (tmp_path / "images/c.png").symlink_to(tmp_path / "c.png")
    with pytest.raises(UserError, match=r"image 30, file_name 'c.png', leads out of the folder"):
        DetectionDataset(load_index(path), tmp_path / "images")


def test_a_size_that_differs_is_reported(tmp_path):
    dataset = _dataset(tmp_path)
    write_image(tmp_path / "images/a.png", 30, 40)
    with pytest.raises(UserError) as error:
        dataset[0]
    for part in ("a.png is 30x40", "has 40x30", "image 20", "--fix"):
        assert part in str(error.value)


def test_a_bad_image_in_a_worker_is_one_sentence(tmp_path):
    dataset = _dataset(tmp_path)
    content = (tmp_path / "images/a.png").read_bytes()
    (tmp_path / "images/a.png").write_bytes(content[:200])
    with pytest.raises(UserError) as error:
        list(DataLoader(dataset, num_workers=1, collate_fn=collate))
    assert str(error.value).startswith("image ") and "a.png" in str(error.value) and "\n" not in str(error.value)


def test_an_empty_training_set(tmp_path):
    require_training_boxes(_dataset(tmp_path))
    data = small()
    data["annotations"] = data["annotations"][1:2]
    for empty_images, words in (("keep", "not one image has a box"), ("drop", "no image is left")):
        with pytest.raises(UserError, match=words):
            require_training_boxes(_dataset(tmp_path, data, empty_images=empty_images))


def test_wrong_empty_images(tmp_path):
    with pytest.raises(UserError, match='must be "keep" or "drop"'):
        _dataset(tmp_path, empty_images="skip")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c[0].update(name="wolf"), ["'dog' (id 9)", "'wolf' (id 9)", "same list of categories"]),
        (lambda c: c[0].update(id=4), ["'dog' (id 9)", "'dog' (id 4)", "--categories"]),
    ],
)
def test_categories_must_match(tmp_path, change, words):
    train = load_index(write(tmp_path, small(), "train.json", images=False))
    data = small()
    data["categories"].reverse()
    match_categories(train, load_index(write(tmp_path, data, "same.json", images=False)))
    data["categories"].pop()
    data["annotations"] = []
    match_categories(train, load_index(write(tmp_path, data, "fewer.json", images=False)))
    data = small()
    data["annotations"] = []
    change(data["categories"])
    with pytest.raises(UserError) as error:
        match_categories(train, load_index(write(tmp_path, data, "val.json", images=False)))
    for part in ("train.json", "val.json", *words):
        assert part in str(error.value)
