import pytest
import torch
from accelerate import Accelerator

from detection.detector import build_detector
from detection.errors import UserError
from detection.training.freezing import freeze
from detection.training.run import train
from tests.tiny_runs import DETECTOR, tiny_config


@pytest.fixture
def detector():
    return build_detector(DETECTOR, 3)


def test_stages_are_frozen_and_let_go_by_epoch(detector):
    plan = {"stem": None, "c2": 1, "head": 2}
    assert freeze(detector, plan, 0) == ("stem", "c2", "head")
    assert not any(p.requires_grad for p in detector.head.parameters())
    assert freeze(detector, plan, 1) == ("stem", "head")
    assert all(p.requires_grad for p in detector.backbone.blocks["c2"].parameters())
    assert freeze(detector, plan, 2) == ("stem",)
    frozen = {n for n, p in detector.named_parameters() if not p.requires_grad}
    assert frozen == {n for n, _ in detector.named_parameters() if n.startswith("backbone.stem.")}


def test_what_a_part_has_fixed_is_never_trained(detector):
    fixed = detector.backbone.blocks["c2"]
    for parameter in fixed.parameters():
        parameter.requires_grad_(False)
    for epoch in range(3):
        freeze(detector, {"c2": 1, "head": 2}, epoch)
        assert not any(p.requires_grad for p in fixed.parameters())
    assert all(p.requires_grad for p in detector.head.parameters())


def test_frozen_norms_take_in_no_statistics(detector):
    freeze(detector, {"stem": None}, 0)
    before = {n: b.clone() for n, b in detector.named_buffers() if "running_mean" in n}
    detector.backbone(torch.rand(2, 3, 64, 64))
    changed = {n for n, b in detector.named_buffers() if n in before and not torch.equal(b, before[n])}
    assert changed and not any(n.startswith("backbone.stem") for n in changed)


def test_an_unknown_name_gets_the_nearest(detector):
    with pytest.raises(UserError, match=r"freeze.backbon: .*did you mean 'backbone'\?"):
        freeze(detector, {"backbon": None}, 0)


def test_something_is_trained_in_every_epoch(detector, shapes, tmp_path):
    with pytest.raises(UserError, match="^freeze: no parameter is trained in epoch 2; leave out one of backbone, regi"):
        freeze(detector, {"backbone": None, "regions": 2, "head": None}, 1)
    freeze(detector, {"backbone": None, "regions": 2, "head": None}, 2)
    with pytest.raises(UserError, match="^freeze: no parameter is trained in epoch 1"):
        config = tiny_config(shapes, *(f"freeze.{part}=none" for part in ("backbone", "regions", "head")))
        train(config, tmp_path / "run", Accelerator(cpu=True))
    assert not (tmp_path / "run").exists()
