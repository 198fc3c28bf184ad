"""Explanations of a detector made by hand, whose classes are known to be decided by the reddest location."""

from functools import partial

import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d

from detection.analysis.explain import explain_detections, require_fixed_boxes
from detection.analysis.explain_plots import describe, draw_explanation
from detection.analysis.visualize import distinct_colors
from detection.backbones.backbone import Backbone
from detection.context import AttentionLSTM
from detection.contracts import Context, RefinementHead
from detection.detector import Detector
from detection.errors import UserError
from detection.heads import SequenceHead
from detection.pooling import CenterCell


class Averages(Backbone):
    """Mean colors of 4×4 pixels."""

    out_channels, strides = {"c2": 3}, {"c2": 4}

    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(1))

    image_mean, image_std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def forward(self, images):
        return {"c2": self.gain * avg_pool2d(images, 4)}

    def stages(self):
        return {"stem": []}


class Reddest(Context):
    """The largest value of the first channel over valid locations, at all of them."""

    out_channels = 1

    def forward(self, x, valid):
        return x[:, :1].masked_fill(~valid, 0).amax((2, 3), keepdim=True).expand_as(valid) * valid


class Logistic(RefinementHead):
    """Class 2 has the probability σ(4·value − 2)."""

    def predict(self, regions):
        p = torch.sigmoid(4 * regions.descriptors[:, 0, 0, 0] - 2)
        return torch.stack([torch.zeros_like(p), 1 - p, p], 1), p.new_zeros(len(p), 3, 4)

    def sample(self, boxes, targets): ...
    def forward(self, regions, samples=None): ...
    def decode(self, probabilities, deltas, boxes, image_sizes): ...
    def select(self, candidates, voting_iou=None): ...


def detector(size=64):
    pool = CenterCell({"c2": 3, "context": 1}, {"c2": 4, "context": 4}, stage="context")
    regions = torch.nn.Module()
    parts = Averages(), regions, pool, Logistic(), Reddest()
    return Detector(*parts, context_source="c2", min_size=size, max_size=2 * size).eval()


def image_with_marker(height=64, width=96):
    """Black, but for a red square of 8 pixels whose corner is at (x 72, y 40)."""
    image = torch.zeros(3, height, width)
    image[0, 40:48, 72:80] = 1
    return image


BOXES, LABELS = torch.tensor([[8.0, 8, 24, 24], [64, 32, 80, 48]]), torch.tensor([2, 1])


def test_the_marker_s_patch_decides():
    explanation = explain_detections(detector(), image_with_marker(), BOXES, LABELS)
    sigmoid = torch.sigmoid(torch.tensor([2.0, -2.0]))
    torch.testing.assert_close(explanation.probabilities, sigmoid)
    assert explanation.side == 8 and explanation.drops.shape == (2, 8, 12)
    mean = 64 / (64 * 96)
    gone = torch.sigmoid(torch.tensor(4 * mean - 2))
    expected = torch.zeros(2, 8, 12)
    # Recolored, nothing red is left. Class 1 has the remaining probability: it gains at least what class 2 loses by the
    # mean color.
    expected[:, 5, 9] = torch.tensor([sigmoid[0] - sigmoid[1], gone - sigmoid[0]])
    torch.testing.assert_close(explanation.drops, expected)
    assert explanation.decisive()[0].tolist() == [5, 9]
    assert explanation.patch_box(5, 9) == (72, 40, 80, 48)
    # One of four equal locations is the largest; its 16 pixels share the gradient 4·(1 − σ) of the logarithm.
    gradient = explanation.gradients[0]
    assert gradient[5, 9] > 0 and gradient.count_nonzero() == 1
    torch.testing.assert_close(gradient.sum() * 64, 4 * (1 - sigmoid[0]))


def test_a_class_that_is_the_answer_without_a_cue_is_explained():
    """The marker is green: covered, the class stays; recolored it is red, and tells the other class."""
    image = image_with_marker()[[1, 0, 2]]
    explanation = explain_detections(detector(), image, BOXES[:1], torch.tensor([1]))
    sigmoid = torch.sigmoid(torch.tensor([2.0, -2.0]))
    expected = torch.zeros(1, 8, 12)
    expected[0, 5, 9] = sigmoid[0] - sigmoid[1]
    torch.testing.assert_close(explanation.drops, expected)
    assert explanation.decisive().tolist() == [[5, 9]]


