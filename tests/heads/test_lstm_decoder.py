"""The decoder against one written out step by step, where it stops, and by its properties."""

from functools import partial

import pytest
import torch
from torch import nn

from detection.cells import CELLS, GRU, LSTM, Cell, TiedLSTM
from detection.config.serialization import from_plain
from detection.errors import UserError
from detection.heads.lstm_decoder import LSTMDecoder

R, F, D, T, K = 6, 5, 4, 3, 2


def make(**settings):
    """A decoder in float64 with every parameter drawn again."""
    torch.manual_seed(0)
    decoder = LSTMDecoder(F, K, **{"num_steps": T, "hidden_size": D, "dropout": 0.0, **settings}).double()
    for parameter in decoder.parameters():
        nn.init.normal_(parameter, std=0.7)
    return decoder


def inputs(count=R, seed=1):
    return torch.randn(count, F, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def naive(decoder, x):
    """Region by region, step by step, with PyTorch's own cells: boxes (R, T, 4) and logits (R, T, 1 + K)."""
    cells = []
    for cell in decoder.cells:
        twin = nn.LSTMCell(cell.input_size, D).double()
        twin.load_state_dict(cell.state_dict())
        cells.append(twin)
    rows = []
    for region in x:
        states = [(torch.zeros(1, D, dtype=torch.float64),) * 2 for _ in cells]
        for t in range(T):
            h = region[None]
            for layer, cell in enumerate(cells):
                states[layer] = cell(h, states[layer])
                h = states[layer][0]
            head = 0 if decoder.shared_heads else t
            rows.append(decoder.weight[head] @ h[0] + decoder.bias[head])
    numbers = torch.stack(rows).unflatten(0, (len(x), T))
    return numbers[..., :4], numbers[..., 4:]


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("shared", [False, True])
def test_it_equals_a_step_by_step_version(layers, shared):
    decoder, x = make(layers=layers, shared_heads=shared), inputs()
    codes, logits = naive(decoder, x)
    found = decoder(x)
    torch.testing.assert_close(found.codes, codes)
    torch.testing.assert_close(found.logits, logits)
    assert found.hidden.shape == (R, T, D) and found.going.all()


def test_one_step_by_hand():
    """One number in, one out: i = σ(1), o = σ(2), g = tanh(3), c = i·g, h = o·c; the box is 1, 2, 3, 4 times h."""
    decoder = LSTMDecoder(1, 1, num_steps=1, cell=partial(TiedLSTM, bias=False), hidden_size=1, dropout=0.0)
    with torch.no_grad():
        decoder.cells[0].weight_ih.copy_(torch.tensor([[1.0], [3.0], [2.0]]))
        decoder.weight.copy_(torch.tensor([1.0, 2, 3, 4, 0, -1])[None, :, None])
    h = 0.7310586 * 0.9950548 * 0.8807971
    found = decoder(torch.ones(1, 1))
    torch.testing.assert_close(found.codes, torch.tensor([[[h, 2 * h, 3 * h, 4 * h]]]))
    torch.testing.assert_close(found.logits, torch.tensor([[[0.0, -h]]]))


@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_decodes_and_learns(cell):
    decoder = make(cell=partial(cell), layers=2)
    found = decoder(inputs())
    (found.codes.square().sum() + found.logits.logsumexp(-1).sum()).backward()
    assert found.codes.shape == (R, T, 4) and found.logits.shape == (R, T, 1 + K)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in decoder.parameters())


def test_gradients():
    decoder, x = make(cell=partial(GRU), layers=2), inputs(2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: decoder(x).codes.sum(-1) + decoder(x).logits.sum(-1), x)


def test_regions_are_decoded_alone():
    decoder, x = make(), inputs()
    together, order = decoder(x), torch.tensor([3, 0, 5, 1, 2, 4])
    torch.testing.assert_close(decoder(x[order]).logits, together.logits[order])
    for region in range(R):
        torch.testing.assert_close(decoder(x[region : region + 1]).codes, together.codes[region : region + 1])
    assert decoder(x[:0]).codes.shape == (0, T, 4)


def test_a_region_stops_at_its_first_step_that_says_background():
    decoder, x = make(), inputs(40)
    free, stopped = decoder(x), decoder(x, stop_below=0.5)
    confident = free.logits.softmax(-1)[..., 0] <= 0.5
    expected = torch.tensor([[all(row[: t + 1]) for t in range(T)] for row in confident.tolist()])
    steps = stopped.going.shape[1]
    assert (stopped.going == expected[:, :steps]).all() and not expected[:, steps:].any()
    assert torch.equal(stopped.codes, free.codes[:, :steps])
    assert 0 < expected.sum() < expected.numel()


