import itertools
import math
from functools import partial

import pytest
import torch
from torch import nn

from detection.backbones import FPN, VGG16, RecurrentStages, ResNet, Tiny
from detection.cells import CELLS
from detection.config import OptimizerConfig, ScheduleConfig
from detection.errors import UserError
from detection.heads.lstm_decoder import LSTMDecoder
from detection.training.optim import (
    WeightAverage,
    build_optimizer,
    build_scheduler,
    group_lines,
    learning_rate_factor,
    learning_rates,
    load_optimizer,
    scaled_learning_rate,
)


def test_learning_rate_is_scaled_to_the_real_batch():
    assert scaled_learning_rate(OptimizerConfig(kind="sgd", lr=0.02, reference_batch=16), 4) == pytest.approx(0.005)
    assert scaled_learning_rate(OptimizerConfig(kind="adamw", lr=0.02, reference_batch=16), 4) == pytest.approx(0.01)


def test_step_schedule_by_hand():
    config = ScheduleConfig(kind="step", milestones=(0.5, 0.9), gamma=0.1, warmup=2, warmup_start=0.2)
    factors = [learning_rate_factor(config, u, 20) for u in range(20)]
    assert factors[:3] == pytest.approx([0.2, 0.6, 1.0])
    assert factors[9:11] == pytest.approx([1.0, 0.1])
    assert factors[17:19] == pytest.approx([0.1, 0.01])


@pytest.mark.parametrize("milestone", [0.667, 0.666])
def test_a_milestone_is_rounded_to_the_nearest_update(milestone):
    """2.001 and 1.998 of 3 updates are 2."""
    config = ScheduleConfig(kind="step", milestones=(milestone,), gamma=0.1, warmup=0)
    assert [learning_rate_factor(config, update, 3) for update in range(3)] == pytest.approx([1.0, 1.0, 0.1])


def test_cosine_schedule_by_hand():
    config = ScheduleConfig(kind="cosine", warmup=0)
    assert learning_rate_factor(config, 0, 8) == 1.0
    assert learning_rate_factor(config, 4, 8) == pytest.approx(0.5)
    assert learning_rate_factor(config, 8, 8) == pytest.approx(0.0)
    assert learning_rate_factor(config, 12, 8) == pytest.approx(0.0)


def test_exponential_schedule_by_hand():
    """From 1 to 1/16 in 8 updates: by half every second one, and a warm-up on top."""
    config = ScheduleConfig(kind="exponential", gamma=1 / 16, warmup=0)
    factors = [learning_rate_factor(config, u, 8) for u in range(9)]
    assert factors[::2] == pytest.approx([1, 1 / 2, 1 / 4, 1 / 8, 1 / 16])
    assert [b / a for a, b in itertools.pairwise(factors)] == pytest.approx([2**-0.5] * 8)
    config = ScheduleConfig(kind="exponential", gamma=0.01, warmup=2, warmup_start=0.5, milestones=(0.5,))
    assert [learning_rate_factor(config, u, 20) for u in (0, 1, 10, 20)] == pytest.approx(
        [0.5, 0.75 * 0.01 ** (1 / 20), 0.1, 0.01]
    )


def test_warm_up_never_takes_more_than_a_tenth():
    config = ScheduleConfig(kind="constant", warmup=500)
    assert learning_rate_factor(config, 10, 100) == 1.0
    assert learning_rate_factor(config, 9, 100) < 1.0


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_norms_and_biases_have_their_own_decay(kind):
    module = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    config = OptimizerConfig(kind=kind, weight_decay=0.3, norm_weight_decay=0.0)
    optimizer = build_optimizer(config, module, 16)
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert decay[id(module[0].weight)] == 0.3
    assert decay[id(module[0].bias)] == decay[id(module[1].weight)] == 0.0
    assert len(decay) == 4


def test_sgd_has_momentum():
    """Under equal gradients the second step is (1 + momentum) times as long as the first."""
    module, lengths = nn.Linear(1, 1, bias=False), []
    optimizer = build_optimizer(OptimizerConfig(kind="sgd", momentum=0.7, weight_decay=0.0), module, 16)
    module.weight.grad = torch.ones(1, 1)
    for _ in range(2):
        before = module.weight.item()
        optimizer.step()
        lengths.append(before - module.weight.item())
    assert lengths[1] == pytest.approx(1.7 * lengths[0], rel=1e-4) and lengths[0] > 0


def decayed(module):
    """Names of the parameters that get `weight_decay`."""
    optimizer = build_optimizer(OptimizerConfig(weight_decay=0.3, norm_weight_decay=0.0), module, 16)
    with_decay = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(module.parameters()))
    return {name for name, p in module.named_parameters() if id(p) in with_decay}


@pytest.mark.parametrize("cell", CELLS)
def test_matrices_of_cells_decay_and_stacked_biases_and_peepholes_do_not(cell):
    shapes = {name: tuple(p.shape) for name, p in cell(4, input_size=3).named_parameters()}
    matrices = {name for name in ("weight_ih", "weight_hh") if len(shapes.get(name, ())) == 2}
    assert decayed(cell(4, input_size=3)) == matrices


