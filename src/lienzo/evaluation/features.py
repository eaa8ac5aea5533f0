"""Pictures as vectors: by any CLIP image encoder, or by FID's Inception."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lienzo.errors import FormatError, InputError, ModelNotFoundError
from lienzo.images import to_tensor
from lienzo.models import inception
from lienzo.models.clip_vision import CLIP
from lienzo.weights import hub
from lienzo.weights.clip import WANTED, LoadedCLIP, load_clip
from lienzo.weights.inception import load_inception

Array = NDArray[np.float64]
T = TypeVar("T")
BATCH = 16


@dataclass(frozen=True, kw_only=True)
class Features:
    """A way to turn pictures into vectors.

    Attributes:
        name: of the network, for the report: a score means nothing without it.
        digest: of its weights.
        prepare: picture -> (3, H, W).
        encode: (B, 3, H, W) -> (B, D).
    """

    name: str
    digest: str
    prepare: Callable[[Image.Image], Tensor]
    encode: Callable[[Tensor], Tensor]

    def of(self, pictures: Iterable[Image.Image], *, on_batch: Callable[[int], object] | None = None) -> Array:
        """(N, D) float64, not normalised.

        Args:
            on_batch: called with the number of pictures done.
        """
        found, done = [], 0
        for some in _batches(pictures, BATCH):
            with torch.inference_mode():
                found.append(self.encode(torch.stack([self.prepare(p) for p in some])).cpu().double().numpy())
            done += len(some)
            if on_batch is not None:
                on_batch(done)
        return np.concatenate(found)


def clip_features(clip: LoadedCLIP) -> Features:
    """The image side of a CLIP."""
    device = next(clip.model.parameters()).device
    return Features(
        name=f"CLIP {clip.name}",
        digest=clip.digest,
        prepare=clip.preprocessing,
        encode=lambda batch: clip.model.image_features(batch.to(device)),
    )


def load_features(source: str | Path, *, device: str | torch.device = "cpu", offline: bool | None = None) -> Features:
    """Features of a CLIP (folder, file beside its configuration, hub id) or of FID's Inception (file, or a folder or hub id
    that holds nothing else).

    Raises:
        WeightsError: neither of them, or damaged.
    """
    wanted = [*WANTED, "*inception*.pth", "*inception*.safetensors"]
    path = hub.find(source, "The features", offline=offline, only=wanted)
    if not path.exists():
        raise ModelNotFoundError(
            f"No features at {source}: no such folder or file. A hub id has the form organisation/name."
        )
    if (path if path.is_dir() else path.parent).joinpath("config.json").is_file():
        return clip_features(load_clip(path, device=device))
    files = [path] if path.is_file() else [*path.glob("*.pth"), *path.glob("*.safetensors")]
    if len(files) != 1:
        raise FormatError(
            f"{path}: expected a CLIP's folder (with a config.json), or one file of Inception's weights; "
            f"found {len(files)} files of weights."
        )
    loaded = load_inception(files[0], device=device)
    return Features(
        name=f"Inception {loaded.name}",
        digest=loaded.digest,
        prepare=lambda image: inception.prepare(to_tensor(image)),
        encode=lambda batch: loaded.model(batch.to(device)),
    )


def text_features(clip: LoadedCLIP, texts: Sequence[str]) -> tuple[Array, tuple[str, ...]]:
    """(N, D) float64, not normalised, and the texts whose end did not fit.

    Raises:
        InputError: only the image side is there.
    """
    if not isinstance(clip.model, CLIP) or clip.tokenizer is None:
        raise InputError(
            f"{clip.name} is the image side of a CLIP alone. To compare pictures with words, name a folder with both."
        )
    tokens = [clip.tokenizer.encode(text) for text in texts]
    device = clip.model.logit_scale.device
    found = []
    for some in _batches(tokens, BATCH):
        with torch.inference_mode():
            ids = torch.tensor([t.ids for t in some], device=device)
            found.append(clip.model.text_features(ids).cpu().double().numpy())
    return np.concatenate(found), tuple(text for text, t in zip(texts, tokens, strict=True) if t.dropped)


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some
