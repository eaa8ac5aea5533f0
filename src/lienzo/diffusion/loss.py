"""The training loss: how far the network's output is from what it should have said."""

from collections.abc import Callable

from torch import Tensor

from lienzo.diffusion.prediction import target
from lienzo.diffusion.schedule import Prediction, Schedule


def min_snr_weight(sigma: Tensor, kind: Prediction, gamma: float) -> Tensor:
    """Min-SNR weights (arXiv:2303.09556, section 3.4), relative to the plain loss of each prediction type.

    Args:
        sigma: (B,) noise levels; the signal-to-noise ratio is 1 / sigma^2.
        gamma: the cap, 5 in the paper; infinity gives the x0 loss.
    """
    snr = sigma**-2
    capped = snr.clamp(max=gamma)
    match kind:
        case "epsilon":
            return capped / snr
        case "v_prediction":
            return capped / (snr + 1)
        case "sample":
            return capped


def denoising_loss(
    network: Callable[[Tensor, Tensor], Tensor],
    x0: Tensor,
    noise: Tensor,
    t: Tensor,
    schedule: Schedule,
    *,
    min_snr_gamma: float | None = None,
) -> Tensor:
    """E || target - network(x_t, t) ||^2, eq. 14 of arXiv:2006.11239 where the network predicts noise.

    Args:
        network: (variance-preserving x_t (B, C, h, w), t (B,)) -> output (B, C, h, w).
        x0, noise: clean latents and a standard normal, (B, C, h, w).
        t: (B,) whole timesteps.

    Returns:
        The mean over all elements, weighted by `min_snr_weight` where a gamma is given.
    """
    kind = schedule.prediction_type
    alphas = schedule.alphas_cumprod.to(x0.device)[t]
    output = network(schedule.q_sample(x0, noise, t), t)
    error = (output - target(x0, noise, alphas.to(x0.dtype)[:, None, None, None], kind)).square().mean(dim=(1, 2, 3))
    if min_snr_gamma is not None:
        sigma = ((1 - alphas) / alphas).sqrt()
        error = error * min_snr_weight(sigma, kind, min_snr_gamma).to(error.dtype)
    return error.mean()
