import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny
from lienzo import Pipeline, Request, weights
from lienzo.errors import ConfigError, FormatError, KeysError, ModelNotFoundError, UnsafePickleError

UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
ALL = (UNET, VAE, TEXT)


@pytest.fixture
def folder(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(folders["sd1"], tmp_path / "model"))


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def retensor(path: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    tensors = {k: v.clone() for k, v in load_file(path).items()}
    save_file(change(tensors), path)


@pytest.mark.parametrize("family", ["sd1", "sd2", "inpaint"])
def test_the_networks_equal_diffusers(family: str, folders: dict[str, Path]) -> None:
    bundle = weights.load(folders[family])
    cls = "StableDiffusionInpaintPipeline" if family == "inpaint" else "StableDiffusionPipeline"
    pipe = tiny.reference(folders[family], cls)
    torch.manual_seed(1)
    ids = torch.tensor([bundle.tokenizer.encode("the red cat, ¡olé!").ids])
    assert ids[0].tolist() == pipe.tokenizer("the red cat, ¡olé!", padding="max_length", truncation=True).input_ids
    x = torch.randn(1, bundle.unet.config.in_channels, 16, 16)
    z, t = torch.randn(1, 4, 8, 8), torch.tensor([321.0])
    with torch.no_grad():
        text, want_text = bundle.text_encoder(ids), pipe.text_encoder(ids)[0]
        pairs = [
            (text, want_text),
            (bundle.unet(x, t, text), pipe.unet(x, t, want_text).sample),
            (bundle.vae.decode(z), pipe.vae.decode(z).sample),
        ]
    for got, want in pairs:
        assert float((got - want).abs().max() / want.abs().max()) <= 1e-5
    assert bundle.schedule.prediction_type == pipe.scheduler.config.prediction_type
    assert bundle.family == ("sd2" if family == "sd2" else "sd1")


def test_networks_are_ready_for_inference(folders: dict[str, Path]) -> None:
    bundle = weights.load(folders["sd1"])
    for part in (bundle.text_encoder, bundle.unet, bundle.vae):
        assert not part.training
        assert not any(p.requires_grad or p.is_meta for p in part.parameters())


def test_weights_are_the_mapped_file_itself(folders: dict[str, Path]) -> None:
    bundle = weights.load(folders["sd1"])
    assert bundle.weights is not None
    raw = bundle.weights()["unet"]["conv_in.weight"]
    assert bundle.unet.conv_in.weight.data_ptr() == raw.data_ptr()


def test_half_precision_files_become_fp32_on_the_cpu(folder: Path) -> None:
    full = weights.load(folder)
    for name in ALL:
        retensor(folder / name, lambda ts: {k: v.half() for k, v in ts.items()})
    half = weights.load(folder)
    assert half.unet.conv_in.weight.dtype == torch.float32
    assert torch.equal(half.unet.conv_in.weight, full.unet.conv_in.weight.half().float())
    assert half.digest != full.digest
    assert weights.load(folder, dtype="fp16").unet.conv_in.weight.dtype == torch.float16
    assert weights.load(folder, dtype="fp16").digest == half.digest, "the digest is that of the file"


def variant_of(folder: Path, names: tuple[str, ...] = ALL) -> None:
    for name in names:
        (folder / name).rename((folder / name).with_suffix(".fp16.safetensors"))


def test_variants(folder: Path) -> None:
    plain = weights.load(folder)
    variant_of(folder)
    assert weights.load(folder, variant="fp16").notes == ()
    alone = weights.load(folder)
    assert alone.digest == plain.digest
    assert len(alone.notes) == 3
    assert "'fp16' files, there being no other" in alone.notes[0]
    with pytest.raises(ModelNotFoundError, match="variant 'bf16'"):
        weights.load(folder, variant="bf16")


def test_a_variant_that_one_part_lacks(folder: Path) -> None:
    variant_of(folder, (UNET,))
    assert weights.load(folder, variant="fp16").notes == (
        "text_encoder: plain files, there being no other",
        "vae: plain files, there being no other",
    )


def test_two_variants_want_a_choice(folder: Path) -> None:
    variant_of(folder)
    shutil.copy(
        folder / "unet/diffusion_pytorch_model.fp16.safetensors",
        folder / "unet/diffusion_pytorch_model.ema.safetensors",
    )
    with pytest.raises(ModelNotFoundError, match="variants ema, fp16: choose one"):
        weights.load(folder)


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_shards_as_diffusers_writes_them(variant: str | None, folder: Path) -> None:
    whole = weights.load(folder)
    shutil.rmtree(folder / "unet")
    network = diffusers.UNet2DConditionModel.from_config(whole.unet.config.to_dict())
    network.load_state_dict(whole.unet.state_dict())
    network.save_pretrained(folder / "unet", max_shard_size="500KB", variant=variant)
    assert len(list((folder / "unet").glob("*-of-*"))) > 1
    assert weights.load(folder, variant=variant).digest == whole.digest
    next((folder / "unet").glob("*00002-of-*")).unlink()
    with pytest.raises(ModelNotFoundError, match="shards are missing"):
        weights.load(folder, variant=variant)


def test_bin_files_go_through_the_restricted_unpickler(folder: Path) -> None:
    whole = weights.load(folder)
    torch.save(load_file(folder / UNET), folder / "unet/diffusion_pytorch_model.bin")
    torch.save(load_file(folder / TEXT), folder / "text_encoder/pytorch_model.bin")
    (folder / UNET).unlink()
    (folder / TEXT).unlink()
    bundle = weights.load(folder)
    assert bundle.digest == whole.digest
    assert "restricted unpickler" in bundle.notes[0]
    torch.save({"x": print}, folder / "unet/diffusion_pytorch_model.bin")
    with pytest.raises(UnsafePickleError, match=r"builtins.print|__builtin__.print"):
        weights.load(folder)


def test_old_names(folder: Path) -> None:
    """VAEs before diffusers 0.17; text encoders with transformers 4's prefix and `position_ids`."""
    whole = weights.load(folder)
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}

    def older(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        found = {}
        for key, value in tensors.items():
            for new, name in old.items():
                if new in key:
                    key = key.replace(new, name)
                    value = value[:, :, None, None].clone() if value.ndim == 2 else value
            found[key] = value
        return found

    retensor(folder / VAE, older)
    positions = {"text_model.embeddings.position_ids": torch.arange(77)[None]}
    retensor(
        folder / TEXT, lambda ts: {f"text_model.{k.removeprefix('text_model.')}": v for k, v in ts.items()} | positions
    )
    assert weights.load(folder).digest == whole.digest


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_missing_part_is_named(part: str, folder: Path) -> None:
    shutil.rmtree(folder / part)
    with pytest.raises(ModelNotFoundError, match=part):
        weights.load(folder)


@pytest.mark.parametrize("name", ["unet/config.json", "scheduler/scheduler_config.json", UNET, "model_index.json"])
def test_a_missing_file_is_named(name: str, folder: Path) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelNotFoundError, match=r"it has: \w") as error:
        weights.load(folder)
    assert Path(name).name in str(error.value)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("_class_name", "StableDiffusionXLPipeline", "StableDiffusionXLPipeline"),
        ("unet", ["diffusers", "FlaxUNet2DConditionModel"], "unet is 'FlaxUNet2DConditionModel'"),
        ("text_encoder", [None, None], "text_encoder is None"),
        ("vae", "AutoencoderTiny", "vae is 'AutoencoderTiny'"),
    ],
)
def test_other_classes_are_refused(key: str, value: Any, says: str, folder: Path) -> None:
    edit(folder / "model_index.json", lambda d: d.update({key: value}))
    with pytest.raises(FormatError, match=says):
        weights.load(folder)


