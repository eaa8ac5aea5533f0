"""A model on disk, opened but not built: configurations, memory-mapped tensors and what is odd about it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lienzo.diffusion.schedule import Schedule, ScheduleConfig
from lienzo.errors import ConfigError, FormatError, KeysError
from lienzo.models.bundle import COMPONENTS, Bundle
from lienzo.models.clip import TextConfig, TextEncoder
from lienzo.models.tokenizer import Tokenizer
from lienzo.models.unet import UNet, UNetConfig
from lienzo.models.vae import VAE, VAEConfig
from lienzo.weights.meta import without_memory
from lienzo.weights.read import Checkpoint

FORGET_EVERY = 2**26
"""Bytes cast between two times that the file's pages are given back."""


@dataclass(frozen=True, kw_only=True)
class Configs:
    """What the networks and the noise schedule look like; wherever it comes from, the schedule is the one for latents."""

    text_encoder: TextConfig
    unet: UNetConfig
    vae: VAEConfig
    scheduler: ScheduleConfig

    def __post_init__(self) -> None:
        object.__setattr__(self, "scheduler", self.scheduler.for_latents())

    def to_dict(self) -> dict[str, dict[str, Any]]:
        return {name: getattr(self, name).to_dict() for name in (*COMPONENTS, "scheduler")}

    @classmethod
    def from_dict(cls, data: Mapping[str, Mapping[str, Any]]) -> "Configs":
        return cls(
            text_encoder=TextConfig.from_dict(data["text_encoder"]),
            unet=UNetConfig.from_dict(data["unet"]),
            vae=VAEConfig.from_dict(data["vae"]),
            scheduler=ScheduleConfig.from_dict(data["scheduler"]),
        )

    def with_prediction(self, prediction_type: str) -> "Configs":
        """The same networks, told to predict something else.

        Raises:
            ConfigError: no such prediction type.
        """
        return replace(self, scheduler=replace(self.scheduler, prediction_type=prediction_type))  # type: ignore[arg-type]

    def networks(self) -> dict[str, nn.Module]:
        """The networks on the meta device: shapes without memory.

        Raises:
            ConfigError: the parts do not fit each other.
        """
        width, context = self.text_encoder.hidden_size, self.unet.cross_attention_dim
        if width != context:
            raise ConfigError(
                f"The text encoder is {width} wide, but the U-Net expects {context} (cross_attention_dim)."
            )
        if self.vae.latent_channels != self.unet.out_channels:
            raise ConfigError(
                f"The VAE has {self.vae.latent_channels} latent channels, but the U-Net predicts "
                f"{self.unet.out_channels}."
            )
        latents = self.unet.out_channels
        inpainting = 2 * latents + 1  # latents, mask, masked picture's latents
        if self.unet.in_channels not in (latents, inpainting):
            raise ConfigError(
                f"The U-Net takes {self.unet.in_channels} channels (in_channels). Supported are {latents}, the latents, "
                f"and {inpainting}, with those of inpainting; models that take other pictures (InstructPix2Pix, depth, "
                "upscaling) are not."
            )
        try:
            with without_memory():
                return {"text_encoder": TextEncoder(self.text_encoder), "unet": UNet(self.unet), "vae": VAE(self.vae)}
        except (TypeError, ValueError, ArithmeticError, IndexError, RuntimeError) as error:
            raise ConfigError(f"No network can be built from these configurations: {error}.") from None


@dataclass(frozen=True, kw_only=True)
class Model:
    """An opened model.

    Attributes:
        kind: the layout it came in ("diffusers folder", "single file").
        files: the files behind it.
        tensors: component -> its network's state dict, in the file's own dtypes, checked against the network.
        tokenizer: None only where the caller asked for none.
        notes: what is worth knowing; warnings: guesses that may make a wrong picture.
    """

    name: str
    kind: str
    configs: Configs
    tensors: Mapping[str, Mapping[str, Tensor]]
    tokenizer: Tokenizer | None
    files: tuple[Checkpoint, ...]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.tokenizer is None:
            return
        text, most = self.configs.text_encoder, max(self.tokenizer.encode("").ids)
        if most >= text.vocab_size or self.tokenizer.max_length > text.max_position_embeddings:
            raise FormatError(
                f"{self.name}: its tokenizer (ids up to {most}, {self.tokenizer.max_length} a prompt) does not fit its "
                f"text encoder ({text.vocab_size} ids, {text.max_position_embeddings} a prompt)."
            )

    @property
    def family(self) -> str:
        """ "sd1" or "sd2", by what SD 2.x changed: linear projections in the U-Net, OpenCLIP's activation."""
        linear = self.configs.unet.use_linear_projection
        return "sd2" if linear or self.configs.text_encoder.hidden_act == "gelu" else "sd1"

    def forget_pages(self) -> None:
        """Give the file's pages that were read so far back to the system; they come again when they are used."""
        for file in self.files:
            file.forget_pages()

    def build(self, *, dtype: torch.dtype | None, device: torch.device) -> Bundle:
        """Networks whose weights are the mapped file itself, or its cast to another dtype or device."""
        if self.tokenizer is None:
            raise ValueError(f"{self.name} was opened without its tokenizer.")
        dtype = dtype or (torch.float32 if device.type == "cpu" else None)
        networks = self.configs.networks()
        copied = 0
        for part, network in networks.items():
            values = {}
            for key, value in self.tensors[part].items():
                values[key] = value.to(device, dtype).contiguous()
                if values[key] is not value:
                    copied += value.nbytes
                if copied > FORGET_EVERY:  # the file's pages would count as memory beside their copies
                    self.forget_pages()
                    copied = 0
            network.load_state_dict(values, strict=True, assign=True)
            network.eval().requires_grad_(False)
        if copied:
            self.forget_pages()
        text_encoder, unet, vae = (networks[part] for part in COMPONENTS)
        assert isinstance(text_encoder, TextEncoder)
        assert isinstance(unet, UNet)
        assert isinstance(vae, VAE)
        return Bundle(
            name=self.name,
            tokenizer=self.tokenizer,
            text_encoder=text_encoder,
            unet=unet,
            vae=vae,
            schedule=Schedule(self.configs.scheduler),
            family=self.family,
            notes=(*self.warnings, *self.notes),
            weights=lambda: self.tensors,
        )


def checked(
    what: str, want: Mapping[str, Tensor], tensors: Mapping[str, Tensor], *, extra: Iterable[str] = ()
) -> dict[str, Tensor]:
    """`tensors`, which have exactly the names and shapes of `want` (on the meta device).

    Args:
        extra: further names in the file, which belong to no network.

    Raises:
        KeysError: lists all missing, unexpected and wrongly shaped ones.
        FormatError: whole numbers where weights should be.
    """
    shapes = {key: tuple(value.shape) for key, value in want.items()}
    wrong = {k: (tuple(v.shape), shapes[k]) for k, v in tensors.items() if k in shapes and tuple(v.shape) != shapes[k]}
    missing, unexpected = shapes.keys() - tensors.keys(), {*(tensors.keys() - shapes.keys()), *extra}
    if missing or unexpected or wrong:
        raise KeysError(what, missing=missing, unexpected=unexpected, wrong_shape=wrong)
    if whole := [key for key, value in tensors.items() if not value.is_floating_point()]:
        raise FormatError(
            f"{what}: {whole[0]!r} holds {tensors[whole[0]].dtype}, not weights ({len(whole)} such tensors)."
        )
    return dict(tensors)
