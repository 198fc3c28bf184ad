"""Maps as lines in the order of a scan, for cells whose step is a matrix product over all lines at once."""

# B images, C channels, H×W map, L lines of an image, N = B·L, P directions along one axis, T steps, D hidden size.

from collections.abc import Sequence

import torch
from torch import Tensor

from detection.ops.sweep.directions import is_horizontal, steps

Steps = Sequence[Sequence[Tensor]]


def by_axis(directions: str) -> list[tuple[slice, list[str]]]:
    """Neighbors along one axis, which have lines of one length: their places among all directions, and their names."""
    names = directions.split()
    starts = [k for k, n in enumerate(names) if k == 0 or is_horizontal(n) != is_horizontal(names[k - 1])]
    return [(slice(a, b), names[a:b]) for a, b in zip(starts, [*starts[1:], len(names)], strict=True)]


def groups(directions: str, device: torch.device) -> list[tuple[slice, list[str]]]:
    """`by_axis` on an accelerator; one by one on a CPU, whose caches the weights of two would not fit."""
    if device.type != "cpu":
        return by_axis(directions)
    return [(slice(k, k + 1), [name]) for k, name in enumerate(directions.split())]


def shared_steps(rows: Tensor, names: Sequence[str]) -> list[tuple[Tensor, ...]]:
    """What each of P directions sees of one map (B, H, W, C), step by step: T tuples of P views (B, L, C)."""
    return list(zip(*(steps(rows, name) for name in names), strict=True))


def own_steps(rows: Tensor, names: Sequence[str]) -> list[tuple[Tensor, ...]]:
    """The same of maps of their own (B, H, W, P, C)."""
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


def add_views(lines: Tensor, views: Sequence[Tensor]) -> None:
    """Add views (B, L, C) to lines (P, N, C)."""
    for line, view in zip(lines.unbind(), views, strict=True):
        line.view(view.shape).add_(view)


def read_all(lines: Tensor, scan: Steps) -> Tensor:
    """Fill lines (P, T, N, C) from T tuples of views."""
    for lines_t, views in zip(lines.unbind(1), scan, strict=True):
        read(lines_t, views)
    return lines


def by_step(lines: Tensor, length: int) -> Tensor:
    """(P, T·N, C) → (P, T, N, C)."""
    return lines.unflatten(1, (length, lines.shape[1] // length))


def weight_gradient(g: Tensor, h: Tensor) -> Tensor:
    """Σ g(t)ᵀ h(t − 1) over steps and lines: (P, T, N, G·D), (P, T, N, D) → (P, G·D, D)."""
    return torch.bmm(g[:, 1:].flatten(1, 2).transpose(1, 2), h[:, :-1].flatten(1, 2))
