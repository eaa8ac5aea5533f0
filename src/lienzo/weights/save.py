"""Writing models: a diffusers folder or one file in the original layout, safetensors only, whole or not at all.

Everything is written under a temporary name beside its place, flushed to the disk and then renamed.
"""

import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from lienzo.errors import FormatError, OutputError, RequestError
from lienzo.models.bundle import COMPONENTS, Bundle
from lienzo.models.clip_vision import CLIP, Preprocessing
from lienzo.models.tokenizer import Tokenizer
from lienzo.weights.folder import INDEX
from lienzo.weights.keymap import Rule, text_rules, unet_rules, vae_rules
from lienzo.weights.model import Configs, Model
from lienzo.weights.read import SAFETENSORS_DTYPES
from lienzo.weights.single_file import METADATA, tokenizer_folder

DTYPE_NAMES = {dtype: name for name, dtype in SAFETENSORS_DTYPES.items()}
FILES = {
    "text_encoder": "model.safetensors",
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
}


def save(model: Bundle | Model, out: str | Path, *, dtype: torch.dtype | None = None, overwrite: bool = False) -> Path:
    """Write a model: as one file where `out` ends in ".safetensors", else as a diffusers folder.

    A single file holds no vocabulary, so its tokenizer is written as a folder `<stem>.tokenizer` beside it; the
    configurations, which the original layout lacks too, go into the file's header. Only the networks' weights are kept:
    not what original files hold beside them (averages, training leftovers, OpenCLIP's last layer, which SD 2.x does not
    run).

    Args:
        dtype: cast the weights; None: as they are.
        overwrite: replace what is there.

    Returns:
        `out`.

    Raises:
        OutputError: it exists, or cannot be written; nothing is left behind.
        FormatError: another kind of file asked for, or weights that the dtype cannot hold.
    """
    out = Path(out)
    if out.suffix in (".ckpt", ".pt", ".pth", ".bin"):
        raise FormatError(f"{out}: pickles are not written. Name a .safetensors file or a folder.")
    if out.exists() and not overwrite:
        raise OutputError(
            f"{out} exists already. Choose another name, or allow overwriting (--force; in Python overwrite=True)."
        )
    if isinstance(model, Bundle) and model.adapters:
        raise RequestError(
            f"{model.name} has adapters on it ({', '.join(used.name for used in model.adapters)}), which the layout has no place for. "
            "Save its base, or merge them into the weights first (lienzo.weights.adapters.merged)."
        )
    if model.tokenizer is None:
        raise ValueError(f"{model.name} was opened without its tokenizer.")
    opened = _as_opened(model) if isinstance(model, Bundle) else model
    write = _save_file if out.suffix == ".safetensors" else _save_folder
    write(out, opened, model.tokenizer, dtype)
    return out


