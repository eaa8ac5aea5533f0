"""From what lies on the disk to the records that are trained on: read, measured, filtered, freed from duplicates."""

import contextlib
import hashlib
import io
import json
import math
import os
import secrets
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import rfc8785
from PIL import Image

from lienzo.errors import DataError, ImageError, OutputError, nearest
from lienzo.images import DAMAGE, MAX_PIXELS, open_image
from lienzo.training.data.buckets import Bucket, kept, nearest_bucket
from lienzo.training.data.captions import allows_crop, allows_flip
from lienzo.training.data.config import CAPTION_COLUMNS, DataConfig, Source
from lienzo.training.data.hashes import difference_hash, near_copies, pixels_digest
from lienzo.training.data.sources import NOT_UTF8, Blob, Entry, Row, Skipped, find

T = TypeVar("T")
R = TypeVar("R")
Tell = Callable[[int, int], None]
"""Told (pictures read, pictures in all)."""

SCORES: Mapping[str, tuple[str, ...]] = {
    "similarity": ("similarity", "SIMILARITY"),
    "aesthetic": ("aesthetic", "AESTHETIC_SCORE", "aesthetic_score"),
    "watermark": ("pwatermark", "watermark", "WATERMARK"),
    "unsafe": ("punsafe", "unsafe", "UNSAFE"),
}
"""What a score is called -> the columns that hold it, LAION's names among them."""
MEASURES_FILE = "measures.jsonl"


