"""What only a CUDA device can show; `pytest -m gpu`."""

import json

import pytest
import torch
from accelerate.state import AcceleratorState
from tiny_runs import DETECTOR, tiny_config

from detection.detector import build_detector, valid_mask
from detection.runs import build_accelerator, evaluate_run
from detection.training import train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture(autouse=True)
def _fresh_state():
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_a_run_trains_resumes_and_is_evaluated(shapes, tmp_path, precision):
    config = tiny_config(shapes, f"precision={precision}", "ema=0.9", "schedule.epochs=1")
    train(config, tmp_path / "run", build_accelerator(precision, "cuda"))
    AcceleratorState._reset_state(True)
    config = tiny_config(shapes, f"precision={precision}", "ema=0.9", "schedule.epochs=2")
    train(config, tmp_path / "run", build_accelerator(precision, "cuda"), resume=True)
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert {line["epoch"] for line in lines} == {0, 1}
    AcceleratorState._reset_state(True)
    assert evaluate_run(tmp_path / "run", output=tmp_path / "again", device="cuda")["images"] == 3


def test_detections_agree_with_the_cpu():
    torch.manual_seed(0)
    detector = build_detector(DETECTOR, 3).eval()
    images = [torch.rand(3, 64, 64), torch.rand(3, 50, 40)]
    with torch.no_grad():
        here = detector(images)
        there = detector.cuda()([image.cuda() for image in images])
    for a, b in zip(here, there, strict=True):
        # Equal up to the order of near-equal scores: the best detections agree.
        torch.testing.assert_close(a["scores"][:5], b["scores"][:5].cpu(), rtol=1e-3, atol=1e-4)


def test_valid_mask_stays_on_the_device():
    mask = valid_mask([(16, 17)], 8, torch.zeros(1, 1, 4, 4, device="cuda"))
    assert mask.is_cuda and mask.sum() == 6
