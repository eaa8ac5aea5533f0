"""Files of tensors, opened by content and memory-mapped: safetensors, torch's zip and legacy checkpoints, shards.

Nothing here runs what a file says. Pickles are read by `unpickle`, a small interpreter that can build containers,
numbers, text and descriptions of tensors, and has no way to call anything.

Tensors are views of the mapped file: opening reads the header only, pages come in when they are used. The mapping is
private, so a write to such a tensor never reaches the file.
"""

import io
import json
import math
import mmap
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lienzo.errors import FormatError, ModelNotFoundError
from lienzo.weights.unpickle import Storage, TensorRef, unpickle

SAFETENSORS_DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
MAX_HEADER = 100_000_000
"""The format's own limit on a header's length."""
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a file holds.

    Attributes:
        tensors: name -> view of the mapped file.
        values: numbers and texts beside the tensors (`global_step`).
        tables: tables of tensors among them (`string_to_param` of textual inversion).
        metadata: the texts in a safetensors header.
        kind: "safetensors", "torch zip" or "torch legacy".
        maps: the mappings behind the tensors.
    """

    tensors: Mapping[str, Tensor]
    kind: str
    values: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    maps: tuple[mmap.mmap, ...] = ()

    def forget_pages(self) -> None:
        """Give the pages read so far back to the system. Only for tensors that nobody has written to."""
        if hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
            for mapped in self.maps:
                mapped.madvise(mmap.MADV_DONTNEED)


def read(path: str | Path) -> Checkpoint:
    """Open a file of tensors, or the index of a sharded one.

    Raises:
        ModelNotFoundError: no such file, or a shard of the index is missing.
        FormatError: a damaged file, one that lies about its contents, or of no known format.
        UnsafePickleError: a pickle that asks for more than tensors. Nothing of it was run.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelNotFoundError(f"No such file: {path}.")
    if path.suffix == ".json":
        return _sharded(path)
    size = path.stat().st_size
    if size < 8:
        raise FormatError(f"{path} has {size} bytes; no file of weights is that short. Is its download complete?")
    try:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except OSError as error:
        raise FormatError(f"{path} cannot be opened: {error.strerror}.") from None
    if mapped[:4] == b"PK\x03\x04":
        return _torch_zip(path, mapped)
    if mapped[8:9] == b"{":
        return _safetensors(path, mapped)
    if mapped[:1] == b"\x80":
        return _torch_legacy(path, mapped)
    if mapped[:19] == b"version https://git":
        raise FormatError(f"{path} is a Git LFS pointer, not the weights. Run `git lfs pull` in its repository.")
    raise FormatError(f"{path} starts with {bytes(mapped[:8])!r}: neither safetensors nor a torch checkpoint.")


def _view(mapped: mmap.mmap, dtype: torch.dtype, shape: tuple[int, ...], offset: int) -> Tensor:
    """A tensor over the mapping; the caller has checked that it lies inside."""
    count = math.prod(shape)
    if count == 0:
        return torch.empty(shape, dtype=dtype)
    if offset % dtype.itemsize:
        # rare: old writers did not align; kernels may rely on it, so this one tensor is copied
        raw = bytearray(mapped[offset : offset + count * dtype.itemsize])
        return torch.frombuffer(raw, dtype=dtype, count=count).reshape(shape)
    return torch.frombuffer(mapped, dtype=dtype, count=count, offset=offset).reshape(shape)


# --- safetensors ---------------------------------------------------------------------------------------------------


