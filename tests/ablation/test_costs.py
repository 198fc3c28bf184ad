"""MeasuredCosts: each architecture once, in turns, and none that cannot be measured is made up."""

import dataclasses
import json
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pytest
import torch

from detection.ablation import Ablation, Question
from detection.ablation.costs import (
    ArchitectureCost,
    MeasuredCosts,
    all_measured,
    architectures,
    machine_name,
    measure_costs,
    read_costs,
)
from detection.ablation.detectors import DETECTORS
from detection.ablation.launch import session
from detection.ablation.plan import make_plan
from detection.ablation.request import Request
from detection.ablation.workload import Workload
from detection.atomic_write import write_json
from detection.errors import UserError
from tests.ablation.coins import COINS
from tests.tiny_runs import tiny_config

nothing = partial(int)


@pytest.fixture
def plan(tmp_path):
    """Three variants of two architectures."""
    (tmp_path / "base.py").write_text("from tests.ablation.coins import CoinConfig\n\nconfig = CoinConfig()\n")
    variants = {"a": [], "b": ["p=0.9"], "c": ["width=12"]}
    ablation = Ablation(base="base.py", variants=variants, seeds=(0, 1), run_type=COINS)
    return make_plan("coins", ablation, tmp_path / "base.py", tmp_path / "out")


@pytest.mark.parametrize("machine", [machine_name(), "another, 64 thread(s)"])
@pytest.mark.parametrize("asks", [True, False])
def test_a_question_takes_costs_of_its_machine_alone(plan, machine, asks, tmp_path, monkeypatch):
    question = Question("b") if asks else None
    plan = dataclasses.replace(plan, ablation=dataclasses.replace(plan.ablation, question=question))
    request = Request(tmp_path / "base.py", tmp_path)
    found = dict.fromkeys(architectures(plan), ArchitectureCost(1, 1, 1.0, 1.0, 1, 1))
    write_json(tmp_path / "costs.json", asdict(MeasuredCosts(machine, 5, found, {})))
    measured, started = [], []
    here = MeasuredCosts(machine_name(), 5, found, {})
    monkeypatch.setattr(session, "measure_costs", lambda *_: measured.append(1) or here)
    monkeypatch.setattr(session, "run_all", lambda commands, *_: started.append(commands))
    session.launch_cost_measurement(request, plan, None)
    assert not started  # after the runs any will do
    session.launch_cost_measurement(request, plan, None, any_machine=False)
    session.measure_costs_here(request, plan)
    assert len(started) == 1 and bool(measured) == (not asks or machine != machine_name())


def test_each_architecture_is_measured_once(plan, monkeypatch):
    built = []
    work = COINS.workload
    monkeypatch.setattr(COINS, "workload", lambda config: built.append(config.width) or work(config))
    costs = measure_costs(plan, 1, nothing, lambda function: 7)
    assert built == [8, 12] and len(architectures(plan)) == 2
    found = {cost.parameters: cost for cost in costs.architectures.values()}
    assert set(found) == {96, 144} and found[96].train_bytes == 7
    assert 0.008 <= found[96].train_step_s < found[144].train_step_s + 0.02


def test_what_cannot_be_measured_is_a_failure_and_not_a_number(plan, monkeypatch, tmp_path):
    def workload(config):
        if config.width == 8:
            raise UserError("no data.")
        return Workload(1, 2, nothing, nothing)

    monkeypatch.setattr(COINS, "workload", workload)
    costs = measure_costs(plan, 1, nothing, lambda function: 7)
    assert list(costs.failures.values()) == ["no data."] and len(costs.architectures) == 1
    assert not all_measured(costs, plan) and not all_measured(None, plan)
    write_json(tmp_path / "costs.json", asdict(costs))
    assert read_costs(tmp_path / "costs.json") == costs


def test_an_error_without_a_text_is_a_failure_by_its_name(plan, monkeypatch):
    def workload(config):
        if config.width == 8:
            raise NotImplementedError
        return Workload(1, 2, nothing, nothing)

    monkeypatch.setattr(COINS, "workload", workload)
    costs = measure_costs(plan, 1, nothing, lambda function: 7)
    assert list(costs.failures.values()) == ["NotImplementedError"] and len(costs.architectures) == 1


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"architectures": []}', json.dumps({"architectures": {"a": {"parameters": 1}}})]
)
def test_costs_that_cannot_be_read_are_none(tmp_path, text):
    (tmp_path / "costs.json").write_text(text)
    assert read_costs(tmp_path / "costs.json") is None


@pytest.mark.parametrize("change", ["optimizer.kind=sgd", "optimizer.kind=adamw"])
def test_a_detector_at_work_stays_as_it_is(shapes, change):
    """It trains, as the batches that its norms have seen show; and yet its weights hardly move."""
    config = tiny_config(Path(shapes), change)
    work = DETECTORS.workload(config)
    detector = detector_of(work)
    before = {name: p.detach().clone() for name, p in detector.named_parameters()}
    for _ in range(3):
        work.train_step()
        work.infer()
    assert all((p - before[name]).abs().max() < 1e-6 for name, p in detector.named_parameters())
    seen = {int(buffer) for name, buffer in detector.named_buffers() if name.endswith("num_batches_tracked")}
    assert seen == {3}
    assert work.parameters == sum(map(torch.numel, before.values())) and work.flops > 2e6


def detector_of(work):
    """The detector that is at work."""
    cells = [cell.cell_contents for cell in work.infer.__closure__]
    return next(content for content in cells if isinstance(content, torch.nn.Module))


def test_a_detector_is_measured_in_the_memory_format_that_it_trains_in(shapes):
    weights = [p for p in detector_of(DETECTORS.workload(tiny_config(Path(shapes)))).parameters() if p.dim() == 4]
    assert weights and all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)


def test_a_checkpointed_backbone_costs_what_it_does_in_a_training(shapes):
    plain, saving = (tiny_config(Path(shapes), f"checkpoint_backbone={on}") for on in ("false", "true"))
    assert DETECTORS.architecture(plain) != DETECTORS.architecture(saving)
    work = DETECTORS.workload(saving)
    stages = [module for modules in detector_of(work).backbone.stages().values() for module in modules]
    assert any(isinstance(module.forward, partial) for module in stages)
    work.train_step()
    work.infer()
    assert work.flops == DETECTORS.workload(plain).flops


def test_a_detector_without_its_data_cannot_be_measured(tmp_path):
    with pytest.raises(UserError, match="no such folder|cannot read"):
        DETECTORS.workload(tiny_config(tmp_path / "none"))
