"""Captions as networks read them."""

import hashlib
import json
import warnings
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path

import torch
from torch import Tensor

from lienzo.errors import ConfigError
from lienzo.models.bundle import tensors_digest
from lienzo.models.clip import TextEncoder
from lienzo.models.tokenizer import Tokenizer
from lienzo.training.data import Cache, wanted_text

ENCODED_AT_ONCE = 32
TOKENISED = 2**17
"""Captions whose ids are kept in memory."""


class Words:
    """Captions -> token ids, and where the text encoder does not learn, what it makes of them.

    Args:
        encoder: frozen; None where it learns, so that ids are all that stays.
        cache: a folder for encodings; None: they are computed anew each time.

    Warns:
        UserWarning: the first caption that does not fit.
    """

    def __init__(self, tokenizer: Tokenizer, encoder: TextEncoder | None, cache: Path | None = None) -> None:
        if cache is not None and encoder is None:
            raise ConfigError(
                "data.cache_text: the text encoder learns, so that its encodings change. Set it to false."
            )
        self._encoder, self._tokenizer, self._folder = encoder, tokenizer, cache
        self._warned = False
        self._end = tokenizer.encode("").ids[1]

        @lru_cache(TOKENISED)
        def tokenised(caption: str) -> tuple[int, ...]:
            found = tokenizer.encode(caption)
            if found.dropped and not self._warned:
                self._warned = True
                warnings.warn(
                    f"The caption {caption[:60]!r}... is too long: {found.dropped[:60]!r} is not read. Further ones are not told.",
                    stacklevel=2,
                )
            return found.ids

        self._tokenised = tokenised

    @cached_property
    def _cache(self) -> Cache | None:
        """Opened when it is first asked for: a process that waits for another to fill it has to see what is in it then."""
        if self._folder is None or self._encoder is None:
            return None
        words = json.dumps([self._tokenizer.vocab, self._tokenizer.merges], sort_keys=True).encode()
        digests = tensors_digest(self._encoder.state_dict()), hashlib.sha256(words).hexdigest()
        return Cache(self._folder, network=" ".join(digests))

    @property
    def learns(self) -> bool:
        """Whether batches bring ids for a text encoder that learns."""
        return self._encoder is None

    def longest(self, captions: Sequence[str]) -> int:
        """Tokens up to the last end token, start and end included."""
        return max(self._tokenised(caption).index(self._end) + 1 for caption in captions)

    def ids(self, captions: Sequence[str]) -> Tensor:
        """(B, L) int64."""
        return torch.tensor([self._tokenised(caption) for caption in captions])

    @torch.no_grad()
    def context(self, captions: Sequence[str]) -> Tensor:
        """(B, L, D) of a text encoder that does not learn."""
        assert self._encoder is not None
        if self._cache is None:
            return self._encoded(captions)
        found = self._cache.fetch(
            [wanted_text(c) for c in captions], lambda which: list(self._encoded([captions[i] for i in which]))
        )
        return torch.stack(found).to(next(self._encoder.parameters()).device)

    def fill(self, captions: Sequence[str]) -> None:
        """Encode ahead what the cache lacks."""
        if self._cache is not None:
            for start in range(0, len(captions), ENCODED_AT_ONCE):
                self.context(captions[start : start + ENCODED_AT_ONCE])
            self._cache.flush()

    def _encoded(self, captions: Sequence[str]) -> Tensor:
        encoder = self._encoder
        assert encoder is not None
        unique = list(dict.fromkeys(captions))
        encoded: Tensor = encoder(self.ids(unique).to(next(encoder.parameters()).device))
        return encoded[[unique.index(caption) for caption in captions]]
