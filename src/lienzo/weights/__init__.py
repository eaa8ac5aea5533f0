"""Models on disk: opening, checking, converting and describing them. Loading never runs code.

`load` takes the embedded model, a diffusers folder, an original single file or a hub id, told apart by what they are:

    bundle = load("path/to/folder")
    bundle = load("model.safetensors", tokenizer="path/to/tokenizer")
    convert("path/to/folder", "model.safetensors")
    print(inspect("model.safetensors").digest)
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict, Unpack

import torch

from lienzo.errors import ModelNotFoundError, RequestError, nearest
from lienzo.memory import keep_freed_memory
from lienzo.models.bundle import COMPONENTS, Bundle, joined_digest, tensors_digest
from lienzo.weights import hub
from lienzo.weights.folder import INDEX, open_folder
from lienzo.weights.hub import Found
from lienzo.weights.model import Model
from lienzo.weights.save import save
from lienzo.weights.single_file import load_tokenizer, open_single_file

EMBEDDED = "boceto"
DTYPES: Mapping[str, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

__all__ = [
    "EMBEDDED",
    "Found",
    "ModelOptions",
    "ModelReport",
    "convert",
    "find_models",
    "inspect",
    "load",
    "locate",
    "open_model",
    "save",
]


@dataclass(frozen=True, kw_only=True)
class ModelReport:
    """What `lienzo inspect` tells about a model.

    Attributes:
        kind: the layout it came in.
        parameters: component -> number of weights.
        dtypes: component -> the dtypes of its tensors, joined by "+".
        digests: component -> SHA-256 of its tensors.
        digest: SHA-256 of the weights, the same for every layout (see `lienzo.models.bundle.weights_digest`).
        native_size: (width, height) in pixels that it was trained on.
        odd: what may make wrong pictures: guesses, weights that are not finite.
        notes: what is merely worth knowing: where the configurations came from, what was left out.
    """

    name: str
    kind: str
    family: str
    prediction_type: str
    inpainting: bool
    parameters: Mapping[str, int]
    dtypes: Mapping[str, str]
    digests: Mapping[str, str]
    digest: str
    native_size: tuple[int, int]
    odd: tuple[str, ...]
    notes: tuple[str, ...]


class ModelOptions(TypedDict, total=False):
    """How a model is found and read; every option may be left out.

    Attributes:
        revision: branch, tag or commit of a hub id.
        variant: "fp16" and the like, of a folder or hub id.
        offline: never use the network. None: as the environment's LIENZO_OFFLINE or HF_HUB_OFFLINE say.
        prediction_type: overrides the model's own: "epsilon", "v_prediction" or "sample".
        ema: a single file's averaged weights.
        tokenizer: a folder or hub id, instead of the model's own.
        config: of a single file: a diffusers folder or hub id with its configurations, or its original `.yaml`.
    """

    revision: str | None
    variant: str | None
    offline: bool | None
    prediction_type: str | None
    ema: bool
    tokenizer: str | Path | None
    config: str | Path | None


def load(
    model: str | Path | None = None,
    *,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device = "cpu",
    **options: Unpack[ModelOptions],
) -> Bundle:
    """Load a model, and tell the process to keep freed memory (see `lienzo.memory`).

    Where nothing has to be cast or moved, the networks' weights *are* the memory-mapped file: loading costs nothing
    until they are used. Do not change the file in place while the bundle lives (writers that
    rename, as `save` does, are fine).

    Args:
        model: "boceto" or None, the embedded model; a diffusers folder; a `.safetensors` or `.ckpt` file; a hub id
            ("organisation/name").
        dtype: "fp32", "fp16", "bf16" or a torch dtype. None: fp32 on the CPU, where half precision is slower; the
            file's own elsewhere.
        device: "cpu", "cuda", "cuda:1", "mps".
        options: revision, variant, offline, prediction_type, ema, tokenizer, config; see `ModelOptions`.

    Returns:
        Networks in evaluation mode that need no gradients; `notes` says what is odd.

    Raises:
        WeightsError: no such model, or one that is damaged, unsafe or incomplete.
        InputError: an option that does not apply, or a configuration that lienzo's networks do not have.

    Warns:
        UserWarning: a guess had to be made that can make the pictures wrong.
    """
    place, kind = _device(device), _dtype(dtype)
    keep_freed_memory()
    opened = _opened(model, options)
    return opened.build(dtype=kind, device=place)


def open_model(
    model: str | Path | None = None,
    *,
    revision: str | None = None,
    variant: str | None = None,
    offline: bool | None = None,
    prediction_type: str | None = None,
    ema: bool = False,
    tokenizer: str | Path | None = None,
    config: str | Path | None = None,
    with_tokenizer: bool = True,
) -> Model:
    """Open a model without building its networks: reads headers and configurations only. Options as for `load`."""
    name, path, from_hub = locate(model, revision=revision, variant=variant, offline=offline)
    if revision is not None and not from_hub:
        raise RequestError(
            f"revision: got {revision!r}; {name} is on this machine, and revisions are for hub ids only. Leave it out."
        )
    if path.is_file():
        if variant is not None:
            raise RequestError(
                f"variant: got {variant!r}; {name} is one file, and variants are for folders and hub ids only. Leave it out."
            )
        return open_single_file(
            path,
            name=name,
            prediction_type=prediction_type,
            ema=ema,
            tokenizer=tokenizer,
            config=config,
            offline=offline,
            with_tokenizer=with_tokenizer,
        )
    for option, value in (("ema", ema or None), ("config", config)):
        if value is not None:
            raise RequestError(
                f"{option}: got {str(value)!r}; {name} is a folder, and {option} is for single files only. Leave it out."
            )
    opened = open_folder(path, name=name, variant=variant, with_tokenizer=with_tokenizer and tokenizer is None)
    if tokenizer is not None and with_tokenizer:
        opened = replace(opened, tokenizer=load_tokenizer(tokenizer, offline=offline))
    if prediction_type is not None:
        opened = replace(opened, configs=opened.configs.with_prediction(prediction_type))
    return replace(opened, notes=(*opened.notes, f"revision {path.name}")) if from_hub else opened


def convert(
    model: str | Path | None,
    out: str | Path,
    *,
    dtype: str | torch.dtype | None = None,
    overwrite: bool = False,
    **options: Unpack[ModelOptions],
) -> Path:
    """Write a model in the other layout, or in another dtype; without a dtype every weight keeps its bits.

    Args:
        out: a `.safetensors` file (its tokenizer goes into `<stem>.tokenizer` beside it) or a folder.
        dtype, overwrite: see `save`.
        options: as for `load`.
    """
    opened = _opened(model, options)
    return save(opened, out, dtype=_dtype(dtype), overwrite=overwrite)


def inspect(
    model: str | Path | None = None,
    *,
    revision: str | None = None,
    variant: str | None = None,
    offline: bool | None = None,
    config: str | Path | None = None,
) -> ModelReport:
    """Describe a model. Every weight is read once, for the digest, and given back to the system after."""
    opened = open_model(model, revision=revision, variant=variant, offline=offline, config=config, with_tokenizer=False)
    odd = [*opened.warnings]
    dtypes = {}
    for part in COMPONENTS:
        opened.forget_pages()
        values = opened.tensors[part]
        dtypes[part] = "+".join(sorted({str(v.dtype).removeprefix("torch.") for v in values.values()}))
        odd += [f"{part}: {key} holds NaN or infinity" for key, v in values.items() if not bool(v.isfinite().all())]
    digests = {part: tensors_digest(opened.tensors[part]) for part in COMPONENTS}
    configs = opened.configs
    return ModelReport(
        name=opened.name,
        kind=opened.kind,
        family=opened.family,
        prediction_type=configs.scheduler.prediction_type,
        inpainting=configs.unet.in_channels == 9,
        parameters={part: sum(v.numel() for v in opened.tensors[part].values()) for part in COMPONENTS},
        dtypes=dtypes,
        digests=digests,
        digest=joined_digest(digests),
        native_size=_native_size(opened),
        odd=tuple(odd),
        notes=opened.notes,
    )


def find_models(folders: tuple[str | Path, ...] = ()) -> list[Found]:
    """Models at hand: the embedded one, the hub cache's, and those in `folders`."""
    return hub.find_models(folders, embedded=_embedded())


