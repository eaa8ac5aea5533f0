"""The checker against diffusers': scores and decisions, layouts, and what is refused."""

import json
import shutil
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from checkers import pictures, prepared, write
from lienzo import safety
from lienzo.errors import ConfigError, KeysError, ModelNotFoundError, SafetyError
from lienzo.safety.checker import SafetyChecker, _wanted, load_checker, scores

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("checker"))


@pytest.fixture(scope="module")
def checker(folder: Path) -> SafetyChecker:
    return load_checker(folder)


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return StableDiffusionSafetyChecker.from_pretrained(folder).eval()


def reference(
    network: Any, pixels: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[float], list[float], bool]:
    """Scores and decision of diffusers' checker. It keeps its scores to itself: they are caught where it rounds them."""
    rounded: list[float] = []

    def caught(value: Any, digits: int) -> Any:
        rounded.append(float(round(value, digits)))
        return round(value, digits)

    module = vars(sys.modules[StableDiffusionSafetyChecker.__module__])
    with monkeypatch.context() as patch:
        patch.setitem(module, "round", caught)
        patch.setattr(module["logger"], "warning", lambda *_: None)
        _, [over] = network(clip_input=pixels, images=[np.ones((4, 4, 3))])
    return rounded[:3], rounded[3:], bool(over)


# Parity


