"""Every kind of recipe improves what it should, on pictures it never trained on; and other programs read what comes out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPModel

from lienzo import Pipeline, Request
from lienzo.training.recipes import run
from lienzo.weights.clip import load_clip
from tiny import psnr, reference
from training.recipes.conftest import SIDE, draw, make_recipe, recorded

VAE_SHAPE = {
    "block_out_channels": [16, 32, 32], "layers_per_block": 1, "norm_num_groups": 2, "mid_block_add_attention": False,
}  # fmt: skip
TEXT_SHAPE = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
VISION_SHAPE = {**TEXT_SHAPE, "image_size": SIDE, "patch_size": 8, "projection_dim": 32}
UNET_SHAPE = {
    "block_out_channels": [32, 64], "layers_per_block": 1, "attention_head_dim": 2, "norm_num_groups": 8,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
}  # fmt: skip
V_PREDICTION = {
    "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
}  # fmt: skip
Sets = tuple[Path, Path]


def falls(out: Path, factor: float, name: str = "validation/loss") -> None:
    before, *_, after = recorded(out, name)
    assert after * factor < before, f"{name}: {before:.4f} -> {after:.4f}"


def theirs(pipe: Any, prompt: str) -> torch.Tensor:
    source = torch.Generator().manual_seed(5)
    image = pipe(prompt, num_inference_steps=5, height=SIDE, width=SIDE, generator=source, output_type="pt").images[0]
    return image.float()


def ours(pipe: Pipeline, prompt: str) -> torch.Tensor:
    result = pipe(Request(prompt, seed=5, steps=5, width=SIDE, height=SIDE))
    return (result.pixels / 2 + 0.5).clamp(0, 1)


# --- fine-tuning -------------------------------------------------------------------------------------------------------


def test_full_and_diffusers_reads_it(cities: Sets, tmp_path: Path) -> None:
    recipe = make_recipe("full", *cities, tmp_path / "run", optimizer={"learning_rate": 3e-4})
    made = run(recipe)
    falls(tmp_path / "run", 1.25)
    pipe = Pipeline.load(made.product)
    assert psnr(theirs(reference(made.product), "a city"), ours(pipe, "a city")) > 50
    card = (made.product / "README.md").read_text(encoding="utf-8")
    assert pipe.bundle.digest not in card  # the card names what the model was made from
    assert Pipeline.load().bundle.digest in card and "validation/loss" in card


def test_dreambooth_keeps_its_class(cities: Sets, tmp_path: Path) -> None:
    """The base makes class pictures, and the model forgets less of them than without."""
    words = {"prompt": "a red circle on a white background", "pictures": 3}

    def drift(out: Path, **changes: Any) -> float:
        kind = "dreambooth" if "classes" in changes else "full"
        made = run(make_recipe(kind, *cities, out, optimizer={"learning_rate": 3e-4}, **changes))
        return psnr(ours(Pipeline.load(made.product), words["prompt"]), ours(Pipeline.load(), words["prompt"]))

    prior = tmp_path / "class"
    kept = drift(tmp_path / "with", data={"prior": prior}, classes=words, loss={"prior_weight": 2.0})
    assert sorted(p.name for p in prior.glob("*.png")) == [f"class-{i:05}.png" for i in range(3)]
    falls(tmp_path / "with", 1.2)
    assert kept > drift(tmp_path / "without") + 1


# --- adapters ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP that has learned two kinds of scenes, to compare pictures with."""
    root = tmp_path_factory.mktemp("clip")
    draw(root / "train", 40)
    draw(root / "train" / "shapes", 40, family="plain", seed=5)
    draw(root / "held-out", 12, seed=1)
    draw(root / "held-out" / "shapes", 12, family="plain", seed=6)
    recipe = make_recipe(
        "scratch-clip", root / "train", root / "held-out", root / "run",
        model={"text_encoder": TEXT_SHAPE, "image_encoder": VISION_SHAPE, "tokenizer": 200, "out": root / "run"},
        run={"steps": 60, "batch_size": 24, "save_every": 1000},
        optimizer={"learning_rate": 1e-3},
    )  # fmt: skip
    return run(recipe).product


