"""Judge a model on prompts held out of its training: `python -m boceto.judge MODEL --figures F.json --sheet S.png`.

Every prompt shows a combination that training never saw. A program scores the pictures (`look.py`); nobody picks them.
"""

import argparse
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from boceto.look import score
from boceto.scenes import FAMILIES, PLAIN, Caption, Scene, captions, sample_scene
from lienzo.diffusion.grids import make_grid
from lienzo.diffusion.guidance import guide
from lienzo.diffusion.prediction import denoiser
from lienzo.diffusion.samplers import SAMPLERS
from lienzo.models.bundle import Bundle
from lienzo.weights import load

Figures = dict[str, dict[str, Any]]
"""Attribute -> how many were right, of how many, and the 95 % interval of that share."""

STEPS, GUIDANCE, SAMPLER = 20, 3.0, "dpmpp_2m"


def held_out_prompts(count: int, seed: int, family: str = PLAIN) -> list[tuple[Scene, Caption]]:
    """Held-out scenes of a family, each with one of its wordings; English and Spanish in turn."""
    rng = np.random.default_rng(seed)
    chosen = []
    for i in range(count):
        scene = sample_scene(rng, family, holdout=True)
        wordings = [caption for caption in captions(scene) if caption.language == ("en", "es")[i % 2]]
        chosen.append((scene, wordings[rng.integers(len(wordings))]))
    return chosen


@torch.inference_mode()
def draw(bundle: Bundle, texts: Sequence[str], *, seed: int = 0, size: int = 64) -> Iterator[Image.Image]:
    """One picture a text, the i-th from seed + i, drawn `size` at a time."""
    sampler = SAMPLERS[SAMPLER]
    grid = make_grid(bundle.schedule, sampler.convention, STEPS)
    cells = bundle.unet.config.sample_size
    assert isinstance(cells, int)
    for first in range(0, len(texts), size):
        part = texts[first : first + size]
        ids = torch.tensor([bundle.tokenizer.encode(text).ids for text in ("", *part)])
        context = bundle.text_encoder(ids)
        both = torch.cat([context[:1].expand(len(part), -1, -1), context[1:]])

        def predict(x: torch.Tensor, sigma: float, both: torch.Tensor = both) -> torch.Tensor:
            t = torch.full((len(both),), grid.times[sigma])
            without, with_prompt = bundle.unet(torch.cat([x, x]), t, both).chunk(2)
            return guide(without, with_prompt, GUIDANCE)

        seeds = range(seed + first, seed + first + len(part))
        noise = [torch.randn(4, cells, cells, generator=torch.Generator().manual_seed(one)) for one in seeds]
        x = torch.stack(noise) * grid.start
        denoise = denoiser(predict, bundle.schedule.prediction_type)
        latents = [step[0] for step in sampler.walk(denoise, x, grid.steps, _no_noise, **sampler.options)][-1]
        decoded = bundle.vae.decode(bundle.vae.from_latents(latents)).clamp(-1, 1)
        for picture in ((decoded + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy():
            yield Image.fromarray(picture)


def _no_noise() -> torch.Tensor:
    raise AssertionError(f"{SAMPLER} is deterministic.")


def wilson(right: int, of: int) -> tuple[float, float]:
    """95 % interval of a proportion (E. B. Wilson, 1927)."""
    z, p = 1.96, right / of
    middle = (p + z * z / (2 * of)) / (1 + z * z / of)
    half = z * math.sqrt(p * (1 - p) / of + z * z / (4 * of * of)) / (1 + z * z / of)
    return middle - half, middle + half


def figures(scores: Sequence[tuple[Scene, Caption, Mapping[str, bool]]]) -> Figures:
    """How often each attribute is right, with its interval; and everything right, by kind of scene and by language."""
    rows: dict[str, list[bool]] = {}
    for scene, caption, marks in scores:
        everything = all(marks.values())
        kind = scene.kind or ("relation" if scene.relation else "alone" if len(scene.things) == 1 else "counted")
        for name, right in {**marks, "everything": everything}.items():
            rows.setdefault(name, []).append(right)
        rows.setdefault(f"everything, {kind}", []).append(everything)
        rows.setdefault(f"everything, {caption.language}", []).append(everything)
    return {
        name: {"right": sum(row), "of": len(row), "interval": [round(v, 3) for v in wilson(sum(row), len(row))]}
        for name, row in rows.items()
    }


def sheet(pictures: Sequence[Image.Image], prompts: Sequence[str], columns: int = 8) -> Image.Image:
    """The pictures in a grid, each with its prompt below."""
    side, text = 128, 76
    font = ImageFont.load_default_imagefont()  # the one of Pillow's own fonts that has accents
    rows = math.ceil(len(pictures) / columns)
    page = Image.new("RGB", (columns * (side + 12) + 12, rows * (side + text) + 12), "#e4e4e4")
    pen = ImageDraw.Draw(page)
    for i, (picture, prompt) in enumerate(zip(pictures, prompts, strict=True)):
        x, y = 12 + i % columns * (side + 12), 12 + i // columns * (side + text)
        page.paste(picture.resize((side, side)), (x, y))
        pen.multiline_text((x, y + side + 2), _wrapped(prompt, 22), fill="black", font=font, spacing=1)
    return page


def judge(model: Path, count: int, seed: int = 0, family: str = PLAIN) -> tuple[Figures, Image.Image]:
    """Draw `count` held-out prompts of a family: the figures, and a sheet of the first 64."""
    prompts = held_out_prompts(count, seed, family)
    texts = [caption.text for _, caption in prompts]
    pictures = list(draw(load(model), texts, seed=seed))
    found = figures([(s, c, score(p, s)) for (s, c), p in zip(prompts, pictures, strict=True)])
    return found, sheet(pictures[:64], texts[:64])


def _wrapped(text: str, width: int) -> str:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) < width:
            lines[-1] = f"{lines[-1]} {word}".strip()
        else:
            lines.append(word)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m boceto.judge", description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--family", choices=(PLAIN, *FAMILIES), default=PLAIN, help="of scenes (default: %(default)s)")
    parser.add_argument("--count", type=int, default=512, help="prompts (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--figures", type=Path, help="write the figures here (JSON)")
    parser.add_argument("--sheet", type=Path, help="write the first 64 pictures here (PNG)")
    options = parser.parse_args()
    found, page = judge(options.model, options.count, options.seed, options.family)
    for name, row in found.items():
        print(f"{name:24} {row['right']:4} of {row['of']:4}  {row['right'] / row['of']:7.1%}  {row['interval']}")
    if options.figures:
        options.figures.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if options.sheet:
        page.save(options.sheet, optimize=True)


if __name__ == "__main__":
    main()
