"""Candidates of all images at once are those of a loop over images, regions and scores."""

import pytest
import torch

from detection.heads.candidates import MIN_SIDE, by_image, find_candidates

SIZES = [(40, 60), (30, 20), (64, 64)]


def naive(scores, threshold, boxes, size):
    """The candidates of one image, by scores (N, S) and their boxes (N, S, 4): region, score's place and box."""
    found = []
    for region, place in ((i, j) for i in range(scores.shape[0]) for j in range(scores.shape[1])):
        x1, y1, x2, y2 = boxes[region, place].tolist()
        x1, x2 = (min(max(x, 0), size[1]) for x in (x1, x2))
        y1, y2 = (min(max(y, 0), size[0]) for y in (y1, y2))
        if scores[region, place] > threshold and x2 - x1 >= MIN_SIDE and y2 - y1 >= MIN_SIDE:
            found.append((region, place, [x1, y1, x2, y2]))
    return found


@pytest.mark.parametrize("counts", [(5, 0, 9), (0, 0, 0), (1, 1, 1)])
@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_candidates_are_those_of_a_loop(counts, threshold):
    torch.manual_seed(0)
    scores = torch.rand(sum(counts), 4)
    corners = torch.randint(-10, 70, (sum(counts), 4, 2)).float()  # some boxes are outside of their image
    boxes = torch.cat([corners, corners + torch.randint(0, 20, corners.shape)], 2)  # and some have no area
    row, column, found, numbers = find_candidates(scores, threshold, lambda r, c: boxes[r, c], counts, SIZES)
    images = by_image({"row": row, "column": column, "box": found}, numbers)
    first = 0
    for image, count, size in zip(images, counts, SIZES, strict=True):
        own = slice(first, first + count)
        expected = naive(scores[own], threshold, boxes[own], size)
        assert list(zip(*(image[key].tolist() for key in image), strict=True)) == [
            (region + first, place, box) for region, place, box in expected
        ]
        first += count
