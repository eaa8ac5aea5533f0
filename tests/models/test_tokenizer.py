import json
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizer

import tiny
from lienzo.errors import FormatError, ModelNotFoundError, RequestError
from lienzo.models.tokenizer import BOS, EOS, Tokenizer

TEXTS = [
    "",
    "the red cat and the blue cat",
    "It's A PHOTO!! we're, DON'T, o'clock'S, ''ll",
    "hello! world! !!",
    "<|STARTOFTEXT|> x <|endoftext|> y<|startoftext|>",
    "café cafe\u0301 \u00c5 \u212b \ufb01",
    "שלום עולם مرحبا بالعالم",
    "😀👩\u200d🚀 a🏳️\u200d🌈",
    "a\x00b\x01c\x7f\u200b\ufeff\u2028x",
    "a\u00a0\u3000 b\t\n\r\x0bc\x85d\x1cz  ",
    "1234 ٤ Ⅷ ½ 10,000.5",
    "x <sks> y<sks>z <SKS> Mi-token mi-token",
    "İstanbul ẞ Σςσ ǅ",
    "日本語 한국어 ไทย",
    "the cat " * 100,
    "! " * 100,
]


def added(content: str, **more: Any) -> dict[str, Any]:
    return {"content": content, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False, **more}


def published(pad: str) -> dict[str, Any]:
    """The settings as SD 1.x and 2.x were published; 2.x differs in one line of the second file."""
    special = {"bos_token": added(BOS), "eos_token": added(EOS), "unk_token": added(EOS)}
    config = {k: {"__type": "AddedToken", **v} for k, v in special.items()}
    return {
        "tokenizer_config.json": {**config, "pad_token": EOS, "model_max_length": 77, "do_lower_case": True},
        "special_tokens_map.json": {**special, "pad_token": pad},
    }


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tokenizers as the tools of several years have written them."""
    root = tmp_path_factory.mktemp("tokenizers")

    def plain(name: str, settings_: dict[str, Any]) -> Path:
        tiny.write_vocabulary(root / name)
        for file, content in settings_.items():
            (root / name / file).write_text(json.dumps(content))
        return root / name

    size = len(json.loads((plain("bare", {}) / "vocab.json").read_text()))
    textual_inversion = {"added_tokens.json": {"<sks>": size, "Mi-token": size + 1}}
    found = {
        "bare": root / "bare",
        "sd1": plain("sd1", published(EOS)),
        "sd2": plain("sd2", published("!")),
        "textual inversion": plain("added", published(EOS) | textual_inversion),
    }
    for name, options in {"transformers 5": {}, "transformers 5, sd2": {"pad_token": "!"}}.items():
        tokenizer = CLIPTokenizer.from_pretrained(root / "bare", model_max_length=77, **options)
        tokenizer.add_tokens(["<sks>"])
        tokenizer.save_pretrained(root / name)
        assert (root / name / "tokenizer.json").is_file()
        found[name] = root / name
    return found


KINDS = ["bare", "sd1", "sd2", "textual inversion", "transformers 5", "transformers 5, sd2"]


def ids(reference: Any, text: str) -> tuple[int, ...]:
    return tuple(reference(text, padding="max_length", max_length=77, truncation=True).input_ids)


@pytest.mark.parametrize("kind", KINDS)
def test_ids_equal_transformers(kind: str, folders: dict[str, Path], tmp_path: Path) -> None:
    reference, ours = CLIPTokenizer.from_pretrained(folders[kind]), Tokenizer.from_folder(folders[kind])
    ours.save(tmp_path)
    saved, read_by_others = Tokenizer.from_folder(tmp_path), CLIPTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        want = ids(reference, text)
        assert ours.encode(text).ids == want
        assert saved.encode(text).ids == want
        assert ids(read_by_others, text) == want

    @settings(max_examples=200, deadline=None)
    @given(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=120)
        | st.text("the red'sS! <|>\n\u0301", max_size=90)
    )
    @example("\u1e9e\u0307İ")
    def any_text(text: str) -> None:
        assert ours.encode(text).ids == ids(reference, text)

    any_text()


def test_padding(folders: dict[str, Path]) -> None:
    for kind, pad in (("sd1", EOS), ("sd2", "!")):
        tokenizer = Tokenizer.from_folder(folders[kind])
        got = tokenizer.encode("").ids
        assert len(got) == 77
        assert got[:2] == (tokenizer.vocab[BOS], tokenizer.vocab[EOS])
        assert set(got[2:]) == {tokenizer.vocab[pad]}


def test_what_was_cut_off_is_told(folders: dict[str, Path]) -> None:
    tokenizer = Tokenizer.from_folder(folders["sd1"])
    assert tokenizer.encode("the " * 75).dropped == ""
    assert tokenizer.encode("the " * 75 + "RED Cat").dropped == "RED Cat"
    long = tokenizer.encode("the " * 10_000)
    assert long.dropped == ("the " * 9_925).strip()
    assert long.ids[-1] == tokenizer.vocab[EOS]


def test_half_a_character_is_an_error(folders: dict[str, Path]) -> None:
    with pytest.raises(RequestError, match="surrogate"):
        Tokenizer.from_folder(folders["sd1"]).encode("a \ud83d b")


def test_threads_share_it(folders: dict[str, Path]) -> None:
    tokenizer = Tokenizer.from_folder(folders["sd2"])
    want = [tokenizer.encode(text) for text in TEXTS]
    wrong: list[int] = []

    def work(seed: int) -> None:
        for i in range(200):
            n = (i * 7 + seed) % len(TEXTS)
            if tokenizer.encode(TEXTS[n]) != want[n]:
                wrong.append(n)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_saving_keeps_the_settings(folders: dict[str, Path], tmp_path: Path) -> None:
    before = Tokenizer.from_folder(folders["sd2"])
    before.save(tmp_path)
    after = Tokenizer.from_folder(tmp_path)
    assert (after.vocab, after.merges, after.pad, after.max_length) == (before.vocab, before.merges, "!", 77)
    again = tmp_path / "again"
    again.mkdir()
    after.save(again)
    for path in again.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()


def test_a_merge_of_hashes_is_no_comment(tmp_path: Path) -> None:
    tiny.write_vocabulary(tmp_path)
    vocab = json.loads((tmp_path / "vocab.json").read_text())
    (tmp_path / "vocab.json").write_text(json.dumps(vocab | {"##": len(vocab)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\r\n# #\r\n")
    assert Tokenizer.from_folder(tmp_path).merges == [("#", "#")]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("vocab.json", "{", "no valid JSON"),
        ("vocab.json", "[]", "JSON object"),
        ("vocab.json", '{"a": "b"}', "whole numbers"),
        ("vocab.json", '{"a": 0}', "lacks the special token|do not fit"),
        ("merges.txt", "#version: 0.2\na b c\n", "two tokens"),
        ("merges.txt", "#version: 0.2\nzzz qqq\n", "do not fit"),
        ("tokenizer.json", "{}x", "no valid JSON"),
        ("tokenizer.json", '{"model": {"type": "WordPiece", "vocab": {}}}', "byte-pair"),
        ("tokenizer.json", '{"model": {"type": "BPE", "vocab": {}, "merges": []}}', "not CLIP's"),
        ("tokenizer_config.json", '{"model_max_length": 2}', "no room"),
        ("tokenizer_config.json", '{"pad_token": "<pad>"}', "'<pad>'"),
        ("tokenizer_config.json", '{"added_tokens_decoder": 3}', "settings"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"9999": {"content": "<x>"}}}', "9999"),
    ],
)
def test_damaged_files(name: str, content: str, says: str, tmp_path: Path) -> None:
    tiny.write_vocabulary(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(FormatError, match=says):
        Tokenizer.from_folder(tmp_path)


def test_no_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(ModelNotFoundError, match=r"merges\.txt; it has: vocab\.json"):
        Tokenizer.from_folder(tmp_path)
    with pytest.raises(ModelNotFoundError, match="no such folder"):
        Tokenizer.from_folder(tmp_path / "nothing")
