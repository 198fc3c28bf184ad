"""Steps of the user's own: read, built, drawn independently, and checked like all augmentation."""

import json
import random
from functools import partial

import albumentations
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

import detection.training.run as training
from detection.config import Config, from_plain, override, to_plain
from detection.config.parts import trusting
from detection.data.dataset import collate
from detection.data.transforms import Augmentation, Transform
from detection.errors import UserError
from tests.tiny_runs import tiny_config

FLIPS = [partial(albumentations.HorizontalFlip, p=0.5), partial(albumentations.VerticalFlip, p=0.5)]
LABELS = np.array([1, 2], np.int64)
CROWD = np.array([[40, 4, 60, 20]], np.float32)


def transform(*steps):
    return Transform(Augmentation(horizontal_flip=0, extra=steps), 48, 64)


def sample(seed=0):
    image = np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    return image, np.array([[4, 6, 20, 30], [30, 20, 60, 44]], np.float32), LABELS


def halve(image, boxes, labels):
    return image[:, :32], boxes, labels


def shift(image, boxes, labels, rng, *, by=5):
    return image, boxes + rng.integers(-by, by + 1), labels


def by_global_streams(image, boxes, labels):
    return image, boxes + random.random() + np.random.rand(), labels


class Doubled:
    def __init__(self, times=2):
        self.times = times

    def __call__(self, image, boxes, labels):
        return image, np.concatenate([boxes] * self.times), np.concatenate([labels] * self.times)


def flips(step, count=400):
    """How often neither, the horizontal, the vertical, and both flips came."""
    image = np.zeros((8, 8, 3), np.uint8)
    image[0, 0] = 255
    change, found = Transform(Augmentation(horizontal_flip=0, extra=(step,)), 8, 8), np.zeros((2, 2), int)
    for seed in range(count):
        moved = change(image, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), seed)[0]
        row, column = np.argwhere(moved[..., 0])[0]
        found[int(row > 0), int(column > 0)] += 1
    return found / count


@pytest.mark.parametrize(
    "group",
    [
        partial(albumentations.Sequential, transforms=FLIPS, p=1),
        partial(albumentations.Sequential, transforms=[partial(albumentations.Sequential, transforms=FLIPS, p=1)], p=1),
        partial(albumentations.Compose, transforms=FLIPS),
    ],
)
def test_parts_of_a_group_draw_independently(group):
    np.testing.assert_allclose(flips(group), 0.25, atol=0.08)


def test_one_of_takes_each_as_often_as_its_weight_whatever_the_parts_draw():
    found = flips(partial(albumentations.OneOf, transforms=FLIPS, p=0.5))
    np.testing.assert_allclose([found[0, 0], found[0, 1], found[1, 0], found[1, 1]], [0.5, 0.25, 0.25, 0], atol=0.08)
    inner = [partial(albumentations.Sequential, transforms=FLIPS, p=1), partial(albumentations.NoOp, p=1)]
    found = flips(partial(albumentations.OneOf, transforms=inner, p=1))
    np.testing.assert_allclose(found.flatten(), [0.625, 0.125, 0.125, 0.125], atol=0.08)


@pytest.mark.parametrize(
    "step", [FLIPS[0], partial(albumentations.D4, p=1), partial(shift), partial(by_global_streams)]
)
def test_a_result_depends_on_the_seed_only(step):
    change, again, image = transform(step), transform(step), sample()
    first = [change(*image, seed)[1].tolist() for seed in range(12)]
    random.random()
    np.random.rand()
    assert first == [again(*image, seed)[1].tolist() for seed in range(12)]
    assert len({str(boxes) for boxes in first}) > 1
    state = random.getstate(), np.random.get_state()[1].tolist()
    change(*image, 3)
    assert state == (random.getstate(), np.random.get_state()[1].tolist())


def test_boxes_labels_map_and_crowd_regions_move_together():
    image, boxes, labels = sample()
    semantic = np.zeros((48, 64), np.uint8)
    semantic[6:30, 4:20] = 7
    flipped = transform(partial(albumentations.HorizontalFlip, p=1))(image, boxes, labels, 0, semantic, CROWD)
    assert (flipped[0] == image[:, ::-1]).all() and (flipped[3] == semantic[:, ::-1]).all()
    np.testing.assert_allclose(flipped[1], [[44, 6, 60, 30], [4, 20, 34, 44]], atol=1e-4)
    np.testing.assert_allclose(flipped[4], [[4, 4, 24, 20]], atol=1e-4)
    plain = transform(partial(albumentations.Affine, rotate=(40, 41), p=1))
    turned, alone = plain(image, boxes, labels, 0, semantic, CROWD), plain(image, boxes, labels, 0)
    assert (turned[0] == alone[0]).all() and (turned[1] == alone[1]).all()
    assert (turned[3] == 255).any()  # from outside: no label


def test_what_a_step_moves_out_is_clipped_or_left_out_and_counted():
    change = Transform(Augmentation(horizontal_flip=0, extra=(partial(halve),)), 32, 64)
    _, boxes, labels, _, ignored = change(*sample(), 0, None, CROWD)
    assert boxes.tolist() == [[4, 6, 20, 30]] and labels.tolist() == [1] and not len(ignored)
    counts = change.take_counts()
    assert (counts.boxes, counts.clipped, counts.left_out) == (2, 0, 1)
    wide = np.array([[4, 6, 40, 30], [10, 10, 20, 20]], np.float32)
    assert change(sample()[0], wide, LABELS, 0)[1].tolist() == [[4, 6, 32, 30], [10, 10, 20, 20]]
    assert (change.take_counts().clipped, change.take_counts().boxes) == (1, 0)
    cut = transform(partial(albumentations.Crop, x_min=0, y_min=0, x_max=32, y_max=48, p=1))
    assert len(cut(*sample(), 0, None, CROWD)[1]) == 1 and cut.take_counts().left_out == 1
    assert len(transform(partial(Doubled, times=3))(*sample(), 0)[1]) == 6


