"""Tiny models in every layout, made once a session."""

import os
from pathlib import Path

import pytest
import torch

import tiny
from lienzo import weights


@pytest.fixture(autouse=True)
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests need not survive a power cut, and a busy disk makes each sync take seconds."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Family -> a diffusers folder written by diffusers."""
    return {family: tiny.make(tmp_path_factory.mktemp(family), family) for family in tiny.FAMILIES}


@pytest.fixture(scope="session")
def files(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Family -> the same model as one file."""
    root = tmp_path_factory.mktemp("files")
    return {family: weights.convert(folder, root / f"{family}.safetensors") for family, folder in folders.items()}


@pytest.fixture(scope="session")
def original(files: dict[str, Path]) -> dict[str, dict[str, torch.Tensor]]:
    """Family -> the tensors of the original layout, in memory."""
    return {family: {k: v.clone() for k, v in weights.read.read(f).tensors.items()} for family, f in files.items()}
