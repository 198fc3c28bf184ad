"""The gates of each linear cell h = a·h + b for a piece of its lines, and their gradients: the work of `gated_scan`.

The cells' classes state the formulas. A piece stays in the CPU's caches, so gates are computed again in the backward
pass, and none is kept. On a CPU, PyTorch takes a third of the time of exp for exp2.
"""

# S steps of a piece, B images, L lines of an image, D hidden size, G gates, V vectors of a cell.

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from detection.cells.linear import MAX_ROOT_GRADIENT, RG_LRU_SCALE

_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_where_above = torch.ops.aten.threshold_backward.grad_input

Parts = Sequence[Tensor]
"""The G pre-activations (S, B, L, D) of a piece, or the sums of their gradients."""

LEAST_SUM = 1e-30
"""Sum of two sigmoids from which float32 has all digits of their ratio."""

SERIES = (1 / 5040, -1 / 720, 1 / 120, -1 / 24, 1 / 6, -1 / 2, 1.0)
"""Coefficients of the series of (1 − exp −y)/y from y⁶ to 1."""

SERIES_BELOW = 0.4
"""y below which the series is exact to 5e-8; from it on the difference 1 − exp −y is exact to 5e-7."""


class Gates(ABC):
    """The gates of one direction, piece by piece.

    Args:
        vectors: (V, D), as `LinearCell.vectors` has them.
        memory: (S, B, L, D), of the shape and type of the states of the longest piece.

    Attributes:
        sums: (V, D), the gradients of the vectors added up so far.
    """

    num_gates: int
    num_buffers: int

    def __init__(self, vectors: Tensor, memory: Tensor) -> None:
        self.vectors = vectors
        self.memory = memory.new_empty(self.num_buffers, *memory.shape)
        self.sums = torch.zeros_like(vectors)

    def read(self, parts: Parts, outside: Tensor | None, first: Tensor | None) -> None:
        """Compute the gates of a piece.

        Args:
            parts: the pre-activations, 0 outside of the image.
            outside: (S, B, L, 1), 1 at locations outside of the image and else 0; None where all are 0.
            first: the same for locations where a line begins; of any shape that broadcasts to it.
        """
        self.buffers = self.memory[:, : len(parts[0])].unbind()
        self._read(parts, outside, first)

    @abstractmethod
    def _read(self, parts: Parts, outside: Tensor | None, first: Tensor | None) -> None: ...

    @abstractmethod
    def scan(self, parts: Parts, h: Tensor, states: Parts, order: Iterable[int]) -> Tensor:
        """Write the states of a piece that was read, step by step, and return the last.

        Args:
            parts: the pre-activations.
            h: (B, L, D), the state before the piece.
            states: memory (B, L, D) for each step.
            order: the steps in the order of the scan.
        """

    @abstractmethod
    def keep(self) -> Tensor:
        """Return a (S, B, L, D) of the piece that was read; 0 outside of the image."""

    @abstractmethod
    def collect(self, parts: Parts, before: Tensor, g: Tensor, totals: Parts) -> None:
        """Add the gradients of the pre-activations of a piece that was read to `totals`, those of vectors to `sums`.

        Args:
            parts: the pre-activations.
            before: (S, B, L, D), the states one step before.
            g: (S, B, L, D), the gradients of the states, 0 outside of the image.
            totals: where they are added.
        """

    def gradients(self) -> Tensor:
        """Return the gradients (V, D) of the vectors."""
        return self.sums

    def _biased(self, parts: Parts, place: int, out: Tensor) -> Tensor:
        return torch.add(parts[place], self.vectors[place], out=out)

    def _add(self, gradient: Tensor, place: int, totals: Parts) -> None:
        """Add the gradient of a gate's pre-activation, which is its bias's, too."""
        totals[place].add_(gradient)
        self.sums[place].add_(gradient.sum((0, 1, 2)))


def _scan_taking(new: Tensor, take: Tensor, h: Tensor, states: Parts, order: Iterable[int]) -> Tensor:
    """Scan h = h + take·(new − h)."""
    news, takes = new.unbind(), take.unbind()
    for s in order:
        h = torch.lerp(h, news[s], takes[s], out=states[s])
    return h


