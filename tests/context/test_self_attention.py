"""Self-attention against a loop over locations, and its rotary positions by their property."""

import math

import pytest
import torch

from detection.context import NonLocal, SelfAttention
from detection.context.masked_attention import masked_attention
from detection.context.self_attention import rotate
from detection.errors import UserError


def random_attention(**settings):
    torch.manual_seed(0)
    context = SelfAttention(8, **settings).double()
    with torch.no_grad():
        for parameter in context.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return context


def test_it_is_the_identity_at_first():
    x, valid = torch.randn(2, 8, 3, 4), torch.ones(2, 1, 3, 4, dtype=torch.bool)
    assert torch.equal(SelfAttention(8, num_heads=2)(x, valid), x)


def test_it_equals_attention_location_by_location():
    """One head: channels (0, 2), (1, 3) turn by the row and (4, 6), (5, 7) by the column, at rates 1 and 1/10."""
    context = random_attention(num_heads=1, expansion=0)
    x = torch.randn(1, 8, 3, 4, dtype=torch.float64)
    valid = torch.ones(1, 1, 3, 4, dtype=torch.bool)
    valid[..., 3] = False
    found = context(x, valid)
    block = context.blocks[0]
    locations = [(i, j) for i in range(3) for j in range(3)]

    def turned(vector, i, j):
        out = vector.clone()
        for a, b, angle in ((0, 2, i), (1, 3, i / 10), (4, 6, j), (5, 7, j / 10)):
            turn = torch.polar(torch.tensor(1.0, dtype=torch.float64), torch.tensor(angle, dtype=torch.float64))
            pair = torch.complex(vector[a], vector[b]) * turn
            out[a], out[b] = pair.real, pair.imag
        return out

    qkv = {(i, j): block.qkv(block.norm(x[0, :, i, j])).chunk(3) for i, j in locations}
    for i, j in locations:
        query = turned(qkv[i, j][0], i, j)
        scores = torch.stack([query @ turned(qkv[a, b][1], a, b) / 8**0.5 for a, b in locations])
        mean = sum(w * qkv[place][2] for w, place in zip(scores.softmax(0), locations, strict=True))
        torch.testing.assert_close(found[0, :, i, j], x[0, :, i, j] + block.out(mean), rtol=1e-6, atol=1e-6)


def test_two_heads_and_the_perceptron_equal_their_formulas():
    """A head of 4 channels has one pair for the row and one for the column, at rate 1, and divides its scores by 2."""
    context = random_attention(num_heads=2, expansion=2)
    x, valid = torch.randn(1, 8, 1, 2, dtype=torch.float64), torch.ones(1, 1, 1, 2, dtype=torch.bool)
    block, rows = context.blocks[0], x[0, :, 0].T
    q, k, v = block.qkv(block.norm(rows)).chunk(3, 1)
    mixed = []
    for head in (slice(0, 4), slice(4, 8)):
        query, key = q[:, head].clone(), k[:, head].clone()
        for turned in (query, key):
            a, b = turned[1, 2].clone(), turned[1, 3].clone()
            turned[1, 2], turned[1, 3] = a * math.cos(1) - b * math.sin(1), a * math.sin(1) + b * math.cos(1)
        mixed.append((query @ key.T / 2).softmax(1) @ v[:, head])
    expected = rows + block.out(torch.cat(mixed, 1))
    norm, first, _, second = block.mlp
    spread = (expected.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    z = first((expected - expected.mean(1, keepdim=True)) / spread * norm.weight + norm.bias)
    expected = expected + second(z * (1 + torch.erf(z / 2**0.5)) / 2)  # GELU
    torch.testing.assert_close(context(x, valid)[0, :, 0].T, expected)


def test_products_of_turned_vectors_depend_on_the_difference_of_locations():
    query, key = torch.randn(2, 1, 1, 1, 8).expand(2, 1, 1, 5 * 6, 8)
    scores = (rotate(query, (5, 6)) @ rotate(key, (5, 6)).mT).view(5, 6, 5, 6)
    torch.testing.assert_close(scores[0, 0, 2, 3], scores[2, 1, 4, 4])
    assert (scores[0, 0, 2, 3] - scores[0, 0, 3, 2]).abs() > 1e-4
    assert (scores[0, 0, 0, 2] - scores[0, 2, 0, 0]).abs() > 1e-4


def test_heads_are_separate():
    """With the other head's values at 0 its channels of the output are 0."""
    context = random_attention(num_heads=2, expansion=0, hidden_channels=8)
    block = context.blocks[0]
    with torch.no_grad():
        block.out.weight.copy_(torch.eye(8))
        block.out.bias.zero_()
        block.qkv.weight[20:], block.qkv.bias[20:] = 0, 0  # values of the second head
    x, valid = torch.randn(1, 8, 2, 3, dtype=torch.float64), torch.ones(1, 1, 2, 3, dtype=torch.bool)
    added = context(x, valid) - x
    assert (added[:, 4:] == 0).all() and (added[:, :4] != 0).all()


def test_channels_that_positions_cannot_share_are_refused():
    with pytest.raises(UserError, match="a multiple of 16"):
        SelfAttention(8, hidden_channels=24, num_heads=4)


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_scores_beyond_half_precision_stay_finite(precision):
    """A score of 64 products of 40 × 40 is 102 400, and float16 ends at 65 504."""
    context = NonLocal(64, hidden_channels=64)
    for conv in (context.query, context.key, context.value, context.out):
        torch.nn.init.dirac_(conv.weight)
    x, valid = torch.full((1, 64, 3, 3), 40.0), torch.ones(1, 1, 3, 3, dtype=torch.bool)
    exact = context(x, valid)
    with torch.autocast("cpu", dtype=precision):
        y = context(x, valid)
    torch.testing.assert_close(y.float(), exact, rtol=0.02, atol=0.02)


def test_dropout_is_of_training_only():
    torch.manual_seed(0)
    made, plain = (SelfAttention(8, num_heads=2, dropout=d) for d in (0.5, 0.0))
    torch.nn.init.eye_(made.blocks[0].out.weight)
    plain.load_state_dict(made.state_dict())
    x, valid = torch.randn(1, 8, 3, 4), torch.ones(1, 1, 3, 4, dtype=torch.bool)
    assert not torch.equal(made(x, valid), made(x, valid))
    assert torch.equal(made.eval()(x, valid), plain(x, valid))


def test_an_image_without_any_location_attends_to_all():
    q, k, v = torch.randn(3, 1, 2, 5, 4, generator=torch.Generator().manual_seed(0))
    found = masked_attention(q, k, v, torch.zeros(1, 5, dtype=torch.bool))
    torch.testing.assert_close(found, masked_attention(q, k, v, torch.ones(1, 5, dtype=torch.bool)))
