"""Make boceto again, from scenes to an exported folder: `python -m boceto.make --out DIR --minutes N`.

Tokenizer, VAE (a fifth of the time), the pictures' latents, then U-Net and text encoder together (the rest). Every
part is kept in DIR: the same command goes on where it was stopped, and repeats nothing that is finished. The model
lies in DIR/model, an ordinary diffusers folder.
"""

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from math import isfinite
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from boceto.card import last_line, write_card
from boceto.judge import judge
from boceto.scenes import Scene, captions, render, sample_scene
from boceto.words import train_tokenizer
from lienzo.diffusion.schedule import Schedule, ScheduleConfig
from lienzo.models.clip import TextConfig, TextEncoder
from lienzo.models.tokenizer import Tokenizer
from lienzo.models.unet import UNet, UNetConfig
from lienzo.models.vae import VAE, VAEConfig
from lienzo.training.config import OptimizerConfig, RateConfig, RunConfig, TrainConfig, WatchConfig
from lienzo.training.loop import train
from lienzo.training.losses import CaptionedLatents, Conditioned, diffusion_loss, vae_loss
from lienzo.training.share import Share

SIDE: Final = 128
CROP: Final = 64
"""The VAE has no global attention, so it learns on crops."""
VAE_SHARE: Final = 1 / 5
"""Of the training time."""
CHUNK: Final = 250
"""Scenes that are drawn and encoded together."""

