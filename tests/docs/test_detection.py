"""What the page on detection states about the embedded model, beside the shipped calibration and fresh pictures."""

import numpy as np
import pytest
from pages import DOCS, rows

from boceto.judge import held_out_prompts
from boceto.scenes import render
from lienzo import Request
from lienzo.gallery import fill
from lienzo.images import open_image
from lienzo.models.bundle import Bundle
from lienzo.provenance.detect import Calibration, auc, auc_error, features, shipped_calibration
from lienzo.weights import load

TABLE = {
    row[0]: row[1:] for row in rows(DOCS / "explanation" / "detection.md", "## How well it does on the embedded model")
}
RENDERS = "renders, same prompts"


@pytest.fixture(scope="module")
def embedded() -> Bundle:
    return load(None)


@pytest.fixture(scope="module")
def calibration(embedded: Bundle) -> Calibration:
    found = shipped_calibration(embedded)
    assert found is not None
    return found


def test_the_page_was_written_with_the_shipped_calibration(calibration: Calibration) -> None:
    assert TABLE["ours"][0] == TABLE[RENDERS][0] == str(calibration.ours)
    for name, cells in TABLE.items():
        assert sum(float(share.rstrip("%")) for share in cells[2:]) == pytest.approx(100, abs=0.2), name


@pytest.mark.slow
def test_fresh_pictures_are_told_as_well_as_the_page_says(
    embedded: Bundle, calibration: Calibration, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Forty pictures and forty renders of prompts that neither half saw: the intervals of both AUCs overlap."""
    scenes = held_out_prompts(40, 90_000)
    requests = [
        Request(caption.text, seed=i, sampler=("ddim", "dpmpp_2m")[i % 2], guidance_scale=(2, 3, 5, 7.5)[i // 2 % 4])
        for i, (_, caption) in enumerate(scenes)
    ]
    made = [open_image(kept.path) for kept in fill(embedded, requests, tmp_path_factory.mktemp("fresh"))]
    renders = [render(scene, 128) for scene, _ in scenes]
    evidence = []
    for pictures in (made, renders):
        found = [features(picture, embedded.vae) for picture in pictures]
        evidence.append(calibration.evidence(np.array([[one[name] for name in calibration.features] for one in found])))
    value = auc(*evidence)
    low, high = (float(end) for end in TABLE[RENDERS][1].split("[")[1].rstrip("]").split(","))
    error = 1.96 * auc_error(value, 40, 40)
    assert low - error <= value <= high + error, (value, TABLE[RENDERS][1])