def save_clip(
    model: CLIP,
    out: str | Path,
    *,
    tokenizer: Tokenizer,
    preprocessing: Preprocessing,
    dtype: torch.dtype | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a CLIP as a folder that transformers' CLIPModel, CLIPTokenizer and CLIPImageProcessor read.

    Raises:
        OutputError: it exists, or cannot be written; nothing is left behind.
    """
    out = Path(out)
    if out.exists() and not overwrite:
        raise OutputError(f"{out} exists already. Choose another name, or pass overwrite=True.")
    tensors = model.state_dict()
    (height, width), size = preprocessing.crop, preprocessing.size
    with placed(out) as folder:
        folder.mkdir()
        write_tensors(folder / "model.safetensors", tensors, tensors.__getitem__, dtype=dtype)
        kind = str(dtype or next(iter(tensors.values())).dtype).removeprefix("torch.")
        write_json(folder / "config.json", {**model.config.to_dict(), "torch_dtype": kind})
        write_json(
            folder / "preprocessor_config.json",
            {
                "image_processor_type": "CLIPImageProcessor",
                "do_convert_rgb": True, "do_resize": True, "do_center_crop": True, "do_rescale": True, "do_normalize": True,
                "size": {"shortest_edge": size}, "crop_size": {"height": height, "width": width}, "resample": 3,
                "rescale_factor": 1 / 255, "image_mean": list(preprocessing.mean), "image_std": list(preprocessing.std),
            },
        )  # fmt: skip
        tokenizer.save(folder)
    return out


def bundle_configs(bundle: Bundle) -> Configs:
    """The configurations of a bundle's networks and schedule."""
    return Configs(
        text_encoder=bundle.text_encoder.config,
        unet=bundle.unet.config,
        vae=bundle.vae.config,
        scheduler=bundle.schedule.config,
    )


def _as_opened(bundle: Bundle) -> Model:
    return Model(
        name=bundle.name,
        kind="bundle",
        configs=bundle_configs(bundle),
        tensors=bundle.state_dicts(),
        tokenizer=bundle.tokenizer,
        files=(),
    )


def write_tensors(
    path: Path,
    shapes: Mapping[str, Tensor],
    get: Callable[[str], Tensor],
    *,
    dtype: torch.dtype | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a safetensors file, one tensor in memory at a time.

    Args:
        shapes: name -> a tensor of its shape and dtype, on the meta device say.
        get: gives a tensor's values when its turn comes.
        dtype: cast floating-point tensors.

    Raises:
        FormatError: a finite weight that `dtype` cannot hold.
    """

    def kind(tensor: Tensor) -> torch.dtype:
        return dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype

    # wide dtypes first keeps every tensor aligned, as the reference writer does
    order = sorted(shapes, key=lambda name: (-kind(shapes[name]).itemsize, name))
    header: dict[str, object] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    end = 0
    for name in order:
        tensor, begin = shapes[name], end
        end += tensor.numel() * kind(tensor).itemsize
        header[name] = {"dtype": DTYPE_NAMES[kind(tensor)], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            value = get(name).detach().cpu()
            cast = value.to(kind(value)).contiguous()
            if cast.dtype != value.dtype and bool((cast.isinf() & value.isfinite()).any()):
                raise FormatError(f"{name!r} holds values beyond the range of {cast.dtype}; choose bf16 or fp32.")
            # numpy has no bfloat16, so the bytes are taken as such
            file.write(cast.reshape(-1).view(torch.uint8).numpy().data)
        file.flush()
        os.fsync(file.fileno())


def _save_file(out: Path, model: Model, tokenizer: Tokenizer, dtype: torch.dtype | None) -> None:
    configs, tensors = model.configs, model.tensors
    layout = "open_clip" if configs.text_encoder.hidden_act == "gelu" else "clip"
    rules: dict[str, tuple[str, Rule]] = {
        rule.theirs: (part, rule)
        for part, some in (
            ("text_encoder", text_rules(configs.text_encoder, layout)),  # type: ignore[arg-type]
            ("unet", unet_rules(configs.unet)),
            ("vae", vae_rules(configs.vae)),
        )
        for rule in some
    }
    shapes = {
        name: rule.to_theirs({k: tensors[part][k].to("meta") for k in rule.ours})
        for name, (part, rule) in rules.items()
    }

    def get(name: str) -> Tensor:
        part, rule = rules[name]
        return rule.to_theirs(tensors[part])

    metadata = {METADATA: json.dumps(configs.to_dict(), sort_keys=True)}
    with placed(tokenizer_folder(out)) as folder, placed(out) as path:
        folder.mkdir()
        tokenizer.save(folder)
        write_tensors(path, shapes, get, dtype=dtype, metadata=metadata)


def _save_folder(out: Path, model: Model, tokenizer: Tokenizer, dtype: torch.dtype | None) -> None:
    configs, tensors = model.configs, model.tensors
    with placed(out) as folder:
        for path in (folder, *(folder / part for part in (*COMPONENTS, "scheduler", "tokenizer"))):
            path.mkdir()
        for part in COMPONENTS:
            write_tensors(folder / part / FILES[part], tensors[part], tensors[part].__getitem__, dtype=dtype)
        settings = configs.to_dict()
        # transformers loads a text encoder in this dtype where none is asked for, diffusers the other networks in fp32: a folder
        # whose parts came in different ones could not be run
        settings["text_encoder"]["torch_dtype"] = "float32"
        for part, content in settings.items():
            name = "scheduler_config.json" if part == "scheduler" else "config.json"
            write_json(folder / part / name, content)
        tokenizer.save(folder / "tokenizer")
        write_json(folder / INDEX, _index(configs))


def _index(configs: Configs) -> dict[str, object]:
    inpaint = configs.unet.in_channels == 9
    return {
        "_class_name": "StableDiffusionInpaintPipeline" if inpaint else "StableDiffusionPipeline",
        "_diffusers_version": "0.20.0",  # the oldest whose readers know all that is written here
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", configs.scheduler.class_name],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@contextmanager
def placed(out: Path) -> Iterator[Path]:
    """A temporary path beside `out` that becomes `out` when the block ends well, and is removed when it does not.

    Raises:
        OutputError: no permission, no space, no such folder.
    """
    temporary = out.with_name(f".{out.name}.{secrets.token_hex(4)}.part")
    old = out.with_name(f".{out.name}.{secrets.token_hex(4)}.old")
    try:
        yield temporary
        if out.is_dir():  # a rename replaces a file but no folder that holds something
            out.rename(old)
        temporary.rename(out)
    except OSError as error:
        raise OutputError(f"{out} cannot be written: {error.strerror or error}. Nothing was left behind.") from None
    finally:
        if old.exists() and not out.exists():
            old.rename(out)
        for leftover in (temporary, old):
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink(missing_ok=True)
