"""Scans of matrix memories as products over pairs of locations: SSD of Mamba-2 and the mLSTM, in differentiable steps.

A memory that decays by f(t) at each step and takes in i(s) k(s) v(s)ᵀ is read at t by

    Σ_s F(t, s)·i(s)·⟨q(t), k(s)⟩·v(s),

where F(t, s) is the product of the decays after s up to t: attention with a mask that fades (Dao and Gu 2024; Beck et
al. 2024). T steps would cost T² for each head. A line of more than `PIECE` steps is cut into P pieces of S: pairs are
those of steps in a piece, and of pieces, of which one takes in the memory that the other leaves behind,

    U(p) = Σ_s F(end of p, s)·i(s)·k(s) v(s)ᵀ,    M(p) = Σ_{r < p} F(start of p, end of r)·U(r),    (1)
    read(t) = F(t, start of p)·q(t) M(p) + Σ_{s in p} F(t, s)·i(s)·⟨q(t), k(s)⟩·v(s).               (2)

No step and no piece waits for another. Memory is T·S + P² for each head, a thirtieth of T² on a map of 38×50. Over its
routes (`CrossScan`, 2×256 channels, forward and backward) the mLSTM takes 1/19 of the time of pairs of all steps, on a
CPU with one thread.
"""

# B images, L lines, T steps, P pieces of S steps, K heads of E channels (D = K·E), N channels of a key: E, or a state
# space's N.

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from detection.ops.sweep.any_length import is_of_any_length

PIECE = 64
"""Most steps of a piece. On a CPU 32 are as fast, 16 and 128 slower."""


class Carried(NamedTuple):
    """Shares of a memory that are left from one piece to another.

    Attributes:
        behind: F(end of p, s)·i(s) (B, L, K, P, S).
        between: F(start of p, end of r) (B, L, K, P, P).
        ahead: F(t, start of p) (B, L, K, P, S).
    """

    behind: Tensor
    between: Tensor
    ahead: Tensor


class Weights(NamedTuple):
    """Shares of a step that are left at another one, each scaled by exp(−m) so that no exponential overflows.

    Attributes:
        within: F(t, s)·i(s) (B, L, K, P, S, S) of pairs of steps in a piece.
        scale: m (B, L, K, P, S), at least 0.
        carried: None for one piece.
    """

    within: Tensor
    scale: Tensor
    carried: Carried | None


def fading_weights(log_keep: Tensor, log_take: Tensor | None, outside: Tensor | None, reverse: bool) -> Weights:
    """Compute the weights of equations (1) and (2); they are 0 across a location outside of the image.

    Args:
        log_keep: (B, L, K, P, S), logarithms of what each step keeps, at most 0.
        log_take: log i (B, L, K, P, S); None for 0, for which m is 0.
        outside: (B, L, 1, P, S), 1 outside of the image and 0 inside; None for 0.
        reverse: steps and pieces follow each other from the last to the first.
    """
    # Sums of a long line are large, and it is their differences that count.
    sums = _running(log_keep.double(), reverse)
    apart = _not_before(sums, reverse, False)
    runs = None if outside is None else _running(outside, reverse)  # a number for each run of locations
    if outside is not None and runs is not None:
        apart = apart | _differ(runs, runs) | (outside > 0)[..., None, :]
    starts = sums if log_take is None else sums - log_take
    within = _differences(sums, starts).to(log_keep.dtype).masked_fill_(apart, -math.inf)
    # Detached: m cancels in what is read, and has no gradient.
    most = None if log_take is None else within.detach().amax(-1).clamp(min=0)
    carried = None
    if is_of_any_length() or sums.shape[3] > 1:
        last = within[..., 0 if reverse else -1, :]  # the row of a piece's end, log F·i of equation (1)
        carried, most = _carry(sums, runs, last, most, reverse)
    scale = torch.zeros_like(log_keep) if most is None else most
    within = within if most is None else within.sub_(most[..., None])
    return Weights(within.exp_(), scale, carried)