def test_stacked_biases_norms_of_maps_and_scales_do_not_decay():
    module = nn.ModuleDict({"decoder": LSTMDecoder(6, 2, num_steps=3, hidden_size=4), "norm": nn.LayerNorm((2, 3))})
    module["scales"] = nn.ParameterList([torch.ones(4)])
    module["rms"] = nn.RMSNorm((2, 3))
    assert module["decoder"].bias.ndim == module["norm"].weight.ndim == 2
    assert decayed(module) == {"decoder.weight", "decoder.cells.0.weight_ih", "decoder.cells.0.weight_hh"}


def parts():
    """A body of two layers, the second with a norm, and a head."""
    body = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.Linear(3, 3, bias=False), nn.LayerNorm(3)))
    return nn.ModuleDict({"body": body, "body2": nn.Linear(3, 1), "flat": nn.Flatten()})


def naive_factor(multipliers, name):
    """Shorten the name until it is a prefix."""
    pieces = name.split(".")
    while pieces:
        if ".".join(pieces) in multipliers:
            return multipliers[".".join(pieces)]
        pieces.pop()
    return 1.0


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize(
    "multipliers",
    [
        {"body": 4.0},
        {"body": 4.0, "body.1": 0.5},
        {"body.1": 0.5, "body": 4.0, "body.1.0.weight": 3.0},
        {"body": 4.0, "body2": 2.0},
    ],
)
def test_the_longest_prefix_multiplies_the_rate(kind, multipliers):
    module = parts()
    config = OptimizerConfig(kind=kind, lr=0.1, weight_decay=0.3, norm_weight_decay=0.0, lr_multipliers=multipliers)
    optimizer = build_optimizer(config, module, 16)
    build_scheduler(ScheduleConfig(warmup=0, kind="cosine", epochs=1), optimizer, 4)
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert len(groups) == sum(len(group["params"]) for group in optimizer.param_groups) == 7
    for name, parameter in module.named_parameters():
        group = groups[id(parameter)]
        assert group["lr"] == pytest.approx(0.1 * naive_factor(multipliers, name))
        assert group["weight_decay"] == (0.3 if parameter.ndim > 1 else 0.0)
    logged = learning_rates(optimizer)
    assert logged == pytest.approx({"lr": 0.1, **{f"lr_{prefix}": 0.1 * f for prefix, f in multipliers.items()}})
    assert len(group_lines(optimizer)) == len(optimizer.param_groups)


def test_a_multiplied_layer_moves_that_much_further():
    module, steps = parts(), {}
    optimizer = build_optimizer(OptimizerConfig(lr_multipliers={"body": 4.0}, weight_decay=0.0), module, 16)
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    optimizer.step()
    steps = {name: (before[name] - p).mean().item() for name, p in module.named_parameters()}
    assert steps["body.0.weight"] == pytest.approx(4 * steps["body2.weight"], rel=1e-3) and steps["body2.weight"] > 0


def test_a_loaded_state_leaves_groups_their_prefix_and_multiplier():
    module = parts()
    config = OptimizerConfig(lr_multipliers={"body": 4.0})
    optimizer, other = (build_optimizer(config, module, 16) for _ in range(2))
    build_scheduler(ScheduleConfig(), optimizer, 1)
    expected, state = (learning_rates(optimizer), group_lines(optimizer)), optimizer.state_dict()
    for group in state["param_groups"]:
        del group["prefix"], group["kind"]
        group["lr_multiplier"] = 0.0
    load_optimizer(other, state)
    assert (learning_rates(other), group_lines(other)) == expected


def test_groups_are_described_where_rates_differ():
    module = parts()
    config = OptimizerConfig(lr=0.1, weight_decay=0.3, norm_weight_decay=0.0, lr_multipliers={"body": 4.0})
    optimizer = build_optimizer(config, module, 16)
    build_scheduler(ScheduleConfig(), optimizer, 1)
    assert group_lines(optimizer) == [
        "weights of all else: rate 0.1, weight decay 0.3, 3 parameters",
        "biases, norms and scales of all else: rate 0.1, weight decay 0, 1 parameters",
        "weights of body: rate 0.4, weight decay 0.3, 15 parameters",
        "biases, norms and scales of body: rate 0.4, weight decay 0, 9 parameters",
    ]
    plain = build_optimizer(OptimizerConfig(), module, 16)
    assert group_lines(plain) == [] and list(learning_rates(plain)) == ["lr"] and len(plain.param_groups) == 2


