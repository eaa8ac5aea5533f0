"""`lienzo report`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lienzo.cli import signals
from lienzo.cli.evaluate import device_of, paint
from lienzo.cli.folders import filled
from lienzo.cli.generate import as_options
from lienzo.cli.params import Size, computing_options, json_option
from lienzo.cli.progress import Progress, progress
from lienzo.cli.text import note, plain, print_json, table
from lienzo.errors import InputError, RequestError

if TYPE_CHECKING:
    from lienzo.evaluation.bias import Findings
    from lienzo.evaluation.transparency import Data

READS = ("revision", "variant", "offline", "config")
SETTINGS = ("steps", "guidance_scale", "sampler")
FOLDER = "audit"
"""Of the pictures of an audit, within the report's."""

EPILOG = """
What lies in the model's own folder is read without being named: README.md, training.json, recipe.toml, data-report.json and
use.toml. What nobody tells is "not given" in the report, with the command or file that supplies it.

\b
--audit makes pictures of prompts that differ in one thing only and has the --clip look at them:
  scenes   coloured shapes: language, order of words, side, colour; for the embedded model
  people   occupations, standing, named persons, language; for models that paint people
  FILE     your own sets of prompts, in TOML (docs/howto/report.md)

OUT gets model-card.md, transparency.md, index.html, report.json, and the pictures of an audit. Pictures that are there already
are not made again.

Exit codes: see `lienzo --help`.
"""
File = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("report", epilog=EPILOG, short_help="Write a model's card and transparency report.")
@click.argument("model", required=False)
@click.option("--out", type=click.Path(path_type=Path), metavar="FOLDER", help="[default: report-MODEL]")
@click.option("--use", type=File, metavar="FILE", help="Intended and forbidden use, licence, provider, limits: TOML.")
@click.option(
    "--data", type=click.Path(exists=True, path_type=Path), metavar="FILE|DATA",
    help="What it was trained on: the JSON of `lienzo data report`, or the data itself.",
)  # fmt: skip
@click.option(
    "--eval", "evaluated", type=click.Path(exists=True, path_type=Path), metavar="FOLDER", help="What `lienzo eval` wrote."
)  # fmt: skip
@click.option("--watermark", type=File, metavar="FILE", help="Error rates of the watermark: JSON.")
@click.option("--filter", type=File, metavar="FILE", help="Error rates of the filter: JSON.")
@click.option("--audit", metavar="NAME|FILE", help="Audit for bias: scenes, people or a TOML file; needs --clip.")
@click.option("--clip", metavar="FOLDER", help="A CLIP as transformers writes it, or a hub id.")
@click.option(
    "--count", type=click.IntRange(1, 10_000), default=8, metavar="N", help="Pictures of each prompt of the audit. [default: 8]"
)  # fmt: skip
@click.option("--seed", type=int, default=0, metavar="N", help="The audit's first seed. [default: 0]")
@click.option("--steps", type=int, metavar="N", help="Denoising steps. [default: 20]")
@click.option("--guidance", "guidance_scale", type=float, metavar="SCALE", help="[default: 7.5]")
@click.option("--sampler", metavar="NAME", help="See `lienzo samplers`. [default: the model's own]")
@click.option("--size", type=Size(), metavar="WxH", help="In pixels, multiples of 8. [default: the model's own]")
@click.option(
    "--resamples", type=click.IntRange(20, 1_000_000), default=1000, metavar="N", help="For intervals. [default: 1000]"
)  # fmt: skip
@json_option
@computing_options
@click.option(
    "--config", metavar="FOLDER", help="Of a single file: a diffusers folder with its configurations, or its .yaml."
)
@click.option("--tokenizer", metavar="FOLDER", help="A folder or hub id, instead of the model's own; for an audit.")
@click.option("--offline", is_flag=True, default=None, help="Never use the network; LIENZO_OFFLINE=1 does the same.")
@click.option("--variant", metavar="NAME", help="Of a folder or hub id, for example fp16.")
@click.option("--revision", metavar="NAME", help="Branch, tag or commit of a hub id.")
def transparency(model: str | None, **given: Any) -> None:
    """Write what is known of MODEL into a folder: a model card, and a transparency report with points of the EU AI Act and of
    NIST AI 600-1. MODEL is a diffusers folder, a file or a hub id; without it, the embedded model.

    The points are mapped to, not certified: have the law read by counsel before you claim to conform to it.
    """
    from dataclasses import replace

    from lienzo.evaluation.transparency import gather, write

    if (given["audit"] is None) != (given["clip"] is None):
        raise InputError(
            "--audit and --clip belong together: the CLIP looks at the audit's pictures. Name both, or neither."
        )
    out = given["out"] or Path(f"report-{Path(model or 'boceto').name}")
    with filled(out), progress() as bar:
        found = gather(
            model,
            data=_data(given["data"], bar),
            **{name: given[name] for name in ("evaluated", "watermark", "filter", "use", *READS)},
        )
        if given["audit"] is not None:
            findings, sheets = _audit(model, given, out, bar)
            found = replace(found, audit=findings, sheets=sheets)
        page = write(found, out)
    if given["as_json"]:
        print_json({"report": str(page), **found.to_dict()})
        return
    table([(name, "given" if there else "not given") for name, there in found.given.items()])
    for what, how in found.missing:
        note(f"not given: {what}. Supplied by: {how}")
    if found.audit is not None:
        verdicts = [c.verdict for c in found.audit.comparisons]
        for verdict in dict.fromkeys(verdicts):
            click.echo(f"audit: {verdicts.count(verdict)} of {len(verdicts)} comparisons: {verdict}")
    click.echo(plain(f"\n{page}"))