def _safetensors(path: Path, mapped: mmap.mmap) -> Checkpoint:
    (length,) = struct.unpack("<Q", mapped[:8])
    if length > MAX_HEADER or 8 + length > len(mapped):
        raise FormatError(
            f"{path} is damaged, cut off or no safetensors file: it claims a header of {length:,} bytes, and the whole "
            f"file has {len(mapped):,} (a header at most {MAX_HEADER:,}). Fetch it again, or name another file."
        )
    try:
        header = json.loads(mapped[8 : 8 + length].decode("utf-8"), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise FormatError(
            f"{path}: the header is no valid JSON ({error}). The file is damaged: fetch it again."
        ) from None
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise FormatError(f"{path}: the header's __metadata__ must map texts to texts.")

    start, end = 8 + length, 0
    tensors: dict[str, Tensor] = {}
    entries = {name: _entry(path, name, entry) for name, entry in header.items()}
    for name, (dtype, shape, first, last) in sorted(entries.items(), key=lambda item: item[1][2:]):
        if first != end:
            what = "overlaps the one before it" if first < end else "leaves a hole before it"
            raise FormatError(
                f"{path}: the header lies: tensor {name!r} at bytes {first} to {last} {what}, which ends at {end}."
            )
        end = last
        if start + end > len(mapped):
            raise FormatError(
                f"{path}: tensor {name!r} should end at byte {start + end}, but the file has {len(mapped)}. "
                "The file is cut off or its header lies: fetch it again."
            )
        tensors[name] = _view(mapped, dtype, shape, start + first)
    if start + end != len(mapped):
        raise FormatError(
            f"{path}: {len(mapped) - start - end} bytes after the last tensor belong to nothing in the header."
        )
    return Checkpoint(tensors=tensors, kind="safetensors", metadata=metadata, maps=(mapped,))


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _entry(path: Path, name: str, entry: Any) -> tuple[torch.dtype, tuple[int, ...], int, int]:
    """(dtype, shape, first byte, last byte) of a header's entry, checked for itself."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise FormatError(
            f"{path}: tensor {name!r} must have exactly dtype, shape and data_offsets; got {str(entry)[:100]}."
        )
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in SAFETENSORS_DTYPES:
        known = ", ".join(SAFETENSORS_DTYPES)
        raise FormatError(f"{path}: tensor {name!r} has dtype {entry['dtype']!r}; known are {known}.")
    if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2 or len(shape) > 64:
        raise FormatError(f"{path}: tensor {name!r} has shape {str(shape)[:60]} and data_offsets {str(offsets)[:60]}.")
    dtype = SAFETENSORS_DTYPES[entry["dtype"]]
    needed = math.prod(shape) * dtype.itemsize
    if offsets[1] - offsets[0] != needed:
        raise FormatError(
            f"{path}: the header lies: tensor {name!r} of shape {shape} and dtype {entry['dtype']} needs {needed} "
            f"bytes, but its data_offsets {offsets} span {offsets[1] - offsets[0]}."
        )
    return dtype, tuple(shape), offsets[0], offsets[1]


def _naturals(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 2**63 for v in values)


# --- torch ---------------------------------------------------------------------------------------------------------

# what zipfile raises on damaged archives, as found by fuzzing
ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    ValueError,
    KeyError,
    IndexError,
    EOFError,
    OSError,
    OverflowError,
    NotImplementedError,
    RuntimeError,
    MemoryError,
)


def _torch_zip(path: Path, mapped: mmap.mmap) -> Checkpoint:
    try:
        with zipfile.ZipFile(path) as archive:
            pickles = [n for n in archive.namelist() if n.endswith("/data.pkl") and n.count("/") == 1]
            if len(pickles) != 1:
                raise FormatError(f"{path} is a zip archive but no torch checkpoint: it has no data.pkl.")
            prefix = pickles[0].removesuffix("data.pkl")
            info = archive.getinfo(pickles[0])
            if info.file_size > MAX_HEADER or info.compress_type != zipfile.ZIP_STORED:
                raise FormatError(
                    f"{path}: its data.pkl is compressed or has {info.file_size} bytes, unlike any checkpoint."
                )
            program = archive.read(pickles[0])
            places = {i.filename.removeprefix(f"{prefix}data/"): _place(path, mapped, i) for i in archive.infolist()}
    except ZIP_ERRORS as error:
        raise FormatError(f"{path} is a damaged zip archive ({error}). Fetch it again.") from None
    first, size = places.get(f"{prefix}byteorder", (0, 0))
    if size and mapped[first : first + size] != b"little":
        raise FormatError(f"{path} was written on a big-endian machine, which is not supported.")

    def place(storage: Storage) -> tuple[int, int]:
        if storage.key not in places:
            raise FormatError(f"{path}: the tensors of storage {storage.key!r} are not in the archive.")
        return places[storage.key]

    root = unpickle(io.BytesIO(program), str(path))
    return _checkpoint(path, mapped, root, place, "torch zip")


def _place(path: Path, mapped: mmap.mmap, info: zipfile.ZipInfo) -> tuple[int, int]:
    """(first byte, length) of an uncompressed member's data."""
    head = info.header_offset
    names, extra = struct.unpack("<HH", mapped[head + 26 : head + 30])
    first = head + 30 + names + extra
    if mapped[head : head + 4] != b"PK\x03\x04" or first + info.file_size > len(mapped):
        raise FormatError(f"{path}: member {info.filename!r} lies outside the archive.")
    if info.compress_type != zipfile.ZIP_STORED:
        raise FormatError(f"{path}: member {info.filename!r} is compressed; torch stores tensors uncompressed.")
    return first, info.file_size


def _torch_legacy(path: Path, mapped: mmap.mmap) -> Checkpoint:
    """torch.save before 1.6: five pickles in a row, then every storage as its length and its bytes."""
    where = str(path)
    magic = unpickle(mapped, where)
    if magic != LEGACY_MAGIC or unpickle(mapped, where) != LEGACY_PROTOCOL:
        raise FormatError(f"{path} is a pickle, but not one that torch wrote.")
    system = unpickle(mapped, where)
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise FormatError(f"{path} was written on a big-endian machine, which is not supported.")
    used: dict[str, Storage] = {}
    root = unpickle(mapped, where, storages=used)
    keys = unpickle(mapped, where)
    if not isinstance(keys, list):
        raise FormatError(f"{path}: the list of storages is a {type(keys).__name__}.")
    places: dict[str, tuple[int, int]] = {}
    position = mapped.tell()
    for key in keys:
        if not isinstance(key, str) or key not in used or position + 8 > len(mapped):
            raise FormatError(f"{path}: storage {str(key)[:40]!r} is unknown or cut off. Fetch the file again.")
        (count,) = struct.unpack("<q", mapped[position : position + 8])
        size = count * used[key].dtype.itemsize
        if count < 0 or position + 8 + size > len(mapped):
            raise FormatError(f"{path}: storage {key!r} of {count} numbers lies outside the file. Fetch it again.")
        places[key] = (position + 8, size)
        position += 8 + size

    def place(storage: Storage) -> tuple[int, int]:
        if storage.key not in places:
            raise FormatError(f"{path}: storage {storage.key!r} is not in the file.")
        return places[storage.key]

    return _checkpoint(path, mapped, root, place, "torch legacy")


def _checkpoint(
    path: Path, mapped: mmap.mmap, root: Any, place: Callable[[Storage], tuple[int, int]], kind: str
) -> Checkpoint:
    if not isinstance(root, dict):
        raise FormatError(f"{path} holds a {type(root).__name__}, not a table of tensors.")
    inner = root.get("state_dict", root)
    if not isinstance(inner, dict):
        raise FormatError(f"{path}: its state_dict is a {type(inner).__name__}, not a table of tensors.")

    def tensors(table: Mapping[Any, Any]) -> dict[str, Tensor]:
        return {
            key: _tensor(path, key, value, mapped, place(value.storage))
            for key, value in table.items()
            if isinstance(value, TensorRef) and isinstance(key, str)
        }

    tables = {k: tensors(v) for k, v in inner.items() if isinstance(k, str) and isinstance(v, dict)}
    values = {k: v for k, v in {**root, **inner}.items() if isinstance(k, str) and isinstance(v, (int, float, str))}
    return Checkpoint(tensors=tensors(inner), kind=kind, values=values, tables=tables, maps=(mapped,))


def _tensor(path: Path, key: str, ref: TensorRef, mapped: mmap.mmap, place: tuple[int, int]) -> Tensor:
    first, size = place
    dtype = ref.storage.dtype
    last = ref.offset + sum((n - 1) * step for n, step in zip(ref.shape, ref.stride, strict=True)) + 1
    if 0 in ref.shape:
        return torch.empty(ref.shape, dtype=dtype)
    if last * dtype.itemsize > size:
        raise FormatError(
            f"{path}: tensor {key!r} of shape {list(ref.shape)} reaches to number {last} of a storage with "
            f"{size // dtype.itemsize}. The file is cut off or lies."
        )
    flat = _view(mapped, dtype, (last - ref.offset,), first + ref.offset * dtype.itemsize)
    return flat.as_strided(ref.shape, ref.stride)


# --- shards --------------------------------------------------------------------------------------------------------


def _sharded(path: Path) -> Checkpoint:
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is no valid JSON: {error}.") from None
    table = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(table, dict) or not table or not all(isinstance(v, str) for v in table.values()):
        raise FormatError(f"{path}: expected a weight_map from tensor names to files.")
    names = sorted(set(table.values()))
    if any(Path(n).name != n for n in names):
        raise FormatError(f"{path}: a shard's name must be a file beside the index; got {names}.")
    if missing := [n for n in names if not (path.parent / n).is_file()]:
        raise ModelNotFoundError(f"{path}: {len(missing)} of {len(names)} shards are missing: {', '.join(missing)}.")
    shards = {n: read(path.parent / n) for n in names}
    tensors: dict[str, Tensor] = {}
    for key, name in table.items():
        if key not in shards[name].tensors:
            raise FormatError(f"{path}: tensor {key!r} should be in {name}, but is not.")
        tensors[key] = shards[name].tensors[key]
    extra = {k for s in shards.values() for k in s.tensors} - set(tensors)
    if extra:
        raise FormatError(f"{path}: the shards hold {len(extra)} tensors that the index lacks, such as {min(extra)!r}.")
    kinds = "+".join(sorted({s.kind for s in shards.values()}))
    return Checkpoint(
        tensors=tensors, kind=f"{kinds}, {len(names)} shards", maps=tuple(m for s in shards.values() for m in s.maps)
    )
