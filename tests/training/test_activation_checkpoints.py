"""Checkpointed backbones: equal gradients and batch statistics, less memory."""

import copy
from functools import partial

import pytest
import torch
from accelerate import Accelerator

from detection.backbones import FPN, VGG16, Backbone, RecurrentStages, ResNet, Timm, Tiny
from detection.cells import GRU, LSTM
from detection.context import RecurrentConv, SpatialRNN
from detection.errors import UserError
from detection.training import run as run_module
from detection.training.activation_checkpoints import checkpoint_stages
from detection.training.freezing import freeze
from detection.training.run import train
from tests.tiny_runs import tiny_config

WITH_LAYERS = partial(RecurrentStages, partial(Tiny, channels=(8, 16)), recurrent_stages=("c3",))
BACKBONES = {
    "tiny": partial(Tiny, channels=(8, 16)),
    "sweeps of LSTMs": partial(WITH_LAYERS, layer=partial(SpatialRNN, cell=partial(LSTM), hidden_channels=16)),
    "sweeps of GRUs": partial(WITH_LAYERS, layer=partial(SpatialRNN, cell=partial(GRU), hidden_channels=16)),
    "gated RCL": partial(WITH_LAYERS, layer=partial(RecurrentConv, norm="batch", gated=True)),
    "timm": partial(Timm, "tf_efficientnet_lite0", weights=None),
    "timm, whole stages": partial(Timm, "convnext_atto", weights=None),
    "VGG": partial(VGG16, weights=None, batch_norm=True),
    "pyramid of VGG": partial(FPN, partial(VGG16, weights=None), stages=("c3", "c4"), out_channels=16),
    "RCL after stages of VGG": partial(
        RecurrentStages, partial(VGG16, weights=None, batch_norm=True), layer=partial(RecurrentConv, norm="batch")
    ),
    "pyramid": partial(FPN, partial(ResNet, depth=18, weights=None), out_channels=16, norm="batch"),
}


def step(backbone, images):
    """Gradients and statistics after a step, and the bytes that were kept for the backward pass."""
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        total = sum(f.square().mean() for f in backbone(images).values())
    total.backward()
    gradients = {n: p.grad for n, p in backbone.named_parameters() if p.grad is not None}
    return gradients, dict(backbone.named_buffers()), sum(kept.values())


@pytest.mark.parametrize("build", BACKBONES.values(), ids=list(BACKBONES))
def test_gradients_and_statistics_are_equal_and_less_is_kept(build):
    torch.manual_seed(0)
    plain = build().train()
    checkpointed = copy.deepcopy(plain)
    checkpoint_stages(checkpointed)
    images = torch.randn(2, 3, 64, 64)
    gradients, buffers, kept = step(plain, images)
    found, found_buffers, found_kept = step(checkpointed, images)
    assert gradients.keys() == found.keys() and all(torch.equal(gradients[n], found[n]) for n in found)
    assert all(torch.equal(buffers[n], found_buffers[n]) for n in buffers)
    assert found_kept < 0.7 * kept
    norms = [m for m in checkpointed.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert all(m.momentum == 0.1 and m.num_batches_tracked == 1 for m in norms)
    assert plain.state_dict().keys() == checkpointed.state_dict().keys()


class SingleLayers(Backbone):
    """A backbone from outside whose stage is one layer."""

    def __init__(self):
        super().__init__()
        self.out_channels, self.strides = {"c2": 8}, {"c2": 4}
        self.layer = torch.nn.Conv2d(3, 8, 4, 4)

    def forward(self, images):
        return {"c2": self.layer(images)}

    def stages(self):
        return {"stem": [], "c2": [self.layer]}


def test_a_backbone_of_which_nothing_is_computed_again_is_refused():
    with pytest.raises(UserError, match="checkpoint_backbone=true: SingleLayers has no blocks .*; leave it out"):
        checkpoint_stages(SingleLayers())


def test_a_frozen_stage_keeps_its_statistics():
    backbone = Tiny(channels=(8, 16))
    checkpoint_stages(backbone)
    model = torch.nn.Module()
    model.backbone = backbone
    freeze(model, {"c2": None}, 0)
    before = copy.deepcopy(dict(backbone.blocks["c2"].named_buffers()))
    _, buffers, _ = step(backbone, torch.randn(2, 3, 32, 32))
    assert all(torch.equal(before[n], buffers[f"blocks.c2.{n}"]) for n in before)


@pytest.mark.usefixtures("blank_plots")
def test_a_checkpointed_run_equals_a_plain_one(shapes, tmp_path, monkeypatch):
    checkpointed = []
    monkeypatch.setattr(run_module, "checkpoint_stages", lambda b: checkpointed.append(b) or checkpoint_stages(b))
    for name, settings in (("plain", ()), ("checkpointed", ("checkpoint_backbone=true",))):
        train(tiny_config(shapes, "ema=0.9", "schedule.epochs=1", *settings), tmp_path / name, Accelerator(cpu=True))
    plain, found = ((tmp_path / n / "results.json").read_text() for n in ("plain", "checkpointed"))
    assert plain == found and len(checkpointed) == 1
