"""The line is read as AUTOMATIC1111's own reader does it: key, colon, value or JSON string, comma."""

import json
import re
from collections.abc import Sequence

import pytest

from lienzo import Request
from lienzo.diffusion.grids import GRIDS
from lienzo.diffusion.samplers import SAMPLERS
from lienzo.provenance.infotext import SAMPLER_NAMES, SCHEDULE_NAMES, infotext


def parse(text: str) -> tuple[str, str, dict[str, str]]:
    """(prompt, negative prompt, settings)."""
    *lines, last = text.split("\n")
    prompt, _, negative = "\n".join(lines).partition("\nNegative prompt: ")
    pairs = re.findall(r'(\w[\w /-]*): ("(?:[^"\\]|\\.)*"|[^,]*)(?:, |$)', last)
    return prompt, negative, {key: json.loads(value) if value.startswith('"') else value for key, value in pairs}


def made(request: Request, model: str = "boceto", loras: Sequence[tuple[str, float, float]] = ()) -> str:
    return infotext(request, model=model, model_digest="0123456789abcdef", version="0.1.0", loras=loras)


def read_loras(prompt: str) -> tuple[str, list[tuple[str, float, float]]]:
    """As that program does it: the prompt without them, and name, U-Net's and text encoder's weight of each."""
    found = []
    for kind, arguments in re.findall(r"<(\w+):([^>]+)>", prompt):
        name, *weights = arguments.split(":")
        text = float(weights[0]) if weights else 1.0
        assert kind == "lora"
        found.append((name, float(weights[1]) if len(weights) > 1 else text, text))
    return re.sub(r"<(\w+):([^>]+)>", "", prompt).strip(), found


def test_a_plain_request_gives_exactly_this_text() -> None:
    request = Request(
        "a red circle",
        negative_prompt="blurry, dark",
        width=512,
        height=768,
        steps=20,
        sampler="euler_a",
        grid="linspace",
        seed=1,
    )
    assert made(request) == (
        "a red circle\nNegative prompt: blurry, dark\nSteps: 20, Sampler: Euler a, CFG scale: 7.5, Seed: 1, Size: 512x768, "
        "Model hash: 0123456789, Model: boceto, RNG: CPU, Version: lienzo 0.1.0"
    )


def test_settings_beyond_the_plain_ones_are_named_as_there() -> None:
    request = Request(
        "x", width=64, height=64, sampler="ddim", grid="karras", seed=1, eta=0.5, clip_skip=1, guidance_scale=7
    )
    _, _, settings = parse(made(request))
    assert settings["Schedule type"] == "Karras"
    assert settings["Clip skip"] == "2"  # counts from 1
    assert settings["CFG scale"] == "7"
    assert settings["Eta"] == "0.5"


@pytest.mark.parametrize("prompt", ["", "two\nlines", "Steps: 20, (words:1.2), [x]", "😀 مرحبا", "a\x00b\x1bc\r\nd"])
def test_prompts_come_back(prompt: str) -> None:
    got, negative, settings = parse(
        made(Request(prompt, negative_prompt="no", width=64, height=64, sampler="plms", seed=3))
    )
    assert got == prompt.replace("\x00", " ").replace("\x1b", " ").replace("\r\n", "\n") or prompt == ""
    assert negative == "no" or prompt == ""
    assert settings["Seed"] == "3"


def test_names_that_would_break_the_line_are_quoted() -> None:
    assert (
        parse(made(Request("x", width=64, height=64, seed=1), model='odd, "name": 2'))[2]["Model"] == 'odd, "name": 2'
    )


def test_every_sampler_has_its_name_there() -> None:
    assert SAMPLER_NAMES.keys() == SAMPLERS.keys()
    assert SCHEDULE_NAMES.keys() <= GRIDS.keys()


@pytest.mark.parametrize("prompt", ["a red circle", "", "two\nlines"])
def test_loras_stand_at_the_end_of_the_prompt(prompt: str) -> None:
    loras = [("style", 0.8, 0.8), ("hero 2", 1.0, 0.0), ("x", -0.25, 1.5)]
    text, negative, settings = parse(
        made(Request(prompt, negative_prompt="no", width=64, height=64, seed=3), loras=loras)
    )
    assert read_loras(text) == (prompt, loras)
    assert "<lora:style:0.8>" in text
    assert (negative, settings["Seed"]) == ("no", "3")


def test_names_that_would_end_a_lora_are_changed() -> None:
    text, _, _ = parse(made(Request("x", width=64, height=64, seed=3), loras=[("a:b<c>", 1.0, 1.0)]))
    assert read_loras(text) == ("x", [("a_b_c_", 1.0, 1.0)])
