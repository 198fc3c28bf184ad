"""What the local and global head reads for what; the rest is in the contract of heads."""

import dataclasses
from functools import partial

import pytest
import torch

from detection.context import AttentionLSTM
from detection.detector import build_detector
from detection.errors import UserError
from detection.heads import FastRCNN, LocalGlobal
from detection.heads.fast_rcnn import Samples
from detection.inference import InferenceConfig
from detection.pooling import CenterCell
from tests.tiny_runs import DETECTOR

K, C, N, G = 3, 4, 2, 5
FAST = partial(FastRCNN, hidden_channels=8, batch_size_per_image=8)


def head(global_features=G, **settings):
    torch.manual_seed(0)
    made = LocalGlobal(C, N, K, **{"fast_rcnn": FAST, "global_channels": 6, **settings})
    if global_features:
        made.add_global(global_features)
    return made


def descriptors(rows=7):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(rows, C, N, N, generator=generator), torch.randn(rows, G, 1, 1, generator=generator)


def detector(**parts):
    torch.manual_seed(0)
    own = {
        "context": partial(AttentionLSTM, hidden_channels=4),
        "context_source": "c3",
        "global_pool": partial(CenterCell, stage="context"),
        "head": partial(LocalGlobal, fast_rcnn=FAST, global_channels=6),
    }
    return build_detector(dataclasses.replace(DETECTOR, **{**own, **parts}), K, resize_in_training=False)


def test_classes_read_both_and_boxes_the_local_branch_alone():
    made, (local, whole) = head().eval(), descriptors()
    scores, deltas = made.predict(local, whole)
    assert scores.shape == (7, 1 + K) and deltas.shape == (7, 1 + K, 4)
    other_scores, other_deltas = made.predict(local, whole + 1)
    assert torch.equal(deltas, other_deltas) and (scores != other_scores).all()
    other_scores, other_deltas = made.predict(local + 1, whole)
    assert (deltas != other_deltas).any() and (scores != other_scores).all()


def test_the_losses_gradients_go_where_they_should():
    made, (local, whole) = head(), descriptors()
    local.requires_grad_(), whole.requires_grad_()
    samples = Samples([torch.tensor([1, 0, 2, 3, 0, 0, 1])], [torch.zeros(7, 4)])
    _, losses = made(local, [torch.rand(7, 4)], [(64, 64)], samples, whole)
    of_boxes = torch.autograd.grad(losses["loss_box_reg"], [local, whole], retain_graph=True, allow_unused=True)
    assert of_boxes[0].abs().sum() > 0 and of_boxes[1] is None
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(losses["loss_classifier"], [local, whole]))


def test_by_hand_it_is_two_branches_side_by_side():
    made, (local, whole) = head().eval(), descriptors()
    heads, branch = made.fast_rcnn.roi_heads, made.global_branch
    fc6, fc7 = heads.box_head.fc6, heads.box_head.fc7
    a = fc7(fc6(local.flatten(1)).relu()).relu()
    b = branch.fc7(branch.fc6(whole.flatten(1)).relu()).relu()
    weight, bias = heads.box_predictor.cls_score.weight, heads.box_predictor.cls_score.bias
    expected = (a @ weight[:, :8].T + b @ weight[:, 8:].T + bias).softmax(1)
    torch.testing.assert_close(made.predict(local, whole)[0], expected)


def test_classes_from_the_global_branch_alone():
    made, (local, whole) = head(local=False).eval(), descriptors()
    scores, deltas = made.predict(local, whole)
    other_scores, other_deltas = made.predict(local + 1, whole)
    assert torch.equal(scores, other_scores) and not torch.equal(deltas, other_deltas)


def test_without_a_global_pool_it_is_fast_rcnn():
    torch.manual_seed(0)
    plain = FAST(C, N, K).eval()
    made, (local, _) = head(global_features=0).eval(), descriptors()
    made.fast_rcnn.load_state_dict(plain.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(plain.predict(local), made.predict(local), strict=True))


@torch.no_grad()
def test_more_looks_at_test_read_the_global_branch_too():
    images = [torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))]
    plain, more = (
        detector().eval(),
        detector(inference=InferenceConfig(num_box_iterations=2, voting_iou=0.8, flip=True)).eval(),
    )
    more.load_state_dict(plain.state_dict())
    (a,), (b,) = plain(images), more(images)
    assert len(b["boxes"]) and not torch.equal(a["scores"][:5], b["scores"][:5])


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ({"head": FAST}, "detector.global_pool: a FastRCNN has no global branch; use detection.heads.LocalGlobal"),
        ({"global_pool": partial(CenterCell, stage="c9")}, "detector.global_pool: .*c9"),
        ({"global_pool": None, "head": partial(LocalGlobal, local=False)}, "head.local=false: without .*global_pool"),
    ],
)
def test_parts_that_do_not_fit_get_one_sentence(parts, sentence):
    with pytest.raises(UserError, match=sentence):
        detector(**parts)
