"""Batches on the device, and the time that is waited for them."""

import time

import pytest
import torch

from detection.training.device_batches import DeviceBatches
from detection.training.workers import waiting_note


def batch(number, device="cpu"):
    image = torch.full((3, 4, 4), number, dtype=torch.uint8)
    return [image], [{"boxes": torch.full((1, 4), float(number)), "image_id": number}]


def slow(number, seconds):
    for n in range(number):
        time.sleep(seconds if n else 0.3)
        yield batch(n)


def test_the_wait_is_measured_from_the_second_batch_on():
    batches = DeviceBatches(slow(3, 0.02), torch.device("cpu"))
    seen = []
    for images, targets in batches:
        seen.append((int(images[0][0, 0, 0]), targets[0]["image_id"]))
        time.sleep(0.05)  # a step, which is no waiting
    assert seen == [(0, 0), (1, 1), (2, 2)]
    assert 0.04 <= batches.waited < 0.3


def test_a_pass_can_be_repeated():
    batches = DeviceBatches([batch(0), batch(1)], torch.device("cpu"))
    assert len(batches) == len(list(batches)) == len(list(batches)) == 2


def test_waiting_is_reported_with_what_helps(monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setenv("DETECTION_CORES", "9")
    assert waiting_note(0.19, 0) == ""
    assert waiting_note(0.61, 4) == "waiting for data 61% of the time: data.workers=8"
    assert waiting_note(0.61, 6) == "waiting for data 61% of the time: data.workers=8"
    assert waiting_note(0.3, 0) == "waiting for data 30% of the time: data.workers=2"
    assert "data.workers=8, and no core is left for more" in waiting_note(0.5, 8)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_are_copied_while_the_step_before_computes():
    device = torch.device("cuda")
    pinned = [([i.pin_memory() for i in images], targets) for images, targets in map(batch, range(50))]
    for n, (images, targets) in enumerate(DeviceBatches(pinned, device)):
        assert images[0].is_cuda and targets[0]["boxes"].is_cuda
        assert (images[0] == n).all() and (targets[0]["boxes"] == n).all() and targets[0]["image_id"] == n
