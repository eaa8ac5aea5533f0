"""Classifier-free guidance: how the outputs with and without the prompt are combined."""

from torch import Tensor


def guide(without: Tensor, with_prompt: Tensor, scale: float, rescale: float = 0.0) -> Tensor:
    """u + w (c - u) (arXiv:2207.12598, eq. 6, with w counted so that 1 means no guidance).

    Args:
        without, with_prompt: network outputs u and c, (B, C, h, w).
        scale: w, any finite number; 1 gives c, 0 gives u.
        rescale: phi of arXiv:2305.08891, eq. 15-16, in [0, 1]: brings the standard deviation of each picture back
            towards that of c, against over-exposure at high scales.
    """
    guided = without + scale * (with_prompt - without)
    if rescale == 0:
        return guided
    dims = tuple(range(1, guided.ndim))
    same_std = guided * (with_prompt.std(dim=dims, keepdim=True) / guided.std(dim=dims, keepdim=True))
    return rescale * same_std + (1 - rescale) * guided


def applies(sigma: float, scale: float, interval: tuple[float, float] | None) -> bool:
    """Whether this noise level needs the second pass: scale is not 1, and sigma lies in (low, high] (arXiv:2404.07724)."""
    return scale != 1 and (interval is None or interval[0] < sigma <= interval[1])
