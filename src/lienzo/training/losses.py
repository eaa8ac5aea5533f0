"""Step functions: pure functions of (model, batch, generator)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from lienzo.diffusion.loss import denoising_loss
from lienzo.diffusion.schedule import Schedule
from lienzo.models.clip import TextEncoder
from lienzo.models.clip_vision import CLIP
from lienzo.models.unet import UNet
from lienzo.models.vae import VAE

KL_WEIGHT = 1e-6


def vae_loss(vae: VAE, pictures: Tensor, generator: Generator) -> Tensor:
    """Reconstruction plus a small KL penalty (arXiv:2112.10752, section 3.1, but no perceptual or adversarial terms).

    Absolute differences of colours and of their gradients: the second punishes soft edges, which the first hardly sees.

    Args:
        pictures: (B, 3, H, W) in [-1, 1].
    """
    posterior = vae.encode(pictures)
    noise = torch.randn(posterior.mean.shape, generator=generator).to(pictures.device)
    decoded = vae.decode(posterior.sample(noise))
    colours = (decoded - pictures).abs().mean()
    edges = torch.stack([torch.diff(decoded - pictures, dim=axis).abs().mean() for axis in (2, 3)]).sum()
    return colours + edges + KL_WEIGHT * posterior.kl().mean()


@dataclass(frozen=True, kw_only=True)
class CaptionedLatents:
    """A batch to learn to draw from.

    Attributes:
        latents: (B, C, h, w), scaled to about unit variance.
        ids: (B, L) token ids of the captions, int64.
    """

    latents: Tensor
    ids: Tensor


class Conditioned(nn.Module):
    """A text encoder and a U-Net that learn together."""

    def __init__(self, text_encoder: TextEncoder, unet: UNet) -> None:
        super().__init__()
        self.text_encoder, self.unet = text_encoder, unet


def diffusion_loss(
    schedule: Schedule, *, empty: Tensor, dropout: float = 0.1, gamma: float | None = 5.0
) -> Callable[[Conditioned, CaptionedLatents, Generator], Tensor]:
    """The step function of a text-to-image model: the weighted squared error of what the network predicts.

    Args:
        schedule: says how noisy every timestep is and what the network predicts.
        empty: (L,) token ids of the empty caption, at least as many as a batch's captions have.
        dropout: part of the captions that are replaced by it, so that the model learns to draw without one
            (arXiv:2207.12598, algorithm 1).
        gamma: of the min-SNR weighting (arXiv:2303.09556, section 3.4); None: every noise level counts alike.
    """

    def loss(model: Conditioned, batch: CaptionedLatents, generator: Generator) -> Tensor:
        x0 = batch.latents
        size = len(x0)
        noise = torch.randn(x0.shape, generator=generator).to(x0.device)
        # one timestep from each of B equal parts of the schedule: the same distribution, less variance
        part = (torch.arange(size) + torch.rand(size, generator=generator)) / size
        t = (part * len(schedule.sigmas)).long().to(x0.device)
        dropped = (torch.rand(size, generator=generator) < dropout).to(x0.device)
        ids = torch.where(dropped[:, None], empty[: batch.ids.shape[1]].to(x0.device), batch.ids)
        context = model.text_encoder(ids)

        def network(x: Tensor, t: Tensor) -> Tensor:
            return model.unet(x, t, context)  # type: ignore[no-any-return]

        return denoising_loss(network, x0, noise, t, schedule, min_snr_gamma=gamma)

    return loss


@dataclass(frozen=True, kw_only=True)
class CaptionedPictures:
    """A batch to learn to tell pictures apart from.

    Attributes:
        pixels: (B, 3, H, W), prepared as `lienzo.models.clip_vision.Preprocessing` does.
        ids: (B, L) token ids of the captions, int64.
    """

    pixels: Tensor
    ids: Tensor


MAX_LOGIT_SCALE = math.log(100)
"""Logits are not scaled by more than 100 (arXiv:2103.00020, section 2.5)."""


def clip_loss(model: CLIP, batch: CaptionedPictures, generator: Generator) -> Tensor:
    """The contrastive loss (arXiv:2103.00020, figure 3): which caption is whose picture's, and the other way round.

    Nothing is drawn from the generator.
    """
    images = F.normalize(model.image_features(batch.pixels))  # (B, D)
    texts = F.normalize(model.text_features(batch.ids))
    logits = model.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp() * images @ texts.T  # (B, B)
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
