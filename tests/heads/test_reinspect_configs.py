"""The shipped ReInspect trains as its authors' code does (Stewart et al. 2016)."""

from pathlib import Path

import pytest
import torch

from detection.cells import LSTM, TiedLSTM
from detection.config import base_config, override
from detection.detector import build_detector
from detection.heads import Lexicographic
from detection.training.optim import build_optimizer, learning_rates


@pytest.mark.parametrize("name", ["reinspect_crowd", "reinspect_googlenet"])
def test_the_head_and_the_rates_are_the_authors(name):
    config = base_config(name)
    detector = build_detector(config.detector, 1)
    head, decoder = detector.head, detector.head.decoder
    assert head.loss_weights["classifier_weight"] * decoder.num_steps == pytest.approx(1) and decoder.num_steps == 5
    assert not any("bias" in name for name, _ in decoder.cells.named_parameters())
    assert all(p.abs().max() <= 0.1 for p in decoder.parameters())
    assert isinstance(decoder.cells[0], TiedLSTM) and not decoder.cells[0].squash
    target = torch.tensor([[0.0, 0, 10, 10]])
    assert (head.cost.off_weight, head.cost.rank_weight, head.cost.distance_weight) == (100, 1, 1 / 2000)
    apart = torch.cat([target, target + torch.tensor([12.0, 0, 12, 0])])
    assert head.postprocess(apart, torch.tensor([0.9, 0.7]), torch.ones(2), torch.arange(2)).tolist() == [0]
    rates = learning_rates(build_optimizer(config.optimizer, detector, config.batch_size))
    assert rates["lr_backbone"] == pytest.approx(4 * rates["lr"])


def test_the_former_settings_of_the_results_build():
    page = (Path(__file__).parents[2] / "docs/results/reinspect.md").read_text()
    block = page.split("in place of `FORMER`:\n\n")[1].split("\n\n")[0]
    config = override(base_config("reinspect_crowd"), block.split())
    head = build_detector(config.detector, 1).head
    assert head.postprocess.center_offset == 1.0 and isinstance(head.decoder.cells[0], LSTM)
    assert type(head.cost) is Lexicographic and config.optimizer.lr_multipliers == {}
