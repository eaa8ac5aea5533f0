import contextlib
import io
import json
import os
import pickle
import struct
import tracemalloc
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from lienzo.errors import FormatError, ModelNotFoundError, UnsafePickleError, WeightsError
from lienzo.weights.read import SAFETENSORS_DTYPES, read

FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TENSORS = {
    "a": torch.arange(6.0).reshape(2, 3),
    "b.c": torch.tensor([1, 2], dtype=torch.int64),
    "half": torch.ones(3, dtype=torch.float16),
    "scalar": torch.tensor(7.0),
    "empty": torch.zeros(0, 4),
}


def same(got: Any, want: dict[str, torch.Tensor]) -> bool:
    return got.keys() == want.keys() and all(
        got[k].dtype == v.dtype and got[k].shape == v.shape and torch.equal(got[k], v) for k, v in want.items()
    )


def raw(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.fixture
def written(tmp_path: Path) -> dict[str, Path]:
    """The same tensors in every format."""
    paths = {name: tmp_path / name for name in ("safetensors", "torch zip", "torch legacy")}
    save_file(TENSORS, paths["safetensors"], metadata={"note": "x"})
    torch.save({"state_dict": TENSORS, "global_step": 3}, paths["torch zip"])
    torch.save({"state_dict": TENSORS, "global_step": 3}, paths["torch legacy"], _use_new_zipfile_serialization=False)
    return paths


def test_the_format_is_told_by_content(written: dict[str, Path], tmp_path: Path) -> None:
    for kind, path in written.items():
        disguised = path.rename(tmp_path / f"{kind}.txt")
        file = read(disguised)
        assert file.kind == kind
        assert same(file.tensors, TENSORS)
    assert read(tmp_path / "safetensors.txt").metadata == {"note": "x"}
    assert read(tmp_path / "torch zip.txt").values["global_step"] == 3


@pytest.mark.parametrize("name", SAFETENSORS_DTYPES)
def test_every_dtype(name: str, tmp_path: Path) -> None:
    want = {"x": torch.arange(12).reshape(3, 4).to(SAFETENSORS_DTYPES[name])}
    save_file(want, tmp_path / "x")
    got = read(tmp_path / "x").tensors["x"]
    assert got.dtype == want["x"].dtype
    assert torch.equal(got.view(torch.uint8), want["x"].view(torch.uint8))


def test_tensors_are_views_of_the_file_and_writing_to_them_leaves_it_alone(written: dict[str, Path]) -> None:
    before = written["safetensors"].read_bytes()
    read(written["safetensors"]).tensors["a"].fill_(9)
    assert written["safetensors"].read_bytes() == before
    assert same(read(written["safetensors"]).tensors, TENSORS)


def test_an_unaligned_tensor_is_read_right(tmp_path: Path) -> None:
    values = torch.tensor([1.5, -2.0])
    (tmp_path / "x").write_bytes(raw(json.dumps({"x": entry()}).encode() + b" ", values.numpy().tobytes()))
    assert torch.equal(read(tmp_path / "x").tensors["x"], values)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "0 bytes"),
        (b"hello, this is text", "neither"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (
            raw({"x": entry()}, bytes(8), length=10**12),
            "damaged, cut off or no safetensors file: it claims a header of 1,000,000,000,000 bytes",
        ),
        (raw(b"{not json}"), "no valid JSON"),
        (raw(b'{"x": 1, "x": 2}'), "twice"),
        (raw(b"{" * 5000), "no valid JSON"),
        (raw({"x": entry(), "__metadata__": {"a": 1}}, bytes(8)), "__metadata__"),
        (raw({"x": entry()}, bytes(4)), "has"),
        (raw({"x": entry()}, bytes(12)), "belong to nothing"),
        (raw({"x": entry(offsets=(0, 4))}, bytes(4)), "needs 8 bytes"),
        (raw({"x": entry(offsets=(4, 12))}, bytes(12)), "hole"),
        (raw({"x": entry(), "y": entry(offsets=(4, 12))}, bytes(12)), "overlaps"),
        (raw({"x": entry(dtype="F99")}, bytes(8)), "F99"),
        (raw({"x": entry(dtype=["F32"])}, bytes(8)), "dtype"),
        (raw({"x": entry(shape=(-2,))}, bytes(8)), "shape"),
        (raw({"x": entry(shape=(2**40, 2**40))}, bytes(8)), "needs"),
        (raw({"x": entry(shape=(2.0,))}, bytes(8)), "shape"),
        (raw({"x": {"dtype": "F32"}}, bytes(8)), "exactly"),
        (raw({"x": 3}, bytes(8)), "exactly"),
    ],
)
def test_a_damaged_or_lying_file_says_what_is_wrong(content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(FormatError, match=says):
        read(tmp_path / "x")


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="No such file"):
        read(tmp_path / "x")