def _carry(
    sums: Tensor, runs: Tensor | None, behind: Tensor, most: Tensor | None, reverse: bool
) -> tuple[Carried, Tensor | None]:
    """Return what goes from piece to piece, and m (B, L, K, P, S) of what it and the piece's own steps make.

    Args:
        sums: Σ log f (B, L, K, P, S) in each piece.
        runs: (B, L, 1, P, S), as many as locations outside of the image so far in a piece; None for 0.
        behind: log F·i (B, L, K, P, S) of equation (1).
        most: m (B, L, K, P, S) of the piece's own steps; None for 0.
        reverse: as in `fading_weights`.
    """
    last = 0 if reverse else -1
    sum_of_piece = sums[..., last]  # (B, L, K, P)
    ends = _running(sum_of_piece, reverse)
    apart, ahead = _not_before(ends, reverse, True), sums
    if runs is not None:
        # A location outside ends a memory: of a piece between two here, of the two themselves in `behind` and `ahead`.
        holes = (runs[..., last] > 0).long()  # (B, L, 1, P)
        ends_of_runs = _running(holes, reverse)
        apart = apart | _differ(ends_of_runs - holes, ends_of_runs)
        ahead = ahead.masked_fill(runs > 0, -math.inf)
    own = None if most is None else most[..., last]
    between = _differences(ends - sum_of_piece, ends if own is None else ends - own)
    between = between.to(behind.dtype).masked_fill(apart, -math.inf)
    if most is None:
        return Carried(behind.exp(), between.exp(), ahead.exp().to(behind.dtype)), None
    before = between.detach().amax(-1).clamp(min=0)  # m of the memory before each piece, (B, L, K, P)
    ahead = ahead + before[..., None]
    most = torch.maximum(most, ahead.detach().to(most.dtype))
    return Carried(_exp(behind, own), _exp(between, before), (ahead - most).exp().to(most.dtype)), most


def _running(x: Tensor, reverse: bool) -> Tensor:
    """Return sums along the last axis up to each value."""
    return x.flip(-1).cumsum(-1).flip(-1) if reverse else x.cumsum(-1)


def _not_before(x: Tensor, reverse: bool, strictly: bool) -> Tensor:
    """Return booleans (S, S) for x (…, S): a column is after its row in the scan, or strictly also the row itself."""
    places = torch.arange(x.shape[-1], device=x.device)
    rows, columns = (places, places[:, None]) if reverse else (places[:, None], places)
    return rows <= columns if strictly else rows < columns


def _differ(rows: Tensor, columns: Tensor) -> Tensor:
    """Return booleans (…, S, S) for numbers (…, S): the row's is not the column's."""
    return rows[..., :, None] != columns[..., None, :]


def _differences(rows: Tensor, columns: Tensor) -> Tensor:
    """Return the row's number less the column's (…, S, S) for numbers (…, S)."""
    return rows[..., :, None] - columns[..., None, :]


def _exp(exponents: Tensor, most: Tensor | None) -> Tensor:
    """Return exp(x − m) of x (…, S) and m (…)."""
    return exponents.exp() if most is None else (exponents - most[..., None]).exp()


def _pieces(length: int) -> tuple[int, int]:
    """Return the pieces of a line, and the steps of each."""
    if torch.onnx.is_in_onnx_export() and not is_of_any_length():
        length = int(length)  # a value of the graph becomes a constant
    pieces = (length + PIECE - 1) // PIECE
    return pieces, (length + pieces - 1) // pieces


def _cut(x: Tensor, heads: int, pieces: tuple[int, int]) -> Tensor:
    """Return (B, L, T, K·E) as (B, L, K, P, S, E); what the last piece lacks are zeros, which change no memory."""
    missing = pieces[0] * pieces[1] - x.shape[2]
    x = x.unflatten(3, (heads, -1)).transpose(2, 3)  # (B, L, K, T, E)
    if is_of_any_length() or missing:
        x = pad(x, (0, 0, 0, missing))
    return x.reshape(*x.shape[:3], *pieces, x.shape[4])  # (B, L, K, P, S, E)


def _cut_mask(inside: Tensor | None, pieces: tuple[int, int]) -> Tensor | None:
    """Return the locations outside of the image as numbers (B, L, 1, P, S)."""
    return None if inside is None else _cut((~inside[..., None]).long(), 1, pieces)[..., 0]


