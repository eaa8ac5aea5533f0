"""Shared fixtures: tiny models in diffusers' layout, made once a session."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tiny
from lienzo import Pipeline

os.environ["LIENZO_MARK"] = "off"  # the bare pixels are compared with the reference; tests of marks ask for them
torch.set_num_threads(1)  # the networks are tiny: a second thread only waits


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """lienzo's home folder, a test's own: no key or log of whoever runs the tests is touched."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("LIENZO_HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny model of a family ("sd1", "sd2", "inpaint"), made on first use."""
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = tiny.make(tmp_path_factory.mktemp(family), family)
        return made[family]

    return folder


@pytest.fixture(scope="session")
def pipeline(model: Callable[[str], Path]) -> Callable[[str], Pipeline]:
    made: dict[str, Pipeline] = {}

    def loaded(family: str) -> Pipeline:
        if family not in made:
            made[family] = Pipeline.load(model(family))
        return made[family]

    return loaded


@pytest.fixture(scope="session")
def picture() -> Image.Image:
    """96x128, colourful and smooth."""
    y, x = np.mgrid[0:128, 0:96] / 128
    waves = np.stack([np.sin(9 * x + 4 * y), np.cos(7 * y), np.sin(5 * x * y + 1)], axis=-1)
    return Image.fromarray(((waves + 1) * 127.5).astype(np.uint8))


@pytest.fixture(scope="session")
def mask() -> Image.Image:
    """White where to paint anew; its edges do not lie on latent cells."""
    area = np.zeros((128, 96), np.uint8)
    area[30:91, 21:70] = 255
    return Image.fromarray(area)
