"""Make the pictures of README and docs with the embedded model: `python docs/make_pictures.py`.

Fixed prompts, the first seeds, default settings: nothing is picked. Run it again whenever the embedded model changes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from lienzo import Pipeline, Request, Result
from lienzo.diffusion.samplers import SAMPLERS

FOLDER = Path(__file__).parent / "images"
SEEDS = range(4)
PROMPTS: Mapping[str, str] = {
    "left-of": "a red circle to the left of a blue square on a white background",
    "hexagon": "a large purple hexagon on a yellow background",
    "crosses": "two green crosses on a black background",
    "estrellas": "tres estrellas amarillas sobre fondo azul",
    "encima": "un triángulo naranja encima de un círculo gris sobre fondo blanco",
}
"""File name -> the prompt of README's table."""

SCENE = PROMPTS["left-of"]
BECOMES = "a red star to the left of a blue square on a white background"
GAP = 4


def strip(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one size side by side, with thin grey gaps."""
    width, height = pictures[0].size
    sheet = Image.new("RGB", (len(pictures) * (width + GAP) - GAP, height), "gray")
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i * (width + GAP), 0))
    return sheet


def left_half(picture: Image.Image) -> Image.Image:
    """A mask, white on the left half."""
    mask = Image.new("L", picture.size, 0)
    ImageDraw.Draw(mask).rectangle((0, 0, picture.width // 2 - 1, picture.height), fill=255)
    return mask


def keep(name: str, pictures: Sequence[Image.Image]) -> None:
    strip(pictures).save(FOLDER / f"{name}.webp", quality=90, method=6)


def main() -> None:
    pipe = Pipeline.load()

    def images(requests: Sequence[Request]) -> list[Image.Image]:
        results: tuple[Result, ...] = pipe(requests)
        return [result.image for result in results]

    FOLDER.mkdir(exist_ok=True)
    for name, prompt in PROMPTS.items():
        keep(name, images([Request(prompt, seed=seed) for seed in SEEDS]))
    [scene] = images([Request(SCENE, seed=0)])
    strengths = (0.3, 0.5, 0.7, 0.9)
    keep("img2img", [scene, *images([Request(BECOMES, init=scene, strength=s, seed=0) for s in strengths])])
    mask = left_half(scene)
    keep("inpaint", [scene, mask.convert("RGB"), *images([Request(BECOMES, init=scene, mask=mask, seed=0)])])
    names = [name for name in SAMPLERS if name != "lcm"]
    keep("samplers", images([Request(SCENE, sampler=name, guidance_scale=3.0, seed=0) for name in names]))
    for path in sorted(FOLDER.glob("*.webp")):
        print(f"{path.name}  {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
