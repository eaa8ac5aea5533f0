"""Residual, sampling and feed-forward blocks of the U-Net and the VAE. Pictures are (B, C, H, W), sequences (B, L, D)."""

import torch.nn.functional as F
from torch import Tensor, nn

from lienzo.errors import ConfigError


def group_norm(groups: int, channels: int, eps: float) -> nn.GroupNorm:
    if channels % groups:
        raise ConfigError(f"norm_num_groups={groups} does not divide {channels} channels.")
    return nn.GroupNorm(groups, channels, eps=eps)


def norm_silu(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """silu(norm(x)); the activation reuses the norm's output, so it costs no memory."""
    return F.silu(norm(x), inplace=True)


class ResBlock(nn.Module):
    """norm, silu, conv (+ time embedding), norm, silu, conv, plus the (projected) input.

    Args:
        time_channels: width of the time embedding that is added between the convolutions; None in the VAE.
    """

    def __init__(
        self, channels: int, out_channels: int, *, time_channels: int | None = None, groups: int, eps: float
    ) -> None:
        super().__init__()
        self.norm1 = group_norm(groups, channels, eps)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.time_emb_proj = nn.Linear(time_channels, out_channels) if time_channels is not None else None
        self.norm2 = group_norm(groups, out_channels, eps)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(channels, out_channels, 1) if channels != out_channels else None

    def forward(self, x: Tensor, silu_time: Tensor | None = None) -> Tensor:
        """(B, C, H, W) and silu(time embedding) (B, T) -> (B, C_out, H, W)."""
        h = self.conv1(norm_silu(self.norm1, x))
        if self.time_emb_proj is not None and silu_time is not None:
            h += self.time_emb_proj(silu_time)[:, :, None, None]
        h = self.conv2(norm_silu(self.norm2, h))
        h += x if self.conv_shortcut is None else self.conv_shortcut(x)
        return h


class Downsample(nn.Module):
    """Halve height and width by a strided convolution.

    Args:
        padding: 1 in the U-Net; 0 in the VAE, which pads one row and column at the bottom right only.
    """

    def __init__(self, channels: int, *, padding: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, ceil(H/2), ceil(W/2)) padded, floor unpadded."""
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.conv.padding == (0, 0) else x)  # type: ignore[no-any-return]


class Upsample(nn.Module):
    """Double height and width (or reach `size`) by nearest neighbour, then convolve."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """(B, C, H, W) -> (B, C, 2H, 2W), or (B, C, *size)."""
        scale = 2.0 if size is None else None
        return self.conv(F.interpolate(x, size=size, scale_factor=scale, mode="nearest"))  # type: ignore[no-any-return]