def _data(source: Path | None, bar: Progress) -> "Path | Data | None":
    """A data report's file, or the report of the data that is named."""
    if source is None or source.suffix.lower() == ".json":
        return source
    from lienzo.evaluation.transparency import Data
    from lienzo.training import data as training_data

    config = training_data.DataConfig(sources=(source,))  # type: ignore[arg-type]
    dataset = training_data.load_data(config, lambda done, of: bar.advance("reading pictures", done, of))
    return Data.model_validate(training_data.report(dataset))


def _audit(model: str | None, given: Mapping[str, Any], out: Path, bar: Progress) -> "tuple[Findings, tuple[str, ...]]":
    """Make the audit's pictures, have them looked at, and lay out a sheet of each set."""
    from lienzo.evaluation.bias import look, read_audit, rows, shots
    from lienzo.evaluation.report import place
    from lienzo.images import open_image, sheet
    from lienzo.pipeline.request import Request
    from lienzo.studio import house
    from lienzo.weights import load
    from lienzo.weights.clip import load_clip

    audit, digest = read_audit(given["audit"])
    settings = {name: given[name] for name in SETTINGS if given[name] is not None}
    if given["size"] is not None:
        settings["width"], settings["height"] = given["size"]
    try:
        requests = [Request(s.prompt, seed=s.seed, **settings) for s in shots(audit, given["count"], given["seed"])]
    except RequestError as error:
        raise RequestError(as_options(str(error))) from None
    device = device_of(given["device"])
    clip = load_clip(given["clip"], device=device, offline=given["offline"])
    options = {name: given[name] for name in (*READS, "tokenizer")}
    bundle = load(model, dtype=given["dtype"], device=device, **options)
    told: dict[str, None] = {}
    home = out / FOLDER
    pictures = paint(bundle, bundle.name, requests, home / "pictures", given["batch"], bar, told, total=len(requests))

    def looked(done: int) -> None:
        signals.check()
        bar.advance("looking at pictures", done, len(pictures))

    found = look(
        audit, digest, given["count"], pictures, clip, settings=settings, notes=tuple(told), resamples=given["resamples"],
        advance=looked,
    )  # fmt: skip
    sheets = []
    for number, lines in enumerate(rows(audit, given["count"]), 1):
        page = sheet([open_image(pictures[i]) for line in lines for i in line], len(lines[0]))
        sheets.append(f"{FOLDER}/sheet-{number}.png")
        place(out / sheets[-1], house().notary.sign_sheet(page, "Sheet of an audit for bias"))
    return found, tuple(sheets)
