"""The variational autoencoder with a KL penalty: pictures <-> latents (arXiv:2112.10752, section 3.1; arXiv:1312.6114).

Keys are those of diffusers' AutoencoderKL.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lienzo.config import Config
from lienzo.errors import ConfigError
from lienzo.nn.attention import attend
from lienzo.nn.blocks import Downsample, ResBlock, SharedNorm, Upsample, group_norm, norm_silu
from lienzo.nn.sharing import with_modules

EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class VAEConfig(Config):
    """Shape of a VAE; field names of diffusers' AutoencoderKL.

    Attributes:
        block_out_channels: width of every level, finest first; each level but the last halves the picture.
        scaling_factor: latents times this have about unit variance, as the U-Net expects them.
        shift_factor: subtracted from the latents before scaling (None: 0).
        force_upcast: kept for other tools, which run the VAE of SDXL in fp32; those of SD 1.x and 2.x do well in fp16.
        mid_block_add_attention: global self-attention at the coarsest level.
    """

    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    norm_num_groups: int = 32
    sample_size: int = 512
    scaling_factor: float = 0.18215
    shift_factor: float | None = None
    force_upcast: bool = True
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True
    down_block_types: tuple[str, ...] = ()
    up_block_types: tuple[str, ...] = ()

    NEUTRAL: ClassVar[Mapping[str, Any]] = {"act_fn": "silu", "latents_mean": None, "latents_std": None}
    HEADER: ClassVar[Mapping[str, Any]] = {"_class_name": "AutoencoderKL", "act_fn": "silu"}

    def __post_init__(self) -> None:
        levels = len(self.block_out_channels)
        for field, block in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
            got = getattr(self, field) or (block,) * levels
            if got != (block,) * levels:
                raise ConfigError(
                    f"VAEConfig: {field}={list(got)} is not supported; expected {levels} times {block!r}."
                )
            object.__setattr__(self, field, got)

    @property
    def factor(self) -> int:
        """Pixels a latent cell is wide."""
        return int(2 ** (len(self.block_out_channels) - 1))


@dataclass(frozen=True)
class Gaussian:
    """A diagonal normal distribution over latents, (B, C, h, w)."""

    mean: Tensor
    logvar: Tensor

    def mode(self) -> Tensor:
        return self.mean

    def sample(self, noise: Tensor) -> Tensor:
        """mean + std * noise, with noise a standard normal of the mean's shape (the reparametrisation trick)."""
        return self.mean + torch.exp(0.5 * self.logvar) * noise

    def kl(self) -> Tensor:
        """KL divergence to the standard normal, summed over C, h, w: (B,) (arXiv:1312.6114, appendix B)."""
        return 0.5 * (self.mean.square() + self.logvar.exp() - 1 - self.logvar).sum(dim=(1, 2, 3))


