"""Random numbers: one integer seed a picture, one CPU generator a picture. Every random draw goes through here."""

import secrets
from collections.abc import Sequence

import torch
from torch import Generator, Tensor

SEED_LIMIT = 2**32
"""Seeds are below this: torch's CPU generator looks at the lower 32 bits only."""


def new_seed() -> int:
    """A seed from the operating system, 32 bits: short enough to read aloud."""
    return secrets.randbits(32)


def generator(seed: int) -> Generator:
    """A CPU generator; the same seed gives the same numbers on every device and in every batch."""
    return Generator("cpu").manual_seed(seed)


def normal(generators: Sequence[Generator], shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise, one generator a picture: (B, *shape) fp32 on the CPU.

    Where all pictures share one generator (diffusers allows it), it draws for all at once, as it does there.
    """
    if len(generators) > 1 and all(g is generators[0] for g in generators):
        return torch.randn((len(generators), *shape), generator=generators[0])
    return torch.cat([torch.randn((1, *shape), generator=g) for g in generators])
