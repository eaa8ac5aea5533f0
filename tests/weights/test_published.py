"""The configurations of the published models, as their repositories have them."""

import json
from pathlib import Path
from typing import Any

import pytest

from lienzo.models.clip import TextConfig
from lienzo.models.unet import UNetConfig
from lienzo.weights.folder import read_configs

UNET_SD1: dict[str, Any] = {
    "_class_name": "UNet2DConditionModel",
    "_diffusers_version": "0.6.0",
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": 768,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}
UNET_SD2 = UNET_SD1 | {
    "_diffusers_version": "0.10.0.dev0",
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "dual_cross_attention": False,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "sample_size": 96,
    "upcast_attention": True,
    "use_linear_projection": True,
}
VAE: dict[str, Any] = {
    "_class_name": "AutoencoderKL",
    "_diffusers_version": "0.6.0",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 512,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
TEXT_SD1: dict[str, Any] = {
    "_name_or_path": "openai/clip-vit-large-patch14",
    "architectures": ["CLIPTextModel"],
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "dropout": 0.0,
    "eos_token_id": 2,
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 77,
    "model_type": "clip_text_model",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 1,
    "projection_dim": 768,
    "torch_dtype": "float32",
    "transformers_version": "4.22.0.dev0",
    "vocab_size": 49408,
}
TEXT_SD2 = TEXT_SD1 | {
    "hidden_act": "gelu",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 23,
    "projection_dim": 512,
}
SCHEDULER_SD1: dict[str, Any] = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
SCHEDULER_SD2 = SCHEDULER_SD1 | {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"}
MODELS: dict[str, tuple[dict[str, Any], ...]] = {
    "sd 1.5": (UNET_SD1, VAE, TEXT_SD1, SCHEDULER_SD1),
    "sd 1.5 inpainting": (UNET_SD1 | {"in_channels": 9}, VAE, TEXT_SD1, SCHEDULER_SD1),
    "sd 2.1": (UNET_SD2, VAE, TEXT_SD2, SCHEDULER_SD2),
}


@pytest.mark.parametrize("name", MODELS)
def test_published_configurations_are_understood(name: str, tmp_path: Path) -> None:
    files = ("unet/config.json", "vae/config.json", "text_encoder/config.json", "scheduler/scheduler_config.json")
    for file, content in zip(files, MODELS[name], strict=True):
        (tmp_path / file).parent.mkdir()
        (tmp_path / file).write_text(json.dumps(content))
    configs = read_configs(tmp_path)
    networks = configs.networks()
    count = {part: sum(p.numel() for p in network.parameters()) for part, network in networks.items()}
    # the published counts of parameters
    want = {
        "sd 1.5": {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480},
        "sd 1.5 inpainting": {"unet": 859_535_364, "vae": 83_653_863, "text_encoder": 123_060_480},
        "sd 2.1": {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840},
    }
    assert count == want[name]
    if name == "sd 1.5":
        assert configs.unet == UNetConfig()
        assert configs.text_encoder == TextConfig(bos_token_id=0, eos_token_id=2)
    assert configs.scheduler.prediction_type == ("v_prediction" if name == "sd 2.1" else "epsilon")
