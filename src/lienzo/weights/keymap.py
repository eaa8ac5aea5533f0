"""The one map between the original single-file layout (CompVis, Stability) and diffusers' keys, which are ours.

`rules(...)` gives, from the configurations alone, a list of `Rule`: which keys of a network become which key of
the file, and how the values change. Both directions are read off the same list, so they cannot disagree.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import torch
from torch import Tensor

from lienzo.models.clip import TextConfig, TextEncoder
from lienzo.models.unet import UNet, UNetConfig
from lienzo.models.vae import VAE, VAEConfig
from lienzo.weights.meta import without_memory

Kind = Literal["same", "conv", "fused"]

UNET, VAE_PREFIX, CLIP, OPEN_CLIP = (
    "model.diffusion_model.",
    "first_stage_model.",
    "cond_stage_model.transformer.",
    "cond_stage_model.model.",
)

UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
VAE_RESNET = {"conv_shortcut": "nin_shortcut"}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
OPEN_CLIP_TOP = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
}


@dataclass(frozen=True)
class Rule:
    """One tensor of the file and what it is in the network.

    Attributes:
        ours: one key, or for "fused" the three (q, k, v) whose rows the file's tensor holds one after the other.
        theirs: the key in the file.
        kind: "same"; "conv": our (C, D) is the file's 1x1 convolution (C, D, 1, 1); "fused".
    """

    ours: tuple[str, ...]
    theirs: str
    kind: Kind = "same"

    def to_ours(self, value: Tensor) -> dict[str, Tensor]:
        """The file's tensor as the network's; views, no copies."""
        if self.kind == "conv" and value.ndim == 4:
            value = value[:, :, 0, 0]
        if self.kind == "fused":
            return dict(zip(self.ours, value.chunk(3, dim=0), strict=True))
        return {self.ours[0]: value}

    def to_theirs(self, values: Mapping[str, Tensor]) -> Tensor:
        """The network's tensors as the file's."""
        parts = [values[key] for key in self.ours]
        if self.kind == "fused":
            return torch.cat(parts)
        return parts[0][:, :, None, None] if self.kind == "conv" else parts[0]


def unet_rules(config: UNetConfig) -> list[Rule]:
    """Rules of a U-Net's every key."""
    with without_memory():
        keys = UNet(config).state_dict().keys()
    places = {
        "conv_in": "input_blocks.0.0",
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "time_embedding.cond_proj": "time_embed.cond_proj",
        "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
    }
    n = 1
    for i in range(len(config.down_block_types)):
        for j in range(config.layers_per_block):
            places[f"down_blocks.{i}.resnets.{j}"] = f"input_blocks.{n}.0"
            places[f"down_blocks.{i}.attentions.{j}"] = f"input_blocks.{n}.1"
            n += 1
        places[f"down_blocks.{i}.downsamplers.0.conv"] = f"input_blocks.{n}.0.op"
        n += 1
    n = 0
    for i, block in enumerate(config.up_block_types):
        for j in range(config.layers_per_block + 1):
            places[f"up_blocks.{i}.resnets.{j}"] = f"output_blocks.{n}.0"
            places[f"up_blocks.{i}.attentions.{j}"] = f"output_blocks.{n}.1"
            n += 1
        # the upsampling shares its place with the last layer, after the attention where there is one
        after = 2 if block.startswith("CrossAttn") else 1
        places[f"up_blocks.{i}.upsamplers.0.conv"] = f"output_blocks.{n - 1}.{after}.conv"
    return [Rule((key,), UNET + _renamed(key, places, UNET_RESNET)) for key in keys]


def vae_rules(config: VAEConfig) -> list[Rule]:
    """Rules of a VAE's every key."""
    with without_memory():
        keys = VAE(config).state_dict().keys()
    last = len(config.block_out_channels) - 1
    places = {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}
    for part in ("encoder", "decoder"):
        places |= {
            f"{part}.conv_in": f"{part}.conv_in",
            f"{part}.conv_norm_out": f"{part}.norm_out",
            f"{part}.conv_out": f"{part}.conv_out",
            f"{part}.mid_block.resnets.0": f"{part}.mid.block_1",
            f"{part}.mid_block.attentions.0": f"{part}.mid.attn_1",
            f"{part}.mid_block.resnets.1": f"{part}.mid.block_2",
        }
    for i in range(last + 1):
        places[f"encoder.down_blocks.{i}.downsamplers.0"] = f"encoder.down.{i}.downsample"
        # the original counts the decoder's levels from the finest
        places[f"decoder.up_blocks.{i}.upsamplers.0"] = f"decoder.up.{last - i}.upsample"
        for j in range(config.layers_per_block + 1):
            places[f"encoder.down_blocks.{i}.resnets.{j}"] = f"encoder.down.{i}.block.{j}"
            places[f"decoder.up_blocks.{i}.resnets.{j}"] = f"decoder.up.{last - i}.block.{j}"
    names = VAE_RESNET | VAE_ATTENTION
    return [
        Rule(
            (key,),
            VAE_PREFIX + _renamed(key, places, names),
            "conv" if ".to_" in key and key.endswith("weight") else "same",
        )
        for key in keys
    ]


def text_rules(config: TextConfig, layout: Literal["clip", "open_clip"]) -> list[Rule]:
    """Rules of a text encoder's every key: transformers' layout (SD 1.x) or OpenCLIP's (SD 2.x)."""
    with without_memory():
        keys = TextEncoder(config).state_dict().keys()
    if layout == "clip":
        return [Rule((key,), CLIP + key) for key in keys]
    rules = [Rule((ours,), OPEN_CLIP + theirs) for ours, theirs in OPEN_CLIP_TOP.items()]
    for i in range(config.num_hidden_layers):
        layer, block = f"text_model.encoder.layers.{i}", f"{OPEN_CLIP}transformer.resblocks.{i}"
        for kind in ("weight", "bias"):
            qkv = tuple(f"{layer}.self_attn.{p}_proj.{kind}" for p in "qkv")
            rules.append(Rule(qkv, f"{block}.attn.in_proj_{kind}", "fused"))
            rules += [Rule((f"{layer}.{a}.{kind}",), f"{block}.{b}.{kind}") for a, b in OPEN_CLIP_LAYER.items()]
    return rules


def to_original(rules: Iterable[Rule], values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A network's state dict in the original layout."""
    return {rule.theirs: rule.to_theirs(values) for rule in rules}


def from_original(rules: Iterable[Rule], values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The network's keys that the file has; keys it lacks are left out, for the caller to list."""
    return dict(chain.from_iterable(r.to_ours(values[r.theirs]).items() for r in rules if r.theirs in values))


def _renamed(key: str, places: Mapping[str, str], inside: Mapping[str, str]) -> str:
    """`key` with its module's place looked up and the names inside the module changed."""
    parts = key.split(".")
    for n in range(len(parts) - 1, 0, -1):
        if (place := places.get(".".join(parts[:n]))) is not None:
            rest = ".".join(parts[n:])
            name = next((o for o in inside if rest.startswith(f"{o}.")), None)
            return f"{place}.{inside[name]}{rest[len(name) :]}" if name else f"{place}.{rest}"
    raise AssertionError(f"the map lacks a place for {key}")
