"""A vocabulary from captions: CLIP's byte-pair encoding, learned anew."""

import json
from collections.abc import Iterable

import tokenizers
from tokenizers import Regex, models, normalizers, pre_tokenizers, trainers

from lienzo.models.tokenizer import BOS, EOS, PATTERN, Tokenizer

PIECES = PATTERN.removeprefix(r"<\|startoftext\|>|<\|endoftext\|>|")


def learn_vocabulary(texts: Iterable[str], merges: int) -> Tokenizer:
    """A tokenizer in which the texts' most frequent words are one token (arXiv:1508.07909, algorithm 1).

    Every byte is in the vocabulary, alone and as the end of a word, so any text can be encoded.

    Args:
        merges: at most so many pairs of tokens become one.
    """
    tokenizer = tokenizers.Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=2 * len(alphabet) + merges,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    # the trainer counts ends of words that occur, not all, so it learns a few more
    learned = [(first, second) for first, second in json.loads(tokenizer.to_str())["model"]["merges"]][:merges]
    # CLIP's order: bytes, bytes that end a word, merges, start and end
    tokens = [*alphabet, *(char + "</w>" for char in alphabet), *map("".join, learned), BOS, EOS]
    return Tokenizer({token: i for i, token in enumerate(dict.fromkeys(tokens))}, learned)
