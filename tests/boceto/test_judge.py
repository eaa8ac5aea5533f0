"""Judging: held-out prompts only, honest intervals, the programs measured on true renders, a sheet nobody picked."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from boceto.draw import ICONS, icon_captions
from boceto.judge import (
    WITH_ICONS,
    Judgement,
    counted,
    draw,
    figures,
    groups,
    held_out_prompts,
    icons_told,
    judge,
    sheet,
    there_and_back,
    wilson,
    write,
)
from boceto.look import icon_crops, score
from boceto.scenes import FAMILIES, PLAIN, Scene, Thing, captions, held_out, render
from lienzo.models.clip import TextConfig
from lienzo.models.clip_vision import CLIP, CLIPConfig, Preprocessing, VisionConfig
from lienzo.models.tokenizer import Tokenizer
from lienzo.weights import load
from lienzo.weights.clip import LoadedCLIP
from lienzo.weights.save import save_clip

EMBEDDED = Path(str(Path(__file__).parents[2] / "src/lienzo/assets/boceto"))
EVERY = (PLAIN, *FAMILIES)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that has learned nothing, of the size that boceto's has."""
    torch.manual_seed(0)
    tokenizer = Tokenizer.from_folder(EMBEDDED / "tokenizer")
    size = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    end = len(tokenizer.vocab) - 1
    text = TextConfig(**size, vocab_size=end + 1, bos_token_id=end - 1, eos_token_id=end, pad_token_id=end)
    vision = VisionConfig(**size, image_size=128, patch_size=32, projection_dim=16)
    model = CLIP(CLIPConfig(text=text, vision=vision, projection_dim=16))
    folder = tmp_path_factory.mktemp("clip") / "model"
    save_clip(model, folder, tokenizer=tokenizer, preprocessing=Preprocessing.square(128))
    return folder


@pytest.mark.parametrize("family", EVERY)
def test_prompts_are_held_out_and_bilingual(family: str) -> None:
    prompts = held_out_prompts(20, 0, family)
    assert all(held_out(scene) and caption in captions(scene) for scene, caption in prompts)
    assert [caption.language for _, caption in prompts] == ["en", "es"] * 10
    assert prompts == held_out_prompts(20, 0, family) != held_out_prompts(20, 1, family)


@pytest.mark.parametrize("side", [128, 256])
@pytest.mark.parametrize("family", EVERY)
def test_true_renders_get_full_marks_and_blank_pictures_none(family: str, side: int) -> None:
    prompts = held_out_prompts(24, 2, family)
    best = figures([(scene, caption, score(render(scene, side), scene)) for scene, caption in prompts])
    assert best["everything"]["of"] == 24
    assert best["everything"]["right"] >= 23
    blank = Image.fromarray(np.full((side, side, 3), 77, np.uint8))
    worst = figures([(scene, caption, score(blank, scene)) for scene, caption in prompts])
    assert worst["everything"]["right"] == 0


def test_wilson_interval() -> None:
    low, high = wilson(8, 10)
    assert (low, high) == pytest.approx((0.490, 0.943), abs=1e-3)
    assert wilson(10, 10)[1] == pytest.approx(1.0)


def test_groups_take_their_marks_from_all_families() -> None:
    prompts = [prompt for family in FAMILIES for prompt in held_out_prompts(24, 3, family)]
    scores = [(scene, caption, score(render(scene, 128), scene)) for scene, caption in prompts]
    found = groups(scores)
    assert set(found) == {"shape", "colour", "relation", "count to four"}
    assert found["shape"]["of"] == 24
    few = sum("count" in marks and counted(scene) <= 4 for scene, _, marks in scores)
    assert found["count to four"]["of"] == few < sum("count" in marks for _, _, marks in scores)
    wrong = [(scene, caption, dict.fromkeys(marks, False)) for scene, caption, marks in scores]
    assert all(row["right"] == 0 for row in groups(wrong).values())


