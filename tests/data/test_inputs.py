"""Images and targets handed to a detector: what would give silent nonsense is refused with one sentence."""

import numpy as np
import pytest
import torch
from PIL import Image

from detection.data.inputs import require_images, require_targets
from detection.detector import build_detector
from detection.errors import UserError
from tests.tiny_runs import DETECTOR

IMAGE = torch.full((3, 64, 64), 200, dtype=torch.uint8)
BOXES = torch.tensor([[8.0, 10, 26, 28], [38, 36, 58, 56]])
LABELS = torch.tensor([1, 2])


@pytest.mark.parametrize(
    "image",
    [IMAGE, IMAGE / 255, IMAGE.double() / 255, IMAGE.half() / 255, torch.rand(3, 1, 9), torch.zeros(3, 4, 4)],
)
def test_images_that_are_taken(image):
    require_images([image], True)
    require_images(image[None], True)


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        ([IMAGE.float()], "values from 200 to 200, but float images are in .*divide it by 255, or give uint8"),
        ([IMAGE / 127.5 - 2], "do not normalize it"),
        ([IMAGE / 255 * float("nan")], "it is not finite"),
        ([IMAGE.long()], "is torch.int64; give uint8"),
        ([IMAGE > 100], "is torch.bool"),
        ([IMAGE.permute(1, 2, 0)], r"shape \(64, 64, 3\), not \(3, H, W\); permute\(2, 0, 1\)"),
        ([IMAGE[:1]], r"shape \(1, 64, 64\).*RGB"),
        ([IMAGE[0]], r"shape \(64, 64\)"),
        ([IMAGE[:, :0]], "no pixels"),
        (IMAGE, r"is one tensor; give a list of images, such as \[image\]"),
        ([IMAGE, np.zeros((4, 4, 3), np.uint8)], r"images\[1\]: is a ndarray.*detection.Predictor"),
        ([Image.new("RGB", (4, 4))], r"images\[0\]: is a Image.*detection.Predictor"),
        ("in.png", "is a str"),
        (["in.png"], r"images\[0\]: is a str"),
    ],
)
def test_images_that_are_refused(images, sentence):
    with pytest.raises(UserError, match=sentence) as error:
        require_images(images, True)
    assert "\n" not in str(error.value)


def test_values_are_not_looked_at_where_that_would_wait():
    require_images([IMAGE.float()], False)
    require_targets([IMAGE], [{"boxes": BOXES * float("nan"), "labels": LABELS}], 2, False)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"labels": torch.tensor([0, 1])}, r"targets\[1\]\['labels'\]\[0\]: is 0, but labels are 1 … 2"),
        ({"labels": torch.tensor([1, 3])}, r"\['labels'\]\[1\]: is 3, but labels are 1 … 2"),
        ({"labels": torch.tensor([1, -1])}, "is -1"),
        (
            {"boxes": torch.tensor([[8.0, 10, 18, 18], [38, 36, 20, 20]])},
            r"\[1\]: \[38, 36, 20, 20\] has no area: .*width",
        ),
        ({"boxes": torch.tensor([[8.0, 10, 8, 10], [38, 36, 58, 56]])}, r"\[0\]: \[8, 10, 8, 10\] has no area"),
        ({"boxes": BOXES + 500}, "is outside of its image"),
        ({"boxes": BOXES - 60}, "is outside of its image"),
        ({"boxes": BOXES * float("nan")}, "is not finite"),
        ({"boxes": BOXES.long()}, r"is \(2, 4\) torch.int64, not \(N, 4\) of float32"),
        ({"boxes": BOXES[0], "labels": LABELS[:1]}, r"is \(4,\)"),
        ({"boxes": torch.zeros(0), "labels": LABELS[:0]}, r"is \(0,\)"),
        ({"labels": LABELS.int()}, r"is \(2,\) torch.int32, not \(2,\) of int64"),
        ({"labels": LABELS[:1]}, r"is \(1,\) torch.int64, not \(2,\)"),
        ({"labels": None}, r"has no tensor 'labels' \(N,\)"),
    ],
)
def test_targets_that_are_refused(change, sentence):
    none = {"boxes": torch.zeros(0, 4), "labels": LABELS[:0]}
    with pytest.raises(UserError, match=sentence) as error:
        require_targets([IMAGE, IMAGE], [none, {"boxes": BOXES, "labels": LABELS, **change}], 2, True)
    assert "\n" not in str(error.value)


def test_normalized_boxes_are_refused():
    with pytest.raises(UserError, match=r"is in 0 … 1: multiply by the image's width and height"):
        require_targets([IMAGE], [{"boxes": BOXES / 64, "labels": LABELS}], 2, True)


def test_a_detector_checks_what_it_is_given():
    detector = build_detector(DETECTOR, 2)
    with pytest.raises(UserError, match="are needed in training mode"):
        detector([IMAGE])
    with pytest.raises(UserError, match="are 1 for 2 images"):
        detector([IMAGE] * 2, [{"boxes": BOXES, "labels": LABELS}])
    with pytest.raises(UserError, match="labels are 1 … 2"):
        detector([IMAGE], [{"boxes": BOXES, "labels": LABELS + 1}])
    assert detector([IMAGE], [{"boxes": BOXES, "labels": LABELS}])
    assert detector.eval()([]) == []
    with pytest.raises(UserError, match="divide it by 255"):
        detector([IMAGE.float()])


def test_in_double_precision_losses_and_boxes_are_those_of_single():
    torch.manual_seed(0)
    detector = build_detector(DETECTOR, 2)
    target = [{"boxes": BOXES, "labels": LABELS}]
    found = []
    for dtype in (torch.float32, torch.float64):
        torch.manual_seed(1)
        cast = [{"boxes": BOXES.to(dtype), "labels": LABELS}] if dtype == torch.float64 else target
        losses = detector.to(dtype).train()([IMAGE], cast)
        found.append(torch.stack(list(losses.values())).double())
        assert detector.eval()([IMAGE])[0]["boxes"].dtype == dtype
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ignored", [torch.zeros(4), torch.zeros(0), torch.zeros(2, 4, dtype=torch.int64)])
def test_crowd_regions_of_another_kind_are_refused(ignored):
    require_targets([IMAGE], [{"boxes": BOXES, "labels": LABELS, "ignored": BOXES[:0]}], 2, True)
    with pytest.raises(UserError, match=r"targets\[0\]\['ignored'\]: is .*, not \(N, 4\) of float32"):
        require_targets([IMAGE], [{"boxes": BOXES, "labels": LABELS, "ignored": ignored}], 2, True)
