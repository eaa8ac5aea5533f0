"""The recipe scratch-clip: which caption is whose picture's (arXiv:2103.00020)."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import torch

from lienzo.errors import ConfigError
from lienzo.models.clip import TextConfig
from lienzo.models.clip_vision import CLIP, CLIPConfig, Preprocessing, VisionConfig
from lienzo.training.config import Recipe
from lienzo.training.data import Batch, DataConfig, Dataset
from lienzo.training.data.pixels import pixels
from lienzo.training.distributed import device
from lienzo.training.losses import CaptionedPictures, clip_loss, same_captions
from lienzo.training.recipes.batches import Pictures, captioned, held_out
from lienzo.training.recipes.job import Job, Weights
from lienzo.training.recipes.networks import needs_base, spread_embeddings, text_shape, tokenizer_for
from lienzo.training.recipes.words import Words
from lienzo.training.share import Share
from lienzo.weights import DTYPES, load
from lienzo.weights.save import save_clip


def contrastive(
    recipe: Recipe[DataConfig], dataset: Dataset, validation: Dataset | None, stack: ExitStack
) -> Job[CLIP, CaptionedPictures]:
    """Build what this recipe trains."""
    shapes = recipe.model
    if not isinstance(shapes.text_encoder, Mapping) or shapes.image_encoder is None:
        raise ConfigError(
            "kind = 'scratch-clip' needs the shapes of both sides: model.text_encoder and model.image_encoder."
        )
    inherited = load(shapes.base).tokenizer if needs_base(recipe, "tokenizer") else None
    tokenizer = tokenizer_for(recipe, dataset, inherited)
    vision = VisionConfig.from_dict(shapes.image_encoder)
    side = vision.image_size
    if any(some is not None and some.config.buckets != ((side, side),) for some in (dataset, validation)):
        raise ConfigError(
            f"model.image_encoder takes {side}x{side} pixels. Set data.resolution, data.bucket_min and data.bucket_max to {side}; [validation] then has them too."
        )
    if dataset.config.dropout:
        raise ConfigError("data.dropout: a CLIP has no use for pictures without captions. Set it to 0.")
    text = TextConfig.from_dict({**text_shape(shapes.text_encoder, tokenizer), "projection_dim": vision.projection_dim})
    torch.manual_seed(recipe.run.seed)
    model = CLIP(CLIPConfig(text=text, vision=vision, projection_dim=vision.projection_dim))
    spread_embeddings(model)
    model.to(device())
    words, preprocessing = Words(tokenizer, None), Preprocessing.square(side)
    pictures = Pictures(dataset, recipe.run, stack)

    def batch(share: Share) -> CaptionedPictures:
        return captioned(pictures(share), words, preprocessing, device())

    def write(weights: Weights, folder: Path) -> None:
        made = CLIP(model.config)
        made.load_state_dict(dict(weights))
        save_clip(
            made, folder, tokenizer=tokenizer, preprocessing=preprocessing, dtype=DTYPES[shapes.dtype], overwrite=True
        )

    return Job(
        model=model,
        loss=clip_loss,
        batch=batch,
        write=write,
        product="model",
        use=f"A CLIP as transformers has it: `--clip {shapes.out / 'model'}` of `lienzo eval`, `watch.clip` of a recipe, or "
        f'`CLIPModel.from_pretrained("{shapes.out / "model"}")`.',
        dataset=dataset,
        validation=validation,
        parents=(),
        validate=None if validation is None else _validation(recipe, validation, words, preprocessing),
        facts={"parameters": {"CLIP": sum(p.numel() for p in model.parameters())}},
    )


def _validation(
    recipe: Recipe[DataConfig], dataset: Dataset, words: Words, preprocessing: Preprocessing
) -> Callable[[CLIP], dict[str, float]]:
    """Loss, and how often a picture's own caption is the likeliest of its batch."""

    def validate(model: CLIP) -> dict[str, float]:
        loss = right = 0.0
        count = 0
        for draws in held_out(dataset, recipe.watch.validation_pictures, recipe.run.batch_size):
            read = torch.stack([pixels(draw) for draw in draws])
            batch = captioned(
                Batch(draws=draws, pixels=read, masks=None, weights=torch.ones(len(draws))),
                words,
                preprocessing,
                device(),
            )
            share = Share(seed=0, step=0, size=len(draws))
            loss += clip_loss(model, batch, share).item() * len(draws)
            likeliest = model(batch.pixels, batch.ids).argmax(1)
            right += same_captions(batch.ids)[torch.arange(len(draws)), likeliest].sum().item()
            count += len(draws)
        return {"loss": loss / count, "accuracy": right / count}

    return validate
