"""The tokenizer: any text, and id for id what transformers reads from the same files."""

from pathlib import Path

import numpy as np
import pytest
from transformers import CLIPTokenizer

from boceto.scenes import captions, sample_scene
from boceto.words import train_tokenizer
from lienzo.models.tokenizer import Tokenizer

TEXTS = [
    "a red circle to the left of a blue square on a white background",
    "un círculo rojo a la izquierda de un cuadrado azul sobre fondo blanco",
    "Tres ESTRELLAS amarillas,   fondo gris!",
    "2 crosses; it's 10% of\tall",
    "un diagrama de flujo de datos en blockchain",
    "👩‍🚀 שלום مرحبا 你好 ñandú",
    "",
    "word " * 200,
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(scenes=300)


def test_transformers_reads_the_same_ids(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    theirs = CLIPTokenizer.from_pretrained(str(tmp_path))
    for text in TEXTS:
        ids = theirs(text, padding="max_length", max_length=77, truncation=True).input_ids
        assert tokenizer.encode(text).ids == tuple(ids), text


def test_captions_are_short_and_words_are_whole(tokenizer: Tokenizer) -> None:
    rng = np.random.default_rng(5)
    end = tokenizer.vocab["<|endoftext|>"]
    lengths = [
        tokenizer.encode(caption.text).ids.index(end) + 1 for _ in range(100) for caption in captions(sample_scene(rng))
    ]
    assert max(lengths) <= 32


def test_every_byte_is_known(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.vocab) == max(tokenizer.vocab.values()) + 1
    assert tokenizer.encode("🜲").ids.count(tokenizer.vocab["<|endoftext|>"]) == 77 - 1 - 4