@pytest.mark.parametrize("kind", ["safetensors", "torch zip", "torch legacy"])
def test_no_damage_raises_anything_but_weights_errors(kind: str, written: dict[str, Path], tmp_path: Path) -> None:
    whole = written[kind].read_bytes()

    @FUZZ
    @given(st.data())
    def damage(data: st.DataObject) -> None:
        broken = bytearray(whole)
        for _ in range(data.draw(st.integers(1, 4))):
            # most of a file is numbers, where any byte is allowed: aim at the structure half of the time
            at = data.draw(st.one_of(st.integers(0, min(400, len(broken) - 1)), st.integers(0, len(broken) - 1)))
            broken[at] = data.draw(st.integers(0, 255))
        if data.draw(st.booleans()):
            broken = broken[: data.draw(st.integers(0, len(broken)))]
        (tmp_path / "broken").write_bytes(broken)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with contextlib.suppress(WeightsError):
                read(tmp_path / "broken")

    damage()


# --- pickles -------------------------------------------------------------------------------------------------------


class Canary:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_pickle_is_never_run(legacy: bool, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    content = {"state_dict": TENSORS, "bad": Canary(canary)}
    torch.save(content, tmp_path / "x", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UnsafePickleError, match=r"mkdir.*Nothing of it was run"):
        read(tmp_path / "x")
    assert not canary.exists()
    pickle.loads(pickle.dumps(Canary(canary)))  # the canary does sing
    assert canary.exists()


@pytest.mark.parametrize("name", ["builtins\neval", "os\nsystem", "torch\nload", "torch.storage\n_load_from_bytes"])
def test_a_name_outside_the_list_is_refused(name: str, tmp_path: Path) -> None:
    program = b"\x80\x02c" + name.encode() + b"\nX\x05\x00\x00\x00hello\x85R."
    archive(tmp_path / "x", program)
    with pytest.raises(UnsafePickleError, match=name.replace("\n", r"\.")):
        read(tmp_path / "x")


@pytest.mark.parametrize("program", [b"(ios\nsystem\n.", b"\x80\x02\x82\x01.", b"Phello\n."])
def test_rare_instructions_are_refused(program: bytes, tmp_path: Path) -> None:
    archive(tmp_path / "x", program)
    with pytest.raises(UnsafePickleError, match="instruction"):
        read(tmp_path / "x")


BOMB = b"X\x01\x00\x00\x00a" + b"2\x86" * 24  # each DUP, TUPLE2 doubles what the tuple spells out


@pytest.mark.parametrize(
    "program",
    [
        BOMB + b"2\x93",  # as a name
        b"ctorch._utils\n_rebuild_tensor_v2\n(N" + BOMB + b"))t",  # as a tensor's offset
        b"ctorch._utils\n_rebuild_tensor_v2\n(NK\x00(" + BOMB + b"t)t",  # in its shape
    ],
)
def test_nested_tuples_are_never_spelled_out(program: bytes, tmp_path: Path) -> None:
    archive(tmp_path / "x", b"\x80\x02" + program + b"R.")
    tracemalloc.start()
    with pytest.raises(FormatError) as error:
        read(tmp_path / "x")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(str(error.value)) < 1000
    assert most < 1 << 20


@pytest.mark.parametrize("module", [b"os", b"numpy"])
def test_a_long_name_is_refused_and_cut(module: bytes, tmp_path: Path) -> None:
    archive(tmp_path / "x", b"\x80\x02c" + module + b"\n" + b"x" * 100_000 + b"\n.")
    with pytest.raises(UnsafePickleError) as error:
        read(tmp_path / "x")
    assert len(str(error.value)) < 1000


def archive(path: Path, program: bytes, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("archive/data.pkl", program)
        for name, content in members.items():
            z.writestr(f"archive/data/{name}", content)


def test_what_training_programs_leave_becomes_inert(tmp_path: Path) -> None:
    # callbacks={ModelCheckpoint: {...}} as Lightning writes it, and a numpy scalar
    program = (
        b"\x80\x02}q\x00(X\x09\x00\x00\x00callbacksq\x01}q\x02cpytorch_lightning.callbacks.model_checkpoint\n"
        b"ModelCheckpoint\nq\x03}q\x04sX\x04\x00\x00\x00bestq\x05cnumpy.core.multiarray\nscalar\nq\x06N\x85Rq\x07"
        b"X\x0a\x00\x00\x00state_dictq\x08}q\x09u."
    )
    archive(tmp_path / "x", program)
    assert read(tmp_path / "x").tensors == {}


def test_views_parameters_and_ordered_dicts(tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    want = OrderedDict(t=base.t(), row=base[1], every=base[::2, 1::2], par=torch.nn.Parameter(torch.ones(2)), base=base)
    for legacy in (False, True):
        torch.save(want, tmp_path / "x", _use_new_zipfile_serialization=not legacy)
        assert same(read(tmp_path / "x").tensors, {k: v.detach() for k, v in want.items()})


def test_a_tensor_beyond_its_storage_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"x": torch.zeros(1000)}, buffer)
    with zipfile.ZipFile(buffer) as z:
        program = next(z.read(n) for n in z.namelist() if n.endswith("data.pkl"))
    archive(tmp_path / "short", program, **{"0": bytes(16)})
    with pytest.raises(FormatError, match="reaches to number 1000"):
        read(tmp_path / "short")
    archive(tmp_path / "without", program)
    with pytest.raises(FormatError, match="not in the archive"):
        read(tmp_path / "without")


@pytest.mark.parametrize(
    ("program", "says"),
    [
        (b"\x80\x02]q\x00.", "holds a list"),
        (b"\x80\x02}q\x00X\x0a\x00\x00\x00state_dictK\x01s.", "state_dict is a int"),
        (b"\x80\x02}q\x00((K\x01tK\x02u.", "damaged"),
        (b"\x80\x02h\x05.", "damaged"),
        (b"", "damaged"),
        (b"\x80\x02NN.", "2 values"),
    ],
)
def test_odd_pickles(program: bytes, says: str, tmp_path: Path) -> None:
    archive(tmp_path / "x", program)
    with pytest.raises(FormatError, match=says):
        read(tmp_path / "x")


def test_other_archives(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x", "w") as z:
        z.writestr("word/document.xml", "hello")
    with pytest.raises(FormatError, match=r"no data\.pkl"):
        read(tmp_path / "x")
    with zipfile.ZipFile(tmp_path / "y", "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("archive/data.pkl", b"\x80\x02}.")
    with pytest.raises(FormatError, match="compressed"):
        read(tmp_path / "y")
    with zipfile.ZipFile(tmp_path / "z", "w") as z:
        z.writestr("archive/data.pkl", b"\x80\x02}.")
        z.writestr("archive/byteorder", b"big")
    with pytest.raises(FormatError, match="big-endian"):
        read(tmp_path / "z")
    (tmp_path / "p").write_bytes(pickle.dumps({"a": 1}) + bytes(20))
    with pytest.raises(FormatError, match="not one that torch wrote"):
        read(tmp_path / "p")


# --- shards --------------------------------------------------------------------------------------------------------


@pytest.fixture
def index(tmp_path: Path) -> Path:
    save_file({"a": torch.ones(2)}, tmp_path / "1.safetensors")
    save_file({"b": torch.zeros(3)}, tmp_path / "2.safetensors")
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}))
    return path


