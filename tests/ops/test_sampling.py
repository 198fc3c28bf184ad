"""Sampled boxes: torchvision's numbers, uniform, without replacement."""

import pytest
import torch
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler

from detection.ops.box_matching import NEGATIVE, NEITHER, POSITIVE
from detection.ops.sampling import in_order, sample_boxes


@pytest.mark.parametrize(
    ("size", "fraction"), [(16, 0.5), (16, 0.25), (5, 0.3), (100, 0.5), (1, 0.5), (8, 1.0), (8, 0.0)]
)
def test_numbers_are_torchvisions(size, fraction):
    torch.manual_seed(0)
    states = torch.randint(-1, 2, (40, 30)).where(torch.rand(40, 30) < torch.rand(40, 1), NEITHER).char()
    states[0], states[1], states[2] = NEITHER, POSITIVE, NEGATIVE
    sample = sample_boxes(states, size, fraction)
    theirs = BalancedPositiveNegativeSampler(size, fraction)(list(states))
    found = ((sample.positive, sample.is_positive, POSITIVE), (sample.negative, sample.is_negative, NEGATIVE))
    for (indices, mask, state), own in zip(found, theirs, strict=True):
        assert mask.sum(1).tolist() == [int(chosen.sum()) for chosen in own]
        for i in range(len(states)):
            taken = indices[i][mask[i]]
            assert (states[i, taken] == state).all() and len(taken.unique()) == len(taken)
    rows, counts = sample.ascending(30)
    for i, count in enumerate(counts):
        both = torch.cat([sample.positive[i][sample.is_positive[i]], sample.negative[i][sample.is_negative[i]]])
        assert torch.equal(rows[i, :count], both.sort().values) and rows.max() < 30


def test_every_box_is_as_likely():
    """20 000 images of 6 positives and 10 negatives, of which 2 and 5 are taken; pairs too."""
    torch.manual_seed(0)
    states = torch.tensor([1] * 6 + [-1, -1] + [0] * 10, dtype=torch.int8).expand(20_000, -1)
    sample = sample_boxes(states, 7, 0.3)
    taken = torch.zeros(20_000, 18).scatter_(1, sample.positive, 1.0)
    assert (sample.is_positive.sum(1) == 2).all() and (sample.is_negative.sum(1) == 5).all()
    taken.scatter_add_(1, sample.negative, sample.is_negative.float())
    share = torch.tensor([2 / 6] * 6 + [0, 0] + [5 / 10] * 10)
    error = (share * (1 - share) / 20_000).sqrt()
    assert ((taken.mean(0) - share).abs() <= 4 * error).all()
    pairs = (taken[:, 0] * taken[:, 1]).mean().item(), (taken[:, 8] * taken[:, 17]).mean().item()
    assert pairs == (pytest.approx(1 / 15, abs=0.007), pytest.approx(5 * 4 / 90, abs=0.012))


def test_what_is_true_in_order():
    rows, counts = in_order(torch.tensor([[False, True, True], [True, False, True], [False] * 3]))
    assert counts == [2, 2, 0] and rows[0, :2].tolist() == [1, 2] and rows[1, :2].tolist() == [0, 2]