def test_a_safety_checker_is_reported(folder: Path) -> None:
    edit(
        folder / "model_index.json",
        lambda d: d.update(safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"]),
    )
    assert weights.load(folder).notes == ("safety_checker is in the folder and not loaded with the model",)


def test_all_wrong_keys_are_listed(folder: Path) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        del tensors["conv_in.bias"]
        return tensors | {"strange": torch.zeros(1), "conv_out.bias": torch.zeros(5)}

    retensor(folder / UNET, spoil)
    with pytest.raises(KeysError) as error:
        weights.load(folder)
    assert error.value.missing == ("conv_in.bias",)
    assert error.value.unexpected == ("strange",)
    assert error.value.wrong_shape == {"conv_out.bias": ((5,), (4,))}


def test_whole_numbers_are_no_weights(folder: Path) -> None:
    retensor(folder / UNET, lambda ts: ts | {"conv_in.bias": torch.zeros(32, dtype=torch.int64)})
    with pytest.raises(FormatError, match="int64"):
        weights.load(folder)


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("unet/config.json", {"surprise": 1}, "surprise"),
        ("unet/config.json", {"block_out_channels": [30, 60]}, "divide|divisible"),
        ("unet/config.json", {"cross_attention_dim": 64}, "64"),
        ("unet/config.json", {"block_out_channels": 7}, "config.json"),
        ("vae/config.json", {"act_fn": "relu"}, "relu"),
        ("vae/config.json", {"norm_num_groups": 7}, "7|divisible"),
        ("vae/config.json", {"layers_per_block": "two"}, "two|str"),
        ("text_encoder/config.json", {"hidden_act": "tanh"}, "tanh"),
        ("scheduler/scheduler_config.json", {"prediction_type": "magic"}, "magic"),
        ("unet/config.json", {"in_channels": 8}, "8 channels.*Supported are 4.*and 9"),
    ],
)
def test_configurations_that_do_not_work(name: str, change: dict[str, Any], says: str, folder: Path) -> None:
    edit(folder / name, lambda d: d.update(change))
    with pytest.raises(ConfigError, match=says):
        weights.load(folder)


