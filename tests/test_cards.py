"""Documents: whatever a file says, its readers see exactly that, in Markdown and in HTML."""

import itertools
import xml.etree.ElementTree as ET

from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from lienzo.cards import (
    Bullets,
    Code,
    Picture,
    Quoted,
    Section,
    Table,
    data_rows,
    html,
    in_markdown,
    markdown,
    markdown_table,
    shown,
)

MARKDOWN = MarkdownIt("commonmark").enable("table").enable("strikethrough")
HOSTILE = st.text(st.sampled_from(list("<>&\"'`*_[]()!|~#+-=.:\\$1aé \n\t\x00\x1b\u202e\ud800")), max_size=30)
TEXTS = st.one_of(HOSTILE, st.text(max_size=30))


def read_back(text: str) -> str:
    """What a reader of Markdown sees; nothing but plain text and code may be there."""
    seen = []
    for token in MARKDOWN.parse(text):
        assert token.type in ("inline", "paragraph_open", "paragraph_close"), token.type
        for part in token.children or ():
            assert part.type in ("text", "code_inline", "text_special"), part.type
            seen.append(part.content)
    return "".join(seen)


def wanted(text: str) -> str:
    return " ".join(shown(text).split())


@given(TEXTS)
@settings(max_examples=150, deadline=None)
def test_markdown_shows_the_very_text(text: str) -> None:
    assert read_back(in_markdown(text)) == wanted(text)


@given(TEXTS)
@settings(max_examples=150, deadline=None)
def test_markdown_shows_the_very_code(text: str) -> None:
    assert read_back(in_markdown(Code(text))) == wanted(text)


@given(st.lists(TEXTS, min_size=2, max_size=2))
@settings(max_examples=100, deadline=None)
def test_cells_stay_in_their_columns(cells: list[str]) -> None:
    escaped = [in_markdown(cell) for cell in cells]
    tokens = MARKDOWN.parse(markdown_table(escaped, [escaped]))
    for kind in ("th_open", "td_open"):
        inner = [t for before, t in itertools.pairwise(tokens) if before.type == kind]
        assert ["".join(p.content for p in t.children or ()) for t in inner] == [wanted(cell) for cell in cells]


@given(TEXTS, TEXTS)
@settings(max_examples=100, deadline=None)
def test_html_shows_the_very_text_and_nothing_else_is_in_it(title: str, text: str) -> None:
    sections = [
        Section(title, (text, Code(text), Bullets((text,)), Table((text,), ((text,), (Code(text),))), Quoted(text))),
        Section("pictures", (Picture(text, text),), 3),
    ]
    root = ET.fromstring(html(title, sections).removeprefix("<!DOCTYPE html>"))
    body = root.find("body")
    assert body is not None
    seen = ["".join(e.itertext()) for tag in ("p", "li", "th", "td", "pre", "h2") for e in body.iter(tag)]
    assert sorted(s for s in seen if s) == sorted(s for s in [shown(title), *[shown(text)] * 7] if s)
    assert {e.tag for e in body.iter()} <= {
        "body", "h2", "h3", "p", "code", "ul", "li", "table", "tr", "th", "td", "pre", "img",
    }  # fmt: skip
    (image,) = body.iter("img")
    assert image.attrib["alt"] == " ".join(shown(text).split("\n")) and set(image.attrib) == {"src", "alt", "loading"}
    assert ":" not in image.attrib["src"]  # no script, no other site


def test_a_quoted_text_cannot_end_its_block() -> None:
    text = "before\n```\n<script>alert(1)</script>\n````\nafter"
    (fence,) = (token for token in MARKDOWN.parse(markdown([Section("a", (Quoted(text),))])) if token.type == "fence")
    assert fence.content == text + "\n"


def test_what_is_told_of_data() -> None:
    found = {
        "pictures": 1200, "captions": {"captions": 3, "without": 2, "languages": {}}, "people": {"pictures": 4},
        "licences": {"given": [{"name": "CC0", "pictures": 7}], "not_given": 5}, "skipped": {"count": 6},
    }  # fmt: skip
    assert dict(data_rows(found)) == {
        "pictures": "1,200", "captions": "3, 2 pictures without", "languages": "none", "licences": "CC0 (7), not given (5)",
        "captions with words for people": "4 pictures (an estimate)", "skipped": "6",
    }  # fmt: skip
