"""The linear two-dimensional recurrence of pLSTM (Pöppel et al. 2025): states on the edges between locations.

    h(i, j) = s_h·v + t_hh·h(i, j − 1) + t_vh·u(i − 1, j),      on the edge to (i, j + 1)
    u(i, j) = s_v·v + t_hv·h(i, j − 1) + t_vv·u(i − 1, j),      on the edge to (i + 1, j)
    y(i, j) = m_h·h(i, j − 1) + m_v·u(i − 1, j) + m·v

Source gates s put the value v of a location on its outgoing edges, transition gates t pass on the states of incoming
ones, and mark gates m read these. Computed by anti-diagonals of all corners and images at once, in autograd.
"""

# B images, K corners, G heads of d channels each, H×W map, T = H + W − 1 diagonals.

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from detection.ops.grid.corners import by_anti_diagonal, from_anti_diagonals
from detection.ops.sweep.layout import state_type
from detection.ops.sweep.traced import refuse_any_length


class EdgeGates(NamedTuple):
    """Gates (B, K, G, H, W) of a location, by the edges that they join: h is horizontal, v vertical.

    Attributes:
        source_h, source_v: from the location to its outgoing edges.
        hh, hv, vh, vv: from an incoming edge to an outgoing one; hv from the horizontal to the vertical.
        mark_h, mark_v: from the incoming edges to the output.
        mark: from the value to the output.
    """

    source_h: Tensor
    source_v: Tensor
    hh: Tensor
    hv: Tensor
    vh: Tensor
    vv: Tensor
    mark_h: Tensor
    mark_v: Tensor
    mark: Tensor


def scan_grid_linear(value: Tensor, gates: EdgeGates, valid: Tensor | None, corners: Sequence[str]) -> Tensor:
    """Compute the outputs (B, K·D, H, W) of the recurrence from K corners, in the type of the values.

    Args:
        value: (B, D, H, W), which all corners share.
        gates: of each corner and head.
        valid: (B, 1, H, W) booleans; None for all. Outside nothing enters, passes or leaves.
        corners: K names.

    Raises:
        UserError: maps of any size are wanted of an export.
    """
    if torch.onnx.is_in_onnx_export():
        refuse_any_length("the linear GridLSTM has no ONNX operator and is not computed by an associative scan")
    size, wide = value.shape[1], state_type(value)
    with torch.autocast(value.device.type, enabled=False):
        stacked = torch.stack([gate.to(wide) for gate in gates], 2)  # (B, K, 9, G, H, W)
        exact = value.to(wide)
        if valid is not None:
            stacked, exact = torch.where(valid[:, None, None], stacked, 0.0), torch.where(valid, exact, 0.0)
        heads = stacked.shape[3]
        seen = [by_anti_diagonal(stacked[:, k].flatten(1, 2), corner) for k, corner in enumerate(corners)]
        gate = torch.stack(seen, 1).unflatten(4, (len(EdgeGates._fields), heads, 1))  # (T, K, B, H, 9, G, 1)
        values = torch.stack([by_anti_diagonal(exact, corner) for corner in corners], 1)
        values = values.unflatten(4, (heads, size // heads))  # (T, K, B, H, G, d)
        out = _steps(values, EdgeGates(*gate.unbind(4)))
        out = out.flatten(4).unbind(1)  # K of (T, B, H, D)
        maps = [from_anti_diagonals(own, corner) for own, corner in zip(out, corners, strict=True)]
        return torch.cat(maps, 1).to(value.dtype)


def _steps(v: Tensor, gates: EdgeGates) -> Tensor:
    """Return the outputs (T, K, B, H, G, d) of values of the same shape, for gates (T, K, B, H, G, 1)."""
    transitions = zip(gates.hh, gates.hv, gates.vh, gates.vv, strict=True)
    horizontal = above = torch.zeros_like(v[0])
    read: list[tuple[Tensor, Tensor]] = []
    for s_h, s_v, (hh, hv, vh, vv) in zip(gates.source_h * v, gates.source_v * v, transitions, strict=True):
        read.append((horizontal, above))
        vertical = torch.addcmul(torch.addcmul(s_v, hv, horizontal), vv, above)
        horizontal = torch.addcmul(torch.addcmul(s_h, hh, horizontal), vh, above)
        above = torch.cat([torch.zeros_like(vertical[:, :, :1]), vertical[:, :, :-1]], 2)
    incoming_h, incoming_v = (torch.stack(states) for states in zip(*read, strict=True))
    return torch.addcmul(torch.addcmul(gates.mark * v, gates.mark_h, incoming_h), gates.mark_v, incoming_v)
