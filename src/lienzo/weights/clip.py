"""CLIP on disk: a folder (or hub id) as transformers writes it, or one file of its weights beside its configuration."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lienzo.errors import ConfigError, FormatError, ModelNotFoundError
from lienzo.models.bundle import tensors_digest
from lienzo.models.clip import TextConfig
from lienzo.models.clip_vision import CLIP, CLIPConfig, ImageEncoder, Preprocessing, VisionConfig
from lienzo.models.tokenizer import Tokenizer
from lienzo.weights import hub
from lienzo.weights.folder import read_json, weights_file
from lienzo.weights.meta import without_memory
from lienzo.weights.model import checked
from lienzo.weights.read import read

BASES = ("model", "pytorch_model")
WANTED = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "model.safetensors",
)
"""What is fetched from the hub."""
TEXT_DEFAULTS = {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8, "projection_dim": 512}
"""transformers' own where a configuration is silent (ViT-B/32); `TextConfig` has those of SD 1.x."""
WRITTEN_BY_OLD = frozenset(
    [
        "add_cross_attention",
        "bad_words_ids",
        "begin_suppress_tokens",
        "chunk_size_feed_forward",
        "cross_attention_hidden_size",
        "decoder_start_token_id",
        "diversity_penalty",
        "do_sample",
        "early_stopping",
        "encoder_no_repeat_ngram_size",
        "exponential_decay_length_penalty",
        "finetuning_task",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "id2label",
        "is_decoder",
        "is_encoder_decoder",
        "label2id",
        "length_penalty",
        "max_length",
        "min_length",
        "no_repeat_ngram_size",
        "num_beam_groups",
        "num_beams",
        "num_return_sequences",
        "output_scores",
        "prefix",
        "problem_type",
        "pruned_heads",
        "remove_invalid_values",
        "repetition_penalty",
        "return_dict_in_generate",
        "sep_token_id",
        "suppress_tokens",
        "task_specific_params",
        "temperature",
        "tf_legacy_loss",
        "tie_encoder_decoder",
        "tokenizer_class",
        "top_k",
        "top_p",
        "torchscript",
        "typical_p",
        "use_bfloat16",
    ]
)
"""transformers 4 wrote the settings of text generation into every configuration; CLIP has no use for them."""


@dataclass(frozen=True, kw_only=True)
class LoadedCLIP:
    """A CLIP, or its image side alone, ready to use.

    Attributes:
        tokenizer: None where only the image side was there.
        digest: SHA-256 of the weights as they are in the file; see `lienzo.models.bundle.tensors_digest`.
    """

    name: str
    model: CLIP | ImageEncoder
    preprocessing: Preprocessing
    tokenizer: Tokenizer | None
    digest: str


def load_clip(
    source: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    revision: str | None = None,
    offline: bool | None = None,
) -> LoadedCLIP:
    """Load a CLIP.

    Args:
        source: a folder as transformers writes it (CLIPModel, or CLIPVisionModelWithProjection for the image side alone),
            a file of weights that lies in such a folder, or a hub id.
        revision, offline: of a hub id, as for `lienzo.weights.load`.

    Returns:
        Networks in evaluation mode that need no gradients.

    Raises:
        WeightsError: no such model, or tensors that are not exactly those of the configuration.
        ConfigError: a network or a way to prepare pictures that lienzo does not have.
    """
    path = hub.find(source, "The CLIP model", revision=revision, offline=offline, only=WANTED)
    if not path.exists():
        raise ModelNotFoundError(
            f"No CLIP model at {source}: no such folder or file. A hub id has the form organisation/name."
        )
    name = path.resolve().name if hub.local(source, "The CLIP model").exists() else str(source)
    folder, file = (path.parent, path) if path.is_file() else (path, weights_file(path, BASES, None)[0])
    try:
        settings = read_json(folder / "config.json")
    except ModelNotFoundError as error:
        raise ModelNotFoundError(f"{error} The shape of a CLIP is told by its config.json.") from None
    checkpoint = read(file)
    network, vision = _network(settings, folder / "config.json")
    tensors = checked(str(file), network.state_dict(), without_positions(checkpoint.tensors))
    digest = tensors_digest(tensors)
    network.load_state_dict({k: v.to(device, dtype).contiguous() for k, v in tensors.items()}, strict=True, assign=True)
    network.eval().requires_grad_(False)
    checkpoint.forget_pages()
    preprocessing = preprocessing_of(folder, vision.image_size)
    tokenizer = Tokenizer.from_folder(folder) if isinstance(network, CLIP) else None
    if isinstance(network, CLIP) and tokenizer is not None:
        _check_words(network.config.text, tokenizer, folder)
    return LoadedCLIP(name=name, model=network, preprocessing=preprocessing, tokenizer=tokenizer, digest=digest)


