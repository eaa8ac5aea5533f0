"""The recipe scratch-vae: pictures to latents and back (arXiv:2112.10752, section 3.1)."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from lienzo.images import sheet, to_image
from lienzo.models.bundle import tensors_digest
from lienzo.models.vae import VAE
from lienzo.training.config import Recipe
from lienzo.training.data import DataConfig, Dataset
from lienzo.training.data.pixels import pixels
from lienzo.training.data.plan import centred as centred_draw
from lienzo.training.distributed import device
from lienzo.training.losses import reconstruction_loss, vae_loss
from lienzo.training.recipes.batches import Pictures, held_out, spread
from lienzo.training.recipes.job import Job, Parent, Weights
from lienzo.training.recipes.networks import needs_base
from lienzo.training.share import Share
from lienzo.weights import DTYPES, load
from lienzo.weights.parts import build, load_part, save_part

MEASURED = 512
"""Pictures on which the latents' mean and spread are measured."""
SHOWN = 8


def autoencoder(
    recipe: Recipe[DataConfig], dataset: Dataset, validation: Dataset | None, stack: ExitStack
) -> Job[VAE, Tensor]:
    """Build what this recipe trains."""
    chosen, parents = recipe.model.vae, []
    from_base = needs_base(recipe, "vae")
    if isinstance(chosen, Mapping):
        torch.manual_seed(recipe.run.seed)
        vae: VAE = build("vae", {"sample_size": dataset.config.resolution, **chosen})
    else:
        source = recipe.model.base if chosen is None else chosen
        vae = _own(load(source, dtype="fp32").vae) if from_base else load_part(source, "vae")
        name = source if from_base else Path(source).name
        parents.append(Parent(role="VAE", name=name, digest=tensors_digest(vae.state_dict())))
    vae.requires_grad_(True).to(device())
    pictures = Pictures(dataset, recipe.run, stack)

    def batch(share: Share) -> Tensor:
        return pictures(share).pixels.to(device())

    def write(weights: Weights, folder: Path) -> None:
        made = VAE(vae.config).to(device())
        made.load_state_dict(dict(weights))
        seen = (pixels(centred_draw(record)) for record in spread(dataset, MEASURED))
        save_part(standardised(made, seen), folder, dtype=DTYPES[recipe.model.dtype])

    watched = validation or dataset
    shown = [pixels(draw) for draws in held_out(watched, SHOWN, SHOWN) for draw in draws]

    def sample(model: VAE) -> Image.Image:
        pairs = [(to_image(p), to_image(_reconstructed(model, p[None])[0])) for p in shown]
        same_size = [pair for pair in pairs if pair[0].size == pairs[0][0].size]
        return sheet([picture for side in zip(*same_size, strict=True) for picture in side], columns=len(same_size))

    return Job(
        model=vae,
        loss=vae_loss,
        batch=batch,
        write=write,
        product="model",
        use=f'A VAE alone: `vae = "{recipe.model.out / "model"}"` in a recipe of kind scratch-unet, or '
        f'`AutoencoderKL.from_pretrained("{recipe.model.out / "model"}")` of diffusers.',
        dataset=dataset,
        validation=validation,
        parents=tuple(parents),
        validate=None if validation is None else _validation(recipe, validation),
        sample=sample,
        facts={"parameters": {"VAE": sum(p.numel() for p in vae.parameters())}},
    )


def _own(vae: VAE) -> VAE:
    """A copy with memory of its own."""
    made = VAE(vae.config)
    made.load_state_dict(vae.state_dict())
    return made


def _reconstructed(vae: VAE, pictures: Tensor) -> Tensor:
    return vae.decode(vae.encode(pictures.to(next(vae.parameters()).device)).mode()).clamp(-1, 1).cpu()


def _validation(recipe: Recipe[DataConfig], dataset: Dataset) -> Callable[[VAE], dict[str, float]]:
    def validate(vae: VAE) -> dict[str, float]:
        loss = error = 0.0
        count = 0
        for draws in held_out(dataset, recipe.watch.validation_pictures, recipe.run.batch_size):
            pictures = torch.stack([pixels(draw) for draw in draws])
            made = _reconstructed(vae, pictures)
            loss += reconstruction_loss(made, pictures).item() * len(draws)
            error += (made - pictures).square().mean().item() * len(draws)
            count += len(draws)
        # of [-1, 1], hence 4
        return {"loss": loss / count, "psnr": float(10 * torch.log10(torch.tensor(4 * count / max(error, 1e-12))))}

    return validate


@torch.no_grad()
def standardised(vae: VAE, pictures: Iterable[Tensor]) -> VAE:
    """The same VAE with latents of mean 0 and equal variance in every channel, and the scaling factor that makes it 1.

    The change of coordinates z' = (z - m) / s goes into the 1x1 convolutions on both sides of the latents, so what the VAE
    reconstructs stays the same. Diffusion adds the same noise to every channel and starts from mean 0, hence this. A VAE
    without these convolutions gets the shift and the scale of all channels together.

    Args:
        pictures: (3, H, W) each, of any sizes.
    """
    device = next(vae.parameters()).device
    posteriors = [vae.encode(picture[None].to(device)) for picture in pictures]
    means = torch.cat([p.mean.flatten(2) for p in posteriors], dim=2)[0]  # (C, all cells)
    variances = torch.cat([p.logvar.exp().flatten(2) for p in posteriors], dim=2)[0]
    enter, leave = vae.quant_conv, vae.post_quant_conv
    if enter is None or leave is None:
        scale = (means.var() + variances.mean()).rsqrt().item()
        vae.config = replace(vae.config, shift_factor=means.mean().item(), scaling_factor=scale)
        return vae
    mean, spread = means.mean(1), means.std(1)
    channels = len(mean)
    assert enter.bias is not None and leave.bias is not None
    enter.weight[:channels] /= spread[:, None, None, None]
    enter.bias[:channels] = (enter.bias[:channels] - mean) / spread
    enter.bias[channels:] -= 2 * spread.log()
    leave.bias += leave.weight[:, :, 0, 0] @ mean
    leave.weight *= spread[None, :, None, None]
    noise = (variances.mean(1) / spread.square()).mean()
    vae.config = replace(vae.config, shift_factor=None, scaling_factor=(1 + noise).rsqrt().item())
    return vae
