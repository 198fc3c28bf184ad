import numpy as np
import torch

from detection.classification.augment import ImageAugmentation
from detection.classification.data import Batches, Images, middle, split_by_class
from detection.data.sampling import TrainBatches


def numbered(counts, side=4, channels=1):
    """Images whose first pixel is their number; classes interleaved."""
    labels = torch.tensor([k for k, count in enumerate(counts) for _ in range(count)])
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    pixels = torch.arange(len(labels), dtype=torch.uint8)[:, None, None, None].expand(-1, channels, side, side)
    return Images(pixels.clone(), labels, tuple("abcdef"[: len(counts)]))


def numbers_of(images):
    return images.pixels[:, 0, 0, 0].tolist()


def test_a_split_takes_the_same_part_of_each_class():
    images = numbered((40, 10, 3, 2))
    large, small = split_by_class(images, 0.2, seed=3)
    assert torch.bincount(small.labels).tolist() == [8, 2, 1, 1]
    assert sorted(numbers_of(large) + numbers_of(small)) == list(range(55))
    for part in (large, small):
        assert numbers_of(part) == sorted(numbers_of(part))
        assert part.labels.tolist() == [images.labels[n].item() for n in numbers_of(part)]


def test_a_split_depends_on_its_seed_only():
    images = numbered((30, 30))
    torch.manual_seed(1)
    first = numbers_of(split_by_class(images, 0.5, seed=3)[1])
    torch.manual_seed(2)
    assert numbers_of(split_by_class(images, 0.5, seed=3)[1]) == first
    assert numbers_of(split_by_class(images, 0.5, seed=4)[1]) != first


def test_gray_becomes_three_equal_channels_between_0_and_1():
    batch = numbered((52,), side=2).batch(torch.tensor([51, 0, 17]))
    assert batch.shape == (3, 3, 2, 2) and batch.dtype == torch.float32
    torch.testing.assert_close(batch[:, :, 0, 0], (torch.tensor([51, 0, 17]) / 255)[:, None].expand(-1, 3))


def test_the_middle():
    image = torch.arange(36).reshape(1, 6, 6)
    assert middle(image, 2).flatten().tolist() == [14, 15, 20, 21]
    assert middle(image, None) is image


def epoch_of(images, epoch, batch_size=4, processes=1, augmentation=None, crop=None, seed=7):
    """Image id → (pixels, label), over the batches of all processes; of those seen twice, the last."""
    seen = {}
    for rank in range(processes):
        order = TrainBatches(len(images), batch_size, seed=seed, num_processes=processes, rank=rank)
        order.set_epoch(epoch)
        for pixels, targets in Batches(images, order, augmentation, crop):
            assert len(pixels) == len(targets) == batch_size
            seen |= {t["image_id"]: (p, t["label"]) for p, t in zip(pixels, targets, strict=True)}
    return seen


def test_an_epoch_has_every_image_with_its_label():
    images = numbered((10, 8), channels=3)
    seen = epoch_of(images, 0)
    assert sorted(seen) == list(range(18))
    for number, (pixels, label) in seen.items():
        assert label == images.labels[number] and isinstance(label, int)
        torch.testing.assert_close(pixels, images.pixels[number] / 255)


def test_changes_depend_on_seed_epoch_and_image_only():
    images = Images(torch.randint(0, 256, (12, 1, 8, 8), dtype=torch.uint8), torch.zeros(12, dtype=int), ("a",))
    augmentation = ImageAugmentation(shift=2, rotation=20.0, scale=0.2, flip=True)
    one = epoch_of(images, 1, augmentation=augmentation, crop=6)
    other = epoch_of(images, 1, batch_size=3, processes=2, augmentation=augmentation, crop=6)
    for number in one:
        torch.testing.assert_close(one[number][0], other[number][0], rtol=0, atol=1e-6)
        assert one[number][0].shape == (3, 6, 6)
    for changed in (
        epoch_of(images, 2, augmentation=augmentation, crop=6),
        epoch_of(images, 1, augmentation=augmentation, crop=6, seed=8),
    ):
        assert all(not torch.allclose(one[n][0], changed[n][0], atol=1e-3) for n in one)


def test_without_augmentation_training_sees_the_middle():
    images = numbered((4,), side=6)
    pixels = torch.randint(0, 256, (4, 1, 6, 6), dtype=torch.uint8)
    images = Images(pixels, images.labels, images.classes)
    seen = epoch_of(images, 0, crop=2)
    torch.testing.assert_close(seen[3][0], pixels[3, :, 2:4, 2:4].expand(3, -1, -1) / 255)


def test_a_digest_tells_pixels_and_labels_apart():
    images = numbered((3, 3))
    same = Images(images.pixels.clone(), images.labels.clone(), images.classes)
    other = Images(images.pixels, images.labels.flip(0), images.classes)
    digests = [i.digest() for i in (images, same, other, images[torch.arange(5)])]
    assert digests[0] == digests[1] and len(set(digests)) == 3
    assert np.array_equal(images.labels, same.labels)


def test_an_image_that_fills_up_the_last_batch_is_changed_otherwise():
    images = Images(torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8), torch.zeros(3, dtype=int), ("a",))
    augmentation = ImageAugmentation(shift=3, rotation=20.0, scale=0.2, flip=True)
    batches = list(Batches(images, TrainBatches(3, 6), augmentation, None))
    (pixels, targets), *_ = batches
    for number in range(3):
        first, second = (p for p, t in zip(pixels, targets, strict=True) if t["image_id"] == number)
        assert not first.equal(second)
