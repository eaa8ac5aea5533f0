"""A model in one file, in the original layout of SD 1.x (CompVis) and 2.x (Stability)."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from lienzo.diffusion.schedule import Schedule, ScheduleConfig
from lienzo.errors import ConfigError, FormatError, InputError, MissingExtraError, ModelNotFoundError, WeightsError
from lienzo.models.clip import TextConfig
from lienzo.models.tokenizer import Tokenizer
from lienzo.models.unet import UNetConfig
from lienzo.models.vae import VAEConfig
from lienzo.weights import hub
from lienzo.weights.folder import INDEX, read_configs
from lienzo.weights.keymap import (
    CLIP,
    OPEN_CLIP,
    UNET,
    VAE_PREFIX,
    Rule,
    from_original,
    text_rules,
    to_original,
    unet_rules,
    vae_rules,
)
from lienzo.weights.model import Configs, Model, checked
from lienzo.weights.read import Checkpoint, read

METADATA = "lienzo.configs"
"""Key of a safetensors header under which `save` puts the configurations as JSON; other tools pass over it."""

EMA = "model_ema."
UNUSED = re.compile(
    r"model_ema\..*"
    r"|(sqrt_|log_)?(one_minus_|recip_|recipm1_)?alphas_cumprod(_prev)?|betas|posterior_\w+|lvlb_weights|logvar"
    r"|scale_factor|global_step|v_pred|ztsnr"
    r"|cond_stage_model\.(.*\.)?position_ids"
    r"|cond_stage_model\.(transformer\.|model\.)?(logit_scale|text_projection(\.weight)?|attn_mask)"
    r"|first_stage_model\.loss\..*"
)
"""Tensors that published files hold beside the networks: averages, tables of the schedule, training leftovers."""

FOREIGN: Mapping[str, str] = {
    r"conditioner\.embedders\.": "SDXL",
    r"model\.diffusion_model\.(joint_blocks|x_embedder)": "SD 3",
    r"(model\.diffusion_model\.)?(double_blocks|single_blocks)\.": "Flux",
    r"control_model\.": "a ControlNet",
    r"lora_(unet|te)|.*\.lora[_.](up|down|A|B)\b": "a LoRA, which changes a model and is none",
    r"(down_blocks|up_blocks|mid_block|conv_in)\.": "a diffusers folder's U-Net alone; give the folder",
    r"(encoder|decoder)\.(down|up|mid|conv)": "a VAE alone",
    r"text_model\.": "a text encoder alone",
}
TOKENIZERS: Mapping[str, tuple[str, ...]] = {
    "sd1": (
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "CompVis/stable-diffusion-v1-4",
        "runwayml/stable-diffusion-v1-5",
    ),
    "sd2": (
        "stabilityai/stable-diffusion-2-1",
        "stabilityai/stable-diffusion-2",
        "stabilityai/stable-diffusion-2-base",
    ),
}
"""Hub models whose tokenizer every model of the family has; they differ in padding."""
STEPS_OF_SD2_BASE = 875_000
"""global_step of SD 2.0 base, the one published 2.x checkpoint that predicts the noise and says so in this way."""


def open_single_file(
    path: Path,
    *,
    name: str,
    prediction_type: str | None = None,
    ema: bool = False,
    tokenizer: str | Path | None = None,
    config: str | Path | None = None,
    offline: bool | None = None,
    with_tokenizer: bool = True,
) -> Model:
    """Open an original checkpoint.

    The sizes are read off the tensors. What tensors do not tell (attention heads, group sizes, prediction type, betas)
    comes from `config`, else from the header that `save` writes, else from the diffusers folder that the file lies in (as
    hub repositories have it), else from a `.yaml` of the same name beside the file, else from the family's rule.

    Args:
        prediction_type: overrides what was found.
        ema: take the averaged U-Net (`model_ema.*`) instead of the last one.
        tokenizer: folder or hub id; None: a folder `<file's stem>.tokenizer` or `tokenizer` beside the file,
            `config`'s, or that of a published model of the family from the hub or its cache.
        config: a diffusers folder or hub id (its weights are not read), or an original `.yaml`.

    Raises:
        WeightsError: a damaged, foreign or incomplete file; no tokenizer to be had.
        ConfigError: sizes for which the family's rule makes no sense; give `config`.
    """
    file = read(path)
    if config is not None:
        config = hub.find(config, "config=", offline=offline, only=hub.PARTS)
    tensors = dict(file.tensors)
    _refuse_foreign(path, tensors)
    layout: Literal["clip", "open_clip"] = "open_clip" if f"{OPEN_CLIP}token_embedding.weight" in tensors else "clip"
    if layout == "clip":
        tensors = {_with_text_model(key): value for key, value in tensors.items()}
    if ema:
        tensors |= _averaged(path, tensors)

    configs, notes, warnings = _configs(path, file, tensors, layout, config, prediction_type)
    if _differs(tensors.get("alphas_cumprod"), configs.scheduler):
        warnings.append(
            "the noise schedule stored in the file (alphas_cumprod) is not the one used here; if pictures are wrong, give "
            "config=FOLDER with the model's scheduler_config.json"
        )
    networks = configs.networks()
    rules = {
        "text_encoder": text_rules(configs.text_encoder, layout),
        "unet": unet_rules(configs.unet),
        "vae": vae_rules(configs.vae),
    }
    found = _fitted(path, tensors, rules, {part: network.state_dict() for part, network in networks.items()}, layout)
    if not ema and any(k.startswith(EMA) for k in tensors):
        notes.append("the file also holds averaged (EMA) weights, not used; choose them with ema=True")
    if unused := len(tensors) - sum(len(part) for part in rules.values()):
        notes.append(f"{unused} tensors that belong to no network were left out")
    model = Model(
        name=name,
        kind=f"single file, {file.kind}",
        configs=configs,
        tensors=found,
        tokenizer=None,
        files=(file,),
        notes=tuple(notes),
        warnings=tuple(warnings),
    )
    return (
        replace(model, tokenizer=_tokenizer(path, model.family, tokenizer, config, offline))
        if with_tokenizer
        else model
    )


def _refuse_foreign(path: Path, tensors: Mapping[str, Tensor]) -> None:
    parts = {UNET: "U-Net", VAE_PREFIX: "VAE", "cond_stage_model.": "text encoder"}
    for pattern, what in FOREIGN.items():
        if any(re.match(pattern, key) for key in tensors):
            raise FormatError(f"{path} is {what}. lienzo loads whole models of SD 1.x and 2.x.")
    missing = {prefix: part for prefix, part in parts.items() if not any(k.startswith(prefix) for k in tensors)}
    if missing:
        lacks = ", ".join(f"{part} ({prefix}*)" for prefix, part in missing.items())
        has = ", ".join(sorted({".".join(k.split(".")[:2]) for k in tensors})[:8]) or "no tensors"
        raise FormatError(f"{path} is no whole Stable Diffusion model: it lacks the {lacks}. It has: {has}.")


def _with_text_model(key: str) -> str:
    """Some early fine-tunes leave `text_model.` out."""
    return re.sub(rf"^{re.escape(CLIP)}(?=embeddings\.|encoder\.|final_layer_norm\.)", f"{CLIP}text_model.", key)


def _averaged(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The averaged U-Net under the last one's names. The original drops the dots in `model_ema.*`."""
    if not any(k.startswith(EMA) for k in tensors):
        raise FormatError(f"{path} holds no averaged (EMA) weights; load it with ema=False.")
    names = {k: EMA + k.removeprefix("model.").replace(".", "") for k in tensors if k.startswith(UNET)}
    if lacking := [flat for flat in names.values() if flat not in tensors]:
        raise FormatError(f"{path}: {len(lacking)} averaged (EMA) weights are missing, such as {lacking[0]!r}.")
    return {key: tensors[flat] for key, flat in names.items()}


