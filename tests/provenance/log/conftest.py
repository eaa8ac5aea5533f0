"""Logs in both databases."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from signing import Fixed

from lienzo.provenance.log import Log


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a new log can be made: in either database."""
    if request.param == "sqlite":
        return str(tmp_path / "log.db")
    schema: Callable[[str], str] = request.getfixturevalue("postgresql")
    return schema(re.sub(r"\W", "_", tmp_path.name).lower())


@pytest.fixture
def opened(place: str) -> Iterator[Log]:
    with Log.open(place, signer=Fixed()) as log:
        yield log
