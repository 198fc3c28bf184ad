"""Sweeps of the LSTM. A step is one product for all lines of both directions along an axis.

The gates and the cell states are kept for the backward pass, whose gradient of U is one product after the scan. Outside
the image the pre-activations of i and f are −∞, which makes c and h exactly 0 and lets no gradient through.
"""

# B images, D hidden size, H×W map, K directions, P of them scanned together, T steps, N lines of all images.

import torch
from torch import Tensor
from torch.library import custom_op

from detection.ops.sweep.autograd import Gradients, allocate_states, register
from detection.ops.sweep.layout import as_map, as_rows, close, state_type
from detection.ops.sweep.lines import (
    Steps,
    add,
    add_views,
    by_step,
    groups,
    read,
    read_all,
    separate_steps,
    shared_steps,
    weight_gradient,
    write,
)

_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_tanh_backward = torch.ops.aten.tanh_backward.grad_input


@custom_op("detection::lstm", mutates_args=())
def lstm(
    x: Tensor, weight: Tensor, bias: Tensor | None, valid: Tensor | None, directions: str, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute K sweeps of an LSTM, gates in the order i, f, g, o.

    Args:
        x: (B, 4·D, H, W).
        weight: U (K, 4·D, D), in the states' type.
        bias: (K, 4·D), likewise; None for zeros.
        valid: (B, 1, H, W) booleans; None for all.
        directions: K names separated by spaces.
        keep: whether to keep what a backward pass needs.

    Returns:
        The outputs (B, K·D, H, W) in channels-last memory, in the type of x; and, empty unless `keep`, the gates
        (K, T·N, 4·D) and the cell states (K, T·N, D).
    """
    size = weight.shape[2]
    closed = weight.new_tensor([-torch.inf, -torch.inf, 0, 0]).repeat_interleave(size)
    rows = close(as_rows(x), valid, closed)
    out = rows.new_empty(*rows.shape[:3], len(weight), size)
    all_gates, all_c = allocate_states(x, weight, keep)
    for places, names in groups(directions, weight.device):
        xs, outs = shared_steps(rows, names), separate_steps(out[:, :, :, places], names)
        kept = [by_step(t[places], len(xs)) for t in (all_gates, all_c)] if keep else None
        _scan(xs, outs, weight[places], None if bias is None else bias[places], kept)
    out = out.flatten(3)  # (B, H, W, K·D)
    return as_map(out), all_gates, all_c


@custom_op("detection::lstm_backward", mutates_args=())
def lstm_backward(
    grad: Tensor, out: Tensor, all_gates: Tensor, all_c: Tensor, weight: Tensor, directions: str
) -> Gradients:
    """Return the gradients of x (B, 4·D, H, W), the weight (K, 4·D, D) and the bias (K, 4·D)."""
    num, size = len(weight), weight.shape[2]
    grads, outs = (as_rows(t).unflatten(3, (num, size)) for t in (grad, out))  # (B, H, W, K, D)
    total = outs.new_zeros(*outs.shape[:3], weight.shape[1], dtype=state_type(grad))
    grad_weight = torch.empty_like(weight)
    grad_bias = weight.new_empty(weight.shape[:2])
    for places, names in groups(directions, weight.device):
        gs, hs = (separate_steps(t[:, :, :, places], names) for t in (grads, outs))
        gates, c = (by_step(t[places], len(gs)) for t in (all_gates, all_c))
        g = _scan_back(gs, gates, c, weight[places], shared_steps(total, names))
        grad_weight[places] = weight_gradient(g, read_all(torch.empty_like(c), hs))
        torch.sum(g, (1, 2), out=grad_bias[places])
    return as_map(total.to(grad.dtype)), grad_weight, grad_bias


def _scan(xs: Steps, outs: Steps, weight: Tensor, bias: Tensor | None, kept: list[Tensor] | None) -> None:
    """Write the outputs of pre-activations, both as views step by step, and gates and cell states to `kept`."""
    p, _, size = weight.shape
    transposed = weight.transpose(1, 2)
    h, c = weight.new_zeros(2, p, xs[0][0].shape[:2].numel(), size).unbind()
    scratch = weight.new_empty(*h.shape[:2], 4 * size)
    for t, (views, targets) in enumerate(zip(xs, outs, strict=True)):
        gates = read(scratch if kept is None else kept[0][:, t], views, bias)
        if t > 0:
            gates.baddbmm_(h, transposed)
        gates[..., : 2 * size].sigmoid_()
        i, f, g, o = gates.chunk(4, -1)
        c.mul_(f).addcmul_(i, g.tanh_())  # c = f·c + i·g
        if kept is not None:
            kept[1][:, t] = c
        torch.tanh(c, out=h).mul_(o.sigmoid_())  # h = o·tanh(c)
        write(h, targets)


def _scan_back(grads: Steps, gates: Tensor, c: Tensor, weight: Tensor, totals: Steps) -> Tensor:
    """Return the gradients of pre-activations (P, T, N, 4·D), and add them to the views `totals` of that of x.

    dh and dc are ∂L/∂h(t) and ∂L/∂c(t), with what comes from the steps after t.
    """
    grad = torch.empty_like(gates)
    dh, dc = torch.zeros(2, *c[:, 0].shape, dtype=c.dtype, device=c.device).unbind()
    for t in reversed(range(c.shape[1])):
        i, f, g, o = gates[:, t].chunk(4, -1)
        d_i, d_f, d_g, d_o = grad[:, t].chunk(4, -1)
        add_views(dh, grads[t])
        squashed = torch.tanh(c[:, t])  # cheaper to compute again than to keep
        _sigmoid_backward(dh * squashed, o, grad_input=d_o)
        dc.add_(torch.ops.aten.tanh_backward(dh.mul_(o), squashed))
        _sigmoid_backward(dc * g, i, grad_input=d_i)
        _tanh_backward(dc * i, g, grad_input=d_g)
        if t > 0:
            _sigmoid_backward(dc * c[:, t - 1], f, grad_input=d_f)
            dc.mul_(f)
            torch.bmm(grad[:, t], weight, out=dh)
        else:
            d_f.zero_()
        add(grad[:, t], totals[t])
    return grad


register(lstm, lstm_backward, masked=False)
