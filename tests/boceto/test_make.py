"""The one command, at a tiny size: every part is made by its recipe, kept, judged, carded and read by diffusers."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from diffusers import StableDiffusionPipeline

from boceto import draw, make
from boceto.make import PARTS, RECIPES, SET_OF, Making, flat, overrides, parse, share
from lienzo.training.recipes import read

TINY = Making(
    device="cpu",
    side=64,
    scenes=24,
    judged=2,
    overrides=(
        *(f"{part}.schedule.warmup=1" for part in PARTS),
        "vae.run.steps=2",
        "vae.run.batch_size=2",
        "vae.model.vae.block_out_channels=[8, 8, 8, 8]",
        "vae.watch.validation_pictures=2",
        "clip.run.steps=2",
        "clip.run.batch_size=4",
        "clip.model.image_encoder.hidden_size=24",
        "clip.model.image_encoder.num_hidden_layers=1",
        "clip.model.text_encoder.hidden_size=16",
        "clip.model.text_encoder.num_hidden_layers=1",
        "clip.watch.validation_pictures=4",
        "unet.run.steps=2",
        "unet.run.batch_size=2",
        "unet.model.unet.block_out_channels=[8, 16, 16, 16]",
        "unet.model.unet.attention_head_dim=2",
        "unet.model.text_encoder.hidden_size=16",
        "unet.model.text_encoder.num_hidden_layers=1",
        "unet.watch.validation_pictures=2",
        "unet.watch.sample_steps=1",
    ),
)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(draw, "VALIDATION", 8)
        make.make(folder, TINY)
    return folder


def test_diffusers_loads_and_runs_the_folder(work: Path) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(str(work / "boceto"), safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    image = pipe("a red circle", num_inference_steps=2).images[0]
    assert image.size == (64, 64)
    assert pipe.scheduler.config.prediction_type == "v_prediction"


def test_the_folder_holds_the_model_its_card_and_its_sheets_alone(work: Path) -> None:
    names = {path.name for path in (work / "boceto").iterdir()}
    assert {name for name in names if not name.startswith("sheet-")} == {
        "README.md", "figures.json", "model_index.json", "scheduler", "text_encoder", "tokenizer", "unet", "vae",
    }  # fmt: skip
    assert len(names) == 8 + 7
    card = (work / "boceto" / "README.md").read_text(encoding="utf-8")
    assert "{" not in card and str(work) not in card
    assert "--side 64 --scenes 24" in card and "stored as fp16" in card


def test_the_card_says_what_the_judge_found(work: Path) -> None:
    card = (work / "boceto" / "README.md").read_text(encoding="utf-8")
    figures = json.loads((work / "boceto" / "figures.json").read_text(encoding="utf-8"))
    for family, table in figures["families"].items():
        assert f"**{family}**" in card and f"sheet-{family}.webp" in card
        row = table["everything"]
        assert f"| everything | {row['of']} | {row['right'] / row['of']:.1%} |" in card
    assert f"| {figures['fid']['all']['pictures']:.3g} | {figures['fid']['all']['floor']:.3g} |" in card


def test_the_same_command_repeats_nothing_that_is_finished(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draw, "VALIDATION", 8)
    kept = [*work.glob("drawn/*/*.tar"), *work.glob("*/checkpoints/**/*.safetensors")]
    before = {path: path.stat().st_mtime_ns for path in kept}
    weights = {path: path.read_bytes() for path in (work / "boceto").rglob("*.safetensors")}
    make.make(work, TINY)
    assert before and {path: path.stat().st_mtime_ns for path in kept} == before
    assert {path: path.read_bytes() for path in weights} == weights


def test_a_model_is_gone_on_from(work: Path, tmp_path: Path) -> None:
    making = replace(TINY, start=work / "boceto")
    found = {
        part: read(RECIPES / f"{part}.toml", overrides(part, tmp_path, making)) for part in PARTS if part == "clip"
    }
    assert found["clip"].model.text_encoder  # new: no model's folder holds it
    told = dict(line.split("=", 1) for line in overrides("unet", tmp_path, replace(making, overrides=())))
    assert json.loads(told["model.unet"]) == str(work / "boceto" / "unet")
    assert json.loads(told["model.tokenizer"]) == str(work / "boceto" / "tokenizer")
    assert json.loads(told["model.vae"]) == str(tmp_path / "vae" / "model")  # which went on from the model's own
    told = dict(line.split("=", 1) for line in overrides("vae", tmp_path, replace(making, overrides=())))
    assert json.loads(told["model.vae"]) == str(work / "boceto" / "vae")


@pytest.mark.parametrize("device", ["cuda", "cpu"])
@pytest.mark.parametrize("part", PARTS)
def test_recipes_are_right_on_both_devices(part: str, device: str, tmp_path: Path) -> None:
    recipe = read(RECIPES / f"{part}.toml", overrides(part, tmp_path, Making(device=device, side=256)))
    assert recipe.kind == f"scratch-{part}" and recipe.model.out == tmp_path / part
    assert recipe.data.sources[0].path == tmp_path / "drawn" / SET_OF[part]
    assert recipe.validation is not None
    assert recipe.validation.sources[0].path == tmp_path / "drawn" / f"{SET_OF[part]}-held-out"
    assert recipe.data.buckets == recipe.validation.buckets
    assert recipe.data.resolution == {"vae": 128, "clip": 128, "unet": 256}[part]
    assert recipe.run.precision == ("bf16" if (part, device) == ("unet", "cuda") else "fp32")


def test_minutes_are_shared_out_as_the_recipes_do(tmp_path: Path) -> None:
    assert sum(share(part) for part in PARTS) == pytest.approx(1)
    minutes = {
        part: read(RECIPES / f"{part}.toml", overrides(part, tmp_path, Making(minutes=10))).run.minutes
        for part in PARTS
    }
    assert sum(value for value in minutes.values() if value) == pytest.approx(10, abs=0.01)
    assert max(minutes, key=lambda part: minutes[part] or 0) == "unet"


def test_sections_are_laid_flat() -> None:
    assert dict(flat({"run": {"steps": 5}, "data": {"threads": 2}})) == {"run.steps": 5, "data.threads": 2}


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, making = parse(["--out", str(tmp_path), "--device", "cpu", "--minutes", "5", "unet.run.batch_size=8"])
    assert out == tmp_path and making == Making(device="cpu", minutes=5.0, overrides=("unet.run.batch_size=8",))
    with pytest.raises(SystemExit):
        parse(["--out", str(tmp_path), "run.batch_size=8"])
    assert "recipe being vae, clip, unet" in capsys.readouterr().err
