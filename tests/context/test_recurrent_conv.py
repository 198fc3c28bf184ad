"""Recurrent convolution against a naive unroll and by hand; its norms and steps; settings that are refused."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d, local_response_norm

from detection.config.serialization import from_plain
from detection.context import RecurrentConv
from detection.context.local_response_norm import LocalResponseNorm
from detection.errors import UserError

C, K = 3, 8


def a_map(*sizes, height=5, width=6, channels=C, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(len(sizes), channels, height, width, generator=generator, dtype=torch.float64)
    valid = torch.zeros(len(sizes), 1, height, width, dtype=torch.bool)
    for mask, (h, w) in zip(valid, sizes, strict=True):
        mask[:, :h, :w] = True
    return x, valid


def layer(in_channels=C, **settings):
    torch.manual_seed(0)
    made = RecurrentConv(in_channels, **{"hidden_channels": K, **settings}).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def naive_lrn(x):
    """f / (1 + α/N · Σ f²)^β over the N = K/8 + 1 channels about each, channel by channel."""
    channels, n = x.shape[1], x.shape[1] // 8 + 1
    out = torch.empty_like(x)
    for k in range(channels):
        first = k - n // 2
        near = x[:, max(0, first) : max(0, first + n)]
        out[:, k] = x[:, k] / (1 + 0.001 / n * near.square().sum(1)) ** 0.75
    return out


def naive(made, x, steps, norm):
    """z(t) = W_f * u + W_r * x(t−1) + b, unrolled."""
    forward, recurrent = made.forward_conv, made.recurrent_conv
    u = x if made.residual else conv2d(x, forward.weight, forward.bias, padding=1)
    state, z = norm(u.relu(), 0), u
    for step in range(1, steps + 1):
        fed = u if made.feed == "always" else 0
        z = fed + conv2d(state, recurrent.weight, recurrent.bias, padding=1)
        if step < steps or not made.residual:
            state = norm(z.relu(), step)
    return z if made.residual else state


@pytest.mark.parametrize(("channels", "size"), [(24, 4), (32, 5), (7, 1), (3, 9)])
def test_local_response_norm_is_the_naive_and_pytorchs(channels, size):
    x = torch.randn(2, channels, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 30
    x.requires_grad_()
    found, expected = LocalResponseNorm(channels, size)(x), local_response_norm(x, size, alpha=0.001, beta=0.75, k=1.0)
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(found)
    torch.testing.assert_close(*(torch.autograd.grad((y * weights).sum(), x)[0] for y in (found, expected)))
    if size == channels // 8 + 1:
        torch.testing.assert_close(found, naive_lrn(x))


@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("feed", ["always", "first"])
def test_it_is_the_naive_unroll(steps, feed):
    made = layer(num_steps=steps, feed=feed, hidden_channels=24)
    x, valid = a_map((5, 6), (5, 6))
    torch.testing.assert_close(made(x, valid), naive(made, x, steps, lambda s, _: naive_lrn(s)))


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
@pytest.mark.parametrize("residual", [False, True])
def test_it_is_the_naive_unroll_with_other_norms(norm, residual):
    made = layer(K, norm=norm, residual=residual, num_steps=2)
    x, valid = a_map((5, 6), (5, 6), channels=K)
    norms = {"batch": nn.BatchNorm2d, "group": lambda k: nn.GroupNorm(8, k)}
    copies = [norms[norm](K).double() for _ in made.norm.norms] if norm in norms else []
    for copy, own in zip(copies, made.norm.norms, strict=True):
        copy.load_state_dict(getattr(own, "norm", own).state_dict())

    def by_step(state, step):
        return copies[step if norm == "batch" else 0](state) if copies else state

    torch.testing.assert_close(made(x, valid), naive(made, x, 2, by_step))
    for copy, own in zip(copies, made.norm.norms, strict=True):
        assert all(
            torch.allclose(t, dict(getattr(own, "norm", own).named_buffers())[name]) for name, t in copy.named_buffers()
        )


def test_by_hand():
    """One channel on one row, W_f = (0, 1, 0), W_r = (1, 0, 0) reads the left neighbor, b = 0: u = 1, 2, −5.

    x(0) = 1, 2, 0; x(1) = 1, 2 + 1, max(−5 + 2, 0); x(2) = 1, 2 + 1, max(−5 + 3, 0).
    """
    made = RecurrentConv(1, num_steps=2, norm="none")
    with torch.no_grad():
        made.forward_conv.weight.zero_()[0, 0, 1, 1] = 1
        made.recurrent_conv.weight.zero_()[0, 0, 1, 0] = 1
    x, valid = torch.tensor([[[[1.0, 2.0, -5.0]]]]), torch.ones(1, 1, 1, 3, dtype=torch.bool)
    assert made(x, valid).flatten().tolist() == [1, 3, 0]
    residual = RecurrentConv(1, num_steps=2, norm="none", residual=True)
    residual.recurrent_conv.load_state_dict({**made.recurrent_conv.state_dict(), "bias": torch.zeros(1)})
    assert residual(x, valid).flatten().tolist() == [1, 3, -2]


@pytest.mark.parametrize("norm", ["lrn", "group", "none"])
def test_without_recurrent_weights_or_steps_it_is_a_plain_convolution(norm):
    x, valid = a_map((5, 6))
    zero, plain = layer(norm=norm), layer(norm=norm, num_steps=0)
    assert not any("recurrent" in name for name, _ in plain.named_parameters())
    with torch.no_grad():
        zero.recurrent_conv.weight.zero_()
    plain.load_state_dict(zero.state_dict(), strict=False)
    assert torch.equal(zero(x, valid), plain(x, valid))


def test_at_zero_it_is_a_plain_convolution_that_learns():
    x, valid = a_map((5, 6))
    torch.manual_seed(0)
    made = RecurrentConv(C, hidden_channels=K, init="zero").double()
    expected = naive_lrn(conv2d(x, made.forward_conv.weight, made.forward_conv.bias, padding=1).relu())
    torch.testing.assert_close(made(x, valid), expected)
    made(x, valid).sum().backward()
    assert made.recurrent_conv.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("norm", ["lrn", "batch", "group"])
def test_a_residual_at_zero_changes_no_bit(norm):
    x, valid = a_map((5, 6), channels=K)
    made = RecurrentConv(K, norm=norm, residual=True, init="zero").double()
    assert torch.equal(made(x, valid), x)
    made(x, valid).square().sum().backward()
    assert made.recurrent_conv.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("channels", [32, 64, 96, 128, 160, 192])
def test_the_papers_number_of_parameters(channels):
    """18 K² + K of each layer of K channels, so that RCNN-K has what the paper's formula says."""
    made = RecurrentConv(channels)
    assert sum(p.numel() for p in made.parameters()) == 18 * channels**2 + channels


