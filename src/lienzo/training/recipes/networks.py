"""New networks, and what they start from."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from lienzo.errors import ConfigError
from lienzo.models.clip import TextEncoder
from lienzo.models.tokenizer import Tokenizer
from lienzo.models.unet import UNet
from lienzo.models.vae import VAE
from lienzo.training.config import Recipe
from lienzo.training.data import DataConfig, Dataset
from lienzo.training.vocabulary import learn_vocabulary
from lienzo.weights import EMBEDDED
from lienzo.weights.parts import build

WORDS_FROM = 100_000
"""Captions from which a vocabulary is learned, at most: the first ones."""


def needs_base(recipe: Recipe[DataConfig], *settings: str) -> bool:
    """Whether one of these settings of `[model]` is not given, so that what it is for comes from the base.

    Raises:
        ConfigError: a base is named, and nothing comes from it.
    """
    if any(getattr(recipe.model, name) is None for name in settings):
        return True
    if recipe.model.base != EMBEDDED:
        raise ConfigError(
            f"model.base: got {recipe.model.base!r}, but nothing is taken from it: {', '.join(settings)} are all given. Leave it out."
        )
    return False


def tokenizer_for(recipe: Recipe[DataConfig], dataset: Dataset, inherited: Tokenizer | None) -> Tokenizer:
    """The one that a recipe names, learns or inherits."""
    chosen = recipe.model.tokenizer
    if isinstance(chosen, int):
        captions = (caption for record in dataset.records for caption in record.captions)
        return learn_vocabulary((text for text, _ in zip(captions, range(WORDS_FROM), strict=False)), chosen)
    if isinstance(chosen, str):
        return _tokenizer(chosen)
    assert inherited is not None
    return inherited


def _tokenizer(source: str) -> Tokenizer:
    from pathlib import Path

    folder = Path(source)
    return Tokenizer.from_folder(folder / "tokenizer" if (folder / "tokenizer").is_dir() else folder)


def text_shape(shape: Mapping[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
    """A text encoder's configuration, completed by what the tokenizer decides.

    Raises:
        ConfigError: it says otherwise.
    """
    bos, eos = tokenizer.encode("").ids[:2]
    pad = tokenizer.encode("").ids[-1]
    decided = {
        "vocab_size": len(tokenizer), "max_position_embeddings": tokenizer.max_length,
        "bos_token_id": bos, "eos_token_id": eos, "pad_token_id": pad,
    }  # fmt: skip
    for key, value in decided.items():
        if shape.get(key, value) != value:
            raise ConfigError(f"model.text_encoder.{key}: got {shape[key]}; the tokenizer says {value}. Leave it out.")
    return {"projection_dim": shape.get("hidden_size", 512), **shape, **decided}


def new_text_encoder(shape: Mapping[str, Any], tokenizer: Tokenizer, *, seed: int) -> TextEncoder:
    """With its starting weights."""
    torch.manual_seed(seed)
    network: TextEncoder = build("text_encoder", text_shape(shape, tokenizer))
    spread_embeddings(network)
    return network


def spread_embeddings(network: nn.Module) -> None:
    """Embeddings of words as large as what the layers add to them, those of places smaller.

    CLIP's own are 0.02 and 0.01 (arXiv:2103.00020's code); with those, all words of small encoders soon looked alike to the
    U-Net that learned with them.
    """
    for name, parameter in network.named_parameters():
        if name.endswith("token_embedding.weight"):
            nn.init.normal_(parameter, std=1.0)
        elif name.endswith("position_embedding.weight"):
            nn.init.normal_(parameter, std=0.3)


def decided_by(text: TextEncoder, vae: VAE) -> dict[str, int]:
    """What text encoder and VAE ask of a U-Net's configuration."""
    channels = vae.config.latent_channels
    return {"cross_attention_dim": text.config.hidden_size, "in_channels": channels, "out_channels": channels}


def check_unet(shape: Mapping[str, Any], decided: Mapping[str, int]) -> None:
    """Check a U-Net's configuration against what is decided.

    Raises:
        ConfigError: it says otherwise.
    """
    for key, value in decided.items():
        if shape.get(key, value) != value:
            raise ConfigError(f"model.unet.{key}: got {shape[key]}; text encoder, VAE and data ask for {value}.")


def new_unet(shape: Mapping[str, Any], text: TextEncoder, vae: VAE, cells: int, *, seed: int) -> UNet:
    """With its starting weights: blocks are the identity and the network is zero at first, which it learns faster from
    (arXiv:2105.05233, section 3; arXiv:2102.09672's code).

    Args:
        cells: side of the latents that it is trained on.
    """
    torch.manual_seed(seed)
    decided = {**decided_by(text, vae), "sample_size": cells}
    check_unet(shape, decided)
    network: UNet = build("unet", {**shape, **decided})
    _zero(network.named_parameters())
    return network


def _zero(parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
    for name, parameter in parameters:
        if name.split(".")[-2] in ("conv2", "conv_out", "proj_out"):
            nn.init.zeros_(parameter)
