import json
import shutil
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lienzo import weights
from lienzo.diffusion.schedule import Schedule
from lienzo.errors import ConfigError, FormatError, KeysError, MissingExtraError, ModelNotFoundError, UnsafePickleError
from lienzo.models.clip import TextConfig, TextEncoder
from lienzo.models.unet import UNet, UNetConfig
from lienzo.models.vae import VAE, VAEConfig
from lienzo.weights import single_file
from lienzo.weights.keymap import OPEN_CLIP, text_rules, to_original, unet_rules, vae_rules
from lienzo.weights.read import Checkpoint

Tensors = dict[str, torch.Tensor]
SD2_TEXT = TextConfig(
    hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16, hidden_act="gelu"
)
SD2_UNET = UNetConfig(cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True)


@pytest.fixture
def place(folders: dict[str, Path], tmp_path: Path) -> Path:
    """An empty folder with a tokenizer in it, for files."""
    shutil.copytree(folders["sd1"] / "tokenizer", tmp_path / "tokenizer")
    return tmp_path


def plain(tensors: Tensors, path: Path) -> Path:
    """Without the header that `save` writes, as other tools' files are."""
    save_file({k: v.contiguous() for k, v in tensors.items()}, path)
    return path


@pytest.mark.parametrize("family", ["sd1", "sd2", "inpaint"])
def test_a_single_file_is_the_same_model_as_its_folder(
    family: str, folders: dict[str, Path], files: dict[str, Path]
) -> None:
    one, two = weights.load(folders[family]), weights.load(files[family])
    assert two.digest == one.digest
    assert two.family == one.family
    assert two.unet.config == one.unet.config
    assert two.schedule.config == one.schedule.config
    assert two.tokenizer.encode("the red cat!") == one.tokenizer.encode("the red cat!")
    assert all(torch.equal(v, one.unet.state_dict()[k]) for k, v in two.unet.state_dict().items())


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_checkpoints_with_the_usual_leftovers(
    family: str, legacy: bool, folders: dict[str, Path], original: dict[str, Tensors], place: Path
) -> None:
    leftovers: Tensors = {
        "betas": torch.zeros(1000),
        "alphas_cumprod": Schedule(weights.open_model(folders[family]).configs.scheduler).alphas_cumprod.float(),
        "sqrt_one_minus_alphas_cumprod": torch.zeros(1000),
        "posterior_mean_coef1": torch.zeros(1000),
        "model_ema.decay": torch.tensor(0.9999),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)[None],
        "cond_stage_model.model.logit_scale": torch.tensor(1.0),
        "cond_stage_model.model.text_projection": torch.zeros(32, 32),
        "first_stage_model.loss.discriminator.main.0.weight": torch.zeros(2),
    }
    content = {"state_dict": original[family] | leftovers, "global_step": 470000, "epoch": 3}
    torch.save(content, place / "x.ckpt", _use_new_zipfile_serialization=not legacy)
    bundle = weights.load(place / "x.ckpt", config=folders[family])
    assert bundle.digest == weights.load(folders[family]).digest
    assert any("left out" in note for note in bundle.notes)
    assert any("EMA" in note for note in bundle.notes)


def test_open_clip_spare_layer(folders: dict[str, Path], original: dict[str, Tensors], place: Path) -> None:
    """Published SD 2.x files hold OpenCLIP's last layer, which is not run."""
    spare = {
        k.replace("resblocks.2.", "resblocks.3."): v.clone() for k, v in original["sd2"].items() if "resblocks.2." in k
    }
    path = plain(original["sd2"] | spare, place / "x.safetensors")
    assert weights.load(path, config=folders["sd2"]).digest == weights.load(folders["sd2"]).digest


