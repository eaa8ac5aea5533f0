"""Which language the page speaks."""

import re
from dataclasses import fields
from string import Formatter

import pytest

from lienzo.provenance.verify import EXIT
from lienzo.server.page.texts import ENGLISH, SPANISH, language


@pytest.mark.parametrize(
    ("accepted", "spoken"),
    [
        (None, "en"), ("", "en"), ("es", "es"), ("es-MX,es;q=0.9,en;q=0.8", "es"), ("de,en;q=0.5,es;q=0.7", "es"),
        ("fr", "en"), ("es;q=0", "en"), ("en;q=1.0, ES-es", "en"), ("es;q=high, en;q=0.1", "en"), ("*", "en"),
    ],
)  # fmt: skip
def test_what_the_browser_likes_best(accepted: str | None, spoken: str) -> None:
    assert language(accepted) == spoken


@pytest.mark.parametrize("field", [field.name for field in fields(ENGLISH)])
def test_both_say_the_same(field: str) -> None:
    ours, theirs = getattr(ENGLISH, field), getattr(SPANISH, field)
    if isinstance(ours, str):
        assert ours and theirs
        assert blanks(ours) == blanks(theirs)
    else:
        assert ours.keys() == theirs.keys()


def blanks(text: str) -> set[str]:
    return {re.sub(r"\W.*", "", name) for _, name, _, _ in Formatter().parse(text) if name}


def test_every_outcome_has_words() -> None:
    assert ENGLISH.outcomes.keys() == EXIT.keys()
