"""`lienzo verify`."""

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lienzo.cli import signals
from lienzo.cli.log import read_so_far
from lienzo.cli.params import json_option
from lienzo.cli.progress import progress
from lienzo.cli.text import plain, print_json
from lienzo.errors import InputError
from lienzo.reading import read_whole

if TYPE_CHECKING:
    from lienzo.pipeline.generate import Step
    from lienzo.pipeline.request import Request

MAX_REVEAL = 1_000_000
SIGNS = {"holds": "+", "fails": "!", "absent": "-", "unknown": "?"}

EPILOG = """
\b
Exit codes: 0 proved; 1 not proved; 2 cannot be done as asked (no such picture, a damaged one); 3 something was changed,
forged or moved. A picture that is not proved may still be generated: marks can be removed.
"""


@click.command(epilog=EPILOG, short_help="Tell what a picture's marks prove.")
@click.argument("picture", type=click.Path(path_type=Path))
@click.option(
    "--log", "logs", metavar="LOG", multiple=True,
    help="An export of a log (`lienzo log export`), your own log, or a URL; several may be given. [default: your own, if there is one]",
)  # fmt: skip
@click.option(
    "--reveal", metavar="FILE", type=click.Path(path_type=Path),
    help="The prompt and its salt, as `lienzo prompts show RECORD --json` wrote them: is it this picture's?",
)  # fmt: skip
@click.option("--regenerate", is_flag=True, help="Make the picture again from its request and compare bit for bit.")
@click.option("--model", metavar="MODEL", help="For --regenerate, where the embedded model did not make it.")
@json_option
def verify(
    picture: Path, logs: tuple[str, ...], reveal: Path | None, regenerate: bool, model: str | None, as_json: bool
) -> None:
    """Tell layer by layer what PICTURE's marks prove: its credentials, receipt, watermark, log entry, likeness, prompt.

    + holds, ! fails, - absent, ? cannot be told here. Nothing is fetched from anywhere.
    """
    if model is not None and not regenerate:
        raise InputError("--model is for --regenerate. Leave it out, or give both.")
    from lienzo.provenance.examine import MOST_BYTES
    from lienzo.provenance.judging import judge, maker
    from lienzo.provenance.verify import EXIT

    data = read_whole(picture, MOST_BYTES)
    opened = None if reveal is None else _revealed(reveal)
    with progress() as bar:

        def show(step: "Step") -> None:
            signals.check()
            bar.advance("making it again", step.index, step.of)

        again = maker(data, opened, model, show) if regenerate else None
        reading = partial(read_so_far, bar)
        verdict = judge(data, name=str(picture), logs=logs, opened=opened, regenerate=again, advance=reading)
    if as_json:
        print_json(verdict.document)
    else:
        click.echo(plain(f"{verdict.outcome}: {verdict.says}"))
        width = max(len(layer.name) for layer in verdict.layers)
        for layer in verdict.layers:
            click.echo(plain(f"  {SIGNS[layer.state]} {layer.name:{width}}  {layer.says}"))
    sys.exit(EXIT[verdict.outcome])


def _revealed(path: Path) -> "tuple[Request, bytes]":
    import json

    from lienzo.pipeline.request import Request

    content = read_whole(path, MAX_REVEAL)
    try:
        told = json.loads(content)
        return Request.from_json(json.dumps(told["request"])), bytes.fromhex(told["salt"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path}: not what `lienzo prompts show RECORD --json` writes ({str(error)[:100]}). Expected request and salt."
        ) from None
