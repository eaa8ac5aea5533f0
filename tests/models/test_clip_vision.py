"""CLIP against transformers: preprocessing, both encoders, logits, loss; loading and saving."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import clips
from lienzo.errors import ConfigError, FormatError, KeysError, ModelNotFoundError, OutputError
from lienzo.models.clip_vision import CLIP, ImageEncoder, Preprocessing, VisionConfig
from lienzo.training.losses import MAX_LOGIT_SCALE, CaptionedPictures, clip_loss
from lienzo.training.share import Share
from lienzo.weights.clip import WRITTEN_BY_OLD, clip_config, load_clip
from lienzo.weights.save import save_clip

TEXTS = ["a red cat and the blue", "the", "", "red " * 100]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clips.make(tmp_path_factory.mktemp("clip"))


def pictures() -> list[Image.Image]:
    random = np.random.default_rng(0)
    sizes = [(64, 64), (100, 37), (37, 100), (32, 32), (20, 21), (129, 64)]
    return [Image.fromarray(random.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in sizes]


@pytest.mark.parametrize("side", [32, 224])
def test_preprocessing_equals_transformers(side: int) -> None:
    want = clips.processor(side)(pictures(), return_tensors="pt")["pixel_values"]
    got = torch.stack([Preprocessing.square(side)(p) for p in pictures()])
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("eos", "act"), [(None, "quick_gelu"), (2, "gelu")])
def test_a_whole_clip_equals_transformers(tmp_path: Path, eos: int | None, act: str) -> None:
    folder = clips.make(tmp_path, eos=eos, act=act)
    theirs, ours = clips.reference(folder), load_clip(folder)
    assert isinstance(ours.model, CLIP) and ours.tokenizer is not None
    pixels = torch.stack([ours.preprocessing(p) for p in pictures()])
    ids = torch.tensor([ours.tokenizer.encode(t).ids for t in TEXTS])
    want_ids = clips.tokenizer(folder)(TEXTS, padding="max_length", truncation=True, max_length=77, return_tensors="pt")
    assert torch.equal(ids, want_ids["input_ids"])
    with torch.no_grad():
        want = theirs(input_ids=ids, pixel_values=pixels)
        images, texts = theirs.get_image_features(pixels), theirs.get_text_features(ids)
    images, texts = (getattr(found, "pooler_output", found) for found in (images, texts))
    torch.testing.assert_close(ours.model.image_features(pixels), images, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.model.text_features(ids), texts, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.model(pixels, ids), want.logits_per_image, rtol=0, atol=1e-5)
    assert images.std(0).mean() > 0.01 and texts.std(0).mean() > 0.01  # else anything would be equal


def test_the_image_side_alone_equals_transformers(tmp_path: Path) -> None:
    folder = clips.make_vision(tmp_path)
    theirs, ours = clips.reference(folder, "CLIPVisionModelWithProjection"), load_clip(folder)
    assert isinstance(ours.model, ImageEncoder) and ours.tokenizer is None
    pixels = torch.stack([ours.preprocessing(p) for p in pictures()])
    with torch.no_grad():
        want = theirs(pixel_values=pixels).image_embeds
    torch.testing.assert_close(ours.model.image_features(pixels), want, rtol=0, atol=1e-5)


def test_what_is_saved_loads_in_transformers_with_the_same_logits(folder: Path, tmp_path: Path) -> None:
    ours = load_clip(folder)
    assert isinstance(ours.model, CLIP) and ours.tokenizer is not None
    out = save_clip(ours.model, tmp_path / "saved", tokenizer=ours.tokenizer, preprocessing=ours.preprocessing)
    theirs = clips.reference(out)
    ids = clips.tokenizer(out)(TEXTS, padding="max_length", truncation=True, max_length=77, return_tensors="pt")
    prepared = clips.CLIPImageProcessorPil.from_pretrained(out)(pictures(), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        want = theirs(input_ids=ids["input_ids"], pixel_values=prepared).logits_per_image
    torch.testing.assert_close(ours.model(prepared, ids["input_ids"]), want, rtol=0, atol=1e-5)
    again = load_clip(out)
    assert again.digest == ours.digest and again.preprocessing == ours.preprocessing
    with pytest.raises(OutputError, match="exists already"):
        save_clip(ours.model, out, tokenizer=ours.tokenizer, preprocessing=ours.preprocessing)


def test_clip_loss_equals_transformers_and_can_be_learnt_from(folder: Path) -> None:
    theirs, ours = clips.reference(folder), load_clip(folder)
    assert isinstance(ours.model, CLIP) and ours.tokenizer is not None
    pixels = torch.stack([ours.preprocessing(p) for p in pictures()[:4]])
    ids = torch.tensor([ours.tokenizer.encode(t).ids for t in TEXTS])
    batch = CaptionedPictures(pixels=pixels, ids=ids)
    want = theirs(input_ids=ids, pixel_values=pixels, return_loss=True).loss
    model = ours.model.requires_grad_(True)
    torch.testing.assert_close(
        clip_loss(model, batch, Share(seed=0, step=0, index=0, count=1, size=len(batch.pixels))),
        want,
        rtol=0,
        atol=1e-5,
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(40):
        optimizer.zero_grad()
        loss = clip_loss(model, batch, Share(seed=0, step=0, index=0, count=1, size=len(batch.pixels)))
        loss.backward()
        optimizer.step()
    assert loss.item() < want.item() / 2
    with torch.no_grad():
        model.logit_scale.fill_(50.0)
        assert (
            clip_loss(model, batch, Share(seed=0, step=0, index=0, count=1, size=len(batch.pixels))).item()
            <= 2 * 100 + 10
        )
    assert pytest.approx(4.60517, abs=1e-5) == MAX_LOGIT_SCALE


def test_a_file_takes_the_configuration_beside_it(folder: Path, tmp_path: Path) -> None:
    assert load_clip(folder / "model.safetensors").digest == load_clip(folder).digest
    shutil.copy(folder / "model.safetensors", tmp_path)
    with pytest.raises(ModelNotFoundError, match=r"config\.json"):
        load_clip(tmp_path / "model.safetensors")


def test_weights_that_do_not_fit_are_listed(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "broken")
    path = tmp_path / "broken" / "model.safetensors"
    tensors = {k: v.clone() for k, v in load_file(path).items()}
    save_file({**tensors, "vision_model.embeddings.position_ids": torch.arange(17)[None]}, path)
    load_clip(tmp_path / "broken")  # old files hold these
    del tensors["logit_scale"]
    save_file({**tensors, "extra": torch.zeros(1)}, path)
    with pytest.raises(KeysError) as error:
        load_clip(tmp_path / "broken")
    assert error.value.missing == ("logit_scale",) and error.value.unexpected == ("extra",)


@pytest.mark.parametrize(
    ("file", "change", "match"),
    [
        ("config.json", {"model_type": "siglip"}, "siglip"),
        ("config.json", {"vision_config": {"use_swiglu": True}}, "use_swiglu"),
        ("config.json", {"vision_config": {"hidden_size": 30, "num_attention_heads": 4}}, "heads"),
        ("config.json", {"vision_config": {"image_size": 4, "patch_size": 8}}, "patch_size"),
        ("preprocessor_config.json", {"do_center_crop": False}, "do_center_crop"),
        ("preprocessor_config.json", {"resample": 2}, "resample"),
        ("preprocessor_config.json", {"crop_size": {"height": 16, "width": 16}}, "crop_size"),
        ("preprocessor_config.json", {"size": {"height": 32, "width": 32}}, "size"),
        ("preprocessor_config.json", {"image_std": [0, 1, 1]}, "image_std"),
    ],
)
def test_what_lienzo_does_not_have_is_refused(
    folder: Path, tmp_path: Path, file: str, change: dict, match: str
) -> None:
    shutil.copytree(folder, tmp_path / "other")
    path = tmp_path / "other" / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ConfigError, match=match):
        load_clip(tmp_path / "other")


def test_a_strange_vocabulary_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "other")
    path = tmp_path / "other" / "config.json"
    settings = json.loads(path.read_text())
    settings["text_config"]["eos_token_id"] = 7
    path.write_text(json.dumps(settings))
    with pytest.raises(FormatError, match="eos_token_id"):
        load_clip(tmp_path / "other")


def test_no_such_clip() -> None:
    with pytest.raises(ModelNotFoundError, match="organisation/name"):
        load_clip("nowhere/at/all")


def test_configurations_that_transformers_4_wrote_are_read() -> None:
    old = dict.fromkeys(WRITTEN_BY_OLD)
    config = clip_config(
        {
            "model_type": "clip", "projection_dim": 768,
            "text_config": {**old, "hidden_size": 768, "num_attention_heads": 12, "eos_token_id": 2, "bos_token_id": 0},
            "text_config_dict": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
            "vision_config": {**old, "hidden_size": 1024, "num_attention_heads": 16, "patch_size": 14},
            "vision_config_dict": None,
        }
    )  # fmt: skip
    assert (config.text.intermediate_size, config.text.eos_token_id, config.vision.patch_size) == (3072, 2, 14)
    assert clip_config({}).text.hidden_size == 512  # transformers' default, not SD 1.x's
    assert VisionConfig().image_size == 224