class SelfAttention(nn.Module):
    """Single-head self-attention over all positions, added to its input."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.group_norm = group_norm(groups, channels, EPS)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        h = self.group_norm(x).flatten(2).transpose(1, 2)  # (B, H * W, C)
        h = self.to_out[0](attend(self.to_q(h), self.to_k(h), self.to_v(h), heads=1))
        return h.transpose(1, 2).unflatten(2, x.shape[2:]).add_(x)  # type: ignore[no-any-return]


class Level(nn.Module):
    """Residual blocks at one resolution, then (maybe) a change of resolution."""

    def __init__(self, channels: int, out_channels: int, layers: int, groups: int, resample: nn.Module | None) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            ResBlock(channels if i == 0 else out_channels, out_channels, groups=groups, eps=EPS) for i in range(layers)
        )
        if isinstance(resample, Downsample):
            self.downsamplers = nn.ModuleList([resample])
        elif resample is not None:
            self.upsamplers = nn.ModuleList([resample])

    def forward(self, x: Tensor) -> Tensor:
        for block in [*self.resnets, *getattr(self, "downsamplers", ()), *getattr(self, "upsamplers", ())]:
            x = block(x)
        return x


class Middle(nn.Module):
    """Residual block, self-attention, residual block at the coarsest level."""

    def __init__(self, channels: int, groups: int, attention: bool) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([SelfAttention(channels, groups)] if attention else [])
        self.resnets = nn.ModuleList(ResBlock(channels, channels, groups=groups, eps=EPS) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.resnets[0](x)
        for attention in self.attentions:
            x = attention(x)
        return self.resnets[1](x)  # type: ignore[no-any-return]


class Encoder(nn.Module):
    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths, groups = config.block_out_channels, config.norm_num_groups
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            Level(before, width, config.layers_per_block, groups, Downsample(width, padding=0) if not last else None)
            for before, width, last in zip(
                (widths[0], *widths), widths, [i == len(widths) - 1 for i in range(len(widths))], strict=False
            )
        )
        self.mid_block = Middle(widths[-1], groups, config.mid_block_add_attention)
        self.conv_norm_out = group_norm(groups, widths[-1], EPS)
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 2 * latent_channels, H / factor, W / factor)."""
        x = self.conv_in(x)
        for level in self.down_blocks:
            x = level(x)
        return self.conv_out(norm_silu(self.conv_norm_out, self.mid_block(x)))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths, groups = config.block_out_channels[::-1], config.norm_num_groups
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.mid_block = Middle(widths[0], groups, config.mid_block_add_attention)
        self.up_blocks = nn.ModuleList(
            Level(before, width, config.layers_per_block + 1, groups, Upsample(width) if not last else None)
            for before, width, last in zip(
                (widths[0], *widths), widths, [i == len(widths) - 1 for i in range(len(widths))], strict=False
            )
        )
        self.conv_norm_out = group_norm(groups, widths[-1], EPS)
        self.conv_out = nn.Conv2d(widths[-1], config.out_channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """(B, latent_channels, h, w) -> (B, 3, h * factor, w * factor)."""
        x = self.mid_block(self.conv_in(z))
        for level in self.up_blocks:
            x = level(x)
        return self.conv_out(norm_silu(self.conv_norm_out, x))  # type: ignore[no-any-return]


class VAE(nn.Module):
    """Encoder and decoder. Latents here are unscaled; `to_latents`/`from_latents` apply the scaling factor."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        c = config.latent_channels
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = nn.Conv2d(2 * c, 2 * c, 1) if config.use_quant_conv else None
        self.post_quant_conv = nn.Conv2d(c, c, 1) if config.use_post_quant_conv else None

    def encode(self, x: Tensor) -> Gaussian:
        """Pictures (B, 3, H, W) in [-1, 1], H and W multiples of `config.factor` -> q(z | x), (B, C, h, w)."""
        moments = self.encoder(x)
        if self.quant_conv is not None:
            moments = self.quant_conv(moments)
        mean, logvar = moments.chunk(2, dim=1)
        return Gaussian(mean, logvar.clamp(-30.0, 20.0))

    def decode(self, z: Tensor) -> Tensor:
        """Latents (B, C, h, w) -> pictures (B, 3, H, W), about [-1, 1] (not clamped)."""
        return self.decoder(z if self.post_quant_conv is None else self.post_quant_conv(z))  # type: ignore[no-any-return]

    def to_latents(self, z: Tensor) -> Tensor:
        """VAE latents -> the unit-variance latents that the U-Net works on."""
        return (z - (self.config.shift_factor or 0.0)) * self.config.scaling_factor

    def from_latents(self, x: Tensor) -> Tensor:
        """The inverse of `to_latents`."""
        return x / self.config.scaling_factor + (self.config.shift_factor or 0.0)

    def decode_tiled(self, z: Tensor, *, tile: int = 64, overlap: int = 16) -> Tensor:
        """Decode in overlapping tiles: memory is that of a few tiles plus the picture.

        Group norms see a whole picture in `decode`, and their statistics set its colours: tiles that were normed each
        by itself would differ visibly. So the statistics are measured once, on a mosaic of pieces from all over the
        picture, and used for every tile. Neighbouring tiles are cross-faded linearly over their overlap. What remains
        of the difference to `decode` is the mosaic's error, and that the attention sees a tile at a time.

        Args:
            z: (B, C, h, w).
            tile: side of a tile in latent cells.
            overlap: cells shared by neighbours, 1 <= overlap < tile.

        Returns:
            (B, 3, h * factor, w * factor).
        """
        if not 1 <= overlap < tile:
            raise ValueError(f"overlap={overlap} must be at least 1 and below tile={tile}.")
        if max(z.shape[2:]) <= tile:
            return self.decode(z)
        norms = {path: SharedNorm(m) for path, m in self.named_modules() if isinstance(m, nn.GroupNorm)}
        vae = with_modules(self, norms)
        vae.decode(_mosaic(z, 2 * tile, tile // 4))
        f, (h, w) = self.config.factor, z.shape[2:]
        out = z.new_zeros(z.shape[0], self.config.out_channels, h * f, w * f)
        total = z.new_zeros(1, 1, h * f, w * f)
        for top, left in product(_starts(h, tile, overlap), _starts(w, tile, overlap)):
            part = vae.decode(z[:, :, top : top + tile, left : left + tile])
            rows = slice(top * f, top * f + part.shape[2])
            cols = slice(left * f, left * f + part.shape[3])
            fade = _fade(part.shape[2], overlap * f, z)[:, None] * _fade(part.shape[3], overlap * f, z)
            out[:, :, rows, cols] += part.mul_(fade)
            total[:, :, rows, cols] += fade
        return out.div_(total)


def _mosaic(z: Tensor, side: int, piece: int) -> Tensor:
    """At most `side` cells of height and of width, in pieces taken evenly from all over z (B, C, h, w)."""
    for dim in (2, 3):
        length = z.shape[dim]
        if length > side:
            count = side // piece
            starts = [i * (length - piece) // (count - 1) for i in range(count)]
            z = torch.cat([z.narrow(dim, start, piece) for start in starts], dim)
    return z


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin so that they cover `length`, the last one flush with the end."""
    if length <= tile:
        return [0]
    return [*range(0, length - tile, tile - overlap), length - tile]


def _fade(length: int, ramp: int, like: Tensor) -> Tensor:
    """Weights (length,) that rise linearly over `ramp` at both ends; positive, so that they can be divided by."""
    i = torch.arange(length, device=like.device, dtype=torch.float32) + 0.5
    return (torch.minimum(i, length - i) / ramp).clamp(max=1.0).to(like.dtype)