@pytest.mark.parametrize("norm", ["lrn", "group"])
def test_steps_at_inference_differ_from_those_in_training(norm):
    x, valid = a_map((5, 6))
    three, five = layer(norm=norm), layer(norm=norm, inference_steps=5)
    other = layer(norm=norm, num_steps=5)
    other.load_state_dict(five.state_dict())
    assert torch.equal(five(x, valid), three(x, valid))
    assert torch.equal(five.eval()(x, valid), other.eval()(x, valid))
    assert not torch.equal(five(x, valid), three.eval()(x, valid))


def test_fewer_steps_at_inference_go_with_batch_norm_and_more_do_not():
    x, valid = a_map((5, 6))
    fewer, same = layer(norm="batch", inference_steps=1), layer(norm="batch", num_steps=1)
    same.load_state_dict(fewer.state_dict(), strict=False)
    assert torch.equal(fewer.eval()(x, valid), same.eval()(x, valid))
    with pytest.raises(
        UserError, match="inference_steps=4: with norm=batch each step has its own statistics and only 3"
    ):
        layer(norm="batch", inference_steps=4)


def test_each_step_has_its_own_batch_statistics():
    x, valid = a_map((5, 6))
    made = layer(norm="batch")
    made(x, valid)
    means = torch.stack([norm.norm.running_mean for norm in made.norm.norms])
    assert len(means) == 4
    assert torch.pdist(means).min() > 1e-3
    assert len(layer(norm="group").norm.norms) == 1


def test_batch_statistics_in_training_are_those_of_the_valid_locations():
    x, valid = a_map((3, 6), (5, 2))
    made, other = layer(norm="batch"), layer(norm="batch")
    other.load_state_dict(made.state_dict())
    assert torch.equal(made(x, valid), other(x.masked_fill(~valid, 77.0), valid))
    assert all(torch.equal(a, b) for a, b in zip(made.buffers(), other.buffers(), strict=True))


@pytest.mark.parametrize("settings", [{}, {"norm": "batch"}, {"norm": "group", "residual": True}, {"feed": "first"}])
def test_gradients(settings):
    made = layer(K, num_steps=2, **settings)
    x, valid = a_map((2, 2), (3, 1), height=3, width=2, channels=K)
    assert torch.autograd.gradcheck(lambda x: made(x, valid), x.requires_grad_())


def test_lrn_holds_in_half_precision():
    """The square of 300 is beyond what float16 holds."""
    state, valid = torch.full((1, C, 4, 4), 300.0, dtype=torch.float16), torch.ones(1, 1, 4, 4, dtype=torch.bool)
    found = RecurrentConv(C).norm(state, valid, 0)
    # α/N · N_seen · 300² with N = 1: 300 / (1 + 0.001 · 90000)^0.75.
    assert found.dtype == torch.float16 and found.float().allclose(torch.tensor(300 / 91**0.75), rtol=1e-3)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"kernel_size": 4}, "kernel_size=4: must be odd"),
        ({"residual": True}, "hidden_channels=8: with residual=true they are those of the map, 3"),
        ({"residual": True, "hidden_channels": None, "feed": "first"}, "feed=first: takes away"),
        ({"feed": "first", "init": "zero"}, "init=zero: with feed=first all is 0 after a step"),
        ({"num_steps": 0, "inference_steps": 2}, "inference_steps=2: with num_steps=0 nothing recurrent is trained"),
    ],
)
def test_settings_that_do_not_go_together(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        layer(**settings)


@pytest.mark.parametrize("name", ["num_steps", "inference_steps"])
def test_fewer_than_0_steps_are_refused(name):
    with pytest.raises(UserError, match=f"context.{name}=-1: must be at least 0"):
        from_plain(partial(RecurrentConv, **{name: -1}), partial[RecurrentConv], "context")


@pytest.mark.parametrize("settings", [{}, {"norm": "group", "gated": True}, {"norm": "batch"}])
def test_no_steps_at_inference(settings):
    x, valid = a_map((5, 6))
    none, plain = layer(inference_steps=0, **settings), layer(num_steps=0, **settings)
    plain.load_state_dict(none.state_dict(), strict=False)
    assert torch.equal(none.eval()(x, valid), plain.eval()(x, valid))


def test_groups_are_the_greatest_common_divisor_with_32():
    norms = [RecurrentConv(k, norm="group").norm.norms[0] for k in (64, 48, 8)]
    assert [norm.num_groups for norm in norms] == [32, 16, 8]
