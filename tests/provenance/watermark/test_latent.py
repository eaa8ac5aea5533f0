"""Marked noise is a standard normal to others, and recognised by its key."""

import math

import pytest
import torch
from PIL import Image

from lienzo.errors import RequestError
from lienzo.models.bundle import Bundle
from lienzo.pipeline.generate import finished, generate
from lienzo.pipeline.request import Request
from lienzo.provenance.watermark.latent import (
    FALSE_POSITIVES,
    find_latent,
    initial_noise,
    invert,
    latents_for,
    nonce_of,
    recognise,
)
from lienzo.rng import generator, normal
from lienzo.weights import load

KEY, OTHER = b"k" * 32, b"o" * 32
SHAPE = (4, 64, 64)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load()


def many() -> torch.Tensor:
    return torch.cat([initial_noise(seed, SHAPE, KEY, seed.to_bytes(16)) for seed in range(40)]).double()


def test_noise_is_a_standard_normal() -> None:
    values = many().flatten().sort().values
    n = len(values)
    assert abs(values.mean()) < 4 / math.sqrt(n)
    assert abs(values.square().mean() - 1) < 4 * math.sqrt(2 / n)
    expected = 0.5 * (1 + torch.erf(values / math.sqrt(2)))
    gap = (expected - torch.arange(1, n + 1) / n).abs().max()
    assert gap < 1.95 / math.sqrt(n)  # Kolmogorov-Smirnov at 0.1 %


def test_values_are_independent() -> None:
    noise = many()
    for other in (noise.roll(1, -1), noise.roll(1, -2), noise.roll(1, 1), noise.roll(1, 0)):
        assert abs((noise * other).mean()) < 4 / math.sqrt(noise.numel())
        assert abs((noise.abs() * other).mean()) < 4 / math.sqrt(noise.numel())
    assert (noise.sign().mean(0).abs() * math.sqrt(len(noise))).max() < 6  # no place has a sign of its own


def test_magnitudes_are_the_seed_s() -> None:
    assert initial_noise(7, SHAPE, KEY, b"n" * 16).abs().equal(normal([generator(7)], SHAPE).abs())


def test_signs_hang_on_key_and_nonce() -> None:
    noise = initial_noise(7, SHAPE, KEY, b"n" * 16)
    assert noise.equal(initial_noise(7, SHAPE, KEY, b"n" * 16))
    for key, nonce in ((OTHER, b"n" * 16), (KEY, b"m" * 16)):
        agree = (initial_noise(7, SHAPE, key, nonce) == noise).double().mean()
        assert abs(agree - 0.5) < 0.02


def test_recognised_among_others_though_mostly_lost() -> None:
    noise, nonces = initial_noise(7, SHAPE, KEY, b"n" * 16), [bytes([i]) * 16 for i in range(100)]
    trace = 0.15 * noise + normal([generator(8)], SHAPE)
    found = recognise(trace, KEY, [*nonces, b"n" * 16])
    assert found is not None and found.nonce == b"n" * 16
    assert 0.52 < found.matches < 0.6 and found.p_value <= FALSE_POSITIVES
    assert recognise(trace, OTHER, [*nonces, b"n" * 16]) is None
    assert recognise(trace, KEY, nonces) is None
    assert recognise(trace, KEY, []) is None


def test_chance_fits_no_better_than_bounded() -> None:
    noise, nonces = normal([generator(1)], (4, 16, 16)), [i.to_bytes(16) for i in range(3000)]
    found = [recognise(noise * scale, KEY, nonces) for scale in (1.0, 100.0)]
    assert found == [None, None]


def test_the_same_request_has_the_same_noise(bundle: Bundle) -> None:
    request = Request("a red circle", seed=7)
    noise = latents_for(bundle, request, KEY)
    assert noise.equal(latents_for(bundle, request, KEY))
    both = latents_for(bundle, [request, request.replace(prompt="a blue circle")], KEY)
    assert both[0].equal(noise[0])
    assert not both[1].equal(noise[0]) and both[1].abs().equal(noise[0].abs())


def test_only_txt2img_of_one_size(bundle: Bundle) -> None:
    with pytest.raises(RequestError, match="mark=latent: got an init picture"):
        latents_for(bundle, Request("a", init=Image.new("RGB", (128, 128))), KEY)
    with pytest.raises(RequestError, match="got 2 sizes"):
        latents_for(bundle, [Request("a"), Request("a", width=64, height=64)], KEY)
    with pytest.raises(RequestError, match="got 0 sizes"):
        latents_for(bundle, [], KEY)


def test_recognised_in_the_model_s_own_latents(bundle: Bundle) -> None:
    """The autoencoder aside, walking backwards finds the noise, whatever prompt and guidance there were."""
    for guidance in (1.0, 3.0):
        request = Request("four gray squares on a white background", seed=1, guidance_scale=guidance, steps=10)
        (result,) = finished(generate(bundle, request, latents=latents_for(bundle, request, KEY)))
        nonce = nonce_of(bundle, request, KEY)
        noise = invert(bundle, result.latents[None])
        found = recognise(noise, KEY, [b"m" * 16, nonce])
        assert found is not None and found.nonce == nonce
        assert recognise(noise, OTHER, [b"m" * 16, nonce]) is None


def test_other_pictures_are_not_recognised(bundle: Bundle) -> None:
    assert find_latent(bundle, Image.new("RGB", (100, 90), "teal"), KEY, [bytes([i]) * 16 for i in range(50)]) is None