@pytest.mark.parametrize(("bias", "steps"), [(10.0, 1), (-10.0, T)])
def test_decoding_ends_when_every_region_has_stopped(bias, steps):
    decoder = make()
    with torch.no_grad():
        decoder.bias[:, 4] = bias
    assert decoder(inputs(), stop_below=0.5).codes.shape[1] == steps


class Echo(Cell):
    """A cell whose output is its input."""

    recurrent_gates = 0

    def step(self, x, state):
        return (x,)


def test_dropout_is_of_training_only_and_not_of_the_state():
    decoder, x = make(dropout=0.5), inputs()
    plain = make()
    assert not torch.equal(decoder(x).hidden, decoder(x).hidden)
    dropped = decoder(x).hidden
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], 2 * plain(x).hidden[kept])  # the states went on undropped
    decoder.eval()
    torch.testing.assert_close(decoder(x).hidden, plain(x).hidden)


def test_dropout_is_between_layers_and_after_the_last():
    decoder = LSTMDecoder(64, 1, num_steps=2, cell=partial(Echo, bias=False), hidden_size=64, layers=2, dropout=0.5)
    for cell in decoder.cells:
        nn.init.eye_(cell.weight_ih)
    hidden = decoder(torch.ones(8, 64)).hidden
    assert hidden.unique().tolist() == [0, 4]  # kept twice: 2 · 2
    assert (hidden == 0).float().mean().item() == pytest.approx(0.75, abs=0.05)


def test_outputs_start_within_the_inverse_root_of_the_hidden_size():
    assert 0.095 < LSTMDecoder(5, 1, hidden_size=100).weight.abs().max() <= 0.1


def test_the_start_of_reinspect():
    decoder = LSTMDecoder(300, 1, cell=partial(LSTM, bias=False), init_range=0.1)
    assert 0.09 < decoder.cells[0].weight_ih.abs().max() <= 0.1 and 0.09 < decoder.weight.abs().max() <= 0.1
    assert (decoder.bias == 0).all() and (LSTMDecoder(5, 1, init_range=0.1).cells[0].bias_hh == 0).all()


def test_numbers_stay_in_float32_under_autocast():
    decoder, x = make().float(), inputs().float()
    exact = decoder(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = decoder(x)
    assert found.codes.dtype == found.logits.dtype == found.hidden.dtype == torch.float32
    torch.testing.assert_close(found.codes, exact.codes, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    "settings", [{"num_steps": 0}, {"hidden_size": 0}, {"layers": 0}, {"dropout": 1.0}, {"dropout": -0.1}]
)
def test_numbers_that_cannot_be_get_one_sentence(settings):
    (name, value) = next(iter(settings.items()))
    with pytest.raises(UserError, match=f"^head.decoder.{name}={value}: must be .*[.]$"):
        from_plain(partial(LSTMDecoder, **settings), partial[LSTMDecoder], "head.decoder")


def test_a_region_that_has_stopped_does_not_begin_again():
    """It stops above a background probability of 0.9; after four of five steps all have, and no fifth is decoded."""
    decoder = LSTMDecoder(2, 1, num_steps=5, cell=partial(Echo, bias=False), hidden_size=2, dropout=0.0)
    background = torch.tensor([[0.1, 0.1], [0.95, 0.85], [0.1, 0.1], [0.85, 0.95], [0.1, 0.1]])  # by step and region
    with torch.no_grad():
        decoder.cells[0].weight_ih.copy_(torch.eye(2))
        decoder.weight.zero_()
        decoder.weight[:, 4] = background.logit()
    found = decoder(torch.eye(2), stop_below=0.1)
    torch.testing.assert_close(found.logits.softmax(-1)[..., 0], background[:4].T)
    assert found.going.tolist() == [[True, False, False, False], [True, True, True, False]]


def test_a_region_goes_on_at_the_threshold_itself():
    decoder = LSTMDecoder(2, 1, num_steps=3, hidden_size=2)
    nn.init.zeros_(decoder.weight)
    found = decoder(torch.ones(1, 2), stop_below=0.5)
    assert (found.logits.softmax(-1) == 0.5).all() and found.going.tolist() == [[True] * 3]
