"""The cache: made once, remade when stale or damaged and said so, whole or not at all, safe on a full disk."""

import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from sets import folder, picture
from torch import Tensor

from lienzo.training.data import Cache, DataConfig, load_data, plan, wanted_latent, wanted_text
from lienzo.training.data.cache import Wanted


class Maker:
    """Makes a tensor of every caption and counts."""

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale
        self.made: list[int] = []

    def __call__(self, indexes: list[int]) -> Sequence[Tensor]:
        self.made += indexes
        return [torch.full((2, 3), self.scale * i) for i in indexes]


WANTED = [wanted_text(f"caption {i}") for i in range(4)]


def filled(root: Path, network: str = "one", **options: object) -> Cache:
    cache = Cache(root, network=network, **options)  # type: ignore[arg-type]
    cache.fetch(WANTED, Maker())
    cache.flush()
    return cache


def again(
    root: Path, network: str = "one", dtype: torch.dtype = torch.float32
) -> tuple[list[int], list[str], list[Tensor]]:
    """What had to be made, what was told, and what came back."""
    told: list[str] = []
    cache = Cache(root, network=network, dtype=dtype, tell=told.append)
    maker = Maker()
    tensors = cache.fetch(WANTED, maker)
    cache.flush()
    return maker.made, told, tensors


def test_made_once(tmp_path: Path) -> None:
    cache = filled(tmp_path)
    maker = Maker()
    assert [t[0, 0].item() for t in cache.fetch(WANTED[2:], maker)] == [2, 3]
    assert (maker.made, len(cache)) == ([], 4)
    made, told, tensors = again(tmp_path)
    assert (made, told) == ([], [])
    assert [t[0, 0].item() for t in tensors] == [0, 1, 2, 3]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_kept_in_the_dtype_asked_for(tmp_path: Path, dtype: torch.dtype) -> None:
    filled(tmp_path, dtype=dtype)
    made, told, tensors = again(tmp_path, dtype=dtype)
    assert (made, told, tensors[3].dtype) == ([], [], dtype)
    made, told, tensors = again(tmp_path)
    assert (made, tensors[3].dtype) == ([0, 1, 2, 3], torch.float32)
    assert "4 entries were stale" in told[0]


def test_other_weights_make_it_stale(tmp_path: Path) -> None:
    filled(tmp_path)
    made, told, _ = again(tmp_path, "two")
    assert made == [0, 1, 2, 3]
    assert len(told) == 1 and "4 entries were stale (other weights" in told[0]
    assert again(tmp_path, "two")[:2] == ([], [])
    assert len(list(tmp_path.iterdir())) == 1, "what nothing is read from any more is removed"


def test_a_stale_entry_warns_where_nobody_listens(tmp_path: Path) -> None:
    filled(tmp_path)
    with pytest.warns(UserWarning, match="stale"):
        filled(tmp_path, "two")


def test_another_picture_makes_it_stale(tmp_path: Path) -> None:
    root = folder(tmp_path / "some", 2)
    config = DataConfig(sources=[root], resolution=48)  # type: ignore[arg-type]

    def wanted() -> list[Wanted]:
        return sorted((wanted_latent(d) for d in plan(load_data(config), 2).batch_at(0)), key=lambda w: w.name)

    cache = Cache(tmp_path / "cache", network="vae")
    cache.fetch(wanted(), Maker())
    cache.flush()
    picture(70).save(root / "p01.png")
    told: list[str] = []
    cache, maker = Cache(tmp_path / "cache", network="vae", tell=told.append), Maker()
    cache.fetch(wanted(), maker)
    cache.flush()
    assert maker.made == [1]
    assert "1 entries were stale" in told[0]


def test_cuts_of_one_picture_are_different_entries(tmp_path: Path) -> None:
    root = folder(tmp_path, 1, size=(90, 60))
    for path in root.glob("*.txt"):
        path.write_text("a pattern", encoding="utf-8")
    config = DataConfig(sources=[root], resolution=64, flip=0.5)  # type: ignore[arg-type]
    made = plan(load_data(config), 1)
    assert len({wanted_latent(made.batch_at(step)[0]).slot for step in range(30)}) == 2


def test_a_damaged_tensor_is_told_and_made_again(tmp_path: Path) -> None:
    filled(tmp_path)
    (shard,) = tmp_path.iterdir()
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    made, told, tensors = again(tmp_path)
    assert len(made) == 1
    assert len(told) == 1 and "damaged (its bytes are not those that were written)" in told[0]
    assert [t[0, 0].item() for t in tensors] == [0, 1, 2, 3]
    assert again(tmp_path)[:2] == ([], [])


@pytest.mark.parametrize("damage", ["truncated", "empty", "garbage", "foreign"])
def test_a_damaged_shard_is_told_and_made_again(tmp_path: Path, damage: str) -> None:
    filled(tmp_path)
    (shard,) = tmp_path.iterdir()
    if damage == "foreign":
        from safetensors.torch import save_file

        save_file({"a": torch.zeros(1)}, shard)
    else:
        shard.write_bytes({"truncated": shard.read_bytes()[:-20], "empty": b"", "garbage": b"\xff" * 200}[damage])
    made, told, _ = again(tmp_path)
    assert made == [0, 1, 2, 3]
    assert len(told) == 1 and "damaged" in told[0]
    assert again(tmp_path)[:2] == ([], [])


def test_shards_are_written_as_they_fill_up(tmp_path: Path) -> None:
    cache = Cache(tmp_path, network="one", shard_bytes=40)
    for one in WANTED:
        cache.fetch([one], lambda indexes: [torch.ones(6) for _ in indexes])
    assert len(list(tmp_path.iterdir())) == 2
    (tmp_path / ".000009-12345678.safetensors.abcd.part").write_bytes(b"half")
    (tmp_path / "mine.safetensors").write_bytes(b"not the cache's")
    assert len(Cache(tmp_path, network="one")) == 4


FULL = """
import resource, signal, sys, torch
from pathlib import Path
from lienzo.errors import OutputError
from lienzo.training.data import Cache, wanted_text
cache = Cache(Path(sys.argv[1]), network="one")
wanted = [wanted_text(f"large {i}") for i in range(4)]
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
cache.fetch(wanted, lambda indexes: [torch.ones(4000) for _ in indexes])
try:
    cache.flush()
except OutputError as error:
    print(error)
"""


def test_a_full_disk_keeps_what_was_there(tmp_path: Path) -> None:
    filled(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "cannot be written: File too large. What was there is kept" in done.stdout
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert again(tmp_path)[0] == []
