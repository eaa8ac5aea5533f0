"""An exponential moving average of the weights that learn: what one samples with."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


class EMA:
    """Average of tensors, warmed up so that early averages are not the random start.

    Args:
        tensors: what is averaged, by name: the same tensors are looked at in every update.
        decay: of the average in the long run; after n updates it is min(decay, (1 + n) / (10 + n)).
        device: where the averages lie; None: with the tensors.
    """

    def __init__(self, tensors: Mapping[str, Tensor], decay: float, device: str | None = None) -> None:
        self.decay = decay
        self.updates = 0
        self.tensors = dict(tensors)
        # not .to(), which gives the very tensor back where it is on that device already
        self.average = {
            name: value.detach().clone() if device is None else value.detach().to(device, copy=True)
            for name, value in tensors.items()
        }

    @torch.no_grad()
    def update(self) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, value in self.tensors.items():
            mean = self.average[name]
            if mean.is_floating_point():
                mean.lerp_(value.detach().to(mean.device), 1 - decay)
            else:
                mean.copy_(value)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The tensors hold their averages inside, and get their own values back in the end, bit for bit."""
        own = {name: value.detach().clone() for name, value in self.tensors.items()}
        copy(self.average, self.tensors)
        try:
            yield
        finally:
            copy(own, self.tensors)


@torch.no_grad()
def copy(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    """Give every tensor of `target` the values of `source`'s."""
    for name, value in target.items():
        value.copy_(source[name])
