"""What lies in a folder, a table or a tar: pictures with their captions and what else is known of them. None is decoded here.

What a source is, is told by its content:

- a folder with `metadata.jsonl`, `.csv` or `.parquet` is what that table says (columns `file_name` and a caption);
- another folder is its pictures, each with `NAME.txt` or `NAME.caption` (a caption a line), `NAME.json` (a table's row) and
  `NAME.mask.png` beside it, its tars, and the same of its folders. That is also what img2dataset writes with `output_format="files"`;
- a tar is a WebDataset shard: members with the same name up to the first dot belong together;
- `SHARD.parquet` beside `SHARD.tar` or the folder `SHARD` is img2dataset's account of it, joined by `key`.

Nothing is unpacked to the disk: a picture in a tar is read from its place in the file.
"""

import csv
import json
import math
import os
import re
import tarfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any

from lienzo.errors import DataError, MissingExtraError

PICTURES = frozenset({"png", "jpg", "jpeg", "webp", "bmp", "tif", "tiff", "gif"})
TABLES = frozenset({"jsonl", "csv", "parquet"})
CAPTIONS = (".txt", ".caption")
MASK = "mask.png"
BOM = b"\xef\xbb\xbf"
NOT_UTF8 = "not UTF-8; save it in that encoding"
UNDECODED = re.compile("[\udc80-\udcff]")
"""What `surrogateescape` makes of bytes that are not UTF-8."""
MAX_BYTES = 256 * 2**20
"""Longest file that is read as a picture, a caption or a row."""
Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Blob:
    """A file, or a part of one."""

    path: Path
    offset: int = 0
    size: int | None = None

    def read(self) -> bytes:
        """Its bytes.

        Raises:
            OSError: it cannot be read, or is longer than `MAX_BYTES`.
        """
        with self.path.open("rb") as file:
            size = self.size if self.size is not None else os.fstat(file.fileno()).st_size
            if size > MAX_BYTES:
                raise OSError(f"{size:,} bytes are more than the {MAX_BYTES:,} that are read")
            file.seek(self.offset)
            return file.read(size)

    def stamp(self) -> str:
        """Changes when the file is written anew: path, place, length and time."""
        seen = self.path.stat()
        return f"{self.path.resolve()}\n{self.offset} {self.size} {seen.st_size} {seen.st_mtime_ns}"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A picture that was found.

    Attributes:
        key: its path within the source, without the ending: what it is called in messages.
        rows: what tables and .json files say of it.
    """

    key: str
    picture: Blob
    text: Blob | None = None
    mask: Blob | None = None
    rows: tuple[Row, ...] = ()


@dataclass(frozen=True, kw_only=True, order=True)
class Skipped:
    """Something that is not trained on, and why.

    Attributes:
        reason: in a word or two, for counting.
        detail: what exactly was found.
    """

    key: str
    reason: str
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Found:
    """The content of a source.

    Attributes:
        kinds: in words, what the source is made of.
    """

    entries: tuple[Entry, ...]
    skipped: tuple[Skipped, ...]
    kinds: tuple[str, ...]


@dataclass
class _Finds:
    entries: list[Entry] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    kinds: set[str] = field(default_factory=set)

    def skip(self, key: str, reason: str, detail: str = "") -> None:
        self.skipped.append(Skipped(key=key, reason=reason, detail=detail))


def find(path: Path) -> Found:
    """Everything in a source, in a fixed order.

    Raises:
        DataError: no such path, or a file of another kind.
        MissingExtraError: Parquet without pyarrow.
    """
    finds = _Finds()
    try:
        if path.is_dir():
            _folder(finds, path, path)
        elif path.is_file():
            _file(finds, path)
        else:
            seen = "" if path.is_absolute() else f" It was looked for in {Path.cwd()}."
            raise DataError(f"{path}: no such folder or file.{seen}")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None
    finds.entries.sort(key=lambda entry: entry.key)
    return Found(entries=tuple(finds.entries), skipped=tuple(sorted(finds.skipped)), kinds=tuple(sorted(finds.kinds)))


def _file(finds: _Finds, path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(4096)
    if head[:4] == b"PAR1" or _is_json(head) or _ending(path.name) == "csv":
        _table(finds, path, path.parent, path.parent)
    elif _is_tar(head):
        _tar(finds, path, path.parent)
    else:
        raise DataError(f"{path}: neither a folder nor a tar, and no table in JSON Lines, CSV or Parquet.")


def _is_json(head: bytes) -> bool:
    return head.removeprefix(BOM).lstrip()[:1] == b"{"


def _is_tar(head: bytes) -> bool:
    return head[257:262] == b"ustar"


# --- folders ----------------------------------------------------------------------------------------------------------


def _folder(finds: _Finds, folder: Path, root: Path) -> None:
    with os.scandir(folder) as listed:
        items = sorted((item for item in listed if not item.name.startswith(".")), key=lambda item: item.name)
    names = {item.name for item in items}
    beside = {f"{name.rpartition('.')[0]}.{_ending(name)}": name for name in sorted(names)}
    captions = {key for key in beside if key.endswith(CAPTIONS)}
    table = next((name for name in ("metadata.jsonl", "metadata.csv", "metadata.parquet") if name in names), None)
    if table:
        _table(finds, folder / table, folder, root)
        return
    shards = {name.rpartition(".")[0]: folder / name for name in sorted(names) if _ending(name) == "parquet"}
    used = set()
    for item in items:
        path = Path(item.path)
        stem, ending = item.name.rpartition(".")[0], _ending(item.name)
        if item.is_dir(follow_symlinks=False):
            before = len(finds.entries)
            _folder(finds, path, root)
            if item.name in shards:
                used.add(item.name)
                _account(finds, shards[item.name], before)
        elif item.is_dir():
            finds.skip(_key(path, root), "link", "a link to a folder; name that folder as a source")
        elif item.name.lower().endswith("." + MASK) or ending in ("txt", "caption", "json", "parquet"):
            continue
        elif ending in PICTURES:
            _picture(finds, path, root, beside)
            captions -= {f"{stem}{ending}" for ending in CAPTIONS}
        elif ending == "tar":
            before = len(finds.entries)
            _tar(finds, path, root)
            if stem in shards:
                used.add(stem)
                _account(finds, shards[stem], before)
        else:
            finds.skip(_key(path, root), "other file", "its ending is none of a picture, caption, table or tar")
    for stem in sorted(shards.keys() - used):
        finds.skip(_key(shards[stem], root), "other file", "a Parquet file without a shard of its name")
    for key in sorted(captions):
        finds.skip(_key(folder / beside[key], root), "no picture", "a caption, but no picture of its name")


def _picture(finds: _Finds, path: Path, root: Path, names: Mapping[str, str]) -> None:
    """`names`: file names by themselves with the ending in lower case."""

    def beside(ending: str) -> Blob | None:
        name = names.get(f"{path.stem}.{ending}")
        return Blob(path=path.with_name(name)) if name else None

    row = beside("json")
    rows = _sidecar(finds, _key(row.path, root), row) if row else ()
    text = beside("txt") or beside("caption")
    finds.kinds.add("folder")
    finds.entries.append(Entry(key=_key(path, root), picture=Blob(path=path), text=text, mask=beside(MASK), rows=rows))


def _sidecar(finds: _Finds, key: str, blob: Blob) -> tuple[Row, ...]:
    try:
        row = json.loads(blob.read())
        if not isinstance(row, dict):
            raise ValueError("not an object")
    except (OSError, ValueError, RecursionError) as error:
        finds.skip(key, "broken row", str(error))
        return ()
    return (_plain(row),)


def _key(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _ending(name: str) -> str:
    return name.rpartition(".")[2].lower()


# --- tables -----------------------------------------------------------------------------------------------------------


def _table(finds: _Finds, table: Path, folder: Path, root: Path) -> None:
    """Several rows of one file are several captions of one picture."""
    rows: defaultdict[str, list[Row]] = defaultdict(list)
    where = table.name
    for number, row in _rows(finds, table):
        name = row.get("file_name")
        if not isinstance(name, str) or not name:
            if number == 1 and "file_name" not in row:
                raise DataError(f"{table}: no column file_name, only {', '.join(map(str, row)) or 'none'}.{_hint(row)}")
            finds.skip(f"{where}:{number}", "broken row", "no file_name")
        elif (path := _inside(folder, name)) is None:
            finds.skip(f"{where}:{number}", "outside", f"{name!r} lies outside the table's folder")
        elif not path.is_file():
            finds.skip(f"{where}:{number}", "missing file", name)
        else:
            rows[path.relative_to(folder).as_posix()].append(row)
    finds.kinds.add(_ending(where))
    begin = len(finds.entries)
    for name, some in rows.items():
        path = folder / name
        beside = next(
            (row["mask"] for row in some if isinstance(row.get("mask"), str)), f"{path.with_suffix('')}.{MASK}"
        )
        mask = _inside(folder, os.path.relpath(beside, folder) if os.path.isabs(beside) else beside)
        finds.entries.append(
            Entry(
                key=_key(path, root),
                picture=Blob(path=path),
                mask=Blob(path=mask) if mask and mask.is_file() else None,
                rows=tuple(some),
            )
        )
    if table.name.startswith("metadata."):
        used = {blob.path for entry in finds.entries[begin:] for blob in (entry.picture, entry.mask) if blob}
        for path in sorted(folder.rglob("*")):
            if _ending(path.name) in PICTURES and path not in used:
                finds.skip(_key(path, root), "not in the table", f"{where} does not name it")


def _hint(row: Row) -> str:
    """What to do about a table that names no files."""
    if {"url", "URL"} & row.keys():
        return " It holds links: fetch them with img2dataset first."
    if any(isinstance(value, dict) and "bytes" in value for value in row.values()):
        return " It holds the pictures themselves: write them to files first."
    if len(row) == 1 and re.search("[;\t]", next(iter(row))):
        return " Its columns have to be divided by commas."
    return " Name the column with the files' names so."


def _inside(folder: Path, name: str) -> Path | None:
    """The path of a name, unless it leads out of the folder or cannot be a path."""
    path = Path(os.path.normpath(name.replace("\\", "/")))
    if "\0" in name or path.is_absolute() or path.parts[:1] in ((), ("..",)):
        return None
    return folder / path


def _rows(finds: _Finds, table: Path) -> Iterator[tuple[int, Row]]:
    """Rows with their numbers from 1."""
    with table.open("rb") as file:
        head = file.read(64)
    if head[:4] == b"PAR1":
        yield from enumerate(parquet_rows(table), 1)
        return
    with table.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        if _is_json(head):
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    if UNDECODED.search(line):
                        raise ValueError(NOT_UTF8)
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise ValueError("not an object")
                except (ValueError, RecursionError) as error:
                    finds.skip(f"{table.name}:{number}", "broken row", str(error))
                else:
                    yield number, _plain(row)
        else:
            try:
                for number, row in enumerate(csv.DictReader(lines), 1):
                    cells = {key: value for key, value in row.items() if isinstance(key, str)}
                    if any(UNDECODED.search(f"{key}{value}") for key, value in cells.items()):
                        finds.skip(f"{table.name}:{number}", "broken row", NOT_UTF8)
                    else:
                        yield number, cells
            except csv.Error as error:
                finds.skip(table.name, "broken row", str(error))


def parquet_rows(path: Path) -> list[Row]:
    """All rows of a Parquet file.

    Raises:
        MissingExtraError: pyarrow is not installed.
        DataError: it cannot be read.
    """
    try:
        parquet = import_module("pyarrow.parquet")
    except ImportError:
        raise MissingExtraError(f'{path}: Parquet needs pyarrow: pip install "lienzo[train]".') from None
    try:
        rows = parquet.ParquetFile(path).read().to_pylist()
    except Exception as error:  # pyarrow's own kinds; its module is not to be imported for their names
        raise DataError(f"{path}: damaged Parquet file ({error}).") from None
    return [_plain(row) for row in rows]


def _plain(row: Mapping[str, Any]) -> Row:
    """Without NaN, which JSON has no word for: img2dataset writes it for what is missing."""
    return {k: v for k, v in row.items() if v is not None and not (isinstance(v, float) and not math.isfinite(v))}


def _account(finds: _Finds, table: Path, begin: int) -> None:
    """Join img2dataset's account of a shard to the entries since `begin`; what it could not fetch is listed."""
    finds.kinds.add("img2dataset")
    accounts = {str(row.get("key")): row for row in parquet_rows(table)}
    for i in range(begin, len(finds.entries)):
        entry = finds.entries[i]
        row = accounts.pop(PurePosixPath(entry.key).name.partition(".")[0], None)
        if row:
            finds.entries[i] = Entry(
                key=entry.key, picture=entry.picture, text=entry.text, mask=entry.mask, rows=({**row, **_merged(entry.rows)},)
            )  # fmt: skip
    for key, row in accounts.items():
        if row.get("status", "success") != "success":
            detail = f"{row.get('status')}: {row.get('error_message', '')} {row.get('url', '')}"
            finds.skip(f"{table.name}:{key}", "not downloaded", detail)
        else:
            finds.skip(f"{table.name}:{key}", "missing file", "the shard does not hold it")


