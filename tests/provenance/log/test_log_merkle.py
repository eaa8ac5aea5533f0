"""The tree: against the RFC's own recursive definition and against pymerkle."""

import hashlib
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymerkle import InmemoryTree

from lienzo.provenance.log.merkle import (
    EMPTY,
    Frontier,
    complete_parts,
    consistency_path,
    inclusion_path,
    joined,
    leaf_hash,
    node_hash,
    verify_consistency,
    verify_inclusion,
)

MOST = 256
LEAVES = [leaf_hash(b"entry %d" % i) for i in range(MOST)]


def mth(leaves: list[bytes]) -> bytes:
    """RFC 9162, section 2.1.1, word for word, on leaves that are hashed already."""
    if len(leaves) <= 1:
        return leaves[0] if leaves else hashlib.sha256(b"").digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return node_hash(mth(leaves[:split]), mth(leaves[split:]))


def roots(most: int = MOST) -> list[bytes]:
    frontier, found = Frontier(), [EMPTY]
    for leaf in LEAVES[:most]:
        frontier.add(leaf)
        found.append(frontier.root)
    return found


ROOTS = roots()


def hashes(path: list[tuple[int, int]]) -> list[bytes]:
    return [mth(LEAVES[start:end]) for start, end in path]


def test_roots_are_the_definition() -> None:
    assert [mth(LEAVES[:size]) for size in range(MOST + 1)] == ROOTS


def test_known_roots() -> None:
    """Of Certificate Transparency's own reference tree: entries of 0, 1 and 1 bytes."""
    frontier = Frontier()
    found = []
    for entry in (b"", b"\x00", b"\x10"):
        frontier.add(leaf_hash(entry))
        found.append(frontier.root.hex())
    assert found == [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    ]


def test_finished_parts_are_told_once_and_rightly() -> None:
    frontier = Frontier()
    for index, leaf in enumerate(LEAVES):
        finished = frontier.add(leaf)
        assert finished == [mth(LEAVES[index + 1 - (1 << level) : index + 1]) for level in range(len(finished))]
        assert frontier.peaks == hashes(list(complete_parts((0, index + 1))))
    assert frontier.root == ROOTS[MOST]


def test_a_frontier_goes_on_from_its_peaks() -> None:
    for size in range(MOST):
        frontier = Frontier(size, hashes(list(complete_parts((0, size)))))
        frontier.add(LEAVES[size])
        assert frontier.root == ROOTS[size + 1]


def path_(index: int, leaves: list[bytes]) -> list[bytes]:
    """RFC 9162, section 2.1.3.1."""
    if len(leaves) == 1:
        return []
    split = 1 << ((len(leaves) - 1).bit_length() - 1)
    left, right = leaves[:split], leaves[split:]
    return [*path_(index, left), mth(right)] if index < split else [*path_(index - split, right), mth(left)]


def subproof(old: int, leaves: list[bytes], whole: bool) -> list[bytes]:
    """RFC 9162, section 2.1.4.1."""
    if old == len(leaves):
        return [] if whole else [mth(leaves)]
    split = 1 << ((len(leaves) - 1).bit_length() - 1)
    left, right = leaves[:split], leaves[split:]
    if old <= split:
        return [*subproof(old, left, whole), mth(right)]
    return [*subproof(old - split, right, False), mth(left)]


def test_proofs_are_the_definition() -> None:
    for size in range(1, 70):
        for n in range(size):
            assert hashes(inclusion_path(n, size)) == path_(n, LEAVES[:size])
            assert hashes(consistency_path(n + 1, size)) == subproof(n + 1, LEAVES[:size], True)


def test_everything_equals_pymerkle() -> None:
    """Roots of all sizes, inclusion of every leaf in every size, consistency of every two sizes: to 256.

    pymerkle's consistency proofs hold more than the RFC's (the old tree itself, and parts in pieces where the old tree ends
    at a power of two), so there each side has to accept what the other says.
    """
    tree = InmemoryTree(algorithm="sha256")
    for i in range(MOST):
        tree.append_entry(b"entry %d" % i)
    for size in range(1, MOST + 1):
        root = tree.get_root(size)
        assert root == ROOTS[size]
        for index in range(size):
            theirs = tree.prove_inclusion(index + 1, size)
            ours = [joined([tree_hash(part) for part in complete_parts(part)]) for part in inclusion_path(index, size)]
            assert [LEAVES[index], *ours] == theirs.path
            assert verify_inclusion(LEAVES[index], index, size, ours, root)
        for old in range(1, size + 1):
            path = consistency_path(old, size)
            ours = [joined([tree_hash(part) for part in complete_parts(part)]) for part in path]
            proof = tree.prove_consistency(old, size)
            proof.verify(ROOTS[old], ROOTS[size])
            assert verify_consistency(old, proof.retrieve_prior_state(), size, root, ours)