def _fitted(
    path: Path,
    tensors: Mapping[str, Tensor],
    rules: Mapping[str, list[Rule]],
    networks: Mapping[str, Mapping[str, Tensor]],
    layout: str,
) -> dict[str, dict[str, Tensor]]:
    """Every network's tensors; errors speak of the file's own names."""
    want = {key: value for part in rules for key, value in to_original(rules[part], networks[part]).items()}
    convs = {rule.theirs for part in rules.values() for rule in part if rule.kind == "conv"}
    mine = {
        key: value[:, :, None, None] if key in convs and value.ndim == 2 else value
        for key, value in tensors.items()
        if key in want
    }
    last = len({key for key in want if key.endswith(".attn.in_proj_weight")})
    spare = f"{OPEN_CLIP}transformer.resblocks.{last}."  # the layer after the penultimate, which SD 2.x does not run
    extra = [
        key
        for key in tensors
        if key not in want and not UNUSED.fullmatch(key) and not (layout == "open_clip" and key.startswith(spare))
    ]
    mine = checked(str(path), want, mine, extra=extra)
    return {part: from_original(rules[part], mine) for part in rules}


# --- configurations ------------------------------------------------------------------------------------------------


def _configs(
    path: Path,
    file: Checkpoint,
    tensors: Mapping[str, Tensor],
    layout: str,
    config: str | Path | None,
    prediction_type: str | None,
) -> tuple[Configs, list[str], list[str]]:
    """The configurations, notes and warnings."""
    notes: list[str] = []
    warnings: list[str] = []
    yaml = next(
        (p for p in (Path(config or path), path.with_suffix(".yaml")) if p.suffix == ".yaml" and p.is_file()), None
    )
    if config is not None and not Path(config).exists():
        raise ModelNotFoundError(f"config={config}: no such folder or file.")
    if config is not None and Path(config).is_dir():
        configs = read_configs(Path(config))
        notes.append("configurations from the folder given")
    elif METADATA in file.metadata:
        configs = _from_metadata(path, file.metadata[METADATA])
        notes.append("configurations from the file's own header")
    elif (path.parent / INDEX).is_file():
        configs = read_configs(path.parent)
        notes.append("configurations from the diffusers folder that the file lies in")
    else:
        original = _read_yaml(yaml) if yaml else {}
        if yaml:
            notes.append(f"settings from {yaml.name}")
        try:
            configs = _inferred(tensors, layout, original)
            configs.networks()
        except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
            raise ConfigError(
                f"{path}: the networks' shape cannot be told from the tensors ({error}). Give config=FOLDER, a "
                "diffusers folder with the config.json of every network."
            ) from None
        configs, guess = _with_prediction(configs, file, tensors, known="parameterization" in original)
        if guess and prediction_type is None:
            warnings.append(guess)
        if not _published_sizes(configs):
            warnings.append(
                "the networks have unpublished sizes: attention heads and norm groups were taken by the family's rule. "
                "If the pictures are wrong, give config=FOLDER with the model's configurations"
            )
    if prediction_type is not None:
        configs = configs.with_prediction(prediction_type)
    return configs, notes, warnings


