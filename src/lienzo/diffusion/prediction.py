"""What the network predicts, and how that becomes an estimate of the clean latents. The only place that knows.

Coordinates: x = x0 + sigma * eps. The network sees the variance-preserving x / sqrt(1 + sigma^2).
With a = 1 / sqrt(1 + sigma^2) and b = sigma a (so a^2 + b^2 = 1):

    epsilon         eps
    v_prediction    v = a eps - b x0        (arXiv:2202.00512, appendix D)
    sample          x0

`sigma` is a float, or a tensor that broadcasts against x.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from lienzo.diffusion.schedule import Prediction

Level = TypeVar("Level", float, Tensor, float | Tensor)

Predict = Callable[[Tensor, float], Tensor]
"""(x / sqrt(1 + sigma^2), sigma) -> the network's output, both (B, C, h, w)."""
Denoise = Callable[[Tensor, float], Tensor]
"""(x, sigma) -> the estimate of x0, both (B, C, h, w)."""


def input_scale(sigma: Level) -> Level:
    """1 / sqrt(1 + sigma^2): what x is multiplied by before the network sees it."""
    scale: Level = (1 + sigma * sigma) ** -0.5
    return scale


def to_x0(output: Tensor, x: Tensor, sigma: float | Tensor, kind: Prediction) -> Tensor:
    """The x0 that a network output means for x at level sigma."""
    match kind:
        case "epsilon":
            return x - sigma * output
        case "v_prediction":
            a = input_scale(sigma)
            return a * (a * x - (sigma * output))
        case "sample":
            return output


def from_x0(x0: Tensor, x: Tensor, sigma: float | Tensor, kind: Prediction) -> Tensor:
    """The network output that means x0 for x at level sigma > 0; the inverse of `to_x0`."""
    match kind:
        case "epsilon":
            return (x - x0) / sigma
        case "v_prediction":
            a = input_scale(sigma)
            return (a * x - x0 / a) / sigma
        case "sample":
            return x0


def target(x0: Tensor, noise: Tensor, alpha_cumprod: Tensor, kind: Prediction) -> Tensor:
    """What the network should have said, given the clean latents and the noise that was added to them.

    Args:
        alpha_cumprod: a^2 in the table above, broadcasting against x0; 0 is pure noise.
    """
    match kind:
        case "epsilon":
            return noise
        case "v_prediction":
            return alpha_cumprod.sqrt() * noise - (1 - alpha_cumprod).sqrt() * x0
        case "sample":
            return x0


def denoiser(predict: Predict, kind: Prediction) -> Denoise:
    """Hide the network's scaling: predict(scaled x, sigma) -> denoise(x, sigma), in fp32."""

    def denoise(x: Tensor, sigma: float) -> Tensor:
        return to_x0(predict(x * input_scale(sigma), sigma).to(torch.float32), x, sigma, kind)

    return denoise
