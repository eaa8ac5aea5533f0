"""Small sets of boceto's own scenes, and recipes for them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boceto.scenes import captions, render, sample_scene
from lienzo.training.config import Recipe
from lienzo.training.data import DataConfig

SIDE = 64


def draw(folder: Path, count: int, *, family: str = "cities", seed: int = 0, side: int = SIDE) -> Path:
    """Scenes with their plainest caption."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for i in range(count):
        scene = sample_scene(rng, family)
        render(scene, side).save(folder / f"{i:03}.png")
        (folder / f"{i:03}.txt").write_text(captions(scene)[0].text, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def cities(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(to train on, never to train on), which the embedded model has never seen the like of."""
    root = tmp_path_factory.mktemp("cities")
    return draw(root / "train", 24), draw(root / "held-out", 8, seed=1)


def make_recipe(
    kind: str, train: Path, held_out: Path | None, out: Path, **changes: dict[str, Any]
) -> Recipe[DataConfig]:
    """A short run at 64x64; `changes` are sections."""
    data = {"resolution": SIDE, "dropout": 0.0 if kind == "scratch-clip" else 0.1, **changes.pop("data", {})}
    if kind == "scratch-clip":
        data |= {"bucket_min": SIDE, "bucket_max": SIDE}
    defaults: dict[str, dict[str, Any]] = {
        "model": {"out": out},
        "run": {"steps": 30, "save_every": 1000, "batch_size": 4},
        "schedule": {"warmup": min(5, changes.get("run", {}).get("steps", 30))},
        "watch": {"validate_every": 1000, "sample_every": 1000},
    }
    if kind not in ("scratch-vae", "scratch-clip"):
        defaults["watch"] |= {"sample_steps": 2, "prompts": ["a city"]}
    sections = {name: {**defaults.get(name, {}), **changes.get(name, {})} for name in defaults | changes}
    validation = {"validation": {"sources": held_out}} if held_out else {}
    return Recipe[DataConfig].model_validate(
        {"kind": kind, "data": {"sources": train, **data}, **validation, **sections}
    )


def recorded(out: Path, name: str) -> list[float]:
    """A figure from a run's log, first to last."""
    import json

    lines = map(json.loads, (out / "log.jsonl").read_text(encoding="utf-8").splitlines())
    return [line[name] for line in lines if name in line]
