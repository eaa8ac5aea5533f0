"""Every network against diffusers' and transformers' own, with the same weights: relative error at most 1e-5."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from boceto.scenes import render, sample_scene
from lienzo.errors import ConfigError
from lienzo.models.clip import TextConfig, TextEncoder
from lienzo.models.unet import UNet, UNetConfig
from lienzo.models.vae import VAE, Gaussian, VAEConfig
from lienzo.nn.blocks import Upsample
from lienzo.weights import load

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

TWO = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}
UNETS: list[dict[str, Any]] = [
    {"block_out_channels": (32, 64, 96, 128), "attention_head_dim": 4, "cross_attention_dim": 24},
    {
        "block_out_channels": (32, 64, 96, 128),
        "layers_per_block": 1,
        "attention_head_dim": (2, 4, 6, 8),
        "cross_attention_dim": 40,
        "use_linear_projection": True,
        "upcast_attention": True,
    },
    {**TWO, "block_out_channels": (32, 64), "in_channels": 9, "attention_head_dim": 2, "norm_num_groups": 8},
    {
        **TWO,
        "block_out_channels": (32, 64),
        "layers_per_block": 3,
        "transformer_layers_per_block": 2,
        "attention_head_dim": 4,
    },
    {**TWO, "block_out_channels": (32, 64), "flip_sin_to_cos": False, "freq_shift": 1, "attention_head_dim": 4},
    {**TWO, "block_out_channels": (32, 64), "time_cond_proj_dim": 16, "attention_head_dim": 4},
]
VAES: list[dict[str, Any]] = [
    {"block_out_channels": (32, 64, 96, 128), "layers_per_block": 2},
    {"block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8, "mid_block_add_attention": False},
    {"block_out_channels": (32, 64), "latent_channels": 8, "use_quant_conv": False, "use_post_quant_conv": False},
]


def close(mine: Tensor, theirs: Tensor) -> bool:
    return bool((mine - theirs).abs().max() <= 1e-5 * theirs.abs().max())


def lively(network: torch.nn.Module) -> torch.nn.Module:
    """Untrained weights leave norms at one and biases at zero, where a forgotten one would not show."""
    torch.manual_seed(1)
    for parameter in network.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.2 * torch.randn_like(parameter)
    return network.eval()


@pytest.mark.parametrize("settings", UNETS, ids=range(len(UNETS)))
@pytest.mark.parametrize("size", [(16, 16), (13, 9), (24, 40)])
def test_unet(settings: dict[str, Any], size: tuple[int, int]) -> None:
    theirs = lively(UNet2DConditionModel(sample_size=16, **{"cross_attention_dim": 24, **settings}))
    mine = UNet(UNetConfig.from_dict(dict(theirs.config))).eval()
    mine.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, mine.config.in_channels, *size)
    t, context = torch.tensor([3.0, 981.5]), torch.randn(2, 77, mine.config.cross_attention_dim)
    guidance = torch.randn(2, 16) if mine.config.time_cond_proj_dim else None
    with torch.no_grad():
        assert close(mine(x, t, context, guidance), theirs(x, t, context, timestep_cond=guidance).sample)


@pytest.mark.parametrize("settings", VAES, ids=range(len(VAES)))
def test_vae(settings: dict[str, Any]) -> None:
    n = len(settings["block_out_channels"])
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * n, "up_block_types": ("UpDecoderBlock2D",) * n}
    theirs = lively(AutoencoderKL(**blocks, **settings))
    mine = VAE(VAEConfig.from_dict(dict(theirs.config))).eval()
    mine.load_state_dict(theirs.state_dict(), strict=True)
    x, z = torch.randn(2, 3, 64, 48), torch.randn(2, mine.config.latent_channels, 20, 18)
    noise = torch.randn(2, mine.config.latent_channels, 64 // mine.config.factor, 48 // mine.config.factor)
    with torch.no_grad():
        q, p = mine.encode(x), theirs.encode(x).latent_dist
        assert close(q.mean, p.mean)
        assert close(q.logvar, p.logvar)
        assert close(q.sample(noise), p.mean + p.std * noise)
        assert close(q.kl(), p.kl())
        assert close(mine.decode(z), theirs.decode(z).sample)


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_text_encoder(activation: str) -> None:
    settings = CLIPTextConfig(
        vocab_size=99, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4,
        hidden_act=activation, bos_token_id=97, eos_token_id=98, pad_token_id=1,
    )  # fmt: skip
    theirs = lively(CLIPTextModel(settings))
    mine = TextEncoder(TextConfig.from_dict(settings.to_diff_dict() | {"hidden_act": activation})).eval()
    mine.load_state_dict({f"text_model.{k.removeprefix('text_model.')}": v for k, v in theirs.state_dict().items()})
    ids = torch.randint(0, 99, (2, 77))
    with torch.no_grad():
        reference = theirs(ids, output_hidden_states=True)
        assert close(mine(ids), reference.last_hidden_state)
        for skip in (1, 2, 3):
            norm = mine.text_model.final_layer_norm
            assert close(mine(ids, clip_skip=skip), norm(reference.hidden_states[-(skip + 1)]))
        with pytest.raises(ConfigError, match="clip_skip=4"):
            mine(ids, clip_skip=4)


@pytest.mark.parametrize(("height", "width"), [(40, 40), (16, 90), (33, 47)])
def test_tiles_join_without_seams(height: int, width: int) -> None:
    torch.manual_seed(0)
    vae = lively(VAE(VAEConfig(block_out_channels=(16, 32, 32), norm_num_groups=8, layers_per_block=1)))
    assert isinstance(vae, VAE)
    z = torch.randn(1, 4, height, width)
    with torch.no_grad():
        whole, tiled = vae.decode(z), vae.decode_tiled(z, tile=16, overlap=6)
    assert whole.shape == tiled.shape
    # a seam is a step between neighbouring rows or columns that the whole picture does not have there
    for dim in (2, 3):
        steps = (tiled.diff(dim=dim) - whole.diff(dim=dim)).abs().mean(dim=[d for d in range(4) if d != dim])
        assert steps.max() < 4 * steps.median()
    assert (tiled - whole).abs().mean() < 0.2 * whole.std()


def test_tiles_have_the_colours_of_the_whole() -> None:
    """Flat areas show at once where a tile is normed by itself."""
    vae = load().vae
    rng = np.random.default_rng(5)
    rows = [np.concatenate([np.array(render(sample_scene(rng), 400)) for _ in range(3)], axis=1) for _ in range(2)]
    picture = torch.from_numpy(np.concatenate(rows)) / 127.5 - 1
    with torch.no_grad():
        z = vae.encode(picture.permute(2, 0, 1)[None]).mode()
        whole, tiled = vae.decode(z), vae.decode_tiled(z)
    assert (tiled - whole).square().mean() < 4 * 10**-4.0  # 40 dB: it is 59; with norms of its own for each tile 28


def test_one_tile_is_the_whole() -> None:
    vae = lively(VAE(VAEConfig(block_out_channels=(16, 32), norm_num_groups=8, layers_per_block=1)))
    assert isinstance(vae, VAE)
    z = torch.randn(1, 4, 12, 9)
    with torch.no_grad():
        assert torch.allclose(vae.decode(z), vae.decode_tiled(z, tile=16, overlap=4), atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 256, 16, 16), (2, 288, 17, 20)])
def test_doubling_before_the_convolution_is_never_done_but_meant(shape: tuple[int, ...]) -> None:
    up = lively(Upsample(shape[1]))
    x = torch.randn(shape)
    with torch.no_grad():
        plain = up.conv(torch.nn.functional.interpolate(x, scale_factor=2.0, mode="nearest"))  # type: ignore[operator]
        assert close(up(x), plain)
        assert close(up(x, (2 * shape[2], 2 * shape[3])), plain)
        assert up(x, (2 * shape[2] - 1, 2 * shape[3])).shape[2] == 2 * shape[2] - 1


def test_gaussian_kl_is_zero_only_for_the_standard_normal() -> None:
    zero = torch.zeros(1, 2, 3, 3)
    assert Gaussian(zero, zero).kl().item() == 0
    assert Gaussian(zero + 1, zero).kl().item() == pytest.approx(9)


@pytest.mark.parametrize(
    ("config", "bad", "words"),
    [
        (UNetConfig, {"class_embed_type": "timestep"}, "not supported"),
        (UNetConfig, {"atention_head_dim": 8}, "unknown key"),
        (UNetConfig, {"attention_head_dim": 7}, "do not divide"),
        (UNetConfig, {"down_block_types": ["ResnetDownsampleBlock2D"] * 4}, "expected 4 of"),
        (UNetConfig, {"attention_head_dim": [8, 8]}, "one a level"),
        (VAEConfig, {"act_fn": "mish"}, "not supported"),
        (VAEConfig, {"up_block_types": ["Other"] * 4}, "not supported"),
        (TextConfig, {"hidden_act": "relu"}, "Allowed: gelu, quick_gelu"),
        (TextConfig, {"num_attention_heads": 5}, "do not divide"),
    ],
)
def test_configurations_are_read_strictly(config: Any, bad: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        config.from_dict(bad)


@pytest.mark.parametrize("config", [UNetConfig(), VAEConfig(), TextConfig()])
def test_configurations_survive_writing_and_reading(config: Any) -> None:
    assert type(config).from_dict(config.to_dict()) == config