# Group norms have many channels a group: with two, a flat colour is all that a group holds, and its norm erases it.
VAE_CONFIG: Final = VAEConfig(
    block_out_channels=(16, 32, 64, 128),
    layers_per_block=1,
    norm_num_groups=2,
    mid_block_add_attention=False,
    sample_size=SIDE,
    force_upcast=False,
)
UNET_CONFIG: Final = UNetConfig(
    sample_size=SIDE // 8,
    block_out_channels=(64, 128, 192),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    layers_per_block=1,
    cross_attention_dim=192,
    attention_head_dim=(2, 4, 6),
    norm_num_groups=8,
)
SCHEDULE: Final = ScheduleConfig(
    beta_schedule="scaled_linear",
    beta_start=0.00085,
    beta_end=0.012,
    prediction_type="v_prediction",
    timestep_spacing="trailing",
    steps_offset=1,
    set_alpha_to_one=False,
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How large and how long."""

    minutes: float
    steps: int = 10**9
    vae: VAEConfig = VAE_CONFIG
    unet: UNetConfig = UNET_CONFIG
    text_width: int = 192
    text_layers: int = 4
    schedule: ScheduleConfig = SCHEDULE
    vae_pictures: int = 8_000
    vae_batch: int = 32
    scenes: int = 50_000
    wordings: int = 8
    batch: int = 32
    short: int = 24
    """Captions are shorter than this many tokens, so most steps leave out the padding behind it: a third faster."""
    short_steps: float = 0.85
    judged: int = 512
    device: str = "cpu"
    vae_rate: float = 1.5e-3
    rate: float = 7e-4
    ema: float = 0.999
    save_every: int = 500


ON_GPU: Final = {
    "vae_batch": 96,
    "scenes": 200_000,
    "batch": 512,
    "rate": 1.2e-3,
    "ema": 0.9995,
    "save_every": 2000,
    "device": "cuda",
}
"""What a GPU makes of the same minutes: larger batches of more scenes."""


def make(work: Path, recipe: Recipe) -> Path:
    """Make every part that `work` does not hold yet, and judge the whole. Returns the exported folder."""
    if not (work / "tokenizer" / "tokenizer_config.json").exists():
        (work / "tokenizer").mkdir(parents=True, exist_ok=True)
        train_tokenizer().save(work / "tokenizer")
    tokenizer = Tokenizer.from_folder(work / "tokenizer")
    vae = _vae(work, recipe)
    data = _latents(work, recipe, vae, tokenizer)
    vae = scaled(vae, data["scale"].item())
    model = _conditioned(work, recipe, tokenizer, data)
    folder = export(work / "model", vae, model, recipe.schedule, tokenizer)
    found, page = judge(folder, recipe.judged)
    page.save(folder / "sheet.png", optimize=True)
    vae_run, unet_run = (last_line(work / part / "log.jsonl") for part in ("vae", "unet"))
    facts = {
        "scenes": recipe.scenes,
        "vae_steps": vae_run["step"],
        "vae_batch": recipe.vae_batch,
        "unet_steps": unet_run["step"],
        "batch": recipe.batch,
        "minutes": round((vae_run["seconds"] + unet_run["seconds"]) / 60),
        "machine": f"{torch.get_num_threads()} CPU cores" if recipe.device == "cpu" else torch.cuda.get_device_name(),
        "device": recipe.device,
    }
    write_card(folder, found, facts)
    return folder


# --- VAE --------------------------------------------------------------------------------------------------------------


def _vae(work: Path, recipe: Recipe) -> VAE:
    torch.manual_seed(0)
    vae = VAE(recipe.vae).to(recipe.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    rng = np.random.default_rng(1)
    scenes = [sample_scene(rng) for _ in range(recipe.vae_pictures)]
    pool = torch.stack([pixels(scene) for scene in scenes])

    def batch(share: Share) -> Tensor:
        chosen = share.integers("scene", len(pool)).tolist()
        which = share.integers("thing", 2**16).tolist()
        jitter = [(share.integers(axis, 49) - 24).tolist() for axis in ("x", "y")]
        crops = []
        for index, thing_index, dx, dy in zip(chosen, which, *jitter, strict=True):
            thing = scenes[index].things[thing_index % len(scenes[index].things)]
            left, top = _corner(thing.x, dx), _corner(thing.y, dy)
            crops.append(pool[index, :, top : top + CROP, left : left + CROP])
        return signed(torch.stack(crops).to(recipe.device)).contiguous(memory_format=torch.channels_last)

    config = _config(recipe, VAE_SHARE, batch=recipe.vae_batch, rate=recipe.vae_rate, decay=0.0, ema=0.998)
    train(vae, vae_loss, batch, config, work / "vae").copy_to(vae)
    return centred(vae.requires_grad_(False), signed(pool[:512].to(recipe.device)))


def _corner(centre: float, jitter: int) -> int:
    """Where a crop around a thing begins: a crop without edges would teach little."""
    return min(max(int(centre * SIDE) - CROP // 2 + jitter, 0), SIDE - CROP)


def pixels(scene: Scene) -> Tensor:
    """(3, SIDE, SIDE) uint8."""
    return torch.from_numpy(np.array(render(scene, SIDE))).permute(2, 0, 1)


def signed(pictures: Tensor) -> Tensor:
    """uint8 -> [-1, 1]."""
    return pictures.float() / 127.5 - 1


@torch.no_grad()
def centred(vae: VAE, pictures: Tensor) -> VAE:
    """The same VAE with latents of mean 0 and equal variance in every channel.

    The change of coordinates z' = (z - m) / s goes into the 1x1 convolutions on both sides of the latents, so what the
    VAE reconstructs stays the same. Diffusion adds the same noise to every channel and starts from mean 0, hence this.
    """
    enter, leave = vae.quant_conv, vae.post_quant_conv
    assert enter is not None and leave is not None
    latents = torch.cat([vae.encode(pictures[i : i + 32]).mode() for i in range(0, len(pictures), 32)])
    mean, spread = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    channels = len(mean)
    assert enter.bias is not None and leave.bias is not None
    enter.weight[:channels] /= spread[:, None, None, None]
    enter.bias[:channels] = (enter.bias[:channels] - mean) / spread
    enter.bias[channels:] -= 2 * spread.log()
    leave.bias += leave.weight[:, :, 0, 0] @ mean
    leave.weight *= spread[None, :, None, None]
    return vae


def scaled(vae: VAE, scale: float) -> VAE:
    """The VAE with its measured scaling factor."""
    vae.config = replace(vae.config, scaling_factor=scale)
    return vae


# --- latents ----------------------------------------------------------------------------------------------------------


def _latents(work: Path, recipe: Recipe, vae: VAE, tokenizer: Tokenizer) -> dict[str, Tensor]:
    """Latents (fp16: mean, std) and token ids of the training scenes, made once; `scale` is 1 / their spread."""
    path = work / "latents.safetensors"
    if not path.exists():
        means, stds, ids = [], [], []
        chunks = [(recipe.wordings, chunk, work / "tokenizer") for chunk in range(-(-recipe.scenes // CHUNK))]
        with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
            for pictures, tokens in pool.map(_draw, chunks):
                batch = signed(torch.from_numpy(pictures).to(recipe.device))
                with torch.no_grad():
                    posterior = vae.encode(batch.contiguous(memory_format=torch.channels_last))
                means.append(posterior.mean.half().contiguous().cpu())
                stds.append((0.5 * posterior.logvar).exp().half().contiguous().cpu())
                ids.append(torch.from_numpy(tokens))
        mean, std = torch.cat(means), torch.cat(stds)
        spread = (mean.float().var() + std.float().square().mean()).sqrt()
        temporary = path.with_suffix(".tmp")
        save_file({"mean": mean, "std": std, "ids": torch.cat(ids), "scale": 1 / spread}, temporary)
        temporary.replace(path)
    return load_file(path)


def _draw(job: tuple[int, int, Path]) -> tuple[np.ndarray, np.ndarray]:
    """One chunk of training scenes: pictures (CHUNK, 3, SIDE, SIDE) uint8, token ids (CHUNK, wordings, 77) int16."""
    wordings, chunk, words = job
    torch.set_num_threads(1)
    rng, tokenizer = np.random.default_rng((2, chunk)), Tokenizer.from_folder(words)
    scenes = [sample_scene(rng) for _ in range(CHUNK)]
    ids = [token_ids(tokenizer, _some_captions(scene, wordings, rng)) for scene in scenes]
    return torch.stack([pixels(scene) for scene in scenes]).numpy(), torch.stack(ids).short().numpy()


def _some_captions(scene: Scene, count: int, rng: np.random.Generator) -> list[str]:
    """As many English as Spanish wordings, chosen at random."""
    chosen: list[str] = []
    for language in ("en", "es"):
        texts = [caption.text for caption in captions(scene) if caption.language == language]
        chosen += [texts[i] for i in rng.integers(len(texts), size=count // 2)]
    return chosen


def token_ids(tokenizer: Tokenizer, texts: list[str]) -> Tensor:
    """(len(texts), 77) int64."""
    return torch.tensor([tokenizer.encode(text).ids for text in texts])


# --- U-Net and text encoder -------------------------------------------------------------------------------------------


def new_model(recipe: Recipe, vocabulary: int) -> Conditioned:
    """U-Net and text encoder with their starting weights."""
    torch.manual_seed(0)
    text = TextConfig(
        vocab_size=vocabulary,
        hidden_size=recipe.text_width,
        intermediate_size=4 * recipe.text_width,
        num_hidden_layers=recipe.text_layers,
        num_attention_heads=max(1, recipe.text_width // 48),
        projection_dim=recipe.text_width,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
    )
    model = Conditioned(TextEncoder(text), UNet(recipe.unet))
    for name, parameter in model.named_parameters():
        if name.endswith("token_embedding.weight"):
            # as large as what the layers add to it: with small ones all tokens soon looked alike to the U-Net
            nn.init.normal_(parameter, std=1.0)
        elif name.endswith("position_embedding.weight"):
            nn.init.normal_(parameter, std=0.3)
        elif name.endswith(("conv2.weight", "conv_out.weight", "proj_out.weight")):
            # blocks start as the identity and the network as zero: it learns faster (arXiv:2105.05233, section 3)
            nn.init.zeros_(parameter)
    return model


def _conditioned(work: Path, recipe: Recipe, tokenizer: Tokenizer, data: dict[str, Tensor]) -> Conditioned:
    model = new_model(recipe, vocabulary=int(data["ids"].max()) + 1)
    model.to(recipe.device)
    model.unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    mean, std, scale = data["mean"], data["std"], data["scale"].item()

    def batch(share: Share) -> CaptionedLatents:
        scenes = share.integers("scene", len(mean))
        wording = share.integers("wording", recipe.wordings)
        short = share.common("short") < recipe.short_steps
        ids = data["ids"][scenes, wording, : recipe.short if short else None].long()
        noise = share.normal("posterior", *mean.shape[1:])
        latents = (mean[scenes] + std[scenes] * noise) * scale
        return CaptionedLatents(latents=latents.to(recipe.device), ids=ids.to(recipe.device))

    # No min-SNR weights: they all but silence the high noise levels, where only the caption tells what is to be seen.
    loss = diffusion_loss(Schedule(recipe.schedule), empty=token_ids(tokenizer, [""])[0], dropout=0.1)
    config = _config(recipe, 1 - VAE_SHARE, batch=recipe.batch, rate=recipe.rate, decay=0.01, ema=recipe.ema)
    train(model, loss, batch, config, work / "unet").copy_to(model)
    return model


def _config(recipe: Recipe, part: float, *, batch: int, rate: float, decay: float, ema: float) -> TrainConfig:
    minutes = recipe.minutes * part
    return TrainConfig(
        optimizer=OptimizerConfig(learning_rate=rate, betas=(0.9, 0.99), weight_decay=decay),
        schedule=RateConfig(shape="cosine", warmup=100),
        run=RunConfig(
            steps=recipe.steps,
            minutes=minutes if isfinite(minutes) else None,
            batch_size=batch,
            ema=ema,
            save_every=recipe.save_every,
        ),
        watch=WatchConfig(log_every=50),
    )


# --- export -----------------------------------------------------------------------------------------------------------


def export(folder: Path, vae: VAE, model: Conditioned, schedule: ScheduleConfig, tokenizer: Tokenizer) -> Path:
    """Write an ordinary diffusers folder with fp16 weights. Returns it."""
    # transformers would run an fp16 file in fp16 where nobody asked for a type, diffusers in fp32
    text_config = {**model.text_encoder.config.to_dict(), "dtype": "float32"}
    parts = {
        "vae": (vae, vae.config.to_dict(), "diffusion_pytorch_model"),
        "unet": (model.unet, model.unet.config.to_dict(), "diffusion_pytorch_model"),
        "text_encoder": (model.text_encoder, text_config, "model"),
    }
    for name, (network, config, file) in parts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        weights = {key: value.half().contiguous() for key, value in network.state_dict().items()}
        save_file(weights, folder / name / f"{file}.safetensors", metadata={"format": "pt"})
        _json(folder / name / "config.json", config)
    for name in ("tokenizer", "scheduler"):
        (folder / name).mkdir(exist_ok=True)
    tokenizer.save(folder / "tokenizer")
    _json(folder / "scheduler" / "scheduler_config.json", schedule.to_dict())
    _json(folder / "model_index.json", MODEL_INDEX)
    return folder


MODEL_INDEX: Final = {
    "_class_name": "StableDiffusionPipeline",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def _json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m boceto.make", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="where the parts and the model go")
    parser.add_argument("--minutes", type=float, default=80.0, help="training time in all (default: %(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s")
    options = parser.parse_args()
    torch.set_float32_matmul_precision("high")  # TF32 where the device has it
    scale: dict[str, Any] = ON_GPU if options.device == "cuda" else {}
    print(make(options.out, Recipe(minutes=options.minutes, **scale)))


if __name__ == "__main__":
    main()
