"""Channels last from the weights on: no layer up to the pool returns maps in another layout."""

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils._pytree import tree_leaves

from detection.benchmarks.dispatch import noise_batch
from detection.config import load_config
from detection.config.files import find_config
from detection.detector import build_detector
from detection.runs.folder import open_run
from detection.training.run import prepare
from tests.tiny_runs import tiny_config


def is_channels_last(tensor):
    return tensor.is_contiguous(memory_format=torch.channels_last)


def tensors(value):
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]


@pytest.mark.parametrize("name", ["quickstart", "finetune", "ion_lite0_finetune"])
def test_maps_stay_channels_last(name):
    torch.manual_seed(0)
    detector = build_detector(load_config(find_config(name)).detector, 3, resize_in_training=False).train()
    detector.to(memory_format=torch.channels_last)
    other, seen = [], []

    def look(module_name):
        def hook(module, inputs, output):
            for map_ in tensors(output):
                if map_.ndim == 4 and map_.shape[1] > 1 and map_.shape[2:].numel() > 1:
                    (seen if is_channels_last(map_) else other).append(module_name)

        return hook

    for module_name, module in detector.named_modules():
        if module_name.startswith(("backbone", "context", "regions")):
            module.register_forward_hook(look(module_name))
    detector(*noise_batch(2, "cpu"))
    assert other == [] and len(seen) > 10


@pytest.mark.usefixtures("blank_plots")
def test_runs_are_trained_and_opened_so(shapes, tmp_path, finished_run):
    trained = prepare(tiny_config(shapes), tmp_path / "run", Accelerator(cpu=True), False).model
    opened, *_ = open_run(finished_run)
    for detector in (trained, opened):
        convolutions = [m.weight for m in detector.modules() if isinstance(m, nn.Conv2d)]
        assert convolutions and all(map(is_channels_last, convolutions))
