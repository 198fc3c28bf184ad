"""Attention to valid locations only, by PyTorch's fused kernels."""

# B images, N heads, Q queries, L keys, E channels of a head.

from torch import Tensor
from torch.nn import functional as F


def masked_attention(
    query: Tensor, key: Tensor, value: Tensor, valid: Tensor, scale: float | None = None, dropout: float = 0.0
) -> Tensor:
    """Return the mean (B, N, Q, E) of values weighted by the softmax of scores, over valid keys.

    `scaled_dot_product_attention` keeps no (Q, L) matrix of scores, but with dropout on a CPU, and sums in float32, so
    that half precision does not overflow.

    Args:
        query: (B, N, Q, E).
        key: (B, N, L, E).
        value: (B, N, L, E).
        valid: (B, L), booleans; an image without any attends to all of it, so that nothing is NaN.
        scale: of the scores; None for E^(-1/2).
        dropout: of the weights.
    """
    mask = valid | ~valid.any(1, keepdim=True)
    mask = mask[:, None, None].expand(-1, -1, query.shape[2], -1)  # (B, 1, Q, L)
    return F.scaled_dot_product_attention(query, key, value, mask, dropout_p=dropout, scale=scale)
