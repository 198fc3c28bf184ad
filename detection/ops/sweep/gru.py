"""Sweeps of the GRU that resets after its product. A step is one product for all lines of both directions of an axis.

The gates and U h + b of n are kept for the backward pass, whose gradient of U is one product after the scan. Outside
the image the pre-activations of r and z are −∞ and that of n is 0, which makes h exactly 0.
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


@custom_op("detection::gru", mutates_args=())
def gru(x: Tensor, weight: Tensor, bias: Tensor | None, valid: Tensor | None, directions: str, keep: bool) -> Triple:
    """Compute K sweeps of a GRU, gates in the order r, z, n.

    Arguments and results are those of `detection.ops.sweep.lstm.lstm`, with 3·D in the place of 4·D and the recurrent
    side of n (K, T·N, D) in the place of the cell states.
    """
    bias = weight.new_zeros(weight.shape[:2]) if bias is None else bias
    rows = close(as_rows(x), valid, -torch.inf, -torch.inf, 0)
    return gated_sweep(_scan, rows, weight, bias, directions, keep)


@custom_op("detection::gru_backward", mutates_args=())
def gru_backward(
    grad: Tensor, out: Tensor, all_gates: Tensor, all_new: Tensor, weight: Tensor, valid: Tensor | None, directions: str
) -> Triple:
    """Return the gradients of x (B, 3·D, H, W), the weight (K, 3·D, D) and the bias (K, 3·D)."""
    total, grad_weight, grad_bias = gated_sweep_backward(
        _scan_back, grad, out, [all_gates, all_new], weight, directions
    )
    return as_map(close(total, valid, 0).to(grad.dtype)), grad_weight, grad_bias


def _scan(xs: Steps, outs: Steps, weight: Tensor, bias: Tensor, kept: list[Tensor] | None) -> None:
    """Write the outputs of pre-activations, both as views step by step, and gates and U h + b of n to `kept`."""
    p, _, size = weight.shape
    rz, n_rows = weight[:, : 2 * size].transpose(1, 2), weight[:, 2 * size :].transpose(1, 2)
    # The bias of n is inside of its product with r, so it is not added here.
    before = torch.cat([bias[:, : 2 * size], torch.zeros_like(bias[:, 2 * size :])], 1)
    h = weight.new_zeros(p, xs[0][0].shape[:2].numel(), size)
    scratch = [weight.new_empty(*h.shape[:2], 3 * size), torch.empty_like(h)]
    for t, (views, targets) in enumerate(zip(xs, outs, strict=True)):
        gates, new = scratch if kept is None else (states[:, t] for states in kept)
        read(gates, views, before)[..., : 2 * size].baddbmm_(h, rz).sigmoid_()
        new.copy_(bias[:, None, 2 * size :]).baddbmm_(h, n_rows)
        r, z, n = gates.chunk(3, -1)
        n.addcmul_(r, new).tanh_()
        torch.lerp(n, h, z, out=h)  # h = (1 − z)·n + z·h
        write(h, targets)


def _scan_back(
    grads: Steps, outs: Steps, gates: Tensor, new: Tensor, weight: Tensor, totals: Steps
) -> tuple[Tensor, Tensor]:
    """Return the gradients of U h + b (P, T, N, 3·D) and the outputs; add those of r, z and n to that of x, `totals`.

    dh is ∂L/∂h(t), with what comes from later steps.
    """
    size, hidden = new.shape[3], read_all(torch.empty_like(new), outs)
    grad = gates.new_empty(*gates.shape[:3], 4 * size)
    dh = torch.zeros_like(hidden[:, 0])
    nothing = torch.zeros_like(dh)
    for t in reversed(range(new.shape[1])):
        r, z, n = gates[:, t].chunk(3, -1)
        d_r, d_z, d_new, d_n = grad[:, t].chunk(4, -1)
        add_views(dh, grads[t])
        _tanh_backward(torch.addcmul(dh, dh, z, value=-1), n, grad_input=d_n)
        _sigmoid_backward((hidden[:, t - 1] if t > 0 else nothing).sub(n).mul_(dh), z, grad_input=d_z)
        _sigmoid_backward(d_n * new[:, t], r, grad_input=d_r)
        torch.mul(d_n, r, out=d_new)
        dh.mul_(z).baddbmm_(grad[:, t, :, : 3 * size], weight)
        add(grad[:, t, :, : 2 * size], [view[..., : 2 * size] for view in totals[t]])
        add(d_n, [view[..., 2 * size :] for view in totals[t]])
    return grad[..., : 3 * size], hidden


register(gru, gru_backward, masked=True)
