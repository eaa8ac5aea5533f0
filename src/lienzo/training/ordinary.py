"""A model that was changed so that several processes can share it, made an ordinary one again."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy

from torch import nn

Whole = Callable[[nn.Parameter], nn.Parameter]
"""A parameter of the changed model -> the whole of it; one that is whole already stays itself."""


class Ordinary:
    """What a model's modules are now: their classes and attributes (hooks, say), to be put back later.

    Parameters come from the changed model, so that none is kept twice; so do buffers, and whether it is in training mode.
    """

    def __init__(self, model: nn.Module) -> None:
        self.modules = [
            (
                one,
                type(one),
                {key: copy(value) if isinstance(value, dict) else value for key, value in vars(one).items()},
            )
            for one in model.modules()
        ]

    def put_back(self, whole: Whole) -> None:
        made: dict[nn.Parameter, nn.Parameter] = {}  # what modules share they go on sharing

        def ordinary(p: nn.Parameter | None) -> nn.Parameter | None:
            if p is None:
                return None
            if p not in made:
                made[p] = whole(p)
            return made[p]

        for one, kind, attributes in self.modules:
            now = vars(one)
            parameters = {name: ordinary(p) for name, p in now["_parameters"].items()}
            kept = {"_buffers": now["_buffers"], "training": now["training"]}
            one.__class__, one.__dict__ = kind, {**attributes, **kept, "_parameters": parameters}

    @contextmanager
    def for_a_while(self, whole: Whole) -> Iterator[None]:
        """Inside, the model is an ordinary one, to be used but not changed."""
        changed = [(one, type(one), vars(one)) for one, *_ in self.modules]
        self.put_back(whole)
        try:
            yield
        finally:
            for one, kind, attributes in changed:
                one.__class__, one.__dict__ = kind, attributes
