"""What cards and reports are written with: one document as Markdown and as HTML, and how data, energy and time are told.

A training's card and a transparency report tell the same kinds of things; here is what they share. All text in a `Section` is
plain and is escaped for either form, so that nothing that a file says can become markup, a script or a link.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any
from urllib.parse import quote

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222; background: #fff; }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; }
th, td { padding: .25rem .75rem; text-align: left; border-bottom: 1px solid #ddd; vertical-align: top; overflow-wrap: anywhere; }
pre { white-space: pre-wrap; background: #f5f5f5; padding: .75rem; } code { overflow-wrap: anywhere; } img { max-width: 100%; }
"""
MARKUP = re.compile(r"[\\`*_\[\]<>&~$]")
"""What Markdown reads as more than itself, wherever it stands; a table's | is seen to where tables are written."""
AT_FIRST = re.compile(r"^(?=[#=:]|[+\-](?:[ \-]|$))|^(\d+)(?=[.)](?: |$))")
"""What begins a heading, a list or a rule where a line begins with it."""


@dataclass(frozen=True)
class Code:
    """A name or a digest, to be shown letter by letter."""

    text: str


@dataclass(frozen=True)
class Table:
    """Rows of as many cells as there are heads; heads may be empty."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str | Code, ...], ...]


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Quoted:
    """Words of another document, letter by letter."""

    text: str


@dataclass(frozen=True)
class Picture:
    """A picture's path as seen from the document, and what is on it."""

    path: str
    alt: str


Block = str | Code | Table | Bullets | Quoted | Picture
"""A str is a paragraph."""


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it; level 1 is a part of a page, 2 a section, 3 a part of one."""

    title: str
    blocks: tuple[Block, ...]
    level: int = 2


def shown(text: str) -> str:
    """Text from outside without what a reader cannot see: control characters, changes of direction, halves of pairs."""
    return "".join(
        c if c.isprintable() or c == "\n" else " " if c.isspace() else c.encode("unicode_escape").decode() for c in text
    )


# --- Markdown ---------------------------------------------------------------------------------------------------------


def markdown(sections: Sequence[Section]) -> str:
    """The document as Markdown."""
    parts = []
    for section in sections:
        parts.append(f"{'#' * section.level} {in_markdown(section.title)}")
        parts += [_block_in_markdown(block) for block in section.blocks]
    return "\n\n".join(parts) + "\n"


def in_markdown(cell: str | Code) -> str:
    """One line of Markdown that shows exactly this."""
    text = " ".join(shown(cell.text if isinstance(cell, Code) else cell).split())
    if isinstance(cell, Code):
        ticks = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
        space = " " if "`" in text else ""
        return f"{ticks}{space}{text}{space}{ticks}" if text else ""
    return AT_FIRST.sub(lambda found: (found[1] or "") + "\\", MARKUP.sub(r"\\\g<0>", text))


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose cells are Markdown already, but for the | in them."""
    first, *others = ([cell.replace("|", "\\|") for cell in row] for row in (heads, *rows))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (first, ["---"] * len(heads), *others))


def _block_in_markdown(block: Block) -> str:
    match block:
        case Table(heads, rows):
            return markdown_table([in_markdown(h) for h in heads], [[in_markdown(c) for c in row] for row in rows])
        case Bullets(items):
            return "\n".join(f"- {in_markdown(item)}" for item in items)
        case Quoted(text):
            fence = "`" * max(3, max(map(len, re.findall("`+", text)), default=0) + 1)
            return f"{fence}text\n{shown(text)}\n{fence}"
        case Picture(path, alt):
            return f"![{in_markdown(alt)}]({_link(path)})"
        case _:
            return in_markdown(block)


def _link(path: str) -> str:
    """A path that is nothing but a path in Markdown and in HTML."""
    return quote(path, safe="/", errors="replace")


# --- HTML -------------------------------------------------------------------------------------------------------------


def html(title: str, sections: Sequence[Section], *, style: str = STYLE) -> str:
    """The document as one page that needs nothing else but its pictures; valid XML too."""
    body = "\n".join(line for section in sections for line in _section_in_html(section))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        f"<title>{in_html(title)}</title><style>{style}</style></head><body>\n{body}\n</body></html>\n"
    )


def in_html(cell: str | Code) -> str:
    """HTML that shows exactly this."""
    if isinstance(cell, Code):
        return f"<code>{escape(shown(cell.text))}</code>"
    return escape(shown(cell))


def _section_in_html(section: Section) -> Iterator[str]:
    yield f"<h{section.level}>{in_html(section.title)}</h{section.level}>"
    for block in section.blocks:
        match block:
            case Table(heads, rows):
                yield "<table>"
                if any(heads):
                    yield "<tr>" + "".join(f"<th>{in_html(cell)}</th>" for cell in heads) + "</tr>"
                for row in rows:
                    yield "<tr>" + "".join(f"<td>{in_html(cell)}</td>" for cell in row) + "</tr>"
                yield "</table>"
            case Bullets(items):
                yield "<ul>" + "".join(f"<li>{in_html(item)}</li>" for item in items) + "</ul>"
            case Quoted(text):
                yield f"<pre>{in_html(text)}</pre>"
            case Picture(path, alt):
                yield f'<p><img src="{_link(path)}" alt="{in_html(alt)}" loading="lazy"/></p>'
            case _:
                yield f"<p>{in_html(block)}</p>"


# --- how it is told ---------------------------------------------------------------------------------------------------


def duration(seconds: float) -> str:
    """A time as people read it."""
    if seconds < 100:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.1f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def energy(used: Mapping[str, Any]) -> str:
    """`kwh` and whether it is an `estimate`, as `lienzo train` notes them; empty where there are none."""
    if not used:
        return ""
    return f"{used['kwh']:.4f} kWh, {'an estimate' if used['estimate'] else 'counted by the hardware'}"


def data_rows(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The main figures of a data report (`lienzo data report --json`)."""
    captions, people, skipped = found["captions"], found["people"], found["skipped"]
    licences = [f"{one['name']} ({one['pictures']})" for one in found["licences"]["given"]]
    if missing := found["licences"]["not_given"]:
        licences.append(f"not given ({missing})")
    return [
        ("pictures", f"{found['pictures']:,}"),
        ("captions", f"{captions['captions']:,}, {captions['without']} pictures without"),
        ("languages", ", ".join(f"{name} ({count})" for name, count in captions["languages"].items()) or "none"),
        ("licences", ", ".join(licences)),
        ("captions with words for people", f"{people['pictures']} pictures (an estimate)"),
        ("skipped", f"{skipped['count']}"),
    ]
