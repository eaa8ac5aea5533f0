"""Tiny models of the real classes, made with diffusers and transformers in their own layout."""

import json
import warnings
from pathlib import Path
from typing import Any

import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import diffusers
    import transformers

SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
FAMILIES: dict[str, dict[str, Any]] = {
    "sd1": {
        "unet": {"attention_head_dim": 2},
        "text": {"hidden_act": "quick_gelu"},
        "scheduler": ("PNDMScheduler", {"skip_prk_steps": True, "steps_offset": 1}),
    },
    "sd2": {
        "unet": {"attention_head_dim": (2, 4), "use_linear_projection": True, "upcast_attention": True},
        "text": {"hidden_act": "gelu"},
        "scheduler": (
            "DDIMScheduler",
            {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1, "prediction_type": "v_prediction"},
        ),
    },
    "inpaint": {
        "unet": {"attention_head_dim": 2, "in_channels": 9},
        "text": {"hidden_act": "quick_gelu"},
        "scheduler": ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}),
    },
}


def write_vocabulary(folder: Path) -> None:
    """A small vocabulary in CLIP's format: every byte, every byte at a word's end, and some merges."""
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(c + "</w>" for c in letters)]
    merges = ["a n", "an d</w>", "t h", "th e</w>", "r e", "re d</w>", "c a", "ca t</w>", "b l", "u e</w>", "bl ue</w>"]
    words += [m.replace(" ", "") for m in merges] + ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")


def make(folder: Path, family: str, *, seed: int = 0, **unet: Any) -> Path:
    """Write a tiny diffusers pipeline of random weights, whose pictures are not flat."""
    spec = FAMILIES[family]
    torch.manual_seed(seed)
    write_vocabulary(folder / "words")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tokenizer = transformers.CLIPTokenizer.from_pretrained(folder / "words", model_max_length=77)
        size = len(tokenizer)
        text = transformers.CLIPTextModel(
            transformers.CLIPTextConfig(
                vocab_size=size, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
                max_position_embeddings=77, projection_dim=32, bos_token_id=size - 2, eos_token_id=size - 1,
                pad_token_id=size - 1, **spec["text"],
            )
        )  # fmt: skip
        network = diffusers.UNet2DConditionModel(
            **{
                "sample_size": 16, "block_out_channels": (32, 64), "layers_per_block": 2, "cross_attention_dim": 32,
                "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
                "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), **spec["unet"], **unet,
            }
        )  # fmt: skip
        vae = diffusers.AutoencoderKL(
            block_out_channels=(32, 32, 64, 64), layers_per_block=1,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        )  # fmt: skip
        for parameters in (network.conv_out.parameters(), vae.decoder.conv_out.parameters()):
            for p in parameters:
                p.data *= 3
        name, settings = spec["scheduler"]
        scheduler = getattr(diffusers, name)(**SCHEDULE, **settings)
        cls = diffusers.StableDiffusionInpaintPipeline if family == "inpaint" else diffusers.StableDiffusionPipeline
        pipe = cls(
            vae=vae, text_encoder=text, tokenizer=tokenizer, unet=network, scheduler=scheduler,
            safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip
        pipe.save_pretrained(folder / "model")
    return folder / "model"


def reference(folder: Path, cls: str = "StableDiffusionPipeline") -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe = getattr(diffusers, cls).from_pretrained(folder, safety_checker=None, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """Of two pictures in [0, 1], in dB."""
    error = float((a.double() - b.double()).square().mean())
    return float("inf") if error == 0 else -10 * torch.log10(torch.tensor(error)).item()
