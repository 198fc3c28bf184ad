"""Attention over the feature map, against a naive version step by step and by hand."""

from functools import partial

import pytest
import torch
from torch.nn.functional import adaptive_avg_pool2d

from detection.cells import GRU, RGLRU, SLSTM
from detection.config.serialization import from_plain
from detection.context import AttentionLSTM
from detection.errors import UserError
from detection.testing import padded_batch

C = 3
SIZES = [(4, 7), (6, 3), (6, 7)]


def a_batch(sizes=SIZES, height=6, width=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(len(sizes), C, height, width, generator=generator, dtype=torch.float64)
    valid = torch.zeros(len(sizes), 1, height, width, dtype=torch.bool)
    for mask, (h, w) in zip(valid, sizes, strict=True):
        mask[:, :h, :w] = True
    return x, valid


def attention(**settings):
    """Weights large enough that attention is far from even."""
    torch.manual_seed(0)
    context = AttentionLSTM(C, **{"hidden_channels": 4, "size": 5, **settings}).double()
    with torch.no_grad():
        for parameter in context.parameters():
            parameter.mul_(3).add_(0.3 * torch.randn_like(parameter))
    return context


def naive_lstm(cell, x, h, c):
    i, f, g, o = (cell.weight_ih @ x + cell.bias_ih + cell.weight_hh @ h + cell.bias_hh).chunk(4)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def naive_score(context, h, pooled, rows, columns):
    """One score for each location, one by one."""
    score, ratings = context.score, []
    for k, x in enumerate(pooled):
        if hasattr(score, "linear"):
            row, column = (int((i + 0.5) * score.size / n) for i, n in ((k // columns, rows), (k % columns, columns)))
            ratings.append(score.linear.weight[row * score.size + column] @ h)
        else:
            hidden = score.of_location.weight @ x + score.of_location.bias + score.of_state.weight @ h
            ratings.append(score.out.weight[0] @ hidden.tanh())
    return torch.stack(ratings)


def naive(context, image):
    """The weights of every attention step (T, k·k') and g(T) (C,) of one image (C, h, w), step by step."""
    rows, columns = (min(context.size, side) for side in image.shape[1:])
    pooled = adaptive_avg_pool2d(image, (rows, columns)).flatten(1).T
    chunks = list(context.initial_state(pooled.mean(0)).split(4))
    layers = [(chunks[2 * k], chunks[2 * k + 1]) for k in range(len(context.cells))] or [(chunks[0],)]
    weights, seen = [], None
    for step in range(context.num_steps):
        if step:
            x = seen
            for k, cell in enumerate(context.cells):
                layers[k] = naive_lstm(cell, x, *layers[k])
                x = layers[k][0]
        ratings = naive_score(context, layers[-1][0], pooled, rows, columns)
        weights.append(ratings.exp() / ratings.exp().sum())
        seen = sum(a * x for a, x in zip(weights[-1], pooled, strict=True))
    return torch.stack(weights), seen


@pytest.mark.parametrize("score", ["linear", "additive"])
@pytest.mark.parametrize("settings", [{}, {"num_steps": 1}, {"num_layers": 1, "num_steps": 4}, {"size": 9}])
def test_it_is_the_naive_version_step_by_step(score, settings):
    context = attention(score=score, **settings)
    x, valid = a_batch()
    y, weights = context(x, valid), context.attention_weights(x, valid)
    for i, (h, w) in enumerate(SIZES):
        expected_weights, expected = naive(context, x[i, :, :h, :w])
        torch.testing.assert_close(y[i, :, :h, :w], expected[:, None, None].expand(C, h, w))
        if context.size >= 7:
            torch.testing.assert_close(weights[i, :, :h, :w].flatten(1), expected_weights)


@pytest.mark.parametrize("score", ["linear", "additive"])
@pytest.mark.parametrize("size", [3, 5, 20])
def test_weights_are_a_distribution_over_the_valid_locations(score, size):
    context = attention(score=score, size=size)
    x, valid = a_batch([*SIZES, (1, 1), (0, 0)])
    weights = context.attention_weights(x, valid)
    assert weights.shape == (5, 3, 6, 7) and (weights >= 0).all()
    torch.testing.assert_close(weights[:4].sum((2, 3)), torch.ones(4, 3, dtype=torch.float64))
    assert (weights[~valid.expand_as(weights)] == 0).all()
    assert (weights[0, :, :4] > 0).all()


@pytest.mark.parametrize("score", ["linear", "additive"])
@pytest.mark.parametrize("size", [3, 20])
def test_the_output_is_what_the_last_step_weighs(score, size):
    """Also where locations are pooled: their weights are spread over what they are pooled from."""
    context = attention(score=score, size=size)
    x, valid = a_batch()
    last = context.attention_weights(x, valid)[:, -1:]
    expected = (x * last).sum((2, 3), keepdim=True) * valid
    torch.testing.assert_close(context(x, valid), expected)


@pytest.mark.parametrize("size", [3, 20])
def test_weights_alone_are_as_in_a_batch(size):
    context = attention(size=size)
    x, valid = a_batch()
    together = context.attention_weights(x, valid)
    for i, (h, w) in enumerate(SIZES):
        alone = context.attention_weights(x[i : i + 1, :, :h, :w], valid[i : i + 1, :, :h, :w])
        torch.testing.assert_close(together[i : i + 1, :, :h, :w], alone)


@pytest.mark.parametrize("score", ["linear", "additive"])
def test_permuting_locations_permutes_weights(score):
    """With the linear score, whose weights belong to positions, they are permuted too."""
    context = attention(score=score, size=6)
    x, valid = a_batch([(6, 6)], 6, 6)
    order = torch.randperm(36, generator=torch.Generator().manual_seed(1))
    shuffled = x.flatten(2)[..., order].unflatten(2, (6, 6))
    weights, y = context.attention_weights(x, valid), context(x, valid)
    if score == "linear":
        with torch.no_grad():
            context.score.linear.weight.copy_(context.score.linear.weight[order].clone())
    torch.testing.assert_close(
        context.attention_weights(shuffled, valid), weights.flatten(2)[..., order].unflatten(2, (6, 6))
    )
    torch.testing.assert_close(context(shuffled, valid), y)
    assert weights.std() > 1e-3


def test_one_step_by_hand():
    """Two locations, 0 and 2, of one channel: the mean is 1, so h = tanh(3·tanh(2·1)); additive and linear scores."""
    context = AttentionLSTM(1, hidden_channels=1, num_steps=1, score="additive").double()
    x, valid = torch.tensor([[[[0.0, 2.0]]]], dtype=torch.float64), torch.ones(1, 1, 1, 2, dtype=torch.bool)
    first, _, second, _ = context.initial_state
    with torch.no_grad():
        for parameter in context.parameters():
            parameter.zero_()
        first.weight.fill_(2), second.weight.fill_(3)
        context.score.of_location.weight.fill_(0.5), context.score.of_location.bias.fill_(0.1)
        context.score.of_state.weight.fill_(1), context.score.out.weight.fill_(4)
    h = torch.tensor(2.0, dtype=torch.float64).tanh().mul(3).tanh()
    ratings = 4 * (torch.tensor([0.5 * 0 + 0.1, 0.5 * 2 + 0.1], dtype=torch.float64) + h).tanh()
    a = ratings.softmax(0)
    torch.testing.assert_close(context.attention_weights(x, valid).flatten(), a)
    torch.testing.assert_close(context(x, valid).flatten(), (2 * a[1]).expand(2))

    linear = AttentionLSTM(1, hidden_channels=1, num_steps=1, size=4).double()
    linear.initial_state.load_state_dict(context.initial_state.state_dict())
    with torch.no_grad():
        linear.score.linear.weight.copy_(torch.arange(16)[:, None])
    # One row of two locations on a 4×4 table: the centers are in row 2, columns 1 and 3.
    a = (torch.tensor([9.0, 11.0], dtype=torch.float64) * h).softmax(0)
    torch.testing.assert_close(linear.attention_weights(x, valid).flatten(), a)


@pytest.mark.parametrize("settings", [{}, {"score": "additive"}, {"cell": partial(GRU), "num_layers": 1}])
def test_gradients(settings):
    context = attention(size=2, **settings)
    x, valid = a_batch([(3, 2), (2, 3)], 3, 3)
    assert torch.autograd.gradcheck(lambda x: context(x, valid), x.requires_grad_())


def test_what_is_not_finite_in_the_padding_stays_there():
    context = attention()
    x, valid = a_batch()
    expected = context(x, valid)
    assert torch.equal(context(x.masked_fill(~valid, torch.inf), valid), expected)


def test_one_step_has_no_idle_layers():
    assert len(attention(num_steps=1).cells) == 0 and len(attention().cells) == 3


@pytest.mark.parametrize("name", ["num_layers", "num_steps", "size"])
def test_settings_below_one_are_refused(name):
    with pytest.raises(UserError, match=f"context.{name}=0: must be at least 1"):
        from_plain(partial(AttentionLSTM, **{name: 0}), partial[AttentionLSTM], "context")


@pytest.mark.parametrize(("cell", "flags"), [(SLSTM, 3), (RGLRU, 1)])
def test_what_a_cell_counts_with_begins_at_0(cell, flags):
    """sLSTM divides by a normalizer that is at least 1 if it begins at 0; the last tensors of a state are no memory."""
    context, seen = attention(cell=partial(cell), hidden_channels=64, num_layers=1, num_steps=2), []
    with torch.no_grad():
        for parameter in context.initial_state.parameters():
            parameter.mul_(6)
    step = context.cells[0].step
    context.cells[0].step = lambda x, state: seen.append((state, step(x, state))) or seen[-1][1]
    context(*a_batch())
    ((before, after),) = seen
    assert before[0].abs().max() > 0.9 and not any(tensor.any() for tensor in before[-flags:])
    if cell is SLSTM:
        assert (after[2] >= 1).all() and (after[0].abs() <= 1).all()


def test_attention_weights_are_float32_under_autocast():
    torch.manual_seed(0)
    context, (x, valid) = AttentionLSTM(6, hidden_channels=4, size=3), padded_batch(6)
    with torch.autocast("cpu", torch.bfloat16):
        weights = context.attention_weights(x, valid)
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights.sum((2, 3)), torch.ones(3, 3))
