"""A watermark in the noise that a picture starts from (Gaussian Shading, arXiv:2404.04956).

Magnitudes come from the seed, as ever; signs from a key. To whoever lacks the key the noise is a standard normal, value
by value independent, and so are the pictures made of it what they would be. But a seed then gives another picture.

Each request has its own signs, which are a keyed function of it: the same request gives the same noise. (Signs that every
picture of a key shared would show in the mean of a few pictures.) So a mark is not read but recognised: the signs of records
that come into question are held against the noise that a picture seems to have started from. That is found by walking DDIM
backwards, with no prompt; where an autoencoder keeps little of the noise's trace, nothing is found, see `find_latent`.
"""

import hashlib
import hmac
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lienzo.diffusion.prediction import denoiser
from lienzo.diffusion.samplers import first_order
from lienzo.errors import RequestError
from lienzo.images import resize, to_tensor
from lienzo.models.bundle import Bundle
from lienzo.pipeline.generate import native_size, resolve
from lienzo.pipeline.prompt import encode_prompt
from lienzo.pipeline.request import Request
from lienzo.rng import generator, normal

NONCE_BYTES: Final = 16
FALSE_POSITIVES: Final = 1e-6
"""Of unmarked pictures that are taken for marked, at most, however many records are tried."""
STEPS: Final = 20
"""Backwards. Fifty find no more."""


@dataclass(frozen=True)
class LatentFound:
    """A record whose signs were recognised.

    Attributes:
        nonce: of the request, see `nonce_of`.
        matches: share of the signs that agree; one half by chance.
        p_value: an upper bound on the probability that any of the records tried fits so well by chance.
    """

    nonce: bytes
    matches: float
    p_value: float


def nonce_of(bundle: Bundle, request: Request, key: bytes) -> bytes:
    """What tells a request's signs from others'; it says nothing about the request to whoever lacks the key."""
    digest = resolve(bundle, request).digest
    return hmac.new(key, f"lienzo latent v1 nonce\n{digest}".encode(), hashlib.sha256).digest()[:NONCE_BYTES]


def latents_for(bundle: Bundle, requests: Request | Sequence[Request], key: bytes) -> Tensor:
    """Marked initial noise, for `generate(..., latents=...)`: (B, C, h, w) fp32 on the CPU.

    Raises:
        RequestError: not txt2img, or pictures of several sizes.
    """
    batch = [resolve(bundle, r) for r in ([requests] if isinstance(requests, Request) else requests)]
    if any(request.init is not None for request in batch):
        raise RequestError(
            "mark=latent: got an init picture, whose noise is only part of where img2img and inpainting start, so that a "
            "mark in it could not be found. Use txt2img, or mark=full."
        )
    shapes = {_shape(bundle, (request.width, request.height)) for request in batch}
    if len(shapes) != 1:
        raise RequestError(
            f"mark=latent: got {len(shapes)} sizes of picture; make pictures of one size together, at least one."
        )
    (shape,) = shapes
    return torch.cat([initial_noise(r.seed, shape, key, nonce_of(bundle, r, key)) for r in batch])


def initial_noise(seed: int, shape: tuple[int, int, int], key: bytes, nonce: bytes) -> Tensor:
    """(1, C, h, w) fp32: as far from 0 as the seed says, on the side that key and nonce say."""
    return normal([generator(seed)], shape).abs() * _signs(key, nonce, math.prod(shape)).reshape(1, *shape)


def find_latent(
    bundle: Bundle,
    image: Image.Image,
    key: bytes,
    nonces: Sequence[bytes],
    *,
    size: tuple[int, int] | None = None,
) -> LatentFound | None:
    """Recognise which record's noise a picture started from.

    Costs `STEPS` evaluations of the network, and a hash for each record. Of the embedded model's pictures
    it finds hardly any: of 128x128 pixels of plain colour, its autoencoder gives the noise's trace back too weakly.

    Args:
        bundle: the model that made it, or one close to it.
        nonces: of the records that come into question.
        size: (width, height) that it was made at; None: the model's own.

    Raises:
        RequestError: an inpainting or latent consistency model, which starts from more than noise.
    """
    config = bundle.unet.config
    if config.in_channels != config.out_channels or config.time_cond_proj_dim is not None:
        raise RequestError(f"{bundle.name}: DDIM cannot be walked backwards with an inpainting or consistency model.")
    width, height = size or native_size(bundle)
    vae = bundle.vae
    weight = next(vae.parameters())
    with torch.no_grad():
        pixels = to_tensor(resize(image.convert("RGB"), width, height))[None]
        latents = vae.to_latents(vae.encode(pixels.to(weight.device, weight.dtype)).mode()).float()
    return recognise(invert(bundle, latents), key, nonces)


def recognise(noise: Tensor, key: bytes, nonces: Sequence[bytes]) -> LatentFound | None:
    """The nonce whose signs fit noise (1, C, h, w) best, if so well that chance is excluded.

    Signs are weighed by how far a value is from 0: a value near it is of either. Whatever the values w, signs s of a key
    that had nothing to do with them give P(sum s w >= t |w|) <= exp(-t^2 / 2) (Hoeffding), times the records tried.
    """
    values = noise.double().flatten()
    best = LatentFound(b"", 0.0, math.inf)
    for nonce in nonces:
        signs = _signs(key, nonce, len(values))
        fit = float((signs * values).sum() / values.norm())
        p_value = min(1.0, len(nonces) * math.exp(-(max(fit, 0.0) ** 2) / 2))
        if p_value < best.p_value:
            best = LatentFound(nonce, float((signs * values > 0).double().mean()), p_value)
    return best if best.p_value <= FALSE_POSITIVES else None


@torch.no_grad()
def invert(bundle: Bundle, latents: Tensor) -> Tensor:
    """Unit-variance latents (1, C, h, w) -> the standard normal from which DDIM, without a prompt, would reach them."""
    schedule = bundle.schedule
    weight = next(bundle.unet.parameters())
    context = encode_prompt(bundle, "")[0].to(weight.device, weight.dtype)

    def predict(x: Tensor, sigma: float) -> Tensor:
        time = torch.tensor([schedule.time(sigma)], device=weight.device)
        return bundle.unet(x.to(weight.dtype), time, context)  # type: ignore[no-any-return]

    table = [sigma for sigma in schedule.sigmas if math.isfinite(sigma)]
    levels = [table[i] for i in np.linspace(0, len(table) - 1, STEPS + 1).round().astype(int)]
    start = latents.to(weight.device) * math.sqrt(1 + levels[0] ** 2)
    denoise = denoiser(predict, schedule.prediction_type)
    # eta = 0 draws no noise
    *_, (x, _, top) = first_order(denoise, start, tuple(pairwise(levels)), lambda: torch.zeros_like(start))
    return (x / math.sqrt(1 + top**2)).cpu()


def _signs(key: bytes, nonce: bytes, count: int) -> Tensor:
    """(count,) of -1 and 1 in fp32."""
    stream = hashlib.shake_256(b"lienzo latent v1 signs\n" + hmac.new(key, nonce, hashlib.sha256).digest())
    bits = np.unpackbits(np.frombuffer(stream.digest((count + 7) // 8), np.uint8))[:count]
    return torch.from_numpy(1 - 2.0 * bits).float()


def _shape(bundle: Bundle, size: tuple[int | None, int | None]) -> tuple[int, int, int]:
    factor, (width, height) = bundle.vae.config.factor, size
    assert width and height
    return bundle.vae.config.latent_channels, height // factor, width // factor
