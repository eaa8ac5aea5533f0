"""Text as it is compared: what looks the same, or differs in nothing but writing, becomes the same.

Folded are: compatibility forms (full width, mathematical, circled, superscript letters), case, characters that are not seen,
marks on letters, and letters that look like Latin ones. Not folded are digits and signs that stand for letters (leetspeak), letters
set apart by blanks, wrong spelling, and other languages: nobody has a list of those that does not catch innocent words too.
"""

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

MARKS: Final = (
    range(0x0300, 0x0370),
    range(0x1AB0, 0x1B00),
    range(0x1DC0, 0x1E00),
    range(0x20D0, 0x2100),
    range(0xFE20, 0xFE30),
)
"""Unicode's blocks of combining marks for any script. The vowel signs of Indic scripts, say, lie elsewhere: they are letters."""
UNSEEN: Final = frozenset(
    chr(code)
    for codes in (
        (0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x180B, 0x180C, 0x180D, 0x180F, 0x3164, 0xFFA0),
        range(0xFE00, 0xFE10),
        range(0xE0100, 0xE01F0),
    )
    for code in codes
)
"""Default-ignorable characters (UAX #44) that are not already known by their category, Cf."""
_LIKE_LATIN: Final = {
    # Cyrillic; в, к, м, н, т look so in capitals
    "а": "a", "в": "b", "ь": "b", "с": "c", "ԁ": "d", "е": "e", "һ": "h", "н": "h", "і": "i", "ј": "j", "к": "k", "ӏ": "l",
    "м": "m", "п": "n", "о": "o", "р": "p", "ԛ": "q", "г": "r", "ѕ": "s", "т": "t", "ц": "u", "ѵ": "v", "ԝ": "w", "х": "x",
    "у": "y", "ү": "y",
    # Greek
    "α": "a", "β": "b", "ε": "e", "η": "n", "ι": "i", "κ": "k", "ν": "v", "ο": "o", "ρ": "p", "τ": "t", "υ": "u", "ω": "w",
    "χ": "x", "γ": "y", "ζ": "z", "ϳ": "j",
    # Latin: strokes and hooks that are no combining marks, letters of phonetics, small capitals
    "ı": "i", "ȷ": "j", "ɑ": "a", "ɡ": "g", "ł": "l", "ø": "o", "đ": "d", "ħ": "h", "ŧ": "t", "ƀ": "b", "ɓ": "b", "ɗ": "d",
    "ɖ": "d", "ɠ": "g", "ɨ": "i", "ƙ": "k", "ɵ": "o", "ƥ": "p", "ʋ": "v", "ƶ": "z", "ɩ": "i", "ʟ": "l", "ɴ": "n", "ʀ": "r",
    "ʏ": "y", "ɪ": "i", "ɢ": "g", "ʜ": "h", "ʙ": "b", "ᴀ": "a", "ᴄ": "c", "ᴅ": "d", "ᴇ": "e", "ᴊ": "j", "ᴋ": "k", "ᴍ": "m",
    "ᴏ": "o", "ᴘ": "p", "ᴛ": "t", "ᴜ": "u", "ᴠ": "v", "ᴡ": "w", "ᴢ": "z", "ꜰ": "f", "ꜱ": "s", "æ": "ae", "œ": "oe",
}  # fmt: skip
_ALPHABETS: Final = (0x1F150, 0x1F170, 0x1F1E6)
"""Letters in black circles, in black squares, and those that flags are made of: A to Z each, and Unicode does not tell so."""
LOOKALIKES: Final = _LIKE_LATIN | {
    chr(first + i): letter for first in _ALPHABETS for i, letter in enumerate("abcdefghijklmnopqrstuvwxyz")
}
"""Letters, after case folding, that most people would read as a Latin one. Far from complete (UTS #39 has thousands)."""


@dataclass(frozen=True, kw_only=True)
class Folded:
    """Folded text.

    Attributes:
        spans: of every character, where what it came from begins and ends in the original.
    """

    text: str
    spans: tuple[tuple[int, int], ...]


def fold(text: str, *, keep_marks: bool = False) -> Folded:
    """Text as it is compared. Folding it again changes nothing.

    Args:
        keep_marks: leave accents that make another letter (ñ, é, ü) on it; loose marks go all the same.
    """
    folded, spans = [], []
    for start, end, chunk in _chunks(text):
        for character in _compared(chunk, keep_marks):
            folded.append(character)
            spans.append((start, end))
    return Folded(text="".join(folded), spans=tuple(spans))


def words(folded: Folded) -> Iterator[tuple[str, int, int]]:
    """Every run of letters, digits and marks, with its place in the original."""
    start = 0
    for end in range(len(folded.text) + 1):
        if end == len(folded.text) or not in_words(folded.text[end]):
            if start < end:
                yield folded.text[start:end], folded.spans[start][0], folded.spans[end - 1][1]
            start = end + 1


def in_words(character: str) -> bool:
    """Whether it is a letter, a digit or a mark."""
    return unicodedata.category(character)[0] in "LNM"


def _chunks(text: str) -> Iterator[tuple[int, int, str]]:
    """Each character with what follows and belongs to it, without what is not seen: marks are put in order among themselves, and
    parts of a syllable make one character (UAX #15), so a chunk can be normalised without its neighbours."""
    start, end, chunk = 0, 0, ""
    for i, character in enumerate(text):
        if _is_unseen(character):
            continue
        if chunk and not _joins(chunk, unicodedata.normalize("NFKD", character)[0]):
            yield start, end, chunk
            chunk = ""
        if not chunk:
            start = i
        chunk, end = chunk + character, i + 1
    if chunk:
        yield start, end, chunk


def _joins(chunk: str, following: str) -> bool:
    """Whether a character belongs to those before it: a mark, or what NFC makes one character of with the last one."""
    if following.isascii():
        return False
    last = unicodedata.normalize("NFKC", chunk)[-1]
    return bool(unicodedata.combining(following)) or len(unicodedata.normalize("NFC", last + following)) == 1


def _compared(chunk: str, keep_marks: bool) -> str:
    # the one mark that case folding makes a letter of, where it is loose
    chunk = unicodedata.normalize("NFC", chunk).replace("\u0345", "")
    for _ in range(2):  # compatibility caseless matching (Unicode Standard, D146)
        chunk = unicodedata.normalize("NFKD", chunk).casefold()
    chunk = unicodedata.normalize("NFC" if keep_marks else "NFD", chunk)
    seen = (c for c in chunk if not _is_unseen(c) and not _is_mark(c))
    return "".join(LOOKALIKES.get(c, c) for c in seen)


def _is_unseen(character: str) -> bool:
    """Zero-width and control characters; those that set words apart (tab, line ends) are not among them."""
    kind = unicodedata.category(character)
    return kind == "Cf" or (kind == "Cc" and not character.isspace()) or character in UNSEEN


def _is_mark(character: str) -> bool:
    return any(ord(character) in block for block in MARKS)
