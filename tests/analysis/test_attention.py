"""Attention over the pixels of images: which location is which pixels, what is drawn, and what has none."""

import dataclasses
from functools import partial

import numpy as np
import pytest
import torch

from detection.analysis.attention import attention_over_pixels, draw_attention, require_attention
from detection.context import AttentionLSTM, NoContext
from detection.detector import build_detector, valid_mask
from detection.errors import UserError
from tests.tiny_runs import DETECTOR

T = 2


def detector(**parts):
    torch.manual_seed(0)
    own = {"context": partial(AttentionLSTM, hidden_channels=4, num_steps=T), "context_source": "c3"}
    pool = partial(DETECTOR.pool, stages=("context",))
    return build_detector(dataclasses.replace(DETECTOR, pool=pool, **{**own, **parts}), 2).eval()


def an_image(height, width, seed=0):
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_every_step_has_a_sum_of_one_over_the_pixels_of_each_image():
    images = [an_image(64, 64), an_image(40, 72, 1), an_image(128, 96, 2)]
    found = attention_over_pixels(detector(), images)
    for weights, image in zip(found, images, strict=True):
        assert weights.shape == (T, *image.shape[1:]) and (weights >= 0).all()
        torch.testing.assert_close(weights.sum((1, 2)), torch.ones(T))


def test_a_location_is_its_pixels():
    """64 pixels at a stride of 8 are 8×8 locations; nothing is resized."""
    made, image = detector(), an_image(64, 64)
    (found,) = attention_over_pixels(made, [image])
    batch, _ = made.transform([image / 255])
    source = made.backbone(batch.tensors)["c3"]
    locations = made.context.attention_weights(source, valid_mask([(64, 64)], 8, source))[0]
    torch.testing.assert_close(found.unflatten(2, (8, 8)).unflatten(1, (8, 8)).sum((2, 4)), locations.detach())
    assert torch.equal(found[:, 0, 0], found[:, 7, 7])


def test_an_image_alone_is_as_in_a_batch():
    made, images = detector(), [an_image(64, 64), an_image(64, 128, 1)]
    together = attention_over_pixels(made, images)
    for image, expected in zip(images, together, strict=True):
        assert expected.shape[1:] == image.shape[1:]
    (alone,) = attention_over_pixels(made, images[1:])
    torch.testing.assert_close(alone, together[1], rtol=1e-3, atol=1e-6)


def test_attention_is_highlighted():
    image = np.full((200, 240, 3), 100, np.uint8)
    weights = np.zeros((T, 200, 240), np.float32)
    weights[0, :20, :20], weights[1, 180:, 220:] = 1 / 400, 1 / 400
    drawn = draw_attention(image, weights)
    # The sheet is the image and two attention steps, 8 pixels apart, below a line of titles.
    top = drawn.shape[0] - 8 - 200
    drawing, first, second = (drawn[top : top + 200, 8 + k * 248 :][:, :240] for k in range(3))
    assert (drawing == 100).all()
    assert first[0, 0].tolist() == [216, 164, 12] and first[100, 100].tolist() == [60, 60, 60]
    assert second[0, 0].tolist() == [60, 60, 60] and second[199, 239].tolist() == [216, 164, 12]


@pytest.mark.parametrize(
    ("context", "sentence"), [(partial(NoContext), "a NoContext for context"), (None, "the run has no context")]
)
def test_a_context_without_attention_is_refused(context, sentence):
    made = build_detector(dataclasses.replace(DETECTOR, context=context, context_source="c3"), 2)
    with pytest.raises(UserError, match=sentence):
        require_attention(made)
