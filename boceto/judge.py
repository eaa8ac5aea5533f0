"""Judge a model on prompts held out of its training: `python -m boceto.judge MODEL --clip CLIP --out DIR`.

Every prompt shows a combination that training never saw. Programs score the pictures: `look` tells what the pixels show,
a small CLIP tells icons apart and compares whole sets of pictures. Nobody picks any. All of them are measured themselves, on
true renders of the same scenes.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from boceto.draw import CLIP_SIDE, ICONS, icon_captions
from boceto.look import icon_crops, score
from boceto.scenes import FAMILIES, PLAIN, Caption, Scene, captions, render, sample_scene
from lienzo.diffusion.grids import make_grid
from lienzo.diffusion.guidance import guide
from lienzo.diffusion.prediction import denoiser
from lienzo.diffusion.samplers import SAMPLERS
from lienzo.evaluation.features import Array, clip_features, text_features
from lienzo.evaluation.metrics import frechet
from lienzo.images import to_image, to_tensor
from lienzo.models.bundle import Bundle
from lienzo.pipeline.generate import native_size
from lienzo.shares import wilson
from lienzo.weights import load
from lienzo.weights.clip import LoadedCLIP, load_clip

Row = dict[str, Any]
"""How many were right, of how many, and the 95 % interval of that share."""
Figures = dict[str, Row]
Marks = Mapping[str, bool]

STEPS, GUIDANCE, SAMPLER = 20, 3.0, "dpmpp_2m"
SHOWN: Final = 64
"""Pictures on a sheet."""


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
    """One picture a text, the i-th from seed + i, drawn `size` at a time where the bundle is."""
    sampler = SAMPLERS[SAMPLER]
    grid = make_grid(bundle.schedule, sampler.convention, STEPS)
    width, height = (pixels // bundle.vae.config.factor for pixels in native_size(bundle))
    shape = (bundle.vae.config.latent_channels, height, width)
    weight = next(bundle.unet.parameters())
    for first in range(0, len(texts), size):
        part = texts[first : first + size]
        ids = torch.tensor([bundle.tokenizer.encode(text).ids for text in ("", *part)])
        context = bundle.text_encoder(ids.to(weight.device))
        both = torch.cat([context[:1].expand(len(part), -1, -1), context[1:]])

        def predict(x: torch.Tensor, sigma: float, both: torch.Tensor = both) -> torch.Tensor:
            t = torch.full((len(both),), grid.times[sigma], device=weight.device)
            without, with_prompt = bundle.unet(torch.cat([x, x]).to(weight.dtype), t, both).float().chunk(2)
            return guide(without, with_prompt, GUIDANCE)

        seeds = range(seed + first, seed + first + len(part))
        noise = [torch.randn(shape, generator=torch.Generator().manual_seed(one)) for one in seeds]
        x = torch.stack(noise).to(weight.device) * grid.start
        denoise = denoiser(predict, bundle.schedule.prediction_type)
        latents = [step[0] for step in sampler.walk(denoise, x, grid.steps, _no_noise, **sampler.options)][-1]
        yield from map(to_image, _decoded(bundle, bundle.vae.from_latents(latents)))


def _decoded(bundle: Bundle, z: torch.Tensor) -> Iterator[torch.Tensor]:
    """Unscaled latents (B, C, h, w) -> pixels (3, H, W), some at a time: a decoder needs much memory."""
    for part in z.split(16):
        yield from bundle.vae.decode(part.to(next(bundle.vae.parameters()).dtype)).float().clamp(-1, 1).cpu()


@torch.inference_mode()
def there_and_back(bundle: Bundle, pictures: Sequence[Image.Image]) -> Iterator[Image.Image]:
    """What is left of pictures that go through the VAE and back: the best that any denoiser over it could draw."""
    weight = next(bundle.vae.parameters())
    for first in range(0, len(pictures), 16):
        pixels = torch.stack([to_tensor(picture) for picture in pictures[first : first + 16]])
        yield from map(to_image, _decoded(bundle, bundle.vae.encode(pixels.to(weight.device, weight.dtype)).mode()))


def _no_noise() -> torch.Tensor:
    raise AssertionError(f"{SAMPLER} is deterministic.")


def row(rights: Sequence[bool]) -> Row:
    right, of = sum(rights), len(rights)
    return {"right": right, "of": of, "interval": [round(v, 3) for v in wilson(right, of)]}


def figures(scores: Sequence[tuple[Scene, Caption, Marks]]) -> Figures:
    """How often each attribute is right; and everything right, by kind of scene and by language."""
    rows: dict[str, list[bool]] = {}
    for scene, caption, marks in scores:
        everything = all(marks.values())
        kind = scene.kind or ("relation" if scene.relation else "alone" if len(scene.things) == 1 else "counted")
        for name, right in {**marks, "everything": everything}.items():
            rows.setdefault(name, []).append(right)
        rows.setdefault(f"everything, {kind}", []).append(everything)
        rows.setdefault(f"everything, {caption.language}", []).append(everything)
    return {name: row(rights) for name, rights in rows.items()}


def counted(scene: Scene) -> int:
    """How many the mark `count` asks for."""
    if scene.family == "dashboards":
        return int(scene.fact("bars") or len(scene.fact("slices").split()))
    return len(scene.named("tree")) if scene.family == "landscapes" else len(scene.things)


GROUPS: Final[dict[str, Callable[[str, Scene], bool]]] = {
    "shape": lambda mark, scene: mark == "shape",
    "colour": lambda mark, scene: mark in ("colour", "scheme"),
    "relation": lambda mark, scene: mark == "relation",
    "count to four": lambda mark, scene: mark == "count" and counted(scene) <= 4,
}
"""What the families' marks have in common."""


