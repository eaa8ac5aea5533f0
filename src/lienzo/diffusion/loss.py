"""The training loss: how far the network's output is from what it should have said."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lienzo.diffusion.prediction import target
from lienzo.diffusion.schedule import Prediction, Schedule


def min_snr_weight(sigma: Tensor, kind: Prediction, gamma: float) -> Tensor:
    """Min-SNR weights (arXiv:2303.09556, section 3.4), relative to the plain loss of each prediction type.

    Args:
        sigma: (B,) noise levels; the signal-to-noise ratio is 1 / sigma^2.
        gamma: the cap, 5 in the paper; infinity weighs as the plain loss of the noise does.
    """
    snr = sigma**-2
    return _relative(snr.clamp(max=gamma), snr, kind)


def debiased_weight(sigma: Tensor, kind: Prediction) -> Tensor:
    """1 / sqrt(SNR) for the loss of the noise (arXiv:2310.08442, eq. 12), and what that means for other predictions.

    The same error of the noise is an error of sigma times as much in x0: the plain loss neglects high noise levels.

    Args:
        sigma: (B,) noise levels.
    """
    snr = sigma**-2
    return _relative(snr.sqrt(), snr, kind)


def _relative(x0_weight: Tensor, snr: Tensor, kind: Prediction) -> Tensor:
    """The weight of the loss of x0 as one of what is predicted: |x0|^2 = |eps|^2 / SNR = |v|^2 / (SNR + 1) for errors."""
    match kind:
        case "epsilon":
            return x0_weight / snr
        case "v_prediction":
            return x0_weight / (snr + 1)
        case "sample":
            return x0_weight


def offset_noise(noise: Tensor, offset: Tensor, strength: float) -> Tensor:
    """Noise whose channels are shifted as a whole, so that the model learns to change a picture's mean brightness
    (N. Guttenberg, "Diffusion with Offset Noise", crosslabs.org, 2023).

    Args:
        noise: (B, C, h, w), standard normal.
        offset: (B, C), standard normal.
        strength: 0.1 there; 0 changes nothing.
    """
    return noise + strength * offset[:, :, None, None]


@dataclass(frozen=True, kw_only=True)
class Huber:
    """The scheduled pseudo-Huber loss (arXiv:2403.16728): outliers in the data count less.

    Attributes:
        c: errors much larger count linearly, smaller ones squared. With a schedule, c at the noisy end.
        schedule: constant; exponential, c^(t / T) (section 4); snr, (1 - c) / (1 + sigma)^2 + c, as in the authors' code.
    """

    c: float = 0.1
    schedule: Literal["constant", "exponential", "snr"] = "snr"

    def at(self, t: Tensor, sigma: Tensor, steps: int) -> Tensor:
        """c for timesteps (B,) of `steps` with their noise levels (B,)."""
        match self.schedule:
            case "constant":
                return torch.full_like(sigma, self.c)
            case "exponential":
                return torch.exp(math.log(self.c) * t.to(sigma.dtype) / steps)
            case "snr":
                return (1 - self.c) / (1 + sigma) ** 2 + self.c


def pseudo_huber(error: Tensor, c: Tensor) -> Tensor:
    """2 c (sqrt(error^2 + c^2) - c): error^2 where that is small, 2 c |error| where it is large (arXiv:2403.16728, eq. 4).

    Written without the difference, in which small errors would drown.
    """
    square = error.square()
    return 2 * c * square / ((square + c * c).sqrt() + c)


def masked_mean(error: Tensor, mask: Tensor) -> Tensor:
    """The mean of what a mask shows, sample by sample: (B, C, h, w) and (B, 1, h, w) in [0, 1] -> (B,).

    A sample whose mask shows nothing has no error.
    """
    shown = mask.expand_as(error)
    total = shown.sum(dim=(1, 2, 3))
    # not error * mask: what is not shown may be anything, infinite too, and 0 times that is NaN
    seen = torch.where(shown > 0, error * shown, 0.0)
    return seen.sum(dim=(1, 2, 3)) / torch.where(total > 0, total, 1.0)


def denoising_loss(
    network: Callable[[Tensor, Tensor], Tensor],
    x0: Tensor,
    noise: Tensor,
    t: Tensor,
    schedule: Schedule,
    *,
    min_snr_gamma: float | None = None,
    debiased: bool = False,
    huber: Huber | None = None,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    """E || target - network(x_t, t) ||^2, eq. 14 of arXiv:2006.11239 where the network predicts noise.

    Args:
        network: (variance-preserving x_t (B, C, h, w), t (B,)) -> output (B, C, h, w).
        x0, noise: clean latents and a standard normal, (B, C, h, w).
        t: (B,) whole timesteps.
        min_snr_gamma: weigh by `min_snr_weight`.
        debiased: weigh by `debiased_weight`.
        huber: instead of squares.
        mask: (B, 1, h, w), what counts; see `masked_mean`.
        weight: (B,), how much each sample counts.

    Returns:
        The mean over all samples, fp32 at least.
    """
    kind = schedule.prediction_type
    alphas = schedule.alphas_cumprod.to(x0.device)[t]
    sigma = ((1 - alphas) / alphas).sqrt()
    output = network(schedule.q_sample(x0, noise, t), t)
    difference = output - target(x0, noise, alphas.to(x0.dtype)[:, None, None, None], kind)
    if huber is None:
        error = difference.square()
    else:
        c = huber.at(t, sigma, len(schedule.sigmas)).to(difference.dtype)
        error = pseudo_huber(difference, c[:, None, None, None])
    each = error.mean(dim=(1, 2, 3)) if mask is None else masked_mean(error, mask.to(error.dtype))
    if min_snr_gamma is not None:
        each = each * min_snr_weight(sigma, kind, min_snr_gamma).to(each.dtype)
    if debiased:
        each = each * debiased_weight(sigma, kind).to(each.dtype)
    if weight is not None:
        each = each * weight.to(each)
    return each.mean()