def test_what_is_counted() -> None:
    thing = Thing(name="tree", colour="green", x=0.5, y=0.5, radius=0.1)
    bars = Scene(family="dashboards", kind="bar chart", background="white", things=(), facts=(("bars", "5"),))
    pie = replace(bars, kind="pie chart", facts=(("slices", "red blue green"),))
    trees = Scene(family="landscapes", background="white", things=(thing, replace(thing, name="house")))
    assert [counted(scene) for scene in (bars, pie, trees, replace(trees, family="shapes"))] == [5, 3, 1, 2]


def test_icons_are_told_by_the_likeliest_words(monkeypatch: pytest.MonkeyPatch) -> None:
    scenes = [scene for family in WITH_ICONS for scene, _ in held_out_prompts(12, 5, family)]
    pictures = [render(scene, 128) for scene in scenes]
    crops = [one for p, s in zip(pictures, scenes, strict=True) for one in icon_crops(p, s, 128)]
    place = {text: i for i, name in enumerate(ICONS) for text in icon_captions(name)}
    names = iter([name for name, _ in crops])

    class Sees:
        def of(self, pictures):  # type: ignore[no-untyped-def]
            return np.eye(len(ICONS))[[ICONS.index(next(names)) for _ in pictures]]

    words = lambda clip, texts: (np.eye(len(ICONS))[[place[text] for text in texts]], ())  # noqa: E731
    monkeypatch.setattr("boceto.judge.text_features", words)
    monkeypatch.setattr("boceto.judge.clip_features", lambda clip: Sees())
    told = icons_told(_none(), pictures, scenes)
    assert len(told) == len(crops) > 12 and all(told)
    names = iter(["bot" if name != "bot" else "user" for name, _ in crops])
    assert not any(icons_told(_none(), pictures, scenes))


def _none() -> LoadedCLIP:
    model = CLIP.__new__(CLIP)
    return LoadedCLIP(name="", model=model, preprocessing=Preprocessing.square(128), tokenizer=None, digest="")


def test_the_floor_is_what_the_vae_leaves() -> None:
    bundle = load(EMBEDDED)
    pictures = [render(scene, 128) for scene, _ in held_out_prompts(3, 0)]
    back = list(there_and_back(bundle, pictures))
    error = np.mean([(np.asarray(a, float) - np.asarray(b, float)) ** 2 for a, b in zip(pictures, back, strict=True)])
    assert [picture.size for picture in back] == [(128, 128)] * 3
    assert 0 < error < 255**2 / 10**2.5  # 25 dB


def test_a_picture_does_not_depend_on_its_batch() -> None:
    bundle = load(EMBEDDED)
    texts = ["a red circle", "un cuadrado azul"]
    alone = list(draw(bundle, texts, size=1))
    together = list(draw(bundle, texts, size=2))
    assert all(np.abs(np.subtract(a, b, dtype=int)).max() <= 2 for a, b in zip(alone, together, strict=True))


def test_everything_is_judged_beside_true_renders_and_written(clip: Path, tmp_path: Path) -> None:
    found = judge(EMBEDDED, clip, 3, families=("shapes", "networks"), processes=1)
    write(found, tmp_path)
    assert json.loads((tmp_path / "figures.json").read_text(encoding="utf-8")) == found.figures
    assert set(found.figures["families"]) == {"shapes", "networks"} == set(found.sheets)
    assert found.figures["families"]["networks"]["everything"]["renders"] == 1.0
    assert set(found.figures["fid"]) == {"shapes", "networks", "all"}
    assert all(row["floor"] < row["pictures"] for row in found.figures["fid"].values())
    assert set(found.figures["icons"]) == {"pictures", "renders"}
    with Image.open(tmp_path / "sheet-shapes.webp") as page:
        assert page.format == "WEBP"
    assert isinstance(found, Judgement)


def test_sheet_holds_every_picture() -> None:
    page = sheet([Image.new("RGB", (128, 128), "red")] * 10, ["a red picture, una imagen roja"] * 10)
    red = (np.asarray(page) == (255, 0, 0)).all(-1).sum()
    assert red == 10 * 128 * 128
