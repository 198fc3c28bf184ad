"""The linear two-dimensional recurrence of pLSTM (Pöppel et al. 2025): states on the edges between locations.

    y(i, j) = m·v   + m_h·h(i, j − 1)  + m_v·u(i − 1, j)
    h(i, j) = s_h·v + t_hh·h(i, j − 1) + t_vh·u(i − 1, j),      on the edge to (i, j + 1)
    u(i, j) = s_v·v + t_hv·h(i, j − 1) + t_vv·u(i − 1, j),      on the edge to (i + 1, j)

Source gates s put the value v of a location on its outgoing edges, transition gates t pass on the states of incoming
ones, and mark gates m read these: (y, h, u) is a matrix M of nine gates times (v, h, u) of the incoming edges. So

    the gradients of (v, h, u) are Mᵀ times those of (y, h, u),      (1)

the same recurrence with M transposed, of the gradient of y, from the opposite corner; and the gradient of M is the
product of both triples, summed over a head's channels. All corners are scanned at once, from copies in the order of
their scans, for as many images as `PIECE` allows. Only values and gates are kept for the backward pass, which computes
(v, h, u) again. Four corners over 2×256×38×50, forward and backward, take about a third of the time of steps in
autograd (CPU, one thread).
"""

# B images, b of a piece, K corners, G heads of d channels each (D = G·d), H×W map, N = H·W locations, n of a diagonal,
# T = H + W − 1 diagonals.

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.library import custom_op

from detection.ops.first_order import refuse_second_derivative
from detection.ops.grid.corners import anti_diagonals, by_anti_diagonal, from_anti_diagonals, scan_order
from detection.ops.sweep.dispatch import refuse_forward_mode
from detection.ops.sweep.layout import as_map, as_rows, close, empty_map, state_type
from detection.ops.sweep.traced import refuse_any_length
from detection.ops.sweep.triton_dispatch import grid_kernels, use_triton

Backend = Literal["auto", "ours", "steps"]


class EdgeGates(NamedTuple):
    """Gates (B, K, G, H, W) of a location, the rows of M: h is a horizontal edge, v a vertical one.

    Attributes:
        mark: from the value to the output.
        mark_h, mark_v: from the incoming edges to the output.
        source_h, source_v: from the value to the outgoing edges.
        hh, hv, vh, vv: from an incoming edge to an outgoing one; hv from the horizontal to the vertical.
    """

    mark: Tensor
    mark_h: Tensor
    mark_v: Tensor
    source_h: Tensor
    hh: Tensor
    vh: Tensor
    source_v: Tensor
    hv: Tensor
    vv: Tensor


GATES = len(EdgeGates._fields)
PIECE = 2**20
"""Outputs of a piece, of all corners: with so many, more images at once would need more memory and be no faster."""


def scan_grid_linear(
    value: Tensor, gates: EdgeGates, valid: Tensor | None, corners: Sequence[str], *, backend: Backend = "auto"
) -> Tensor:
    """Compute `grid_linear` by the operation, or `grid_linear_by_steps` where it cannot be: in a trace, on a Mac's GPU.

    Args:
        value: (B, D, H, W), which all corners share; states are kept in float32 or wider.
        gates: of each corner and head.
        valid: (B, 1, H, W) booleans; None for all. Outside nothing enters, passes or leaves.
        corners: K names.
        backend: `ours` or `steps`; `auto` for the fastest.

    Returns:
        The outputs (B, K·D, H, W) in the type of the values.

    Raises:
        UserError: maps of any size are wanted of an export.
        NotImplementedError: forward-mode differentiation through `ours`, which has no such derivative.
    """
    exported = torch.onnx.is_in_onnx_export()
    if exported:
        refuse_any_length("the linear GridLSTM has no ONNX operator and is not computed by an associative scan")
    if backend == "auto":
        backend = "steps" if exported or value.device.type == "mps" or value.numel() == 0 else "ours"
    with torch.autocast(value.device.type, enabled=False):
        by_location = [gate.to(state_type(value)).permute(0, 3, 4, 1, 2) for gate in gates]  # (B, H, W, K, G)
        stacked = as_map(torch.stack(by_location, 5).flatten(3))  # (B, K·G·9, H, W)
        if backend == "steps":
            return grid_linear_by_steps(value, stacked, valid, corners)
        refuse_forward_mode(value, stacked, name="grid_linear", instead="backend='steps', or reverse mode")
        return grid_linear(value, stacked, valid, " ".join(corners))


