"""Compiled backbone and context: equal losses, names and runs; graphs are counted."""

import json
import re

import pytest
import torch
from accelerate import Accelerator

from detection.benchmarks.dispatch import noise_batch, small_detector
from detection.config import validate
from detection.errors import UserError
from detection.training import run as run_module
from detection.training.compiling import compile_parts
from detection.training.run import train
from tests.tiny_runs import tiny_config


@pytest.fixture(autouse=True)
def _own_graphs():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def losses_and_gradients(detector, batch):
    torch.manual_seed(3)
    losses = detector(*batch)
    torch.stack(list(losses.values())).sum().backward()
    return losses, {n: p.grad for n, p in detector.named_parameters()}


@pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=pytest.mark.slow)])
def test_losses_and_gradients_are_equal_and_graphs_are_counted(backend):
    batch = noise_batch(2, "cpu")
    expected = losses_and_gradients(small_detector("cpu"), batch)
    detector = small_detector("cpu")
    counted = compile_parts(detector, backend)
    found = losses_and_gradients(detector, batch)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours:
            torch.testing.assert_close(ours[name], theirs[name])
    first = counted.graphs
    assert first >= 2  # the backbone's and the context's
    losses_and_gradients(detector, batch)
    assert counted.graphs == first
    with torch.no_grad():
        detector.eval()(batch[0])
    assert counted.graphs > first


@pytest.mark.usefixtures("blank_plots")
def test_a_compiled_run_equals_a_plain_one(shapes, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run_module, "compile_parts", lambda detector: compile_parts(detector, "eager"))
    for name, settings in (("plain", ()), ("compiled", ("compile=true",))):
        train(tiny_config(shapes, *settings), tmp_path / name, Accelerator(cpu=True))
    lines = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("plain", "compiled")]
    plain, compiled = ([loss for line in one if (loss := json.loads(line).get("loss"))] for one in lines)
    assert plain == pytest.approx(compiled, rel=1e-4)
    assert re.search(r"^compile   \d+ graphs in epoch 1, \d+ in all$", capsys.readouterr().out, re.M)


def test_a_checkpointed_backbone_is_not_compiled(shapes):
    with pytest.raises(UserError, match="compile=true and checkpoint_backbone=true do not go together"):
        validate(tiny_config(shapes, "compile=true", "checkpoint_backbone=true"))
