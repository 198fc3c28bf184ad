"""Mean drops by the place of a patch relative to the object, against a loop over detections and patches."""

import json
from collections import defaultdict

import numpy as np
import pytest
import torch

from detection.analysis.explain import Explanation
from detection.analysis.explain_mean import MeanDrops, place_in_words
from detection.analysis.explain_plots import draw_means, write_means


def explained(drops, scale=(1.0, 1.0), side=8, far=None):
    drops = torch.as_tensor(drops, dtype=torch.float32)
    n, h, w = drops.shape
    size = int(h * side / scale[0]), int(w * side / scale[1])
    far = torch.ones(n, h, w, dtype=torch.bool) if far is None else torch.as_tensor(far)
    return Explanation(torch.ones(n), drops, drops, far, side, scale, size)


def box_at(row, column, side=8, scale=(1.0, 1.0)):
    """A small box around the center of a patch."""
    y, x = (row + 0.5) * side / scale[0], (column + 0.5) * side / scale[1]
    return [x - 1, y - 1, x + 1, y + 1]


def test_means_equal_a_loop():
    """Images of different sizes and scales; offsets that fewer than a tenth of the detections have are left out."""
    generator = np.random.default_rng(0)
    means, sums, counts, total = MeanDrops(), defaultdict(float), defaultdict(int), 0
    for h, w, n, scale in (
        (3, 5, 30, (1.0, 1.0)),
        (4, 2, 25, (0.5, 0.25)),
        (1, 9, 4, (2.0, 2.0)),
        (2, 2, 0, (1.0, 1.0)),
    ):
        drops, places = generator.random((n, h, w)), generator.integers((h, w), size=(n, 2))
        boxes = [box_at(*place, scale=scale) for place in places]
        means.add(explained(drops, scale), np.array(boxes).reshape(-1, 4))
        total += n
        for drop, (row, column) in zip(drops, places, strict=True):
            for (i, j), value in np.ndenumerate(drop):
                sums[i - row, j - column] += value
                counts[i - row, j - column] += 1
    found = means.means()
    middle = np.array(found.shape) // 2
    assert found.shape == (7, 17) and means.detections == total == 59
    kept = 0
    for place, value in np.ndenumerate(found):
        offset = tuple(int(i) for i in np.array(place) - middle)
        if counts[offset] < 5.9:
            assert np.isnan(value), offset
        else:
            kept += 1
            assert value == pytest.approx(sums[offset] / counts[offset], rel=1e-6)
    assert 15 < kept < found.size


def test_the_place_that_matters_most_is_described():
    """Three patches to the left and one above; that of larger drops is inside of large objects, which is not far."""
    drops, far = np.zeros((2, 4, 6)), np.ones((2, 4, 6), bool)
    for drop, away, (row, column) in zip(drops, far, ((2, 4), (1, 3)), strict=True):
        drop[row - 1, column - 3], drop[row, column], drop[row, column - 2] = 0.5, 0.9, 0.8
        away[row, column - 2 : column + 3] = False
    means = MeanDrops()
    boxes = np.array([box_at(2, 4, scale=(0.5, 0.5)), box_at(1, 3, scale=(0.5, 0.5))])
    means.add(explained(drops, (0.5, 0.5), far=far), boxes)
    described = means.describe()
    assert described["far"] == {"right": -48.0, "below": -16.0, "drop": 0.5} and described["patch_side"] == 16
    assert described["counts"][3][5] == 2 and described["mean_drop"][0][0] is None
    assert np.array(described["mean_drop"])[3, 5] == pytest.approx(0.9)
    assert np.array(described["mean_drop"])[3, 3] == pytest.approx(0.8) and np.isnan(means.means(far=True)[3, 3])
    (axes, _) = draw_means(means).axes
    assert axes.images[0].get_clim() == (0, 0.5)


def test_the_mean_of_far_patches_is_over_those_detections_for_which_they_are_far():
    drops, far = np.array([[[0.2] * 3], [[0.6] * 3]]), np.array([[[0, 0, 1]], [[0, 0, 0]]], bool)
    means = MeanDrops()
    means.add(explained(drops, far=far), np.array([box_at(0, 0)] * 2))
    assert means.means()[0, 4] == pytest.approx(0.4) and means.describe()["far"]["drop"] == pytest.approx(0.2)


def test_boxes_outside_of_the_image_count_at_its_edge():
    means = MeanDrops()
    means.add(explained([[[0.0, 0.5]]]), np.array([[90.0, 90.0, 95.0, 95.0]]))
    assert means.means()[0].tolist() == [0.0, 0.5, pytest.approx(np.nan, nan_ok=True)]


@pytest.mark.parametrize(
    ("right", "below", "words"),
    [
        (-48.0, -16.0, "48 pixels to the left, 16 above"), (24.0, 0.0, "24 pixels to the right"),
        (0.0, 24.4, "24 pixels below"), (8.0, 8.0, "8 pixels to the right, 8 below"),
    ],
)  # fmt: skip
def test_a_place_in_words(right, below, words):
    assert place_in_words(right, below) == words


def test_written_files_and_the_sentence(tmp_path):
    means = MeanDrops()
    means.add(explained([[[0.9, 0.0, 0.25]]] * 2, far=[[[False, True, True]]] * 2), np.array([box_at(0, 0)] * 2))
    assert write_means(tmp_path, means) == (
        "mean of 2 detections: of what is far, most by 16 pixels to the right, 0.250 less"
    )
    assert json.loads((tmp_path / "mean.json").read_text())["detections"] == 2
    assert (tmp_path / "mean.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(("drop", "far"), [(1.0, False), (0.009, True), (-0.1, True)])
def test_where_nothing_far_matters_that_is_the_sentence(tmp_path, drop, far):
    means = MeanDrops()
    means.add(explained(np.full((1, 2, 2), drop), far=np.full((1, 2, 2), far)), np.array([box_at(0, 0)]))
    assert (
        write_means(tmp_path, means) == "mean of 1 detection: no patch far from them lowers their probability by 0.01"
    )
    assert ("far" in json.loads((tmp_path / "mean.json").read_text())) == far


def test_the_drawing_is_cut_to_what_was_measured():
    means = MeanDrops()
    means.add(explained(np.zeros((1, 2, 9))), np.array([box_at(0, 8)]))
    (axes, _) = draw_means(means).axes
    assert axes.get_xlim() == (-68, 4) and axes.get_ylim() == (12, -4)
