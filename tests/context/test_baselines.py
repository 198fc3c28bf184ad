"""The contexts without recurrence, each against the plain operation that it is."""

import pytest
import torch
from torch.nn.functional import conv2d

from detection.context import ConvStack, GlobalAverage, NoContext, NonLocal
from detection.errors import UserError


def half_valid():
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    valid = torch.zeros(2, 1, 5, 6, dtype=torch.bool)
    valid[0, :, :3, :4] = True
    valid[1] = True
    return x, valid


def test_convolutions_on_each_image_alone():
    x, valid = half_valid()
    context = ConvStack(4, hidden_channels=3, kernel_size=5).double()
    y = x[:1, :, :3, :4]
    for conv in context.convs:
        y = conv2d(y, conv.weight, conv.bias, padding=2).relu()
    torch.testing.assert_close(context(x, valid)[:1, :, :3, :4], y)


def test_an_even_kernel_is_refused():
    with pytest.raises(UserError, match="must be odd"):
        ConvStack(4, kernel_size=4)


def test_global_average_by_hand():
    context = GlobalAverage(1, hidden_channels=1)
    with torch.no_grad():
        context.linear.weight.fill_(2)
        context.linear.bias.fill_(-1)
    x = torch.tensor([[[[1.0, 2.0, 9.0], [3.0, 4.0, 9.0]]]])
    valid = torch.tensor([[[[True, True, False], [True, True, False]]]])
    assert context(x, valid).tolist() == [[[[4, 4, 0], [4, 4, 0]]]]


def test_a_global_average_of_a_large_map_is_finite_in_half_precision():
    context = GlobalAverage(1, hidden_channels=1).half()
    torch.nn.init.ones_(context.linear.weight)
    torch.nn.init.zeros_(context.linear.bias)
    x, valid = torch.ones(1, 1, 300, 300).half(), torch.ones(1, 1, 300, 300, dtype=torch.bool)
    assert (context(x, valid) == 1).all()  # of a sum of 90 000, where float16 ends at 65 504


def test_non_local_is_the_identity_at_first():
    x, valid = half_valid()
    assert torch.equal(NonLocal(4).double()(x, valid), x * valid)


def test_non_local_equals_attention_location_by_location():
    torch.manual_seed(0)
    x, valid = half_valid()
    context = NonLocal(4, hidden_channels=3).double()
    torch.nn.init.normal_(context.out.weight)
    found = context(x, valid)
    locations = [(i, j) for i in range(5) for j in range(6) if valid[0, 0, i, j]]
    q, k, v = (conv(x)[0] for conv in (context.query, context.key, context.value))
    i, j = 2, 1
    weights = torch.stack([(q[:, i, j] @ k[:, a, b]).exp() for a, b in locations])
    mean = sum(w * v[:, a, b] for w, (a, b) in zip(weights / weights.sum(), locations, strict=True))
    expected = x[0, :, i, j] + context.out.weight[:, :, 0, 0] @ mean
    torch.testing.assert_close(found[0, :, i, j], expected)


def test_no_context_is_the_identity():
    x, valid = half_valid()
    assert torch.equal(NoContext(4)(x, valid), torch.where(valid, x, 0))


def test_non_local_reads_a_single_channel():
    assert NonLocal(1)(torch.randn(1, 1, 2, 2), torch.ones(1, 1, 2, 2, dtype=torch.bool)).shape == (1, 1, 2, 2)
