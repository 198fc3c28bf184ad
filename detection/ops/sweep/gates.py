"""One step of each linear cell h = a·h + b and its gradient, in place: the work of `gated_scan` at a step.

The cells' classes state the formulas. A step's slices stay in the CPU's caches, so gates are computed again in the
backward pass, and none is kept.
"""

# B images, L lines of an image, D hidden size, G gates, V vectors of a cell.

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import softplus

from detection.cells.linear import MAX_ROOT_GRADIENT, RG_LRU_SCALE

_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input

Parts = Sequence[Tensor]
"""The G pre-activations (B, L, D) of a step, or the sums of their gradients."""


class Gates(ABC):
    """The steps of one direction.

    Args:
        vectors: (V, D), as `LinearCell.vectors` has them.
        state: (B, L, D), of the shape and type of a step's state.

    Attributes:
        sums: (V, B, L, D), the gradients of the vectors added up so far.
    """

    num_gates: int

    def __init__(self, vectors: Tensor, state: Tensor) -> None:
        self.vectors = vectors
        self.scratch = state.new_empty(4, *state.shape).unbind()
        self.sums = state.new_zeros(len(vectors), *state.shape)

    @abstractmethod
    def forward(self, parts: Parts, h: Tensor, first: Tensor | None) -> None:
        """Turn h (B, L, D) into the next state; `first` (B, L, 1) are the lines that begin at this step, if any."""

    @abstractmethod
    def backward(self, parts: Parts, before: Tensor, g: Tensor, totals: Parts, first: Tensor | None) -> None:
        """Add the gradients of the pre-activations to `totals`, and turn that of the state, g, into `before`'s."""

    def gradients(self) -> Tensor:
        """Return the gradients (V, D) of the vectors."""
        return self.sums.sum((1, 2))

    def _add(self, gradient: Tensor, place: int, totals: Parts) -> None:
        """Add the gradient of a gate's pre-activation, which is its bias's, too."""
        totals[place].add_(gradient)
        self.sums[place].add_(gradient)


class MinGRUGates(Gates):
    """z, n; h = h + z·(n − h)."""

    num_gates = 2

    def forward(self, parts: Parts, h: Tensor, first: Tensor | None) -> None:
        """See `Gates`."""
        torch.lerp(h, parts[1], self._gate(parts), out=h)

    def _gate(self, parts: Parts) -> Tensor:
        return torch.add(parts[0], self.vectors[0], out=self.scratch[0]).sigmoid_()

    def backward(self, parts: Parts, before: Tensor, g: Tensor, totals: Parts, first: Tensor | None) -> None:
        """See `Gates`."""
        z = self._gate(parts)
        d_z = torch.sub(parts[1], before, out=self.scratch[1]).mul_(g)
        totals[1].addcmul_(g, z)
        self._add(_sigmoid_backward(d_z, z, grad_input=d_z), 0, totals)
        g.addcmul_(g, z, value=-1)


class MinLSTMGates(Gates):
    """f, i, n; k = f/(f + i), h = n + k·(h − n)."""

    num_gates = 3

    def _gates(self, parts: Parts) -> tuple[Tensor, Tensor, Tensor]:
        """Return f and i before their σ, and k = (1 + exp −i) / ((1 + exp −f) + (1 + exp −i)), without a logarithm."""
        f, i, k, of_f = self.scratch
        torch.add(parts[0], self.vectors[0], out=f)
        torch.add(parts[1], self.vectors[1], out=i)
        # Divided by the largest of the exponentials, so that none overflows and the sum is at least 1.
        least = torch.minimum(f, i, out=k).clamp_(max=0)
        torch.sub(least, f, out=of_f).exp_()
        of_i = torch.sub(least, i).exp_()
        of_i.add_(least.exp_())
        return f, i, torch.div(of_i, of_f.add_(least).add_(of_i), out=k)

    def forward(self, parts: Parts, h: Tensor, first: Tensor | None) -> None:
        """See `Gates`."""
        torch.lerp(parts[2], h, self._gates(parts)[2], out=h)

    def backward(self, parts: Parts, before: Tensor, g: Tensor, totals: Parts, first: Tensor | None) -> None:
        """See `Gates`."""
        f, i, k = self._gates(parts)
        d = torch.sub(before, parts[2], out=self.scratch[3]).mul_(g)
        _sigmoid_backward(d, k, grad_input=d)
        totals[2].add_(g).addcmul_(g, k, value=-1)
        self._add(f.neg_().sigmoid_().mul_(d), 0, totals)
        self._add(i.neg_().sigmoid_().mul_(d).neg_(), 1, totals)
        g.mul_(k)


