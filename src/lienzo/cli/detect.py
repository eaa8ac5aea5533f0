"""`lienzo detect`."""

import sys
from collections.abc import Mapping
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lienzo.cli import signals
from lienzo.cli.generate import MODEL_OPTIONS
from lienzo.cli.params import json_option, model_options
from lienzo.cli.progress import Progress, progress
from lienzo.cli.text import note, plain, print_json
from lienzo.errors import ConfigError, InputError, OutputError
from lienzo.reading import read_whole

if TYPE_CHECKING:
    from lienzo.models.bundle import Bundle
    from lienzo.provenance.detect import Calibration, Finding

SAMPLERS = ("ddim", "dpmpp_2m")
GUIDANCE = (2.0, 3.0, 5.0, 7.5)
"""Of the pictures that calibrate a model, in turn with the samplers: what people use."""

EPILOG = """
\b
Verdicts: "ours", "not ours" and, where an error would be likelier than one in a hundred, "inconclusive". They are hints from
how the model's VAE sees the picture, measured on the kinds of pictures that its calibration names; they prove nothing. A picture
with a watermark is "inconclusive", as marks can be copied: which record it leads to is told, and `lienzo verify` tells more.

\b
A model needs a calibration; the embedded one has one. Without it every verdict is "inconclusive". To make it:
  lienzo detect --calibrate mine.json --model MODEL --real FOLDER --prompts FILE
and then:
  lienzo detect PICTURE --model MODEL --calibration mine.json

Exit codes: 0, all are "ours", or the calibration was written; 1, some are not, or it is inconclusive; 2, it cannot be done.
"""


@click.command(epilog=EPILOG, short_help="Tell whether a picture came from a model, by its pixels.")
@click.argument("pictures", nargs=-1, metavar="PICTURE...", type=click.Path(path_type=Path))
@click.option(
    "--model", metavar="MODEL",
    help="A diffusers folder, a .safetensors or .ckpt file, or a hub id. [default: boceto, embedded]",
)  # fmt: skip
@click.option(
    "--calibration", metavar="FILE", type=click.Path(path_type=Path), help="What --calibrate wrote for this model."
)
@click.option(
    "--calibrate", metavar="OUT", type=click.Path(path_type=Path),
    help="Learn to tell pictures of MODEL from --real ones, and write that; pictures are made in OUT.pictures.",
)  # fmt: skip
@click.option("--real", metavar="FOLDER", help="Pictures that no model made, folders below included; for --calibrate.")
@click.option("--prompts", metavar="FILE", help="What to paint, one a line, or .csv or .jsonl; for --calibrate.")
@click.option(
    "--count", type=click.IntRange(100, 100_000), default=300, metavar="N",
    help="Pictures to make for --calibrate. [default: 300]",
)  # fmt: skip
@click.option("--steps", type=click.IntRange(1, 1000), default=20, metavar="N", help="Of those pictures. [default: 20]")
@click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1, mps. [default: cpu]")
@json_option
@model_options
def detect(pictures: tuple[Path, ...], **given: Any) -> None:
    """Tell of every PICTURE whether it came out of MODEL, or of another model with the same VAE."""
    if bool(pictures) == (given["calibrate"] is not None):
        raise InputError("Name pictures to look at, or --calibrate OUT to calibrate a model; one of both.")
    if given["calibrate"] is not None:
        _calibrate(given["calibrate"], given)
    else:
        _detect(pictures, given)


def _detect(pictures: tuple[Path, ...], given: Mapping[str, Any]) -> None:
    for name in ("real", "prompts"):
        if given[name] is not None:
            raise InputError(f"--{name} is for --calibrate. Leave it out.")
    from lienzo.provenance.detect import MOST_PIXELS, shipped_calibration
    from lienzo.provenance.detect import detect as look
    from lienzo.provenance.examine import MOST_BYTES, see
    from lienzo.provenance.keys import Keystore
    from lienzo.provenance.watermark import find

    keys = Keystore().secrets("watermark")
    calibration = _read(given["calibration"])
    bundle = _load(given)
    if calibration is None:
        calibration = shipped_calibration(bundle)
    found: list[dict[str, Any]] = []
    verdicts = []
    for path in pictures:
        signals.check()
        try:
            image = see(read_whole(path, MOST_BYTES), str(path), most=MOST_PIXELS)
            finding = look(image, bundle, calibration, find_mark=partial(find, keys=keys))
        except ConfigError:  # of the calibration, whatever the picture
            raise
        except InputError as error:
            message = str(error) if str(path) in str(error) else f"{path}: {error}"
            found.append({"picture": str(path), "error": message})
            note(f"Error: {message}")
            continue
        verdicts.append(finding.verdict)
        found.append({"picture": str(path), **_as_json(finding)})
        if not given["as_json"]:
            _show(path, finding)
    if given["as_json"]:
        about = None if calibration is None else {"about": calibration.about, "auc": calibration.auc}
        print_json({"model": bundle.name, "calibration": about, "pictures": found})
    if len(verdicts) < len(pictures):
        sys.exit(2)
    sys.exit(0 if set(verdicts) == {"ours"} else 1)


