"""What a check found: one frozen, JSON-able form for prompts and pictures, whoever checked."""

from collections.abc import Iterable
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Status = Literal["passed", "flagged", "blocked", "not_checked"]
WORST: Final[tuple[Status, ...]] = ("blocked", "flagged", "not_checked", "passed")
"""The status of several checks together is the first of these that one of them has."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Score(_Frozen):
    """A number that a check went by; above 0 is over its limit."""

    name: str = Field(min_length=1, max_length=100)
    value: float


class Outcome(_Frozen):
    """What a check, or several, found.

    It holds no word of the prompt, for it goes into receipts, which others read.

    Attributes:
        status: passed; flagged: let through, with something to look at; blocked: there is no picture; not_checked: nobody
            looked, or one of those who were asked could not.
        by: who checked, "policy:" or "checker:" with the SHA-256 of the rules or weights; a check of yours says what it likes.
        scores: empty where a check has none.
        reasons: why it did not simply pass.
    """

    status: Status
    by: tuple[Annotated[str, Field(min_length=1, max_length=300)], ...] = ()
    scores: tuple[Score, ...] = ()
    reasons: tuple[Annotated[str, Field(min_length=1, max_length=1000)], ...] = ()

    @model_validator(mode="after")
    def _says_enough(self) -> Self:
        if self.status != "not_checked" and not self.by:
            raise ValueError(f"status is {self.status!r}, but nobody is named who checked (by)")
        if self.status != "passed" and not self.reasons:
            raise ValueError(f"status is {self.status!r} without a reason (reasons)")
        return self

    def __str__(self) -> str:
        """A sentence for people; what a `BlockedError` says."""
        begin = {"passed": "Passed", "flagged": "Flagged", "blocked": "Blocked", "not_checked": "Not checked"}[
            self.status
        ]
        return f"{begin}: {' '.join(self.reasons)}" if self.reasons else f"{begin}."


def combine(outcomes: Iterable[Outcome]) -> Outcome:
    """The outcome of several checks together: the worst status, and what all of them say.

    None at all is "not_checked": nobody looked.
    """
    every = tuple(outcomes)
    if not every:
        return Outcome(status="not_checked", reasons=("No check is set up.",))
    return Outcome(
        status=next(status for status in WORST if any(one.status == status for one in every)),
        by=tuple(dict.fromkeys(name for one in every for name in one.by)),
        scores=tuple(score for one in every for score in one.scores),
        reasons=tuple(dict.fromkeys(reason for one in every for reason in one.reasons)),
    )
