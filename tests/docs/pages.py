"""The documentation's pages, cut into what the tests look at."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
WRITTEN = [
    ROOT / "README.md",
    *(page for folder in (DOCS, DOCS / "howto", DOCS / "explanation") for page in sorted(folder.glob("*.md"))),
]
"""Pages written by hand, whose examples are run."""
SERVED = [DOCS / "howto" / "clients.md"]
"""Pages whose examples need a service that runs: `tests/server/test_clients_page.py` runs them."""
ALL = [*WRITTEN, ROOT / "CHANGELOG.md", *sorted((DOCS / "reference").glob("*.md"))]
FENCE = re.compile(r"(?:<!-- not run: (?P<why>[^\n]*) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """A fenced block; `why` is the reason why it is not run."""

    page: Path
    line: int
    language: str
    text: str
    why: str | None


def title(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text[: found.start("text")].count("\n") + 1, found["language"], found["text"], found["why"])
        for found in FENCE.finditer(text)
    ]


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def rows(page: Path, heading: str) -> list[list[str]]:
    """Cells of the first table under a heading, without its head."""
    section = page.read_text(encoding="utf-8").split(f"\n{heading}\n", 1)[1]
    lines = [line for line in section.split("\n## ")[0].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def anchors(page: Path) -> set[str]:
    """What GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