@pytest.mark.parametrize("content", ["", "[1]", "{", "\udcff"])
def test_damaged_json(content: str, folder: Path) -> None:
    (folder / "unet/config.json").write_text(content, errors="surrogateescape")
    with pytest.raises(FormatError, match=r"config\.json"):
        weights.load(folder)


def test_a_tokenizer_that_does_not_fit(folder: Path) -> None:
    edit(folder / "tokenizer/tokenizer_config.json", lambda d: d.update(model_max_length=100))
    with pytest.raises(FormatError, match="100 a prompt"):
        weights.load(folder)


@pytest.mark.parametrize("offset", [None, 0, 1])
def test_the_steps_offset_is_one_as_in_the_published_pipelines(
    offset: int | None, folder: Path, tmp_path: Path
) -> None:
    def old(data: dict[str, Any]) -> None:
        del data["steps_offset"]
        data |= {} if offset is None else {"steps_offset": offset}

    edit(folder / "scheduler/scheduler_config.json", old)
    pipe = tiny.reference(folder)
    assert pipe.scheduler.config.steps_offset == 1
    single = weights.convert(folder, tmp_path / "model.safetensors")
    again = weights.convert(single, tmp_path / "again")
    for place in (folder, single, again):
        assert weights.load(place).schedule.config.steps_offset == 1
    request = Request("a cat", seed=1, steps=3, width=64, height=64, sampler="plms")
    made, converted = Pipeline.load(folder)(request), Pipeline.load(single)(request)
    assert torch.equal(made.pixels, converted.pixels)
    theirs = pipe("a cat", 64, 64, 3, generator=torch.Generator().manual_seed(1), output_type="pt").images[0]
    assert tiny.psnr((made.pixels / 2 + 0.5).clamp(0, 1), theirs) > 50