def test_shards_are_read_as_one(index: Path) -> None:
    file = read(index)
    assert same(file.tensors, {"a": torch.ones(2), "b": torch.zeros(3)})
    assert file.kind == "safetensors, 2 shards"


def test_a_missing_shard_is_named(index: Path) -> None:
    (index.parent / "2.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match=r"1 of 2 shards are missing: 2\.safetensors"):
        read(index)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "no valid JSON"),
        ("[]", "weight_map"),
        ('{"weight_map": {}}', "weight_map"),
        ('{"weight_map": {"a": 1}}', "weight_map"),
        ('{"weight_map": {"a": "../1.safetensors"}}', "beside the index"),
        ('{"weight_map": {"a": "1.safetensors", "c": "2.safetensors"}}', "'c' should be in 2"),
        ('{"weight_map": {"a": "1.safetensors", "b": "2.safetensors", "a2": "1.safetensors"}}', "'a2'"),
    ],
)
def test_odd_indexes(content: str, says: str, index: Path) -> None:
    index.write_text(content)
    with pytest.raises(FormatError, match=says):
        read(index)


def test_a_tensor_that_the_index_lacks(index: Path) -> None:
    save_file({"b": torch.zeros(3), "more": torch.zeros(1)}, index.parent / "2.safetensors")
    with pytest.raises(FormatError, match="the index lacks, such as 'more'"):
        read(index)
