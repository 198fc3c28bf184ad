"""Anti-diagonals of maps by hand, and shearing there and back."""

import pytest
import torch

from detection.ops.grid.corners import (
    CORNERS,
    anti_diagonals,
    by_anti_diagonal,
    from_anti_diagonals,
    opposite,
    scan_order,
    shifted,
)

SIZES = [(1, 1), (1, 4), (5, 1), (2, 3), (4, 3)]


def test_diagonals_by_hand():
    """Of 0 1 2 / 3 4 5, from the top left and from the bottom left."""
    rows = torch.arange(6).view(1, 2, 3, 1)
    assert [d.of(rows).flatten().tolist() for d in anti_diagonals(2, 3, "top_left")] == [[0], [1, 3], [2, 4], [5]]
    assert [d.of(rows).flatten().tolist() for d in anti_diagonals(2, 3, "bottom_left")] == [[3], [0, 4], [1, 5], [2]]


@pytest.mark.parametrize("corner", CORNERS)
@pytest.mark.parametrize("size", SIZES)
def test_every_location_is_on_one_diagonal_after_its_neighbors(size, corner):
    height, width = size
    place = {}
    for t, d in enumerate(anti_diagonals(*size, corner)):
        assert len(place) == d.start and d.own.start == d.row + 1
        place |= {(d.row + k, d.column + k * d.turn): t for k in range(d.count)}
    assert len(place) == height * width
    down, right = 1 if corner.startswith("top") else -1, 1 if corner.endswith("left") else -1
    for (r, c), t in place.items():
        assert place.get((r - down, c), t - 1) == place.get((r, c - right), t - 1) == t - 1


@pytest.mark.parametrize("corner", CORNERS)
def test_a_diagonal_is_a_view_of_a_map_of_any_strides(corner):
    x = torch.randn(2, 3, 4, 5)
    for rows in (x.permute(0, 2, 3, 1), x.permute(0, 2, 3, 1).contiguous(), x[:, :2].permute(0, 2, 3, 1)):
        for d in anti_diagonals(4, 5, corner):
            at = [rows[:, d.row + k, d.column + k * d.turn] for k in range(d.count)]
            assert torch.equal(d.of(rows), torch.stack(at))


@pytest.mark.parametrize("corner", CORNERS)
@pytest.mark.parametrize("size", [(1, 5), (5, 1)])
def test_a_single_line_has_any_stride_across(size, corner):
    rows = torch.randn(2, 3, 5).as_strided((2, *size, 3), (15, 1, 3, 1) if size[0] == 1 else (15, 3, 9, 1))
    assert [d.of(rows).shape for d in anti_diagonals(*size, corner)] == [(1, 2, 3)] * 5


@pytest.mark.parametrize("size", SIZES)
def test_the_order_of_a_scan_is_that_of_the_opposite_corner_in_reverse(size):
    order = scan_order(*size, CORNERS, torch.device("cpu"))
    places = torch.arange(size[0] * size[1]).view(1, *size, 1)
    for corner, own in zip(CORNERS, order.unbind(1), strict=True):
        assert torch.equal(own.flip(0), order[:, CORNERS.index(opposite(corner))])
        start = 0
        for d in anti_diagonals(*size, corner):  # whose rows are those of the map
            found = own[start : start + d.count]
            assert torch.equal(found.flip(0) if corner.startswith("bottom") else found, d.of(places).flatten())
            start += d.count


@pytest.mark.parametrize("corner", CORNERS)
@pytest.mark.parametrize("size", SIZES)
def test_steps_are_the_anti_diagonals(size, corner):
    x = torch.randn(2, 3, *size)
    steps = by_anti_diagonal(x, corner)
    assert steps.shape == (sum(size) - 1, 2, size[0], 3)
    assert torch.equal(from_anti_diagonals(steps, corner), x)
    rows = x.permute(0, 2, 3, 1)
    for step, d in zip(steps, anti_diagonals(*size, corner), strict=True):
        found = step.flip(1) if corner.startswith("bottom") else step  # rows as those of the map
        assert torch.equal(found[:, d.row : d.row + d.count].transpose(0, 1), d.of(rows))
        assert found.count_nonzero() == d.count * 6


def test_shifted_by_hand():
    assert shifted(torch.tensor([[[1.0], [2.0], [3.0]]])).flatten().tolist() == [0, 1, 2]
