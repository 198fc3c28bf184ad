"""Sweeps of the GRU that resets after its product. A step is one product for all lines of both directions of an axis.

The gates and U h + b of n are kept for the backward pass, whose gradient of U is one product after the scan. Outside
the image the pre-activations of r and z are −∞ and that of n is 0, which makes h exactly 0.
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


@custom_op("detection::gru", mutates_args=())
def gru(
    x: Tensor, weight: Tensor, bias: Tensor | None, valid: Tensor | None, directions: str, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute K sweeps of a GRU, gates in the order r, z, n.

    Args:
        x: (B, 3·D, H, W).
        weight: U (K, 3·D, D), in the states' type.
        bias: (K, 3·D), likewise; None for zeros.
        valid: (B, 1, H, W) booleans; None for all.
        directions: K names separated by spaces.
        keep: whether to keep what a backward pass needs.

    Returns:
        The outputs (B, K·D, H, W) in channels-last memory, in the type of x; and, empty unless `keep`, the gates
        (K, T·N, 3·D) and the recurrent side of n (K, T·N, D).
    """
    size = weight.shape[2]
    closed = weight.new_tensor([-torch.inf, -torch.inf, 0]).repeat_interleave(size)
    rows = close(as_rows(x), valid, closed)
    out = rows.new_empty(*rows.shape[:3], len(weight), size)
    all_gates, all_new = allocate_states(x, weight, keep)
    bias = weight.new_zeros(weight.shape[:2]) if bias is None else bias
    for places, names in groups(directions, weight.device):
        xs, outs = shared_steps(rows, names), separate_steps(out[:, :, :, places], names)
        kept = [by_step(t[places], len(xs)) for t in (all_gates, all_new)] if keep else None
        _scan(xs, outs, weight[places], bias[places], kept)
    out = out.flatten(3)  # (B, H, W, K·D)
    return as_map(out), all_gates, all_new


@custom_op("detection::gru_backward", mutates_args=())
def gru_backward(
    grad: Tensor, out: Tensor, all_gates: Tensor, all_new: Tensor, weight: Tensor, valid: Tensor | None, directions: str
) -> Gradients:
    """Return the gradients of x (B, 3·D, H, W), the weight (K, 3·D, D) and the bias (K, 3·D)."""
    num, size = len(weight), weight.shape[2]
    grads, outs = (as_rows(t).unflatten(3, (num, size)) for t in (grad, out))  # (B, H, W, K, D)
    total = outs.new_zeros(*outs.shape[:3], 3 * size, dtype=state_type(grad))
    grad_weight = torch.empty_like(weight)
    grad_bias = weight.new_empty(weight.shape[:2])
    for places, names in groups(directions, weight.device):
        gs, hs = (separate_steps(t[:, :, :, places], names) for t in (grads, outs))
        gates, new = (by_step(t[places], len(gs)) for t in (all_gates, all_new))
        hidden = read_all(torch.empty_like(new), hs)
        recurrent = _scan_back(gs, gates, new, hidden, weight[places], shared_steps(total, names))[..., : 3 * size]
        grad_weight[places] = weight_gradient(recurrent, hidden)
        torch.sum(recurrent, (1, 2), out=grad_bias[places])
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


def _scan_back(grads: Steps, gates: Tensor, new: Tensor, hidden: Tensor, weight: Tensor, totals: Steps) -> Tensor:
    """Return the gradients (P, T, N, 4·D) of the pre-activations of r and z, of U h + b of n, and of n's.

    Those of r, z and n are added to the views `totals` of that of x. dh is ∂L/∂h(t), with what comes from later steps.
    """
    size = new.shape[3]
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
    return grad


register(gru, gru_backward, masked=True)
