"""Initializations of cells: what a cell keeps at first over a line, which biases are set, and how configs name them."""

import dataclasses
import json
import math
from functools import partial

import pytest
import torch

from detection.cells import (
    CELLS,
    GRU,
    IRNN,
    LSTM,
    MLSTM,
    MUT1,
    MUT2,
    RGLRU,
    S6,
    SLSTM,
    SSD,
    Accumulator,
    Cell,
    GatedLinear,
    IndRNN,
    LinearCell,
    MinGRU,
    MinLSTM,
    PeepholeLSTM,
    ScannedCell,
    TanhRNN,
    TiedLSTM,
    chrono,
    framework_default,
    initialization,
    with_short_memory,
)
from detection.config.serialization import from_plain, set_key, to_plain
from detection.context import AttentionLSTM, SelfAttention
from detection.errors import UserError
from detection.heads.lstm_decoder import LSTMDecoder
from detection.ops.sweep.dispatch import sweep

SIZE = 64
# What the docstrings explain: a tanh contracts, and a tied output gate would close.
SHORT = {TanhRNN, TiedLSTM}


def kept(cell):
    """The share of each channel's state that a step keeps on an input of 0, with recurrent matrices of 0."""
    with torch.no_grad():
        if cell.recurrent_gates:
            cell.weight_hh.zero_()
        state = tuple(torch.full((1, cell.hidden_size), v) for v in (0.1, 1.0, 1.0)[: cell.num_states])
        if cell.num_states == 2 and cell.num_flags == 0:
            state = (torch.zeros(1, cell.hidden_size), state[0])  # h and c
        after = cell(torch.zeros(1, cell.gates * cell.hidden_size), state)
        before = cell(torch.zeros(1, cell.gates * cell.hidden_size), tuple(torch.zeros_like(s) for s in state))
        memory = 1 if cell.num_states == 2 and cell.num_flags == 0 else 0
        return ((after[memory] - before[memory]) / 0.1)[0]


@pytest.mark.parametrize("cell", [LSTM, PeepholeLSTM, TiedLSTM, GRU, MUT1, MUT2, MinGRU, MinLSTM, RGLRU])
def test_a_gate_keeps_what_its_initialization_asks_for(cell):
    torch.manual_seed(0)
    value = torch.sigmoid(torch.tensor(3.0)).item()
    made = cell(SIZE, init=partial(initialization.forget_bias, value=3.0))
    if cell is RGLRU:
        made.bias_hh.data[0] = 100  # r = 1
    torch.testing.assert_close(kept(made), torch.full((SIZE,), value), rtol=1e-3, atol=1e-4)
    made = cell(2000, init=partial(initialization.chrono, longest=11))
    if cell is RGLRU:
        made.bias_hh.data[0] = 100
    found = kept(made)
    steps = 1 / (1 - found)  # 1 + u, u uniform in [1, 10]
    assert steps.min() > 1.99 and steps.max() < 11.01 and steps.mean().item() == pytest.approx(6.5, abs=0.3)


def test_a_floor_is_under_what_a_gated_linear_unit_keeps():
    value = torch.sigmoid(torch.tensor(2.0)).item()
    made = GatedLinear(SIZE, init=partial(initialization.forget_bias, value=2.0), floor=0.8)
    torch.testing.assert_close(kept(made), torch.full((SIZE,), 0.8 + 0.2 * value))
    assert kept(
        GatedLinear(SIZE, init=partial(initialization.forget_bias, value=-50.0), floor=0.8)
    ).min() == pytest.approx(0.8)


@pytest.mark.parametrize(
    "init", [partial(initialization.chrono, longest=9), partial(initialization.uniform_gate)], ids=["chrono", "uniform"]
)
def test_an_lstm_takes_in_what_it_does_not_keep(init):
    for cell in (LSTM(SIZE, 3, init=init), LSTM(SIZE, init=init)):
        i, f = sum(b for n, b in cell.named_parameters() if n.startswith("bias")).split(SIZE)[:2]
        assert f.std() > 0.1 and torch.equal(i, -f)


