"""`deterministic=true`: operations without a repeatable form are a sentence, and settings come back."""

import json

import pytest
import torch
from accelerate import Accelerator

from detection.errors import UserError
from detection.training.determinism import deterministic
from detection.training.run import train
from tests.tiny_runs import tiny_config


def test_the_setting_is_that_of_the_run_alone():
    with deterministic(True):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert not torch.utils.deterministic.fill_uninitialized_memory
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory
    with deterministic(False):
        assert not torch.are_deterministic_algorithms_enabled()


def test_an_operation_without_a_repeatable_form_is_named():
    with (
        pytest.raises(UserError, match="deterministic=true: some_backward has no form that repeats"),
        deterministic(True),
    ):
        raise RuntimeError("some_backward does not have a deterministic implementation, but you set ...")
    assert not torch.are_deterministic_algorithms_enabled()
    with pytest.raises(RuntimeError, match="other"), deterministic(True):
        raise RuntimeError("other")


@pytest.mark.usefixtures("blank_plots")
def test_a_deterministic_run_trains_and_repeats(shapes, tmp_path):
    logs = []
    for name in ("one", "two"):
        train(tiny_config(shapes, "deterministic=true", "schedule.epochs=1"), tmp_path / name, Accelerator(cpu=True))
        lines = [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        logs.append([line["loss"] for line in lines if "loss" in line])
    assert logs[0] == logs[1] and len(logs[0]) == 4


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_deterministic_run_repeats_on_a_gpu(shapes, tmp_path):
    logs = []
    for name in ("one", "two"):
        train(tiny_config(shapes, "deterministic=true"), tmp_path / name, Accelerator())
        lines = [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        logs.append([line["loss"] for line in lines if "loss" in line])
    assert logs[0] == logs[1]
