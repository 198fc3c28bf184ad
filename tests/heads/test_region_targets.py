"""Ground-truth boxes that a region keeps: the nearest, against sorted lists."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detection.heads.costs import Lexicographic
from detection.heads.hungarian import match
from detection.heads.region_targets import keep_nearest
from tests.heads.matching_cases import make_targets


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=4, max_size=4), max_size=9))
def test_nearest_truths_are_kept(columns):
    """Against sorting lists; ties by order; no ground-truth boxes at all."""
    belongs = torch.tensor([[b for b, _ in column] for column in columns], dtype=torch.bool).reshape(-1, 4).T
    distance = torch.tensor([[d for _, d in column] for column in columns], dtype=torch.float32).reshape(-1, 4).T
    indices, valid = keep_nearest(belongs, distance, 3)
    assert indices.shape == valid.shape == (4, 3)
    for r in range(4):
        expected = sorted((c[r][1], m) for m, c in enumerate(columns) if c[r][0])[:3]
        assert indices[r][valid[r]].tolist() == [m for _, m in expected] and valid[r].sum() == len(expected)
    assert (indices[~valid] == len(columns)).all()


def test_a_truth_beyond_the_steps_is_the_furthest():
    boxes = torch.tensor([[90.0, 0, 99, 9], [0, 0, 9, 9], [10, 0, 19, 9]])
    indices, valid = keep_nearest(torch.ones(1, 3, dtype=torch.bool), torch.tensor([[90.0, 0, 10]]), 2)
    region_targets = make_targets(boxes[indices], valid=valid)
    found = boxes[None, :2].double()  # the first says the ground truth that is not kept
    matched = match(Lexicographic().cost(found, found / 10, torch.zeros(1, 2, 2), region_targets), region_targets)
    assert matched.tolist() == [[1, 0]] and indices.tolist() == [[1, 2]]
