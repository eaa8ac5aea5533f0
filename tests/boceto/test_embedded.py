"""The model that the package carries: complete, small, and an ordinary folder for diffusers."""

from importlib.resources import files
from pathlib import Path

import pytest
from diffusers import StableDiffusionPipeline
from transformers import CLIPTokenizer

from boceto.judge import draw
from boceto.look import look
from lienzo.models.tokenizer import Tokenizer
from lienzo.weights import load

FOLDER = Path(str(files("lienzo") / "assets" / "boceto"))


def test_it_is_small_enough_to_carry() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 32_000_000


def test_the_card_has_its_figures_and_its_sheet() -> None:
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert "| everything | 512 |" in card and "sheet.png" in card
    assert (FOLDER / "sheet.png").is_file()


def test_diffusers_draws_with_it() -> None:
    pipe = StableDiffusionPipeline.from_pretrained(str(FOLDER), safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    picture = pipe("a red circle on a white background", num_inference_steps=12, guidance_scale=3.0).images[0]
    assert picture.size == (128, 128)
    assert look(picture).background == "white"


def test_transformers_reads_its_tokenizer_id_for_id() -> None:
    theirs, ours = CLIPTokenizer.from_pretrained(str(FOLDER / "tokenizer")), Tokenizer.from_folder(FOLDER / "tokenizer")
    for text in ("tres estrellas amarillas sobre fondo azul", "Una CRUZ roja!", "👩‍🚀 שלום", "a " * 100):
        ids = theirs(text, padding="max_length", max_length=77, truncation=True).input_ids
        assert ours.encode(text).ids == tuple(ids)


@pytest.mark.parametrize(
    ("prompt", "background", "colour", "shape"),
    [
        ("a red circle on a white background", "white", "red", "circle"),
        ("un cuadrado azul sobre fondo amarillo", "yellow", "blue", "square"),
        ("a large green triangle, black background", "black", "green", "triangle"),
    ],
)
def test_it_draws_what_it_is_asked(prompt: str, background: str, colour: str, shape: str) -> None:
    """Two of three seeds at least: the card says how often it is right, this says that it is the right file."""
    views = [look(picture) for picture in draw(load(FOLDER), [prompt] * 3)]
    right = [
        view.background == background and [(t.colour, t.shape) for t in view.things] == [(colour, shape)]
        for view in views
    ]
    assert sum(right) >= 2, views