def grid_linear_by_steps(value: Tensor, gates: Tensor, valid: Tensor | None, corners: Sequence[str]) -> Tensor:
    """Compute `grid_linear` diagonal by diagonal of all corners in autograd, from the sheared map: its reference.

    Args:
        value: (B, D, H, W).
        gates: (B, K·G·9, H, W), in the states' type.
        valid: (B, 1, H, W) booleans; None for all.
        corners: K names.

    Returns:
        The outputs (B, K·D, H, W) in the type of the values.
    """
    exact = value.to(gates.dtype)
    if valid is not None:
        gates, exact = torch.where(valid, gates, 0.0), torch.where(valid, exact, 0.0)
    seen = [by_anti_diagonal(own, c) for own, c in zip(gates.chunk(len(corners), 1), corners, strict=True)]
    gate = torch.stack(seen, 1).unflatten(4, (-1, 1, GATES))  # (T, K, B, H, G, 1, 9)
    values = torch.stack([by_anti_diagonal(exact, corner) for corner in corners], 1)
    values = values.unflatten(4, (gate.shape[4], -1))  # (T, K, B, H, G, d)
    out = _steps(values, EdgeGates(*gate.unbind(6))).flatten(4).unbind(1)  # K of (T, B, H, D)
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


@custom_op("detection::grid_linear", mutates_args=())
def grid_linear(value: Tensor, gates: Tensor, valid: Tensor | None, corners: str) -> Tensor:
    """Compute the outputs (B, K·D, H, W) of the recurrence in channels-last memory, in the type of the values.

    Args:
        value: (B, D, H, W), which all corners share.
        gates: (B, K·G·9, H, W), by corner, head and in the order of `EdgeGates`, in the states' type; G divides D.
        valid: (B, 1, H, W) booleans; None for all.
        corners: K names separated by spaces.
    """
    names = corners.split()
    rows, opened = close(as_rows(value), valid, 0.0), close(as_rows(gates), valid, 0.0)
    if use_triton(value) and value.numel():
        return as_map(grid_kernels().launch_grid_linear(rows, opened, corners))
    out = rows.new_empty(*rows.shape[:3], len(names), rows.shape[3])  # (B, H, W, K, D)
    order = _Order(rows, names)
    for piece in order.pieces:
        v, matrix = order.by_head(rows[piece], opened[piece])
        scan = _scan(v, matrix.unbind(4), order)
        for target, (_, found) in zip(order.by_diagonal(v), scan, strict=True):
            target.copy_(found.narrow(3, 0, 1))  # in the place of v, which is read no more
        out[piece].copy_(order.undone(v).permute(3, 0, 1, 2, 4))  # (b, H, W, K, D)
    return as_map(out.flatten(3))  # (B, K·D, H, W)


@custom_op("detection::grid_linear_backward", mutates_args=())
def grid_linear_backward(
    grad: Tensor, value: Tensor, gates: Tensor, valid: Tensor | None, corners: str
) -> tuple[Tensor, Tensor]:
    """Return the gradients of the values (B, D, H, W) and of the gates (B, K·G·9, H, W)."""
    grads, rows, opened = as_rows(grad), close(as_rows(value), valid, 0.0), close(as_rows(gates), valid, 0.0)
    if use_triton(value) and value.numel():
        found, found_gates = grid_kernels().launch_grid_linear_backward(grads, rows, opened, corners)
    else:
        found, found_gates = _gradients(grads, rows, opened, corners.split())
    # The gates are 0 outside, and with them the values' gradient, but not their own.
    return as_map(found.to(value.dtype)), as_map(close(found_gates, valid, 0.0).to(gates.dtype))