def _from_metadata(path: Path, text: str) -> Configs:
    try:
        return Configs.from_dict(json.loads(text))
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, ZeroDivisionError) as error:
        raise FormatError(
            f"{path}: the configurations in its header cannot be used: {error}. Give config=FOLDER."
        ) from None


def _with_prediction(
    configs: Configs, file: Checkpoint, tensors: Mapping[str, Tensor], *, known: bool
) -> tuple[Configs, str | None]:
    """The prediction type as far as the file tells it, and a warning where it does not."""
    step = tensors["global_step"].item() if "global_step" in tensors else file.values.get("global_step")
    scheduler, guess = configs.scheduler, None
    if "v_pred" in tensors:
        scheduler = replace(scheduler, prediction_type="v_prediction", rescale_betas_zero_snr="ztsnr" in tensors)
    elif (
        not known and configs.unet.use_linear_projection and configs.unet.in_channels == 4 and step != STEPS_OF_SD2_BASE
    ):
        scheduler = replace(scheduler, prediction_type="v_prediction")
        guess = (
            "the file does not tell whether this SD 2.x model predicts noise (512 base) or v (768); v_prediction was "
            'assumed. If pictures are wrong, give prediction_type="epsilon"'
        )
    unet = configs.unet
    if scheduler.prediction_type == "v_prediction" and unet.use_linear_projection:
        unet = replace(unet, sample_size=96)
    return replace(configs, scheduler=scheduler, unet=unet), guess


def _differs(stored: Tensor | None, config: ScheduleConfig) -> bool:
    """Whether a stored table of a_t is another than the configuration's."""
    if stored is None:
        return False
    used = Schedule(config).alphas_cumprod
    return stored.shape != used.shape or not torch.allclose(stored.double(), used, atol=1e-3)


def _published_sizes(configs: Configs) -> bool:
    text, unet, vae = configs.text_encoder, configs.unet, configs.vae
    widths = (unet.block_out_channels, vae.block_out_channels)
    return widths == (UNetConfig().block_out_channels, VAEConfig().block_out_channels) and text.hidden_size in (
        768,
        1024,
    )


