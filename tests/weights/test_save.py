import errno
import io
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors import safe_open

import tiny
from lienzo import weights
from lienzo.errors import FormatError, OutputError
from lienzo.weights.save import write_tensors

FAMILIES = ["sd1", "sd2", "inpaint"]


def tensors_of(model: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {part: dict(values) for part, values in weights.open_model(model).tensors.items()}


def identical(one: dict[str, dict[str, torch.Tensor]], two: dict[str, dict[str, torch.Tensor]]) -> bool:
    return all(
        one[part].keys() == two[part].keys()
        and all(
            two[part][k].dtype == v.dtype
            and torch.equal(two[part][k].contiguous().view(torch.uint8), v.contiguous().view(torch.uint8))
            for k, v in one[part].items()
        )
        for part in one
    )


@pytest.mark.parametrize("dtype", [None, "fp16", "bf16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_converting_there_and_back_keeps_every_bit(
    family: str, dtype: str | None, folders: dict[str, Path], tmp_path: Path
) -> None:
    start = weights.convert(folders[family], tmp_path / "start", dtype=dtype)
    file = weights.convert(start, tmp_path / "model.safetensors")
    back = weights.convert(file, tmp_path / "back")
    assert identical(tensors_of(start), tensors_of(file))
    assert identical(tensors_of(start), tensors_of(back))
    assert weights.inspect(start).digest == weights.inspect(file).digest == weights.inspect(back).digest
    assert {p.relative_to(start) for p in start.rglob("*")} == {p.relative_to(back) for p in back.rglob("*")}
    for path in start.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (back / path.relative_to(start)).read_bytes()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_bundle_is_the_same_model(family: str, folders: dict[str, Path], tmp_path: Path) -> None:
    bundle = weights.load(folders[family])
    for out in (tmp_path / "folder", tmp_path / "file.safetensors"):
        assert weights.save(bundle, out) == out
        again = weights.load(out)
        assert again.digest == bundle.digest
        assert again.unet.config == bundle.unet.config
        assert again.text_encoder.config == bundle.text_encoder.config
        assert again.vae.config == bundle.vae.config
        assert again.schedule.config == bundle.schedule.config
        assert again.tokenizer.encode("a red! cat") == bundle.tokenizer.encode("a red! cat")


def picture(pipe: Any) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    noise = torch.Generator().manual_seed(3)
    arguments = {"num_inference_steps": 2, "generator": noise, "output_type": "pt", "height": 64, "width": 64}
    with torch.no_grad():
        return pipe("the red cat", **arguments).images  # type: ignore[no-any-return]


@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_diffusers_makes_the_same_picture_of_the_saved_folder(
    family: str, folders: dict[str, Path], files: dict[str, Path], tmp_path: Path
) -> None:
    folder = weights.convert(files[family], tmp_path / "folder")
    assert torch.equal(picture(tiny.reference(folder)), picture(tiny.reference(folders[family])))


def test_diffusers_loads_the_saved_inpainting_folder(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = weights.convert(folders["inpaint"], tmp_path / "folder")
    assert tiny.reference(folder, "StableDiffusionInpaintPipeline").unet.config.in_channels == 9


def test_diffusers_makes_the_same_picture_of_the_saved_file(folders: dict[str, Path], files: dict[str, Path]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe = diffusers.StableDiffusionPipeline.from_single_file(
            files["sd1"], config=str(folders["sd1"]), local_files_only=True, safety_checker=None
        )
    assert torch.allclose(picture(pipe), picture(tiny.reference(folders["sd1"])), atol=1e-6)


def test_other_readers_open_what_was_written(files: dict[str, Path]) -> None:
    with safe_open(files["sd2"], "pt") as file:
        assert file.metadata()["format"] == "pt"
        assert file.get_tensor("cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight").shape == (96, 32)


def test_nothing_is_overwritten_unasked(folders: dict[str, Path], tmp_path: Path) -> None:
    for out in (tmp_path / "folder", tmp_path / "x.safetensors"):
        weights.convert(folders["sd1"], out)
        with pytest.raises(OutputError, match="exists already"):
            weights.convert(folders["sd2"], out)
        weights.convert(folders["sd2"], out, overwrite=True)
        assert weights.load(out).family == "sd2"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "x.safetensors", "x.tokenizer"]


def test_a_model_can_be_written_over_itself(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["sd1"], tmp_path / "model"))
    before = weights.load(folder)
    weights.save(before, folder, overwrite=True)
    assert weights.load(folder).digest == before.digest


@pytest.mark.parametrize("name", ["x.ckpt", "x.bin", "x.pt"])
def test_pickles_are_not_written(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"Name a \.safetensors file or a folder"):
        weights.convert(folders["sd1"], tmp_path / name)


class Full(io.BufferedWriter):
    """A disk that is full after a while."""

    left = 100_000

    def write(self, data: Any) -> int:
        self.left -= len(data)
        if self.left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)


@pytest.mark.parametrize("name", ["folder", "x.safetensors"])
@pytest.mark.parametrize("old", [False, True])
def test_a_full_disk_leaves_nothing_behind(
    name: str, old: bool, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if old:
        weights.convert(folders["sd2"], tmp_path / name)
    before = sorted(tmp_path.rglob("*"))
    real: Callable[..., Any] = Path.open

    def open_full(self: Path, mode: str = "r", *more: Any, **options: Any) -> Any:
        return Full(io.FileIO(self, "wb")) if mode == "wb" else real(self, mode, *more, **options)

    monkeypatch.setattr(Path, "open", open_full)
    with pytest.raises(OutputError, match="No space left"):
        weights.convert(folders["sd1"], tmp_path / name, overwrite=True)
    monkeypatch.undo()
    assert sorted(tmp_path.rglob("*")) == before
    if old:
        assert weights.load(tmp_path / name).family == "sd2"


@pytest.mark.parametrize("name", ["folder", "x.safetensors"])
def test_an_interruption_leaves_nothing_behind(
    name: str, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        weights.convert(folders["sd1"], tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_no_such_place(folders: dict[str, Path], tmp_path: Path) -> None:
    for out in (tmp_path / "a/b.safetensors", tmp_path / "a/b"):
        with pytest.raises(OutputError, match="No such file"):
            weights.convert(folders["sd1"], out)
    assert list(tmp_path.iterdir()) == []


def test_a_value_beyond_the_dtype_is_refused(tmp_path: Path) -> None:
    values = {"x": torch.tensor([1e6])}
    with pytest.raises(FormatError, match=r"'x' holds values beyond the range of torch\.float16"):
        write_tensors(tmp_path / "x", values, values.__getitem__, dtype=torch.float16)
    infinite = {"x": torch.tensor([float("inf")])}
    write_tensors(tmp_path / "x", infinite, infinite.__getitem__, dtype=torch.float16)
    assert weights.read.read(tmp_path / "x").tensors["x"].isinf().all()
