"""The tokenizer that is learned: any text, and id for id what transformers reads from the same files."""

from pathlib import Path

import pytest
from transformers import CLIPTokenizer

from lienzo.models.tokenizer import Tokenizer
from lienzo.training.vocabulary import learn_vocabulary

CAPTIONS = ["a red circle to the left of a blue square", "un círculo rojo a la izquierda de un cuadrado azul"] * 5
TEXTS = [
    *CAPTIONS[:2],
    "Tres ESTRELLAS amarillas,   fondo gris!",
    "2 crosses; it's 10% of\tall",
    "👩‍🚀 שלום مرحبا 你好 ñandú",
    "",
    "word " * 200,
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return learn_vocabulary(CAPTIONS, 60)


def test_transformers_reads_the_same_ids(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    theirs = CLIPTokenizer.from_pretrained(str(tmp_path))
    for text in TEXTS:
        ids = theirs(text, padding="max_length", max_length=77, truncation=True).input_ids
        assert tokenizer.encode(text).ids == tuple(ids), text


def test_frequent_words_are_one_token_and_merges_are_bounded(tokenizer: Tokenizer) -> None:
    end = tokenizer.vocab["<|endoftext|>"]
    assert tokenizer.encode("red circle square rojo").ids.index(end) == 5
    assert len(tokenizer.merges) <= 60 and len(learn_vocabulary(CAPTIONS, 3).merges) == 3


def test_every_byte_is_known(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.vocab) == max(tokenizer.vocab.values()) + 1
    assert tokenizer.encode("🜲").ids.count(tokenizer.vocab["<|endoftext|>"]) == 77 - 1 - 4