class GatedLinearGates(Gates):
    """f, n; s = (1 − floor)·σ(−f), h = h + s·(n − h)."""

    num_gates = 2

    def __init__(self, vectors: Tensor, state: Tensor) -> None:
        super().__init__(vectors, state)
        self.above_floor = torch.sigmoid(-vectors[1])

    def _gates(self, parts: Parts) -> tuple[Tensor, Tensor]:
        gate = torch.add(parts[0], self.vectors[0], out=self.scratch[0]).neg_().sigmoid_()
        return gate, torch.mul(gate, self.above_floor, out=self.scratch[1])

    def forward(self, parts: Parts, h: Tensor, first: Tensor | None) -> None:
        """See `Gates`."""
        torch.lerp(h, parts[1], self._gates(parts)[1], out=h)

    def backward(self, parts: Parts, before: Tensor, g: Tensor, totals: Parts, first: Tensor | None) -> None:
        """See `Gates`."""
        gate, take = self._gates(parts)
        d = torch.sub(parts[1], before, out=self.scratch[2]).mul_(g)
        totals[1].addcmul_(g, take)
        self.sums[1].addcmul_(d, gate)
        _sigmoid_backward(d.mul_(self.above_floor).neg_(), gate, grad_input=d)
        self._add(d, 0, totals)
        g.addcmul_(g, take, value=-1)

    def gradients(self) -> Tensor:
        """Return the gradients of the bias, and of the floor's logit by that of 1 − floor."""
        bias, above_floor = super().gradients()
        return torch.stack([bias, -above_floor * self.above_floor * (1 - self.above_floor)])


class RGLRUGates(Gates):
    """r, i, n; log a = r·rate, h = a·h + √(1 − a²)·i·n, without the root where a line begins."""

    num_gates = 3

    def __init__(self, vectors: Tensor, state: Tensor) -> None:
        super().__init__(vectors, state)
        self.rate = -RG_LRU_SCALE * softplus(vectors[2])

    def _gates(self, parts: Parts, first: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        r, i, a, root = self.scratch
        torch.add(parts[0], self.vectors[0], out=r).sigmoid_()
        torch.add(parts[1], self.vectors[1], out=i).sigmoid_()
        torch.mul(r, self.rate, out=a)
        # 1 − a² = 2t/(1 + t) with t = tanh(−log a), as exact as by expm1, which takes thrice the time.
        torch.neg(a, out=root).tanh_()
        root.div_(root + 1).mul_(2).sqrt_()
        if first is not None:
            root.masked_fill_(first, 1)
        return r, i, a.exp_(), root

    def forward(self, parts: Parts, h: Tensor, first: Tensor | None) -> None:
        """See `Gates`."""
        _, i, a, root = self._gates(parts, first)
        h.mul_(a).addcmul_(root.mul_(i), parts[2])

    def backward(self, parts: Parts, before: Tensor, g: Tensor, totals: Parts, first: Tensor | None) -> None:
        """See `Gates`."""
        r, i, a, root = self._gates(parts, first)
        taken = g * parts[2]  # the gradient of root·i
        totals[2].addcmul_(root * i, g)
        d_i = taken * root
        self._add(_sigmoid_backward(d_i, i, grad_input=d_i), 1, totals)
        g.mul_(a)
        # ∂L/∂log a: a·g·h(t − 1) by the state, and −a²·∂L/∂root / root, whose 1/(2·root) is bounded.
        d = taken.mul_(i).mul_(a).mul_(a).div_(root.clamp_(min=1 / (2 * MAX_ROOT_GRADIENT))).neg_()
        if first is not None:
            d.masked_fill_(first, 0)
        d.addcmul_(g, before)
        self.sums[2].addcmul_(d, r)
        self._add(_sigmoid_backward(d.mul_(self.rate), r, grad_input=d), 0, totals)

    def gradients(self) -> Tensor:
        """Return the gradients of the biases, and of λ by that of the rate."""
        r, i, rate = super().gradients()
        return torch.stack([r, i, -RG_LRU_SCALE * torch.sigmoid(self.vectors[2]) * rate])


GATES: dict[str, type[Gates]] = {
    "MinGRU": MinGRUGates,
    "MinLSTM": MinLSTMGates,
    "GatedLinear": GatedLinearGates,
    "RGLRU": RGLRUGates,
}
"""By the names of the cells' classes."""
