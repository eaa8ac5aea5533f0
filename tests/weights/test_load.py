import shutil
import threading
import warnings
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lienzo import weights
from lienzo.errors import InputError, ModelNotFoundError, RequestError
from lienzo.models.bundle import Bundle, weights_digest


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"No model 'bocetto'\. Did you mean boceto\? Allowed: "):
        weights.load("bocetto")
    for model in ("./x.safetensors", "a/b/c", str(tmp_path / "x"), "x.ckpt", "a/b.safetensors"):
        with pytest.raises(ModelNotFoundError, match="No such folder or file"):
            weights.load(model)
    with pytest.raises(ModelNotFoundError, match=r"lacks model_index\.json; it has: nothing"):
        weights.load(tmp_path)


@pytest.mark.parametrize("name", ["~nobody-of-that-name/x", "x" * 300, "x" * 300 + "/y", "a\0b", ""])
def test_names_that_no_file_can_have(name: str, files: dict[str, Path]) -> None:
    for options in (
        {"model": name},
        {"model": files["sd1"], "config": name},
        {"model": files["sd1"], "tokenizer": name},
    ):
        if name or "model" not in options:
            with pytest.raises(ModelNotFoundError):
                weights.load(**options)


def test_a_device_that_is_not_there(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for device in ("cuda:99", "abacus", 1.5):
        with pytest.raises(RequestError, match=r"cannot be used here: .*\. This machine has: cpu, cuda:0, cuda:1"):
            weights.load(folders["sd1"], device=device)


@pytest.mark.parametrize(
    "option",
    [
        {"ema": True},
        {"config": "x"},
        {"revision": "main"},
        {"dtype": "int7"},
        {"dtype": torch.int64},
        {"device": "abacus"},
        {"device": "cuda:99"},
    ],
)
def test_options_that_do_not_apply_are_errors(option: dict[str, Any], folders: dict[str, Path]) -> None:
    with pytest.raises(RequestError, match=next(iter(option))):
        weights.load(folders["sd1"], **option)


def test_a_variant_of_a_single_file_is_an_error(files: dict[str, Path]) -> None:
    with pytest.raises(RequestError, match="variant"):
        weights.load(files["sd1"], variant="fp16")


def test_prediction_type_and_tokenizer_can_be_given(folders: dict[str, Path]) -> None:
    assert weights.load(folders["sd1"], prediction_type="v_prediction").schedule.prediction_type == "v_prediction"
    with pytest.raises(InputError, match="magic"):
        weights.load(folders["sd1"], prediction_type="magic")
    assert weights.load(folders["sd1"], tokenizer=folders["sd2"] / "tokenizer").tokenizer.max_length == 77


@pytest.mark.parametrize("dtype", ["fp16", "bf16", torch.float16, "float32", None])
def test_dtypes(dtype: Any, folders: dict[str, Path]) -> None:
    bundle = weights.load(folders["sd1"], dtype=dtype)
    want = {"fp16": torch.float16, "bf16": torch.bfloat16, "float32": torch.float32, None: torch.float32}.get(
        dtype, dtype
    )
    for part in (bundle.text_encoder, bundle.unet, bundle.vae):
        assert {p.dtype for p in part.parameters()} == {want}


def test_a_bundle_is_frozen_and_its_digest_is_computed_once(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = weights.load(folders["sd1"])
    with pytest.raises(FrozenInstanceError):
        bundle.name = "x"  # type: ignore[misc]
    first = bundle.digest
    monkeypatch.setattr("lienzo.models.bundle.weights_digest", lambda _: "other")
    assert bundle.digest == first
    assert len(first) == 64


def test_a_bundle_without_files_has_the_digest_of_its_networks(folders: dict[str, Path]) -> None:
    loaded = weights.load(folders["sd1"])
    parts = {name: getattr(loaded, name) for name in ("name", "tokenizer", "text_encoder", "unet", "vae", "schedule")}
    made = Bundle(**parts)
    assert made.digest == loaded.digest


def test_the_digest_tells_weights_apart() -> None:
    def parts(**changed: torch.Tensor) -> dict[str, dict[str, torch.Tensor]]:
        unet = {"a": torch.zeros(2, 3), "b": torch.ones(4)} | changed
        return {"text_encoder": {}, "unet": unet, "vae": {}}

    base = weights_digest(parts())
    assert base == weights_digest(parts(a=torch.zeros(3, 2).t()))
    others = [
        parts(a=torch.zeros(3, 2)),
        parts(a=torch.ones(2, 3)),
        parts(a=torch.zeros(2, 3).half()),
        parts(c=torch.ones(1)),
    ]
    digests = {weights_digest(p) for p in others}
    assert len(digests | {base}) == 5
    moved = parts()
    moved["vae"] = moved.pop("unet")
    moved["unet"] = {}
    assert weights_digest(moved) != base


def test_many_threads_load_and_hash(folders: dict[str, Path], files: dict[str, Path]) -> None:
    digests: list[str] = []
    shared = weights.load(folders["sd2"])

    def work() -> None:
        digests.extend((shared.digest, weights.load(files["sd2"]).digest))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(digests) == 16
    assert len(set(digests)) == 1


@pytest.mark.parametrize("family", ["sd1", "sd2", "inpaint"])
def test_inspect(family: str, folders: dict[str, Path], files: dict[str, Path]) -> None:
    report, single = weights.inspect(folders[family]), weights.inspect(files[family])
    bundle = weights.load(folders[family])
    assert report.family == bundle.family
    assert report.prediction_type == bundle.schedule.prediction_type
    assert report.inpainting == (family == "inpaint")
    assert report.parameters["unet"] == sum(p.numel() for p in bundle.unet.parameters())
    assert report.dtypes == {"text_encoder": "float32", "unet": "float32", "vae": "float32"}
    assert report.digest == single.digest == bundle.digest
    assert report.native_size == (128, 128)
    assert report.odd == single.odd == report.notes == ()
    assert single.notes == ("configurations from the file's own header",)
    assert single.kind == "single file, safetensors"


def test_inspect_finds_what_is_odd(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["sd1"], tmp_path / "model"))
    path = folder / "vae/diffusion_pytorch_model.safetensors"
    values = {k: v.clone() for k, v in load_file(path).items()}
    values["quant_conv.bias"][0] = float("nan")
    values["decoder.conv_in.bias"] = values["decoder.conv_in.bias"].half()
    save_file(values, path)
    report = weights.inspect(folder)
    assert report.odd == ("vae: quant_conv.bias holds NaN or infinity",)
    assert report.dtypes["vae"] == "float16+float32"


def test_loading_reads_nothing_it_does_not_need(folders: dict[str, Path]) -> None:
    """Opening a model touches headers only: no warning, no network built with real memory."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = weights.open_model(folders["sd1"])
    assert all(p.is_meta for network in model.configs.networks().values() for p in network.parameters())
