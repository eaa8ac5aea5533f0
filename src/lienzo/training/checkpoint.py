"""Checkpoints that are either whole or not there: written under a temporary name, fsynced, then renamed.

The newest file that can be read wins, so a damaged one costs the steps since the one before it and nothing else.
Reading never runs code (`weights_only`).
"""

import os
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

PREFIX, SUFFIX = "step-", ".pt"


def save(folder: Path, step: int, state: dict[str, Any], *, keep: int = 2) -> Path:
    """Write `state` as the checkpoint of `step`, then remove all but the newest `keep`.

    Args:
        state: tensors, numbers, strings, and dicts and lists of them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{PREFIX}{step:08d}{SUFFIX}"
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    _sync_folder(folder)
    for old in checkpoints(folder)[keep:]:
        old.unlink()
    return path


def checkpoints(folder: Path) -> list[Path]:
    """The finished checkpoints of a folder, newest first."""
    return sorted(folder.glob(f"{PREFIX}*{SUFFIX}"), reverse=True)


def load_newest(folder: Path) -> dict[str, Any] | None:
    """The newest readable checkpoint, or None. Damaged ones are named in a warning and passed over."""
    for path in checkpoints(folder):
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, OSError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
            warnings.warn(f"{path} cannot be read ({error}); trying the checkpoint before it.", stacklevel=2)
        else:
            return state
    return None


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
