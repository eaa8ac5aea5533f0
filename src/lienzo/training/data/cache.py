"""What is costly to compute again, latents and text embeddings, in a folder of safetensors shards.

Every tensor lies under a *slot* (which picture cut how, or which caption) together with the *key* of what it was made
from: the network's weights, the picture's pixels, the dtype. An entry whose key is not the one asked for is stale. Its
bytes have a digest too, so damage is noticed. Both are told and made again. Shards are written whole or not at all and
never changed; one that nothing is read from any more is removed when the cache is opened.
"""

import hashlib
import json
import re
import secrets
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lienzo.training.data.dataset import write_whole
from lienzo.training.data.plan import Draw

SHARD = re.compile(r"(?P<number>\d{6})-[0-9a-f]{8}\.safetensors")
METADATA = "lienzo cache 1"
SHARD_BYTES = 64 * 2**20
"""A shard is written once this much was made, and when the cache is closed."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Something to be had from the cache.

    Attributes:
        slot: where it belongs: the same for what replaces it when something changed.
        content: digest of what it is made from, besides the network.
        name: what it is called in messages.
    """

    slot: str
    content: str
    name: str


def wanted_latent(draw: Draw) -> Wanted:
    """The latent of a picture as it is drawn."""
    record, cut = draw.record, f"{draw.bucket} {draw.crop} {draw.flip}"
    return Wanted(
        slot=_sha(f"{record.source.path}\n{record.key}\n{cut}"), content=f"{record.pixels} {cut}", name=record.key
    )


def wanted_text(caption: str) -> Wanted:
    """The embedding of a caption."""
    return Wanted(slot=_sha(caption), content=_sha(caption), name=repr(caption[:40]))


@dataclass(frozen=True)
class _Place:
    shard: Path
    key: str
    digest: str


class Cache:
    """Tensors by what they were made from. One process writes at a time; several may read.

    Args:
        folder: made if it is not there. One for each kind of tensor.
        network: digest of the weights that make the tensors.
        dtype: the tensors are kept in.
        tell: is given a sentence for what is stale or damaged.
    """

    def __init__(
        self,
        folder: Path,
        *,
        network: str,
        dtype: torch.dtype = torch.float32,
        shard_bytes: int = SHARD_BYTES,
        tell: Callable[[str], None] = lambda sentence: warnings.warn(sentence, stacklevel=3),
    ) -> None:
        self.folder, self.network, self.dtype = folder, network, dtype
        self._shard_bytes, self._tell = shard_bytes, tell
        self._places: dict[str, _Place] = {}
        self._new: dict[str, tuple[str, Tensor]] = {}
        self._opened: dict[Path, Any] = {}
        self._whole: set[str] = set()  # slots whose bytes were looked at: once a process is enough
        self._stale = 0
        self._open()

    def __len__(self) -> int:
        return len(self._places.keys() | self._new.keys())

    def key(self, wanted: Wanted) -> str:
        """SHA-256 of all that an entry depends on."""
        return _sha(f"{self.network}\n{self.dtype}\n{wanted.content}")

    def fetch(self, wanted: Sequence[Wanted], make: Callable[[list[int]], Sequence[Tensor]]) -> list[Tensor]:
        """The tensors of `wanted`; those that are missing, stale or damaged are made and kept.

        Args:
            make: given indexes into `wanted`, computes their tensors.

        Raises:
            OutputError: the disk is full; what was kept before is still there.
        """
        have = [self._get(one) for one in wanted]
        missing = [i for i, tensor in enumerate(have) if tensor is None]
        if missing:
            for i, tensor in zip(missing, make(missing), strict=True):
                have[i] = kept = tensor.detach().to("cpu", self.dtype).contiguous()
                self._new[wanted[i].slot] = self.key(wanted[i]), kept
            if sum(t.numel() * t.element_size() for _, t in self._new.values()) >= self._shard_bytes:
                self.flush()
        return [tensor for tensor in have if tensor is not None]

    def flush(self) -> None:
        """Write what is new.

        Raises:
            OutputError: the disk is full; what was kept before is still there.
        """
        if not self._new:
            return
        number = max(
            (int(found["number"]) for path in self._shards() if (found := SHARD.fullmatch(path.name))), default=0
        )
        path = self.folder / f"{number + 1:06d}-{secrets.token_hex(4)}.safetensors"
        entries = {slot: [key, _digest(tensor)] for slot, (key, tensor) in self._new.items()}
        tensors = {slot: tensor for slot, (_, tensor) in self._new.items()}
        write_whole(path, save(tensors, {METADATA: json.dumps(entries)}))
        for slot, (key, digest) in entries.items():
            self._places[slot] = _Place(path, key, digest)
        self._new.clear()
        if self._stale:
            self._tell(
                f"{self.folder}: {self._stale} entries were stale (other weights, pictures or dtype) and made again."
            )
            self._stale = 0

    def _get(self, wanted: Wanted) -> Tensor | None:
        key = self.key(wanted)
        if wanted.slot in self._new:
            made_of, tensor = self._new[wanted.slot]
            return tensor if made_of == key else None
        place = self._places.get(wanted.slot)
        if place is None:
            return None
        if place.key != key:
            self._stale += 1
            del self._places[wanted.slot]
            return None
        try:
            kept = self._shard(place.shard).get_tensor(wanted.slot)
            if wanted.slot in self._whole or _digest(kept) == place.digest:
                self._whole.add(wanted.slot)
                return kept  # type: ignore[no-any-return]
            problem = "its bytes are not those that were written"
        except (SafetensorError, OSError) as error:
            problem = str(error)
        del self._places[wanted.slot]
        self._tell(f"{place.shard}: the entry of {wanted.name} is damaged ({problem}) and is made again.")
        return None

    def _shard(self, path: Path) -> Any:
        """Kept open: reading a header costs more than reading a tensor."""
        if path not in self._opened:
            self._opened[path] = safe_open(path, framework="pt")
        return self._opened[path]

    def _open(self) -> None:
        """Learn what there is, newest first; remove shards of which nothing is used."""
        for path in reversed(self._shards()):
            try:
                with safe_open(path, framework="pt") as shard:
                    held = set(shard.keys())
                    entries = json.loads((shard.metadata() or {})[METADATA])
                places = {slot: _Place(path, str(key), str(digest)) for slot, (key, digest) in entries.items()}
                if places.keys() != held:
                    raise ValueError("its list of entries is not what it holds")
            except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                self._tell(f"{path}: damaged ({error}); removed, and what it held is made again.")
                path.unlink(missing_ok=True)
                continue
            if places.keys() <= self._places.keys():
                path.unlink(missing_ok=True)
            self._places = places | self._places

    def _shards(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("*.safetensors") if SHARD.fullmatch(path.name))


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _digest(tensor: Tensor) -> str:
    # numpy has no bfloat16, so the bytes are taken as such
    head = f"{tensor.dtype} {tuple(tensor.shape)}\n".encode()
    return hashlib.sha256(head + tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
