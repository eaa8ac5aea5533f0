"""Files of prompts: one a line (.txt), or a column or key `prompt` (.csv, .jsonl), with a column `group` if one likes."""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lienzo.errors import InputError

KINDS = (".txt", ".csv", ".jsonl")
NAMES = ("prompt", "caption", "text")
"""Columns or keys that hold the prompt, in this order."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What to paint; `group` gathers prompts of one kind in the report."""

    text: str
    group: str = ""


def read_prompts(path: str | Path) -> tuple[Prompt, ...]:
    """The prompts of a file, in its order. Empty lines and, in .txt, lines that begin with # are left out.

    Raises:
        InputError: another kind of file, unreadable, without prompts, or with one twice.
    """
    path = Path(path)
    if path.suffix.lower() not in KINDS:
        raise InputError(f"{path}: got the extension {path.suffix!r}. Allowed: {', '.join(KINDS)}.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    reader = {".txt": _lines, ".csv": _table, ".jsonl": _objects}[path.suffix.lower()]
    prompts = tuple(reader(text, path))
    if not prompts:
        raise InputError(f"{path} holds no prompt.")
    seen: set[str] = set()
    for prompt in prompts:
        if prompt.text in seen:
            raise InputError(f"{path}: {prompt.text!r} is there twice; it would count twice in every score.")
        seen.add(prompt.text)
    return prompts


def _lines(text: str, path: Path) -> Iterator[Prompt]:
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            yield Prompt(text=line.strip())


def _table(text: str, path: Path) -> Iterator[Prompt]:
    try:
        rows = csv.DictReader(io.StringIO(text), strict=True)
        name = _name(rows.fieldnames or (), f"{path}: the first line")
        for number, row in enumerate(rows, 2):
            yield _prompt(row, name, f"{path}, line {number}")
    except csv.Error as error:
        raise InputError(f"{path} is no table with commas: {error}.") from None


def _objects(text: str, path: Path) -> Iterator[Prompt]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where} is no JSON: {error}.") from None
        if not isinstance(row, dict):
            raise InputError(f"{where}: expected a JSON object, got {type(row).__name__}.")
        yield _prompt(row, _name(row, where), where)


def _name(names: Any, where: str) -> str:
    for name in NAMES:
        if name in names:
            return name
    raise InputError(f"{where} has {', '.join(map(repr, names)) or 'nothing'}; expected one of {', '.join(NAMES)}.")


def _prompt(row: dict[str, Any], name: str, where: str) -> Prompt:
    text, group = row[name], row.get("group") or ""
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"{where}: {name} is {text!r}; expected words.")
    return Prompt(text=text.strip(), group=str(group))