class MinGRUGates(Gates):
    """z, n; h = h + z·(n − h)."""

    num_gates = 2
    num_buffers = 3

    def _read(self, parts: Parts, outside: Tensor | None, first: Tensor | None) -> None:
        z = self._biased(parts, 0, self.buffers[0]).sigmoid_()
        if outside is not None:
            torch.maximum(z, outside, out=z)  # h becomes n, which is 0 there

    def scan(self, parts: Parts, h: Tensor, states: Parts, order: Iterable[int]) -> Tensor:
        """Write h + z·(n − h)."""
        return _scan_taking(parts[1], self.buffers[0], h, states, order)

    def keep(self) -> Tensor:
        """Return 1 − z."""
        return torch.sub(1, self.buffers[0], out=self.buffers[1])

    def collect(self, parts: Parts, before: Tensor, g: Tensor, totals: Parts) -> None:
        """Add ∂L/∂n = g·z, and what follows from ∂L/∂z = g·(n − h(t − 1))."""
        z, _, d = self.buffers
        totals[1].addcmul_(g, z)
        torch.sub(parts[1], before, out=d).mul_(g)
        self._add(_sigmoid_backward(d, z, grad_input=d), 0, totals)


class MinLSTMGates(Gates):
    """f, i, n; k = f/(f + i), h = n + k·(h − n)."""

    num_gates = 3
    num_buffers = 4

    def _read(self, parts: Parts, outside: Tensor | None, first: Tensor | None) -> None:
        f, i, k, _ = self.buffers
        self._biased(parts, 0, f).sigmoid_()
        self._biased(parts, 1, i).sigmoid_()
        total = torch.add(f, i, out=k)
        if total.min() > LEAST_SUM:
            torch.div(f, total, out=k)
        else:  # logarithms, which cannot become 0/0, take several times as long
            parts = [logsigmoid(self._biased(parts, place, k)) for place in (0, 1)]
            torch.sub(*parts, out=k).sigmoid_()
        if outside is not None:
            k.mul_(1 - outside)  # h becomes n, which is 0 there

    def scan(self, parts: Parts, h: Tensor, states: Parts, order: Iterable[int]) -> Tensor:
        """Write n + k·(h − n)."""
        news, keeps = parts[2].unbind(), self.buffers[2].unbind()
        for s in order:
            h = torch.lerp(news[s], h, keeps[s], out=states[s])
        return h

    def keep(self) -> Tensor:
        """Return k."""
        return self.buffers[2]

    def collect(self, parts: Parts, before: Tensor, g: Tensor, totals: Parts) -> None:
        """Add ∂L/∂n = g·(1 − k), and what follows from ∂L/∂k = g·(h(t − 1) − n)."""
        f, i, k, d = self.buffers
        torch.sub(before, parts[2], out=d).mul_(g)
        _sigmoid_backward(d, k, grad_input=d)
        totals[2].add_(g).addcmul_(g, k, value=-1)
        # k is the logistic function of log σ(f) − log σ(i): of f and of i there are d·σ(−f) and −d·σ(−i).
        self._add(torch.addcmul(d, d, f, value=-1, out=f), 0, totals)
        self._add(i.sub_(1).mul_(d), 1, totals)


class GatedLinearGates(Gates):
    """f, n; s = (1 − floor)·σ(−f), h = h + s·(n − h)."""

    num_gates = 2
    num_buffers = 3

    def __init__(self, vectors: Tensor, memory: Tensor) -> None:
        super().__init__(vectors, memory)
        self.above_floor = torch.sigmoid(-vectors[1])

    def _read(self, parts: Parts, outside: Tensor | None, first: Tensor | None) -> None:
        gate, take, _ = self.buffers
        torch.sub(-self.vectors[0], parts[0], out=gate).sigmoid_()
        torch.mul(gate, self.above_floor, out=take)
        if outside is not None:
            torch.maximum(take, outside, out=take)  # h becomes n, which is 0 there

    def scan(self, parts: Parts, h: Tensor, states: Parts, order: Iterable[int]) -> Tensor:
        """Write h + s·(n − h)."""
        return _scan_taking(parts[1], self.buffers[1], h, states, order)

    def keep(self) -> Tensor:
        """Return 1 − s."""
        return torch.sub(1, self.buffers[1], out=self.buffers[2])

    def collect(self, parts: Parts, before: Tensor, g: Tensor, totals: Parts) -> None:
        """Add ∂L/∂n = g·s, and what follows from ∂L/∂s = g·(n − h(t − 1))."""
        gate, take, d = self.buffers
        totals[1].addcmul_(g, take)
        torch.sub(before, parts[1], out=d).mul_(g)  # of −s
        self.sums[1].sub_(torch.mul(d, gate, out=take).sum((0, 1, 2)))
        self._add(_sigmoid_backward(d.mul_(self.above_floor), gate, grad_input=d), 0, totals)

    def gradients(self) -> Tensor:
        """Return the gradients of the bias, and of the floor's logit by that of 1 − floor."""
        bias, above_floor = self.sums
        return torch.stack([bias, -above_floor * self.above_floor * (1 - self.above_floor)])