def test_ema(folders: dict[str, Path], original: dict[str, Tensors], place: Path) -> None:
    def averaged(values: Tensors) -> Tensors:
        unet = {k: v for k, v in values.items() if k.startswith("model.diffusion_model.")}
        return {"model_ema." + k.removeprefix("model.").replace(".", ""): v + 1 for k, v in unet.items()}

    path = plain(original["sd1"] | averaged(original["sd1"]), place / "x.safetensors")
    last = weights.load(path, config=folders["sd1"])
    ema = weights.load(path, config=folders["sd1"], ema=True)
    assert torch.equal(ema.unet.conv_in.weight, last.unet.conv_in.weight + 1)
    assert torch.equal(ema.vae.quant_conv.weight, last.vae.quant_conv.weight)  # type: ignore[union-attr]
    assert any("averaged" in note for note in last.notes)

    with pytest.raises(FormatError, match="no averaged"):
        weights.load(plain(original["sd1"], place / "y.safetensors"), config=folders["sd1"], ema=True)
    some = averaged(original["sd1"])
    some.popitem()
    with pytest.raises(FormatError, match="1 averaged"):
        weights.load(plain(original["sd1"] | some, place / "z.safetensors"), config=folders["sd1"], ema=True)


def test_linear_vae_attention_and_a_text_model_without_prefix(
    folders: dict[str, Path], original: dict[str, Tensors], place: Path
) -> None:
    odd = {
        k.replace("transformer.text_model.", "transformer."): v[:, :, 0, 0] if "attn_1" in k and v.ndim == 4 else v
        for k, v in original["sd1"].items()
    }
    bundle = weights.load(plain(odd, place / "x.safetensors"), config=folders["sd1"])
    assert bundle.digest == weights.load(folders["sd1"]).digest


# --- what is not a model -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        (["conditioner.embedders.0.transformer.x"], "SDXL"),
        (["model.diffusion_model.joint_blocks.0.x"], "SD 3"),
        (["double_blocks.0.img_attn.qkv.weight"], "Flux"),
        (["lora_unet_down_blocks_0.lora_up.weight"], "LoRA"),
        (["unet.x.lora_A.weight"], "LoRA"),
        (["control_model.x"], "ControlNet"),
        (["down_blocks.0.resnets.0.conv1.weight"], "give the folder"),
        (["encoder.down.0.block.0.conv1.weight"], "VAE alone"),
        (["text_model.embeddings.token_embedding.weight"], "text encoder alone"),
        (["model.diffusion_model.x", "first_stage_model.x"], r"lacks the text encoder \(cond_stage_model"),
        (["weights"], "lacks the U-Net"),
        ([], "no tensors"),
    ],
)
def test_other_files_are_named(keys: list[str], says: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=says):
        weights.load(plain({k: torch.zeros(1) for k in keys}, tmp_path / "x.safetensors"))


def test_all_wrong_keys_are_listed_by_the_file_s_names(
    folders: dict[str, Path], original: dict[str, Tensors], place: Path
) -> None:
    tensors = dict(original["sd2"])
    del tensors["cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight"]
    del tensors["model.diffusion_model.out.2.bias"]
    tensors["first_stage_model.quant_conv.bias"] = torch.zeros(3)
    tensors["model.diffusion_model.strange"] = torch.zeros(1)
    with pytest.raises(KeysError) as error:
        weights.load(plain(tensors, place / "x.safetensors"), config=folders["sd2"])
    assert error.value.missing == (
        "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight",
        "model.diffusion_model.out.2.bias",
    )
    assert error.value.unexpected == ("model.diffusion_model.strange",)
    assert error.value.wrong_shape == {"first_stage_model.quant_conv.bias": ((3,), (8,))}


def test_code_in_a_checkpoint(place: Path) -> None:
    torch.save({"state_dict": {}, "hook": print}, place / "x.ckpt")
    with pytest.raises(UnsafePickleError, match="print"):
        weights.load(place / "x.ckpt")


# --- configurations ------------------------------------------------------------------------------------------------


def published(unet: UNetConfig, text: TextConfig, layout: Any) -> Tensors:
    """The original layout of a full-size model, without memory."""
    with torch.device("meta"):
        return {
            **to_original(unet_rules(unet), UNet(unet).state_dict()),
            **to_original(vae_rules(VAEConfig()), VAE(VAEConfig()).state_dict()),
            **to_original(text_rules(text, layout), TextEncoder(text).state_dict()),
        }


