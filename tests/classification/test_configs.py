"""Every file of configs/classifiers: it says how to run it, it is the network of its name, and it trains a step."""

import ast
import re
from pathlib import Path

import pytest
import torch

from detection.analysis.complexity import count_parameters
from detection.classification.augment import NUMBERS, augment
from detection.classification.config import load_classifier_config, override_classifier
from detection.classification.data import middle
from detection.context.local_response_norm import LocalResponseNorm

ROOT = Path(__file__).parents[2]
FILES = {path.stem: path for path in sorted((ROOT / "configs" / "classifiers").glob("*.py"))}
SIDES = {"MNIST": 28, "CIFAR10": 32, "SVHN_extra": 32, "digits": 8}


@pytest.mark.parametrize("name", FILES)
def test_a_config_states_how_to_run_it(name):
    text = ast.get_docstring(ast.parse(FILES[name].read_text())) or ""
    assert f"detection train_classifier {name}" in text


@pytest.mark.parametrize("name", FILES)
def test_a_config_is_the_papers_network_of_its_name(name):
    k = int(re.match(r"rcnn(\d+)_", name)[1])
    network = load_classifier_config(FILES[name]).network(10)
    assert count_parameters(network) == 25 * 3 * k + k + 4 * (18 * k**2 + k) + 10 * k + 10
    assert {block.layer1.num_steps for block in network.backbone.blocks.values()} == {3}
    assert sum(isinstance(m, LocalResponseNorm) for m in network.modules()) == 4


@pytest.mark.parametrize("name", FILES)
def test_a_config_trains_a_step_on_images_of_its_size(name):
    config = override_classifier(load_classifier_config(FILES[name]), ["network.backbone.channels=(8, 8)"])
    side = config.data.size or SIDES[config.data.kind]
    assert (side - (config.data.crop or side)) % 2 == 0
    network, images = config.network(10), torch.rand(2, 3, side, side)
    if config.data.augmentation is None:
        images = middle(images, config.data.crop)
    else:
        images = augment(images, config.data.augmentation, torch.rand(2, NUMBERS), config.data.crop)
    assert images.shape[-1] == (config.data.crop or side)
    assert images.shape[-1] % max(network.backbone.strides.values()) == 0
    network(images, [{"label": 3}, {"label": 4}])["loss_class"].backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())