def _inferred(tensors: Mapping[str, Tensor], layout: str, original: Mapping[str, Any]) -> Configs:
    unet = _inferred_unet({k.removeprefix(UNET): v for k, v in tensors.items() if k.startswith(UNET)}, layout, original)
    vae = _inferred_vae(
        {k.removeprefix(VAE_PREFIX): v for k, v in tensors.items() if k.startswith(VAE_PREFIX)}, original
    )
    text = _inferred_text(tensors, layout)
    v = original.get("parameterization") == "v"
    scheduler = ScheduleConfig(
        class_name="DDIMScheduler" if layout == "open_clip" else "PNDMScheduler",
        beta_schedule="scaled_linear",
        beta_start=float(original.get("linear_start", 0.00085)),
        beta_end=float(original.get("linear_end", 0.012)),
        num_train_timesteps=int(original.get("timesteps", 1000)),
        prediction_type="v_prediction" if v else "epsilon",
        steps_offset=1,
        set_alpha_to_one=False,
        timestep_spacing="leading",
    )
    return Configs(text_encoder=text, unet=unet, vae=vae, scheduler=scheduler)


def _inferred_unet(tensors: Mapping[str, Tensor], layout: str, original: Mapping[str, Any]) -> UNetConfig:
    levels: list[list[int]] = [[]]  # the numbers of the residual blocks of every level
    for n in range(1, _count(tensors, "input_blocks")):
        if f"input_blocks.{n}.0.op.weight" in tensors:
            levels.append([])
        else:
            levels[-1].append(n)
    widths = tuple(int(tensors[f"input_blocks.{blocks[0]}.0.out_layers.3.weight"].shape[0]) for blocks in levels)
    attention = tuple(f"input_blocks.{blocks[0]}.1.proj_in.weight" in tensors for blocks in levels)
    linear = tensors["middle_block.1.proj_in.weight"].ndim == 2
    settings = original.get("unet_config", {}).get("params", {})
    if "num_heads" in settings and settings["num_heads"] != -1:
        heads: int | tuple[int, ...] = int(settings["num_heads"])
    elif linear or layout == "open_clip" or "num_head_channels" in settings:
        side = int(settings.get("num_head_channels", 64))
        if any(w % side for w in widths):
            raise ValueError(f"heads of {side} channels do not divide the widths {list(widths)}")
        heads = tuple(w // side for w in widths)
    else:
        heads = 8
    cond = tensors.get("time_embed.cond_proj.weight")
    return UNetConfig(
        sample_size=64,
        in_channels=int(tensors["input_blocks.0.0.weight"].shape[1]),
        out_channels=int(tensors["out.2.weight"].shape[0]),
        down_block_types=tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attention),
        up_block_types=tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attention)),
        block_out_channels=widths,
        layers_per_block=len(levels[0]),
        cross_attention_dim=int(tensors["middle_block.1.transformer_blocks.0.attn2.to_k.weight"].shape[1]),
        attention_head_dim=heads,
        transformer_layers_per_block=_count(tensors, "middle_block.1.transformer_blocks"),
        use_linear_projection=linear,
        # only 2.1 needs it and tensors do not tell it from 2.0; it costs nothing in fp32 and is more exact in fp16
        upcast_attention=linear,
        time_cond_proj_dim=None if cond is None else int(cond.shape[1]),
    )


def _inferred_vae(tensors: Mapping[str, Tensor], original: Mapping[str, Any]) -> VAEConfig:
    levels = _count(tensors, "encoder.down")
    widths = tuple(int(tensors[f"encoder.down.{i}.block.0.conv2.weight"].shape[0]) for i in range(levels))
    return VAEConfig(
        in_channels=int(tensors["encoder.conv_in.weight"].shape[1]),
        out_channels=int(tensors["decoder.conv_out.weight"].shape[0]),
        latent_channels=int(tensors["decoder.conv_in.weight"].shape[1]),
        block_out_channels=widths,
        layers_per_block=_count(tensors, "encoder.down.0.block"),
        scaling_factor=float(original.get("scale_factor", 0.18215)),
        use_quant_conv="quant_conv.weight" in tensors,
        use_post_quant_conv="post_quant_conv.weight" in tensors,
        mid_block_add_attention="encoder.mid.attn_1.q.weight" in tensors,
    )