def opened(monkeypatch: pytest.MonkeyPatch, tensors: Tensors, path: Path = Path("x.ckpt"), **more: Any) -> Any:
    values = more.pop("values", {})
    monkeypatch.setattr(single_file, "read", lambda _: Checkpoint(tensors=tensors, kind="torch zip", values=values))
    return single_file.open_single_file(path, name="x", with_tokenizer=False, **more)


def test_sd1_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    model = opened(monkeypatch, published(UNetConfig(), TextConfig(), "clip"))
    assert model.configs.unet == UNetConfig()
    assert model.configs.vae == VAEConfig()
    assert replace(model.configs.text_encoder, bos_token_id=49406) == TextConfig()
    assert model.configs.scheduler.prediction_type == "epsilon"
    assert model.family == "sd1"
    assert model.warnings == ()


def test_sd1_inpainting_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    inpainting = replace(UNetConfig(), in_channels=9)
    model = opened(monkeypatch, published(inpainting, TextConfig(), "clip"))
    assert model.configs.unet == inpainting
    assert model.warnings == ()


def sd2() -> Tensors:
    tensors = published(SD2_UNET, replace(SD2_TEXT, num_hidden_layers=24), "open_clip")
    return tensors | {f"{OPEN_CLIP}text_projection": torch.empty(1024, 1024, device="meta")}


def test_sd2_is_recognised_and_its_prediction_type_is_a_guess_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    model = opened(monkeypatch, sd2())
    assert model.configs.unet == replace(SD2_UNET, sample_size=96, upcast_attention=True)
    assert model.configs.text_encoder == replace(SD2_TEXT, projection_dim=512, pad_token_id=0)
    assert model.family == "sd2"
    assert model.configs.scheduler.prediction_type == "v_prediction"
    assert len(model.warnings) == 1
    assert 'give prediction_type="epsilon"' in model.warnings[0]


def test_sd2_s_prediction_type_where_it_is_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told = opened(monkeypatch, sd2(), prediction_type="epsilon")
    assert (told.configs.scheduler.prediction_type, told.warnings) == ("epsilon", ())
    base = opened(monkeypatch, sd2(), values={"global_step": 875000})
    assert (base.configs.scheduler.prediction_type, base.warnings) == ("epsilon", ())
    assert base.configs.unet.sample_size == 64
    key = opened(monkeypatch, sd2() | {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)})
    assert (key.configs.scheduler.prediction_type, key.warnings) == ("v_prediction", ())
    assert key.configs.scheduler.rescale_betas_zero_snr
    nine = sd2()
    nine["model.diffusion_model.input_blocks.0.0.weight"] = torch.empty(320, 9, 3, 3, device="meta")
    assert opened(monkeypatch, nine).configs.scheduler.prediction_type == "epsilon"
    with pytest.raises(ConfigError, match="magic"):
        opened(monkeypatch, sd2(), prediction_type="magic")


def test_another_noise_schedule_in_the_file_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = published(UNetConfig(), TextConfig(), "clip")
    for stored in (torch.zeros(1000), torch.zeros(10)):
        model = opened(monkeypatch, tensors | {"alphas_cumprod": stored})
        assert "alphas_cumprod" in model.warnings[0]


YAML = """
model:
  target: ldm.models.diffusion.ddpm.LatentDiffusion
  params:
    {parameterization}
    linear_start: 0.001
    linear_end: 0.02
    scale_factor: 0.5
    unet_config:
      params: {{num_head_channels: 32, use_linear_in_transformer: True}}
"""


def test_the_original_yaml_beside_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for line, want in (('parameterization: "v"', "v_prediction"), ("parameterization: eps", "epsilon")):
        (tmp_path / "x.yaml").write_text(YAML.format(parameterization=line))
        model = opened(monkeypatch, sd2(), tmp_path / "x.ckpt")
        assert model.configs.scheduler.prediction_type == want
        assert model.configs.scheduler.beta_end == 0.02
        assert model.configs.vae.scaling_factor == 0.5
        assert model.configs.unet.heads == (10, 20, 40, 40)
        assert model.warnings == ()
    for bad in ("{", "a: 1", "model: 3"):
        (tmp_path / "x.yaml").write_text(bad)
        with pytest.raises(ConfigError, match="no original configuration"):
            opened(monkeypatch, sd2(), tmp_path / "x.ckpt")


