"""The networks' large blocks: what is computed again, compiled, or sharded as a unit."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from lienzo.errors import ConfigError
from lienzo.models.clip import Layer
from lienzo.models.unet import SpatialTransformer
from lienzo.nn.blocks import ResBlock

KINDS = (ResBlock, SpatialTransformer, Layer)


def blocks(model: nn.Module) -> list[nn.Module]:
    """The residual and attention blocks of U-Nets and VAEs, and the layers of text encoders."""
    return [module for module in model.modules() if isinstance(module, KINDS)]


def compile_blocks(model: nn.Module) -> None:
    """Let torch.compile translate the blocks when they are first used.

    Raises:
        ConfigError: on the CPU, where there is no C++ compiler; torch would say so in the middle of the first step.
    """
    if next(model.parameters()).device.type == "cpu":
        from torch._inductor.cpp_builder import get_cpp_compiler
        from torch._inductor.exc import InvalidCxxCompiler

        try:
            get_cpp_compiler()
        except InvalidCxxCompiler as error:
            raise ConfigError(
                f"run.compile needs a C++ compiler on the CPU, and there is none ({error}). Install g++, name one in the "
                "environment variable CXX, or leave run.compile out."
            ) from None
    for block in blocks(model):
        block.compile()


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
