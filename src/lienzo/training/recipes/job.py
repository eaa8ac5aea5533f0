"""What a recipe comes to, once its networks are built and its data is read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from PIL import Image
from torch import Tensor, nn

from lienzo.models.bundle import Bundle
from lienzo.training.data import Dataset
from lienzo.training.share import Share

Model = TypeVar("Model", bound=nn.Module)
Data = TypeVar("Data")
Weights = Mapping[str, Tensor]
"""What learned, by the names that it has in the model."""


@dataclass(frozen=True, kw_only=True)
class Parent:
    """Something that a model is made from: what it is, its name, and the SHA-256 of its weights."""

    role: str
    name: str
    digest: str


@dataclass(frozen=True, kw_only=True)
class Job(Generic[Model, Data]):
    """Everything that the loop needs, and what to do with what it learned.

    Attributes:
        model, loss, batch: as `lienzo.training.loop.train` takes them.
        fill: fills caches; one process does that, before any asks for a batch.
        write: (what learned, an empty folder) -> the product in it.
        product: the folder's name within the run's.
        use: in a sentence or two, how the product is used.
        validate, sample: as `lienzo.training.watch.Hooks` has them.
        bundle: the model as pictures are made with it, where it makes any.
        facts: what the card tells of it.
    """

    model: Model
    loss: Callable[[Model, Data, Share], Tensor]
    batch: Callable[[Share], Data]
    write: Callable[[Weights, Path], None]
    product: str
    use: str
    dataset: Dataset
    validation: Dataset | None
    parents: tuple[Parent, ...]
    fill: Callable[[], None] = lambda: None
    validate: Callable[[Model], Mapping[str, float]] | None = None
    sample: Callable[[Model], Image.Image] | None = None
    bundle: Callable[[Model], Bundle] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is worth knowing of the data before training on it, a sentence each."""
        if self.validation is None:
            return self.dataset.notes
        known = {record.pixels for record in self.dataset.records}
        count, both = len(self.validation.records), sum(r.pixels in known for r in self.validation.records)
        seen = f"{both} of {count} validation pictures are among those trained on: they do not show what is learned beyond them."
        return (
            *self.dataset.notes,
            *(f"Validation: {sentence}" for sentence in self.validation.notes),
            *([seen] if both else []),
        )


def under(weights: Weights, prefix: str) -> dict[str, Tensor]:
    """The weights of one part of a model, by their names in it."""
    start = f"{prefix}."
    return {name.removeprefix(start): value for name, value in weights.items() if name.startswith(start)}
