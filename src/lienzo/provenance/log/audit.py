"""A log gone through from its first entry to its last, and compared with every checkpoint that is known of it."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lienzo.errors import InputError, ProofError, UnknownKeyError
from lienzo.provenance.encoding import encode64
from lienzo.provenance.log.checkpoint import Checkpoint, NoteKey, open_checkpoint
from lienzo.provenance.log.merkle import Part, complete_parts, joined, node_hash

MOST_PROBLEMS = 50
"""That are listed; more are counted."""

Advance = Callable[[int, int], None]
"""Told now and then how many entries were gone through, and of how many."""

_TELL = 1000
"""Entries from one such time to the next."""


@dataclass(frozen=True)
class Audit:
    """What going through a whole log showed.

    Attributes:
        origin: the log's name.
        size: its entries.
        root: of the tree over them, base64; None where it could not be computed.
        checkpoints: sizes of which there is a signed one that the entries agree with.
        held: checkpoints held outside of the log that they agree with.
        problems: what was changed, each named; empty where nothing was.
        unproved: what could not be told, and why.
        notes: what was left out.
        found: (index, entry) under the key that was looked for.
    """

    origin: str
    size: int
    root: str | None
    checkpoints: int
    held: int
    problems: tuple[str, ...]
    unproved: tuple[str, ...]
    notes: tuple[str, ...] = ()
    found: tuple[tuple[int, bytes], ...] = ()

    @property
    def state(self) -> Literal["proved", "not proved", "tampered"]:
        return "tampered" if self.problems else "not proved" if self.unproved else "proved"

    @property
    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "state": self.state,
            "origin": self.origin,
            "size": self.size,
            "root": self.root,
            "checkpoints": self.checkpoints,
            "held": self.held,
            "problems": list(self.problems),
            "unproved": list(self.unproved),
            "notes": list(self.notes),
        }


class Replay:
    """The tree computed anew, entry by entry, in memory that grows with the logarithm of the log's size.

    Where a database holds hashes of the tree too, every one is compared with what it is made of, and then the *stored* one is
    gone on with: so each change is told where it is, and only there.

    Args:
        keys: that checkpoints may be signed with.
        origin: the log's name.
        held: checkpoints that somebody kept outside of the log.
        advance: told of every so many entries; None: nobody is.
        of: how many there will be, as far as is known.

    Raises:
        InputError: a held checkpoint that is none, or of another log, or signed by an unknown key.
    """

    def __init__(
        self,
        keys: Sequence[NoteKey],
        origin: str,
        held: Iterable[str] = (),
        *,
        advance: Advance | None = None,
        of: int = 0,
    ) -> None:
        self.keys, self.origin = keys, origin
        self._advance, self.of = advance, of
        self.size = 0
        self.problems: list[str] = []
        self.unproved: list[str] = []
        self.notes: list[str] = []
        self._peaks: list[bytes | None] = []
        self._expected: defaultdict[int, list[tuple[str, Checkpoint]]] = defaultdict(list)
        self._agreed: list[tuple[str, int]] = []
        self._more = 0
        for note in held:
            try:
                checkpoint = open_checkpoint(note, keys, origin)
            except ProofError as error:
                raise InputError(f"the earlier checkpoint cannot be used: {error}") from None
            self._expect("held elsewhere", checkpoint)

    def problem(self, text: str) -> None:
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(text)
        else:
            self._more += 1

    def checkpoint(self, note: str, what: str) -> Checkpoint | None:
        """A checkpoint that lies in the log, to be compared when the replay comes to its size, or is there already."""
        try:
            checkpoint = open_checkpoint(note, self.keys, self.origin)
        except UnknownKeyError as error:
            if len(self.unproved) < MOST_PROBLEMS:
                self.unproved.append(f"{what}: {error}")
            return None
        except ProofError as error:
            self.problem(f"{what}: {error}")
            return None
        self._expect(what, checkpoint)
        return checkpoint

    def add(self, leaf: bytes | None, stored: Sequence[bytes] | None = None) -> None:
        """The next entry.

        Args:
            leaf: its hash.
            stored: what the database has for `Frontier.add`'s result; None where there is no database.
        """
        index, below = self.size, None
        if stored is not None and len(stored) != ((index + 1) & -(index + 1)).bit_length():
            self.problem(
                f"entry {index:,}: its tree hashes are those of another place; it was moved, or they were changed"
            )
            leaf = stored = None  # what belongs there is not known
        level = 0
        while True:
            left = None if level == 0 else self._peaks.pop()
            computed = (
                leaf if level == 0 else node_hash(left, below) if left is not None and below is not None else None
            )
            if stored and computed not in (None, stored[level]):
                start = index + 1 - (1 << level)
                self.problem(
                    f"entry {index:,}: is not what was logged there: it was edited, exchanged or moved"
                    if level == 0
                    else f"entries {start:,} to {index:,}: the stored tree hash is not theirs; one of them was changed"
                )
            below = stored[level] if stored else computed
            if not index >> level & 1:
                break
            level += 1
        self._peaks.append(below)
        self.size += 1
        if self._advance is not None and self.size % _TELL == 0:
            self._advance(self.size, max(self.of, self.size))
        self._compare()

    def skip(self, to: int) -> None:
        """Entries that are not there. What is complete without them stays known."""
        known: dict[Part, bytes | None] = dict(zip(complete_parts((0, self.size)), self._peaks, strict=True))
        self._peaks = [known.get(part) for part in complete_parts((0, to))]
        self.size = to

    @property
    def root(self) -> bytes | None:
        peaks = [peak for peak in self._peaks if peak is not None]
        return joined(peaks) if len(peaks) == len(self._peaks) else None

    def finish(self, *, whole: bool = True, copy: bool = False) -> Audit:
        """What was found.

        Args:
            whole: whether the log was gone through to its end.
            copy: whether it is a copy of the log as it once was, which a later checkpoint says nothing against.
        """
        for size, waiting in sorted(self._expected.items()) if whole else ():
            for what, _ in waiting:
                if size > self.size and copy:
                    self.unproved.append(
                        f"checkpoint of {size:,} entries ({what}): this copy of the log is older, it has {self.size:,}; whether the "
                        "log only grew since cannot be told. Get a newer copy."
                    )
                elif size > self.size:
                    self.problem(
                        f"checkpoint of {size:,} entries ({what}): there are only {self.size:,}. The log was set back."
                    )
                else:
                    self.problem(
                        f"checkpoint of {size:,} entries ({what}): its root cannot be computed, entries are missing"
                    )
        if self._more:
            self.problems.append(f"and {self._more:,} more")
        root = self.root
        return Audit(
            origin=self.origin,
            size=self.size,
            root=None if root is None else encode64(root),
            checkpoints=len({size for _, size in self._agreed}),
            held=sum(what == "held elsewhere" for what, _ in self._agreed),
            problems=tuple(self.problems),
            unproved=tuple(self.unproved),
            notes=tuple(self.notes),
        )

    def _expect(self, what: str, checkpoint: Checkpoint) -> None:
        self._expected[checkpoint.size].append((what, checkpoint))
        if checkpoint.size == self.size:
            self._compare()

    def _compare(self) -> None:
        """The root with those of the checkpoints of this size."""
        if self.size not in self._expected:
            return
        root = self.root
        if root is None:
            return  # `finish` tells
        for what, checkpoint in self._expected.pop(self.size):
            if checkpoint.root == root:
                self._agreed.append((what, self.size))
            else:
                since = max((size for _, size in self._agreed), default=0)
                self.problem(
                    f"checkpoint of {self.size:,} entries ({what}): the entries are not those that were signed; "
                    f"one or more of entries {since:,} to {self.size - 1:,} were changed"
                )
