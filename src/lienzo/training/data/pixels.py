"""From draws to tensors: decode, resize, crop, mirror; in threads and ahead of time, which changes nothing but the wait."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from lienzo.images import mask_tensor, resize, to_tensor
from lienzo.training.data.buckets import resized
from lienzo.training.data.plan import Draw


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Pictures and captions of one step.

    Attributes:
        pixels: (B, 3, H, W) fp32 in [-1, 1].
        masks: (B, 1, H, W) fp32 in [0, 1], 1 where the loss counts; None unless `DataConfig.masks`.
        weights: (B,) fp32 of the losses.
    """

    draws: tuple[Draw, ...]
    pixels: Tensor
    masks: Tensor | None
    weights: Tensor

    @property
    def keys(self) -> tuple[str, ...]:
        """What the pictures are called, for messages."""
        return tuple(draw.record.key for draw in self.draws)

    @property
    def captions(self) -> tuple[str, ...]:
        return tuple(draw.caption for draw in self.draws)


def pixels(draw: Draw) -> Tensor:
    """(3, H, W) in [-1, 1], as the draw cuts it.

    Raises:
        ImageError: the file cannot be read any more.
    """
    record, (left, top), (width, height) = draw.record, draw.crop, draw.bucket
    image = resize(record.open(), *resized(record.width, record.height, draw.bucket))
    tensor = to_tensor(image.crop((left, top, left + width, top + height)))
    return tensor.flip(2) if draw.flip else tensor


def mask(draw: Draw) -> Tensor:
    """(1, H, W) in [0, 1], cut as the picture is; all 1 where there is no mask."""
    record, (left, top), (width, height) = draw.record, draw.crop, draw.bucket
    painted = record.open_mask()
    if painted is None:
        return torch.ones(1, height, width)
    whole = mask_tensor(painted, *resized(record.width, record.height, draw.bucket), soft=True)
    cut = whole[:, top : top + height, left : left + width]
    return cut.flip(2) if draw.flip else cut


class Loader:
    """Batches by step, read by threads, the next ones ahead of time.

    Use it in a `with` block: leaving it, with Ctrl-C too, drops what was not begun.

    Args:
        draws: step -> what to read, a pure function; `Plan.batch_at` with its rank, or without pictures already cached.
        masks: read masks too.
        ahead: steps that are begun before they are asked for.
    """

    def __init__(
        self, draws: Callable[[int], Sequence[Draw]], *, masks: bool = False, threads: int = 2, ahead: int = 2
    ) -> None:
        self._draws, self._masks, self._ahead = draws, masks, ahead
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="lienzo-data")
        self._begun: dict[int, tuple[tuple[Draw, ...], list[Future[tuple[Tensor, Tensor | None]]]]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def batch(self, step: int) -> Batch:
        """The batch of a step; the next ones are begun.

        Raises:
            ImageError: a file cannot be read any more; the message names it.
        """
        for old in [s for s in self._begun if not step <= s <= step + self._ahead]:
            for future in self._begun.pop(old)[1]:
                future.cancel()
        for coming in range(step, step + self._ahead + 1):
            if coming not in self._begun:
                draws = tuple(self._draws(coming))
                self._begun[coming] = draws, [self._pool.submit(self._read, draw) for draw in draws]
        draws, futures = self._begun.pop(step)
        read = [future.result() for future in futures]
        return Batch(
            draws=draws,
            pixels=torch.stack([one for one, _ in read]),
            masks=torch.stack([m for _, m in read if m is not None]) if self._masks else None,
            weights=torch.tensor([draw.weight for draw in draws]),
        )

    def _read(self, draw: Draw) -> tuple[Tensor, Tensor | None]:
        return pixels(draw), mask(draw) if self._masks else None
