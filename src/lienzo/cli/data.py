"""`lienzo data report`."""

from pathlib import Path

import click

from lienzo.cli.params import json_option
from lienzo.cli.progress import progress
from lienzo.cli.text import note, plain, print_json
from lienzo.errors import OutputError

MOST_ROWS = 20


@click.group(short_help="Look at training data.")
def data() -> None:
    """Look at training data."""


@data.command(short_help="Tell what training data is.")
@click.argument("sources", nargs=-1, required=True, metavar="DATA...", type=click.Path(path_type=Path))
@click.option("--resolution", metavar="N", type=int, default=512, show_default=True, help="What buckets are made for.")
@click.option(
    "--cache", metavar="FOLDER", type=click.Path(path_type=Path, file_okay=False),
    help="Keep there what was learned, so that the next time only new pictures are read; a recipe's `data.cache`.",
)  # fmt: skip
@click.option("--html", "page", metavar="FILE", type=click.Path(path_type=Path), help="Write it as a page too.")
@click.option("--force", is_flag=True, help="Overwrite that page.")
@json_option
def report(
    sources: tuple[Path, ...], resolution: int, cache: Path | None, page: Path | None, force: bool, as_json: bool
) -> None:
    """Tell what the pictures in DATA are: counts, sizes, captions, licences and sources where they are given, duplicates,
    frequent words, people, and what would be skipped and why.

    DATA is a folder of pictures with .txt captions, a metadata table (JSON Lines, CSV, Parquet), WebDataset tars, or what
    img2dataset wrote. Nothing is changed.
    """
    from pydantic import ValidationError

    from lienzo.errors import ConfigError
    from lienzo.training import data as training_data
    from lienzo.training.data.dataset import write_whole
    from lienzo.training.data.report import tables

    if page is not None and page.exists() and not force:
        raise OutputError(f"{page} exists already. Choose another name, or allow overwriting (--force).")
    try:
        config = training_data.DataConfig(sources=sources, resolution=resolution, cache=cache)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"--resolution: got {resolution}. {first['msg']}.") from None
    with progress() as bar:
        dataset = training_data.load_data(config, lambda done, of: bar.advance("reading pictures", done, of))
    found = training_data.report(dataset)
    if page is not None:
        write_whole(page, training_data.html(found).encode("utf-8", "backslashreplace"))
    if as_json:
        print_json(found)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 120  # a digest is one word
    for title, heads, rows in tables(found, MOST_ROWS):
        console.print(Text(title, style="bold"))
        table = Table(show_header=any(heads), box=None, pad_edge=False)
        for head in heads:
            table.add_column(head, overflow="fold")
        for row in rows:
            table.add_row(*(Text(plain(cell)) for cell in row))
        console.print(table)
        console.print()
    for sentence in found["notes"]:
        note(f"Note: {sentence}")
