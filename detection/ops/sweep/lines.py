"""Maps as lines in the order of a scan, for cells whose step is one matrix product for all lines."""

# B images, C channels, H×W map, L lines of an image, N = B·L, P directions along one axis, T steps, D hidden size.

from collections.abc import Sequence

import torch
from torch import Tensor

from detection.ops.sweep.directions import is_horizontal, steps

Steps = Sequence[Sequence[Tensor]]


def by_axis(directions: str) -> list[tuple[slice, list[str]]]:
    """Group neighbors along one axis, whose lines have one length: their slice of all directions, and their names."""
    names = directions.split()
    starts = [k for k, n in enumerate(names) if k == 0 or is_horizontal(n) != is_horizontal(names[k - 1])]
    return [(slice(a, b), names[a:b]) for a, b in zip(starts, [*starts[1:], len(names)], strict=True)]


def groups(directions: str, device: torch.device) -> list[tuple[slice, list[str]]]:
    """Group as `by_axis` on an accelerator; one by one on a CPU, whose caches the weights of two would not fit."""
    if device.type != "cpu":
        return by_axis(directions)
    return [(slice(k, k + 1), [name]) for k, name in enumerate(directions.split())]


def shared_steps(rows: Tensor, names: Sequence[str]) -> list[tuple[Tensor, ...]]:
    """Return what each of P directions reads of one map (B, H, W, C), step by step: T tuples of P views (B, L, C)."""
    return list(zip(*(steps(rows, name) for name in names), strict=True))


def separate_steps(rows: Tensor, names: Sequence[str]) -> list[tuple[Tensor, ...]]:
    """Return the same for a separate map for each direction (B, H, W, P, C)."""
    return list(zip(*(steps(rows[:, :, :, p], name) for p, name in enumerate(names)), strict=True))


def read(lines: Tensor, views: Sequence[Tensor], bias: Tensor | None = None) -> Tensor:
    """Fill lines (P, N, C) from views (B, L, C), plus bias (P, C)."""
    for p, (line, view) in enumerate(zip(lines.unbind(), views, strict=True)):
        if bias is None:
            line.view(view.shape).copy_(view)
        else:
            torch.add(view, bias[p], out=line.view(view.shape))
    return lines


def write(lines: Tensor, views: Sequence[Tensor]) -> None:
    """Copy lines (P, N, C) to views (B, L, C)."""
    for line, view in zip(lines.unbind(), views, strict=True):
        view.copy_(line.view(view.shape))


def add(lines: Tensor, views: Sequence[Tensor]) -> None:
    """Add lines (P, N, C) to views (B, L, C)."""
    for line, view in zip(lines.unbind(), views, strict=True):
        view.add_(line.view(view.shape))


def read_all(lines: Tensor, scan: Steps) -> Tensor:
    """Fill lines (P, T, N, C) from T tuples of views."""
    for lines_t, views in zip(lines.unbind(1), scan, strict=True):
        read(lines_t, views)
    return lines


def by_step(lines: Tensor, length: int) -> Tensor:
    """Return (P, T·N, C) as (P, T, N, C)."""
    return lines.unflatten(1, (length, lines.shape[1] // length))


def weight_gradient(g: Tensor, h: Tensor) -> Tensor:
    """Return Σ g(t)ᵀ h(t − 1) over steps and lines: (P, T, N, G·D), (P, T, N, D) → (P, G·D, D)."""
    after, before = g[:, 1:].flatten(1, 2), h[:, :-1].flatten(1, 2)  # (P, (T − 1)·N, …)
    return torch.bmm(after.transpose(1, 2), before)
