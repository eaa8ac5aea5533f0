"""Train the tokenizer: CLIP's byte-pair encoding, on the captions of the scenes."""

import json
from collections.abc import Iterator
from typing import Final

import numpy as np
import tokenizers
from tokenizers import Regex, models, normalizers, pre_tokenizers, trainers

from boceto.scenes import captions, sample_scene
from lienzo.models.tokenizer import BOS, EOS, Tokenizer

# CLIP's splitting: special tokens, English contractions, words, single digits, runs of anything else
PIECES: Final = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def train_tokenizer(*, scenes: int = 4000, merges: int = 480) -> Tokenizer:
    """A tokenizer in which most words of the captions are one token.

    Every byte is in the vocabulary, alone and as the end of a word, so any text can be encoded.
    """
    tokenizer = tokenizers.Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=256 + 256 + merges,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(scenes), trainer)
    merges_made = [(first, second) for first, second in json.loads(tokenizer.to_str())["model"]["merges"]]
    return Tokenizer(_vocabulary(merges_made), merges_made)


def _texts(scenes: int) -> Iterator[str]:
    rng = np.random.default_rng(0)
    for _ in range(scenes):
        yield from (caption.text for caption in captions(sample_scene(rng)))


def _vocabulary(merges: list[tuple[str, str]]) -> dict[str, int]:
    """CLIP's order: bytes, bytes that end a word, merges, start and end."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(char + "</w>" for char in alphabet), *map("".join, merges), BOS, EOS]
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}
