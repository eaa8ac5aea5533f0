"""Tiny CLIPs, made with transformers in its own layout."""

import json
import warnings
from pathlib import Path
from typing import Any

import torch

import tiny

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import transformers
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil


def make(folder: Path, *, seed: int = 0, side: int = 32, eos: int | None = None, act: str = "quick_gelu") -> Path:
    """A whole CLIP with tokenizer and preprocessing."""
    torch.manual_seed(seed)
    tiny.write_vocabulary(folder)
    size = len(json.loads((folder / "vocab.json").read_text()))
    text: dict[str, Any] = {
        "vocab_size": size, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 77, "bos_token_id": size - 2, "eos_token_id": size - 1 if eos is None else eos,
        "pad_token_id": size - 1, "hidden_act": act,
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = transformers.CLIPConfig(
            text_config=text, vision_config=vision(side, act), projection_dim=16, logit_scale_init_value=2.0
        )
        network = transformers.CLIPModel(config)
        stir(network)
        network.save_pretrained(folder)
        transformers.CLIPTokenizer.from_pretrained(folder, model_max_length=77).save_pretrained(folder)
        processor(side).save_pretrained(folder)
    return folder


def make_vision(folder: Path, *, side: int = 32) -> Path:
    """The image side alone."""
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**vision(side, "gelu")))
        stir(network)
        network.save_pretrained(folder)
    return folder


def vision(side: int, act: str) -> dict[str, Any]:
    return {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": side,
        "patch_size": 8, "projection_dim": 16, "hidden_act": act,
    }  # fmt: skip


def stir(network: torch.nn.Module) -> None:
    """Fresh networks have biases of 0 and hardly differ from one another: give every weight some size."""
    for name, p in network.named_parameters():
        if name != "logit_scale":
            p.data += 0.1 * torch.randn_like(p)


def processor(side: int) -> Any:
    return CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})


def reference(folder: Path, cls: str = "CLIPModel") -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(transformers, cls).from_pretrained(folder).eval()


def tokenizer(folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return transformers.CLIPTokenizer.from_pretrained(folder)