def groups(scores: Sequence[tuple[Scene, Caption, Marks]]) -> Figures:
    """The same, over all families together."""
    rows: dict[str, list[bool]] = {name: [] for name in GROUPS}
    for scene, _, marks in scores:
        for mark, right in marks.items():
            for name, belongs in GROUPS.items():
                if belongs(mark, scene):
                    rows[name].append(right)
    return {name: row(rights) for name, rights in rows.items() if rights}


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


def icons_told(clip: LoadedCLIP, pictures: Sequence[Image.Image], scenes: Sequence[Scene]) -> list[bool]:
    """Of every icon that the scenes say stands somewhere: is it the likeliest of all icons, to the CLIP?"""
    crops = [
        crop for picture, scene in zip(pictures, scenes, strict=True) for crop in icon_crops(picture, scene, CLIP_SIDE)
    ]
    crops = [(name, crop) for name, crop in crops if name in ICONS]
    if not crops:
        return []
    words = _unit(text_features(clip, [text for name in ICONS for text in icon_captions(name)])[0])
    words = words.reshape(len(ICONS), 2, -1).mean(1)  # both languages
    seen = _unit(clip_features(clip).of(crop for _, crop in crops))
    return [ICONS[i] == name for i, (name, _) in zip((seen @ words.T).argmax(1), crops, strict=True)]


def _unit(features: Array) -> Array:
    return features / np.linalg.norm(features, axis=1, keepdims=True)


