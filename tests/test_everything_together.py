"""Parts fit together whatever they are: every two of context, backbone, pool and head train a step and predict.

All four together, every context × backbone × pool × head, are slow.
"""

import dataclasses
import itertools
from functools import partial

import pytest
import torch

from detection.backbones import FPN, RCNN, VGG16, GoogLeNet, RecurrentStages, ResNet, Timm, Tiny
from detection.cells import CELLS
from detection.context import (
    AttentionLSTM,
    ConvStack,
    GlobalAverage,
    LargeKernel,
    NoContext,
    NonLocal,
    RecurrentConv,
    SelfAttention,
    SpatialRNN,
)
from detection.detector import build_detector
from detection.heads import FastRCNN, LocalGlobal, SequenceHead
from detection.heads.lstm_decoder import LSTMDecoder
from detection.heads.sequence_head import Embed
from detection.pooling import CenterCell, RoIAlign, SkipPool, Source
from tests.tiny_runs import DETECTOR

K = 3
TINY = partial(Tiny, channels=(4, 8), stem_channels=4)
BACKBONES = {
    "tiny": TINY,
    "pyramid": partial(FPN, body=TINY, stages=("c2", "c3"), out_channels=8, levels=("p2",)),
    "rcnn": partial(RCNN, channels=(4, 8), num_steps=1),
    "recurrent stages": partial(RecurrentStages, body=TINY, recurrent_stages=("c2", "c3")),
}
LARGE_BACKBONES = {
    "resnet18": partial(ResNet, depth=18, weights=None),
    "vgg16": partial(VGG16, weights=None),
    "googlenet": partial(GoogLeNet, weights=None),
    "lite0": partial(Timm, weights=None),
}
CONTEXTS = {
    "attention": partial(AttentionLSTM, hidden_channels=4, num_layers=2),
    "attention, additive": partial(AttentionLSTM, hidden_channels=4, num_layers=1, score="additive"),
    "recurrent conv": partial(RecurrentConv, num_steps=2),
    "recurrent conv, batch norm": partial(RecurrentConv, hidden_channels=4, norm="batch", num_steps=2),
    "two 3x3": partial(ConvStack, hidden_channels=4),
    "global average": partial(GlobalAverage, hidden_channels=4),
    "non-local": partial(NonLocal),
    "self-attention": partial(SelfAttention, hidden_channels=4, num_heads=1),
    "large kernel": partial(LargeKernel, hidden_channels=4, kernel_size=7, small_kernel_size=3),
    "none": partial(NoContext),
    **{c.__name__: partial(SpatialRNN, cell=partial(c), hidden_channels=4) for c in CELLS},
}
POOLS = {
    "RoIAlign": partial(RoIAlign, stages=("context",), output_size=3),
    "skip pooling": partial(SkipPool, sources=(Source(("c2",)), Source(("context",), 1.8, "channels")), output_size=3),
}
FAST = partial(FastRCNN, hidden_channels=8, batch_size_per_image=8)
HEADS = {
    "Fast R-CNN": {"head": FAST},
    "local and global": {
        "head": partial(
            LocalGlobal, fast_rcnn=FAST, global_pool=partial(CenterCell, stage="context"), global_channels=8
        ),
    },
    "sequence": {
        "head": partial(
            SequenceHead,
            embed=partial(Embed, features=8),
            decoder=partial(LSTMDecoder, hidden_size=4, num_steps=2),
            batch_size_per_image=8,
        )
    },
}


def train_and_predict(backbone, context, pool, head):
    torch.manual_seed(0)
    source = "p2" if backbone.func is FPN else "c3"
    parts = {"backbone": backbone, "context": context, "context_source": source, "pool": pool}
    parts["regions"] = partial(DETECTOR.regions, stages=(source,))
    detector = build_detector(dataclasses.replace(DETECTOR, **parts, **head), K, resize_in_training=False)
    images = [torch.rand(3, 48, 64), torch.rand(3, 40, 32)]
    targets = [
        {"boxes": torch.tensor([[4.0, 4, 30, 30], [30, 10, 60, 40]]), "labels": torch.tensor([1, 3])},
        {"boxes": torch.tensor([[5.0, 5, 20, 30]]), "labels": torch.tensor([2])},
    ]
    optimizer = torch.optim.SGD(detector.parameters(), 1e-3)
    before = [p.detach().clone() for p in detector.parameters()]
    losses = detector(images, targets)
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    optimizer.step()
    idle = [n for n, p in detector.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not idle, idle
    assert any(not torch.equal(a, b) for a, b in zip(before, detector.parameters(), strict=True))
    with torch.no_grad():
        found = detector.eval()(images)
    assert len(found) == 2 and all(f["boxes"].isfinite().all() for f in found)


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("every_head", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_every_context_on_every_small_backbone(backbone, context, every_head):
    heads = list(HEADS.values())
    if not every_head:  # each in its turn, so that every context and every backbone meets all of them
        heads = [heads[(list(BACKBONES).index(backbone) + list(CONTEXTS).index(context)) % len(heads)]]
    for pool, head in itertools.product(POOLS.values(), heads):
        train_and_predict(BACKBONES[backbone], CONTEXTS[context], pool, head)


@pytest.mark.parametrize("backbone", LARGE_BACKBONES)
@pytest.mark.parametrize("head", HEADS)
def test_every_head_on_the_large_backbones(backbone, head):
    pool = partial(RoIAlign, stages=("context",), output_size=3)
    head = HEADS[head]
    parts = {"backbone": LARGE_BACKBONES[backbone], "context": CONTEXTS["attention"], "context_source": "c5"}
    regions = partial(DETECTOR.regions, stages=("c5",))
    detector = build_detector(
        dataclasses.replace(DETECTOR, **parts, regions=regions, pool=pool, **head), K, resize_in_training=False
    )
    targets = [{"boxes": torch.tensor([[4.0, 4, 50, 50]]), "labels": torch.tensor([1])}]
    losses = detector([torch.rand(3, 64, 64)], targets)
    sum(losses.values()).backward()
    assert not [n for n, p in detector.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    with torch.no_grad():
        assert len(detector.eval()([torch.rand(3, 64, 64)])) == 1
