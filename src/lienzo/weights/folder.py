"""A model in diffusers' folder layout."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lienzo.diffusion.schedule import ScheduleConfig
from lienzo.errors import ConfigError, FormatError, ModelNotFoundError
from lienzo.models.bundle import COMPONENTS
from lienzo.models.clip import TextConfig
from lienzo.models.tokenizer import Tokenizer
from lienzo.models.unet import UNetConfig
from lienzo.models.vae import VAEConfig
from lienzo.weights.model import Configs, Model, checked
from lienzo.weights.read import Checkpoint, read

INDEX = "model_index.json"
PIPELINES = frozenset(
    {
        "StableDiffusionPipeline",
        "StableDiffusionImg2ImgPipeline",
        "StableDiffusionInpaintPipeline",
        "StableDiffusionInpaintPipelineLegacy",
        "LatentConsistencyModelPipeline",
        "LatentConsistencyModelImg2ImgPipeline",
    }
)
CLASSES: Mapping[str, tuple[str, ...]] = {
    "text_encoder": ("CLIPTextModel",),
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
}
BASES = {
    "text_encoder": ("model", "pytorch_model"),
    "unet": ("diffusion_pytorch_model",),
    "vae": ("diffusion_pytorch_model",),
}
"""Names of the weights: for transformers' safetensors and for its `.bin`; diffusers has one."""
LEFT_OUT = ("safety_checker", "feature_extractor", "image_encoder")
OLD_VAE_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ModelNotFoundError: no such file.
        FormatError: no JSON object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelNotFoundError(f"{path.parent} lacks {path.name}; it has: {_listing(path.parent)}.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise FormatError(f"{path} cannot be read as JSON: {error}.") from None
    if not isinstance(data, dict):
        raise FormatError(f"{path}: expected a JSON object, got {type(data).__name__}.")
    return data


def read_configs(folder: Path) -> Configs:
    """The configurations in a diffusers folder (its weights are not needed).

    Raises:
        ModelNotFoundError: a part is missing; names it and what the folder has.
        ConfigError: an option that lienzo's networks do not have.
    """
    for part in (*COMPONENTS, "scheduler"):
        if not (folder / part).is_dir():
            raise ModelNotFoundError(f"{folder} lacks its {part} folder; it has: {_listing(folder)}.")
    kinds = {"text_encoder": TextConfig, "unet": UNetConfig, "vae": VAEConfig}
    paths = {part: folder / part / "config.json" for part in kinds} | {
        "scheduler": folder / "scheduler/scheduler_config.json"
    }
    found = {}
    for part, path in paths.items():
        kind = kinds.get(part, ScheduleConfig)
        try:
            found[part] = kind.from_dict(read_json(path))  # type: ignore[attr-defined]
        except (TypeError, ValueError, ZeroDivisionError) as error:
            raise ConfigError(f"{path}: {error}") from None
    return Configs(**found)


def open_folder(folder: Path, *, name: str, variant: str | None = None, with_tokenizer: bool = True) -> Model:
    """Open a diffusers folder.

    Args:
        variant: "fp16" for files such as `model.fp16.safetensors`. Without it, the plain files are taken, or the only
            variant where there are none.

    Raises:
        WeightsError: a part that is missing or damaged, or tensors that do not fit.
        ConfigError: a network that lienzo does not have.
    """
    notes = _check_index(folder)
    configs = read_configs(folder)
    networks = configs.networks()
    chosen = {part: weights_file(folder / part, BASES[part], variant) for part in COMPONENTS}
    if variant is not None and not any(found == variant for _, found in chosen.values()):
        raise ModelNotFoundError(
            f"{folder} has no files of variant {variant!r}; leave the variant out to take the plain ones."
        )
    files: dict[str, Checkpoint] = {}
    tensors: dict[str, dict[str, Tensor]] = {}
    for part, (path, found) in chosen.items():
        files[part] = read(path)
        if found != variant:
            notes.append(f"{part}: {'plain' if found is None else repr(found)} files, there being no other")
        if files[part].kind != "safetensors" and path.suffix != ".json":
            notes.append(
                f"{part}: a pickle ({path.name}), read by the restricted unpickler; safetensors are preferable"
            )
        tensors[part] = checked(str(path), networks[part].state_dict(), current_names(part, files[part].tensors))
    tokenizer = Tokenizer.from_folder(folder / "tokenizer") if with_tokenizer else None
    return Model(
        name=name,
        kind="diffusers folder",
        configs=configs,
        tensors=tensors,
        tokenizer=tokenizer,
        files=tuple(files.values()),
        notes=tuple(notes),
    )


def _check_index(folder: Path) -> list[str]:
    """Refuse other kinds of pipelines; report parts that lienzo does not load from here."""
    index = read_json(folder / INDEX)
    pipeline = index.get("_class_name")
    if pipeline not in PIPELINES:
        raise FormatError(
            f"{folder / INDEX}: a {pipeline!r}, which lienzo does not have. Supported: {', '.join(sorted(PIPELINES))}."
        )
    for part, allowed in CLASSES.items():
        entry = index.get(part)
        got = entry[1] if isinstance(entry, list) and len(entry) == 2 else entry
        if got not in allowed:
            raise FormatError(f"{folder / INDEX}: {part} is {got!r}; expected {' or '.join(allowed)}.")
    present = [p for p in LEFT_OUT if isinstance(index.get(p), list) and index[p][-1] is not None]
    return [f"{part} is in the folder and not loaded with the model" for part in present]


def weights_file(folder: Path, bases: tuple[str, ...], variant: str | None) -> tuple[Path, str | None]:
    """The file (or index of shards) to read and its variant; safetensors before pickles, one file before shards."""
    names = sorted(p.name for p in folder.iterdir())
    base = "|".join(map(re.escape, bases))
    # x.safetensors, x.fp16.safetensors, x.safetensors.index.json, x.safetensors.index.fp16.json; the same with .bin
    one = re.compile(rf"(?:{base})(?:\.(?P<variant>[^.]+))?\.(?P<ext>safetensors|bin)")
    many = re.compile(rf"(?:{base})\.(?P<ext>safetensors|bin)\.index(?:\.(?P<variant>[^.]+))?\.json")
    shard = re.compile(r"-\d{5}-of-\d{5}$")
    found: dict[str | None, list[tuple[bool, bool, str]]] = {}
    for n in names:
        match = one.fullmatch(n) or many.fullmatch(n)
        if match and not shard.search(match["variant"] or ""):
            found.setdefault(match["variant"], []).append((match["ext"] == "bin", n.endswith(".json"), n))
    for wanted in (variant, None):
        if wanted in found:
            return folder / min(found[wanted])[2], wanted
    if variant is None and len(found) == 1:
        (only,) = found
        return folder / min(found[only])[2], only
    expected = " or ".join(f"{b}{e}" for b, e in zip(bases * 2, (".safetensors", ".bin"), strict=False))
    of_variant = f" of variant {variant!r}" if variant is not None else ""
    variants = f" It has the variants {', '.join(sorted(map(str, found)))}: choose one." if found else ""
    raise ModelNotFoundError(
        f"{folder} has no weights{of_variant}: expected {expected}; it has: {_listing(folder)}.{variants}"
    )


def current_names(part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The keys and shapes that today's diffusers and published text encoders have."""
    if part == "text_encoder":
        return current_text_names(tensors)
    return _current_vae_names(tensors) if part == "vae" else dict(tensors)


def current_text_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With the `text_model.` prefix, which transformers 5 leaves out, and without the constant `position_ids`."""
    prefix = "" if any(k.startswith("text_model.") for k in tensors) else "text_model."
    return {prefix + k: v for k, v in tensors.items() if not k.endswith("embeddings.position_ids")}


def _current_vae_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """diffusers before 0.17 called the attention's layers query, key, value, proj_attn; some files have 1x1 convolutions."""
    found = {}
    for key, value in tensors.items():
        if ".mid_block.attentions." in key:
            head, layer, kind = key.rsplit(".", 2)
            key = f"{head}.{OLD_VAE_ATTENTION.get(layer, layer)}.{kind}"
            value = value[:, :, 0, 0] if value.ndim == 4 else value
        found[key] = value
    return found


def _listing(folder: Path) -> str:
    names = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    return ", ".join(names[:20]) + (" ..." if len(names) > 20 else "") if names else "nothing"
