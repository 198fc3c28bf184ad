"""Two-dimensional recurrences location by location, as references."""

import torch


def at_each(height, width, corner, step, zero):
    """Call step(row, column, state of the vertical neighbor, of the horizontal one) in order; return the first parts.

    `zero` is the state (a tuple) beyond the border.
    """
    from_below, from_right = corner.startswith("bottom"), corner.endswith("right")
    rows, columns = range(height), range(width)
    states = {}
    for r in reversed(rows) if from_below else rows:
        for c in reversed(columns) if from_right else columns:
            vertical = states.get((r + 1 if from_below else r - 1, c), zero)
            horizontal = states.get((r, c + 1 if from_right else c - 1), zero)
            states[r, c] = step(r, c, vertical, horizontal)
    return torch.stack([torch.stack([states[r, c][0] for c in columns], -1) for r in rows], -2)


def naive_grid_lstm(x, weight, bias, valid, corner, stable=False):
    """MDLSTM by its formulas: x (B, 5·D, H, W), weight (5·D, 2·D), bias (5·D)."""
    size = weight.shape[1] // 2

    def step(r, c, vertical, horizontal):
        products = vertical[0] @ weight[:, :size].T + horizontal[0] @ weight[:, size:].T
        i, f, other_f, o, g = (x[:, :, r, c] + products + bias).chunk(5, 1)
        keep, other = f.sigmoid(), other_f.sigmoid()
        if stable:
            kept = keep * (other * vertical[1] + (1 - other) * horizontal[1])
        else:
            kept = keep * vertical[1] + other * horizontal[1]
        cell = (kept + i.sigmoid() * g.tanh()) * valid[:, :, r, c]
        return o.sigmoid() * cell.tanh(), cell

    zero = x.new_zeros(len(x), size)
    return at_each(*x.shape[2:], corner, step, (zero, zero))


def naive_grid_linear(value, gates, valid, corner):
    """pLSTM's form by its formulas: value (B, D, H, W), gates of one corner (B, D, H, W)."""

    def step(r, c, vertical, horizontal):
        v, inside = value[:, :, r, c], valid[:, :, r, c]
        g = type(gates)(*(gate[:, :, r, c] * inside for gate in gates))
        h, u = horizontal[1], vertical[2]
        right = g.source_h * v + g.hh * h + g.vh * u
        down = g.source_v * v + g.hv * h + g.vv * u
        return g.mark_h * h + g.mark_v * u + g.mark * v, right, down

    zero = torch.zeros_like(value[:, :, 0, 0])
    return at_each(*value.shape[2:], corner, step, (zero, zero, zero))
