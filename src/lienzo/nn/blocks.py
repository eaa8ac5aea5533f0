"""Residual, sampling and feed-forward blocks of the U-Net and the VAE. Pictures are (B, C, H, W), sequences (B, L, D)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lienzo.errors import ConfigError


def group_norm(groups: int, channels: int, eps: float) -> nn.GroupNorm:
    if channels % groups:
        raise ConfigError(f"norm_num_groups={groups} does not divide {channels} channels.")
    return nn.GroupNorm(groups, channels, eps=eps)


class SharedNorm(nn.Module):
    """A group norm whose statistics are those of the first x that it sees, so that parts of a picture are treated alike.

    Args:
        norm: whose weights are used.
    """

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.norm = norm
        self.factors: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        if self.factors is None:
            grouped = x.float().reshape(len(x), self.norm.num_groups, -1, *x.shape[2:])  # (B, G, C / G, H, W)
            variance, mean = torch.var_mean(grouped, dim=(2, 3, 4), correction=0, keepdim=True)
            spread = (variance + self.norm.eps).rsqrt().expand(*grouped.shape[:3], 1, 1).flatten(1, 2)  # (B, C, 1, 1)
            scale = spread * self.norm.weight[:, None, None]
            shift = self.norm.bias[:, None, None] - mean.expand(*grouped.shape[:3], 1, 1).flatten(1, 2) * scale
            self.factors = scale.to(x.dtype), shift.to(x.dtype)
        scale, shift = self.factors
        return torch.addcmul(shift, x, scale)


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
        h: Tensor = self.conv1(norm_silu(self.norm1, x))
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
        height, width = x.shape[2:]
        # measured: on small maps adding up the kernel costs more than it saves, on narrow ones there is little to save
        doubled = size in (None, (2 * height, 2 * width)) and height * width >= 256 and x.shape[1] >= 256
        if doubled and type(self.conv) is nn.Conv2d:  # one with an adapter is more than its weight
            return upsample_conv(x, self.conv.weight, self.conv.bias)
        scale = 2.0 if size is None else None
        return self.conv(F.interpolate(x, size=size, scale_factor=scale, mode="nearest"))  # type: ignore[no-any-return]


def upsample_conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 3x3 convolution of the doubled x, from x itself, with 4/9 of the multiplications.

    After nearest-neighbour doubling, the three rows that a kernel covers come from two rows of x only: for even output
    rows the lower two fall together, for odd ones the upper two. Likewise for columns. So every quarter of the output
    is a 2x2 convolution of x whose kernel is a sum of the 3x3 one's parts.

    Args:
        x: (B, C, H, W).
        weight: (C_out, C, 3, 3).

    Returns:
        (B, C_out, 2H, 2W).
    """
    height, width = x.shape[2:]
    padded = F.pad(x, (1, 1, 1, 1))
    out = x.new_empty(x.shape[0], weight.shape[0], 2 * height, 2 * width)
    for row, by_row in enumerate(_merged(weight, 2)):
        for column, kernel in enumerate(_merged(by_row, 3)):
            part = padded[:, :, row : row + height + 1, column : column + width + 1]
            out[:, :, row::2, column::2] = F.conv2d(part, kernel, bias)
    return out


def _merged(weight: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Kernels of size 2 along `dim` that act for even and for odd outputs."""
    first, middle, last = weight.unbind(dim)
    return torch.stack((first, middle + last), dim), torch.stack((first + middle, last), dim)