def test_far_is_a_patch_away_from_the_box():
    far = explain_detections(detector(), image_with_marker(), BOXES, LABELS).far
    expected = torch.ones(2, 8, 12, dtype=torch.bool)
    expected[0, :4, :4] = False  # the box covers patches 1 and 2 each way
    expected[1, 3:7, 7:11] = False
    assert torch.equal(far, expected)


def test_patches_are_pixels_of_the_image_when_the_detector_resizes():
    image = image_with_marker().repeat_interleave(2, 1).repeat_interleave(2, 2)
    explanation = explain_detections(detector(), image, 2 * BOXES, LABELS, batch_size=5)
    assert explanation.scale == (0.5, 0.5)
    assert explanation.patch_box(*explanation.decisive()[0].tolist()) == (144, 80, 160, 96)


def test_covering_in_any_batches_is_the_same():
    one, many = (
        explain_detections(detector(), image_with_marker(50, 70), BOXES, LABELS, batch_size=size) for size in (1, 200)
    )
    torch.testing.assert_close(one.drops, many.drops)
    assert one.drops.shape == (2, 8, 12)  # 64 × 90 in the detector


def test_no_detections_and_no_far_patch():
    nothing = explain_detections(detector(), image_with_marker(), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    assert nothing.drops.shape == nothing.gradients.shape == (0, 8, 12)
    everywhere = explain_detections(detector(), image_with_marker(), torch.tensor([[0.0, 0, 96, 64]]), LABELS[:1])
    assert everywhere.decisive().tolist() == [[-1, -1]]
    assert describe(everywhere, ["b"], np.array([[0, 0, 96, 64]]))[0].keys() == {"class", "probability", "box"}


def test_where_nothing_lowers_the_probability_no_patch_decides():
    """Class 1 of a black image has what it can have, with any patch covered or recolored."""
    explanation = explain_detections(detector(), torch.zeros(3, 64, 96), BOXES[:1], torch.tensor([1]))
    assert explanation.far.any() and explanation.drops.abs().max() < 1e-6
    assert explanation.decisive().tolist() == [[-1, -1]]
    assert describe(explanation, ["a"], BOXES[:1].numpy())[0].keys() == {"class", "probability", "box"}


def test_the_last_patches_end_with_the_image():
    explanation = explain_detections(detector(), image_with_marker(52, 93), BOXES, LABELS)
    rows, columns = explanation.drops.shape[1:]
    assert explanation.size == (52, 93) and explanation.patch_box(rows - 1, columns - 1)[2:] == (93, 52)


def test_described_and_drawn():
    explanation = explain_detections(detector(), image_with_marker(), BOXES, LABELS)
    described = describe(explanation, ["b", "a"], BOXES.numpy())
    assert described[0]["far_patch"] == [72, 40, 80, 48] and described[0]["drop"] > 0.7
    image = np.full((64, 96, 3), 100, np.uint8)
    drawn = draw_explanation(image, explanation, described)
    lit = (drawn == [226, 134, 22]).all(-1)  # 0.2 · (0.7 · 100 + 38.25) + 0.8 · (255, 140, 0), rounded
    assert drawn.dtype == np.uint8 and lit.sum() >= 3 * 8 * 8, "two rows of two panels, enlarged"
    colored = draw_explanation(image, explanation, described, ["a", "b", "c"])
    assert all((colored == distinct_colors(["a", "b", "c"])[name]).all(-1).any() for name in ("a", "b"))


def test_a_head_that_finds_boxes_and_classes_together_is_refused():
    parts = Averages(), torch.nn.Module(), CenterCell({"c2": 3}, {"c2": 4}, stage="c2")
    with pytest.raises(UserError, match="does not classify given boxes"):
        require_fixed_boxes(Detector(*parts, SequenceHead(3, 1, 2)))


def test_an_attention_context_can_be_explained():
    """Its weights change with what is covered; only shapes and finite values are checked."""
    built = detector()
    built.context = partial(AttentionLSTM, hidden_channels=1, size=4)(3).eval()
    explanation = explain_detections(built, image_with_marker(), BOXES, LABELS)
    assert explanation.drops.isfinite().all() and explanation.gradients.isfinite().all()