def similarity(clip: Path, one: Sequence[Image.Image], other: Sequence[Image.Image]) -> float:
    """Mean cosine of all pairs."""
    loaded = load_clip(clip)
    with torch.inference_mode():
        a, b = (
            F.normalize(loaded.model.image_features(torch.stack([loaded.preprocessing(p) for p in s])))
            for s in (one, other)
        )
    return float((a @ b.T).mean())


def drawn(pipe: Pipeline, prompts: Sequence[str]) -> list[Image.Image]:
    requests = [
        Request(text, seed=i, steps=6, width=SIDE, height=SIDE, guidance_scale=3) for i, text in enumerate(prompts)
    ]
    return [result.image for result in pipe(requests)]


def pictures(folder: Path) -> list[Image.Image]:
    return [Image.open(path).convert("RGB") for path in sorted(folder.glob("*.png"))]


def test_clip_learns_and_transformers_reads_it(clip: Path) -> None:
    before, *_, after = recorded(clip.parent, "validation/accuracy")
    assert after > 2 * before
    model = CLIPModel.from_pretrained(clip)
    loaded = load_clip(clip)
    x = torch.rand(2, 3, SIDE, SIDE)
    with torch.inference_mode():
        expected = model.get_image_features(x)
        expected = getattr(expected, "pooler_output", expected)
        assert torch.allclose(expected, loaded.model.image_features(x), atol=1e-5)


