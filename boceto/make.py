"""Make boceto again, from nothing to a folder: `python -m boceto.make --out DIR`.

Scenes are drawn, the three recipes of `recipes/` are run one after the other, and the result is judged and gets its card.
Every part is kept in DIR: the same command goes on where it was stopped, and repeats nothing that is finished. The model
lies in DIR/boceto, an ordinary diffusers folder.
"""

import argparse
import json
import os
import platform
import shutil
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from boceto.card import last_line, write_card
from boceto.draw import CLIP_SIDE, SETS, draw_sets
from boceto.judge import judge, write
from lienzo.training.recipes import read, run

RECIPES: Final = Path(__file__).parent / "recipes"
PARTS: Final = ("vae", "clip", "unet")
"""Recipes, in their order: the denoiser learns from what the VAE makes of the scenes."""
SET_OF: Final = dict(zip(PARTS, ("crops", "looks", "scenes"), strict=True))


@dataclass(frozen=True, kw_only=True)
class Making:
    """What is decided for one making.

    Attributes:
        device: where the networks learn; "cpu" lays `recipes/cpu.toml` over the recipes.
        side: pixels of a picture.
        minutes: of training in all, shared out as the recipes' own; None: as they say.
        scenes: drawn for training.
        start: a model's folder whose networks are gone on from, instead of new ones.
        judged: held-out prompts a family.
        overrides: `recipe.section.key=value`, applied last.
    """

    device: str = "cuda"
    side: int = 256
    minutes: float | None = None
    scenes: int = 100_000
    seed: int = 0
    start: Path | None = None
    judged: int = 512
    overrides: tuple[str, ...] = ()


def make(out: Path, making: Making) -> Path:
    """Make every part that `out` does not hold yet, and judge the whole. Returns the model's folder."""
    draw_sets(out / "drawn", scenes=making.scenes, side=making.side, seed=making.seed)
    for part in PARTS:
        run(read(RECIPES / f"{part}.toml", overrides(part, out, making)))
    folder = out / "boceto"
    judgement = judge(out / "unet" / "model", out / "clip" / "model", making.judged, device=making.device)
    copy_model(out / "unet" / "model", folder)
    write(judgement, folder)
    write_card(folder, judgement.figures, facts(out, making))
    return folder


def overrides(part: str, out: Path, making: Making) -> tuple[str, ...]:
    """What a recipe is told besides what it says."""
    told: dict[str, Any] = {"model.out": out / part, "run.seed": making.seed}
    sides = {"vae": making.side // 2, "clip": CLIP_SIDE, "unet": making.side}
    for section, folder in (("data", SET_OF[part]), ("validation", f"{SET_OF[part]}-held-out")):
        told[f"{section}.sources"] = out / "drawn" / folder
        told |= {f"{section}.{key}": sides[part] for key in ("resolution", "bucket_min", "bucket_max")}
    told["data.cache"] = out / "cache"
    if part == "unet":
        told["model.vae"] = out / "vae" / "model"
    if making.device == "cpu":
        told |= dict(flat(tomllib.loads((RECIPES / "cpu.toml").read_text(encoding="utf-8"))[part]))
    if making.start is not None:
        told |= started(part, making.start)
    if making.minutes is not None:
        told["run.minutes"] = round(making.minutes * share(part), 3)
    last = tuple(text.removeprefix(f"{part}.") for text in making.overrides if text.startswith(f"{part}."))
    return (*(f"{key}={_toml(value)}" for key, value in told.items()), *last)


def started(part: str, model: Path) -> dict[str, Any]:
    """Go on from a model's networks; its CLIP, which no model's folder holds, is always new."""
    if part == "vae":
        return {"model.vae": model / "vae"}
    if part == "unet":
        names = ("text_encoder", "tokenizer", "unet")
        return {f"model.{name}": model / name for name in names}
    return {}


def share(part: str) -> float:
    """Of the training time: as the recipes share it out."""
    minutes = {
        name: tomllib.loads((RECIPES / f"{name}.toml").read_text(encoding="utf-8"))["run"]["minutes"] for name in PARTS
    }
    return float(minutes[part] / sum(minutes.values()))


def flat(table: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """{"run": {"steps": 5}} -> ("run.steps", 5)."""
    for section, values in table.items():
        for key, value in values.items():
            yield f"{section}.{key}", value


def _toml(value: object) -> str:
    return json.dumps(str(value) if isinstance(value, Path) else value)  # TOML writes these alike


def copy_model(model: Path, folder: Path) -> None:
    """The networks, and nothing of what a run leaves beside them."""
    shutil.rmtree(folder, ignore_errors=True)
    for part in ("vae", "text_encoder", "unet", "tokenizer", "scheduler"):
        shutil.copytree(model / part, folder / part)
    shutil.copy(model / "model_index.json", folder)


def facts(out: Path, making: Making) -> dict[str, Any]:
    """What the card says of how the model was made, from what the runs wrote down."""
    runs = {}
    for part in PARTS:
        recipe = tomllib.loads((out / part / "model" / "recipe.toml").read_text(encoding="utf-8"))
        line = last_line(out / part / "log.jsonl")
        runs[part] = {
            "steps": line["step"],
            "batch": recipe["run"]["batch_size"],
            "minutes": line["seconds"] / 60,
            "precision": recipe["run"]["precision"],
        }
    machine = (
        torch.cuda.get_device_name()
        if making.device == "cuda"
        else f"{os.cpu_count()} CPU cores ({platform.machine()})"
    )
    command = ["python -m boceto.make --out DIR", f"--device {making.device}", f"--side {making.side}"]
    command += [f"--scenes {making.scenes}", f"--seed {making.seed}"]
    command += [f"--minutes {making.minutes:g}"] if making.minutes is not None else []
    command += [f"--start {making.start.name}"] if making.start is not None else []
    command += list(making.overrides)
    sets = {name: round(kind.share * making.scenes) for name, kind in SETS.items()}
    return {"runs": runs, "machine": machine, "command": " ".join(command), "sets": sets, "side": making.side}


def parse(arguments: Iterable[str] | None = None) -> tuple[Path, Making]:
    parser = argparse.ArgumentParser(prog="python -m boceto.make", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="where the parts and the model go")
    parser.add_argument("--device", choices=("cuda", "cpu"), default=Making.device, help="default: %(default)s")
    parser.add_argument("--side", type=int, default=Making.side, help="pixels of a picture (default: %(default)s)")
    parser.add_argument("--minutes", type=float, help="training time in all (default: as the recipes say)")
    parser.add_argument("--scenes", type=int, default=Making.scenes, help="for training (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=Making.seed)
    parser.add_argument("--start", type=Path, help="a model's folder to go on from")
    parser.add_argument("--judged", type=int, default=Making.judged, help="prompts a family (default: %(default)s)")
    parser.add_argument("overrides", nargs="*", help="recipe.section.key=value, say unet.run.batch_size=64")
    options = vars(parser.parse_args(None if arguments is None else list(arguments)))
    out = options.pop("out")
    wrong = [text for text in options["overrides"] if text.partition(".")[0] not in PARTS or "=" not in text]
    if wrong:
        parser.error(f"{wrong[0]!r}: expected recipe.section.key=value, recipe being {', '.join(PARTS)}")
    return out, Making(**{**options, "overrides": tuple(options["overrides"])})


def main() -> None:
    out, making = parse()
    torch.set_float32_matmul_precision("high")  # TF32 where the device has it
    print(make(out, making))


if __name__ == "__main__":
    main()
