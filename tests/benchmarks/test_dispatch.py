"""The number of operations of a forward pass, in training and at inference, does not grow with the batch."""

import dataclasses
from functools import partial

import pytest
import torch

from detection.benchmarks import dispatch
from detection.benchmarks.dispatch import noise_batch, operations, small_detector, training_step, waits
from detection.detector import build_detector
from detection.heads import SequenceHead
from detection.pooling import CenterCell, SkipPool, Source
from detection.regions import GridCells
from tests.tiny_runs import DETECTOR


def counts(detector, **changes):
    few, many = (noise_batch(count, "cpu") for count in (2, 32))
    for batch in (few, many):
        for number, target in enumerate(batch[1]):
            target.update({key: change(number, target) for key, change in changes.items()})
    return [operations(lambda batch=batch: detector(*batch)).total() for batch in (few, many)]


@pytest.mark.parametrize(("name", "most"), [("ion_beacon", 1500), ("quickstart", 3000)])
def test_operations_of_small_detectors(name, most):
    """An LSTM takes its steps one after another on a CPU."""
    few, many = counts(small_detector("cpu", name))
    assert many - 5 * 30 <= 1.2 * few and many <= most


@pytest.mark.parametrize("threshold", [0.05, 0.3])
def test_operations_at_inference(threshold):
    """NMS of the proposals takes five an image, that of the classes twelve."""
    detector = small_detector("cpu").eval()
    detector.head.roi_heads.score_thresh = threshold
    with torch.no_grad():
        few, many = counts(detector)
    assert many - 17 * 30 <= 1.2 * few and many <= 1500


def test_operations_with_crowd_regions_and_images_of_no_boxes():
    crowd = torch.tensor([[0.0, 0, 30, 40], [5, 5, 9, 9]])
    empty = {"boxes": lambda i, t: t["boxes"][: 4 * (i % 2)], "labels": lambda i, t: t["labels"][: 4 * (i % 2)]}
    few, many = counts(small_detector("cpu"), ignored=lambda i, t: crowd[: i % 3], **empty)
    assert many - 5 * 30 <= 1.2 * few and many <= 1500


def test_operations_of_images_of_different_sizes():
    """Copying them takes two an image, their segmentation too, and NMS two."""
    found = []
    for count in (2, 32):
        images, targets = noise_batch(count, "cpu")
        images = [image[:, : 96 - 3 * (i % 2), : 96 - i % 5] for i, image in enumerate(images)]
        for image, target in zip(images, targets, strict=True):
            target["semantic"] = target["semantic"][: image.shape[1], : image.shape[2]]
        detector = small_detector("cpu")
        found.append(operations(lambda d=detector, i=images, t=targets: d(i, t)).total())
    assert found[1] - 6 * 30 <= 1.2 * found[0] and found[1] <= 1500


CELL = partial(CenterCell, stage="c2")


@pytest.mark.parametrize(
    "parts",
    [
        {"head": partial(SequenceHead)},
        {"head": partial(SequenceHead), "regions": partial(GridCells, window=16, stride=8)},
        {
            "head": partial(SequenceHead, rezoom=partial(CenterCell, stage="c2")),
            "pool": partial(CenterCell, stage="c3"),
        },
        {"pool": partial(SkipPool, sources=(Source(("c2",), 0.8), Source(("c3",), 1.8, "channels")))},
    ],
)
def test_operations_of_other_parts(parts):
    detector = build_detector(dataclasses.replace(DETECTOR, **parts), 3, resize_in_training=False).train()
    few, many = counts(detector)
    assert many - 5 * 30 <= 1.2 * few and many <= 1500


def test_operations_inside_of_our_own_operators_count(monkeypatch):
    @torch.library.custom_op("detection_tests::twice", mutates_args=())
    def twice(x: torch.Tensor) -> torch.Tensor:
        return x.clone().add(x)

    x = torch.rand(3, 4)
    assert operations(lambda: twice(x) @ x.mT) == {"aten::clone": 1, "aten::add": 1, "aten::mT": 1, "aten::matmul": 1}
    monkeypatch.setattr(dispatch, "ROUNDS", 1)
    found = dispatch.benchmark_dispatch("cpu")
    assert found["of these NMS, 32 images"] == 32 and found["time an image, 32 / 2 images"] > 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ["ion_beacon", "quickstart"])
@pytest.mark.parametrize("sizes", ["equal", "different"])
def test_a_step_waits_at_most_four_times(sizes, name):
    detector = small_detector("cuda", name)
    images, targets = noise_batch(8, "cuda")
    if sizes == "different":
        images = [image[:, : 96 - 3 * (i % 2)] for i, image in enumerate(images)]
        for image, target in zip(images, targets, strict=True):
            target["semantic"] = target["semantic"][: image.shape[1]]
    assert waits(lambda: training_step(detector, (images, targets))) <= 4
