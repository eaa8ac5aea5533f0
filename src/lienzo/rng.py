"""Random numbers: one integer seed a picture, one CPU generator a picture. Every random draw goes through here."""

import secrets
from collections.abc import Sequence

import torch
from torch import Generator, Tensor

SEED_LIMIT = 2**53
"""Seeds are below this, so that they are exact in every JSON reader."""


def new_seed() -> int:
    """A seed from the operating system, 32 bits: short enough to read aloud."""
    return secrets.randbits(32)


def generator(seed: int) -> Generator:
    """A CPU generator; the same seed gives the same numbers on every device and in every batch."""
    return Generator("cpu").manual_seed(seed)


def normal(generators: Sequence[Generator], shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise, one generator a picture: (B, *shape) fp32 on the CPU."""
    return torch.cat([torch.randn((1, *shape), generator=g) for g in generators])
