"""Networks without memory: their names and shapes only."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

FILLS = frozenset({"normal_", "uniform_", "trunc_normal_", "fill_", "zero_"})


class _NoInitialisation(TorchFunctionMode):
    """Leaves out the random initialisation: on the meta device it does nothing, yet imports torch's compiler (2 s)."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if getattr(func, "__name__", "") in FILLS or getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


@contextmanager
def without_memory() -> Iterator[None]:
    """Networks made inside have parameters on the meta device, to be assigned."""
    with torch.device("meta"), _NoInitialisation():
        yield