def _inferred_text(tensors: Mapping[str, Tensor], layout: str) -> TextConfig:
    if layout == "open_clip":
        prefix, mlp = f"{OPEN_CLIP}transformer.resblocks", "mlp.c_fc.weight"
        words, places = tensors[f"{OPEN_CLIP}token_embedding.weight"], tensors[f"{OPEN_CLIP}positional_embedding"]
        # a complete OpenCLIP has its projection and one layer more than SD 2.x runs
        layers = _count(tensors, prefix) - (f"{OPEN_CLIP}text_projection" in tensors)
    else:
        prefix, mlp = f"{CLIP}text_model.encoder.layers", "mlp.fc1.weight"
        embeddings = f"{CLIP}text_model.embeddings"
        words, places = (
            tensors[f"{embeddings}.token_embedding.weight"],
            tensors[f"{embeddings}.position_embedding.weight"],
        )
        layers = _count(tensors, prefix)
    vocab, width = (int(n) for n in words.shape)
    if width % 64:
        raise ValueError(f"heads of 64 channels do not divide the text encoder's width {width}")
    return TextConfig(
        vocab_size=vocab,
        hidden_size=width,
        intermediate_size=int(tensors[f"{prefix}.0.{mlp}"].shape[0]),
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        max_position_embeddings=int(places.shape[0]),
        hidden_act="gelu" if layout == "open_clip" else "quick_gelu",
        projection_dim=512 if layout == "open_clip" else width,
        bos_token_id=vocab - 2,
        eos_token_id=vocab - 1,
        pad_token_id=0 if layout == "open_clip" else 1,
    )


def _count(tensors: Mapping[str, Any], prefix: str) -> int:
    """How many numbered children `prefix` has."""
    n = len(prefix.split("."))
    numbers = {key.split(".")[n] for key in tensors if key.startswith(f"{prefix}.")}
    return max((int(number) for number in numbers if number.isdecimal()), default=-1) + 1


def _read_yaml(path: Path) -> dict[str, Any]:
    """`model.params` of an original configuration."""
    try:
        import yaml  # type: ignore[import-untyped,unused-ignore]
    except ImportError:
        raise MissingExtraError(f'{path}: .yaml files need PyYAML: pip install "lienzo[yaml]".') from None
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        return dict(data["model"]["params"])
    except (yaml.YAMLError, OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path}: no original configuration with model.params: {str(error).splitlines()[0]}."
        ) from None


# --- tokenizer -----------------------------------------------------------------------------------------------------


def tokenizer_folder(path: Path) -> Path:
    """Where `save` puts a single file's tokenizer, and where it is looked for first."""
    return path.with_name(f"{path.stem}.tokenizer")


def load_tokenizer(source: str | Path, *, offline: bool | None = None) -> Tokenizer:
    """A tokenizer from its own folder, from a diffusers folder, or from a hub model.

    Raises:
        ModelNotFoundError: not there.
    """
    folder = hub.local(source, "tokenizer=")
    if not folder.is_dir():
        if not hub.HUB_ID.fullmatch(str(source)):
            raise ModelNotFoundError(f"tokenizer={source}: no such folder.")
        folder = hub.fetch(str(source), offline=offline, only=("tokenizer/*",))
    return Tokenizer.from_folder(folder / "tokenizer" if (folder / "tokenizer").is_dir() else folder)


def _tokenizer(
    path: Path, family: str, given: str | Path | None, config: str | Path | None, offline: bool | None
) -> Tokenizer:
    if given is not None:
        return load_tokenizer(given, offline=offline)
    beside: Sequence[Path] = [tokenizer_folder(path), path.parent / "tokenizer"]
    if config is not None and Path(config).is_dir():
        beside = [*beside, Path(config) / "tokenizer"]
    for folder in beside:
        if folder.is_dir():
            return Tokenizer.from_folder(folder)
    for repo in TOKENIZERS[family]:
        cached = hub.cached(repo)
        if cached is not None and (cached / "tokenizer").is_dir():
            return Tokenizer.from_folder(cached / "tokenizer")
    try:
        return load_tokenizer(TOKENIZERS[family][0], offline=offline)
    except (WeightsError, InputError) as error:
        raise ModelNotFoundError(
            f"{path.name} needs a tokenizer, which single files do not hold: put a folder with vocab.json and merges.txt "
            f"beside it as {tokenizer_folder(path).name!r} or 'tokenizer', or give tokenizer=FOLDER. From the hub: {error}"
        ) from None
