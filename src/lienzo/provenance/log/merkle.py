"""Merkle trees as RFC 6962 and RFC 9162 (section 2.1) define them, over SHA-256. Pure: knows no database.

A leaf is hashed behind a byte 0x00 and a node behind a byte 0x01, so that neither can be taken for the other. The tree over
n leaves splits at the largest power of two below n; so all its parts but those on the right edge are complete, and their
hashes never change again. Parts are named by the leaves [start, end) below them.

| here | RFC 9162 |
|---|---|
| `leaf_hash(d)`, `node_hash(l, r)` | HASH(0x00 \\|\\| d), HASH(0x01 \\|\\| l \\|\\| r) |
| `Frontier.root` | MTH(D_n), section 2.1.1 |
| `inclusion_path` | PATH(m, D_n), section 2.1.3.1 |
| `consistency_path` | PROOF(m, D_n), section 2.1.4.1 |
"""

import hashlib
from collections.abc import Iterator, Sequence
from functools import reduce

EMPTY = hashlib.sha256(b"").digest()
"""Root of the tree without leaves."""

HASH_BYTES = 32
MAX_SIZE = 1 << 62
"""Leaves; what databases hold in an integer, and far more than anybody logs."""

Part = tuple[int, int]
"""Leaves from the first number up to, not including, the second."""


def leaf_hash(data: bytes) -> bytes:
    return hashlib.sha256(b"\0" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


def joined(hashes: Sequence[bytes]) -> bytes:
    """The root over complete parts that lie side by side, largest first: each hangs to the left of all that follow."""
    return reduce(lambda right, left: node_hash(left, right), reversed(hashes)) if hashes else EMPTY


def complete_parts(part: Part) -> Iterator[Part]:
    """The complete parts that a part of a tree consists of, largest first: one for each bit of its size."""
    start, end = part
    while start < end:
        size = 1 << ((end - start).bit_length() - 1)
        yield start, start + size
        start += size


class Frontier:
    """The right edge of a growing tree: all that is needed to add leaves and to know the root.

    Args:
        size: leaves so far.
        peaks: hashes of `complete_parts((0, size))`.
    """

    def __init__(self, size: int = 0, peaks: Sequence[bytes] = ()) -> None:
        self.size = size
        self.peaks = list(peaks)

    def add(self, leaf: bytes) -> list[bytes]:
        """Add a leaf's hash.

        Returns:
            Hashes of the complete parts that end with this leaf: of 1, 2, 4 ... leaves.
        """
        finished = [leaf]
        while self.size >> (len(finished) - 1) & 1:
            finished.append(node_hash(self.peaks.pop(), finished[-1]))
        self.peaks.append(finished[-1])
        self.size += 1
        return finished

    @property
    def root(self) -> bytes:
        return joined(self.peaks)


def inclusion_path(index: int, size: int) -> list[Part]:
    """The parts whose hashes, from the leaf upwards, prove that a leaf is in the tree of that size."""
    path: list[Part] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append((middle, end))
            end = middle
        else:
            path.append((start, middle))
            start = middle
    return path[::-1]


def consistency_path(old: int, new: int) -> list[Part]:
    """The parts whose hashes prove that the tree of `old` leaves is the beginning of the tree of `new` leaves."""
    if old == 0:
        return []
    path: list[Part] = []
    start, end = 0, new
    while end > old:
        middle = start + _split(end - start)
        if old <= middle:
            path.append((middle, end))
            end = middle
        else:
            path.append((start, middle))
            start = middle
    if start > 0:  # else it is the old tree itself, whose root the verifier has
        path.append((start, end))
    return path[::-1]


def verify_inclusion(leaf: bytes, index: int, size: int, hashes: Sequence[bytes], root: bytes) -> bool:
    """Whether hashes of `inclusion_path(index, size)` lead from the leaf's hash to the root."""
    if not 0 <= index < size <= MAX_SIZE:
        return False
    path = inclusion_path(index, size)
    if len(path) != len(hashes):
        return False
    found = leaf
    for (start, _), other in zip(path, hashes, strict=True):
        found = node_hash(found, other) if start > index else node_hash(other, found)
    return found == root


def verify_consistency(old: int, old_root: bytes, new: int, new_root: bytes, hashes: Sequence[bytes]) -> bool:
    """Whether hashes of `consistency_path(old, new)` lead to both roots."""
    if not 0 <= old <= new <= MAX_SIZE:
        return False
    path = consistency_path(old, new)
    if len(path) != len(hashes):
        return False
    if old == 0:
        return old_root == EMPTY and (new > 0 or new_root == EMPTY)
    steps = list(zip(path, hashes, strict=True))
    first = steps.pop(0)[1] if path and path[0][1] == old else old_root
    found_old = found_new = first
    for (start, _), other in steps:
        if start >= old:
            found_new = node_hash(found_new, other)
        else:
            found_old, found_new = node_hash(other, found_old), node_hash(other, found_new)
    return (found_old, found_new) == (old_root, new_root)


def _split(size: int) -> int:
    """The largest power of two below a size of 2 or more."""
    return 1 << ((size - 1).bit_length() - 1)
