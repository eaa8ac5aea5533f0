"""Tiny safety checkers, as diffusers writes them."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import clips

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import transformers
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker

SIDE = 32
TEXT = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def pictures() -> list[Image.Image]:
    random = np.random.default_rng(0)
    sizes = [(64, 64), (100, 37), (37, 100), (32, 32), (20, 21), (129, 64), (512, 512), (8, 200)]
    noise = [Image.fromarray(random.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in sizes]
    return [*noise, Image.new("RGB", (64, 64)), Image.new("RGB", (64, 64), "white"), Image.new("RGB", (64, 64), "red")]


def write(folder: Path, *, limits: float | None = None) -> Path:
    """A tiny checker as diffusers writes it. Its limits lie about the cosines of `pictures`, so that some are over and some not."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = transformers.CLIPConfig(
            text_config=TEXT, vision_config=clips.vision(SIDE, "quick_gelu"), projection_dim=24
        )
        network = StableDiffusionSafetyChecker(config)
        clips.stir(network)
        for name in ("concept_embeds", "special_care_embeds"):
            embeds = getattr(network, name)
            embeds.data = torch.randn_like(embeds)
            cosines = torch.cat([cosine(network, prepared(p), embeds) for p in pictures()])
            middle = cosines.quantile(0.85, 0)
            getattr(network, f"{name}_weights").data = middle if limits is None else torch.full_like(middle, limits)
        network.save_pretrained(folder)
        clips.processor(SIDE).save_pretrained(folder)
    return folder


def prepared(image: Image.Image) -> torch.Tensor:
    pixels: torch.Tensor = clips.processor(SIDE)(image, return_tensors="pt")["pixel_values"]
    return pixels


@torch.no_grad()
def cosine(network: Any, pixels: torch.Tensor, embeds: torch.Tensor) -> torch.Tensor:
    vectors = network.visual_projection(network.vision_model(pixels)[1])
    return torch.nn.functional.cosine_similarity(vectors[:, None], embeds[None], dim=-1)
