import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers.loaders import single_file_utils as theirs
from transformers import CLIPTextConfig

import tiny  # noqa: F401 - imports diffusers without its warnings
from lienzo.models.clip import TextConfig, TextEncoder
from lienzo.models.unet import UNet, UNetConfig
from lienzo.models.vae import VAE, VAEConfig
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

SD1 = UNetConfig()
SD2 = UNetConfig(cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True)
SD2_TEXT = TextConfig(
    hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16, hidden_act="gelu"
)
TINY = UNetConfig(
    block_out_channels=(32, 64, 64),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    layers_per_block=1,
    cross_attention_dim=32,
    transformer_layers_per_block=2,
)
TINY_VAE = VAEConfig(block_out_channels=(32, 64), layers_per_block=1)
TINY_TEXT = replace(
    SD2_TEXT, vocab_size=99, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2
)

CASES: dict[str, tuple[Any, list[Rule]]] = {
    "sd1 unet": (lambda: UNet(SD1), unet_rules(SD1)),
    "sd2 unet": (lambda: UNet(SD2), unet_rules(SD2)),
    "inpainting unet": (lambda: UNet(replace(SD1, in_channels=9)), unet_rules(replace(SD1, in_channels=9))),
    "lcm unet": (lambda: UNet(replace(TINY, time_cond_proj_dim=16)), unet_rules(replace(TINY, time_cond_proj_dim=16))),
    "tiny unet": (lambda: UNet(TINY), unet_rules(TINY)),
    "vae": (lambda: VAE(VAEConfig()), vae_rules(VAEConfig())),
    "tiny vae": (lambda: VAE(TINY_VAE), vae_rules(TINY_VAE)),
    "sd1 text": (lambda: TextEncoder(TextConfig()), text_rules(TextConfig(), "clip")),
    "sd2 text": (lambda: TextEncoder(SD2_TEXT), text_rules(SD2_TEXT, "open_clip")),
    "tiny text": (lambda: TextEncoder(TINY_TEXT), text_rules(TINY_TEXT, "open_clip")),
}


def shapes(values: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {k: tuple(v.shape) for k, v in values.items()}


@pytest.mark.parametrize("name", CASES)
def test_the_map_is_a_bijection_and_keeps_shapes(name: str) -> None:
    make, rules = CASES[name]
    with torch.device("meta"):
        ours = make().state_dict()
    covered = [key for rule in rules for key in rule.ours]
    assert sorted(covered) == sorted(ours), "every key of the network exactly once"
    assert len({rule.theirs for rule in rules}) == len(rules), "no two keys become one"
    assert shapes(from_original(rules, to_original(rules, ours))) == shapes(ours)


@pytest.mark.parametrize("name", ["tiny unet", "lcm unet", "tiny vae", "tiny text"])
def test_there_and_back_keeps_every_bit(name: str) -> None:
    make, rules = CASES[name]
    ours = make().state_dict()
    back = from_original(rules, to_original(rules, ours))
    assert all(torch.equal(back[k], v) for k, v in ours.items())


def test_published_names() -> None:
    """A sample of names and shapes as they are in v1-5-pruned.ckpt and 512-base-ema.ckpt."""
    with torch.device("meta"):
        unet = to_original(unet_rules(SD1), UNet(SD1).state_dict())
        vae = to_original(vae_rules(VAEConfig()), VAE(VAEConfig()).state_dict())
        clip = to_original(text_rules(TextConfig(), "clip"), TextEncoder(TextConfig()).state_dict())
        open_clip = to_original(text_rules(SD2_TEXT, "open_clip"), TextEncoder(SD2_TEXT).state_dict())
    want = {
        f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
        f"{UNET}input_blocks.3.0.op.weight": (320, 320, 3, 3),
        f"{UNET}middle_block.1.proj_in.weight": (1280, 1280, 1, 1),
        f"{UNET}output_blocks.2.1.conv.weight": (1280, 1280, 3, 3),
        f"{UNET}output_blocks.5.2.conv.bias": (1280,),
        f"{UNET}output_blocks.11.0.skip_connection.weight": (320, 640, 1, 1),
        f"{UNET}time_embed.2.bias": (1280,),
        f"{UNET}out.2.weight": (4, 320, 3, 3),
        f"{VAE_PREFIX}encoder.down.1.block.0.nin_shortcut.weight": (256, 128, 1, 1),
        f"{VAE_PREFIX}decoder.up.3.upsample.conv.weight": (512, 512, 3, 3),
        f"{VAE_PREFIX}decoder.mid.attn_1.q.weight": (512, 512, 1, 1),
        f"{VAE_PREFIX}quant_conv.weight": (8, 8, 1, 1),
        f"{CLIP}text_model.encoder.layers.11.mlp.fc1.weight": (3072, 768),
        f"{OPEN_CLIP}transformer.resblocks.22.attn.in_proj_weight": (3072, 1024),
        f"{OPEN_CLIP}positional_embedding": (77, 1024),
    }
    got = shapes({**unet, **vae, **clip, **open_clip})
    assert {k: got.get(k) for k in want} == want
    assert len(unet) == 686
    assert len(vae) == 248
    assert len(clip) == 196


def test_diffusers_reads_our_original_layout_the_same() -> None:
    torch.manual_seed(0)
    for config, make, rules, convert in (
        (TINY, UNet, unet_rules(TINY), theirs.convert_ldm_unet_checkpoint),
        (SD_LIKE, UNet, unet_rules(SD_LIKE), theirs.convert_ldm_unet_checkpoint),
        (TINY_VAE, VAE, vae_rules(TINY_VAE), theirs.convert_ldm_vae_checkpoint),
    ):
        ours = make(config).state_dict()  # type: ignore[operator]
        got = convert(copy.copy(to_original(rules, ours)), config.to_dict())  # type: ignore[attr-defined]
        assert got.keys() == ours.keys()
        assert all(torch.equal(got[k], v) for k, v in ours.items())


SD_LIKE = replace(TINY, block_out_channels=(32, 32, 64), layers_per_block=2, use_linear_projection=True)


def test_diffusers_reads_our_open_clip_the_same() -> None:
    ours = TextEncoder(TINY_TEXT).state_dict()

    class Model:
        config = CLIPTextConfig(hidden_size=TINY_TEXT.hidden_size)

    got = theirs.convert_open_clip_checkpoint(Model(), to_original(text_rules(TINY_TEXT, "open_clip"), ours))
    got = {k if k.startswith("text_model.") else f"text_model.{k}": v for k, v in got.items()}
    assert got.keys() == ours.keys()
    assert all(torch.equal(got[k], v) for k, v in ours.items())
