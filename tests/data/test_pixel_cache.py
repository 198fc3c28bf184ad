"""Decoded images that stay in memory: each is made once for all forked processes, and the results are the same."""

import os
import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from detection.data.coco_index import load_index
from detection.data.dataset import DetectionDataset, collate
from detection.data.masks import load_masks
from detection.data.pixel_cache import PixelCache
from detection.data.sampling import TrainBatches
from detection.data.transforms import Augmentation, Transform
from detection.errors import UserError
from tests.coco_files import small, write


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTION_CACHE", str(tmp_path / "cache"))


def test_an_array_is_made_once():
    cache, made = PixelCache(np.array([6, 0, 4])), []
    for _ in range(2):
        for number, shape in enumerate([(1, 2, 3), (0,), (2, 2)]):
            found = cache.get(number, shape, lambda n=number, s=shape: made.append(n) or np.full(s, n + 7, np.uint8))
            assert found.shape == shape and (found == number + 7).all()
    assert made == [0, 1, 2] and cache.nbytes == 13


def test_a_failure_leaves_no_mark():
    cache = PixelCache(np.array([2]))
    with pytest.raises(UserError):
        cache.get(0, (2,), lambda: (_ for _ in ()).throw(UserError("broken")))
    assert cache.get(0, (2,), lambda: np.ones(2, np.uint8)).tolist() == [1, 1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_forked_processes_share_it_and_others_go_without():
    cache = PixelCache(np.array([3]))
    if not (child := os.fork()):
        cache.get(0, (3,), lambda: np.array([1, 2, 3], np.uint8))
        os._exit(0)
    os.waitpid(child, 0)
    assert cache.get(0, (3,), lambda: pytest.fail("made again")).tolist() == [1, 2, 3]
    assert pickle.loads(pickle.dumps(cache)) is None


def masked(tmp_path, cache_bytes, augmentation=None):
    data = small()
    for annotation in data["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    index = load_index(write(tmp_path, data))
    transform = Transform(augmentation, 30, 80)
    return DetectionDataset(
        index, tmp_path / "images", transform, 5, masks=load_masks(index, "boxes"), cache_bytes=cache_bytes
    )


def epochs(dataset, workers=0, number=3):
    batches, found = TrainBatches(len(dataset), 2, seed=1), []
    loader = DataLoader(
        dataset, batch_sampler=batches, num_workers=workers, collate_fn=collate, persistent_workers=workers > 0
    )
    for epoch in range(number):
        batches.set_epoch(epoch)
        for images, targets in loader:
            found += [(i, t["image_id"], t["boxes"], t["semantic"]) for i, t in zip(images, targets, strict=True)]
    return found


def equal(a, b):
    return len(a) == len(b) and all(
        p.equal(q) if isinstance(p, torch.Tensor) else p == q
        for x, y in zip(a, b, strict=True)
        for p, q in zip(x, y, strict=True)
    )


EVERYTHING = Augmentation(0.5, 0.5, (30, 40), crop=0.5, photometric=0.5, jitter=0.5)


@pytest.mark.parametrize("augmentation", [None, Augmentation(0.5, 0.5), EVERYTHING])
def test_kept_images_change_nothing(tmp_path, augmentation):
    """Over epochs: what augmentation did to an image before must not be seen."""
    kept, plain = masked(tmp_path, 10**6, augmentation), masked(tmp_path, 0, augmentation)
    assert kept.cached_bytes and not plain.cached_bytes
    assert equal(epochs(kept), epochs(plain))


def test_loading_processes_read_each_file_once(tmp_path):
    dataset = masked(tmp_path, 10**6, Augmentation(0.5))
    first = epochs(dataset, workers=2)
    for path in (tmp_path / "images").rglob("*.png"):
        path.unlink()
    # The parent has what its processes read.
    assert equal(epochs(dataset), first)


def test_images_are_kept_if_all_fit(tmp_path):
    pixels = sum(image["width"] * image["height"] for image in small()["images"])
    assert masked(tmp_path, 4 * pixels).cached_bytes == 4 * pixels + 2 * len(small()["images"])
    assert masked(tmp_path, 4 * pixels - 1).cached_bytes == 0


def test_another_process_that_is_not_forked_reads_the_files(tmp_path):
    dataset = masked(tmp_path, 10**6)
    expected = epochs(dataset)
    assert equal(epochs(pickle.loads(pickle.dumps(dataset))), expected)
