"""What every head must do, whatever it is: one table, one set of tests, in the detector that it belongs to."""

import dataclasses
from functools import partial

import pytest
import torch

from detection.cells import GRU, TiedLSTM
from detection.context import AttentionLSTM, SpatialRNN
from detection.contracts import PooledRegions
from detection.detector import build_detector
from detection.heads import FastRCNN, LocalGlobal, SequenceHead
from detection.heads.box_codes import PixelOffsets
from detection.heads.costs import SetCost
from detection.heads.lstm_decoder import LSTMDecoder
from detection.heads.sequence_head import Embed, MeetsWindow
from detection.heads.stitching import NMS, Stitch
from detection.pooling import CenterCell, RoIAlign, SkipPool, Source
from detection.regions import GridCells
from tests.tiny_runs import DETECTOR

K = 3
small = {"embed": partial(Embed, features=16), "decoder": partial(LSTMDecoder, hidden_size=8, num_steps=3)}
grid = {
    **small,
    "box_coder": partial(PixelOffsets, scale=10.0),
    "assigner": partial(MeetsWindow),
    "postprocess": partial(Stitch),
    "box_weight": 0.03,
    "batch_size_per_image": None,
    "add_ground_truth": False,
}
GRID = {"regions": partial(GridCells, window=16, stride=8), "pool": partial(CenterCell, stage="c3")}
decoder = partial(LSTMDecoder, hidden_size=8, num_steps=2)
tied = partial(LSTMDecoder, cell=partial(TiedLSTM, bias=False), hidden_size=8, init_range=0.1)
gru = partial(decoder, cell=partial(GRU), layers=2, shared_heads=True, dropout=0.0)
fast = partial(FastRCNN, hidden_channels=16, batch_size_per_image=16)
GLOBAL = {
    "context": partial(AttentionLSTM, hidden_channels=8, num_layers=2),
    "context_source": "c3",
    "pool": partial(SkipPool, sources=tuple(Source(("c3",), box_scale=s, norm="channels") for s in (0.8, 1.2, 1.8))),
}
CENTER = partial(CenterCell, stage="context")
TWICE = partial(RoIAlign, stages=("c2",), output_size=2, sampling_ratio=1)
HEADS = {
    "fast rcnn": {"head": partial(FastRCNN, hidden_channels=16, batch_size_per_image=16)},
    "local and global": {
        **GLOBAL,
        "head": partial(LocalGlobal, fast_rcnn=fast, global_pool=CENTER, global_channels=16),
    },
    "global": {
        **GLOBAL,
        "head": partial(LocalGlobal, fast_rcnn=fast, global_pool=CENTER, global_channels=16, local=False),
    },
    "local": {"head": partial(LocalGlobal, fast_rcnn=fast)},
    "sequence": {"head": partial(SequenceHead, **small)},
    "sequence, context and skip pooling": {
        "context": partial(SpatialRNN, hidden_channels=8),
        "context_source": "c3",
        "pool": partial(SkipPool, sources=(Source(("c2",)), Source(("context",), norm="channels")), output_size=3),
        "head": partial(SequenceHead, **small),
    },
    "sequence, first k, gru": {"head": partial(SequenceHead, **{**small, "decoder": gru}, strategy="first_k")},
    "sequence, fixed, nms": {"head": partial(SequenceHead, **small, strategy="fixed", postprocess=partial(NMS))},
    "sequence, set cost": {
        "head": partial(SequenceHead, **small, cost=partial(SetCost), giou_weight=2.0, early_stop=False)
    },
    "sequence, rezoom": {"head": partial(SequenceHead, **small, rezoom=TWICE, rezoom_features=8)},
    "reinspect": {**GRID, "head": partial(SequenceHead, **{**grid, "decoder": tied})},
    "reinspect, rezoom": {**GRID, "head": partial(SequenceHead, **grid, rezoom=TWICE)},
}


@pytest.fixture(params=list(HEADS))
def detector(request):
    """At random weights everywhere: some start at zero, which would hide mistakes."""
    torch.manual_seed(0)
    detector = build_detector(dataclasses.replace(DETECTOR, **HEADS[request.param]), K, resize_in_training=False)
    with torch.no_grad():
        for parameter in detector.head.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return detector


