"""What the local and global head reads for what; the rest is in the contract of heads."""

import dataclasses
from functools import partial

import pytest
import torch

from detection.context import AttentionLSTM
from detection.contracts import Pool, PooledRegions
from detection.detector import build_detector
from detection.errors import UserError
from detection.heads import FastRCNN, LocalGlobal
from detection.heads.fast_rcnn import Samples
from detection.inference import InferenceConfig
from detection.pooling import CenterCell
from tests.tiny_runs import DETECTOR

K, C, N, G = 3, 4, 2, 5
FAST = partial(FastRCNN, hidden_channels=8, batch_size_per_image=8)


class Given(Pool):
    """A pool whose descriptors are given as the feature map of the global pool."""

    out_channels, output_size = G, 1

    def __init__(self, channels, strides):
        super().__init__()

    def forward(self, features, boxes, image_sizes):
        return features["global"]


def head(**settings):
    torch.manual_seed(0)
    made = LocalGlobal(C, N, K, **{"fast_rcnn": FAST, "global_pool": partial(Given), "global_channels": 6, **settings})
    made.connect({}, {})
    return made


def descriptors(rows=7):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(rows, C, N, N, generator=generator), torch.randn(rows, G, 1, 1, generator=generator)


def regions(local, global_descriptors=None, boxes=None):
    return PooledRegions(local, [boxes], [(64, 64)], {"global": global_descriptors})


def detector(**parts):
    torch.manual_seed(0)
    own = {
        "context": partial(AttentionLSTM, hidden_channels=4),
        "context_source": "c3",
        "head": partial(
            LocalGlobal, fast_rcnn=FAST, global_pool=partial(CenterCell, stage="context"), global_channels=6
        ),
    }
    return build_detector(dataclasses.replace(DETECTOR, **{**own, **parts}), K, resize_in_training=False)


def test_classes_read_both_and_boxes_the_local_branch_alone():
    made, (local, global_) = head().eval(), descriptors()
    scores, deltas = made.predict(regions(local, global_))
    assert scores.shape == (7, 1 + K) and deltas.shape == (7, 1 + K, 4)
    other_scores, other_deltas = made.predict(regions(local, global_ + 1))
    assert torch.equal(deltas, other_deltas) and (scores != other_scores).all()
    other_scores, other_deltas = made.predict(regions(local + 1, global_))
    assert (deltas != other_deltas).any() and (scores != other_scores).all()


def test_the_losses_gradients_go_where_they_should():
    made, (local, global_) = head(), descriptors()
    local.requires_grad_(), global_.requires_grad_()
    samples = Samples(torch.tensor([1, 0, 2, 3, 0, 0, 1]), torch.zeros(7, 4))
    _, losses = made(regions(local, global_, torch.rand(7, 4)), samples)
    of_boxes = torch.autograd.grad(losses["loss_box_reg"], [local, global_], retain_graph=True, allow_unused=True)
    assert of_boxes[0].abs().sum() > 0 and of_boxes[1] is None
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(losses["loss_classifier"], [local, global_]))


def test_by_hand_it_is_two_branches_side_by_side():
    made, (local, global_) = head().eval(), descriptors()
    heads, branch = made.fast_rcnn.roi_heads, made.global_branch
    fc6, fc7 = heads.box_head.fc6, heads.box_head.fc7
    a = fc7(fc6(local.flatten(1)).relu()).relu()
    b = branch.fc7(branch.fc6(global_.flatten(1)).relu()).relu()
    weight, bias = heads.box_predictor.cls_score.weight, heads.box_predictor.cls_score.bias
    expected = (a @ weight[:, :8].T + b @ weight[:, 8:].T + bias).softmax(1)
    torch.testing.assert_close(made.predict(regions(local, global_))[0], expected)


def test_classes_from_the_global_branch_alone():
    made, (local, global_) = head(local=False).eval(), descriptors()
    scores, deltas = made.predict(regions(local, global_))
    other_scores, other_deltas = made.predict(regions(local + 1, global_))
    assert torch.equal(scores, other_scores) and not torch.equal(deltas, other_deltas)


def test_without_a_global_pool_it_is_fast_rcnn():
    torch.manual_seed(0)
    plain = FAST(C, N, K).eval()
    made, (local, _) = head(global_pool=None).eval(), descriptors()
    made.fast_rcnn.load_state_dict(plain.state_dict())
    assert all(
        torch.equal(a, b) for a, b in zip(plain.predict(regions(local)), made.predict(regions(local)), strict=True)
    )


@torch.no_grad()
def test_box_iterations_read_the_global_branch_too():
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
        (
            {"head": partial(LocalGlobal, global_pool=partial(CenterCell, stage="c9"))},
            "detector.head.global_pool: .*c9",
        ),
        ({"head": partial(LocalGlobal, local=False)}, "head.local=false: without .*global_pool"),
    ],
)
def test_parts_that_do_not_fit_get_one_sentence(parts, sentence):
    with pytest.raises(UserError, match=sentence):
        detector(**parts)