@pytest.fixture(scope="module")
def lora(cities: Sets, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("lora") / "run"
    adapter = {"rank": 8, "targets": ["unet", "text_encoder"], "conv": True}
    recipe = make_recipe(
        "lora", *cities, out, optimizer={"learning_rate": 3e-3}, adapter=adapter,
        run={"steps": 50, "batch_size": 4, "save_every": 1000},
    )  # fmt: skip
    return run(recipe).product


def test_lora_moves_pictures_towards_what_it_learned(cities: Sets, lora: Path, clip: Path) -> None:
    falls(lora.parent, 1.2)
    prompts = [path.read_text(encoding="utf-8") for path in sorted(cities[1].glob("*.txt"))]
    plain = Pipeline.load()
    adapted = plain.with_adapters(lora / "pytorch_lora_weights.safetensors")
    held_out = pictures(cities[1])
    before, after = (similarity(clip, drawn(pipe, prompts), held_out) for pipe in (plain, adapted))
    assert after > before + 0.1, f"{before:.3f} -> {after:.3f}"


def test_a_lora_trained_here_is_the_same_in_diffusers_and_peft(lora: Path, tmp_path: Path) -> None:
    base = Pipeline.load()
    adapted = base.with_adapters(lora / "pytorch_lora_weights.safetensors")
    pipe = reference(_embedded())
    pipe.load_lora_weights(str(lora))
    assert psnr(theirs(pipe, "a city at night"), ours(adapted, "a city at night")) > 50
    assert psnr(ours(base, "a city at night"), ours(adapted, "a city at night")) < 30  # it does something


def test_a_lora_trained_with_peft_is_the_same_here(cities: Sets, tmp_path: Path) -> None:
    pipe = reference(_embedded())
    pipe.unet.requires_grad_(False)
    pipe.unet.add_adapter(LoraConfig(r=4, lora_alpha=8, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    learning = [p for p in pipe.unet.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-2)
    picture = torch.from_numpy(np.array(pictures(cities[0])[0])).permute(2, 0, 1)[None] / 127.5 - 1
    torch.manual_seed(0)
    with torch.no_grad():
        latents = pipe.vae.encode(picture).latent_dist.mean * pipe.vae.config.scaling_factor
        context = pipe.text_encoder(**pipe.tokenizer("a city", padding="max_length", return_tensors="pt"))[0]
    for _ in range(5):
        noise, t = torch.randn_like(latents), torch.randint(0, 1000, (1,))
        output = pipe.unet(pipe.scheduler.add_noise(latents, noise, t), t, context).sample
        F.mse_loss(output, pipe.scheduler.get_velocity(latents, noise, t)).backward()
        optimizer.step()
        optimizer.zero_grad()
    from peft import get_peft_model_state_dict

    diffusers.StableDiffusionPipeline.save_lora_weights(tmp_path, get_peft_model_state_dict(pipe.unet))
    fresh = reference(_embedded())
    fresh.load_lora_weights(str(tmp_path))
    base = Pipeline.load()
    adapted = base.with_adapters(tmp_path / "pytorch_lora_weights.safetensors")
    assert psnr(theirs(fresh, "a city"), ours(adapted, "a city")) > 50
    assert psnr(ours(base, "a city"), ours(adapted, "a city")) < 40


def test_textual_inversion_gives_a_word_its_meaning(clip: Path, cities: Sets, tmp_path: Path) -> None:
    """A word for cities, learned by a model that has never seen one: its pictures come nearer to those held out."""
    train = tmp_path / "data"
    draw(train, 8)
    for path in train.glob("*.txt"):
        path.write_text("a picture of <skyline>", encoding="utf-8")
    recipe = make_recipe(
        "textual_inversion", train, None, tmp_path / "run", optimizer={"learning_rate": 0.1},
        adapter={"token": "<skyline>", "initial": "black", "vectors": 4},
        run={"steps": 60, "batch_size": 4, "save_every": 1000},
    )  # fmt: skip
    made = run(recipe)
    file = made.product / "learned_embeds.safetensors"
    assert {name: tuple(v.shape) for name, v in load_file(file).items()} == {"<skyline>": (4, 192)}
    pipe = Pipeline.load().with_adapters(embeddings=[file])
    held_out = pictures(cities[1])
    prompts = ["a picture of <skyline>"] * 8
    words = [text.replace("<skyline>", "black") for text in prompts]
    before, after = (
        similarity(clip, drawn(Pipeline.load(), words), held_out),
        similarity(clip, drawn(pipe, prompts), held_out),
    )
    assert after > before + 0.1, f"{before:.3f} -> {after:.3f}"
    theirs_pipe = reference(_embedded())
    theirs_pipe.load_textual_inversion(str(made.product))
    assert psnr(theirs(theirs_pipe, prompts[0]), ours(pipe, prompts[0])) > 50


# --- from scratch ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vae(cities: Sets, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("vae") / "run"
    recipe = make_recipe(
        "scratch-vae", *cities, out, model={"out": out, "vae": VAE_SHAPE}, optimizer={"learning_rate": 3e-3},
        run={"steps": 60, "batch_size": 4, "save_every": 1000},
    )  # fmt: skip
    return run(recipe).product


def test_vae_reconstructs_better_and_diffusers_reads_it(vae: Path, cities: Sets) -> None:
    falls(vae.parent, 1.5)
    before, *_, after = recorded(vae.parent, "validation/psnr")
    assert after > before + 3
    network = diffusers.AutoencoderKL.from_pretrained(vae)
    held_out = torch.stack([torch.from_numpy(np.array(p)) for p in pictures(cities[1])]).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        latents = network.encode(held_out).latent_dist.mean * network.config.scaling_factor
    assert abs(float(latents.std()) - 1) < 0.3  # measured, and written into the configuration
    assert float(latents.mean((0, 2, 3)).abs().max()) < 0.5


def test_unet_and_text_encoder_from_scratch(vae: Path, clip: Path, cities: Sets, tmp_path: Path) -> None:
    out = tmp_path / "run"
    recipe = make_recipe(
        "scratch-unet", *cities, out,
        model={
            "out": out, "vae": str(vae), "tokenizer": str(clip), "text_encoder": str(clip), "train_text_encoder": True,
            "unet": UNET_SHAPE, "scheduler": V_PREDICTION, "dtype": "fp16",
        },
        data={"cache": tmp_path / "cache", "cache_latents": True, "trim_padding": 0.5},
        optimizer={"learning_rate": 1e-3},
    )  # fmt: skip
    made = run(recipe)
    falls(out, 1.2)
    pipe = Pipeline.load(made.product)
    assert psnr(theirs(reference(made.product), "a city"), ours(pipe, "a city")) > 50
    weights = load_file(made.product / "unet" / "diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float16}


def _embedded() -> Path:
    import lienzo

    return Path(lienzo.__file__).parent / "assets" / "boceto"
