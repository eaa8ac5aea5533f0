"""What of a step one process works on at a time, and every random number for it.

The samples of a step's global batch are numbered, and a sample's random numbers are a pure function of (seed, step, its
number, the draw's name). So neither the number of processes, nor accumulation, nor the order of draws changes them, and
nothing of them has to be kept in a checkpoint: the step says it all.
"""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from lienzo.rng import SEED_LIMIT, generator, normal


@dataclass(frozen=True, kw_only=True)
class Share:
    """One of the equal parts of a step's global batch.

    Attributes:
        seed: of the run.
        step: 0 for the first.
        index: which part this is, 0 <= index < count.
        count: parts of the step: processes times accumulation.
        size: samples in a part.
        classes: as many class pictures follow the samples (DreamBooth); their numbers follow those of all samples, so that
            how a step is divided does not matter to them either.
    """

    seed: int
    step: int
    index: int = 0
    count: int = 1
    size: int
    classes: bool = False

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers of this part's samples in the global batch."""
        own = range(self.index * self.size, (self.index + 1) * self.size)
        return (*own, *(self.total + i for i in own)) if self.classes else tuple(own)

    @property
    def total(self) -> int:
        """Samples in the global batch, class pictures not counted."""
        return self.count * self.size

    def uniform(self, name: str) -> Tensor:
        """A number in [0, 1) for every sample: (size,) fp64."""
        return torch.tensor([_bits(self.seed, self.step, i, name) / 2**53 for i in self.numbers], dtype=torch.float64)

    def integers(self, name: str, high: int) -> Tensor:
        """A whole number in [0, high) for every sample: (size,) int64."""
        return (self.uniform(name) * high).long().clamp(max=high - 1)

    def stratified(self, name: str) -> Tensor:
        """As `uniform`, one from each of `total` equal parts of [0, 1): the same distribution, less variance."""
        strata = torch.tensor([i % self.total for i in self.numbers], dtype=torch.float64)
        return (strata + self.uniform(name)) / self.total

    def normal(self, name: str, *shape: int) -> Tensor:
        """Standard normal numbers for every sample: (size, *shape) fp32 on the CPU."""
        return normal([generator(_bits(self.seed, self.step, i, name) % SEED_LIMIT) for i in self.numbers], shape)

    def common(self, name: str) -> float:
        """A number in [0, 1) that all samples of the step share, whatever part they are in."""
        return _bits(self.seed, self.step, -1, name) / 2**53


def _bits(seed: int, step: int, number: int, name: str) -> int:
    """53 random bits."""
    digest = hashlib.sha256(f"{seed}/{step}/{number}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 11