@dataclass(frozen=True, kw_only=True)
class Record:
    """A picture with its captions.

    Attributes:
        key: its path within its source, without the ending where it lies in a tar; for messages.
        captions: none where there was none.
        pixels: SHA-256 in hex of its size and RGB pixels.
        hash: 128-bit difference hash.
        row: what tables and .json files say of it.
    """

    key: str
    source: Source
    captions: tuple[str, ...]
    width: int
    height: int
    pixels: str
    hash: int
    bucket: Bucket
    picture: Blob = field(repr=False)
    mask: Blob | None = field(default=None, repr=False)
    mask_pixels: str | None = None
    row: Row = field(default_factory=dict, repr=False)

    @cached_property
    def digest(self) -> str:
        """SHA-256 in hex of pixels, captions and mask: where the picture lies does not count."""
        content = {"pixels": self.pixels, "captions": list(self.captions), "mask": self.mask_pixels}
        return hashlib.sha256(rfc8785.dumps(content)).hexdigest()

    @cached_property
    def flips(self) -> bool:
        """Whether its captions allow mirroring."""
        return allows_flip(self.captions)

    @cached_property
    def moves(self) -> bool:
        """Whether its captions allow a crop that is not centred."""
        return allows_crop(self.captions)

    def open(self) -> Image.Image:
        """The picture, upright, RGB or L.

        Raises:
            ImageError: it can no longer be read.
        """
        return _opened(self.picture, self.key)

    def open_mask(self) -> Image.Image | None:
        """White where the loss counts; None: everywhere."""
        return _opened(self.mask, f"{self.key} (mask)") if self.mask else None


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """What is trained on, and what was left out.

    Attributes:
        prior: pictures of the whole class, for DreamBooth.
        kinds: for every source, in words, what it is made of.
    """

    config: DataConfig
    records: tuple[Record, ...]
    prior: tuple[Record, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    kinds: tuple[tuple[str, ...], ...] = ()

    @cached_property
    def digest(self) -> str:
        """SHA-256 in hex of the sorted record digests: the same for the same content, wherever and however it is kept."""
        lines = [*sorted(r.digest for r in self.records), "prior", *sorted(r.digest for r in self.prior)]
        return hashlib.sha256("\n".join(["lienzo data 1", *lines]).encode()).hexdigest()

    @property
    def notes(self) -> tuple[str, ...]:
        """What is worth knowing before training on it, a sentence each."""
        count = len(self.records)
        bare = sum(not r.captions for r in self.records)
        unmasked = sum(r.mask is None for r in self.records) if self.config.masks else 0
        enlarged = sum(r.width < r.bucket[0] or r.height < r.bucket[1] for r in self.records)
        reasons = Counter(s.reason for s in self.skipped).most_common()
        told = [
            (len(self.skipped), f"{len(self.skipped)} skipped: {', '.join(f'{n} {why}' for why, n in reasons)}."),
            (bare, f"{bare} of {count} pictures have no caption and are learned with the empty one."),
            (unmasked, f"{unmasked} of {count} pictures have no mask, so that all of them counts."),
            (enlarged, f"{enlarged} of {count} pictures are smaller than what they are trained at, and are enlarged."),
        ]
        return tuple(sentence for number, sentence in told if number)


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What decoding a picture tells; with a `reason`, why it is of no use."""

    width: int = 0
    height: int = 0
    pixels: str = ""
    hash: int = 0
    mask_pixels: str | None = None
    reason: str = ""
    detail: str = ""


def load_data(config: DataConfig, tell: Tell = lambda done, of: None) -> Dataset:
    """Find, read and clean the pictures of all sources.

    Every picture is decoded once, to know that it can be and what it is; `config.cache` keeps what was learned, so that
    only new and changed files are decoded the next time.

    Raises:
        DataError: nothing is left, or a source cannot be read at all.
        MissingExtraError: Parquet without pyarrow.
    """
    sources = [*config.sources, *([config.prior] if config.prior else [])]
    found = [find(source.path) for source in sources]
    skipped = [s for one in found for s in one.skipped]
    entries: list[tuple[Source, Entry]] = []
    for source, one in zip(sources, found, strict=True):
        for entry in one.entries:
            refused = _refused_by_scores(config, _merged(entry.rows))
            if refused:
                skipped.append(Skipped(key=entry.key, reason="filtered", detail=refused))
            else:
                entries.append((source, entry))
    _check_columns(config, [entry for _, entry in entries])
    records: list[Record] = []
    for (source, entry), measure in zip(entries, _measured(entries, config, tell), strict=True):
        record = _record(config, source, entry, measure)
        if isinstance(record, Record):
            records.append(record)
        else:
            skipped.append(record)
    prior = [r for r in records if r.source is config.prior]
    kept_records, copies = _without_copies([r for r in records if r.source is not config.prior], config)
    skipped += copies
    for what, some, places in (
        ("picture", kept_records, config.sources),
        *((("class picture", prior, (config.prior,)),) if config.prior else ()),
    ):
        if not some:
            where = ", ".join(str(source.path) for source in places)
            why = "; ".join(f"{s.key}: {s.reason} {s.detail}".strip() for s in skipped[:5])
            raise DataError(
                f"{where}: no {what} is left to train on. {len(skipped)} skipped{': ' + why if why else ''}."
            )
    return Dataset(
        config=config,
        records=tuple(kept_records),
        prior=tuple(prior),
        skipped=tuple(sorted(skipped)),
        kinds=tuple(one.kinds for one in found),
    )


def _merged(rows: Iterable[Row]) -> Row:
    return {key: value for row in rows for key, value in row.items()}


# --- scores -----------------------------------------------------------------------------------------------------------


def score(row: Row, name: str) -> float | None:
    """A score of `SCORES`, if the row has it."""
    for column in SCORES[name]:
        with contextlib.suppress(KeyError, TypeError, ValueError):
            value = float(row[column])
            if math.isfinite(value):  # tables have "nan" for what is missing
                return value
    return None


def _refused_by_scores(config: DataConfig, row: Row) -> str:
    """Why the filters refuse a row; empty where they do not. A picture without the score that is asked for is refused."""
    for name in SCORES:
        least = getattr(config, f"min_{name}", None)
        most = getattr(config, f"max_{name}", None)
        if least is None and most is None:
            continue
        value = score(row, name)
        if value is None:
            return f"it has no {name} score"
        if not (least is None or value >= least):
            return f"{name} {value:g} is below {least:g}"
        if not (most is None or value <= most):
            return f"{name} {value:g} is above {most:g}"
    return ""


# --- captions ---------------------------------------------------------------------------------------------------------


def _captions(config: DataConfig, source: Source, entry: Entry) -> tuple[str, ...]:
    """Without repetition, in the order found. A .txt file is used where no column is asked for.

    Raises:
        OSError, UnicodeDecodeError: that file cannot be read.
    """
    texts: list[str] = []
    if config.captions is None and entry.text is not None:
        texts = entry.text.read().decode("utf-8-sig").splitlines()
    if not any(text.strip() for text in texts):
        for row in entry.rows:
            columns = config.captions or [name for name in CAPTION_COLUMNS if row.get(name)][:1]
            for name in columns:
                value = row.get(name)
                texts += [value] if isinstance(value, str) else value if isinstance(value, list) else []
    clean = [_clean(text) for text in texts if isinstance(text, str)]
    return tuple(dict.fromkeys(text for text in clean if text)) or ((source.caption,) if source.caption else ())


def _check_columns(config: DataConfig, entries: Sequence[Entry]) -> None:
    there = {column for entry in entries for row in entry.rows for column in row}
    for name in config.captions or ():
        if entries and name not in there:
            has = nearest(name, there) if there else "There are no tables and no .json files: leave captions out."
            raise DataError(f"captions: got {name!r}; no row has such a column. {has}")


def _clean(text: str) -> str:
    """One line, and nothing that UTF-8 cannot hold."""
    return " ".join(text.encode("utf-8", "replace").decode().split())


# --- measuring --------------------------------------------------------------------------------------------------------


def in_threads(work: Callable[[T], R], items: Iterable[T], threads: int, ahead: int = 4) -> Iterator[R]:
    """Results in order, with at most `threads` x `ahead` begun. Stops at once where the caller stops."""
    pool = ThreadPoolExecutor(threads)
    begun: deque[Future[R]] = deque()
    try:
        for item in items:
            begun.append(pool.submit(work, item))
            if len(begun) >= threads * ahead:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _measured(entries: Sequence[tuple[Source, Entry]], config: DataConfig, tell: Tell) -> Iterator[Measure]:
    known = _read_measures(config.cache) if config.cache else {}

    def work(pair: tuple[Source, Entry]) -> tuple[str, Measure]:
        entry = pair[1]
        try:
            stamps = [blob.stamp() for blob in (entry.picture, entry.mask if config.masks else None) if blob]
        except OSError as error:
            return "", Measure(reason="unreadable", detail=error.strerror or str(error))
        stamp = hashlib.sha256("\n".join(stamps).encode("utf-8", "surrogateescape")).hexdigest()
        return stamp, known.get(stamp) or _measure(entry, config.masks)

    learned: dict[str, Measure] = {}
    try:
        for number, (stamp, measure) in enumerate(in_threads(work, entries, config.threads), 1):
            if measure.reason != "unreadable":
                learned[stamp] = measure
            yield measure
            tell(number, len(entries))
    finally:  # stopped before the end, too
        if config.cache and not learned.keys() <= known.keys():
            _write_measures(config.cache, known | learned)


def _measure(entry: Entry, masks: bool) -> Measure:
    try:
        data = entry.picture.read()
        mask = entry.mask.read() if masks and entry.mask else None
    except OSError as error:
        return Measure(reason="unreadable", detail=error.strerror or str(error))
    try:
        image = open_image(data, entry.key)
    except ImageError as error:
        return Measure(reason=_what_is_wrong(data), detail=str(error).removeprefix(f"{entry.key}: "))
    mask_pixels = None
    if mask is not None:
        try:
            painted = open_image(mask, "its mask")
        except ImageError as error:
            return Measure(reason="broken mask", detail=str(error))
        if painted.size != image.size:
            return Measure(
                reason="broken mask",
                detail="the mask has {}x{} pixels, the picture {}x{}".format(*painted.size, *image.size),
            )
        mask_pixels = pixels_digest(painted)
    return Measure(
        width=image.width, height=image.height, pixels=pixels_digest(image), hash=difference_hash(image),
        mask_pixels=mask_pixels,
    )  # fmt: skip


def _what_is_wrong(data: bytes) -> str:
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MAX_PIXELS:
                return "huge"
            return "animated" if getattr(image, "n_frames", 1) > 1 else "broken"
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return "huge"
    except DAMAGE:
        return "broken"


def _read_measures(folder: Path) -> dict[str, Measure]:
    """What an earlier run learned. A damaged line costs its picture's decoding and nothing else."""
    known: dict[str, Measure] = {}
    with contextlib.suppress(OSError):
        for line in (folder / MEASURES_FILE).read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
                row = json.loads(line)
                stamp = row.pop("stamp")
                known[stamp] = Measure(**row)
    return known


def _write_measures(folder: Path, measures: Mapping[str, Measure]) -> None:
    lines = (json.dumps({"stamp": stamp, **asdict(measure)}) for stamp, measure in measures.items())
    write_whole(folder / MEASURES_FILE, "".join(f"{line}\n" for line in lines).encode())


def write_whole(path: Path, data: bytes) -> None:
    """Write a file under a temporary name, flush it, then rename it over what was there; make its folder.

    Raises:
        OutputError: no space, no permission; what was there is still there.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written: {error.strerror or error}. What was there is kept; free some space or choose "
            "another folder."
        ) from None
    finally:
        temporary.unlink(missing_ok=True)


# --- records ----------------------------------------------------------------------------------------------------------


def _record(config: DataConfig, source: Source, entry: Entry, measure: Measure) -> Record | Skipped:
    width, height = measure.width, measure.height
    if measure.reason:
        return Skipped(key=entry.key, reason=measure.reason, detail=measure.detail)
    if min(width, height) < config.min_side:
        return Skipped(key=entry.key, reason="tiny", detail=f"{width}x{height}; the least side is {config.min_side}")
    bucket = nearest_bucket(width, height, config.buckets)
    part = kept(width, height, bucket)
    if part < config.crop_keeps:
        detail = f"{width}x{height}; cut to {bucket[0]}x{bucket[1]}, {part:.0%} of it would be left"
        return Skipped(key=entry.key, reason="too long", detail=detail)
    try:
        captions = _captions(config, source, entry)
    except OSError as error:
        return Skipped(key=entry.key, reason="broken caption", detail=error.strerror or str(error))
    except UnicodeDecodeError:
        return Skipped(key=entry.key, reason="broken caption", detail=NOT_UTF8)
    return Record(
        key=entry.key, source=source, captions=captions, width=width, height=height,
        pixels=measure.pixels, hash=measure.hash, bucket=bucket, picture=entry.picture,
        mask=entry.mask if config.masks else None, mask_pixels=measure.mask_pixels, row=_merged(entry.rows),
    )  # fmt: skip


def _without_copies(records: list[Record], config: DataConfig) -> tuple[list[Record], list[Skipped]]:
    """The first of equal pictures stays, with the captions of all."""
    dropped: list[Skipped] = []
    if config.duplicates == "skip":
        first: dict[str, Record] = {}
        for record in records:
            if record.pixels in first:
                one = first[record.pixels]
                captions = tuple(dict.fromkeys((*one.captions, *record.captions)))
                first[record.pixels] = replace(one, captions=captions)
                dropped.append(Skipped(key=record.key, reason="duplicate", detail=f"the same pixels as {one.key}"))
            else:
                first[record.pixels] = record
        records = list(first.values())
    if config.near_duplicates is not None:
        copies = near_copies([record.hash for record in records], config.near_duplicates)
        for i, of in copies.items():
            detail = f"{(records[i].hash ^ records[of].hash).bit_count()} of 128 bits from {records[of].key}"
            dropped.append(Skipped(key=records[i].key, reason="near duplicate", detail=detail))
        records = [record for i, record in enumerate(records) if i not in copies]
    return records, dropped


def _opened(blob: Blob, what: str) -> Image.Image:
    try:
        return open_image(blob.read(), what)
    except OSError as error:
        raise ImageError(f"{what}: cannot be read any more: {error.strerror or error}.") from None
