"""Scans of matrix memories as products over pairs of locations: SSD of Mamba-2 and the mLSTM, in differentiable steps.

A memory that decays by f(t) at each step and takes in v(s) k(s)ᵀ is read at t by Σ_s F(t, s)·⟨q(t), k(s)⟩·v(s), where
F(t, s) is the product of the decays after s up to t: attention with a mask that fades (Dao and Gu 2024; Beck et al.
2024). A line of 40 to 200 locations costs T² for each head, and no step waits for another.
"""

# B images, L lines, T steps, K heads of E channels (D = K·E), N states of a channel or channels of a key.

import math

import torch
from torch import Tensor

PIECE = 64
"""Steps of a line that `state_space_dual` computes by one matrix."""


def log_decays(log_keep: Tensor, inside: Tensor | None, reverse: bool) -> tuple[Tensor, Tensor]:
    """Return log F(t, s) (B, L, K, T, T), and what is left at t of a state before the first step (B, L, K, T).

    They are −∞ where nothing is left: s is after t in the scan, or a location outside is between them.

    Args:
        log_keep: (B, L, T, K), logarithms of what each step keeps, at most 0.
        inside: (B, L, T) booleans; None for all.
        reverse: steps follow each other from the last to the first.
    """
    # Sums of a long line are large, and it is their differences that count.
    sums = _running(log_keep.double(), reverse).transpose(2, 3)  # (B, L, K, T)
    between = (sums[..., :, None] - sums[..., None, :]).to(log_keep.dtype)  # (B, L, K, T, T)
    places = torch.arange(log_keep.shape[2], device=log_keep.device)
    connected = places[:, None] <= places if reverse else places[:, None] >= places  # (T, T)
    left = sums.to(log_keep.dtype)
    if inside is not None:
        runs = _running((~inside).long(), reverse)[:, :, None]  # (B, L, 1, T), a number for each run of locations
        left = left.masked_fill(runs > 0, -math.inf)
        both = inside[:, :, None, :, None] & inside[:, :, None, None, :]
        connected = connected & both & (runs[..., :, None] == runs[..., None, :])  # (B, L, 1, T, T)
    return between.masked_fill(~connected, -math.inf), left


def _running(x: Tensor, reverse: bool) -> Tensor:
    """Return sums over steps (B, L, T, …) up to each one."""
    return x.flip(2).cumsum(2).flip(2) if reverse else x.cumsum(2)


def state_space_dual(
    x: Tensor, step: Tensor, decay: Tensor, b: Tensor, c: Tensor, inside: Tensor | None, reverse: bool
) -> Tensor:
    """Compute ⟨C, h⟩ (B, L, T, D) of h = exp(Δ A)·h + Δ B x; 0 outside the image.

    Lines longer than `PIECE` are computed piece by piece, with the state between them.

    Args:
        x: (B, L, T, D).
        step: Δ (B, L, T, K).
        decay: A (K,), below 0.
        b: B (B, L, T, N).
        c: C (B, L, T, N).
        inside: (B, L, T) booleans; None for all.
        reverse: scan from the last step to the first.
    """
    taken = (x.unflatten(3, (step.shape[3], -1)) * step[..., None]).transpose(2, 3)  # (B, L, K, T, E)
    log_keep, length = step * decay, x.shape[2]
    if length <= PIECE or torch.onnx.is_in_onnx_export():  # a trace has no number of pieces
        return _piece(taken, log_keep, b, c, inside, reverse, None, False)[0]
    outputs, state = list[Tensor](), None
    starts = range(0, length, PIECE)
    for start in reversed(starts) if reverse else starts:
        steps = slice(start, start + PIECE)
        mask = None if inside is None else inside[:, :, steps]
        parts = taken[:, :, :, steps], log_keep[:, :, steps], b[:, :, steps], c[:, :, steps]
        found, state = _piece(*parts, mask, reverse, state, True)
        outputs.append(found)
    return torch.cat(outputs[::-1] if reverse else outputs, 2)


def _piece(
    taken: Tensor,
    log_keep: Tensor,
    b: Tensor,
    c: Tensor,
    inside: Tensor | None,
    reverse: bool,
    state: Tensor | None,
    keep: bool,
) -> tuple[Tensor, Tensor | None]:
    """Return ⟨C, h⟩ (B, L, T, D) from a state (B, L, K, N, E) before the first step, and if wanted the state behind."""
    between, left = log_decays(log_keep, inside, reverse)
    decays = between.exp()
    found = (decays * (c @ b.transpose(2, 3))[:, :, None]) @ taken  # (B, L, K, T, E)
    if state is not None:
        found = found + left.exp()[..., None] * (c[:, :, None] @ state)
    after = None
    if keep:
        last = 0 if reverse else -1
        after = (decays[..., last, :, None] * b[:, :, None]).transpose(3, 4) @ taken  # (B, L, K, N, E)
        after = after if state is None else after + left[..., last].exp()[..., None, None] * state
    return found.transpose(2, 3).flatten(3), after


def matrix_memory(
    q: Tensor, k: Tensor, v: Tensor, log_take: Tensor, log_keep: Tensor, inside: Tensor | None, reverse: bool
) -> Tensor:
    """Compute C q / max(|nᵀ q|, 1) of the mLSTM (B, L, T, D), with C = f C + i v kᵀ and n = f n + i k, in one piece.

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
    q, k, v = (t.unflatten(3, (log_keep.shape[3], -1)).transpose(2, 3) for t in (q, k, v))  # (B, L, K, T, E)
    exponents = log_decays(log_keep, inside, reverse)[0] + log_take.transpose(2, 3)[..., None, :]  # (B, L, K, T, T)
    most = exponents.detach().amax(4, keepdim=True).clamp(min=0)  # (B, L, K, T, 1)
    weights = (exponents - most).exp() * (q @ k.transpose(3, 4))
    total = torch.maximum(weights.sum(4, keepdim=True).abs(), (-most).exp())
    return (weights @ v / total).transpose(2, 3).flatten(3)
