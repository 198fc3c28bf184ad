"""Every cell, and its step written out by its formula."""

from functools import partial

import torch

from detection import cells

CELLS = {
    "tanh": cells.TanhRNN,
    "irnn": cells.IRNN,
    "ind_rnn": cells.IndRNN,
    "accumulator": cells.Accumulator,
    "lstm": cells.LSTM,
    "peephole": cells.PeepholeLSTM,
    "tied": cells.TiedLSTM,
    "tied_squashed": partial(cells.TiedLSTM, squash=True),
    "gru": cells.GRU,
    "gru_before": partial(cells.GRU, reset="before"),
    "mut1": cells.MUT1,
    "mut2": cells.MUT2,
    "mut3": cells.MUT3,
    "min_gru": cells.MinGRU,
    "min_lstm": cells.MinLSTM,
    "gated_linear": cells.GatedLinear,
    "rg_lru": cells.RGLRU,
}


def sigma(x):
    return 1 / (1 + torch.exp(-x))


def tanh(x):
    return (torch.exp(x) - torch.exp(-x)) / (torch.exp(x) + torch.exp(-x))


def relu(x):
    return x * (x > 0)


def naive_step(name, cell, x, state):
    """One step from pre-activations (N, G·D), gate by gate, with the cell's parameters."""
    h, size = state[0], cell.hidden_size
    w = x.split(size, -1)
    rows = cell.weight_hh.split(size) if cell.recurrent_gates else ()
    biases = cell.bias_hh.split(size) if rows else ()

    def u(gate, value):
        return value @ rows[gate].T + biases[gate]

    match name:
        case "tanh":
            return (tanh(w[0] + u(0, h)),)
        case "irnn":
            return (relu(w[0] + u(0, h)),)
        case "ind_rnn":
            return (relu(w[0] + cell.weight_hh * h),)
        case "accumulator":
            return (relu(w[0] + h),)
        case "lstm" | "peephole":
            c = state[1]
            p_i, p_f, p_o = cell.peephole if name == "peephole" else torch.zeros(3, size)
            i, f = sigma(w[0] + u(0, h) + p_i * c), sigma(w[1] + u(1, h) + p_f * c)
            new = f * c + i * tanh(w[2] + u(2, h))
            return sigma(w[3] + u(3, h) + p_o * new) * tanh(new), new
        case "tied" | "tied_squashed":
            i, g, o = sigma(w[0] + u(0, h)), tanh(w[1] + u(1, h)), sigma(w[2] + u(2, h))
            new = (1 - o) * state[1] + i * g
            return o * (new if name == "tied" else tanh(new)), new
        case "gru" | "gru_before":
            r, z = sigma(w[0] + u(0, h)), sigma(w[1] + u(1, h))
            n = tanh(w[2] + r * u(2, h)) if name == "gru" else tanh(w[2] + u(2, r * h))
            return ((1 - z) * n + z * h,)
        case "mut1":
            z, r = sigma(w[0] + biases[2]), sigma(w[1] + u(0, h))
            return (z * tanh(u(1, r * h) + tanh(w[2])) + (1 - z) * h,)
        case "mut2" | "mut3":
            z = sigma(w[0] + u(0, tanh(h) if name == "mut3" else h))
            r = sigma(w[1] + u(1, h))
            return (z * tanh(u(2, r * h) + w[2]) + (1 - z) * h,)
        case "min_gru":
            z = sigma(w[0] + cell.bias_hh[0])
            return ((1 - z) * h + z * w[1],)
        case "min_lstm":
            f, i = sigma(w[0] + cell.bias_hh[0]), sigma(w[1] + cell.bias_hh[1])
            return (f / (f + i) * h + i / (f + i) * w[2],)
        case "gated_linear":
            floor = sigma(cell.floor_logit)
            f = floor + (1 - floor) * sigma(w[0] + cell.bias_hh[0])
            return (f * h + (1 - f) * w[1],)
        case _:
            r, i = sigma(w[0] + cell.bias_hh[0]), sigma(w[1] + cell.bias_hh[1])
            a = torch.exp(-8 * torch.log(1 + torch.exp(cell.decay)) * r)
            scale = torch.where(state[1] == 0, 1, torch.sqrt(1 - a**2))
            return (a * h + scale * i * w[2], torch.ones_like(h))
