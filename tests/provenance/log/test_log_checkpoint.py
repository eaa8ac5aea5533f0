"""Signed checkpoints: the published format, and nothing that is not it."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from signing import Fixed

from lienzo.errors import InputError, LienzoError, ProofError, UnknownKeyError
from lienzo.provenance.encoding import decode64, encode64
from lienzo.provenance.log import Checkpoint, NoteKey, open_checkpoint
from lienzo.provenance.log.checkpoint import MAX_NOTE, signer_of

SIGNER = Fixed()
ORIGIN = "example.org/pictures"
KEY = NoteKey.of(SIGNER.public, ORIGIN)
CHECKPOINT = Checkpoint(ORIGIN, 20852163, bytes(range(32)))
NOTE = CHECKPOINT.sign(SIGNER)


def test_it_is_written_as_published() -> None:
    lines = NOTE.split("\n")
    assert lines[:4] == [ORIGIN, "20852163", encode64(CHECKPOINT.root), ""]
    assert lines[4].startswith(f"— {ORIGIN} ") and lines[5:] == [""]
    assert open_checkpoint(NOTE, [KEY], ORIGIN) == CHECKPOINT
    assert signer_of(NOTE, [NoteKey.of(Fixed("another").public, ORIGIN), KEY]) == KEY


def test_keys_and_signatures_of_the_format_s_first_program() -> None:
    """The example of Go's sumdb/note, with which the format began."""
    text = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    key = NoteKey.parse(text)
    assert (key.name, key.id.hex(), key.text) == ("PeterNeumann", "c74f20a3", text)
    message = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
    signature = decode64("x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=")
    assert signature[:4] == key.id and key.verify(message.encode(), signature[4:])
    assert not key.verify(message.encode() + b" ", signature[4:])


def test_witnesses_may_sign_too() -> None:
    witness = CHECKPOINT.sign(Fixed("witness")).rpartition("\n\n")[2]
    assert open_checkpoint(NOTE + witness, [KEY]) == CHECKPOINT
    assert open_checkpoint(NOTE + 15 * witness, [KEY]) == CHECKPOINT
    with pytest.raises(UnknownKeyError, match="none of which"):
        open_checkpoint(NOTE, [NoteKey.of(Fixed("witness").public, ORIGIN)])


def test_a_known_key_s_wrong_signature_spoils_the_note() -> None:
    other = replace(CHECKPOINT, size=5).sign(SIGNER).rpartition("\n\n")[2]
    with pytest.raises(ProofError, match="not right"):
        open_checkpoint(NOTE + other, [KEY])


@pytest.mark.parametrize(
    "damage",
    [
        lambda note: "",
        lambda note: note.strip(),
        lambda note: note.replace("20852163", "020852163"),
        lambda note: note.replace("20852163", "+20852163"),
        lambda note: note.replace("20852163", "２０852163"),
        lambda note: note.replace("20852163", "9" * 19),
        lambda note: note.replace("20852163", "-1"),
        lambda note: note.replace("\n\n", "\nextension\n\n"),
        lambda note: note.replace("\n\n", "\n"),
        lambda note: note.replace("\n", "\r\n"),
        lambda note: note.replace("—", "-"),
        lambda note: note.replace("Hh8=", "Hh9="),
        lambda note: note.replace("Hh8=", "Hh8"),
        lambda note: "\ud800" + note,
        lambda note: " " + note,
        lambda note: note + "\n",
        lambda note: note + "— x AAAA\n",
        lambda note: note + "x" * MAX_NOTE,
        lambda note: note + 64 * note.rpartition("\n\n")[2],
    ],
)
def test_other_notes_are_refused(damage) -> None:  # type: ignore[no-untyped-def]
    assert damage(NOTE) != NOTE
    with pytest.raises(ProofError):
        open_checkpoint(damage(NOTE), [KEY])


def test_another_log_s_checkpoint_is_refused() -> None:
    with pytest.raises(ProofError, match=r"not of 'example\.org/other'"):
        open_checkpoint(NOTE, [KEY], "example.org/other")


def test_no_mutated_checkpoint_is_accepted() -> None:
    """20,000 of them: bits, bytes, cuts and lines."""
    rng = random.Random(7)
    data = NOTE.encode()
    for _ in range(20_000):
        changed = bytearray(data)
        match rng.randrange(4):
            case 0:
                changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
            case 1:
                changed[rng.randrange(len(changed))] = rng.choice(b"\n +=/0aZ\xe2\x80")
            case 2:
                at = rng.randrange(len(changed))
                del changed[at : at + rng.randint(1, 40)]
            case 3:
                at = rng.randrange(len(changed))
                changed[at:at] = rng.choice([b"\n", b" ", b"0", changed[at : at + 9], b"\xe2\x80\x94 x AAAAAAA=\n"])
        note = changed.decode("utf-8", "surrogateescape")
        try:
            opened = open_checkpoint(note, [KEY], ORIGIN)
        except ProofError:
            continue
        assert opened == CHECKPOINT and note.startswith(CHECKPOINT.text + "\n")  # somebody else's signature was put in
        assert note.replace("— x AAAAAAA=\n", "") == NOTE


@given(st.text(max_size=300))
@settings(max_examples=300, deadline=None)
def test_no_text_is_a_checkpoint_or_a_crash(text: str) -> None:
    with pytest.raises(ProofError):
        open_checkpoint(text, [KEY])
    with pytest.raises(InputError):
        NoteKey.parse(text)


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\nb", "a\u2003b", "x" * 201, "\ud800"])
def test_names_that_would_break_the_format_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="without spaces"):
        NoteKey.of(SIGNER.public, name)


def test_keys_of_other_algorithms_are_refused() -> None:
    with pytest.raises(InputError, match="ed25519"):
        CHECKPOINT.sign(Fixed(algorithm="es256"))


def test_a_key_s_id_has_to_be_its_own() -> None:
    assert NoteKey.parse(KEY.text) == KEY
    for text in (KEY.text.replace(KEY.id.hex(), "00000000"), KEY.text[:-1], KEY.text.replace("+A", "+B", 1)):
        with pytest.raises(LienzoError):
            NoteKey.parse(text)
