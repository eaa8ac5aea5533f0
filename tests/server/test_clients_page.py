"""The examples of the pages that need a service, against one that runs."""

from pathlib import Path

import pytest

from docs.pages import SERVED, blocks, title
from server.conftest import Served


@pytest.mark.parametrize("page", SERVED, ids=title)
def test_examples(page: Path, served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(page):
        assert block.language == "python" and block.why is None
        text = block.text.replace("http://127.0.0.1:8000", served.url)
        exec(compile("\n" * (block.line - 1) + text, str(page), "exec"), names)
    names["client"].close()  # type: ignore[attr-defined]
    told = capsys.readouterr().out
    assert " 7 " in told and " 8 " in told and '"all_seeds": [7]' in told