class RGLRUGates(Gates):
    """r, i, n; log a = r·rate, h = a·h + √(1 − a²)·i·n, without the root where a line begins."""

    num_gates = 3
    num_buffers = 6

    def __init__(self, vectors: Tensor, memory: Tensor) -> None:
        super().__init__(vectors, memory)
        self.rate = -RG_LRU_SCALE * softplus(vectors[2])
        self.series = vectors.new_tensor(SERIES).unbind()

    def _read(self, parts: Parts, outside: Tensor | None, first: Tensor | None) -> None:
        r, i, a, root, scaled, spare = self.buffers
        self._biased(parts, 0, r).sigmoid_()
        self._biased(parts, 1, i).sigmoid_()
        torch.mul(r, self.rate * math.log2(math.e), out=a).exp2_()
        _complement(torch.mul(r, -2 * self.rate, out=spare), a, self.series, scaled, out=root).sqrt_()
        self.first = first
        if first is not None:
            torch.maximum(root, first, out=root)
        torch.mul(root, i, out=scaled)
        if outside is not None:
            a.mul_(1 - outside)  # h becomes a multiple of n, which is 0 there

    def scan(self, parts: Parts, h: Tensor, states: Parts, order: Iterable[int]) -> Tensor:
        """Write a·h + root·i·n."""
        _, _, a, _, scaled, spare = self.buffers
        news, keeps = torch.mul(scaled, parts[2], out=spare).unbind(), a.unbind()
        for s in order:
            h = torch.addcmul(news[s], keeps[s], h, out=states[s])
        return h

    def keep(self) -> Tensor:
        """Return a."""
        return self.buffers[2]

    def collect(self, parts: Parts, before: Tensor, g: Tensor, totals: Parts) -> None:
        """Add ∂L/∂n = g·root·i, and what follows from ∂L/∂i = g·root·n, ∂L/∂root = g·i·n and ∂L/∂log a."""
        r, i, a, root, scaled, d = self.buffers
        totals[2].addcmul_(g, scaled)
        taken = torch.mul(g, parts[2], out=scaled)  # the gradient of root·i
        torch.mul(taken, root, out=d)
        self._add(_sigmoid_backward(d, i, grad_input=d), 1, totals)
        # ∂L/∂log a = a·(g·h(t − 1) − a·∂L/∂root / root), by the state and by the root, whose 1/(2·root) is bounded.
        of_root = taken.mul_(i).mul_(a).div_(root.clamp_(min=1 / (2 * MAX_ROOT_GRADIENT)))
        if self.first is not None:
            of_root.mul_(1 - self.first)
        of_rate = torch.mul(g, before, out=d).sub_(of_root).mul_(a).mul_(r)
        self.sums[2].add_(of_rate.sum((0, 1, 2)))
        of_r = of_rate.addcmul_(of_rate, r, value=-1)  # without its factor, the rate
        totals[0].addcmul_(of_r, self.rate)
        self.sums[0].addcmul_(of_r.sum((0, 1, 2)), self.rate)

    def gradients(self) -> Tensor:
        """Return the gradients of the biases, and of λ by that of the rate."""
        r, i, rate = self.sums
        return torch.stack([r, i, -RG_LRU_SCALE * torch.sigmoid(self.vectors[2]) * rate])


def _complement(y: Tensor, root: Tensor, coefficients: Parts, memory: Tensor, out: Tensor) -> Tensor:
    """Compute 1 − exp(−y) from y ≥ 0 and exp(−y/2); in float32 in a fraction of the time that expm1 takes.

    It overwrites y and `memory`.
    """
    if y.dtype != torch.float32:
        return torch.expm1(y.neg_(), out=out).neg_()
    difference = torch.addcmul(coefficients[-1], root, root, value=-1, out=memory)  # 1 − root², inexact near 0
    first, second, *others = coefficients
    y.clamp_(max=SERIES_BELOW)
    series = torch.addcmul(second, y, first, out=out)
    for coefficient in others:
        torch.addcmul(coefficient, series, y, out=series)
    # Of the difference where the series does not hold; by floats, for operations on booleans are several times slower.
    series.mul_(y).sub_(difference)
    return _where_above(series, root, math.exp(-SERIES_BELOW / 2), grad_input=series).add_(difference)


GATES: dict[str, type[Gates]] = {
    "MinGRU": MinGRUGates,
    "MinLSTM": MinLSTMGates,
    "GatedLinear": GatedLinearGates,
    "RGLRU": RGLRUGates,
}
"""By the names of the cells' classes."""