def _gradients(grad: Tensor, value: Tensor, gates: Tensor, names: list[str]) -> tuple[Tensor, Tensor]:
    """Return the gradients of values (B, H, W, D) and gates (B, H, W, K·G·9) of those of the outputs (B, H, W, K·D)."""
    order = _Order(value, names)
    found, found_gates = torch.empty_like(value), torch.empty_like(gates)
    by_corner = found_gates.unflatten(3, (len(names), -1))  # (B, H, W, K, G·9)
    room = gates.new_empty(3 * order.images * len(names) * value[:1].numel())  # once: new memory takes time to get
    for piece in order.pieces:
        v, matrix = order.by_head(value[piece], gates[piece])
        kept = _incoming(v, matrix, order, room)
        del v  # which is in the first third of what is kept
        dy = order.of_each(grad[piece].to(gates.dtype)).view_as(kept[:, :, :, :1])  # (N, K, b, 1, G, d)
        dm = _scan_back(dy, kept, matrix, order)
        found[piece].copy_(order.undone(dy).sum(2).permute(2, 0, 1, 3))  # (b, H, W, D), over corners
        by_corner[piece].copy_(order.undone(dm.movedim(5, 3)).permute(3, 0, 1, 2, 4))  # (b, H, W, K, G·9)
    return found, found_gates