def test_a_yaml_without_its_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(YAML.format(parameterization="parameterization: eps"))
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(MissingExtraError, match=r'pip install "lienzo\[yaml\]"'):
        opened(monkeypatch, sd2(), tmp_path / "x.ckpt")


def test_unpublished_sizes_warn_or_ask_for_the_configuration(
    folders: dict[str, Path], original: dict[str, Tensors], place: Path
) -> None:
    path = plain(original["sd1"], place / "x.safetensors")
    with pytest.raises(ConfigError, match="Give config=FOLDER"):
        weights.load(path)  # 32 wide: no whole heads of 64
    assert weights.load(path, config=folders["sd1"]).digest == weights.load(folders["sd1"]).digest
    with pytest.raises(ModelNotFoundError, match="config="):
        weights.load(path, config=place / "nothing")


def test_a_guess_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: Path) -> None:
    text = TextConfig(vocab_size=535, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=1)
    unet = UNetConfig(
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=64,
    )
    vae = VAEConfig(block_out_channels=(32, 64), layers_per_block=1)
    tensors = {
        **to_original(unet_rules(unet), UNet(unet).state_dict()),
        **to_original(vae_rules(vae), VAE(vae).state_dict()),
        **to_original(text_rules(text, "clip"), TextEncoder(text).state_dict()),
    }
    path = plain(tensors, place / "x.safetensors")
    with pytest.warns(UserWarning, match="unpublished sizes"):
        bundle = weights.load(path)
    assert bundle.unet.config == unet
    assert bundle.vae.config == vae
    assert "unpublished sizes" in bundle.notes[0]


def test_a_file_inside_a_diffusers_folder_takes_its_configurations(
    folders: dict[str, Path], original: dict[str, Tensors], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(folders["sd2"], tmp_path / "model"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bundle = weights.load(plain(original["sd2"], folder / "model-pruned.safetensors"))
    assert bundle.schedule.prediction_type == "v_prediction"
    assert bundle.digest == weights.load(folder).digest


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"unet": 3}', '{"text_encoder": {"a": 1}}'])
def test_a_damaged_header(text: str, original: dict[str, Tensors], place: Path) -> None:
    save_file(original["sd1"], place / "x.safetensors", metadata={single_file.METADATA: text})
    with pytest.raises(FormatError, match="header"):
        weights.load(place / "x.safetensors")


# --- tokenizer -----------------------------------------------------------------------------------------------------


def test_where_the_tokenizer_is_looked_for(
    folders: dict[str, Path], original: dict[str, Tensors], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIENZO_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    metadata = {single_file.METADATA: json.dumps(weights.open_model(folders["sd1"]).configs.to_dict())}
    path = tmp_path / "x.safetensors"
    save_file(original["sd1"], path, metadata=metadata)
    with pytest.raises(ModelNotFoundError, match=r"needs a tokenizer.*'x.tokenizer' or 'tokenizer'.*tokenizer=FOLDER"):
        weights.load(path)
    assert weights.inspect(path).family == "sd1", "describing needs none"
    want = weights.load(path, tokenizer=folders["sd1"]).tokenizer.vocab  # a diffusers folder
    assert weights.load(path, tokenizer=folders["sd1"] / "tokenizer").tokenizer.vocab == want
    assert weights.load(path, config=folders["sd1"]).tokenizer.vocab == want
    with pytest.raises(ModelNotFoundError, match="tokenizer="):
        weights.load(path, tokenizer=tmp_path / "nothing")
    shutil.copytree(folders["sd1"] / "tokenizer", tmp_path / "tokenizer")
    assert weights.load(path).tokenizer.vocab == want
    # the file's own folder comes first
    shutil.copytree(folders["sd1"] / "tokenizer", tmp_path / "x.tokenizer")
    shutil.rmtree(tmp_path / "tokenizer")
    (tmp_path / "tokenizer").mkdir()
    assert weights.load(path).tokenizer.vocab == want