COMPLETE: dict[tuple[int, int], bytes] = {}


def tree_hash(part: tuple[int, int]) -> bytes:
    if part not in COMPLETE:
        COMPLETE[part] = mth(LEAVES[slice(*part)])
    return COMPLETE[part]


def test_the_empty_tree() -> None:
    assert verify_consistency(0, EMPTY, 7, ROOTS[7], []) and verify_consistency(0, EMPTY, 0, EMPTY, [])
    assert not verify_consistency(0, ROOTS[1], 7, ROOTS[7], [])
    assert not verify_consistency(0, EMPTY, 0, ROOTS[1], [])
    assert not verify_consistency(0, EMPTY, 7, ROOTS[7], [ROOTS[1]])
    assert not verify_inclusion(LEAVES[0], 0, 0, [], EMPTY)


def test_parts_lie_side_by_side() -> None:
    for start, end in pairwise([0, 64, 96, 100, 101]):
        parts = list(complete_parts((start, end)))
        assert parts[0][0] == start and parts[-1][1] == end
        assert all(left[1] == right[0] for left, right in pairwise(parts))


sizes = st.integers(1, MOST).flatmap(lambda size: st.tuples(st.integers(0, size - 1), st.just(size)))


def flipped(data: bytes, where: int) -> bytes:
    changed = bytearray(data)
    changed[where // 8 % len(changed)] ^= 1 << where % 8
    return bytes(changed)


@settings(max_examples=300, deadline=None)
@given(sizes, st.data())
def test_every_mutated_inclusion_proof_is_refused(at: tuple[int, int], data: st.DataObject) -> None:
    index, size = at
    leaf, proof, root = LEAVES[index], hashes(inclusion_path(index, size)), ROOTS[size]
    assert verify_inclusion(leaf, index, size, proof, root)
    bit = data.draw(st.integers(0, 255))
    other = data.draw(st.integers(-1, MOST).filter(lambda n: n != index))
    assert not verify_inclusion(flipped(leaf, bit), index, size, proof, root)
    assert not verify_inclusion(leaf, index, size, proof, flipped(root, bit))
    assert not verify_inclusion(leaf, index, size, [*proof, LEAVES[0]], root)
    assert not verify_inclusion(leaf, other, size, proof, root)
    if proof:
        place = data.draw(st.integers(0, len(proof) - 1))
        changed = [flipped(h, bit) if i == place else h for i, h in enumerate(proof)]
        assert not verify_inclusion(leaf, index, size, changed, root)
        assert not verify_inclusion(leaf, index, size, proof[:place] + proof[place + 1 :], root)
    if len(proof) > 1:
        assert not verify_inclusion(leaf, index, size, proof[::-1], root)


@settings(max_examples=300, deadline=None)
@given(sizes, st.data())
def test_every_mutated_consistency_proof_is_refused(at: tuple[int, int], data: st.DataObject) -> None:
    old, new = at[0] + 1, at[1]
    proof = hashes(consistency_path(old, new))
    assert verify_consistency(old, ROOTS[old], new, ROOTS[new], proof)
    bit = data.draw(st.integers(0, 255))
    assert not verify_consistency(old, flipped(ROOTS[old], bit), new, ROOTS[new], proof)
    assert not verify_consistency(old, ROOTS[old], new, flipped(ROOTS[new], bit), proof)
    assert not verify_consistency(old, ROOTS[old], new, ROOTS[new], [*proof, LEAVES[0]])
    other = data.draw(st.integers(1, MOST).filter(lambda n: n != old))
    assert not verify_consistency(other, ROOTS[old], new, ROOTS[new], proof)
    if proof:
        place = data.draw(st.integers(0, len(proof) - 1))
        changed = [flipped(h, bit) if i == place else h for i, h in enumerate(proof)]
        assert not verify_consistency(old, ROOTS[old], new, ROOTS[new], changed)
        assert not verify_consistency(old, ROOTS[old], new, ROOTS[new], proof[:place] + proof[place + 1 :])


@pytest.mark.parametrize(("index", "size"), [(-1, 3), (3, 3), (0, 1 << 63), (1 << 70, 1 << 71)])
def test_impossible_places_are_refused(index: int, size: int) -> None:
    assert not verify_inclusion(LEAVES[0], index, size, [], LEAVES[0])
    assert not verify_consistency(size + 1, LEAVES[0], size, LEAVES[0], [])
