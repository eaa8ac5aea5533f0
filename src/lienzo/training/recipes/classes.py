"""DreamBooth's class pictures, made by the base model itself (arXiv:2208.12242, section 3.2)."""

from pathlib import Path

from lienzo.errors import ConfigError, OutputError
from lienzo.models.bundle import Bundle
from lienzo.pipeline.request import Request
from lienzo.training.config import Recipe
from lienzo.training.data import DataConfig
from lienzo.training.data.dataset import write_whole
from lienzo.training.data.sources import PICTURES
from lienzo.training.recipes.batches import Tell
from lienzo.training.recipes.sheets import Files


def make_class_pictures(recipe: Recipe[DataConfig], base: Bundle, tell: Tell, files: Files) -> None:
    """Fill the folder of `data.prior` up to `classes.pictures`, each with its caption. Interrupted, it goes on.

    Their pixels are to be the base's own: a watermark in them would be learned.

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
            write_whole(path, files.picture(base, request))
        tell("making class pictures", own + seed + 1, wanted)


def _is_picture(path: Path) -> bool:
    return path.suffix.lower().lstrip(".") in PICTURES
