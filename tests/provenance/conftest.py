"""A picture made by a tiny network."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lienzo import Pipeline, Request, Result


@pytest.fixture(scope="session")
def sd1(pipeline: Callable[[str], Pipeline]) -> Pipeline:
    return pipeline("sd1")


@pytest.fixture(scope="session")
def result(sd1: Pipeline) -> Result:
    request = Request(
        "a red circle, «ñ» 😀\nsecond line",
        negative_prompt="blurry: very",
        seed=7,
        steps=2,
        width=64,
        height=64,
        clip_skip=1,
    )
    return sd1(request)


@pytest.fixture(params=["png", "jpg", "jpeg", "webp"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / f"picture.{request.param}"