def _opened(model: str | Path | None, options: ModelOptions) -> Model:
    """The opened model, its warnings given to the caller of this function's caller."""
    opened = open_model(model, **options)
    for warning in opened.warnings:
        warnings.warn(f"{opened.name}: {warning}.", stacklevel=3)
    return opened


def _native_size(opened: Model) -> tuple[int, int]:
    size, factor = opened.configs.unet.sample_size or 64, opened.configs.vae.factor
    height, width = size if isinstance(size, tuple) else (size, size)
    return width * factor, height * factor


def locate(
    model: str | Path | None,
    *,
    revision: str | None = None,
    variant: str | None = None,
    offline: bool | None = None,
) -> tuple[str, Path, bool]:
    """Where a model lies: (name, folder or file, whether it came from the hub). Options as for `load`.

    Raises:
        ModelNotFoundError: no such model.
    """
    if model is None or model == EMBEDDED:
        if not (_embedded() / INDEX).is_file():
            raise ModelNotFoundError("This installation lacks the embedded model. Reinstall lienzo, or name a model.")
        return EMBEDDED, _embedded(), False
    path = hub.local(model, "The model")
    if path.exists():
        return path.resolve().name, path, False
    if hub.HUB_ID.fullmatch(str(model)) and path.suffix not in (".safetensors", ".ckpt"):
        return str(model), hub.fetch(str(model), revision=revision, variant=variant, offline=offline), True
    if isinstance(model, str) and model.isidentifier():
        raise ModelNotFoundError(
            f"No model {model!r}. {nearest(model, [EMBEDDED])} Or give a folder, a file or a hub id."
        )
    raise ModelNotFoundError(f"No such folder or file: {model}. A hub id has the form organisation/name.")


def _embedded() -> Path:
    return Path(__file__).parents[1] / "assets" / EMBEDDED


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    if dtype is None or dtype in DTYPES.values():
        return dtype  # type: ignore[return-value]
    names = {**DTYPES, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if not isinstance(dtype, str) or dtype not in names:
        raise RequestError(f"dtype: got {str(dtype)!r}; there is no such dtype. {nearest(str(dtype), DTYPES)}")
    return names[dtype]


def check_device(device: str) -> None:
    """Whether this machine has a device, without waking it: each process that does takes some of its memory.

    Raises:
        RequestError: it has not.
    """
    try:
        place = torch.device(device)
    except RuntimeError:
        raise _no_device(device, "there is no such kind") from None
    known = {name.partition(":")[0] for name in _devices()} | set(_devices())
    if place.type in ("cuda", "mps") and str(place) not in known:
        raise _no_device(device, "it is not there")


def _device(device: str | torch.device) -> torch.device:
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise _no_device(device, reason) from None
    return place


def _no_device(device: str | torch.device, reason: str) -> RequestError:
    return RequestError(
        f"device: got {str(device)!r}; it cannot be used here: {reason}. This machine has: {', '.join(_devices())}."
    )


def _devices() -> list[str]:
    """What `device` can be on this machine."""
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count())), *mps]
