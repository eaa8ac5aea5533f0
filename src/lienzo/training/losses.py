"""Step functions: pure functions of (model, batch, share)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lienzo.diffusion.loss import Huber, denoising_loss, offset_noise
from lienzo.diffusion.schedule import Schedule
from lienzo.errors import ConfigError
from lienzo.models.clip import TextEncoder
from lienzo.models.clip_vision import CLIP
from lienzo.models.unet import UNet
from lienzo.models.vae import VAE
from lienzo.training.config import LossConfig
from lienzo.training.share import Share

KL_WEIGHT = 1e-6


def vae_loss(vae: VAE, pictures: Tensor, share: Share) -> Tensor:
    """Reconstruction plus a small KL penalty (arXiv:2112.10752, section 3.1, but no perceptual or adversarial terms).

    Absolute differences of colours and of their gradients: the second punishes soft edges, which the first hardly sees.

    Args:
        pictures: (B, 3, H, W) in [-1, 1].
    """
    posterior = vae.encode(pictures)
    noise = share.normal("posterior", *posterior.mean.shape[1:]).to(pictures.device)
    decoded = vae.decode(posterior.sample(noise))
    return reconstruction_loss(decoded, pictures) + KL_WEIGHT * posterior.kl().mean()


def reconstruction_loss(made: Tensor, pictures: Tensor) -> Tensor:
    """Mean absolute differences of colours and of their gradients, (B, 3, H, W) each."""
    difference = made - pictures
    edges = torch.stack([torch.diff(difference, dim=axis).abs().mean() for axis in (2, 3)]).sum()
    return difference.abs().mean() + edges


@dataclass(frozen=True, kw_only=True)
class CaptionedLatents:
    """A batch to learn to draw from: `ids` or `context`. Class pictures (DreamBooth) follow the others, one each.

    Attributes:
        latents: (B, C, h, w), scaled to about unit variance.
        ids: (B, L) token ids of the captions, int64.
        context: (B, L, D), the captions encoded already, where the text encoder does not learn.
        mask: (B, 1, h, w) in [0, 1], what of the pictures counts; None: all.
        weight: (B,) how much a picture counts; None: all alike.
        keys: the records' names, for messages.
    """

    latents: Tensor
    ids: Tensor | None = None
    context: Tensor | None = None
    mask: Tensor | None = None
    weight: Tensor | None = None
    keys: tuple[str, ...] = ()


class Conditioned(nn.Module):
    """A text encoder and a U-Net that learn together."""

    def __init__(self, text_encoder: TextEncoder, unet: UNet) -> None:
        super().__init__()
        self.text_encoder, self.unet = text_encoder, unet


DiffusionLoss = Callable[[Conditioned, CaptionedLatents, Share], Tensor]


def diffusion_loss(
    schedule: Schedule, *, empty: Tensor | None = None, dropout: float = 0.0, config: LossConfig | None = None
) -> DiffusionLoss:
    """The step function of a text-to-image model: how far what the network predicts is from the truth.

    Args:
        schedule: says how noisy every timestep is and what the network predicts.
        empty: (L,) token ids of the empty caption, at least as many as a batch's captions have; or (L, D), its encoding,
            where batches bring theirs.
        dropout: part of the captions that are replaced by it, so that the model learns to draw without one
            (arXiv:2207.12598, algorithm 1).
        config: what else is done; None: the plain loss.

    Raises:
        ConfigError: `config` asks for another prediction or another end of the schedule than `schedule` has.
    """
    if dropout and empty is None:
        raise ValueError("dropout needs the empty caption")
    if config is not None:
        _check_fits(config, schedule)

    def loss(model: Conditioned, batch: CaptionedLatents, share: Share) -> Tensor:
        share = replace(share, classes=len(batch.latents) > share.size)
        t = (share.stratified("timestep") * len(schedule.sigmas)).long()
        if dropout:
            batch = _dropped(batch, share.uniform("dropout") < dropout)
        return _loss(model, batch, share, t)

    def _dropped(batch: CaptionedLatents, dropped: Tensor) -> CaptionedLatents:
        assert empty is not None
        given = batch.ids if batch.ids is not None else batch.context
        assert given is not None
        dropped = dropped.to(given.device).reshape(-1, *[1] * (given.ndim - 1))
        mixed = torch.where(dropped, empty[: given.shape[1]].to(given.device), given)
        return replace(batch, ids=mixed) if batch.ids is not None else replace(batch, context=mixed)

    def _loss(model: Conditioned, batch: CaptionedLatents, share: Share, t: Tensor) -> Tensor:
        return conditioned_loss(model, batch, share, t, schedule, config or LossConfig())

    return loss


def _check_fits(config: LossConfig, schedule: Schedule) -> None:
    """The schedule decides both; a setting that said otherwise would be ignored."""
    if config.prediction not in (None, schedule.prediction_type):
        raise ConfigError(
            f"loss.prediction: got {config.prediction!r}; the schedule's is {schedule.prediction_type!r}. Give a schedule of that type."
        )
    if config.zero_terminal_snr and not schedule.config.rescale_betas_zero_snr:
        raise ConfigError(
            "loss.zero_terminal_snr: got true; the schedule ends above zero. Give one with rescale_betas_zero_snr."
        )


def conditioned_loss(
    model: Conditioned, batch: CaptionedLatents, share: Share, t: Tensor, schedule: Schedule, config: LossConfig
) -> Tensor:
    """The loss of a batch at given timesteps t, (B,) whole numbers."""
    x0 = batch.latents
    noise = share.normal("noise", *x0.shape[1:])
    if config.noise_offset:
        noise = offset_noise(noise, share.normal("noise offset", x0.shape[1]), config.noise_offset)
    context = batch.context if batch.context is not None else model.text_encoder(batch.ids)

    def network(x: Tensor, t: Tensor) -> Tensor:
        return model.unet(x, t, context)  # type: ignore[no-any-return]

    return denoising_loss(
        network,
        x0,
        noise.to(x0.device),
        t.to(x0.device),
        schedule,
        min_snr_gamma=config.gamma if config.weighting == "min_snr" else None,
        debiased=config.weighting == "debiased",
        huber=Huber(c=config.huber_c, schedule=config.huber_schedule) if config.kind == "huber" else None,
        mask=batch.mask if config.masked else None,
        weight=batch.weight,
    )


def validation_loss(
    schedule: Schedule,
    batches: Callable[[], Sequence[CaptionedLatents]],
    *,
    timesteps: Sequence[int] | None = None,
    seed: int = 0,
) -> Callable[[Conditioned], dict[str, float]]:
    """A validation hook: the plain loss of held-out pictures, always at the same timesteps with the same noise.

    Training's own loss hardly shows what is learned, because every step draws other noise levels; this one does.

    Args:
        batches: gives the held-out pictures; asked each time, so that nothing large has to be kept.
        timesteps: None: the middles of five equal parts of the schedule.

    Returns:
        model -> {"loss": the mean, "loss at t": for every timestep}.
    """
    count = len(schedule.sigmas)
    chosen = tuple(timesteps or (count * (2 * i + 1) // 10 for i in range(5)))

    def validate(model: Conditioned) -> dict[str, float]:
        sums, pictures = dict.fromkeys(chosen, 0.0), 0
        for number, batch in enumerate(batches()):
            size = len(batch.latents)
            if batch.context is None:
                assert batch.ids is not None
                batch = replace(batch, context=model.text_encoder(batch.ids))
            for t in chosen:
                share = Share(seed=seed, step=number, index=0, count=1, size=size)
                value = conditioned_loss(model, batch, share, torch.full((size,), t), schedule, LossConfig())
                sums[t] += value.item() * size
            pictures += size
        means = {t: total / max(pictures, 1) for t, total in sums.items()}
        return {"loss": sum(means.values()) / len(means), **{f"loss at {t}": value for t, value in means.items()}}

    return validate


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


def clip_loss(model: CLIP, batch: CaptionedPictures, share: Share) -> Tensor:
    """The contrastive loss (arXiv:2103.00020, figure 3): which caption is whose picture's, and the other way round.

    Nothing is random in it. Each share contrasts its own pictures only. Pictures whose captions are equal share them: each is as
    likely as the others.
    """
    images = F.normalize(model.image_features(batch.pixels))  # (B, D)
    texts = F.normalize(model.text_features(batch.ids))
    logits = model.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp() * images @ texts.T  # (B, B)
    same = same_captions(batch.ids).to(logits)
    own = same / same.sum(1, keepdim=True)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def same_captions(ids: Tensor) -> Tensor:
    """(B, L) token ids -> (B, B), which captions are equal."""
    return (ids[:, None] == ids[None]).all(dim=2)
