"""DreamBooth's class pictures, made by the base model itself (arXiv:2208.12242, section 3.2)."""

import io
from pathlib import Path

from PIL import Image

from lienzo.errors import ConfigError, OutputError
from lienzo.models.bundle import Bundle
from lienzo.pipeline.generate import finished, generate
from lienzo.pipeline.request import Request
from lienzo.training.config import Recipe
from lienzo.training.data import DataConfig
from lienzo.training.data.dataset import write_whole
from lienzo.training.data.sources import PICTURES
from lienzo.training.recipes.batches import Tell


def make_class_pictures(recipe: Recipe[DataConfig], base: Bundle, tell: Tell) -> None:
    """Fill the folder of `data.prior` up to `classes.pictures`, each with its caption. Interrupted, it goes on.

    Raises:
        ConfigError: there is no such folder in the recipe.
        OutputError: it cannot be written.
    """
    prompt, wanted, prior = recipe.classes.prompt, recipe.classes.pictures, recipe.data.prior
    assert prompt is not None
    if prior is None:
        raise ConfigError("classes.prompt needs a folder for the pictures: name it in data.prior.")
    folder = prior.path
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be made: {error.strerror or error}. Name another one in data.prior."
        ) from None
    own = sum(_is_picture(path) and not path.stem.startswith("class-") for path in folder.iterdir())
    for seed in range(wanted - own):
        path = folder / f"class-{seed:05d}.png"
        if not path.exists():
            request = Request(prompt, seed=seed, steps=recipe.watch.sample_steps, guidance_scale=recipe.watch.guidance)
            write_whole(path.with_suffix(".txt"), prompt.encode())
            write_whole(path, _png(finished(generate(base, request))[0].image))
        tell("making class pictures", own + seed + 1, wanted)


def _is_picture(path: Path) -> bool:
    return path.suffix.lower().lstrip(".") in PICTURES


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
