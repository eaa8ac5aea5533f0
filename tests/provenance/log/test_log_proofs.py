"""Proofs that travel: read, checked, and refused when anything in them was changed."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from signing import Fixed

from lienzo.errors import LienzoError, ProofError, UnknownKeyError
from lienzo.provenance.log import ConsistencyProof, Log, LogProof, verify_consistency, verify_proof

SIGNER = Fixed()
SIZE = 37


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Log:
    log = Log.open(tmp_path_factory.mktemp("proofs") / "log.db", signer=SIGNER, origin="example.org/pictures")
    for i in range(SIZE):
        log.append(b"entry %d" % i, f"{i % 5:012x}")
    return log


def test_every_entry_is_proved(log: Log) -> None:
    for index in range(SIZE):
        proof = log.proof(index)
        again = LogProof.read(json.loads(json.dumps(proof.document)))
        assert again == proof and (proof.index, proof.size) == (index, SIZE)
        verify_proof(again, b"entry %d" % index, SIGNER.public, log.origin)


def test_it_is_of_this_entry_key_and_log_only(log: Log) -> None:
    proof = log.proof(5)
    with pytest.raises(ProofError, match="another entry"):
        verify_proof(proof, b"entry 6", SIGNER.public, log.origin)
    with pytest.raises(ProofError, match="not of"):
        verify_proof(proof, b"entry 5", SIGNER.public, "example.org/other")
    with pytest.raises(UnknownKeyError):
        verify_proof(proof, b"entry 5", Fixed("other").public, log.origin)
    for changed in (
        {"key": "000000000001"}, {"index": 6}, {"size": 38}, {"entry": b"entry 6"}, {"hashes": proof.hashes[::-1]},
        {"checkpoint": log.proof(0).checkpoint.replace("37", "38")},
    ):  # fmt: skip
        forged = proof.model_copy(update=changed)
        with pytest.raises(ProofError):
            verify_proof(forged, forged.entry, SIGNER.public, log.origin)


def mutated(document: Any, rng: random.Random) -> Any:
    """A document with one thing in it changed."""
    copy = json.loads(json.dumps(document))
    name = rng.choice(sorted(copy))
    value = copy[name]
    if rng.random() < 0.05:
        copy.update(rng.choice([{"more": 1}, {name: None}, {name: [value]}, {name: -1}, {name: 1e300}, {name: {}}]))
    elif isinstance(value, int):
        copy[name] = rng.choice(
            [value + 1, value - 1, value ^ (1 << rng.randrange(80)), str(value), float(value) + 0.5]
        )
    elif isinstance(value, list):
        at = rng.randrange(len(value))
        copy[name] = rng.choice(
            [
                value[:at] + value[at + 1 :],
                [*value, value[at]],
                [*value[:at], changed(value[at], rng), *value[at + 1 :]],
            ]
        )
    else:
        copy[name] = changed(value, rng)
    return copy


def changed(text: str, rng: random.Random) -> str:
    at = rng.randrange(len(text))
    return text[:at] + rng.choice("\n\0 =+/09AZaz—é\ud800") + text[at + rng.randint(0, 2) :]


def test_no_mutated_proof_is_accepted(log: Log) -> None:
    """15,000 of them, never a crash."""
    rng = random.Random(3)
    proofs = [log.proof(index).document for index in range(0, SIZE, 4)]
    tried = 0
    while tried < 15_000:
        original = rng.choice(proofs)
        document = mutated(original, rng)
        if document == original:
            continue
        tried += 1
        with pytest.raises(ProofError):
            accept(document, log.origin)


def accept(document: object, origin: str) -> None:
    proof = LogProof.read(document)
    verify_proof(proof, proof.entry, SIGNER.public, origin)


def test_no_mutated_consistency_proof_is_accepted(log: Log, tmp_path: Path) -> None:
    earlier = {}
    with Log.open(tmp_path / "log.db", signer=SIGNER, origin=log.origin) as growing:
        for i in range(SIZE):
            earlier[i] = growing.checkpoint().note
            growing.append(b"entry %d" % i, f"{i % 5:012x}")
    rng = random.Random(5)
    for old, note in earlier.items():
        proof = log.consistency(old)
        verify_consistency(ConsistencyProof.read(proof.document), note, SIGNER.public, log.origin)
        tried = 0
        while tried < 100:
            document = mutated(proof.document, rng) if proof.hashes else {**proof.document, "old": old + 1}
            tried += 1
            if document == proof.document:
                continue
            with pytest.raises(ProofError):
                verify_consistency(ConsistencyProof.read(document), note, SIGNER.public, log.origin)


@pytest.mark.parametrize("document", [None, [], "x", 5, {}, {"index": 0}, [[[]]], {"size": True}])
def test_other_documents_are_no_proofs(document: object) -> None:
    with pytest.raises(ProofError, match="not a proof"):
        LogProof.read(document)


def test_what_there_is_no_proof_of(log: Log) -> None:
    for index in (-1, SIZE, 1 << 40):
        with pytest.raises(LienzoError, match="not in the log"):
            log.proof(index)
    with pytest.raises(LienzoError, match="the log has 37"):
        log.consistency(SIZE + 1)