@pytest.mark.parametrize(
    ("returned", "sentence"),
    [
        (lambda i, b, n: i, "must return (image, boxes, labels), not ndarray"),
        (lambda i, b, n: (i / 255, b, n), "returned an image that is no uint8 array"),
        (lambda i, b, n: (i[..., :1], b, n), "it must have 3 channels"),
        (lambda i, b, n: (i, b[:1], n), "returned 1 boxes"),
        (lambda i, b, n: (i, b * np.nan, n), "returned 2 boxes, finite or not"),
        (lambda i, b, n: (i, b, n - 3), "returned labels that are no integers from 1"),
    ],
)
def test_what_a_callable_returns_is_checked(returned, sentence):
    with pytest.raises(UserError) as error:
        transform(partial(returned))(*sample(), 0)
    assert str(error.value).startswith("data.augmentation.extra[0]: ") and sentence in str(error.value)


@pytest.mark.parametrize(
    ("step", "sentence"),
    [
        (
            partial(albumentations.Normalize, p=1),
            "no uint8 array (height, width, 3); the detector normalizes by itself",
        ),
        (
            partial(albumentations.ToTensorV2, p=1),
            "no uint8 array (height, width, 3); the detector normalizes by itself",
        ),
        (partial(albumentations.Crop, x_max=99, y_max=99, p=1), "fails on an image of 64x48 pixels: Values for crop"),
    ],
)
def test_what_a_transform_cannot_do_or_returns_is_one_sentence(step, sentence):
    with pytest.raises(UserError) as error:
        transform(step)(*sample(), 0)
    assert str(error.value).startswith("data.augmentation.extra[0]: ") and sentence in str(error.value)


def test_a_callable_does_not_move_a_map_of_labels():
    with pytest.raises(UserError, match="cannot move the map of labels"):
        transform(partial(halve))(*sample(), 0, np.zeros((48, 64), np.uint8))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("NoSuchBlur", "albumentations has no such transform"),
        ("GaussianBlurr", "did you mean GaussianBlur?"),
        ("{'class': 'Blur', 'blur_limits': 3}", "extra[0].blur_limits: Blur has no such setting; did you mean blur_l"),
        ("os.system", "is not a class of the package"),
        ("albumentations.core.os", "albumentations has no such transform"),
        ("3", "must be a partial of a class or function"),
    ],
)
def test_a_wrong_step_gets_one_sentence(tmp_path, given, sentence):
    with pytest.raises(UserError) as error:
        override(tiny_config(tmp_path), [f"data.augmentation.extra={given}"])
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_settings_that_a_transform_refuses_are_reported_before_training():
    with pytest.raises(UserError, match=r"extra\[0\]: Blur cannot be built from these settings: 1 validation error"):
        transform(partial(albumentations.Blur, p=3))
    with pytest.raises(UserError, match=r"write partial\(Blur, …\)"):
        from_plain(Augmentation(extra=(albumentations.Blur(),)), Augmentation)


def test_a_config_with_steps_is_written_and_opened_again(tmp_path):
    group = partial(albumentations.OneOf, transforms=[partial(albumentations.Blur, blur_limit=(3, 5)), *FLIPS], p=0.3)
    config = tiny_config(tmp_path, "extra=('GaussianBlur',)")
    plain = to_plain(config)
    assert plain["data"]["augmentation"]["extra"][0]["class"] == "albumentations.GaussianBlur"
    plain["data"]["augmentation"]["extra"] = [to_plain(group), {"class": f"{__name__}.shift", "by": 2}]
    text = json.dumps(plain)
    with pytest.raises(UserError, match="add --trust tests"):
        from_plain(json.loads(text), Config)
    with trusting(["tests"]):
        opened = from_plain(json.loads(text), Config)
    assert opened.data.augmentation.extra[1].func is shift
    assert to_plain(opened)["data"] == json.loads(text)["data"]
    assert len(flips(opened.data.augmentation.extra[0], 4)) == 2


def test_a_run_with_steps_reports_what_they_left_out(shapes, tmp_path, capsys, blank_plots):
    config = tiny_config(
        shapes, "extra=({'class': 'RandomCrop', 'height': 24, 'width': 24, 'p': 1.0}, 'GaussNoise')",
        "schedule.epochs=1", "data.workers=2",
    )  # fmt: skip
    training.train(config, tmp_path / "run", Accelerator(cpu=True))
    out = capsys.readouterr().out
    assert "augmented" in out and "left out, too little of them being left in the image" in out


def test_loading_processes_change_nothing(shapes):
    config = tiny_config(shapes, "extra=({'class': 'OneOf', 'transforms': [{'class': 'D4'}, {'class': 'Blur'}]},)")
    dataset = training.open_data(config, Accelerator(cpu=True)).train
    found = [
        [
            image
            for images, _ in DataLoader(dataset, batch_size=2, collate_fn=collate, num_workers=n)
            for image in images
        ]
        for n in (0, 2)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
