"""ReInspect's regions: windows on a grid, and the one cell of the map that each reads."""

from functools import partial

import pytest
import torch
from torchvision.models.detection.image_list import ImageList

from detection.config.serialization import from_plain
from detection.errors import UserError
from detection.pooling import CenterCell
from detection.regions import GridCells


def boxes_of(*sizes, **settings):
    height, width = (max(sides) for sides in zip(*sizes, strict=True))
    images = ImageList(torch.zeros(len(sizes), 3, height, width), list(sizes))
    boxes, losses = GridCells({}, **settings)(images, {}, None)
    assert losses == {}
    return boxes


def test_by_hand():
    (boxes,) = boxes_of((64, 96))
    assert boxes.tolist() == [
        [-16, -16, 48, 48], [16, -16, 80, 48], [48, -16, 112, 48],
        [-16, 16, 48, 80], [16, 16, 80, 80], [48, 16, 112, 80],
    ]  # fmt: skip


def test_the_papers_grid():
    (boxes,) = boxes_of((480, 640))
    assert len(boxes) == 20 * 15


def test_a_cell_counts_when_its_first_pixel_lies_in_the_image():
    counts = [len(boxes_of(size, window=16, stride=8)[0]) for size in ((8, 8), (9, 8), (16, 17))]
    assert counts == [1, 2, 6]


def test_alone_and_in_a_batch():
    sizes = ((40, 70), (64, 64))
    for size, boxes in zip(sizes, boxes_of(*sizes), strict=True):
        assert torch.equal(boxes, boxes_of(size)[0])


@pytest.mark.parametrize(("window", "stride"), [(64, 32), (16, 16), (20, 8)])
def test_the_descriptor_is_the_maps_own_cell(window, stride):
    height, width = 5, 4
    image = ImageList(torch.zeros(1, 3, height * stride, width * stride), [(height * stride, width * stride)])
    boxes, _ = GridCells({}, window=window, stride=stride)(image, {}, None)
    pool = CenterCell({"c5": 3}, {"c5": stride})
    features = torch.randn(2, 3, height, width)
    found = pool({"c5": features}, boxes * 2, image.image_sizes * 2)
    assert pool.out_channels == 3 and found.shape == (2 * height * width, 3, 1, 1)
    torch.testing.assert_close(found[:, :, 0, 0], torch.cat([m.flatten(1).T for m in features]), rtol=0, atol=0)


def test_a_center_off_the_map_reads_its_border():
    pool, features = CenterCell({"c2": 1}, {"c2": 4}, stage="c2"), torch.arange(6.0).reshape(1, 1, 2, 3)
    boxes = torch.tensor([[-20.0, -20, 0, 0], [11, 3, 13, 5], [3.9, 7.9, 4.1, 40], [0, 0, 7.8, 7.8]])
    assert pool({"c2": features}, [boxes], [(8, 12)]).flatten().tolist() == [0, 5, 4, 0]


def test_windows_with_gaps_are_refused():
    with pytest.raises(UserError, match="regions.window=31, stride=32: the window must be at least"):
        GridCells({}, window=31, stride=32)


@pytest.mark.parametrize("key", ["window", "stride"])
def test_a_grid_without_a_size_is_refused(key):
    with pytest.raises(UserError, match=f"regions.{key}=0: must be at least 1"):
        from_plain(partial(GridCells, **{key: 0}), partial[GridCells], "regions")
