"""The one attention that every network here uses."""

import torch.nn.functional as F
from torch import Tensor


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, *, causal: bool = False, upcast: bool = False) -> Tensor:
    """Multi-head scaled dot-product attention, softmax(Q K^T / sqrt(d)) V (arXiv:1706.03762, eq. 1).

    Args:
        q: (B, Lq, heads * d).
        k, v: (B, Lk, heads * d).
        causal: position i attends to positions <= i only.
        upcast: compute in fp32 (Stable Diffusion 2.1 overflows in fp16).

    Returns:
        (B, Lq, heads * d), of q's dtype.
    """
    dtype = q.dtype
    if upcast:
        q, k, v = q.float(), k.float(), v.float()
    q, k, v = (x.reshape(*x.shape[:2], heads, -1).transpose(1, 2) for x in (q, k, v))  # (B, H, L, d)
    out = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    return out.transpose(1, 2).flatten(2).to(dtype)  # (B, L, H * d)