@pytest.mark.parametrize("cell", [S6, SSD])
def test_a_state_space_keeps_what_its_initialization_asks_for(cell):
    torch.manual_seed(0)

    def parts(**settings):
        made = cell(SIZE, **settings)
        keep, taken = made.coefficients(torch.zeros(1, made.projection_channels))
        assert not taken.any()
        _, step, b, c = made.parts(torch.zeros(1, made.projection_channels))
        if made.bias_hh is not None:  # what enters is read with a weight of 1
            assert (b @ c.T).item() == pytest.approx(1)
        return keep.unflatten(1, (SIZE, -1))[0], step[0]

    share = torch.sigmoid(torch.tensor(3.0))
    keep, step = parts(init=partial(initialization.forget_bias, value=3.0))
    torch.testing.assert_close(keep, share.expand_as(keep))
    torch.testing.assert_close(step, torch.ones_like(step))
    keep, step = parts(init=partial(initialization.forget_bias, value=3.0), bias=False)
    torch.testing.assert_close(keep, share.expand_as(keep))
    keep, step = parts(init=partial(initialization.chrono, longest=11))
    heads = keep[:: SIZE // len(step), 0]
    torch.testing.assert_close(step, 1 - heads)  # takes in what it does not keep
    assert keep.min() > 0.49 and keep.max() < 10.01 / 11 and heads.std() > 0.03


def test_the_papers_starts_of_state_spaces():
    torch.manual_seed(0)
    start = partial(framework_default)
    for cell, rates in ((S6(1000, init=start), [1, 2, 3, 4]), (SSD(1000, num_heads=1000, init=start), None)):
        step = torch.nn.functional.softplus(cell.bias_hh[:1000])
        assert not cell.bias_hh[1000:].any()
        assert step.min() >= 0.001 - 1e-6 and step.max() <= 0.1 + 1e-6
        assert step.log().mean().item() == pytest.approx(math.log(0.01), rel=0.03)
        assert torch.equal(cell.skip, torch.ones(1000))
        if rates:
            torch.testing.assert_close(-cell.decay(), torch.tensor([rates] * 1000).float())
        else:
            assert (-cell.decay()).min() >= 1 and (-cell.decay()).max() <= 16


@pytest.mark.parametrize("cell", [MLSTM, SLSTM])
def test_an_exponential_gate_keeps_what_its_initialization_asks_for(cell):
    torch.manual_seed(0)
    made = cell(SIZE, init=partial(initialization.forget_bias, value=3.0))
    if cell is SLSTM:
        made.weight_hh.data.zero_()
        made.bias_hh.data[:SIZE] = 0  # i, which would change the scale
        made.bias_hh.data[2 * SIZE : 3 * SIZE] = 0  # z
    h, c, n, m = (torch.ones(1, size) for size in made.state_sizes)
    _, after, *_ = made(torch.zeros(1, made.projection_channels), (h, c, n, 0 * m))
    share = torch.sigmoid(torch.tensor(3.0))
    torch.testing.assert_close(after, share.expand_as(after))
    made = cell(SIZE, init=partial(initialization.chrono, longest=9))
    biases = made.bias_hh[2 * SIZE :].chunk(2) if cell is MLSTM else made.bias_hh.split(SIZE)
    assert torch.equal(biases[0], -biases[1]) and biases[1].std() > 0.1


def test_an_slstm_has_a_recurrent_matrix_a_head():
    blocks = SLSTM(SIZE, num_heads=4, init=partial(initialization.orthogonal)).weight_hh.split(SIZE // 4)
    assert len(blocks) == 16
    for block in blocks:
        torch.testing.assert_close(block @ block.T, torch.eye(SIZE // 4), atol=1e-5, rtol=0)


@pytest.mark.parametrize("cell", [SSD, MLSTM, SLSTM])
def test_heads_share_the_channels(cell):
    assert [cell(size).num_heads for size in (64, 6, 5)] == [4, 2, 1]
    with pytest.raises(UserError, match="cell.num_heads=3: must divide the cell's hidden size, 64"):
        cell(64, num_heads=3)


def test_uniform_gate_and_decay_are_uniform():
    torch.manual_seed(0)
    for init, low, high in (
        (initialization.uniform_gate(1000), 0.001, 0.999),
        (initialization.uniform_decay(1000), 0.9, 0.999),
    ):
        share = torch.sigmoid(init.keep)
        assert low - 1e-5 <= share.min() and share.max() <= high + 1e-5
        assert share.mean().item() == pytest.approx((low + high) / 2, rel=0.03)


@pytest.mark.parametrize("cell", [LSTM, PeepholeLSTM])
def test_forget_bias_is_of_both_vectors_together(cell):
    for lstm in (cell(SIZE, 3), cell(SIZE)):
        biases = [b for n, b in lstm.named_parameters() if n.startswith("bias")]
        assert sum(b.chunk(4)[1] for b in biases).tolist() == [5.0] * SIZE
        assert lstm.bias_hh.chunk(4)[0].tolist() != [5.0] * SIZE
    assert cell(SIZE, init=partial(initialization.forget_bias, value=1)).bias_hh.chunk(4)[1].tolist() == [1.0] * SIZE


def test_framework_default_is_pytorchs():
    torch.manual_seed(0)
    theirs = torch.nn.LSTMCell(3, SIZE)
    torch.manual_seed(0)
    ours = LSTM(SIZE, 3, init=partial(initialization.framework_default))
    bound = SIZE**-0.5
    for name, value in theirs.state_dict().items():
        found = ours.state_dict()[name]
        assert found.abs().max() <= bound and found.std().item() == pytest.approx(value.std().item(), rel=0.1)


def test_recurrent_matrices():
    u = TanhRNN(SIZE, init=partial(initialization.orthogonal)).weight_hh
    torch.testing.assert_close(u @ u.T, torch.eye(SIZE), atol=1e-5, rtol=0)
    assert torch.equal(
        TanhRNN(SIZE, init=partial(initialization.scaled_identity, scale=0.5)).weight_hh, 0.5 * torch.eye(SIZE)
    )
    assert torch.equal(IRNN(SIZE).weight_hh, torch.eye(SIZE))
    for block in GRU(SIZE, init=partial(initialization.orthogonal, gain=2.0)).weight_hh.chunk(3):
        torch.testing.assert_close(block @ block.T, 4 * torch.eye(SIZE), atol=1e-4, rtol=0)


@pytest.mark.parametrize("cell", [TanhRNN, IRNN, IndRNN, Accumulator])
def test_a_cell_without_a_gate_refuses_a_forget_bias(cell):
    with pytest.raises(UserError, match=f"cell.init: {cell.__name__} has no gate that keeps its state"):
        cell(SIZE, init=partial(initialization.chrono))
    if not cell.recurrent_gates:
        with pytest.raises(UserError, match="has no recurrent matrix"):
            cell(SIZE, init=partial(initialization.orthogonal))


def test_modules_of_a_few_steps_take_a_short_memory():
    assert with_short_memory(partial(LSTM))(SIZE).bias_hh[SIZE].item() == 1
    assert with_short_memory(LSTM)(SIZE).bias_hh[SIZE].item() == 1
    assert (
        with_short_memory(partial(LSTM, init=partial(initialization.forget_bias, value=3)))(SIZE).bias_hh[SIZE].item()
        == 3
    )
    assert with_short_memory(partial(GRU))(SIZE).bias_hh.abs().max() <= SIZE**-0.5
    assert with_short_memory(partial(IRNN)).keywords == {}
    context, decoder = AttentionLSTM(4, hidden_channels=SIZE), LSTMDecoder(4, 2, cell=partial(GRU), hidden_size=SIZE)
    assert context.cells[0].bias_hh[SIZE].item() == 1 and decoder.cells[0].bias_hh.abs().max() <= SIZE**-0.5


def test_attention_refuses_a_learned_initial_state():
    with pytest.raises(UserError, match="AttentionLSTM computes initial states of the features"):
        AttentionLSTM(4, cell=partial(LSTM, learned_initial_state=True))


def test_without_biases_the_default_leaves_matrices_alone():
    assert all("weight" in name for name, _ in LSTM(SIZE, 3, bias=False).named_parameters())


@pytest.mark.parametrize("cell", CELLS, ids=lambda c: c.__name__)
def test_default_cells_remember_a_line_of_40_locations(cell):
    """The gradient of the last output by the first input against that by the last, through random pre-activations."""
    torch.manual_seed(0)
    x = torch.randn(8, cell(SIZE).projection_channels, 1, 41, requires_grad=True)
    y = sweep([cell(SIZE)], 0.5 * x, None, ["right"])
    (gradient,) = torch.autograd.grad(y[..., -1], x, torch.randn(8, SIZE, 1))
    far, near = (gradient[..., t].square().sum().sqrt() for t in (0, 40))
    assert (far / near >= 0.1) == (cell not in SHORT), far / near


@pytest.mark.parametrize("cell", [c for c in CELLS if not issubclass(c, ScannedCell)], ids=lambda c: c.__name__)
@pytest.mark.parametrize("masked", [False, True])
def test_a_learned_initial_state(cell, masked):
    """At every location whose predecessor is outside the image, whether a line begins in the padding or at its edge."""
    torch.manual_seed(0)
    made = cell(3, learned_initial_state=True).double()
    assert not made.initial.any() and made.initial.shape == (cell.num_states - cell.num_flags, 3)
    with torch.no_grad():
        made.initial.normal_()
    x = torch.randn(2, made.projection_channels, 2, 5, dtype=torch.float64)
    valid = torch.ones(2, 1, 2, 5, dtype=torch.bool)
    valid[0, :, :, 3:] = False
    for direction in ("right", "left"):
        y = sweep([made], x, valid if masked else None, [direction])
        for image, width in ((0, 3 if masked else 5), (1, 5)):
            order = range(width) if direction == "right" else reversed(range(width))
            state = None
            for t in order:
                state = made(x[image, :, :, t].T, state)
                torch.testing.assert_close(y[image, :, :, t].T, state[0], rtol=1e-10, atol=1e-10)
            assert not y[image, :, :, width:].any()
        steps = sweep([made], x, valid if masked else None, [direction], backend="steps")
        torch.testing.assert_close(y, steps, rtol=1e-10, atol=1e-10)
        (gradient,) = torch.autograd.grad(y.square().sum(), [made.initial])
        assert gradient.abs().sum(1).min() > 0


@pytest.mark.parametrize("cell", [S6, SSD, MLSTM])
def test_a_large_memory_begins_empty(cell):
    for settings in ({}, {"state_size": 1} if cell is not MLSTM else {"num_heads": 1}):
        with pytest.raises(UserError, match=f"{cell.__name__} begins with an empty memory; leave it out"):
            cell(1, learned_initial_state=True, **settings)


@dataclasses.dataclass(frozen=True)
class Settings:
    cell: partial[Cell] = partial(LSTM)


def test_initializations_are_settings():
    settings = Settings(partial(LSTM, init=partial(initialization.chrono, longest=60)))
    plain = json.loads(json.dumps(to_plain(settings)))
    assert plain["cell"]["init"] == {"class": "detection.cells.chrono", "longest": 60}
    rebuilt = from_plain(plain, Settings)
    assert rebuilt.cell.keywords["init"].func is initialization.chrono and rebuilt.cell.keywords["init"].keywords == {
        "longest": 60
    }
    changed = set_key(settings, "cell.init.longest", "20")
    assert changed.cell.keywords["init"].keywords == {"longest": 20}
    changed = set_key(set_key(settings, "cell.init", "detection.cells.forget_bias"), "cell.init.value", "2")
    assert changed.cell(SIZE).bias_hh[SIZE].item() == 2


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("detection.cells.crono", "cell.init: there is no class detection.cells.crono"),
        ("detection.cells.GRU", "cell.init=detection.cells.GRU: must be an Initialization; such are detection.cells."),
        ("detection.cells.Initialization", "must be an Initialization; such are"),
        ("detection.atomic_write.write_json", "must be an Initialization; such are detection.cells."),
        ("os.system", "'os.system' is not a class of the package `detection`"),
    ],
)
def test_what_is_no_initialization_is_refused(text, sentence):
    with pytest.raises(UserError) as error:
        set_key(Settings(), "cell.init", text)
    assert sentence in str(error.value)
    with pytest.raises(UserError, match="must be a.* Cell; such are|must be a Cell"):
        set_key(Settings(), "cell", "detection.cells.chrono")
    with pytest.raises(UserError, match=r"longest=2: must be at least 3"):
        set_key(Settings(partial(LSTM, init=partial(initialization.chrono))), "cell.init.longest", "2")


@pytest.mark.parametrize("cell", [S6, SSD])
def test_chrono_without_biases(cell):
    torch.manual_seed(0)
    made = cell(64, init=partial(chrono, longest=11), bias=False)
    keep, _ = made.coefficients(torch.zeros(1, made.projection_channels))
    assert keep.min() > 0.49 and keep.max() < 10.01 / 11 and keep.std() > 0.03


@pytest.mark.parametrize("cell", [MinGRU, MinLSTM, GatedLinear, S6, SSD, MLSTM, SLSTM])
def test_few_steps_take_a_short_memory(cell):
    torch.manual_seed(0)
    made = with_short_memory(partial(cell))(8)
    assert made.init.func is initialization.forget_bias and made.init.keywords == {"value": 1.0}


def test_defaults():
    torch.manual_seed(0)
    keep = initialization.chrono(5000).keep
    assert 38 < keep.exp().max() <= 39
    assert SelfAttention(8, num_heads=2).blocks[0].mlp[1].out_features == 16
    assert S6(4).state_size == 4 and SSD(4).state_size == 16


def test_a_floor_starts_at_a_half():
    torch.testing.assert_close(GatedLinear(3).floor_logit.sigmoid(), torch.full((3,), 0.5))


@pytest.mark.parametrize("cell", [MinGRU, MinLSTM, GatedLinear, S6, SSD, MLSTM])
def test_an_input_side_adds_nothing_to_the_gates(cell):
    """The sum of both biases is what `init` asks for."""
    torch.manual_seed(0)
    made = cell(16, 3, num_heads=16) if cell is MLSTM else cell(16, 3)
    own = made.project(torch.zeros(1, 3))
    if isinstance(made, LinearCell):
        gates = own.chunk(made.gates, -1)[:-1]
        for gate, bias, sign in zip(gates, made.bias_hh, made.keep_signs, strict=True):
            torch.testing.assert_close(gate[0] + bias, torch.full((16,), 5.0 * sign))
    elif cell is MLSTM:
        f = own[0, -16:] + made.bias_hh[-16:]
        torch.testing.assert_close(f, torch.full((16,), 5.0))
        qk, i = own[0, :32] + made.bias_hh[:32], own[0, 64:80] + made.bias_hh[32:48]
        torch.testing.assert_close(qk, torch.ones(32))  # one channel a head
        torch.testing.assert_close(i, torch.zeros(16))
    else:
        keep, _ = made.coefficients(own)
        torch.testing.assert_close(keep, torch.full_like(keep, torch.sigmoid(torch.tensor(5.0)).item()))
        for part in made.parts(own)[2:]:
            torch.testing.assert_close(part, torch.full_like(part, made.state_size**-0.5))


def test_the_input_side_of_a_gate_that_has_no_recurrent_one_adds_nothing():
    """MUT1's z is the first of its pre-activations, and the last of its bias vectors."""
    made = MUT1(16, 3)
    z = made.project(torch.zeros(1, 3))[0, :16] + made.bias_hh[32:]
    torch.testing.assert_close(z, torch.full((16,), -5.0))


def test_a_tied_lstm_takes_in_what_it_does_not_keep():
    made = TiedLSTM(SIZE, init=partial(chrono, longest=9))
    i, _, o = (made.bias_hh[k * SIZE : (k + 1) * SIZE] for k in range(3))
    assert i.std() > 0.1 and torch.equal(i, o)


def test_a_uniform_gate_of_few_channels_keeps_off_its_ends():
    torch.manual_seed(0)
    share = torch.cat([initialization.uniform_gate(2).keep.sigmoid() for _ in range(20)])
    assert share.min() >= 0.1 and share.max() <= 0.9 and share.std() > 0.1
    assert initialization.uniform_gate(1).keep.isfinite().all()


def test_an_irnn_that_is_left_as_pytorch_initializes_it_has_a_recurrence():
    torch.manual_seed(0)
    weight = IRNN(64, 2, init=partial(framework_default)).weight_hh
    assert weight.abs().max() <= 0.125 and 0.06 < weight.std() < 0.08  # uniform in ±1/8: 0.072