def _merged(rows: Iterable[Row]) -> Row:
    return {key: value for row in rows for key, value in row.items()}


# --- tars -------------------------------------------------------------------------------------------------------------


def _tar(finds: _Finds, path: Path, root: Path) -> None:
    """Index a tar's members. Links, devices and sparse files are left alone, so nothing outside the tar is ever read."""
    shard = _key(path, root)
    samples: defaultdict[str, dict[str, Blob]] = defaultdict(dict)
    length = path.stat().st_size
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.isdir():
                    continue
                name = f"{shard}/{member.name}"
                if not member.isreg() or member.issparse():
                    finds.skip(name, "link", "not an ordinary file")
                elif member.offset_data + member.size > length:
                    finds.skip(name, "broken", "the tar ends within it")
                else:
                    folder, _, last = member.name.rpartition("/")
                    stem, _, ending = last.partition(".")
                    sample = samples[f"{folder}/{stem}" if folder else stem]
                    if ending.lower() in sample:
                        finds.skip(name, "duplicate name", "the tar holds an earlier member of that name")
                    else:
                        sample[ending.lower()] = Blob(path=path, offset=member.offset_data, size=member.size)
            # tarfile takes a header that it cannot read for the end
            with path.open("rb") as file:
                file.seek(tar.offset)
                if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
                    raise tarfile.TarError("no header where one should be")
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        finds.skip(shard, "broken", f"the tar is damaged from here on: {error}")
    finds.kinds.add("webdataset")
    for stem, sample in samples.items():
        key = f"{shard}/{stem}"
        picture = next((blob for ending, blob in sample.items() if ending in PICTURES), None)
        if picture is None:
            finds.skip(key, "no picture", f"only .{', .'.join(sorted(sample))}")
            continue
        rows = _sidecar(finds, f"{key}.json", sample["json"]) if "json" in sample else ()
        text = sample.get("txt") or sample.get("caption")
        finds.entries.append(Entry(key=key, picture=picture, text=text, mask=sample.get(MASK), rows=rows))
