"""Sweeps of the LSTM. A step is one product for all lines of both directions along an axis.

The gates and the cell states are kept for the backward pass, whose gradient of U is one product after the scan. Outside
the image the pre-activations of i and f are −∞, which makes c and h exactly 0 and lets no gradient through.
"""

# B images, D hidden size, H×W map, K directions, P of them scanned together, T steps, N lines of all images.

import torch
from torch import Tensor
from torch.library import custom_op

from detection.ops.sweep.autograd import Triple, gated_sweep, gated_sweep_backward, register
from detection.ops.sweep.layout import as_map, as_rows, close
from detection.ops.sweep.lines import Steps, add, add_views, read, read_all, write

_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_tanh_backward = torch.ops.aten.tanh_backward.grad_input


@custom_op("detection::lstm", mutates_args=())
def lstm(x: Tensor, weight: Tensor, bias: Tensor | None, valid: Tensor | None, directions: str, keep: bool) -> Triple:
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
    rows = close(as_rows(x), valid, -torch.inf, -torch.inf, 0, 0)
    return gated_sweep(_scan, rows, weight, bias, directions, keep)


@custom_op("detection::lstm_backward", mutates_args=())
def lstm_backward(
    grad: Tensor, out: Tensor, all_gates: Tensor, all_c: Tensor, weight: Tensor, directions: str
) -> Triple:
    """Return the gradients of x (B, 4·D, H, W), the weight (K, 4·D, D) and the bias (K, 4·D)."""
    total, grad_weight, grad_bias = gated_sweep_backward(_scan_back, grad, out, [all_gates, all_c], weight, directions)
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


def _scan_back(
    grads: Steps, outs: Steps, gates: Tensor, c: Tensor, weight: Tensor, totals: Steps
) -> tuple[Tensor, Tensor]:
    """Return the gradients of pre-activations (P, T, N, 4·D) and the outputs; add the former to those of x, `totals`.

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
    return grad, read_all(torch.empty_like(c), outs)


register(lstm, lstm_backward, masked=False)
