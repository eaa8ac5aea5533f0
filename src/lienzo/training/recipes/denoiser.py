"""Recipes that learn to draw: full, dreambooth, lora, textual_inversion and scratch-unet."""

import copy
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from shlex import quote
from typing import Any

import torch
from torch import Tensor, nn

from lienzo import rng
from lienzo.diffusion.schedule import Schedule, ScheduleConfig
from lienzo.errors import ConfigError
from lienzo.images import sheet
from lienzo.models.bundle import Bundle, tensors_digest
from lienzo.models.clip import TextEncoder
from lienzo.models.tokenizer import Tokenizer
from lienzo.models.unet import UNet
from lienzo.models.vae import VAE
from lienzo.nn.lora import LowRank, trainable
from lienzo.nn.sharing import with_modules
from lienzo.pipeline.request import Request
from lienzo.training.config import Recipe
from lienzo.training.data import DataConfig, Dataset
from lienzo.training.distributed import device
from lienzo.training.losses import CaptionedLatents, Conditioned, diffusion_loss, validation_loss
from lienzo.training.recipes.batches import Latents, Tell, held_out_latents, spread
from lienzo.training.recipes.job import Job, Parent, Weights, under
from lienzo.training.recipes.networks import (
    check_unet,
    decided_by,
    needs_base,
    new_text_encoder,
    new_unet,
    tokenizer_for,
)
from lienzo.training.recipes.sheets import drawn
from lienzo.training.recipes.words import Words
from lienzo.weights import DTYPES, load
from lienzo.weights.adapters import Adapter, Embedding, save_adapter, save_embedding, with_adapters
from lienzo.weights.meta import without_memory
from lienzo.weights.parts import load_part
from lienzo.weights.save import save

