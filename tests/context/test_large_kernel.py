"""The large kernel against two plain convolutions."""

import pytest
import torch
from torch.nn.functional import conv2d

from detection.context import LargeKernel
from detection.errors import UserError


def test_it_is_two_branches_on_each_image_alone():
    context = LargeKernel(4, hidden_channels=3, kernel_size=7, small_kernel_size=3).double()
    x, valid = torch.randn(2, 4, 9, 10, dtype=torch.float64), torch.zeros(2, 1, 9, 10, dtype=torch.bool)
    valid[0, :, :8, :6] = True
    with torch.no_grad():
        context.large.bias.uniform_(-1, 1)
        context.before.bias.uniform_(0, 1)
    y = context.before(x[:1, :, :8, :6]).relu()
    large = conv2d(y, context.large.weight, context.large.bias, padding=3, groups=3)
    y = (large + conv2d(y, context.small.weight, padding=1, groups=3)).relu()
    torch.testing.assert_close(context(x, valid)[:1, :, :8, :6], context.after(y).relu())


def test_how_far_it_sees():
    context = LargeKernel(1, hidden_channels=2).double()
    x = torch.zeros(1, 1, 1, 40, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        for parameter in context.parameters():
            parameter.uniform_(0.1, 1)
    context(x, torch.ones_like(x, dtype=torch.bool))[0, :, 0, 20].sum().backward()
    assert x.grad[0, 0, 0].nonzero().flatten().tolist() == list(range(5, 36))


@pytest.mark.parametrize("settings", [{"kernel_size": 30}, {"small_kernel_size": 4}, {"kernel_size": 3}])
def test_kernels_that_do_not_fit_are_refused(settings):
    with pytest.raises(UserError, match="must"):
        LargeKernel(4, **settings)
