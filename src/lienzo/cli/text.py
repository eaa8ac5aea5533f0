"""What is printed: results on stdout, everything else on stderr."""

import json
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click


def plain(text: str) -> str:
    """Text from outside, without the control characters that steer a terminal."""
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape", "backslashreplace").decode() for c in text
    )


def warn(message: str) -> None:
    click.echo(plain(f"Warning: {message}"), err=True)


def note(message: str) -> None:
    click.echo(plain(message), err=True)


def fail(message: str, code: int, *, prefix: str = "Error: ") -> NoReturn:
    click.echo(plain(prefix + message), err=True)
    sys.exit(code)


def usage(error: click.UsageError) -> click.UsageError:
    """The same mistake in the shape of lienzo's own messages, without the lines on usage that click puts before some."""
    if type(error).show is not click.UsageError.show:  # `lienzo` alone: its help
        return error
    if isinstance(error, click.BadParameter) and isinstance(error.param, click.Option) and error.message:
        return click.UsageError(f"{error.param.opts[-1]}: {error.message}")
    see = f" See `{error.ctx.command_path} --help`." if error.ctx else ""
    return click.UsageError(f"{error.format_message().rstrip('.')}.{see}")


def print_json(document: Any) -> None:
    """One JSON document on stdout, nothing else beside it."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def table(rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as they need to be; the last one is left as it is."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)] if rows else []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        click.echo(plain("  ".join([*cells, row[-1]]).rstrip()))


def size(count: int) -> str:
    """Bytes as people read them."""
    value, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
