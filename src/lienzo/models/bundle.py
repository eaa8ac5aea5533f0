"""A whole model: everything that a picture is a function of, besides the request."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property

import rfc8785
import torch
from torch import Tensor

from lienzo.diffusion.schedule import Schedule
from lienzo.models.clip import TextEncoder
from lienzo.models.tokenizer import Tokenizer
from lienzo.models.unet import UNet
from lienzo.models.vae import VAE

COMPONENTS = ("text_encoder", "unet", "vae")
StateDicts = Mapping[str, Mapping[str, Tensor]]
"""Component -> its network's state dict."""


@dataclass(frozen=True, kw_only=True)
class UsedLora:
    """A LoRA that a bundle's networks have on them; `lienzo.weights.adapters` puts it there.

    Attributes:
        name: its file's, without folder and extension.
        digest: SHA-256 of its file.
        unet, text_encoder: how much of it each network has.
    """

    name: str
    digest: str
    unet: float
    text_encoder: float


@dataclass(frozen=True, kw_only=True)
class UsedEmbedding:
    """A textual-inversion embedding that a bundle knows, by the word that stands for it in prompts."""

    token: str
    digest: str


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """Tokenizer, networks and noise schedule. Shared by threads; no request state ever lives on it.

    Attributes:
        name: what the user asked for: a folder's or file's name, or a hub id.
        family: "sd1", "sd2", or another generation's name.
        notes: what is worth knowing about how it was loaded: guesses, parts left out, the hub's revision.
        weights: gives the tensors as they are in the file, before any cast; None: the networks' own.
        base: the bundle without `adapters` and `embeddings`; None where there are none.
    """

    name: str
    tokenizer: Tokenizer
    text_encoder: TextEncoder
    unet: UNet
    vae: VAE
    schedule: Schedule
    family: str = "sd1"
    notes: tuple[str, ...] = ()
    weights: Callable[[], StateDicts] | None = None
    base: "Bundle | None" = None
    adapters: tuple[UsedLora, ...] = ()
    embeddings: tuple[UsedEmbedding, ...] = ()

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the weights as published (see `weights_digest`); computed on first use: it reads every byte.

        Adapters and embeddings have their own digests and do not change it.
        """
        if self.base is not None:
            return self.base.digest
        return weights_digest(self.weights() if self.weights is not None else self.state_dicts())

    @cached_property
    def settings_digest(self) -> str:
        """SHA-256 of what makes the pictures besides weights and request: the networks' configurations, the noise schedule's
        settings and the tokenizer, as RFC 8785 JSON."""
        words = self.tokenizer
        settings = {
            **{name: getattr(self, name).config.to_dict() for name in COMPONENTS},
            "scheduler": self.schedule.config.to_dict(),
            "tokenizer": {
                "vocab": words.vocab,
                "merges": words.merges,
                "added": [asdict(token) for token in words.added],
                "special": [words.bos, words.eos, words.pad, words.unk],
                "max_length": words.max_length,
            },
        }
        return hashlib.sha256(b"lienzo settings 1\n" + rfc8785.dumps(settings)).hexdigest()

    def state_dicts(self) -> dict[str, dict[str, Tensor]]:
        """The networks' tensors, by component."""
        return {name: dict(getattr(self, name).state_dict()) for name in COMPONENTS}


def weights_digest(parts: StateDicts) -> str:
    """SHA-256 in hex that identifies weights whatever file layout they came in.

    Over the components in `COMPONENTS`' order: the component's name, then for every tensor, sorted by key, its key,
    dtype, shape and little-endian bytes. A cast to another dtype is another model and has another digest.
    """
    return joined_digest({part: tensors_digest(parts[part]) for part in COMPONENTS})


def joined_digest(digests: Mapping[str, str]) -> str:
    """The digest of the weights, of the digests of their components."""
    total = hashlib.sha256(b"lienzo weights 1\n")
    for part in COMPONENTS:
        total.update(f"{part} {digests[part]}\n".encode())
    return total.hexdigest()


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 in hex of one table of tensors: key, dtype, shape and little-endian bytes of each, sorted by key."""
    one = hashlib.sha256()
    for key, tensor in sorted(tensors.items()):
        dtype = str(tensor.dtype).removeprefix("torch.")
        one.update(f"{key} {dtype} {','.join(map(str, tensor.shape))}\n".encode())
        # numpy has no bfloat16, so the bytes are taken as such; a memory-mapped tensor is hashed without a copy
        one.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return one.hexdigest()
