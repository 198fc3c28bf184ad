"""The RPN's labels of anchors: torchvision's, without the negatives in crowd regions."""

import pytest
import torch
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import box_iou

from detection.regions import RPN

ANCHORS = [torch.tensor([[0.0, 0, 20, 20], [10, 10, 30, 30], [12, 10, 33, 30], [40, 40, 60, 60], [70, 70, 90, 90]])] * 2
CROWD = {"ignored": torch.tensor([[30.0, 30, 60, 60]])}
BOXES = torch.tensor([[11.0, 10, 30, 30]])


def labels(targets, **settings):
    rpn = RPN({"c3": 4}, stages=("c3",), anchor_sizes=((8,),), **settings).rpn
    own = rpn.assign_targets_to_anchors(ANCHORS, targets)
    assert rpn.box_similarity is box_iou
    theirs = RegionProposalNetwork.assign_targets_to_anchors(rpn, ANCHORS, targets)
    return own, theirs


@pytest.mark.parametrize("settings", [{}, {"ignore_crowd": None}])
def test_without_crowd_regions_all_is_torchvisions(settings):
    own, theirs = labels([{"boxes": BOXES}, {"boxes": BOXES[:0]}], **settings)
    for a, b in zip(own, theirs, strict=True):
        assert all(torch.equal(x, y) and x.dtype == y.dtype for x, y in zip(a, b, strict=True))


def test_negatives_in_crowd_regions_have_no_label():
    targets = [{"boxes": BOXES, **CROWD}, {"boxes": BOXES[:0], **CROWD}]
    own, theirs = labels(targets)
    assert [row.tolist() for row in own[0]] == [[0, 1, 1, -1, 0], [0, 0, 0, -1, 0]]
    assert torch.equal(torch.stack(own[1]), torch.stack(theirs[1]))
    own, theirs = labels(targets, ignore_crowd=None)
    assert torch.equal(torch.stack(own[0]), torch.stack(theirs[0]))
