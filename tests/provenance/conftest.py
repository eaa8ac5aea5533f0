"""A picture made by a tiny network."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lienzo import Pipeline, Request, Result
from lienzo.provenance.certificates import Issuer, anchors, issuer
from lienzo.provenance.keys import Keystore


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


@pytest.fixture(scope="module")
def keystore(tmp_path_factory: pytest.TempPathFactory) -> Keystore:
    return Keystore(tmp_path_factory.mktemp("home") / "keys")


@pytest.fixture(scope="module")
def own(keystore: Keystore) -> Issuer:
    return issuer(keystore)


@pytest.fixture(scope="module")
def trusted(keystore: Keystore, own: Issuer) -> str:
    return anchors(keystore)