def test_scores_and_decisions_are_those_of_diffusers(
    checker: SafetyChecker, theirs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    decisions, special_seen = set(), set()
    for image in pictures():
        pixels = prepared(image)
        special, concepts, over = reference(theirs, pixels, monkeypatch)
        outcome = checker.judged(*(c[0].numpy() for c in checker.network(pixels)))
        assert [s.value for s in outcome.scores] == pytest.approx([*special, *concepts], abs=1e-7)
        assert (outcome.status == "blocked") == over
        assert len(outcome.reasons) == sum(score > 0 for score in concepts)
        # from the picture on, preprocessing included: a rounding may fall to the other side
        whole = checker(image)
        assert [s.value for s in whole.scores] == pytest.approx([*special, *concepts], abs=0.00101)
        decisions.add(over)
        special_seen.add(any(score > 0 for score in special))
    assert decisions == special_seen == {True, False}  # else the comparison says little


@pytest.mark.parametrize(("limit", "status"), [(-1.0, "blocked"), (2.0, "passed")])
def test_limits_decide(tmp_path: Path, limit: float, status: str) -> None:
    checker = load_checker(write(tmp_path, limits=limit))
    outcome = checker(pictures()[0])
    assert outcome.status == status and outcome.by == (f"checker:{checker.digest}",)
    assert {s.value > 0 for s in outcome.scores} == {status == "blocked"}
    flagging = load_checker(tmp_path, over="flagged")
    assert flagging(pictures()[0]).status == ("flagged" if status == "blocked" else "passed")


Cosines = st.lists(st.floats(-1, 1, width=32), min_size=20, max_size=20)


@settings(deadline=None, max_examples=50)
@given(cosines=Cosines, limits=Cosines, near=st.booleans())
def test_rounding_and_adjustment_are_those_of_the_published_loop(
    cosines: list[float], limits: list[float], near: bool
) -> None:
    """Written out for one picture from what diffusers does: numbers of fp32, one by one, in this order."""
    cos = np.array(cosines, np.float32)
    limit = (cos - np.array(limits, np.float32) / 1000 if near else np.array(limits)).astype(np.float32)
    adjustment, want = 0.0, []
    for i in range(20):
        want.append(round(cos[i] - limit[i].item() + adjustment, 3))
        if i < 3 and want[-1] > 0:
            adjustment = 0.01
    special, concepts = scores(cos[:3], cos[3:], limit[:3], limit[3:])
    assert special.dtype == concepts.dtype == np.float32
    assert [*special, *concepts] == want


def test_special_care_lowers_the_limits_after_it() -> None:
    def of(first: float) -> tuple[list[float], list[float]]:
        special = np.array([first, 0.2, 0.2], np.float32)
        found = scores(
            special, np.full(17, 0.2, np.float32), np.full(3, 0.205, np.float32), np.full(17, 0.205, np.float32)
        )
        return [round(float(x), 3) for x in found[0]], [round(float(x), 3) for x in found[1]]

    assert of(0.1) == ([-0.105, -0.005, -0.005], [-0.005] * 17)
    assert of(0.3) == ([0.095, 0.005, 0.005], [0.005] * 17)


# Layouts


def test_older_files_and_a_folder_of_a_model_are_the_same_checker(folder: Path, tmp_path: Path) -> None:
    inside = tmp_path / "safety_checker"
    shutil.copytree(folder, inside)
    tensors = load_file(folder / "model.safetensors")
    old = {k.replace("vision_model.", "vision_model.vision_model.", 1): v for k, v in tensors.items()}
    old["vision_model.vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    save_file(old, inside / "model.safetensors")
    (tmp_path / "feature_extractor").mkdir()
    shutil.move(inside / "preprocessor_config.json", tmp_path / "feature_extractor")
    loaded = [load_checker(path) for path in (folder, tmp_path, inside)]
    assert len({c.digest for c in loaded}) == 1
    assert loaded[0].preprocessing == loaded[1].preprocessing == loaded[2].preprocessing
    assert loaded[0](pictures()[0]) == loaded[1](pictures()[0])
    (inside / "model.safetensors").unlink()
    torch.save(old, inside / "pytorch_model.bin")
    assert safety.load(tmp_path).digest == loaded[0].digest


def test_what_is_fetched_from_the_hub() -> None:
    checker = ["README.md", "config.json", "model.safetensors", "preprocessor_config.json", "pytorch_model.bin"]
    assert _wanted(checker) == ["config.json", "model.safetensors", "preprocessor_config.json"]
    model = ["unet/config.json", "safety_checker/config.json", "safety_checker/pytorch_model.bin"]
    assert _wanted(model) == [
        "safety_checker/config.json",
        "safety_checker/pytorch_model.bin",
        "feature_extractor/preprocessor_config.json",
    ]


def test_tensors_that_do_not_fit_are_listed(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "broken")
    tensors = load_file(folder / "model.safetensors")
    del tensors["special_care_embeds_weights"]
    tensors["concept_embeds"] = torch.zeros(16, 24)
    save_file({**tensors, "extra": torch.zeros(1)}, tmp_path / "broken" / "model.safetensors")
    with pytest.raises(KeysError) as error:
        load_checker(tmp_path / "broken")
    assert error.value.missing == ("special_care_embeds_weights",) and error.value.unexpected == ("extra",)
    assert error.value.wrong_shape == {"concept_embeds": ((16, 24), (17, 24))}


@pytest.mark.parametrize(
    ("file", "change", "match"),
    [
        ("config.json", {"vision_config": {"use_swiglu": True}}, "use_swiglu"),
        ("config.json", {"model_type": "siglip"}, "siglip"),
        ("preprocessor_config.json", {"do_center_crop": False}, "do_center_crop"),
    ],
)
def test_what_lienzo_does_not_have_is_refused(
    folder: Path, tmp_path: Path, file: str, change: dict[str, Any], match: str
) -> None:
    shutil.copytree(folder, tmp_path / "other")
    path = tmp_path / "other" / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ConfigError, match=match):
        load_checker(tmp_path / "other")


def test_no_such_checker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelNotFoundError, match="hub id"):
        load_checker("nowhere/at/all")
    monkeypatch.setenv("LIENZO_OFFLINE", "1")
    with pytest.raises(ModelNotFoundError, match="not in the cache"):
        safety.load("CompVis/no-such-checker")
    with pytest.raises(ModelNotFoundError, match=r"config\.json"):
        load_checker(tmp_path)


# Failing closed


@pytest.mark.parametrize("where", ["visual_projection.weight", "concept_embeds_weights", "special_care_embeds"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_pass_nothing(folder: Path, tmp_path: Path, where: str, value: float) -> None:
    """diffusers compares NaN with 0, which is false, and lets the picture pass."""
    shutil.copytree(folder, tmp_path / "broken")
    tensors = {k: v.clone() for k, v in load_file(folder / "model.safetensors").items()}
    tensors[where].view(-1)[0] = value
    save_file(tensors, tmp_path / "broken" / "model.safetensors")
    broken = load_checker(tmp_path / "broken")
    with pytest.raises(SafetyError, match="no answer"):
        safety.check_picture(pictures()[0], [broken])


def test_threads_share_a_checker(checker: SafetyChecker) -> None:
    alone = [checker(p) for p in pictures()]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(checker, pictures() * 5)) == alone * 5
