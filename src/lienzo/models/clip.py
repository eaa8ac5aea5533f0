"""CLIP's text encoder (arXiv:2103.00020, section 2.4): ViT-L/14's in SD 1.x, OpenCLIP ViT-H/14's in SD 2.x.

Keys are those of the published checkpoints: transformers' CLIPTextModel with the `text_model.` prefix.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lienzo.config import Config
from lienzo.errors import ConfigError, nearest
from lienzo.nn.attention import attend


def quick_gelu(x: Tensor) -> Tensor:
    """x * sigmoid(1.702 x), CLIP's own approximation of gelu (arXiv:1606.08415, section 2)."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {"quick_gelu": quick_gelu, "gelu": F.gelu}


@dataclass(frozen=True, kw_only=True)
class TextConfig(Config):
    """Shape of a text encoder; field names of transformers' CLIPTextConfig, defaults of SD 1.x.

    Attributes:
        num_hidden_layers: SD 2.x is published with 23 of OpenCLIP's 24, which makes its last the penultimate one.
    """

    vocab_size: int = 49408
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    projection_dim: int = 768
    bos_token_id: int = 49406
    eos_token_id: int = 49407
    pad_token_id: int = 1

    IGNORED: ClassVar[frozenset[str]] = frozenset(
        [
            "architectures",
            "model_type",
            "torch_dtype",
            "dtype",
            "transformers_version",
            "attention_dropout",
            "dropout",
            "initializer_factor",
            "initializer_range",
            "gradient_checkpointing",
            "return_dict",
            "output_attentions",
            "output_hidden_states",
            "tie_word_embeddings",
        ]
    )
    HEADER: ClassVar[Mapping[str, Any]] = {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model"}

    def __post_init__(self) -> None:
        if self.hidden_act not in ACTIVATIONS:
            raise ConfigError(
                f"TextConfig: hidden_act={self.hidden_act!r}: there is no such choice. "
                f"{nearest(self.hidden_act, ACTIVATIONS)}"
            )
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"TextConfig: {self.num_attention_heads} heads do not divide hidden_size={self.hidden_size}."
            )


class Embeddings(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = nn.Embedding(config.max_position_embeddings, config.hidden_size)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, L) -> (B, L, D)."""
        return self.token_embedding(ids) + self.position_embedding.weight[: ids.shape[1]]  # type: ignore[no-any-return]


class SelfAttention(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        d = config.hidden_size
        self.heads = config.num_attention_heads
        self.k_proj, self.v_proj, self.q_proj, self.out_proj = (nn.Linear(d, d) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D), causal."""
        h = attend(self.q_proj(x), self.k_proj(x), self.v_proj(x), self.heads, causal=True)
        return self.out_proj(h)  # type: ignore[no-any-return]


class MLP(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.hidden_act]
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        return self.fc2(self.activation(self.fc1(x)))  # type: ignore[no-any-return]


class Layer(nn.Module):
    """Pre-norm transformer layer."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.self_attn = SelfAttention(config)
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = MLP(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))  # type: ignore[no-any-return]


class Layers(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))


class TextModel(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = Layers(config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


class TextEncoder(nn.Module):
    """Token ids -> one vector a token, for the U-Net's cross-attention."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.text_model = TextModel(config)

    def forward(self, ids: Tensor, clip_skip: int = 0) -> Tensor:
        """Encode token ids.

        Args:
            ids: (B, L) int64, L <= max_position_embeddings.
            clip_skip: how many of the last layers to leave out, 0 <= clip_skip < num_hidden_layers. This counts as
                diffusers does; the web interfaces count from 1, so their "clip skip 2" is 1 here.

        Returns:
            (B, L, hidden_size), after the final layer norm.
        """
        layers = self.text_model.encoder.layers
        if not 0 <= clip_skip < len(layers):
            raise ConfigError(
                f"clip_skip={clip_skip}: this text encoder has {len(layers)} layers, so 0 to {len(layers) - 1}."
            )
        x = self.text_model.embeddings(ids)
        for layer in layers[: len(layers) - clip_skip]:
            x = layer(x)
        return self.text_model.final_layer_norm(x)  # type: ignore[no-any-return]
