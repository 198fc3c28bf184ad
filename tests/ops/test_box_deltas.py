"""Deltas of boxes are torchvision's to the bit."""

import pytest
import torch
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import clip_boxes_to_image

from detection.ops.box_deltas import clip_boxes, clip_rows, decode_deltas, encode_deltas


def drawn(*shape):
    corners = torch.rand(*shape, 2) * 100
    return torch.cat([corners, corners + 0.01 + 90 * torch.rand(*shape, 2) ** 3], -1)


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
@pytest.mark.parametrize("count", [0, 1, 7, 64, 1003])
def test_deltas_are_torchvisions(weights, count):
    torch.manual_seed(count)
    coder, boxes, targets = BoxCoder(weights), drawn(2, count), drawn(2, count)
    expected = coder.encode_single(targets.flatten(0, 1), boxes.flatten(0, 1))
    assert torch.equal(encode_deltas(coder, targets, boxes).flatten(0, 1), expected)
    deltas = torch.randn(2, count, 4) * 20
    expected = coder.decode_single(deltas.flatten(0, 1), boxes.flatten(0, 1))
    assert torch.equal(decode_deltas(coder, deltas, boxes).flatten(0, 1), expected)


def test_boxes_are_clipped_to_their_own_image():
    boxes, sizes = drawn(2, 50) * 2 - 60, [(40, 90), (100, 30)]
    image = torch.arange(2).repeat_interleave(50)
    expected = [clip_boxes_to_image(own, size) for own, size in zip(boxes, sizes, strict=True)]
    assert torch.equal(clip_boxes(boxes, sizes), torch.stack(expected))
    assert torch.equal(clip_rows(boxes.flatten(0, 1), image, sizes), torch.cat(expected))
