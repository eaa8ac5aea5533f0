"""Kinds of option values, and the options that several commands share."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


class Size(click.ParamType):  # type: ignore[type-arg]  # generic only in newer clicks
    """WxH, multiples of 8."""

    name = "WxH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"([0-9]{1,8})x([0-9]{1,8})", value.lower())
        if not found:
            numbers = [int(number) for number in re.findall("[0-9]{1,8}", value)] or [512]
            near = f"{_round(numbers[0], False)}x{_round(numbers[1 % len(numbers)], False)}"
            self.fail(f"got {value!r}; give width x height in pixels, for example {near}.", param, ctx)
        width, height = int(found[1]), int(found[2])
        if width % 8 or height % 8 or not width or not height:
            near = " or ".join(dict.fromkeys(f"{_round(width, up)}x{_round(height, up)}" for up in (False, True)))
            self.fail(f"got {value!r}; both sides must be multiples of 8 from 8 on, for example {near}.", param, ctx)
        return width, height


class Number(click.ParamType):  # type: ignore[type-arg]
    """A number, between bounds where no request checks them."""

    name = "N"

    def __init__(self, kind: type[int] | type[float], low: float = -math.inf, high: float = math.inf) -> None:
        self.kind, self.low, self.high = kind, low, high

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        what = "a whole number" if self.kind is int else "a number"
        if math.isfinite(self.low):
            what += f" from {self.low:,} up to {self.high:,}"
        try:
            number = self.kind(value)
        except ValueError:
            self.fail(f"got {value!r}; give {what}.", param, ctx)
        if number < self.low or number > self.high:
            self.fail(f"got {value!r}; give {what}.", param, ctx)
        return number


class Numbers(click.ParamType):  # type: ignore[type-arg]
    """Numbers with commas between them."""

    name = "S,S,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(part) for part in value.split(","))
        except ValueError:
            self.fail(f"got {value!r}; give numbers with commas between them, for example 14.6,3.9,0.9,0.", param, ctx)


@dataclass(frozen=True)
class LoraFile:
    """A LoRA as the command line names it; weights that are not given are None."""

    source: str
    unet: float | None
    text_encoder: float | None


class Lora(click.ParamType):  # type: ignore[type-arg]
    """FILE, FILE:WEIGHT or FILE:WEIGHT:TEXT_WEIGHT; a hub id may stand for a file."""

    name = "FILE[:WEIGHT[:TEXT_WEIGHT]]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> LoraFile:
        if isinstance(value, LoraFile):
            return value
        for count in range(3):  # a file's name may hold colons itself
            path, *weights = value.rsplit(":", count)
            if len(weights) == count and _is_adapter(path) and all(map(_is_number, weights)):
                unet, text = [*map(float, weights), None, None][:2]
                return LoraFile(path, unet, text)
        return self.fail(
            f"got {value!r}: no such file and no hub id, or its weights are no numbers; expected {self.name}.",
            param,
            ctx,
        )


class Embedding(click.ParamType):  # type: ignore[type-arg]
    """FILE or FILE:TOKEN; a hub id may stand for a file."""

    name = "FILE[:TOKEN]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str | None]:
        if isinstance(value, tuple):
            return value
        if _is_adapter(value):
            return value, None
        path, _, token = value.rpartition(":")
        if not path or not _is_adapter(path):
            self.fail(f"got {value!r}: no such file and no hub id; expected {self.name}.", param, ctx)
        return path, token


def computing_options(command: F) -> F:
    """What pictures are computed with."""
    for option in (
        click.option(
            "--batch", type=click.IntRange(1, 1000), default=1, metavar="N", help="Pictures made at once. [default: 1]"
        ),
        click.option(
            "--device", metavar="NAME", help="cpu, cuda, cuda:1, mps. [default: cuda where there is one, else cpu]"
        ),
        click.option(
            "--dtype", metavar="TYPE", help="fp32, fp16 or bf16. [default: fp32 on the CPU, elsewhere the file's own]"
        ),
    ):
        command = option(command)
    return command


def model_options(command: F) -> F:
    """How a model is found and read."""
    for option in (
        click.option(
            "--config",
            metavar="FOLDER",
            help="Of a single file: a diffusers folder with its configurations, or its .yaml.",
        ),
        click.option("--tokenizer", metavar="FOLDER", help="A folder or hub id, instead of the model's own."),
        click.option("--ema", is_flag=True, help="A single file's averaged weights."),
        click.option(
            "--prediction-type", metavar="TYPE", help="epsilon, v_prediction or sample, instead of the model's own."
        ),
        click.option(
            "--offline", is_flag=True, default=None, help="Never use the network; LIENZO_OFFLINE=1 does the same."
        ),
        click.option("--variant", metavar="NAME", help="Of a folder or hub id, for example fp16."),
        click.option("--revision", metavar="NAME", help="Branch, tag or commit of a hub id."),
    ):
        command = option(command)
    return command


def json_option(command: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")(command)


def _is_adapter(name: str) -> bool:
    if Path(name).exists():
        return True
    from lienzo.weights.adapters import hub_file  # only now: it brings torch

    return hub_file(name) is not None


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _round(side: int, up: bool) -> int:
    return max(8, side // 8 * 8 + (8 if up and side % 8 else 0))
