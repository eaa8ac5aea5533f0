"""The networks' large blocks: what is computed again, compiled, or sharded as a unit."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from lienzo.models.clip import Layer
from lienzo.models.unet import SpatialTransformer
from lienzo.nn.blocks import ResBlock

KINDS = (ResBlock, SpatialTransformer, Layer)


def blocks(model: nn.Module) -> list[nn.Module]:
    """The residual and attention blocks of U-Nets and VAEs, and the layers of text encoders."""
    return [module for module in model.modules() if isinstance(module, KINDS)]


@contextmanager
def recomputed(model: nn.Module) -> Iterator[None]:
    """Inside, blocks keep their input only and compute their activations again in the backward pass (arXiv:1604.06174).

    Nothing random happens in a block, so the gradients are the same bit for bit.
    """
    changed = blocks(model)
    for block in changed:
        again = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
        block.forward = again
    try:
        yield
    finally:
        for block in changed:
            del block.forward  # the class's own again