DenoiserRecipe = Recipe[DataConfig]
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
"""The U-Net's layers that get an adapter in diffusers' own LoRA example."""
TEXT_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")
CONVOLUTIONS = ("conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv")
TABLE = "text_model.embeddings.token_embedding"
LORA_FILE, EMBEDDING_FILE = "pytorch_lora_weights.safetensors", "learned_embeds.safetensors"
"""By these names diffusers finds an adapter in a folder."""


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What is particular to a kind of recipe.

    Attributes:
        bundle: whose networks do not learn, but for those in `model`; with the schedule that is trained for.
        text_learns: the text encoder, or something in it, does.
    """

    bundle: Bundle
    model: Conditioned
    text_learns: bool
    write: Callable[[Weights, Path], None]
    product: str
    use: str
    parents: tuple[Parent, ...]
    facts: Mapping[str, Any]


def base_of(recipe: DenoiserRecipe) -> Bundle:
    """The model that a recipe starts from, where this process trains.

    Raises:
        ConfigError: it is one that lienzo does not train.
    """
    bundle = load(recipe.model.base, dtype="fp32", device=device())
    if bundle.unet.config.in_channels != bundle.unet.config.out_channels:
        raise ConfigError(
            f"model.base: {bundle.name} is an inpainting model, which lienzo does not train. Name another."
        )
    return bundle


def denoiser(
    recipe: DenoiserRecipe,
    dataset: Dataset,
    validation: Dataset | None,
    base: Bundle | None,
    tell: Tell,
    stack: ExitStack,
) -> Job[Conditioned, CaptionedLatents]:
    """Build what these recipes train.

    Args:
        base: None for scratch-unet, which may need none.
    """
    if recipe.loss.masked != dataset.config.masks:
        raise ConfigError(
            f"loss.masked={str(recipe.loss.masked).lower()} and data.masks={str(dataset.config.masks).lower()} do not go "
            "together. Set both, or neither."
        )
    if recipe.loss.prior_weight != 1 and not dataset.prior:
        raise ConfigError(
            "loss.prior_weight would be ignored: there are no class pictures. Name their folder in data.prior."
        )
    if base is None:
        chosen = _scratch(recipe, dataset)
    else:
        chosen = {"lora": _lora, "textual_inversion": _inversion}.get(recipe.kind, _full)(recipe, dataset, base)
    bundle = chosen.bundle
    config = dataset.config
    words = Words(
        bundle.tokenizer,
        None if chosen.text_learns else bundle.text_encoder,
        config.cache / "text" if config.cache is not None and config.cache_text else None,
    )
    batches = Latents(dataset, bundle.vae, words, recipe.run, stack, prior_weight=recipe.loss.prior_weight)

    def bundled(model: Conditioned) -> Bundle:
        return replace(bundle, unet=model.unet, text_encoder=model.text_encoder, weights=None)

    @cache
    def held_out_batches() -> tuple[CaptionedLatents, ...]:
        assert validation is not None
        return held_out_latents(validation, bundle.vae, words, recipe.watch.validation_pictures, recipe.run.batch_size)

    side = config.resolution
    prompts = recipe.watch.prompts or tuple(dict.fromkeys(c for r in dataset.records for c in r.captions))[:4] or ("",)
    requests = [
        Request(
            prompt, seed=seed, width=side, height=side, steps=recipe.watch.sample_steps,
            guidance_scale=recipe.watch.guidance,
        )
        for seed, prompt in enumerate(prompts)
    ]  # fmt: skip
    return Job(
        model=chosen.model,
        loss=diffusion_loss(bundle.schedule, config=recipe.loss),
        batch=batches,
        fill=lambda: batches.fill(
            tell, () if validation is None else spread(validation, recipe.watch.validation_pictures)
        ),
        write=chosen.write,
        product=chosen.product,
        use=chosen.use,
        dataset=dataset,
        validation=validation,
        parents=chosen.parents,
        # not encoded before they are asked for: then the caches are filled, and by one process only
        validate=None if validation is None else validation_loss(bundle.schedule, held_out_batches),
        sample=lambda model: sheet(drawn(bundled(model), requests)),
        bundle=bundled,
        facts=chosen.facts,
    )


# --- a whole model -----------------------------------------------------------------------------------------------------


def _full(recipe: DenoiserRecipe, dataset: Dataset, base: Bundle) -> _Plan:
    """Every weight of the U-Net learns, and of the text encoder if that is wanted."""
    if recipe.kind == "dreambooth" and not dataset.prior:
        raise ConfigError(
            "kind = 'dreambooth' needs class pictures: name their folder in data.prior, and let the base make them with "
            "classes.prompt if it is empty. Without them, train with kind = 'full'."
        )
    text_learns = recipe.model.train_text_encoder
    unet = copy.deepcopy(base.unet).requires_grad_(True)
    text = copy.deepcopy(base.text_encoder).requires_grad_(True) if text_learns else base.text_encoder
    # with the copies, so that the base's own are not kept beside them
    bundle = replace(base, unet=unet, text_encoder=text, schedule=_schedule(recipe, base.schedule))

    def write(weights: Weights, folder: Path) -> None:
        _save_whole(recipe, bundle, weights, folder)

    return _Plan(
        bundle=bundle, model=Conditioned(text, unet), text_learns=text_learns, write=write, product="model",
        use=_use_model(recipe), parents=(_parent(base),), facts=_parameters(unet, text),
    )  # fmt: skip


def _schedule(recipe: DenoiserRecipe, schedule: Schedule) -> Schedule:
    """The base's, or what `loss.prediction` and `loss.zero_terminal_snr` make of it."""
    config = schedule.config
    if recipe.loss.prediction is not None:
        config = replace(config, prediction_type=recipe.loss.prediction)
    if recipe.loss.zero_terminal_snr:
        # sampling has to start at the last timestep, the only one without signal (arXiv:2305.08891, section 3.3)
        config = replace(config, rescale_betas_zero_snr=True, timestep_spacing="trailing")
    return schedule if config == schedule.config else Schedule(config)


def _save_whole(recipe: DenoiserRecipe, bundle: Bundle, weights: Weights, folder: Path) -> None:
    """An ordinary diffusers folder."""
    networks: dict[str, Any] = {}
    for part in ("unet", "text_encoder"):
        learned = under(weights, part)
        if learned:
            network = getattr(bundle, part)
            with without_memory():
                networks[part] = type(network)(network.config)
            networks[part].load_state_dict(learned, assign=True)
    made = replace(bundle, name=recipe.model.out.name, weights=None, **networks)
    save(made, folder, dtype=DTYPES[recipe.model.dtype], overwrite=True)


def _use_model(recipe: DenoiserRecipe) -> str:
    folder = recipe.model.out / "model"
    return (
        f'An ordinary diffusers folder: `lienzo generate --model {quote(str(folder))} "..."`, or '
        f'`StableDiffusionPipeline.from_pretrained("{folder}")` of lienzo or diffusers.'
    )


# --- from scratch ------------------------------------------------------------------------------------------------------


