"""One network at a time, as a folder of diffusers or transformers: `config.json` and its weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from lienzo.config import Config
from lienzo.errors import ConfigError, ModelNotFoundError
from lienzo.models.clip import TextConfig, TextEncoder
from lienzo.models.clip_vision import CLIP
from lienzo.models.unet import UNet, UNetConfig
from lienzo.models.vae import VAE, VAEConfig
from lienzo.weights.clip import LoadedCLIP, load_clip
from lienzo.weights.folder import BASES, current_names, read_json, weights_file
from lienzo.weights.meta import without_memory
from lienzo.weights.model import checked
from lienzo.weights.read import read
from lienzo.weights.save import FILES, write_json, write_tensors

Part = Literal["text_encoder", "unet", "vae"]
KINDS: Mapping[str, tuple[type[Config], type[nn.Module]]] = {
    "text_encoder": (TextConfig, TextEncoder),
    "unet": (UNetConfig, UNet),
    "vae": (VAEConfig, VAE),
}


def load_part(source: str | Path, part: Part) -> Any:
    """A network in fp32, on the CPU, whose weights are the process's own.

    Args:
        source: its folder, or a diffusers folder of which it is a part; for a text encoder, a CLIP's folder too.

    Raises:
        WeightsError: no such folder, or tensors that are not exactly the network's.
        ConfigError: a network that lienzo does not have.
    """
    folder = Path(source) / part if (Path(source) / part).is_dir() else Path(source)
    if not folder.is_dir():
        raise ModelNotFoundError(f"No folder {source}. Name one that holds a {part}: its config.json and weights.")
    settings = read_json(folder / "config.json")
    if part == "text_encoder" and "text_config" in settings:
        return _text_side(load_clip(folder))
    try:
        network = build(part, settings, empty=True)
    except ConfigError as error:
        raise ConfigError(f"{folder / 'config.json'}: {error}") from None
    path, _ = weights_file(folder, BASES[part], None)
    tensors = checked(str(path), network.state_dict(), current_names(part, read(path).tensors))
    own = {name: value.to(torch.float32, copy=True).contiguous() for name, value in tensors.items()}
    network.load_state_dict(own, strict=True, assign=True)
    return network


def _text_side(clip: LoadedCLIP) -> TextEncoder:
    assert isinstance(clip.model, CLIP)
    with without_memory():
        network = TextEncoder(clip.model.config.text)
    text = {name: value for name, value in clip.model.state_dict().items() if name.startswith("text_model.")}
    network.load_state_dict({name: value.clone() for name, value in text.items()}, strict=True, assign=True)
    return network


def build(part: Part, shape: Mapping[str, Any], *, empty: bool = False) -> Any:
    """A network of a published shape, with torch's starting weights; `empty`: without memory for them.

    Raises:
        ConfigError: no network can be built from it.
    """
    config, network = KINDS[part]
    try:
        if empty:
            with without_memory():
                return network(config.from_dict(shape))
        return network(config.from_dict(shape))
    except ConfigError:
        raise
    except (TypeError, ValueError, ArithmeticError, IndexError, RuntimeError) as error:
        raise ConfigError(f"No {part} can be built from this configuration: {error}.") from None


def save_part(network: TextEncoder | UNet | VAE, folder: Path, *, dtype: torch.dtype | None = None) -> None:
    """Write a network into a folder, which is made.

    Raises:
        FormatError: weights that the dtype cannot hold.
    """
    part = next(name for name, (_, kind) in KINDS.items() if isinstance(network, kind))
    folder.mkdir(parents=True, exist_ok=True)
    tensors = network.state_dict()
    write_tensors(folder / FILES[part], tensors, tensors.__getitem__, dtype=dtype)
    write_json(folder / "config.json", network.config.to_dict())
