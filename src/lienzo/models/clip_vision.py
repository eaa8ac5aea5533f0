"""CLIP's image encoder, and both encoders together (arXiv:2103.00020, section 2.4): pictures and words as vectors.

Keys are those of transformers' CLIPModel and CLIPVisionModelWithProjection, `pre_layrnorm` (sic) among them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from lienzo.config import Config
from lienzo.errors import ConfigError
from lienzo.images import to_tensor
from lienzo.models.clip import BOOKKEEPING, Layers, TextConfig, TextModel, check_layers


@dataclass(frozen=True, kw_only=True)
class VisionConfig(Config):
    """Shape of an image encoder; field names and defaults (ViT-B/32) of transformers' CLIPVisionConfig.

    Attributes:
        image_size: side of the square pictures it takes, pixels.
        patch_size: side of the square that becomes one token, pixels; what is left over at right and bottom is not seen.
    """

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_channels: int = 3
    image_size: int = 224
    patch_size: int = 32
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    projection_dim: int = 512

    IGNORED: ClassVar[frozenset[str]] = BOOKKEEPING
    HEADER: ClassVar[Mapping[str, Any]] = {
        "architectures": ["CLIPVisionModelWithProjection"],
        "model_type": "clip_vision_model",
    }

    def __post_init__(self) -> None:
        check_layers(self)
        if not 1 <= self.patch_size <= self.image_size:
            raise ConfigError(f"VisionConfig: patch_size={self.patch_size} does not fit image_size={self.image_size}.")


@dataclass(frozen=True, kw_only=True)
class CLIPConfig:
    """Shape of a whole CLIP: as transformers' CLIPConfig.

    Attributes:
        projection_dim: length of the vectors in which words and pictures are compared.
        logit_scale_init_value: log of 1 / temperature before training; 1 / 0.07 in the paper.
    """

    text: TextConfig
    vision: VisionConfig
    projection_dim: int = 512
    logit_scale_init_value: float = 2.6592

    def to_dict(self) -> dict[str, Any]:
        """The configuration as transformers reads it."""
        return {
            "architectures": ["CLIPModel"],
            "model_type": "clip",
            "projection_dim": self.projection_dim,
            "logit_scale_init_value": self.logit_scale_init_value,
            "text_config": self.text.to_dict(),
            "vision_config": self.vision.to_dict(),
        }


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a picture is made ready: its shorter side scaled, the centre cut out, colours centred.

    Attributes:
        size: pixels that the shorter side gets, bicubic.
        crop: (height, width) of what is cut out of the centre.
        mean, std: of red, green and blue, on a scale of 0 to 1.
    """

    size: int = 224
    crop: tuple[int, int] = (224, 224)
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)

    def __post_init__(self) -> None:
        if not 1 <= max(self.crop) <= self.size:
            raise ConfigError(
                f"Preprocessing: a centre of {self.crop} does not fit into pictures scaled to {self.size}."
            )

    @classmethod
    def square(cls, side: int) -> Self:
        """CLIP's own, for pictures of another size."""
        return cls(size=side, crop=(side, side))

    def __call__(self, image: Image.Image) -> Tensor:
        """Picture -> (3, *crop) fp32."""
        image, (height, width) = image.convert("RGB"), self.crop
        short, long = sorted(image.size)
        scaled = int(self.size * long / short)
        fitted = (self.size, scaled) if image.width <= image.height else (scaled, self.size)
        image = image.resize(fitted, Image.Resampling.BICUBIC)
        left, top = (image.width - width) // 2, (image.height - height) // 2
        pixels = to_tensor(image.crop((left, top, left + width, top + height))) / 2 + 0.5
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (pixels - mean) / std


class VisionEmbeddings(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.randn(config.hidden_size))
        self.patch_embedding = nn.Conv2d(
            config.num_channels, config.hidden_size, config.patch_size, stride=config.patch_size, bias=False
        )
        self.position_embedding = nn.Embedding((config.image_size // config.patch_size) ** 2 + 1, config.hidden_size)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 1 + patches, D), the class token first."""
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)  # (B, patches, D)
        first = self.class_embedding.expand(len(patches), 1, -1)
        return torch.cat([first, patches], 1) + self.position_embedding.weight


class VisionModel(nn.Module):
    """Vision transformer: the class token after the last layer, normalised."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.embeddings = VisionEmbeddings(config)
        self.pre_layrnorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.encoder = Layers(config, causal=False)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, image_size, image_size) -> (B, D)."""
        x = self.pre_layrnorm(self.embeddings(pixels))
        for layer in self.encoder.layers:
            x = layer(x)
        return self.post_layernorm(x[:, 0])  # type: ignore[no-any-return]


class ImageEncoder(nn.Module):
    """Prepared pictures -> one vector each, as CLIPVisionModelWithProjection."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.vision_model = VisionModel(config)
        self.visual_projection = nn.Linear(config.hidden_size, config.projection_dim, bias=False)

    def image_features(self, pixels: Tensor) -> Tensor:
        """(B, 3, image_size, image_size), see `Preprocessing` -> (B, projection_dim); not normalised."""
        return self.visual_projection(self.vision_model(pixels))  # type: ignore[no-any-return]


class CLIP(nn.Module):
    """Both encoders and what their vectors are compared with."""

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__()
        self.config = config
        self.text_model = TextModel(config.text)
        self.vision_model = VisionModel(config.vision)
        self.text_projection = nn.Linear(config.text.hidden_size, config.projection_dim, bias=False)
        self.visual_projection = nn.Linear(config.vision.hidden_size, config.projection_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(config.logit_scale_init_value))

    def image_features(self, pixels: Tensor) -> Tensor:
        """(B, 3, image_size, image_size), see `Preprocessing` -> (B, projection_dim); not normalised."""
        return self.visual_projection(self.vision_model(pixels))  # type: ignore[no-any-return]

    def text_features(self, ids: Tensor) -> Tensor:
        """(B, L) token ids -> (B, projection_dim), read off at the end token; not normalised."""
        x = self.text_model.embeddings(ids)
        for layer in self.text_model.encoder.layers:
            x = layer(x)
        x = self.text_model.final_layer_norm(x)
        eos = self.config.text.eos_token_id
        # old configurations wrongly say 2; there the end token is the highest id, as transformers takes it
        end = ids.argmax(1) if eos == 2 else (ids == eos).int().argmax(1)
        return self.text_projection(x[torch.arange(len(ids)), end])  # type: ignore[no-any-return]

    def forward(self, pixels: Tensor, ids: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) and texts (T, L) -> (B, T) cosines, times the learned scale."""
        images, texts = F.normalize(self.image_features(pixels)), F.normalize(self.text_features(ids))
        return self.logit_scale.exp() * images @ texts.T
