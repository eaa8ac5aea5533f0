"""`lienzo eval`."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lienzo.cli import signals
from lienzo.cli.generate import MODEL_OPTIONS, as_options
from lienzo.cli.params import Size, computing_options, json_option, model_options
from lienzo.cli.progress import Progress, progress
from lienzo.cli.text import plain, print_json, table, warn
from lienzo.errors import InputError, OutputError, RequestError, nearest

if TYPE_CHECKING:
    from lienzo.evaluation.features import Features
    from lienzo.evaluation.prompts import Prompt
    from lienzo.evaluation.scores import Evaluation, Side
    from lienzo.models.bundle import Bundle
    from lienzo.pipeline.request import Request
    from lienzo.weights.clip import LoadedCLIP

SETTINGS = ("negative_prompt", "steps", "guidance_scale", "sampler", "grid")
"""Fields of `Request` that options set for all pictures."""
SHORT = {"negative": "negative_prompt", "guidance": "guidance_scale"}
"""What options call fields otherwise."""
SETTABLE = (
    "clip_skip", "eta", "grid", "guidance", "guidance_rescale", "height", "negative", "order", "sampler", "steps", "width",
)  # fmt: skip

EPILOG = """
\b
Prompts: a .txt file with one a line (lines that begin with # are left out), or a .csv or .jsonl file with a column or
key "prompt"; a column "group" gathers prompts in the report.

\b
What is computed, and what for:
  always              diversity over the seeds
  --clip              CLIP score: how well pictures fit their prompts
  --real              FID, KID, precision, recall; features come from --features, else from --clip
  --against, --set    the same prompts and seeds made twice: PSNR, SSIM, differences of the scores
Every score has an interval over resamples of the prompts, and is given on folds of them.

OUT gets index.html, report.json, plots and the pictures. Pictures that are there already are not made again: stopped at any
point, the same command goes on.

Exit codes: see `lienzo --help`.
"""


@click.command("eval", epilog=EPILOG, short_help="Score a model, or compare two.")
@click.argument("model", required=False)
@click.option(
    "--prompts", "prompt_file", required=True, type=click.Path(exists=True, dir_okay=False), metavar="FILE",
    help="What to paint: .txt, .csv or .jsonl; see below.",
)  # fmt: skip
@click.option(
    "--real", type=click.Path(exists=True, file_okay=False), metavar="FOLDER",
    help="Real pictures to compare with, folders below included.",
)  # fmt: skip
@click.option("--clip", metavar="FOLDER", help="A CLIP as transformers writes it, or a hub id.")
@click.option(
    "--features", metavar="FILE|FOLDER",
    help="What FID and the others look through: FID's Inception (a state dict) or a CLIP. [default: the --clip]",
)  # fmt: skip
@click.option("--against", metavar="MODEL", help="Compare with another model, whose pictures are made the same way.")
@click.option(
    "--set", "changes", multiple=True, metavar="NAME=VALUE",
    help="Compare with another setting: steps=10, guidance=3 ...; may be given several times.",
)  # fmt: skip
@click.option(
    "--seeds", type=click.IntRange(1, 100_000), default=4, metavar="N", help="Pictures of each prompt. [default: 4]"
)
@click.option("--seed", type=int, default=0, metavar="N", help="The first seed. [default: 0]")
@click.option("--negative", "negative_prompt", metavar="TEXT", help="What to steer away from.")
@click.option("--steps", type=int, metavar="N", help="Denoising steps. [default: 20]")
@click.option("--guidance", "guidance_scale", type=float, metavar="SCALE", help="[default: 7.5]")
@click.option("--sampler", metavar="NAME", help="See `lienzo samplers`. [default: the model's own]")
@click.option("--grid", metavar="NAME", help="See `lienzo samplers`. [default: the sampler's own]")
@click.option("--size", type=Size(), metavar="WxH", help="In pixels, multiples of 8. [default: the model's own]")
@click.option(
    "--folds",
    type=click.IntRange(2, 1000),
    default=5,
    metavar="K",
    help="Parts of the prompts, each scored. [default: 5]",
)
@click.option(
    "--resamples", type=click.IntRange(20, 1_000_000), default=1000, metavar="N",
    help="For the intervals; a tenth of them for FID and the others. [default: 1000]",
)  # fmt: skip
@click.option("--out", metavar="FOLDER", help="[default: eval-MODEL]")
@json_option
@computing_options
@model_options
def evaluate(model: str | None, **given: Any) -> None:
    """Score MODEL on prompts: a diffusers folder, a file or a hub id; without it, the embedded model."""
    from lienzo.evaluation.metrics import check_torchmetrics
    from lienzo.evaluation.prompts import read_prompts
    from lienzo.evaluation.report import check_plots, summary, write
    from lienzo.evaluation.scores import evaluate as score
    from lienzo.evaluation.scores import find_pictures

    check_plots()
    if given["real"] or given["against"] or given["changes"]:
        check_torchmetrics()
    prompts = read_prompts(given["prompt_file"])
    real = find_pictures(given["real"]) if given["real"] else ()
    seeds = range(given["seed"], given["seed"] + given["seeds"])
    base, other = _settings(given)
    out = Path(given["out"] or f"eval-{Path(model or 'boceto').name}")
    _check_folder(out, given["real"])
    with progress() as bar:
        device = device_of(given["device"])
        clip, features = _judges(given, device)
        bundle = _load(model, given, device, given)
        plans = [(bundle, base)]
        if given["against"] or other:
            second = bundle
            if given["against"]:  # the options that say how a model is read are the first one's
                second = _load(given["against"], given, device, {"offline": given["offline"]})
            plans.append((second, {**base, **other}))
        sides, told = _sides(plans, prompts, seeds, out / "pictures", given["batch"], bar)

        def advance(what: str, done: int, of: int) -> None:
            signals.check()
            bar.advance(what, done, of)

        found = score(
            sides, prompts, seeds, real=real, clip=clip, features=features, resamples=given["resamples"], k=given["folds"],
            advance=advance,
        )  # fmt: skip
        found = replace(found, notes=(*found.notes, *told))
        page = write(found, out)
    if given["as_json"]:
        print_json({"report": str(page), **found.to_dict(out)})
        return
    _print(found, summary(found), told)
    click.echo(plain(f"\n{page}"))


def _print(found: "Evaluation", rows: Sequence[tuple[str, ...]], told: Sequence[str]) -> None:
    head = ["", *(scores.side.name for scores in found.scores)]
    head += ["second less first, or between them"] if found.comparison else []
    table([head, *rows])
    for name, why in found.left_out.items():
        click.echo(plain(f"not computed: {name}: {why}"))
    for line in found.notes:
        if line not in told:  # it was said while pictures were made
            warn(line)


def _sides(
    plans: "Sequence[tuple[Bundle, Mapping[str, Any]]]",
    prompts: "Sequence[Prompt]",
    seeds: Sequence[int],
    folder: Path,
    batch: int,
    bar: Progress,
) -> "tuple[list[Side], list[str]]":
    """The pictures of every side, made where they are not there; and what is to be known of the prompts, each once."""
    from lienzo.evaluation.scores import Side
    from lienzo.pipeline.request import Request

    try:
        requests = [[Request(p.text, seed=s, **settings) for p in prompts for s in seeds] for _, settings in plans]
    except RequestError as error:
        raise RequestError(as_options(str(error))) from None
    sides: list[Side] = []
    told: dict[str, None] = {}
    names = _names(plans)
    total = sum(map(len, requests))
    for (bundle, settings), wanted, name in zip(plans, requests, names, strict=True):
        done = sum(len(side.pictures) for side in sides)
        paths = paint(bundle, name, wanted, folder, batch, bar, told, done=done, total=total)
        about = {"model": bundle.name, "digest": bundle.digest, "settings": dict(settings)}
        sides.append(Side(name=name, about=about, pictures=paths))
    return sides, list(told)


def paint(
    bundle: "Bundle",
    name: str,
    requests: "Sequence[Request]",
    folder: Path,
    batch: int,
    bar: Progress,
    told: dict[str, None],
    *,
    done: int = 0,
    total: int,
) -> tuple[Path, ...]:
    """The pictures, made where they are not there.

    Args:
        told: gets what is to be known of the prompts, each once.
        done, total: how many of all pictures there are already.
    """
    from lienzo.gallery import fill

    paths: dict[int, Path] = {}
    try:
        for kept in fill(bundle, requests, folder, batch=batch, on_step=lambda _: signals.check()):
            paths[kept.index] = kept.path
            done += 1
            bar.advance(f"picture {done}/{total}", done, total)
            for message in (f"{name}, {kept.request.prompt[:60]!r}: {warning}." for warning in kept.warnings):
                if message not in told:
                    bar.say(plain(f"Warning: {message}"), True)
                told[message] = None
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"Stopped. {done} of {total} pictures are in {folder}; the same command goes on from there."
        ) from None
    except RequestError as error:
        raise RequestError(as_options(str(error))) from None
    return tuple(paths[i] for i in range(len(requests)))


def _names(plans: "Sequence[tuple[Bundle, Mapping[str, Any]]]") -> list[str]:
    """A model's name; where two sides share it, what is set differently too."""
    names = [bundle.name for bundle, _ in plans]
    if len(names) == 1 or names[0] != names[1]:
        return names
    (_, first), (_, second) = plans
    differ = [key for key in {**first, **second} if first.get(key) != second.get(key)]
    told = [", ".join(f"{key}={one.get(key, 'default')}" for key in differ) for one in (first, second)]
    return [f"{name} ({what or place})" for name, what, place in zip(names, told, ("first", "second"), strict=True)]


def _settings(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of all pictures, and what the second side has otherwise."""
    base = {name: given[name] for name in SETTINGS if given[name] is not None}
    if given["size"] is not None:
        base["width"], base["height"] = given["size"]
    other: dict[str, Any] = {}
    for change in given["changes"]:
        name, equals, value = change.partition("=")
        if not equals or name not in SETTABLE:
            raise InputError(f"--set: got {change!r}; expected NAME=VALUE. {nearest(name, SETTABLE)}")
        field = SHORT.get(name, name)
        other[field] = _number(value) if field not in ("negative_prompt", "sampler", "grid") else value
    return base, other


def _number(text: str) -> int | float | str:
    """A number where it is one; what is none is refused by the request, which says what is allowed."""
    if re.fullmatch(r"[+-]?\d+", text, re.ASCII):
        return int(text)
    try:
        return float(text)
    except ValueError:
        return text


def _judges(given: Mapping[str, Any], device: str) -> "tuple[LoadedCLIP | None, Features | None]":
    """Loaded before the pictures are made, so that a mistake in their names costs nothing."""
    from lienzo.evaluation.features import load_features
    from lienzo.weights.clip import load_clip

    clip = load_clip(given["clip"], device=device, offline=given["offline"]) if given["clip"] else None
    features = load_features(given["features"], device=device, offline=given["offline"]) if given["features"] else None
    return clip, features


def _load(model: str | None, given: Mapping[str, Any], device: str, options: Mapping[str, Any]) -> "Bundle":
    from lienzo.weights import load

    signals.check()
    return load(model, dtype=given["dtype"], device=device, **{n: options[n] for n in MODEL_OPTIONS if n in options})


def device_of(device: str | None) -> str:
    import torch

    return device or ("cuda" if torch.cuda.is_available() else "cpu")


def _check_folder(out: Path, real: str | None) -> None:
    if real is not None and Path(real).resolve() in (out.resolve(), *out.resolve().parents):
        raise InputError(
            f"--out: {out} lies in the folder of real pictures, {real}: what is made would count as real the next time. Choose "
            "another folder."
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out} cannot be made: {error.strerror or error}. Choose another folder.") from None
