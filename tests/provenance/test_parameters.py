"""AUTOMATIC1111's text is read from lienzo's files and others'."""

import io
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lienzo import Request
from lienzo.errors import ImageError
from lienzo.provenance.infotext import infotext
from lienzo.provenance.parameters import Parameters, parsed, read_parameters
from lienzo.provenance.writing import save
from lienzo.studio import Pipeline


@pytest.mark.parametrize("extension", [".png", ".jpg", ".webp"])
def test_of_a_picture_of_lienzos(pipeline: Callable[[str], Pipeline], tmp_path: Path, extension: str) -> None:
    made = pipeline("sd1")(
        Request("a red circle, ñ", negative_prompt="blue", steps=2, width=64, seed=7, sampler="euler_a")
    )
    path = save(made, tmp_path / f"x{extension}")
    found = read_parameters(path.read_bytes())
    assert found.text.startswith("a red circle, ñ\nNegative prompt: blue\nSteps: 2, Sampler: Euler a, ")
    assert found.values == parsed(found.text)
    assert (found.values["Prompt"], found.values["Negative prompt"]) == ("a red circle, ñ", "blue")
    assert (found.values["Sampler"], found.values["Seed"], found.values["Size-1"]) == ("Euler a", "7", "64")


def test_of_a_picture_without_any() -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    assert read_parameters(file.getvalue()) == Parameters("", {})
    with pytest.raises(ImageError, match="not a PNG, JPEG or WebP"):
        read_parameters(b"no picture")


@given(
    prompt=st.text(st.characters(exclude_categories=["C"]), max_size=50).map(str.strip),
    negative=st.text(st.characters(exclude_categories=["C"]), max_size=50).map(str.strip),
    model=st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=50).map(str.strip),
)
@settings(deadline=None)
def test_what_is_written_is_read(prompt: str, negative: str, model: str) -> None:
    request = Request(prompt, negative_prompt=negative, width=64, height=96, seed=3, sampler="dpmpp_2m", grid="karras")
    values = parsed(infotext(request, model=model, model_digest="0123456789abcdef", version="0.1.0"))
    if not prompt.startswith("Negative prompt:"):
        assert (values["Prompt"], values["Negative prompt"]) == (prompt, negative)
    assert (values["Sampler"], values["Schedule type"], values["Seed"]) == ("DPM++ 2M", "Karras", "3")
    assert (values["Size-1"], values["Size-2"], values["Version"]) == ("64", "96", "lienzo 0.1.0")


def test_another_programs_text() -> None:
    assert parsed(
        'a, red\ncircle\nNegative prompt: x: y\nSteps: 20, Hashes: "{\\"a\\": \\"b, c\\"}", Odd: "x, Size: 8x16'
    ) == {
        "Prompt": "a, red\ncircle",
        "Negative prompt": "x: y",
        "Steps": "20",
        "Hashes": '{"a": "b, c"}',
        "Odd": '"x',
        "Size-1": "8",
        "Size-2": "16",
    }
    assert parsed("only a prompt: 3, of one line") == {"Prompt": "only a prompt: 3, of one line", "Negative prompt": ""}


@pytest.mark.parametrize("text", ["a" * 200_000, 'a:"' * 70_000, " " * 200_000, "a:" * 100_000, '"\\' * 100_000])
def test_no_text_takes_long(text: str) -> None:
    begun = time.process_time()
    parsed(text)
    assert time.process_time() - begun < 3
