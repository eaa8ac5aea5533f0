"""`lienzo doctor`: what works on this machine."""

import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

import click

from lienzo import __version__
from lienzo.cli.params import json_option
from lienzo.cli.text import print_json, size, table
from lienzo.errors import LienzoError

EXTRAS = {
    "hub": ("huggingface_hub", "models of the hub"),
    "eval": ("torchmetrics", "`lienzo eval`"),
    "train": ("pyarrow", "Parquet tables of training data"),
    "yaml": ("yaml", "original .yaml configurations"),
}


class Finding(NamedTuple):
    """One line of the report; "broken" makes the exit code 1."""

    state: Literal["ok", "note", "broken"]
    name: str
    detail: str


@click.command(short_help="Tell what works on this machine.")
@json_option
def doctor(as_json: bool) -> None:
    """Tell what works on this machine, by trying it. Exits with 1 if something essential is broken."""
    findings = [finding for check in CHECKS for finding in _run(check)]
    broken = any(finding.state == "broken" for finding in findings)
    if as_json:
        print_json({"works": not broken, "findings": [finding._asdict() for finding in findings]})
    else:
        table(findings)
    sys.exit(1 if broken else 0)


def _run(check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """A check's findings; that it fails, for whatever reason, is one."""
    findings = []
    try:
        for finding in check():
            findings.append(finding)
    except Exception as error:
        name = (check.__doc__ or "").rstrip(".").lower()
        what = str(error) if isinstance(error, LienzoError) else f"{type(error).__name__}: {error}"
        findings.append(Finding("broken", name, what))
    return findings


def _system() -> Iterator[Finding]:
    """System."""
    yield Finding("ok", "lienzo", __version__)
    yield Finding("ok", "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield Finding("ok", "cpu", f"{os.cpu_count()} cores")
    memory = _memory()
    if memory is not None:
        enough = memory >= 6e9
        advice = "" if enough else ": enough for small models; Stable Diffusion 1.5 at 512x512 takes about 6 GB"
        yield Finding("ok" if enough else "note", "memory", f"{size(memory)} free{advice}")


def _torch() -> Iterator[Finding]:
    """Torch."""
    import torch

    yield Finding("ok", "torch", f"{torch.__version__}, {torch.get_num_threads()} threads")
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(i)
            yield Finding("ok", f"cuda:{i}", f"{properties.name}, {size(properties.total_memory)}")
    else:
        yield Finding("note", "cuda", "none; pictures are made on the CPU")
    if torch.backends.mps.is_available():
        yield Finding("ok", "mps", "available (--device mps)")


def _picture() -> Iterator[Finding]:
    """A picture."""
    from lienzo.pipeline.request import Request
    from lienzo.provenance.metadata import read
    from lienzo.provenance.writing import save
    from lienzo.studio import Pipeline

    pipeline = Pipeline.load(mark="off", private=False)  # nothing of this goes into anybody's log
    yield Finding("ok", "embedded model", f"{pipeline.bundle.name}, digest {pipeline.bundle.digest}")
    first, second = (pipeline(Request("a red circle", seed=1, steps=2)) for _ in range(2))
    same = bool((first.pixels == second.pixels).all())
    yield Finding("ok" if same else "broken", "making a picture", "the same twice" if same else "two runs differ")
    with tempfile.TemporaryDirectory() as folder:
        for ending in ("png", "jpg", "webp"):
            kept = read(save(first, Path(folder) / f"test.{ending}")).request == first.request
            yield Finding(
                "ok" if kept else "broken",
                f"saving {ending}",
                "its request can be read again" if kept else "its request is lost",
            )


def _extras() -> Iterator[Finding]:
    """Extras."""
    for extra, (module, purpose) in EXTRAS.items():
        present = find_spec(module) is not None
        detail = f"{purpose}: installed" if present else f'{purpose}: not installed; pip install "lienzo[{extra}]"'
        yield Finding("ok" if present else "note", f"extra {extra}", detail)


def _hub() -> Iterator[Finding]:
    """Hub."""
    from lienzo.weights import find_models
    from lienzo.weights.hub import SWITCHES, is_offline

    cached = [model.name for model in find_models() if model.source == "cache"]
    yield Finding("ok" if cached else "note", "hub cache", ", ".join(cached) or "no models")
    switches = [f"{name}={os.environ[name]}" for name in SWITCHES if name in os.environ]
    state = "off" if is_offline(None) else "on"
    yield Finding(
        "ok", "hub access", f"{state} ({', '.join(switches) or f'neither {SWITCHES[0]} nor {SWITCHES[1]} is set'})"
    )


def _folder() -> Iterator[Finding]:
    """This folder."""
    writable = os.access(".", os.W_OK)
    yield Finding(
        "ok" if writable else "note",
        "this folder",
        "can be written to" if writable else "cannot be written to: use --out FOLDER/",
    )


CHECKS = (_system, _torch, _picture, _extras, _hub, _folder)


def _memory() -> int | None:
    """Free memory in bytes, where the system tells."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
        return None
    except OSError:
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (AttributeError, ValueError, OSError):
            return None
