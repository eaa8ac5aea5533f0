"""The only door by which a picture leaves: Python, the command line and whatever serves requests go through it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self, overload

import torch

from lienzo.models.bundle import Bundle
from lienzo.pipeline.generate import Result, Run, Step, generate
from lienzo.pipeline.request import Request
from lienzo.weights import load


def make(bundle: Bundle, requests: Request | Sequence[Request]) -> Run:
    """Make finished pictures: a generator of `Step` that returns the results, see `generate`."""
    return generate(bundle, requests)


class Pipeline:
    """A loaded model that makes pictures. Threads may share it: no call leaves anything behind.

    >>> from lienzo import Pipeline, Request
    >>> pipe = Pipeline.load()                                       # the embedded model; or a folder, file, hub id
    >>> result = pipe(Request("a red circle on a white background", seed=7))
    >>> result.image.size
    (128, 128)
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    @classmethod
    def load(
        cls,
        model: str | Path | None = None,
        *,
        dtype: str | torch.dtype | None = None,
        device: str | torch.device = "cpu",
        **options: Any,
    ) -> Self:
        """Load a model; see `lienzo.weights.load` for what can be named and which options there are."""
        return cls(load(model, dtype=dtype, device=device, **options))

    def stream(self, requests: Request | Sequence[Request]) -> Run:
        """Make pictures step by step: iterate, look at each `Step`, stop whenever; see `make`."""
        return make(self.bundle, requests)

    @overload
    def __call__(self, request: Request | str, *, on_step: Callable[[Step], object] | None = None) -> Result: ...
    @overload
    def __call__(
        self, request: Sequence[Request], *, on_step: Callable[[Step], object] | None = None
    ) -> tuple[Result, ...]: ...
    def __call__(
        self, request: Request | str | Sequence[Request], *, on_step: Callable[[Step], object] | None = None
    ) -> Result | tuple[Result, ...]:
        """Make one picture, or several.

        Args:
            request: a request, a bare prompt, or a sequence of requests.
            on_step: called after every evaluation of the network.
        """
        run = self.stream(Request(request) if isinstance(request, str) else request)
        while True:
            try:
                step = next(run)
            except StopIteration as finished:
                results: tuple[Result, ...] = finished.value
                return results[0] if isinstance(request, (str, Request)) else results
            if on_step is not None:
                on_step(step)