class Staged(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.backbone = FPN(body, out_channels=8, stages=("c3", "c4"))
        self.head = nn.Linear(4, 2)


@pytest.mark.parametrize(
    "body",
    [
        partial(Tiny, channels=(8, 16, 24), stem_channels=8),
        partial(ResNet, weights=None),
        partial(VGG16, weights=None),
        partial(RecurrentStages, body=partial(Tiny, channels=(8, 16, 24), stem_channels=8)),
    ],
)
@pytest.mark.parametrize("multipliers", [{}, {"backbone": 0.5, "head": 3.0}])
def test_each_stage_of_the_backbone_decays_further(body, multipliers):
    module = Staged(body)
    config = OptimizerConfig(lr=0.1, layer_decay=0.8, lr_multipliers=multipliers)
    optimizer = build_optimizer(config, module, 16)
    build_scheduler(ScheduleConfig(warmup=0), optimizer, 1)
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert len(groups) == sum(len(g["params"]) for g in optimizer.param_groups) == len(list(module.parameters()))
    parts = module.backbone.body.stages()
    stages = [name for name in parts if name != "recurrent"]
    inside = {}
    for name in stages:
        for part in parts[name]:
            inside |= dict.fromkeys(map(id, part.parameters()), 0.8 ** (len(stages) - stages.index(name)))
    for name, parameter in module.named_parameters():
        expected = 0.1 * naive_factor(multipliers, name) * inside.get(id(parameter), 1.0)
        assert groups[id(parameter)]["initial_lr"] == pytest.approx(expected)
    last = next(name for name in reversed(stages) if any(True for part in parts[name] for _ in part.parameters()))
    rates = learning_rates(optimizer)
    assert rates["lr"] == pytest.approx(0.1)
    assert rates[f"lr_backbone.{last}"] / rates["lr_backbone.stem"] == pytest.approx(0.8 ** -stages.index(last))
    assert any(line.startswith("weights of backbone.c3: rate 0.0") for line in group_lines(optimizer))
    module.backbone.requires_grad_(False)  # frozen stages stay in their groups
    assert len(build_optimizer(config, module, 16).param_groups) == len(optimizer.param_groups)


def test_a_model_without_stages_has_no_layer_decay():
    with pytest.raises(UserError, match="^optimizer.layer_decay: the model has no backbone of several stages"):
        build_optimizer(OptimizerConfig(layer_decay=0.9), parts(), 16)


@pytest.mark.parametrize(
    ("multipliers", "sentence"),
    [
        ({"bod": 4.0}, "bod: the model has no parameter with this prefix; did you mean 'body'?"),
        ({"body.1.0.wait": 4.0}, "body.1.0.wait: the model has no parameter .* did you mean 'body.1.0.weight'?"),
        ({"Ω": 4.0}, "Ω: the model has no parameter with this prefix; known: body, body2."),
        ({"": 4.0}, ": is no prefix; the rate of all parameters is optimizer.lr."),
        ({"flat": 4.0}, "flat: the model's flat has no parameters; leave it out."),
        ({"body2": 1.0, "body2.weight": 2.0, "body2.bias": 2.0}, "body2: applies to no parameter, as each of its"),
    ],
)
def test_a_prefix_without_parameters_gets_one_sentence(multipliers, sentence):
    with pytest.raises(UserError, match=f"^optimizer.lr_multipliers.{sentence}"):
        build_optimizer(OptimizerConfig(lr_multipliers=multipliers), parts(), 16)


def test_scheduler_counts_updates():
    module = nn.Linear(1, 1)
    optimizer = build_optimizer(OptimizerConfig(lr=1.0), module, 16)
    scheduler = build_scheduler(ScheduleConfig(epochs=2, warmup=0, milestones=(0.5,)), optimizer, updates_per_epoch=2)
    rates = []
    for _ in range(4):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([1.0, 1.0, 0.1, 0.1])


def test_weight_average_equals_a_loop_by_hand():
    module = nn.BatchNorm1d(1)
    average = WeightAverage(module, decay=0.3)
    expected = module.weight.item()
    for update, value in enumerate([3.0, -1.0, 5.0]):
        with torch.no_grad():
            module.weight.fill_(value)
        module.running_mean.fill_(value - 1)  # begins one below the weight, which begins at 1
        module.num_batches_tracked += 1
        average.update_parameters(module)
        decay = min(0.3, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * value
        assert average.module.weight.item() == pytest.approx(expected)
        assert average.module.running_mean.item() == pytest.approx(expected - 1)
    assert average.module.num_batches_tracked == 3
    assert not any(p.requires_grad for p in average.module.parameters())
    assert math.isclose(module.weight.item(), 5.0)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_the_fused_optimizer_takes_the_plain_one_s_steps(kind):
    """Also for a layer that gets gradients later than the others, and frozen ones."""
    config, modules = OptimizerConfig(kind=kind, lr=0.1, weight_decay=0.1), []
    for fused in (True, False):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2))
        module[0].requires_grad_(False)
        optimizer = build_optimizer(config, module, 16, fused=fused)
        assert optimizer.param_groups[0]["fused"] is fused
        for step in range(4):
            module[1].requires_grad_(step > 1)
            module(torch.full((5, 3), 1.0 + step)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        modules.append(module)
    for ours, theirs in zip(modules[0].parameters(), modules[1].parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
