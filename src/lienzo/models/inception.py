"""Inception v3 as FID uses it (arXiv:1512.00567; arXiv:1706.08500): the network whose features made FID what it is.

Keys are those of torchvision's InceptionV3, in which the TensorFlow weights of 2015 were published again by pytorch-fid
(`pt_inception-2015-12-05-6726825d.pth`). That network differs from torchvision's in its pooling: averages leave out the
padding, and the last block takes maxima.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 2048
SIDE = 299
Kernel = int | tuple[int, int]


class Conv(nn.Module):
    """Convolution, batch norm, relu."""

    def __init__(self, channels: int, out: int, kernel: Kernel, *, stride: int = 1, padding: Kernel = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


def row(channels: int, out: int, size: int) -> Conv:
    """A kernel of 1 x size that keeps the size."""
    return Conv(channels, out, (1, size), padding=(0, size // 2))


def column(channels: int, out: int, size: int) -> Conv:
    """A kernel of size x 1 that keeps the size."""
    return Conv(channels, out, (size, 1), padding=(size // 2, 0))


def average(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class BlockA(nn.Module):
    def __init__(self, channels: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = Conv(channels, 64, 1)
        self.branch5x5_1, self.branch5x5_2 = Conv(channels, 48, 1), Conv(48, 64, 5, padding=2)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Conv(channels, 64, 1), Conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Conv(96, 96, 3, padding=1)
        self.branch_pool = Conv(channels, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        wide = self.branch5x5_2(self.branch5x5_1(x))
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), wide, double, self.branch_pool(average(x))], 1)


class BlockB(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch3x3 = Conv(channels, 384, 3, stride=2)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Conv(channels, 64, 1), Conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Conv(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, stride=2)], 1)


class BlockC(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch1x1 = Conv(768, 192, 1)
        self.branch7x7_1, self.branch7x7_2, self.branch7x7_3 = (
            Conv(768, width, 1), row(width, width, 7), column(width, 192, 7),
        )  # fmt: skip
        self.branch7x7dbl_1, self.branch7x7dbl_2 = Conv(768, width, 1), column(width, width, 7)
        self.branch7x7dbl_3, self.branch7x7dbl_4 = row(width, width, 7), column(width, width, 7)
        self.branch7x7dbl_5 = row(width, 192, 7)
        self.branch_pool = Conv(768, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), single, double, self.branch_pool(average(x))], 1)


class BlockD(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branch3x3_1, self.branch3x3_2 = Conv(768, 192, 1), Conv(192, 320, 3, stride=2)
        self.branch7x7x3_1, self.branch7x7x3_2 = Conv(768, 192, 1), row(192, 192, 7)
        self.branch7x7x3_3, self.branch7x7x3_4 = column(192, 192, 7), Conv(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        long = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), long, F.max_pool2d(x, 3, stride=2)], 1)


class BlockE(nn.Module):
    """The last blocks; `maximum`: pool by maxima instead of averages."""

    def __init__(self, channels: int, *, maximum: bool) -> None:
        super().__init__()
        self.maximum = maximum
        self.branch1x1 = Conv(channels, 320, 1)
        self.branch3x3_1 = Conv(channels, 384, 1)
        self.branch3x3_2a, self.branch3x3_2b = row(384, 384, 3), column(384, 384, 3)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Conv(channels, 448, 1), Conv(448, 384, 3, padding=1)
        self.branch3x3dbl_3a, self.branch3x3dbl_3b = row(384, 384, 3), column(384, 384, 3)
        self.branch_pool = Conv(channels, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        single, double = self.branch3x3_1(x), self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = F.max_pool2d(x, 3, stride=1, padding=1) if self.maximum else average(x)
        parts = [
            self.branch1x1(x), self.branch3x3_2a(single), self.branch3x3_2b(single),
            self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double), self.branch_pool(pooled),
        ]  # fmt: skip
        return torch.cat(parts, 1)


class Inception(nn.Module):
    """Pictures -> the 2,048 averages before the classifier, which is left out."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Conv(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = Conv(32, 32, 3)
        self.Conv2d_2b_3x3 = Conv(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = Conv(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = BlockA(192, 32), BlockA(256, 64), BlockA(288, 64)
        self.Mixed_6a = BlockB(288)
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = (BlockC(w) for w in (128, 160, 160, 192))
        self.Mixed_7a = BlockD()
        self.Mixed_7b, self.Mixed_7c = BlockE(1280, maximum=False), BlockE(2048, maximum=True)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, 299, 299) in [-1, 1] -> (B, 2048)."""
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(pixels)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, stride=2)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(F.max_pool2d(x, 3, stride=2))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        return x.mean((2, 3))  # type: ignore[no-any-return]


def prepare(pixels: Tensor) -> Tensor:
    """(3, H, W) in [-1, 1] -> (3, 299, 299): bilinear without smoothing, as pytorch-fid. Another way gives another FID."""
    return F.interpolate(pixels[None], size=(SIDE, SIDE), mode="bilinear", align_corners=False)[0]
