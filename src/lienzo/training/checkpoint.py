"""Checkpoints that are either whole or not there, and that notice damage.

A checkpoint is a folder `step-00000020` of safetensors files and `checkpoint.json`, which has the SHA-256 of each. It is
written under a temporary name, every file and the folder are flushed to the disk, then it is renamed; then the file
`latest` gets its name (`best` has that of the best one). When a run goes on, the newest folder counts whose files have
the digests that they should have: damage costs the steps since the one before it and nothing else.

There are no random states in it: all randomness is a function of the step (`lienzo.training.share`). Nothing is pickled,
so reading never runs code.
"""

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from lienzo.errors import OutputError
from lienzo.weights.save import write_tensors

PREFIX, TEMPORARY, MANIFEST = "step-", ".tmp", "checkpoint.json"
LATEST, BEST = "latest", "best"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One that was found whole.

    Attributes:
        path: its folder.
        step: steps done.
        meta: what was given to `save`.
    """

    path: Path
    step: int
    meta: Mapping[str, Any]

    def tensors(self, part: str) -> dict[str, Tensor]:
        """A part's tensors by name, on the CPU."""
        with safe_open(self.path / f"{part}.safetensors", "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}


def save(
    folder: Path,
    step: int,
    parts: Mapping[str, Mapping[str, Tensor]],
    meta: Mapping[str, Any],
    *,
    keep: int = 2,
    best: bool = False,
) -> Path:
    """Write a checkpoint, then remove all but the newest `keep` and the best.

    Args:
        parts: file name without suffix -> tensors by name.
        meta: anything that JSON can hold.
        best: this is the best one so far.

    Raises:
        OutputError: it could not be written (a full disk, say). The checkpoints before it stay as they were.
    """
    path = folder / f"{PREFIX}{step:08d}"
    temporary = path.with_suffix(TEMPORARY)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(f"{PREFIX}*{TEMPORARY}"):  # of a killed run
            shutil.rmtree(leftover)
        temporary.mkdir()
        files = {}
        for part, tensors in parts.items():
            file = temporary / f"{part}.safetensors"
            write_tensors(file, tensors, tensors.__getitem__)
            files[file.name] = _digest(file)
        _write(temporary / MANIFEST, json.dumps({"step": step, "files": files, "meta": dict(meta)}, indent=1))
        _sync_folder(temporary)
        if path.exists():  # one that was found damaged, or this run would not have come here again
            _remove(path)
        temporary.rename(path)
        _sync_folder(folder)
        for pointer in (LATEST, BEST) if best else (LATEST,):
            _point(folder / pointer, path.name)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        last = next(iter(checkpoints(folder)), None)
        stays = f"{last} stays as it was" if last else "There is none before it"
        raise OutputError(
            f"The checkpoint of step {step} cannot be written to {folder}: {error.strerror or error}. {stays}. "
            "Make room and run the same command again: it goes on from there."
        ) from None
    kept = {one.name for one in checkpoints(folder)[:keep]} | {_pointed(folder / BEST)}
    for old in checkpoints(folder):
        if old.name not in kept:
            _remove(old)
    return path


def checkpoints(folder: Path) -> list[Path]:
    """The finished checkpoints of a folder, newest first."""
    return sorted((p for p in folder.glob(f"{PREFIX}*") if p.suffix != TEMPORARY), reverse=True)


def load(path: Path) -> Checkpoint:
    """Read one checkpoint and check it.

    Raises:
        ValueError, OSError: it is damaged.
    """
    manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    try:
        step, files, meta = manifest["step"], manifest["files"], manifest["meta"]
        for name, digest in files.items():
            if _digest(path / name) != digest:
                raise ValueError(f"{name} is not what was written: its SHA-256 differs")
    except (KeyError, TypeError, AttributeError):
        raise ValueError(f"{MANIFEST} is not what was written") from None
    return Checkpoint(path=path, step=step, meta=meta)


def load_newest(folder: Path) -> Checkpoint | None:
    """The newest whole checkpoint, or None. Damaged ones are named in a warning and passed over."""
    for path in checkpoints(folder):
        try:
            return load(path)
        except (OSError, ValueError, SafetensorError) as error:
            warnings.warn(f"{path} cannot be read ({error}); trying the checkpoint before it.", stacklevel=2)
    return None


def load_best(folder: Path) -> Checkpoint | None:
    """The best one by validation loss, or None where there was no validation."""
    name = _pointed(folder / BEST)
    return load(folder / name) if name else None


def replace_text(path: Path, text: str) -> None:
    """Give a small file new content in one step."""
    temporary = path.with_name(path.name + TEMPORARY)
    _write(temporary, text)
    temporary.replace(path)
    _sync_folder(path.parent)


def _point(pointer: Path, name: str) -> None:
    replace_text(pointer, name + "\n")


def _pointed(pointer: Path) -> str | None:
    return pointer.read_text(encoding="utf-8").strip() if pointer.exists() else None


def _remove(path: Path) -> None:
    """Remove a folder so that no half of it is ever seen under its name."""
    away = path.with_suffix(".old" + TEMPORARY)
    shutil.rmtree(away, ignore_errors=True)
    path.rename(away)
    shutil.rmtree(away)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
