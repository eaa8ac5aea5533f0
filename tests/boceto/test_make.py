"""The one command, at a tiny size: every part is made, kept, and read by diffusers."""

from dataclasses import replace
from math import inf
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from boceto.make import SCHEDULE, UNET_CONFIG, VAE_CONFIG, Recipe, centred, make, pixels, signed
from boceto.scenes import Scene, Thing
from lienzo.models.vae import VAE

TINY = Recipe(
    minutes=inf,
    steps=3,
    vae=replace(VAE_CONFIG, block_out_channels=(8, 8, 8, 8)),
    unet=replace(UNET_CONFIG, block_out_channels=(16, 32, 32), cross_attention_dim=48, attention_head_dim=2),
    text_width=48,
    text_layers=1,
    schedule=SCHEDULE,
    vae_pictures=8,
    vae_batch=2,
    scenes=70,
    wordings=2,
    batch=4,
    judged=3,
)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    make(folder, TINY)
    return folder


def test_diffusers_loads_and_runs_the_folder(work: Path) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(str(work / "model"), safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    image = pipe("a red circle", num_inference_steps=2, height=128, width=128).images[0]
    assert image.size == (128, 128)
    assert pipe.scheduler.config.prediction_type == "v_prediction"


def test_card_and_sheet_are_beside_the_weights(work: Path) -> None:
    card = (work / "model" / "README.md").read_text()
    assert "| everything | 3 |" in card and "{" not in card
    assert (work / "model" / "sheet.png").stat().st_size > 1000


def test_the_same_command_repeats_nothing_that_is_finished(work: Path) -> None:
    files = {path: path.stat().st_mtime_ns for path in work.rglob("*") if path.is_file() and "model" not in path.parts}
    before = {path: path.read_bytes() for path in (work / "model").rglob("*.safetensors")}
    make(work, TINY)
    assert {path: path.stat().st_mtime_ns for path in files if path.name != "log.jsonl"} == {
        path: stamp for path, stamp in files.items() if path.name != "log.jsonl"
    }
    assert {path: path.read_bytes() for path in before} == before


def test_centred_latents_and_the_same_reconstruction() -> None:
    torch.manual_seed(0)
    vae = VAE(TINY.vae).requires_grad_(False)
    pictures = torch.rand(8, 3, 64, 64) * 2 - 1
    before = vae.encode(pictures)
    decoded, sampled = (vae.decode(z) for z in (before.mode(), before.sample(torch.ones(()))))
    centred(vae, pictures)
    after = vae.encode(pictures)
    latents = after.mode()
    assert torch.allclose(latents.mean((0, 2, 3)), torch.zeros(4), atol=1e-3)
    assert torch.allclose(latents.std((0, 2, 3)), torch.ones(4), atol=1e-3)
    assert torch.allclose(vae.decode(latents), decoded, atol=1e-3)
    assert torch.allclose(vae.decode(after.sample(torch.ones(()))), sampled, atol=1e-3)  # the posterior's width too


def test_pixels_are_signed_and_channels_first() -> None:
    scene = Scene(background="white", things=(Thing(name="circle", colour="red", x=0.5, y=0.5, radius=0.2),))
    picture = signed(pixels(scene))
    assert picture.shape == (3, 128, 128)
    assert picture[:, 0, 0].tolist() == pytest.approx([250 / 127.5 - 1] * 3)
    assert picture[0, 64, 64] > 0 > picture[1, 64, 64]
