"""`lienzo inspect`, `convert`, `models` and `samplers`."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lienzo.cli.params import json_option, model_options
from lienzo.cli.text import print_json, size, table
from lienzo.errors import InputError
from lienzo.provenance.files import is_picture

if TYPE_CHECKING:
    from lienzo.pipeline.request import InputImage
    from lienzo.weights.adapters import AdapterReport


@click.command(short_help="Tell what a model is, or how a picture was made.")
@click.argument("model", required=False, metavar="[MODEL|PICTURE]")
@json_option
@click.option(
    "--config", metavar="FOLDER", help="Of a single file: a diffusers folder with its configurations, or its .yaml."
)
@click.option("--offline", is_flag=True, default=None, help="Never use the network; LIENZO_OFFLINE=1 does the same.")
@click.option("--variant", metavar="NAME", help="Of a folder or hub id, for example fp16.")
@click.option("--revision", metavar="NAME", help="Branch, tag or commit of a hub id.")
def inspect(model: str | None, as_json: bool, **options: Any) -> None:
    """Tell what MODEL is: family, prediction type, parameters, digest, and what is odd about it. Or tell how PICTURE,
    a PNG, JPEG or WebP of lienzo's, was made.

    MODEL is a diffusers folder, a .safetensors or .ckpt file, or a hub id; without it, the embedded model. Of a LoRA or a
    textual-inversion embedding it tells rank, layers, what it was made for, and the words that call it.
    """
    if model is not None and is_picture(model):
        for name, value in options.items():
            if value is not None:
                raise InputError(
                    f"--{name}: got {value!r}; {model} is a picture, and --{name} is for models. Leave it out."
                )
        _inspect_picture(model, as_json)
        return
    from lienzo import weights
    from lienzo.weights.adapters import inspect_adapter

    if model is not None and Path(model).exists() and (found := inspect_adapter(model)) is not None:
        if as_json:
            print_json(asdict(found))
        else:
            _show_adapter(found)
        return
    report = weights.inspect(model, **options)
    if as_json:
        print_json(asdict(report))
        return
    total = sum(report.parameters.values())
    rows = [
        ("name", report.name),
        ("layout", report.kind),
        ("family", report.family + (", inpainting" if report.inpainting else "")),
        ("prediction", report.prediction_type),
        ("size", "{}x{} pixels".format(*report.native_size)),
        *((part, f"{count:,} parameters, {report.dtypes[part]}") for part, count in report.parameters.items()),
        ("in all", f"{total:,} parameters"),
        ("digest", report.digest),
        *(("odd", line) for line in report.odd),
        *(("note", line) for line in report.notes),
    ]
    table(rows)


def _inspect_picture(path: str, as_json: bool) -> None:
    from lienzo.provenance.metadata import read

    record = read(path)
    document = json.loads(record.canonical)
    if as_json:
        print_json(document)
        return
    request = {
        name: document["request"][name] for name in type(record.request).model_fields if name in document["request"]
    }
    for name in request.keys() & {"init", "mask"}:
        request[name] = _pixels(getattr(record.request, name))
    threads = "" if record.threads is None else f", threads {record.threads}"
    rows = [
        ("picture", _pixels(record.picture)),
        *((name, str(value)) for name, value in request.items()),
        ("request", f"digest {record.request_digest}"),
        *(
            []
            if record.given is None
            else [("beside it", f"{', '.join(record.given)} given: not repeatable from its request alone")]
        ),
        ("model", f"{record.weights.name}, digest {record.weights.digest}"),
        (
            "made with",
            f"lienzo {record.software.lienzo}, torch {record.software.torch}, {record.device}, {record.dtype}{threads}",
        ),
    ]
    table(rows)


def _show_adapter(report: "AdapterReport") -> None:
    def listed(values: Iterable[float]) -> str:
        return ", ".join(f"{value:g}" for value in values)

    is_lora = report.kind == "LoRA"
    rows = [
        ("name", report.name),
        ("kind", report.kind),
        ("names", report.style),
        *(((part, f"{count} layers") if is_lora else (part, str(count))) for part, count in report.layers.items()),
        *([("rank", f"{listed(report.ranks)}, alpha {listed(report.alphas)}")] if is_lora else []),
        *([("convs", str(report.convolutions))] if report.convolutions else []),
        ("in all", f"{report.parameters:,} parameters, {report.dtypes}"),
        *(("made for", text) for text in report.base),
        *([("words", ", ".join(report.triggers))] if report.triggers else []),
        *report.about.items(),
        ("digest", report.digest),
    ]
    table(rows)


def _pixels(picture: "InputImage") -> str:
    return f"{picture.width}x{picture.height} pixels, digest {picture.sha256}"


@click.command(short_help="Write a model in another layout or dtype.")
@click.argument("model")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--to", type=click.Choice(["folder", "file"]), help="The layout. [default: file where OUT ends in .safetensors]"
)
@click.option("--dtype", metavar="TYPE", help="fp32, fp16 or bf16. [default: every weight keeps its bits]")
@click.option("--force", is_flag=True, help="Overwrite OUT.")
@model_options
def convert(model: str, out: Path, to: str | None, dtype: str | None, force: bool, **options: Any) -> None:
    """Write MODEL to OUT in another layout or dtype: a diffusers folder, or one file in the original layout.

    A single file holds no vocabulary: its tokenizer is written into a folder beside it.
    """
    is_file = out.suffix == ".safetensors"
    if to is not None and (to == "file") != is_file:
        ending = "end" if to == "file" else "not end"
        raise InputError(
            f"OUT: got {str(out)!r}; with --to {to} it must {ending} in .safetensors. Choose another name."
        )
    from lienzo import weights

    click.echo(weights.convert(model, out, dtype=dtype, overwrite=force, **options))


@click.command(short_help="List the models at hand.")
@click.argument("folders", nargs=-1, metavar="[FOLDER]...", type=click.Path(exists=True, file_okay=False))
@json_option
def models(folders: tuple[str, ...], as_json: bool) -> None:
    """List the models at hand: the embedded one, those in the hub's cache, and those in each FOLDER."""
    from lienzo.weights import find_models

    found = find_models(folders)
    if as_json:
        print_json([{"name": m.name, "source": m.source, "path": str(m.path), "bytes": m.size} for m in found])
    elif found:
        table([(m.name, m.source, size(m.size), str(m.path)) for m in found])
    else:
        click.echo(
            "No models at hand. Name a folder to look into, or fetch one: lienzo generate --model organisation/name ...",
            err=True,
        )


@click.command(short_help="List the samplers and grids.")
@json_option
def samplers(as_json: bool) -> None:
    """List the samplers (--sampler) and the grids of noise levels (--grid)."""
    from lienzo.diffusion.grids import GRIDS
    from lienzo.diffusion.samplers import SAMPLERS

    if as_json:
        about = {name: {"about": s.about, "stochastic": s.stochastic} for name, s in SAMPLERS.items()}
        print_json({"samplers": about, "grids": dict(GRIDS)})
        return
    click.echo("Samplers:")
    table([(f"  {name}", s.about) for name, s in SAMPLERS.items()])
    click.echo("\nGrids:")
    table([(f"  {name}", about) for name, about in GRIDS.items()])
