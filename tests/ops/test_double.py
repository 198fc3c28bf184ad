"""Devices without float64, as the GPUs of Macs are: none is here, so the CPU is taken for one that refuses it."""

import dataclasses
from functools import partial

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from detection.detector import build_detector
from detection.heads import SequenceHead, SetNMS, hungarian
from detection.heads.region_targets import RegionTargets
from detection.inference import InferenceConfig
from detection.ops import double
from detection.ops.ragged import to_device
from tests.heads.matching_cases import COSTS, random_case
from tests.heads.test_contract import HEADS, small
from tests.tiny_runs import DETECTOR

DETECTORS = {
    **HEADS,
    "sequence, emd": {"head": partial(SequenceHead, **small, strategy="emd", postprocess=partial(SetNMS))},
    "sequence, by iou": {"head": partial(SequenceHead, **small, strategy="by_iou")},
    "fast rcnn, voting": {"inference": InferenceConfig(flip=True, voting_iou=0.5)},
}


class NoFloat64(TorchDispatchMode):
    """Refuse every operation that reads or writes float64, as torch does on such a device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if any(isinstance(t, torch.Tensor) and t.dtype == torch.float64 for t in tree_leaves((args, kwargs, out))):
            raise TypeError(f"{func}: the device has no float64")
        return out


@pytest.fixture
def without_float64(monkeypatch):
    monkeypatch.setattr(double, "WITHOUT_FLOAT64", {"cpu"})
    hungarian._permutations.cache_clear()
    yield
    hungarian._permutations.cache_clear()


@pytest.mark.parametrize("name", DETECTORS)
def test_detectors_train_and_detect_without_float64(name, without_float64):
    torch.manual_seed(0)
    detector = build_detector(dataclasses.replace(DETECTOR, **DETECTORS[name]), 3)
    images = [torch.rand(3, 64, 64), torch.rand(3, 50, 70)]
    targets = [
        {"boxes": torch.tensor([[8.0, 8, 30, 40], [9, 9, 33, 41]]), "labels": torch.tensor([1, 3])},
        {"boxes": torch.tensor([[20.0, 10, 60, 45]]), "labels": torch.tensor([2])},
    ]
    with NoFloat64():
        losses = detector(images, targets)
        sum(losses.values()).backward()
        detector.eval()(images)
    assert all(loss.isfinite() for loss in losses.values())


@pytest.mark.parametrize("cost", COSTS, ids=repr)
def test_matching_is_as_cheap_as_in_float64(cost, monkeypatch):
    boxes, codes, logits, targets = random_case(0, regions=200)
    exact = cost.cost(boxes, codes, logits, targets)
    expected = hungarian.match(exact, targets)
    monkeypatch.setattr(double, "WITHOUT_FLOAT64", {"cpu"})
    hungarian._permutations.cache_clear()
    narrow = RegionTargets(targets.boxes.float(), targets.codes.float(), targets.labels, targets.valid)
    case = boxes.float(), codes.float(), logits.float(), narrow
    with NoFloat64():
        found = hungarian.match(cost.cost(*case), narrow)
    hungarian._permutations.cache_clear()

    def total(matched):
        return (exact.gather(2, matched.clamp(min=0)[..., None])[..., 0] * (matched >= 0)).sum(1)

    # Of matchings whose L1 distances have equal sums, rounding chooses one.
    torch.testing.assert_close(total(found), total(expected), rtol=1e-6, atol=2e-5)


def test_numbers_of_the_host_reach_it_in_float32(without_float64):
    assert to_device(np.array([0.5]), torch.device("cpu")).dtype == torch.float32
    assert to_device(np.array([1]), torch.device("cpu")).dtype == torch.int64
