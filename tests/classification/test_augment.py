import pytest
import torch

from detection.classification.augment import NUMBERS, ImageAugmentation, augment

# x, y, rotation, scale, flip: in the middle of their ranges, where they change nothing.
STILL = (0.5, 0.5, 0.5, 0.5, 0.9)


def numbers(*rows):
    assert all(len(row) == NUMBERS for row in rows)
    return torch.tensor(rows)


def random_images(count=3, side=8):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def close(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_the_middle_of_every_range_is_the_image():
    images = random_images()
    settings = ImageAugmentation(shift=2, rotation=30.0, scale=0.3, flip=True)
    close(augment(images, settings, numbers(STILL, STILL, STILL)), images)


def test_a_shift_is_of_whole_pixels_with_black_behind():
    images = random_images(2)
    first, last = (0.0, 0.5, *STILL[2:]), (0.5, 0.999, *STILL[2:])
    changed = augment(images, ImageAugmentation(shift=2), numbers(first, last))
    close(changed[0, :, :, 2:], images[0, :, :, :-2])
    assert not changed[0, :, :, :2].any()
    close(changed[1, :, :-2], images[1, :, 2:])
    assert not changed[1, :, -2:].any()


def test_all_shifts_are_equally_likely():
    draws = torch.rand(2000, NUMBERS, generator=torch.Generator().manual_seed(0))
    point = torch.zeros(2000, 1, 9, 9)
    point[:, :, 4, 4] = 1
    places = augment(point, ImageAugmentation(shift=1), draws).flatten(1).argmax(1)
    counts = torch.bincount(places, minlength=81).reshape(9, 9)
    assert counts.sum() == counts[3:6, 3:6].sum() == 2000
    assert counts[3:6, 3:6].min() > 160


def test_a_crop_is_the_middle_and_a_shift_moves_it():
    images = random_images(2)
    corner = (0.0, 0.999, *STILL[2:])
    changed = augment(images, ImageAugmentation(shift=2), numbers(STILL, corner), crop=4)
    close(changed[0], images[0, :, 2:6, 2:6])
    close(changed[1], images[1, :, 4:8, 0:4])


def test_a_mirror_image_and_a_turn():
    images = random_images(2)
    flipped = (*STILL[:4], 0.1)
    mirrored = augment(images, ImageAugmentation(flip=True), numbers(flipped, STILL))
    close(mirrored, torch.stack([images[0].flip(2), images[1]]))
    close(augment(images, ImageAugmentation(), numbers(flipped, flipped)), images)
    turns = numbers(*((*STILL[:2], turn, *STILL[3:]) for turn in (0.0, 1.0)))
    turned = augment(images, ImageAugmentation(rotation=90.0), turns)
    close(turned[0], images[0].rot90(-1, (1, 2)))
    close(turned[1], images[1].rot90(1, (1, 2)))


def test_a_mirror_image_of_a_turned_image_is_upright_as_far():
    """Turn and flip do not disturb each other: the mirror image of the image, turned."""
    images = random_images(1)
    both = numbers((*STILL[:2], 0.0, 0.5, 0.1))
    changed = augment(images, ImageAugmentation(rotation=90.0, flip=True), both)
    close(changed, images.rot90(-1, (2, 3)).flip(3))


def test_a_scale_is_a_size():
    """A square of 4 at scale 1.5 is one of 6."""
    images = torch.zeros(1, 1, 16, 16)
    images[:, :, 6:10, 6:10] = 1
    larger = augment(images, ImageAugmentation(scale=0.5), numbers((*STILL[:3], 1.0, 0.9)))
    assert larger.sum().item() == pytest.approx(36, rel=0.05)
    assert (larger[0, 0, 6:10, 6:10] == 1).all() and not larger[0, 0, :4].any()


def test_a_image_is_changed_alone_as_in_a_batch():
    images, draws = random_images(), torch.rand(3, NUMBERS, generator=torch.Generator().manual_seed(1))
    settings = ImageAugmentation(shift=2, rotation=20.0, scale=0.2, flip=True)
    together = augment(images, settings, draws, crop=6)
    alone = torch.cat([augment(images[i : i + 1], settings, draws[i : i + 1], crop=6) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)