def _show(path: Path, finding: "Finding") -> None:
    ratio = "" if finding.likelihood_ratio is None else f"  (likelihood ratio {finding.likelihood_ratio:.2g})"
    click.echo(plain(f"{path}: {finding.verdict}{ratio}"))
    click.echo(plain(f"  {finding.means}"))


def _as_json(finding: "Finding") -> dict[str, Any]:
    mark = finding.mark
    return {
        "verdict": finding.verdict,
        "likelihood_ratio": finding.likelihood_ratio,
        "mark": None if mark is None else {"record_id": f"{mark.record_id:012x}", "tag_valid": mark.tag_valid},
        "features": finding.features,
        "means": finding.means,
    }


def _read(path: Path | None) -> "Calibration | None":
    if path is None:
        return None
    from lienzo.provenance.detect import Calibration

    try:
        return Calibration.from_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _calibrate(out: Path, given: Mapping[str, Any]) -> None:
    for name in ("real", "prompts"):
        if given[name] is None:
            raise InputError(f"--calibrate needs --{name} too: {'FOLDER' if name == 'real' else 'FILE'}.")
    if given["calibration"] is not None:
        raise InputError("--calibration is for looking at pictures; --calibrate makes one. Leave one of both out.")
    if out.exists():
        raise OutputError(f"{out} exists already. Choose another name.")
    from PIL import ImageOps

    from lienzo.evaluation.prompts import read_prompts
    from lienzo.evaluation.scores import find_pictures
    from lienzo.images import open_image
    from lienzo.pipeline.generate import native_size
    from lienzo.provenance.detect import calibrate
    from lienzo.provenance.files import place

    prompts, real = read_prompts(given["prompts"]), find_pictures(given["real"])[: given["count"]]
    bundle = _load(given)
    width, height = native_size(bundle)
    with progress() as bar:
        ours = [open_image(path) for path in _made(bundle, [p.text for p in prompts], given, out, bar)]
        others = []
        for path in real:
            image = open_image(path).convert("RGB")
            # what is larger is brought to the model's own size: else its sharpness alone would tell it apart
            others.append(
                ImageOps.fit(image, (width, height)) if image.width > width or image.height > height else image
            )

        def advance(done: int, of: int) -> None:
            signals.check()
            bar.advance(f"measuring {done}/{of}", done, of)

        about = f"{len(ours)} pictures of {bundle.name}'s, {len(others)} of {Path(given['real']).name}"
        found = calibrate(bundle, ours, others, about=about, advance=advance)
    place(found.to_json().encode(), out)
    value, low, high = found.auc
    if given["as_json"]:
        print_json({"calibration": str(out), "ours": found.ours, "others": found.others, "auc": found.auc})
        return
    click.echo(plain(f"{out}  {about}; cross-validated AUC {value:.3f} [{low:.3f}, {high:.3f}]"))


def _made(bundle: "Bundle", prompts: list[str], given: Mapping[str, Any], out: Path, bar: Progress) -> list[Path]:
    """Pictures of the prompts in turn, with samplers and guidance in turn; those that are there already are taken."""
    from lienzo.gallery import fill
    from lienzo.pipeline.request import Request

    ways, count = list(product(SAMPLERS, GUIDANCE)), given["count"]
    requests = []
    for i in range(count):
        sampler, guidance = ways[i % len(ways)]
        text = prompts[i % len(prompts)]
        requests.append(Request(text, seed=i, steps=given["steps"], sampler=sampler, guidance_scale=guidance))
    paths: dict[int, Path] = {}
    for kept in fill(bundle, requests, out.with_name(out.name + ".pictures"), on_step=lambda _: signals.check()):
        paths[kept.index] = kept.path
        bar.advance(f"picture {len(paths)}/{count}", len(paths), count)
    return [paths[i] for i in range(count)]


def _load(given: Mapping[str, Any]) -> "Bundle":
    from lienzo.weights import load

    return load(given["model"], device=given["device"] or "cpu", **{name: given[name] for name in MODEL_OPTIONS})
