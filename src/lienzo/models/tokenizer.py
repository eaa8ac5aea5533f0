"""CLIP's tokenizer: byte-level byte-pair encoding of lower-cased text (arXiv:2103.00020, section 2.4).

Id for id the one of transformers 5 (`CLIPTokenizer`), which normalises to NFC, collapses white space and lower-cases.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import count, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from lienzo.errors import FormatError, ModelNotFoundError, RequestError

if TYPE_CHECKING:
    import tokenizers

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
MAX_LENGTH = 77
# words, single digits, runs of anything else; English contractions are split off
PATTERN = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
MERGES_HEADER = "#version: 0.2"


@dataclass(frozen=True)
class Tokens:
    """What a text encoder reads.

    Attributes:
        ids: `max_length` token ids: start, text, end, padding.
        dropped: the end of the text for which there was no room ("" if all of it fitted).
    """

    ids: tuple[int, ...]
    dropped: str


@dataclass(frozen=True, kw_only=True)
class AddedToken:
    """A token that is found in the text before it is split into words (special ones, textual inversion's)."""

    content: str
    id: int
    special: bool = False
    normalized: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False


class Tokenizer:
    """Text -> token ids. Nothing of it changes after construction, so threads can share it.

    Args:
        vocab: token -> id.
        merges: pairs of tokens that become one, the most frequent first.
        bos, eos, pad, unk: the special tokens; SD 1.x pads with the end token, SD 2.x with "!" (id 0).
        added: further tokens, those of textual inversion say.
        max_length: ids a text encoder takes, start and end token included.

    Raises:
        FormatError: the vocabulary lacks a special token, or does not fit its merges.
    """

    def __init__(
        self,
        vocab: Mapping[str, int],
        merges: list[tuple[str, str]],
        *,
        bos: str = BOS,
        eos: str = EOS,
        pad: str = EOS,
        unk: str = EOS,
        added: tuple[AddedToken, ...] = (),
        max_length: int = MAX_LENGTH,
    ) -> None:
        if max_length < 3:
            raise FormatError(
                f"The tokenizer's model_max_length={max_length} leaves no room for text; expected at least 3."
            )
        self.vocab, self.merges, self.added, self.max_length = dict(vocab), list(merges), added, max_length
        self.bos, self.eos, self.pad, self.unk = bos, eos, pad, unk
        self._bpe = _build(self)
        self._ids = {token: self._id(token) for token in (bos, eos, pad)}
        self._several = _several(added)

    @classmethod
    def from_folder(cls, path: str | Path) -> Self:
        """Read `tokenizer.json`, or `vocab.json` + `merges.txt`, with the settings beside them.

        Raises:
            ModelNotFoundError: neither is there.
            FormatError: a damaged file.
        """
        folder = Path(path)
        settings = _json(folder / "tokenizer_config.json")
        whole = _json(folder / "tokenizer.json")
        if whole:
            vocab, merges = _from_tokenizer_json(whole, folder)
        elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            vocab = _json(folder / "vocab.json")
            merges = _read_merges(folder / "merges.txt")
        else:
            has = ", ".join(sorted(p.name for p in folder.iterdir())) if folder.is_dir() else "no such folder"
            raise ModelNotFoundError(
                f"No tokenizer in {folder}: expected tokenizer.json, or vocab.json and merges.txt; "
                f"it has: {has or 'nothing'}."
            )
        if not all(isinstance(k, str) and isinstance(v, int) for k, v in vocab.items()):
            raise FormatError(f"The vocabulary in {folder} must map tokens to whole numbers.")
        try:
            tokens = _special_tokens(folder, settings, whole)
            return cls(vocab, merges, added=tokens.pop("added"), max_length=_max_length(settings), **tokens)
        except (TypeError, ValueError, AttributeError) as error:
            raise FormatError(f"The tokenizer's settings in {folder} cannot be read: {error}.") from None

    def encode(self, text: str) -> Tokens:
        """Token ids of `text`, cut or padded to `max_length`.

        Raises:
            RequestError: `text` is no Unicode text (half a surrogate pair).
        """
        try:
            encoding = self._bpe.encode(text, add_special_tokens=False)
        except (UnicodeError, TypeError):
            raise RequestError(
                f"The prompt {text[:40]!r}... holds half a surrogate pair, which is no character."
            ) from None
        room = self.max_length - 2
        found = [
            (one, start)
            for i, (start, _) in zip(encoding.ids, encoding.offsets, strict=True)
            for one in self._several.get(i, (i,))
        ]
        ids = (self._ids[self.bos], *(i for i, _ in found[:room]), self._ids[self.eos])
        dropped = text[found[room][1] :].strip() if len(found) > room else ""
        return Tokens(ids + (self._ids[self.pad],) * (self.max_length - len(ids)), dropped)

    def __len__(self) -> int:
        return int(self._bpe.get_vocab_size())

    def __contains__(self, token: str) -> bool:
        return self._bpe.token_to_id(token) is not None

    def with_tokens(self, tokens: Iterable[str]) -> Self:
        """A tokenizer that knows further tokens, found anywhere in a text; their ids are the next ones, in this order.

        A token "x" for which "x_1", "x_2" and so on are added too is read as all of them, one after the other: that is how
        diffusers spells an embedding of several vectors.
        """
        first = len(self)
        new = tuple(AddedToken(content=token, id=first + i, normalized=True) for i, token in enumerate(tokens))
        special = {"bos": self.bos, "eos": self.eos, "pad": self.pad, "unk": self.unk}
        return type(self)(self.vocab, self.merges, **special, added=(*self.added, *new), max_length=self.max_length)

    def save(self, folder: str | Path) -> None:
        """Write `vocab.json`, `merges.txt` and their settings, which every tool reads, into an existing folder."""
        folder = Path(folder)
        special = {"bos_token": self.bos, "eos_token": self.eos, "pad_token": self.pad, "unk_token": self.unk}
        settings = {
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": self.max_length,
            "do_lower_case": True,
            "add_prefix_space": False,
            "errors": "replace",
            **special,
            "added_tokens_decoder": {
                str(t.id): {
                    "content": t.content,
                    "lstrip": t.lstrip,
                    "normalized": t.normalized,
                    "rstrip": t.rstrip,
                    "single_word": t.single_word,
                    "special": t.special,
                }
                for t in self.added
            },
        }
        files = {
            "vocab.json": json.dumps(self.vocab, ensure_ascii=False),
            "merges.txt": "\n".join([MERGES_HEADER, *(" ".join(pair) for pair in self.merges), ""]),
            "tokenizer_config.json": json.dumps(settings, indent=2, ensure_ascii=False),
            "special_tokens_map.json": json.dumps(special, indent=2, ensure_ascii=False),
        }
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8", newline="\n")

    def _id(self, token: str) -> int:
        found = self._bpe.token_to_id(token)
        if found is None:
            raise FormatError(
                f"The tokenizer's vocabulary of {len(self.vocab)} tokens lacks the special token {token!r}."
            )
        return int(found)


def _several(added: tuple[AddedToken, ...]) -> dict[int, tuple[int, ...]]:
    """Ids that a token stands for where it stands for several: its own and those of token_1, token_2 ..."""
    ids = {token.content: token.id for token in added}
    found = {}
    for content, first in ids.items():
        rest = takewhile(lambda i: i is not None, (ids.get(f"{content}_{n}") for n in count(1)))
        found[first] = (first, *(i for i in rest if i is not None))
    return {first: row for first, row in found.items() if len(row) > 1}


def _build(of: Tokenizer) -> "tokenizers.Tokenizer":
    from tokenizers import AddedToken as Added
    from tokenizers import Regex, models, normalizers, pre_tokenizers
    from tokenizers import Tokenizer as Backend

    try:
        bpe = Backend(models.BPE(vocab=of.vocab, merges=of.merges, end_of_word_suffix="</w>", unk_token=of.unk))
    except Exception as error:  # the library raises bare Exception for merges of unknown tokens
        raise FormatError(f"The tokenizer's vocabulary and merges do not fit: {error}.") from None
    bpe.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    split = pre_tokenizers.Split(Regex(PATTERN), behavior="removed", invert=True)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    for token in sorted(of.added, key=lambda t: t.id):
        bpe.add_tokens(
            [
                Added(
                    token.content,
                    single_word=token.single_word,
                    lstrip=token.lstrip,
                    rstrip=token.rstrip,
                    normalized=token.normalized,
                    special=token.special,
                )
            ]
        )
        if bpe.token_to_id(token.content) != token.id:
            raise FormatError(
                f"The tokenizer's added token {token.content!r} has id {token.id}, "
                f"but its place is {bpe.token_to_id(token.content)}."
            )
    known = {token.content for token in of.added}
    bpe.add_special_tokens(
        [t for t in dict.fromkeys((of.bos, of.eos, of.unk, of.pad)) if t in of.vocab and t not in known]
    )
    return bpe


def _json(path: Path) -> dict[str, Any]:
    """A JSON object, {} where there is no such file."""
    if not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is no valid JSON: {error}.") from None
    if not isinstance(data, dict):
        raise FormatError(f"{path}: expected a JSON object, got {type(data).__name__}.")
    return data


def _read_merges(path: Path) -> list[tuple[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise FormatError(f"{path} is no UTF-8 text: {error}.") from None
    # "#version" is a comment in the first line only: "# #" can be a merge
    rows = lines[1:] if lines[0].startswith("#version") else lines
    return [_pair(row.rstrip("\r"), path) for row in rows if row.strip()]


def _pair(row: Any, where: Path) -> tuple[str, str]:
    parts = row.split(" ") if isinstance(row, str) else row
    if not (isinstance(parts, list) and len(parts) == 2 and all(isinstance(p, str) for p in parts)):
        raise FormatError(f"{where}: expected two tokens a merge, got {str(row)[:60]!r}.")
    return parts[0], parts[1]


def _from_tokenizer_json(data: Mapping[str, Any], folder: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    path = folder / "tokenizer.json"
    model = data.get("model")
    if (
        not isinstance(model, dict)
        or not isinstance(model.get("vocab"), dict)
        or not isinstance(model.get("merges"), list)
    ):
        raise FormatError(f"{path}: expected a byte-pair model with a vocabulary and merges.")
    if model.get("type", "BPE") != "BPE" or model.get("end_of_word_suffix") != "</w>":
        raise FormatError(f"{path}: not CLIP's tokenizer (byte-pair encoding whose words end in '</w>').")
    return model["vocab"], [_pair(row, path) for row in model["merges"]]


def _max_length(settings: Mapping[str, Any]) -> int:
    # files without a limit hold 1e30
    n = settings.get("model_max_length", MAX_LENGTH)
    return int(n) if isinstance(n, (int, float)) and math.isfinite(n) and n < 1e6 else MAX_LENGTH


def _special_tokens(folder: Path, settings: Mapping[str, Any], whole: Mapping[str, Any]) -> dict[str, Any]:
    """The special and the added tokens, with the precedence of transformers' `from_pretrained`."""
    named = dict(settings)
    rows: dict[int, dict[str, Any]] = {}
    if "added_tokens_decoder" in settings:
        rows = {int(i): dict(row) for i, row in settings["added_tokens_decoder"].items()}
    else:
        named |= _json(folder / "special_tokens_map.json")
        special = {_content(value) for key, value in named.items() if key.endswith("_token")}
        for content, i in _json(folder / "added_tokens.json").items():
            rows[i] = {"content": content, "special": content in special, "normalized": content not in special}
        rows |= {row["id"]: {k: v for k, v in row.items() if k != "id"} for row in whole.get("added_tokens", ())}
    tokens: dict[str, Any] = {
        short: _content(named[key])
        for short in ("bos", "eos", "pad", "unk")
        if named.get(key := f"{short}_token") is not None
    }
    contents = {row["content"] for row in rows.values()}
    vocab = _vocab_ids(folder, whole)
    for key in ("bos_token", "eos_token", "pad_token", "unk_token"):
        value = named.get(key)
        if isinstance(value, dict) and value["content"] not in contents and value["content"] in vocab:
            flags = {k: value[k] for k in ("lstrip", "rstrip", "normalized", "single_word") if k in value}
            rows[vocab[value["content"]]] = {"content": value["content"], "special": True, **flags}
    tokens["added"] = tuple(AddedToken(id=i, **row) for i, row in sorted(rows.items()))
    return tokens


def _vocab_ids(folder: Path, whole: Mapping[str, Any]) -> dict[str, int]:
    return whole["model"]["vocab"] if whole else _json(folder / "vocab.json")


def _content(token: Any) -> str:
    return str(token["content"]) if isinstance(token, dict) else str(token)