def _scratch(recipe: DenoiserRecipe, dataset: Dataset) -> _Plan:
    """A new U-Net over a finished VAE; the text encoder may be finished, or new and learn too."""
    model = recipe.model
    if isinstance(model.vae, Mapping):
        raise ConfigError("model.vae: a new VAE is trained by kind = 'scratch-vae' first; name its folder here.")
    if isinstance(model.text_encoder, Mapping) and not model.train_text_encoder:
        raise ConfigError(
            "model.text_encoder is a new one, which says nothing until it has learned. Set model.train_text_encoder=true, or "
            "name a folder."
        )
    parts = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
    base = base_of(recipe) if needs_base(recipe, *parts) else None
    parents = [_parent(base)] if base is not None else []

    def inherited(part: str) -> Any:
        return getattr(base, part)

    if isinstance(model.tokenizer, int) and not isinstance(model.text_encoder, Mapping):
        raise ConfigError(
            "model.tokenizer learns a vocabulary, and model.text_encoder is a finished one, which knows only its own. Leave the "
            "tokenizer out, or give the shape of a new text encoder and set model.train_text_encoder=true."
        )
    vae: VAE = inherited("vae") if model.vae is None else load_part(model.vae, "vae")
    tokenizer: Tokenizer = tokenizer_for(recipe, dataset, None if base is None else base.tokenizer)
    if model.text_encoder is None:
        text: TextEncoder = copy.deepcopy(inherited("text_encoder"))
    elif isinstance(model.text_encoder, str):
        text = load_part(model.text_encoder, "text_encoder")
    else:
        text = new_text_encoder(model.text_encoder, tokenizer, seed=recipe.run.seed)
    cells = dataset.config.resolution // vae.config.factor
    if isinstance(model.unet, str):
        unet: UNet = load_part(model.unet, "unet")
        check_unet(unet.config.to_dict(), decided_by(text, vae))
        unet.config = replace(unet.config, sample_size=cells)
    else:
        shape = model.unet
        if shape is None:
            decided = {*decided_by(text, vae), "sample_size"}
            shape = {k: v for k, v in inherited("unet").config.to_dict().items() if k not in decided}
        unet = new_unet(shape, text, vae, cells, seed=recipe.run.seed)
    schedule = Schedule(ScheduleConfig.from_dict(model.scheduler)) if model.scheduler else inherited("schedule")
    for role, source, network in (
        ("VAE", model.vae, vae),
        ("text encoder", model.text_encoder, text),
        ("U-Net", model.unet, unet),
    ):
        if isinstance(source, str):
            parents.append(Parent(role=role, name=Path(source).name, digest=tensors_digest(network.state_dict())))
    for network, learns in ((vae, False), (text, model.train_text_encoder), (unet, True)):
        network.requires_grad_(learns).to(device())
    bundle = Bundle(
        name=model.out.name, tokenizer=tokenizer, text_encoder=text, unet=unet, vae=vae.eval(), schedule=schedule,
        family="sd2" if unet.config.use_linear_projection or text.config.hidden_act == "gelu" else "sd1",
    )  # fmt: skip

    def write(weights: Weights, folder: Path) -> None:
        _save_whole(recipe, bundle, weights, folder)

    return _Plan(
        bundle=bundle, model=Conditioned(text, unet), text_learns=model.train_text_encoder, write=write, product="model",
        use=_use_model(recipe), parents=tuple(parents), facts=_parameters(unet, text, vae),
    )  # fmt: skip


# --- adapters ----------------------------------------------------------------------------------------------------------


def _lora(recipe: DenoiserRecipe, dataset: Dataset, base: Bundle) -> _Plan:
    """Low-rank matrices beside frozen layers (arXiv:2106.09685)."""
    config = recipe.adapter
    targets = {
        "unet": (*(config.layers or ATTENTION), *(CONVOLUTIONS if config.conv else ())),
        "text_encoder": TEXT_ATTENTION,
    }
    networks: dict[str, Any] = {"unet": base.unet, "text_encoder": base.text_encoder}
    for i, name in enumerate(config.targets):
        there = [end for end in targets[name] if end not in CONVOLUTIONS or _has(networks[name], end)]
        networks[name], _ = trainable(
            networks[name], there, rank=config.rank, alpha=config.alpha, generator=rng.generator(recipe.run.seed + i)
        )
    scale = (config.alpha or config.rank) / config.rank

    def write(weights: Weights, folder: Path) -> None:
        layers: dict[str, dict[str, LowRank]] = {
            network: {
                path: LowRank(found[f"{path}.down"].cpu(), found[f"{path}.up"].cpu(), scale)
                for path in sorted({name.rpartition(".")[0] for name in found})
            }
            for network in config.targets
            if (found := under(weights, network))
        }
        adapter = Adapter.of(recipe.model.out.name, layers)
        folder.mkdir()
        save_adapter(folder / LORA_FILE, adapter, style=config.style, dtype=DTYPES[recipe.model.dtype])

    path = recipe.model.out / "adapter"
    return _Plan(
        bundle=base, model=Conditioned(networks["text_encoder"], networks["unet"]),
        text_learns="text_encoder" in config.targets, write=write, product="adapter",
        use=f'`lienzo generate --model {quote(recipe.model.base)} --lora {quote(str(path / LORA_FILE))} "..."`, or '
        f'`pipe.load_lora_weights("{path}")` in lienzo and diffusers.',
        parents=(_parent(base),), facts={"rank": config.rank, "alpha": config.alpha or config.rank},
    )  # fmt: skip


