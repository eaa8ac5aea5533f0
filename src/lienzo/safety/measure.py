"""How often a policy or a check is wrong, on prompts or pictures that people have labelled "safe" or "unsafe".

The figures hold for things like those that were labelled, and for no others: on a hundred harmless prompts of one's own, a list of
words looks better than it is.
"""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

from lienzo.errors import InputError
from lienzo.safety.checks import PictureCheck, check_picture
from lienzo.safety.outcome import Outcome, Status
from lienzo.safety.policy import Policy
from lienzo.shares import wilson

Tag = Literal["safe", "unsafe"]
LABELS: Final[tuple[Tag, ...]] = get_args(Tag)


@dataclass(frozen=True, kw_only=True)
class Rate:
    """A share of `n`, with the interval in which it would lie in 95 of 100 cases with others like them.

    The interval is Wilson's (1927): it is right for few, and for none wrong among few.
    """

    name: str
    value: float
    low: float
    high: float
    n: int
    about: str

    @classmethod
    def of(cls, name: str, hits: int, n: int, about: str) -> "Rate":
        low, high = wilson(hits, n)
        return cls(name=name, value=hits / n, low=low, high=high, n=n, about=about)


def error_rates(found: Iterable[tuple[Tag, Outcome]]) -> tuple[Rate, ...]:
    """False positives among what is safe, false negatives among what is unsafe; each counted with and without flags.

    Raises:
        InputError: nothing to count, or something that nobody checked.
    """
    every: dict[Tag, list[Status]] = {tag: [] for tag in LABELS}
    for tag, outcome in found:
        if outcome.status == "not_checked":
            raise InputError("Nothing was checked, so there is nothing to count. Name a policy or a checker.")
        every[tag].append(outcome.status)
    safe, unsafe = (every[tag] for tag in LABELS)
    caught = ("blocked", "flagged")
    rates = []
    if n := len(safe):
        rates += [
            Rate.of("false positives, blocked", safe.count("blocked"), n, "safe, yet blocked"),
            Rate.of("false positives", sum(s in caught for s in safe), n, "safe, yet blocked or flagged"),
        ]
    if n := len(unsafe):
        rates += [
            Rate.of("false negatives, not blocked", n - unsafe.count("blocked"), n, "unsafe, yet not blocked"),
            Rate.of(
                "false negatives", n - sum(s in caught for s in unsafe), n, "unsafe, yet neither blocked nor flagged"
            ),
        ]
    if not rates:
        raise InputError("There is nothing to count: neither safe nor unsafe ones were given.")
    return tuple(rates)


def measure_prompts(path: Path, policy: Policy, tenant: str | None = None) -> tuple[Rate, ...]:
    """Error rates of a policy on a table with the columns `prompt` and `label`.

    Raises:
        InputError: unreadable, without those columns, another label than safe or unsafe, or no prompt.
    """
    return error_rates(
        (tag, policy.outcome(policy.matches(prompt, tenant=tenant), tenant)) for prompt, tag in _read(path)
    )


def measure_pictures(folder: Path, checks: Sequence[PictureCheck]) -> tuple[Rate, ...]:
    """Error rates of checks on the pictures in a folder's subfolders `safe` and `unsafe`.

    Raises:
        InputError: no such folders, a file in them that is no picture, or no check.
    """
    from lienzo.images import open_image  # only now: it brings torch

    if not any((folder / tag).is_dir() for tag in LABELS):
        raise InputError(f"{folder} has neither a folder `safe` nor one `unsafe` with pictures in it.")
    files = [(tag, file) for tag in LABELS if (folder / tag).is_dir() for file in sorted((folder / tag).iterdir())]
    return error_rates((tag, check_picture(open_image(file), checks)) for tag, file in files)


def to_dict(what: str, made_by: str, rates: Iterable[Rate]) -> dict[str, Any]:
    """The measurement as JSON, in the form that the transparency report reads."""
    return {"what": what, "made_by": made_by, "rates": [vars(rate) for rate in rates], "notes": []}


def _read(path: Path) -> list[tuple[str, Tag]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as a table: {getattr(error, 'strerror', None) or error}.") from None
    found: list[tuple[str, Tag]] = []
    for number, row in enumerate(rows, 2):
        prompt, tag = row.get("prompt"), row.get("label")
        if not prompt or tag not in LABELS:
            raise InputError(
                f"{path}, row {number}: got prompt={prompt!r}, label={tag!r}; expected the columns `prompt` and `label`, "
                f"the label being one of {', '.join(LABELS)}."
            )
        found.append((prompt, tag))
    return found
