"""Codes by hand, against torchvision's coder, and there and back."""

import pytest
import torch
from torchvision.models.detection._utils import BoxCoder

from detection.heads.box_codes import Deltas, PixelOffsets

CODES = {"pixels": PixelOffsets(), "deltas": Deltas(), "even deltas": Deltas(factors=(1.0, 1.0, 1.0, 1.0))}


def random_boxes(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    corners = 100 * torch.rand(*shape, 2, generator=generator, dtype=torch.float64)
    return torch.cat([corners, corners + 1 + 50 * torch.rand(*shape, 2, generator=generator)], dim=-1)


def test_pixels_by_hand():
    regions = torch.tensor([[0.0, 0, 64, 64]])
    box = torch.tensor([[[30.0, 20, 50, 60]]])  # center (40, 40), 20 wide, 40 high
    assert PixelOffsets().encode(box, regions).tolist() == [[[8, 8, 20, 40]]]
    assert PixelOffsets().decode(torch.tensor([[[8.0, 8, 20, 40]]]), regions).tolist() == box.tolist()


def test_a_negative_side_is_a_point():
    found = PixelOffsets().decode(torch.tensor([[[0.0, 0, -3, 4]]]), torch.tensor([[0.0, 0, 10, 10]]))
    assert found.tolist() == [[[5, 3, 5, 7]]]


def test_deltas_are_torchvisions():
    coder, regions, boxes = BoxCoder((10.0, 10.0, 5.0, 5.0)), random_boxes(7), random_boxes(7, 3, seed=1)
    codes = Deltas().encode(boxes, regions)
    for n in range(3):
        torch.testing.assert_close(codes[:, n], coder.encode_single(boxes[:, n], regions))
    wild = 30 * torch.randn(7, 3, 4, dtype=torch.float64)
    for n in range(3):
        torch.testing.assert_close(Deltas().decode(wild, regions)[:, n], coder.decode_single(wild[:, n], regions))


@pytest.mark.parametrize("name", CODES)
def test_there_and_back(name):
    regions, boxes = random_boxes(7), random_boxes(7, 3, seed=1)
    torch.testing.assert_close(CODES[name].decode(CODES[name].encode(boxes, regions), regions), boxes)


@pytest.mark.parametrize("name", CODES)
def test_a_code_moves_with_its_region(name):
    regions, boxes = random_boxes(7), random_boxes(7, 3, seed=1)
    shift = torch.tensor([5.0, -3, 5, -3], dtype=torch.float64)
    moved = CODES[name].encode(boxes + shift, regions + shift)
    torch.testing.assert_close(moved, CODES[name].encode(boxes, regions))


@pytest.mark.parametrize("name", CODES)
def test_gradients(name):
    codes = torch.randn(2, 3, 4, dtype=torch.float64).abs().requires_grad_()
    assert torch.autograd.gradcheck(lambda c: CODES[name].decode(c, random_boxes(2)), codes)
