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
    "s6": cells.S6,
    "s6_of_one": partial(cells.S6, state_size=1),
    "ssd": partial(cells.SSD, state_size=3),
    "ssd_of_one_head": partial(cells.SSD, state_size=2, num_heads=1),
    "mlstm": cells.MLSTM,
    "mlstm_of_one_head": partial(cells.MLSTM, num_heads=1),
    "slstm": cells.SLSTM,
    "slstm_of_one_head": partial(cells.SLSTM, num_heads=1),
}


def sigma(x):
    return 1 / (1 + torch.exp(-x))


def tanh(x):
    return (torch.exp(x) - torch.exp(-x)) / (torch.exp(x) + torch.exp(-x))


def relu(x):
    return x * (x > 0)


def state_space_step(cell, x, state):
    """Channel by channel, state by state."""
    size, heads, count = cell.hidden_size, cell.num_heads, cell.state_size
    new, step, b, c = x[:, :size], x[:, size : size + heads], x[:, -2 * count : -count], x[:, -count:]
    step = torch.log(1 + torch.exp(step + cell.bias_hh[:heads]))
    b, c = b + cell.bias_hh[heads : heads + count], c + cell.bias_hh[heads + count :]
    rates = torch.exp(cell.decay_log).expand(heads, count)
    h, y = [], []
    for d in range(size):
        head = d * heads // size
        own = []
        for n in range(count):
            a = torch.exp(-step[:, head] * rates[head, n])
            own.append(a * state[1][:, d * count + n] + step[:, head] * b[:, n] * new[:, d])
        y.append(sum(c[:, n] * h_n for n, h_n in enumerate(own)) + cell.skip[head] * new[:, d])
        h += own
    return torch.stack(y, 1), torch.stack(h, 1)


def mlstm_step(cell, x, state):
    """Head by head, with scaled sums as the paper has them, m at least 0."""
    size, heads = cell.hidden_size, cell.num_heads
    width = size // heads
    q, k, v, o = x[:, : 4 * size].split(size, 1)
    q, k = q + cell.bias_hh[:size], k + cell.bias_hh[size : 2 * size]
    i, f = (x[:, 4 * size :] + cell.bias_hh[2 * size :]).split(heads, 1)
    outputs, memories, totals, exponents = [], [], [], []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        log_f, before = torch.log(sigma(f[:, head])), state[3][:, head]
        m = torch.stack([log_f + before, i[:, head], 0 * before], 1).amax(1)
        keep, take = torch.exp(log_f + before - m)[:, None], torch.exp(i[:, head] - m)[:, None]
        key = k[:, part] / width**0.5
        memory = state[1].view(-1, heads, width, width)[:, head]
        memory = keep[..., None] * memory + torch.einsum("nv,nk->nvk", take * v[:, part], key)
        total = keep * state[2][:, part] + take * key
        floor = torch.maximum((total * q[:, part]).sum(1).abs(), torch.exp(-m))
        outputs.append(sigma(o[:, part]) * torch.einsum("nvk,nk->nv", memory, q[:, part]) / floor[:, None])
        memories.append(memory.flatten(1))
        totals.append(total)
        exponents.append(m)
    return torch.cat(outputs, 1), torch.cat(memories, 1), torch.cat(totals, 1), torch.stack(exponents, 1)


def slstm_step(cell, x, state):
    h, c, n, m = state
    size, width = cell.hidden_size, cell.weight_hh.shape[1]
    rows = cell.weight_hh.view(4, size // width, width, width)
    read = [torch.cat([part @ u.T for part, u in zip(h.split(width, 1), gate, strict=True)], 1) for gate in rows]
    i, f, z, o = (w + u + b for w, u, b in zip(x.split(size, 1), read, cell.bias_hh.split(size), strict=True))
    begins = n == 0
    kept = torch.log(sigma(f)) + m
    m = torch.where(begins, i, torch.maximum(kept, i))
    keep = torch.where(begins, 0, torch.exp(kept - m))
    c, n = keep * c + torch.exp(i - m) * tanh(z), keep * n + torch.exp(i - m)
    return sigma(o) * c / n, c, n, m


OWN = {"s6": state_space_step, "ssd": state_space_step, "mlstm": mlstm_step, "slstm": slstm_step}


def naive_step(name, cell, x, state):
    """One step from pre-activations (N, P), gate by gate, with the cell's parameters."""
    if own := OWN.get(name.split("_")[0]):
        return own(cell, x, state)
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