WITH_ICONS: Final = ("networks", "flows")
"""Families whose scenes place icons."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """All that was found.

    Attributes:
        figures: families -> marks; groups; icons; fid; and how they were measured. Plain JSON.
        sheets: family -> its first pictures, each with its prompt.
    """

    figures: dict[str, Any]
    sheets: dict[str, Image.Image]


def judge(
    model: Path,
    clip: Path,
    count: int,
    *,
    seed: int = 0,
    families: Sequence[str] = tuple(FAMILIES),
    device: str = "cpu",
    processes: int | None = None,
) -> Judgement:
    """Draw `count` held-out prompts of each family, and look at them and at true renders of the same scenes.

    Args:
        processes: that look at pixels; None: one a core.
    """
    bundle, eyes = load(model, device=device), load_clip(clip, device=device)
    look = clip_features(eyes)
    side = native_size(bundle)[0]
    found: dict[str, Any] = {"families": {}, "icons": {}, "fid": {}}
    made: list[tuple[Scene, Caption, Marks]] = []
    true: list[tuple[Scene, Caption, Marks]] = []
    told: dict[str, list[bool]] = {"pictures": [], "renders": []}
    sets: dict[str, list[Array]] = {"renders": [], "pictures": [], "floor": []}
    sheets = {}
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for family in families:
            prompts = held_out_prompts(count, seed, family)
            scenes = [scene for scene, _ in prompts]
            texts = [caption.text for _, caption in prompts]
            pictures = list(draw(bundle, texts, seed=seed))
            renders = [render(scene, side) for scene in scenes]
            of_pictures, of_renders = (
                [
                    (*prompt, marks)
                    for prompt, marks in zip(prompts, pool.map(score, some, scenes, chunksize=8), strict=True)
                ]
                for some in (pictures, renders)
            )
            made += of_pictures
            true += of_renders
            found["families"][family] = _beside(figures(of_pictures), figures(of_renders))
            if family in WITH_ICONS:
                told["pictures"] += icons_told(eyes, pictures, scenes)
                told["renders"] += icons_told(eyes, renders, scenes)
            here = {
                "renders": look.of(renders),
                "pictures": look.of(pictures),
                "floor": look.of(there_and_back(bundle, renders)),
            }
            found["fid"][family] = _distances(here)
            for name, features in here.items():
                sets[name].append(features)
            sheets[family] = sheet(pictures[:SHOWN], texts[:SHOWN])
    found["groups"] = _beside(groups(made), groups(true))
    if told["pictures"]:
        found["icons"] = {name: row(rights) for name, rights in told.items()}
    found["fid"]["all"] = _distances({name: np.concatenate(features) for name, features in sets.items()})
    found["how"] = {
        "prompts": count, "side": side, "sampler": SAMPLER, "steps": STEPS, "guidance": GUIDANCE, "seed": seed,
        "icons": len(ICONS), "features": look.name, "shown": SHOWN,
    }  # fmt: skip
    return Judgement(figures=found, sheets=sheets)


def _beside(made: Figures, true: Figures) -> Figures:
    """The pictures' figures, each with the share of true renders that the program takes for right."""
    return {
        name: {**found, "renders": round(true[name]["right"] / true[name]["of"], 4)} for name, found in made.items()
    }


def _distances(features: Mapping[str, Array]) -> dict[str, float]:
    """FID of the pictures, and of the renders that went through the VAE, each against the renders."""
    return {name: round(frechet(features["renders"], features[name]), 4) for name in ("pictures", "floor")}


def write(judgement: Judgement, folder: Path) -> None:
    """`figures.json`, and a sheet a family."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "figures.json").write_text(json.dumps(judgement.figures, indent=1) + "\n", encoding="utf-8")
    for family, page in judgement.sheets.items():
        page.save(folder / f"sheet-{family}.webp", quality=80, method=6)


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
    parser.add_argument("--clip", type=Path, required=True, help="the CLIP that boceto.make trained")
    parser.add_argument("--out", type=Path, required=True, help="where figures.json and the sheets go")
    parser.add_argument("--family", action="append", choices=tuple(FAMILIES), help="default: all; may be repeated")
    parser.add_argument("--count", type=int, default=512, help="prompts a family (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s")
    options = parser.parse_args()
    families = tuple(options.family or FAMILIES)
    found = judge(
        options.model, options.clip, options.count, seed=options.seed, families=families, device=options.device
    )
    write(found, options.out)
    tables = {"": found.figures["groups"], **found.figures["families"]}
    for family, table in tables.items():
        for name, one in table.items():
            print(
                f"{family:11} {name:26} {one['right']:4} of {one['of']:4}  {one['right'] / one['of']:7.1%}  {one['interval']}"
            )


if __name__ == "__main__":
    main()
