"""Gated recurrent convolution against its formula and by hand; its norms and steps; what goes with other settings."""

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d

from detection.context import RecurrentConv
from detection.errors import UserError
from tests.context.test_recurrent_conv import K, a_map, layer


def plain(norms, kind):
    """PyTorch's own norms with the same parameters and statistics."""
    copies = []
    for own in norms.norms:
        copy = nn.BatchNorm2d(K) if kind == "batch" else nn.GroupNorm(8, K)
        copy.double().load_state_dict(getattr(own, "norm", own).state_dict())
        copies.append(copy.train(own.training))
    return lambda x, step: copies[step if kind == "batch" else 0](x) if copies else x


def naive(made, u, steps, kind):
    s = made.steps
    parts = ("forward", "gate_forward", "gate_recurrent", "recurrent", "product")
    f, gf, gr, r, p = (plain(getattr(s, f"{part}_norm"), kind) for part in parts)
    fed = u if made.residual else conv2d(u, made.forward_conv.weight, padding=1)
    z = f(fed, 0)
    for t in range(1, steps + 1):
        x = z.relu()
        gate = gr(conv2d(x, s.gate_recurrent_conv.weight), t - 1)
        if made.feed == "always":
            gate = gate + gf(conv2d(u, s.gate_forward_conv.weight), t - 1)
        z = p(r(conv2d(x, made.recurrent_conv.weight, padding=1), t - 1) * gate.sigmoid(), t - 1)
        if made.feed == "always":
            z = z + f(fed, t)
    return z if made.residual else z.relu()


@pytest.mark.parametrize("kind", ["batch", "group", "none"])
@pytest.mark.parametrize("settings", [{}, {"residual": True}, {"feed": "first"}, {"num_steps": 0}])
def test_it_is_its_formula(kind, settings):
    made = layer(K, gated=True, norm=kind, **{"num_steps": 2, **settings})
    x, valid = a_map((5, 6), (5, 6), channels=K)
    for mode in (True, False):
        made.train(mode)
        torch.testing.assert_close(naive(made, x, made.num_steps, kind), made(x, valid))


def test_by_hand():
    """One location, all weights 1, no norm, one step, u = 2: G = σ(2 + 2), x(1) = 2 + 2·G."""
    made = RecurrentConv(1, num_steps=1, norm="none", gated=True, kernel_size=1)
    for parameter in made.parameters():
        nn.init.ones_(parameter)
    assert len(list(made.parameters())) == 4  # W_f, W_r, W_gf and W_gr, no bias
    y = made(torch.full((1, 1, 1, 1), 2.0), torch.ones(1, 1, 1, 1, dtype=torch.bool))
    torch.testing.assert_close(y.item(), 2 + 2 / (1 + 2.718281828**-4))


def test_each_norm_is_one_for_each_step():
    made = layer(norm="batch", gated=True, num_steps=3)
    counts = {name: len(module.norms) for name, module in made.steps.named_children() if name.endswith("norm")}
    assert counts == {
        "forward_norm": 4, "gate_forward_norm": 3, "gate_recurrent_norm": 3, "recurrent_norm": 3, "product_norm": 3
    }  # fmt: skip
    assert {
        len(module.norms) for module in layer(norm="group", gated=True).steps.children() if hasattr(module, "norms")
    } == {1}
    x, valid = a_map((5, 6))
    made(x, valid)
    assert all(norm.norm.num_batches_tracked == 1 for norm in made.steps.modules() if hasattr(norm, "norm"))


def test_batch_statistics_are_those_of_the_valid_locations():
    x, valid = a_map((3, 6), (5, 2))
    made, other = layer(norm="batch", gated=True), layer(norm="batch", gated=True)
    assert torch.equal(made(x, valid), other(x.masked_fill(~valid, 77.0), valid))
    assert all(torch.equal(a, b) for a, b in zip(made.buffers(), other.buffers(), strict=True))


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
@pytest.mark.parametrize("residual", [False, True])
def test_at_zero_it_is_without_recurrence_and_learns(norm, residual):
    x, valid = a_map((5, 6), channels=K)
    torch.manual_seed(0)
    made = RecurrentConv(K, norm=norm, residual=residual, init="zero", gated=True).double()
    y = made(x, valid)
    if residual:
        assert torch.equal(y, x)
    else:
        torch.testing.assert_close(y, naive(made, x, 0, norm))
    y.square().sum().backward()
    # A batch norm of a step before the last reaches the output by way of the last, which is 0.
    own = made.recurrent_conv if norm == "none" else made.steps.product_norm.norms[-1]
    learns = getattr(own, "norm", own).weight
    assert learns.grad.abs().sum() > 0 and all(p.grad.isfinite().all() for p in made.parameters())


def test_steps_at_inference():
    x, valid = a_map((5, 6))
    fewer, same = (layer(norm="batch", gated=True, **s) for s in ({"inference_steps": 1}, {"num_steps": 1}))
    same.load_state_dict(fewer.state_dict(), strict=False)
    assert torch.equal(fewer.eval()(x, valid), same.eval()(x, valid))
    more = layer(norm="group", gated=True, inference_steps=5)
    assert not torch.equal(more(x, valid), more.eval()(x, valid))
    with pytest.raises(UserError, match="inference_steps=4: with norm=batch"):
        layer(norm="batch", gated=True, inference_steps=4)


def test_local_response_norm_is_refused():
    with pytest.raises(UserError, match="norm=lrn: .*gated=true .*norm=batch"):
        layer(gated=True)


def test_gradients():
    made = layer(K, num_steps=2, norm="batch", gated=True)
    x, valid = a_map((2, 2), (3, 1), height=3, width=2, channels=K)
    assert torch.autograd.gradcheck(lambda x: made(x, valid), x.requires_grad_())


def test_gates_start_for_a_sigmoid():
    torch.manual_seed(0)
    steps = RecurrentConv(64, norm="none", gated=True).steps
    for conv in (steps.gate_forward_conv, steps.gate_recurrent_conv):
        assert conv.weight.std().item() == pytest.approx(64**-0.5, rel=0.05)
