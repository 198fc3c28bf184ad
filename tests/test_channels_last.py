"""Weights in channels-last memory, and the one kind of convolution that must not have its stride there."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

from detection.channels_last import to_channels_last

TRAIN = """
import torch
from torch import nn
from detection.channels_last import to_channels_last

conv = to_channels_last(nn.Conv2d(8, 16, 1, stride=2, bias=False))
for _ in range(40):
    x = torch.randn(16, 8, 48, 48).contiguous(memory_format=torch.channels_last).requires_grad_()
    y = conv(x)
    y.backward(torch.randn_like(y))
"""


def test_a_strided_1x1_convolution_of_few_channels_trains():
    """In a process of its own: it wrote beyond its memory."""
    assert subprocess.run([sys.executable, "-c", TRAIN]).returncode == 0


@pytest.mark.parametrize(("stride", "size"), [(2, (6, 8)), ((3, 2), (7, 5))])
@pytest.mark.parametrize("groups", [1, 4])
def test_values_gradients_and_checkpoints_are_as_before(stride, size, groups):
    torch.manual_seed(0)
    before = nn.Sequential(nn.Conv2d(4, 8, 1, stride, groups=groups), nn.ReLU())
    after = to_channels_last(copy.deepcopy(before))
    assert after[0].stride == (1, 1) and list(after.state_dict()) == list(before.state_dict())
    x = torch.randn(2, 4, *size)
    for network in (before, after, copy.deepcopy(after), to_channels_last(after)):
        network.zero_grad()
        network(x).square().sum().backward()
        torch.testing.assert_close(network(x), before(x))
        torch.testing.assert_close(network[0].weight.grad, before[0].weight.grad)


def test_other_convolutions_keep_their_stride():
    others = [nn.Conv2d(16, 8, 1, 2), nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(32, 32, 1, 2, groups=2)]
    network = to_channels_last(nn.Sequential(*others))
    assert [m.stride for m in network] == [(2, 2), (2, 2), (1, 1), (2, 2)]
    assert all(m.weight.is_contiguous(memory_format=torch.channels_last) for m in network)
    assert not any(m._forward_pre_hooks for m in network)