class _Order:
    """Maps (B, H, W, …) of some images in the order of the scans from K corners: (N, K, b, …).

    Args:
        rows: values (B, H, W, D).
        corners: K names.

    Attributes:
        size: H and W.
        num: K.
        images: most of a piece.
        pieces: of images.
        shared: (N, K), the location among H·W of each place of each scan.
        own: (N·K,), the same in rows (H·W·K) that each corner has for itself.
        back: (N·K,), the place of each location and corner in a scan, the inverse of `own`.
        steps: diagonals as seen from the top left, in the order of a scan and against it.
    """

    def __init__(self, rows: Tensor, corners: Sequence[str]) -> None:
        images, height, width, channels = rows.shape
        self.size = height, width
        self.num = len(corners)
        self.images = min(images, max(1, PIECE // (self.num * height * width * channels)))
        self.pieces = [slice(start, start + self.images) for start in range(0, images, self.images)]
        self.shared = scan_order(height, width, corners, rows.device)
        self.own = (self.shared * self.num + torch.arange(self.num, device=rows.device)).flatten()  # (N·K,)
        self.back = self.own.argsort()
        self.steps = anti_diagonals(height, width, "top_left"), anti_diagonals(height, width, "bottom_right")

    def of_all(self, rows: Tensor) -> Tensor:
        """Return (N, K, b, D) of rows (b, H, W, D) that all corners share."""
        by_place = rows.flatten(1, 2).transpose(0, 1).contiguous()  # (N, b, D)
        return by_place.index_select(0, self.shared.flatten()).unflatten(0, (-1, self.num))

    def of_each(self, rows: Tensor) -> Tensor:
        """Return (N, K, b, C) of rows (b, H, W, K·C) of each corner."""
        by_place = rows.flatten(1, 2).unflatten(2, (self.num, -1)).permute(1, 2, 0, 3).contiguous()  # (N, K, b, C)
        return by_place.flatten(0, 1).index_select(0, self.own).unflatten(0, (-1, self.num))

    def undone(self, places: Tensor) -> Tensor:
        """Return (N, K, b, …) by location: (H, W, K, b, C)."""
        rows = places.flatten(3).flatten(0, 1).index_select(0, self.back)  # (N·K, b, C)
        return rows.view(*self.size, self.num, *rows.shape[1:])

    def by_head(self, value: Tensor, gates: Tensor) -> tuple[Tensor, Tensor]:
        """Return v (N, K, b, 1, G, d) in the states' type, and M (N, K, b, 3, 3, G, 1)."""
        matrix = self.of_each(gates).unflatten(3, (-1, 3, 3, 1)).movedim(3, 5)  # (N, K, b, 3, 3, G, 1)
        return self.of_all(value.to(gates.dtype)).unflatten(3, (1, matrix.shape[5], -1)), matrix

    def by_diagonal(self, places: Tensor, against: bool = False) -> tuple[Tensor, ...]:
        """Split (N, …) into the diagonals (n, …), in the order of the scan or against it."""
        return places.split([step.count for step in self.steps[0]])[:: -1 if against else 1]


def _scan(
    v: Tensor, columns: Sequence[Tensor], order: _Order, against: bool = False
) -> Iterator[tuple[list[Tensor], Tensor]]:
    """Scan values (N, K, b, 1, G, d) with the columns of M (N, K, b, 3, G, 1), in the order of places or against it.

    Yields:
        v, h and u (n, K, b, 1, G, d) that the locations of a diagonal receive, and their y, h and u (n, K, b, 3, G, d);
        they last until the next.
    """
    # By row, as a diagonal has at most one location of it; a row without a state before it is still 0.
    size = order.size[0] + 2, *v.shape[1:3], 3, *v.shape[4:]  # (H + 2, K, b, 3, G, d)
    # Two of them: each diagonal writes its y, h and u to the one that the diagonal before did not.
    lines = [(t, *t.split(1, 3)[1:]) for t in v.new_zeros(2, *size).unbind()]
    steps = zip(order.steps[against], *(order.by_diagonal(t, against) for t in (v, *columns)), strict=True)
    for t, (step, value, from_v, from_h, from_u) in enumerate(steps):
        (own, _, _), (_, h, u) = lines[t % 2], lines[(t + 1) % 2]
        incoming, found = [value, h[step.own], u[step.above]], own[step.own]
        torch.mul(value, from_v, out=found).addcmul_(incoming[1], from_h).addcmul_(incoming[2], from_u)
        yield incoming, found


def _incoming(v: Tensor, matrix: Tensor, order: _Order, room: Tensor) -> Tensor:
    """Return v, h and u (N, K, b, 3, G, d) that all locations receive of a scan, in the memory of `room`."""
    kept = room[: 3 * v.numel()].view(*v.shape[:3], 3, *v.shape[4:])
    for (incoming, _), saved in zip(_scan(v, matrix.unbind(4), order), order.by_diagonal(kept), strict=True):
        torch.cat(incoming, 3, out=saved)
    return kept


def _scan_back(dy: Tensor, kept: Tensor, matrix: Tensor, order: _Order) -> Tensor:
    """Return the gradients of M (N, K, b, 3, 3, G), and put those of values (N, K, b, 1, G, d) in the place of dy."""
    dm, ones = dy.new_empty(matrix.shape[:-1]), dy.new_ones(dy.shape[5])
    both = kept.new_empty(min(order.size), *kept.shape[1:])
    products = dy.new_empty(min(order.size), *dy.shape[1:3], 3, 3, *dy.shape[4:])
    parts = (order.by_diagonal(t, against=True) for t in (kept, dy, dm))
    back = _scan(dy, matrix.unbind(3), order, against=True)  # equation (1)
    for saved, dv, sums, (gradients, found) in zip(*parts, back, strict=True):
        of_outputs, product = torch.cat(gradients, 3, out=both[: len(saved)]), products[: len(saved)]
        torch.mul(of_outputs.unsqueeze(4), saved.unsqueeze(3), out=product)
        # A product with ones, for which a sum over so few channels takes longer.
        torch.mv(product.view(-1, len(ones)), ones, out=sums.view(-1))  # (n·K·b·3·3·G, d) times (d,)
        dv.copy_(found.narrow(3, 0, 1))
    return dm


@grid_linear.register_fake
def _(value: Tensor, gates: Any, valid: Any, corners: str) -> Tensor:
    return empty_map(value, len(corners.split()) * value.shape[1])


@grid_linear_backward.register_fake
def _(grad: Any, value: Tensor, gates: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return empty_map(value, value.shape[1]), empty_map(gates, gates.shape[1])


def _keep(ctx: Any, inputs: tuple, output: Tensor) -> None:
    value, gates, valid, ctx.corners = inputs
    ctx.save_for_backward(value, gates, valid)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *grid_linear_backward(grad, *ctx.saved_tensors, ctx.corners), None, None


grid_linear.register_autograd(_backward, setup_context=_keep)
refuse_second_derivative(grid_linear_backward, "detection.ops.grid.linear.scan_grid_linear")