def _has(network: nn.Module, end: str) -> bool:
    return any(path == end or path.endswith(f".{end}") for path, _ in network.named_modules())


class Learned(nn.Module):
    """A frozen table of embeddings, and rows behind it that learn."""

    weight: Tensor

    def __init__(self, table: Tensor, rows: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", table, persistent=False)
        self.rows = nn.Parameter(rows)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, L) -> (B, L, D)."""
        # not one table of both: a copy of 50,000 rows in every step, and a gradient as large
        behind = ids - len(self.weight)
        known = nn.functional.embedding(ids.clamp(max=len(self.weight) - 1), self.weight)
        return torch.where(behind[..., None] < 0, known, nn.functional.embedding(behind.clamp(min=0), self.rows))


def _inversion(recipe: DenoiserRecipe, dataset: Dataset, base: Bundle) -> _Plan:
    """A new word's embeddings and nothing else (arXiv:2208.01618, section 4)."""
    config, token = recipe.adapter, recipe.adapter.token
    assert token is not None
    bare = [record.key for record in dataset.records if not any(token in caption for caption in record.captions)]
    if bare:
        raise ConfigError(
            f"{len(bare)} of {len(dataset.records)} pictures have no caption with {token!r}, {bare[0]} first. Write it in their "
            f'captions, or give pictures without any one: data.sources = {{ path = "...", caption = "a picture of {token}" }}'
        )
    first = Embedding(token=token, vectors=_start(base, config.initial, config.vectors), digest="")
    bundle = with_adapters(base, [], [first])
    table = bundle.text_encoder.get_submodule(TABLE).weight
    assert isinstance(table, Tensor)
    split = len(table) - config.vectors
    learned = Learned(table[:split].detach(), table[split:].detach().clone())
    text: TextEncoder = with_modules(bundle.text_encoder, {TABLE: learned})

    def write(weights: Weights, folder: Path) -> None:
        vectors = weights[f"text_encoder.{TABLE}.rows"].cpu()
        folder.mkdir()
        embedding = Embedding(token=token, vectors=vectors.to(DTYPES[recipe.model.dtype]), digest="")
        save_embedding(folder / EMBEDDING_FILE, embedding)

    path = recipe.model.out / "adapter"
    return _Plan(
        bundle=replace(bundle, base=None), model=Conditioned(text, base.unet), text_learns=True, write=write, product="adapter",
        use=f'`lienzo generate --model {quote(recipe.model.base)} --embedding {quote(str(path / EMBEDDING_FILE))} "... {token} ..."`, '
        f'or `pipe.load_textual_inversion("{path}")` in lienzo and diffusers.',
        parents=(_parent(base),), facts={"token": token, "vectors": config.vectors},
    )  # fmt: skip


def _start(base: Bundle, initial: str | None, count: int) -> Tensor:
    """(count, D): the embeddings of the initial words over and over, or the mean of all."""
    table = base.text_encoder.get_submodule(TABLE).weight
    assert isinstance(table, Tensor)
    if initial is None:
        return table.mean(dim=0).expand(count, -1).clone()
    end = base.tokenizer.encode("").ids[1]
    ids = base.tokenizer.encode(initial).ids[1:]
    ids = ids[: ids.index(end)]
    if not ids:
        raise ConfigError(f"adapter.initial: got {initial!r}, which is no word.")
    return table[[ids[i % len(ids)] for i in range(count)]].clone()


# --- facts -------------------------------------------------------------------------------------------------------------


def _parent(base: Bundle) -> Parent:
    return Parent(role="base", name=base.name, digest=base.digest)


def _parameters(*networks: nn.Module) -> dict[str, Any]:
    return {"parameters": {type(n).__name__: sum(p.numel() for p in n.parameters()) for n in networks}}