def batch():
    """Two images of different sizes, two of the first one's ground-truth boxes nearly the same."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(3, *size, generator=generator) for size in ((64, 96), (64, 70))]
    targets = [
        {
            "boxes": torch.tensor([[8.0, 8, 50, 50], [40, 20, 90, 60], [42, 20, 90, 60]]),
            "labels": torch.tensor([1, 2, 3]),
        },
        {"boxes": torch.tensor([[5.0, 10, 60, 50]]), "labels": torch.tensor([2])},
    ]
    return images, targets


def without_boxes(target):
    return {key: t[:0] for key, t in target.items()}


@pytest.mark.parametrize("annotated", ["all", "some", "none"])
def test_it_trains_whatever_the_ground_truth(detector, annotated):
    images, targets = batch()
    if annotated != "all":
        targets = [without_boxes(targets[0]), targets[1] if annotated == "some" else without_boxes(targets[1])]
    losses = detector(images, targets)
    assert {"loss_classifier", "loss_box_reg"} <= set(losses)
    assert all(loss.ndim == 0 and loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
    if annotated == "none":
        assert all(loss == 0 for name, loss in losses.items() if name.endswith("box_reg"))
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in detector.parameters())


def test_where_all_is_crowd_there_is_nothing_to_learn(detector):
    """A region over all proposals and anchors, without ground truth: losses are 0, not NaN, with gradients."""
    images, targets = batch()
    everywhere = torch.tensor([[-1e3, -1e3, 1e3, 1e3]])
    losses = detector(images, [{**without_boxes(target), "ignored": everywhere} for target in targets])
    assert all(loss == 0 for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in detector.parameters())
    losses = detector(images, [{**target, "ignored": everywhere} for target in targets])
    assert losses["loss_classifier"] > 0 and losses["loss_box_reg"] > 0


def test_a_few_steps_lower_the_loss(detector):
    images, targets = batch()
    optimizer, values = torch.optim.Adam(detector.parameters(), 3e-3), []
    for _ in range(40):
        torch.manual_seed(1)
        loss = sum(detector(images, targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < 0.7 * values[0]


@torch.no_grad()
def test_detections_are_sorted_inside_their_image_and_of_its_classes(detector):
    images, _ = batch()
    found = detector.eval()(images)
    assert [set(f) for f in found] == [{"boxes", "labels", "scores"}] * 2
    for image, f in zip(images, found, strict=True):
        height, width = image.shape[1:]
        assert 0 < len(f["boxes"]) == len(f["labels"]) == len(f["scores"]) <= 100
        assert (f["scores"].diff() <= 0).all() and (f["scores"] > 0.05).all()
        assert f["labels"].dtype == torch.int64 and set(f["labels"].tolist()) <= set(range(1, K + 1))
        assert (f["boxes"] >= 0).all() and (f["boxes"] <= torch.tensor([width, height] * 2)).all()
        assert (f["boxes"][:, 2:] > f["boxes"][:, :2]).all()


@torch.no_grad()
def test_an_image_alone_and_in_a_batch(detector):
    """The images have one size, as other parts of the detector see their padding."""
    images = [torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    detector.eval()
    together = detector(images)
    for image, expected in zip(images, together, strict=True):
        (found,) = detector([image])
        assert torch.equal(found["labels"], expected["labels"])
        torch.testing.assert_close(found["boxes"], expected["boxes"], rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(found["scores"], expected["scores"], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_no_regions_no_detections(detector):
    descriptors = torch.zeros(0, detector.pool.out_channels, *(detector.pool.output_size,) * 2)
    images, _ = batch()
    features = detector.extract_features(detector.transform([image / 255 for image in images])[0])
    regions = PooledRegions(descriptors, [torch.zeros(0, 4)] * 2, [(64, 96)] * 2, features)
    found, losses = detector.eval().head(regions)
    assert losses == {} and [len(f["boxes"]) for f in found] == [0, 0]


def test_mixed_precision_gives_losses_and_boxes_in_float32(detector):
    images, targets = batch()
    torch.manual_seed(0)
    exact = detector(images, targets)
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = detector(images, targets)
        found = detector.eval()(images)
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
    assert losses["loss_classifier"].item() == pytest.approx(exact["loss_classifier"].item(), rel=0.2)
    assert all(f["boxes"].dtype == f["scores"].dtype == torch.float32 for f in found)


@torch.no_grad()
def test_weights_go_out_and_in(detector, request):
    images, _ = batch()
    expected = detector.eval()(images)
    name = request.node.callspec.params["detector"]
    twin = build_detector(dataclasses.replace(DETECTOR, **HEADS[name]), K, resize_in_training=False).eval()
    twin.load_state_dict(detector.state_dict())
    assert all(torch.equal(a["boxes"], b["boxes"]) for a, b in zip(expected, twin(images), strict=True))