def _join(parts: Tensor, length: int) -> Tensor:
    """Return (B, L, K, P, S, E) as (B, L, T, K·E)."""
    rows = parts.permute(0, 1, 3, 4, 2, 5).flatten(4)  # (B, L, P, S, K·E)
    return rows.flatten(2, 3)[:, :, :length]


def _read(q: Tensor, k: Tensor, v: Tensor, weights: Weights) -> tuple[Tensor, Tensor]:
    """Return the sums of equation (2) (B, L, K, P, S, E), and these for v = 1 (B, L, K, P, S, 1).

    Args:
        q: (B, L, K or 1, P, S, N).
        k: (B, L, K or 1, P, S, N).
        v: (B, L, K, P, S, E).
        weights: F·i.
    """
    pairs = weights.within * (q @ k.transpose(4, 5))  # (B, L, K, P, S, S)
    found, total = pairs @ v, pairs.sum(5, keepdim=True)
    if weights.carried is None:
        return found, total
    behind, between, ahead = weights.carried
    q, k = q * ahead[..., None], k * behind[..., None]  # (B, L, K, P, S, N)
    memories = k.transpose(4, 5) @ v, k.sum(4)[..., None]  # U of equation (1), (B, L, K, P, N, E or 1)
    before = ((between @ m.flatten(4)).unflatten(4, m.shape[4:]) for m in memories)  # M, of the same shapes
    found, total = (own + q @ m for own, m in zip((found, total), before, strict=True))
    return found, total


def state_space_dual(
    x: Tensor, step: Tensor, decay: Tensor, b: Tensor, c: Tensor, inside: Tensor | None, reverse: bool
) -> Tensor:
    """Compute ⟨C, h⟩ (B, L, T, D) of h = exp(Δ A)·h + Δ B x; 0 outside the image.

    Args:
        x: (B, L, T, D).
        step: Δ (B, L, T, K).
        decay: A (K,), below 0.
        b: B (B, L, T, N).
        c: C (B, L, T, N).
        inside: (B, L, T) booleans; None for all.
        reverse: scan from the last step to the first.
    """
    heads, length = step.shape[3], x.shape[2]
    pieces = _pieces(length)
    taken = _cut(x, heads, pieces) * _cut(step, heads, pieces)
    log_keep = _cut(step * decay, heads, pieces)[..., 0]
    weights = fading_weights(log_keep, None, _cut_mask(inside, pieces), reverse)
    found, _ = _read(_cut(c, 1, pieces), _cut(b, 1, pieces), taken, weights)  # all heads share B and C
    return _join(found, length)


def matrix_memory(
    q: Tensor, k: Tensor, v: Tensor, log_take: Tensor, log_keep: Tensor, inside: Tensor | None, reverse: bool
) -> Tensor:
    """Compute C q / max(|nᵀ q|, 1) of the mLSTM (B, L, T, D), with C = f C + i v kᵀ and n = f n + i k; 0 outside.

    Sums are scaled by exp(−m), m the largest exponent of a location or 0, so that no gate overflows; the result does
    not depend on m.

    Args:
        q: (B, L, T, D).
        k: (B, L, T, D), scaled.
        v: (B, L, T, D).
        log_take: log i (B, L, T, K).
        log_keep: log f (B, L, T, K), at most 0.
        inside: (B, L, T) booleans; None for all.
        reverse: scan from the last step to the first.
    """
    heads, length = log_keep.shape[3], q.shape[2]
    pieces = _pieces(length)
    q, k, v, log_take, log_keep = (_cut(t, heads, pieces) for t in (q, k, v, log_take, log_keep))
    weights = fading_weights(log_keep[..., 0], log_take[..., 0], _cut_mask(inside, pieces), reverse)
    found, total = _read(q, k, v, weights)
    return _join(found / torch.maximum(total.abs(), scaled_one(weights.scale)[..., None]), length)


def scaled_one(scale: Tensor) -> Tensor:
    """Return exp(−m), but a number above 0, for sums are divided by it."""
    return (-scale).exp().clamp(min=torch.finfo(scale.dtype).tiny)
