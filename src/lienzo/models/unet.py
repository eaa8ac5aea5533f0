"""The cross-attention U-Net of Stable Diffusion (arXiv:2112.10752, section 3.3; arXiv:1505.04597).

Keys are those of diffusers' UNet2DConditionModel.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lienzo.config import Config
from lienzo.errors import ConfigError
from lienzo.nn.attention import attend
from lienzo.nn.blocks import Downsample, ResBlock, Upsample, group_norm, norm_silu

DOWN_BLOCKS = {"CrossAttnDownBlock2D": True, "DownBlock2D": False}
UP_BLOCKS = {"CrossAttnUpBlock2D": True, "UpBlock2D": False}


@dataclass(frozen=True, kw_only=True)
class UNetConfig(Config):
    """Shape of a U-Net; field names of diffusers' UNet2DConditionModel, defaults of SD 1.x.

    Attributes:
        sample_size: side of the latents it was trained on; the default picture is this times the VAE's factor.
        in_channels: 4, or 9 for inpainting (latents, mask, masked picture's latents).
        attention_head_dim: *number of heads*, for all levels or one a level. The published name is a mistake that every
            checkpoint repeats.
        use_linear_projection: SD 2.x projects into the transformer by a linear layer, SD 1.x by a 1x1 convolution.
        upcast_attention: SD 2.1's attention needs fp32 (matters in half precision only).
        time_cond_proj_dim: width of a guidance embedding (latent consistency models); None without.
    """

    sample_size: int | tuple[int, int] | None = 64
    in_channels: int = 4
    out_channels: int = 4
    down_block_types: tuple[str, ...] = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    up_block_types: tuple[str, ...] = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int = 2
    cross_attention_dim: int = 768
    attention_head_dim: int | tuple[int, ...] = 8
    transformer_layers_per_block: int = 1
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    flip_sin_to_cos: bool = True
    freq_shift: int = 0
    use_linear_projection: bool = False
    upcast_attention: bool | None = False
    time_cond_proj_dim: int | None = None

    NEUTRAL: ClassVar[Mapping[str, Any]] = {
        "act_fn": "silu",
        "center_input_sample": False,
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "only_cross_attention": False,
        "downsample_padding": 1,
        "mid_block_scale_factor": 1,
        "dropout": 0.0,
        "reverse_transformer_layers_per_block": None,
        "encoder_hid_dim": None,
        "encoder_hid_dim_type": None,
        "num_attention_heads": None,
        "dual_cross_attention": False,
        "class_embed_type": None,
        "addition_embed_type": None,
        "addition_time_embed_dim": None,
        "num_class_embeds": None,
        "resnet_time_scale_shift": "default",
        "resnet_skip_time_act": False,
        "resnet_out_scale_factor": 1.0,
        "time_embedding_type": "positional",
        "time_embedding_dim": None,
        "time_embedding_act_fn": None,
        "timestep_post_act": None,
        "conv_in_kernel": 3,
        "conv_out_kernel": 3,
        "projection_class_embeddings_input_dim": None,
        "attention_type": "default",
        "class_embeddings_concat": False,
        "mid_block_only_cross_attention": None,
        "cross_attention_norm": None,
    }
    IGNORED: ClassVar[frozenset[str]] = frozenset({"addition_embed_type_num_heads"})
    HEADER: ClassVar[Mapping[str, Any]] = {"_class_name": "UNet2DConditionModel", "act_fn": "silu"}

    def __post_init__(self) -> None:
        levels = len(self.block_out_channels)
        for field, known in (("down_block_types", DOWN_BLOCKS), ("up_block_types", UP_BLOCKS)):
            got = getattr(self, field)
            if len(got) != levels or not set(got) <= set(known):
                raise ConfigError(f"UNetConfig: {field}={list(got)}: expected {levels} of {', '.join(known)}.")
        if len(self.heads) != levels:
            raise ConfigError(
                f"UNetConfig: attention_head_dim={list(self.heads)}: expected {levels} numbers, one a level."
            )
        for width, heads in zip(self.block_out_channels, self.heads, strict=True):
            if width % heads:
                raise ConfigError(f"UNetConfig: {heads} heads do not divide {width} channels.")

    @property
    def heads(self) -> tuple[int, ...]:
        """Number of attention heads at every level, finest first."""
        n = self.attention_head_dim
        return n if isinstance(n, tuple) else (n,) * len(self.block_out_channels)


class TimeEmbedding(nn.Module):
    """Sinusoids of t through two linear layers (arXiv:1706.03762, section 3.5; arXiv:2006.11239, appendix B)."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        dim = config.block_out_channels[0]
        self.dim, self.freq_shift, self.flip = dim, config.freq_shift, config.flip_sin_to_cos
        self.linear_1 = nn.Linear(dim, 4 * dim)
        cond = config.time_cond_proj_dim
        self.cond_proj = nn.Linear(cond, dim, bias=False) if cond is not None else None
        self.linear_2 = nn.Linear(4 * dim, 4 * dim)

    def forward(self, t: Tensor, guidance: Tensor | None = None) -> Tensor:
        """Timesteps (B,) and the guidance embedding (B, time_cond_proj_dim) -> (B, 4 * dim)."""
        x = sinusoids(t, self.dim, self.freq_shift, self.flip).to(self.linear_1.weight.dtype)
        if self.cond_proj is not None and guidance is not None:
            x = x + self.cond_proj(guidance)
        return self.linear_2(F.silu(self.linear_1(x)))  # type: ignore[no-any-return]


def sinusoids(t: Tensor, dim: int, freq_shift: float = 0.0, flip: bool = True) -> Tensor:
    """(B,) -> (B, dim) fp32: sin and cos of t * 10000^(-i / (dim / 2 - freq_shift)); `flip` puts the cosines first."""
    half = dim // 2
    i = torch.arange(half, dtype=torch.float32, device=t.device)
    angle = t.float()[:, None] * torch.exp(-math.log(10000.0) * i / (half - freq_shift))
    parts = (angle.cos(), angle.sin()) if flip else (angle.sin(), angle.cos())
    return F.pad(torch.cat(parts, dim=-1), (0, dim % 2))


class Attention(nn.Module):
    """Multi-head attention from (B, L, C) onto a context (B, M, D)."""

    def __init__(self, channels: int, context_dim: int, heads: int, upcast: bool) -> None:
        super().__init__()
        self.heads, self.upcast = heads, upcast
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(context_dim, channels, bias=False)
        self.to_v = nn.Linear(context_dim, channels, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        h = attend(self.to_q(x), self.to_k(context), self.to_v(context), self.heads, upcast=self.upcast)
        return self.to_out[0](h)  # type: ignore[no-any-return]


class GEGLU(nn.Module):
    """a * gelu(b), with a and b two halves of one projection (arXiv:2002.05202, eq. 6)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, 2 * hidden)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.proj(x).chunk(2, dim=-1)
        return a * F.gelu(b)  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        # index 1 is the published checkpoints' dropout, which has no weights
        self.net = nn.ModuleList([GEGLU(channels, 4 * channels), nn.Identity(), nn.Linear(4 * channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.net:
            x = layer(x)
        return x


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention onto the prompt, feed-forward; each pre-normed and added."""

    def __init__(self, channels: int, context_dim: int, heads: int, upcast: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = Attention(channels, channels, heads, upcast)
        self.norm2 = nn.LayerNorm(channels)
        self.attn2 = Attention(channels, context_dim, heads, upcast)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """(B, L, C), (B, M, D) -> (B, L, C)."""
        h = self.norm1(x)
        x = self.attn1(h, h).add_(x)
        x = self.attn2(self.norm2(x), context).add_(x)
        return self.ff(self.norm3(x)).add_(x)  # type: ignore[no-any-return]


class SpatialTransformer(nn.Module):
    """Transformer blocks over the positions of a feature map, added to it."""

    def __init__(self, channels: int, heads: int, config: UNetConfig) -> None:
        super().__init__()
        self.linear = config.use_linear_projection
        self.norm = group_norm(config.norm_num_groups, channels, 1e-6)
        self.proj_in = nn.Linear(channels, channels) if self.linear else nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(channels, config.cross_attention_dim, heads, bool(config.upcast_attention))
            for _ in range(config.transformer_layers_per_block)
        )
        self.proj_out = nn.Linear(channels, channels) if self.linear else nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """(B, C, H, W), (B, M, D) -> (B, C, H, W)."""
        h = self.norm(x)
        h = self.proj_in(_to_sequence(h)) if self.linear else _to_sequence(self.proj_in(h))
        for block in self.transformer_blocks:
            h = block(h, context)
        h = _to_map(self.proj_out(h), x) if self.linear else self.proj_out(_to_map(h, x))
        return h.add_(x)


def _to_sequence(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2).contiguous()  # (B, C, H, W) -> (B, H * W, C)


def _to_map(x: Tensor, like: Tensor) -> Tensor:
    # a contiguous copy: convolutions would go on in channels-last order otherwise, which is slower here in eager mode
    return x.transpose(1, 2).reshape(like.shape).contiguous()  # (B, H * W, C) -> (B, C, H, W)


class Level(nn.Module):
    """Residual blocks at one resolution, each followed by attention where the level has it; then (maybe) a resampling.

    Args:
        inputs: channels that each residual block receives.
    """

    def __init__(
        self,
        inputs: Sequence[int],
        width: int,
        heads: int,
        attention: bool,
        config: UNetConfig,
        resample: nn.Module | None,
    ) -> None:
        super().__init__()
        time = 4 * config.block_out_channels[0]
        groups, eps = config.norm_num_groups, config.norm_eps
        self.resnets = nn.ModuleList(ResBlock(c, width, time_channels=time, groups=groups, eps=eps) for c in inputs)
        self.attentions = nn.ModuleList(SpatialTransformer(width, heads, config) for c in inputs if attention)
        if isinstance(resample, Downsample):
            self.downsamplers = nn.ModuleList([resample])
        elif resample is not None:
            self.upsamplers = nn.ModuleList([resample])

    def layer(self, i: int, x: Tensor, silu_time: Tensor, context: Tensor) -> Tensor:
        x = self.resnets[i](x, silu_time)
        return self.attentions[i](x, context) if len(self.attentions) else x


class DownLevel(Level):
    def forward(self, x: Tensor, silu_time: Tensor, context: Tensor) -> list[Tensor]:
        """Every output of the level, finest first; all of them are skip connections, the last one goes on."""
        outputs = []
        for i in range(len(self.resnets)):
            x = self.layer(i, x, silu_time, context)
            outputs.append(x)
        for down in getattr(self, "downsamplers", ()):
            outputs.append(down(x))
        return outputs


class UpLevel(Level):
    def forward(self, x: Tensor, skips: list[Tensor], silu_time: Tensor, context: Tensor) -> Tensor:
        """Uses one skip connection for every residual block, the last first, and leaves `skips` as it is."""
        for i in range(len(self.resnets)):
            x = self.layer(i, torch.cat([x, skips[-1 - i]], dim=1), silu_time, context)
        for up in getattr(self, "upsamplers", ()):
            # the next skip's size, which is odd where a level before could not be halved evenly
            height, width = skips[-1 - len(self.resnets)].shape[2:]
            x = up(x, (height, width))
        return x


class Middle(nn.Module):
    """Residual block, attention, residual block at the coarsest level."""

    def __init__(self, width: int, heads: int, config: UNetConfig) -> None:
        super().__init__()
        time = 4 * config.block_out_channels[0]
        groups, eps = config.norm_num_groups, config.norm_eps
        self.attentions = nn.ModuleList([SpatialTransformer(width, heads, config)])
        self.resnets = nn.ModuleList(
            ResBlock(width, width, time_channels=time, groups=groups, eps=eps) for _ in range(2)
        )

    def forward(self, x: Tensor, silu_time: Tensor, context: Tensor) -> Tensor:
        x = self.attentions[0](self.resnets[0](x, silu_time), context)
        return self.resnets[1](x, silu_time)  # type: ignore[no-any-return]


class UNet(nn.Module):
    """Predicts noise (or v, or x0: the schedule says which) from noisy latents, a timestep and the prompt's encoding."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths, heads, layers = config.block_out_channels, config.heads, config.layers_per_block
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(config)

        down, skips, before = [], [widths[0]], widths[0]
        for i, width in enumerate(widths):
            inputs = [before] + [width] * (layers - 1)
            resample = Downsample(width, padding=1) if i < last else None
            down.append(DownLevel(inputs, width, heads[i], DOWN_BLOCKS[config.down_block_types[i]], config, resample))
            skips += [width] * (layers + (i < last))
            before = width
        self.down_blocks = nn.ModuleList(down)

        self.mid_block = Middle(widths[-1], heads[-1], config)

        up = []
        for i, width in enumerate(reversed(widths)):
            inputs = [(before if j == 0 else width) + skips.pop() for j in range(layers + 1)]
            upsample = Upsample(width) if i < last else None
            up.append(UpLevel(inputs, width, heads[last - i], UP_BLOCKS[config.up_block_types[i]], config, upsample))
            before = width
        self.up_blocks = nn.ModuleList(up)

        self.conv_norm_out = group_norm(config.norm_num_groups, widths[0], config.norm_eps)
        self.conv_out = nn.Conv2d(widths[0], config.out_channels, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, context: Tensor, guidance: Tensor | None = None) -> Tensor:
        """One evaluation.

        Args:
            x: (B, in_channels, h, w), unit-variance noisy latents, h and w any size of at least 2^(levels - 1).
            t: (B,) timesteps in [0, 1000), fractions allowed.
            context: (B, L, cross_attention_dim), the encoded prompt.
            guidance: (B, time_cond_proj_dim), for latent consistency models only.

        Returns:
            (B, out_channels, h, w).
        """
        silu_time = F.silu(self.time_embedding(t, guidance))
        x = self.conv_in(x)
        skips = [x]
        for down in self.down_blocks:
            skips += down(skips[-1], silu_time, context)
        x = self.mid_block(skips[-1], silu_time, context)
        for up in self.up_blocks:
            x = up(x, skips, silu_time, context)
            # here and not in the level: whoever wraps modules may give it a copy of the list
            del skips[-(self.config.layers_per_block + 1) :]
        return self.conv_out(norm_silu(self.conv_norm_out, x))  # type: ignore[no-any-return]