def _network(settings: Mapping[str, Any], path: Path) -> tuple[CLIP | ImageEncoder, VisionConfig]:
    try:
        with without_memory():
            if "text_config" not in settings and "vision_config" not in settings:
                vision = VisionConfig.from_dict(_used(settings))
                return ImageEncoder(vision), vision
            config = clip_config(settings)
            return CLIP(config), config.vision
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise ConfigError(f"{path}: {error}") from None


def clip_config(settings: Mapping[str, Any]) -> CLIPConfig:
    """The configuration that transformers wrote for a CLIPModel.

    Raises:
        ConfigError: another kind of model, or a setting that lienzo's networks do not have.
    """
    if settings.get("model_type", "clip") != "clip":
        raise ConfigError(f"model_type={settings['model_type']!r}; expected 'clip'.")
    text, vision = (
        {**(settings.get(f"{side}_config") or {}), **(settings.get(f"{side}_config_dict") or {})}
        for side in ("text", "vision")
    )
    scale, width = settings.get("logit_scale_init_value", 2.6592), settings.get("projection_dim", 512)
    if not isinstance(width, int) or not isinstance(scale, int | float):
        raise ConfigError(f"projection_dim={width!r}, logit_scale_init_value={scale!r}: expected numbers.")
    return CLIPConfig(
        text=TextConfig.from_dict({**TEXT_DEFAULTS, **_used(text)}),
        vision=VisionConfig.from_dict(_used(vision)),
        projection_dim=width,
        logit_scale_init_value=float(scale),
    )


def _used(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in WRITTEN_BY_OLD}


def without_positions(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """transformers before 4.31 saved the constant 0, 1, 2 ..."""
    return {key: value for key, value in tensors.items() if not re.search(r"\.embeddings\.position_ids$", key)}


def _check_words(config: TextConfig, tokenizer: Tokenizer, folder: Path) -> None:
    ids = tokenizer.encode("").ids
    if max(ids) >= config.vocab_size or len(ids) > config.max_position_embeddings:
        raise FormatError(
            f"{folder}: the tokenizer (ids up to {max(ids)}, {len(ids)} a text) does not fit the text encoder "
            f"({config.vocab_size} ids, {config.max_position_embeddings} a text)."
        )
    if config.eos_token_id != 2 and config.eos_token_id not in ids:
        raise FormatError(
            f"{folder}: the text encoder reads at token {config.eos_token_id} (eos_token_id), which the tokenizer never writes."
        )


def preprocessing_of(folder: Path, side: int) -> Preprocessing:
    """As the folder says, else CLIP's own for the encoder's size.

    Raises:
        ConfigError: it prepares pictures in a way that lienzo does not have.
    """
    path = folder / "preprocessor_config.json"
    if path.is_file():
        settings = read_json(path)
    elif (path := folder / "processor_config.json").is_file():
        settings = read_json(path).get("image_processor", {})
    else:
        return Preprocessing.square(side)
    wanted = {"do_resize": True, "do_center_crop": True, "do_normalize": True, "do_rescale": True, "resample": 3}
    for key, value in wanted.items():
        if settings.get(key, value) != value:
            raise ConfigError(f"{path}: {key}={settings[key]!r} is not supported; only {value!r} is.")
    size, crop = settings.get("size", side), settings.get("crop_size", side)
    short = size.get("shortest_edge") if isinstance(size, dict) else size
    cut = (crop.get("height"), crop.get("width")) if isinstance(crop, dict) else (crop, crop)
    if cut != (side, side) or not isinstance(short, int):
        raise ConfigError(
            f"{path}: size={size!r}, crop_size={crop!r}; expected a shortest_edge, and the encoder's {side}x{side} cut out."
        )
    default = Preprocessing.square(side)
    try:
        mean, std = (
            tuple(float(v) for v in settings.get(key, own))
            for key, own in (("image_mean", default.mean), ("image_std", default.std))
        )
        if len(mean) != 3 or len(std) != 3 or not all(std):
            raise ValueError("expected three numbers each, none of image_std 0")
        return Preprocessing(size=short, crop=(side, side), mean=mean, std=std)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}: image_mean, image_std: {error}.") from None
