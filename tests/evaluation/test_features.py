"""Features of CLIP and of Inception, and files of prompts."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import clips
from lienzo.errors import FormatError, InputError, KeysError, ModelNotFoundError
from lienzo.evaluation.features import load_features, text_features
from lienzo.evaluation.prompts import Prompt, read_prompts
from lienzo.models.inception import Inception, prepare
from lienzo.weights.clip import load_clip


def pictures(n: int) -> list[Image.Image]:
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (40, 40, 3), dtype=np.uint8)) for _ in range(n)]


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    found = dict(Inception().state_dict())
    return {**found, "fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}


def test_clip_features_are_those_of_each_picture_alone(tmp_path: Path) -> None:
    features = load_features(clips.make_vision(tmp_path))
    done: list[int] = []
    some = pictures(20)
    found = features.of(some, on_batch=done.append)
    assert found.shape == (20, 16) and found.dtype == np.float64 and done == [16, 20]
    np.testing.assert_allclose(found[17:18], features.of(some[17:18]), atol=1e-5)
    with pytest.raises(InputError, match="image side"):
        text_features(load_clip(tmp_path), ["a cat"])


def test_inception_from_a_state_dict(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(weights, tmp_path / "pt_inception.pth")
    save_file({k: v.contiguous() for k, v in weights.items()}, tmp_path / "inception.safetensors")
    features = load_features(tmp_path / "pt_inception.pth")
    found = features.of(pictures(2))
    assert found.shape == (2, 2048) and (found >= 0).all() and found.std() > 0
    assert load_features(tmp_path / "inception.safetensors").digest == features.digest
    with pytest.raises(FormatError, match="2 files"):
        load_features(tmp_path)
    del weights["Mixed_5b.branch1x1.conv.weight"]
    torch.save(weights, tmp_path / "pt_inception.pth")
    with pytest.raises(KeysError, match="Mixed_5b"):
        load_features(tmp_path / "pt_inception.pth")


def test_inception_has_the_published_size() -> None:
    with torch.device("meta"):
        network = Inception()
    assert (
        sum(p.numel() for p in network.parameters()) == 21_785_568
    )  # torchvision's 23,834,568 less the classifier of 1,000
    assert {key.split(".")[0] for key in network.state_dict()} >= {"Conv2d_1a_3x3", "Mixed_5b", "Mixed_6e", "Mixed_7c"}
    assert network(torch.empty(2, 3, 299, 299, device="meta")).shape == (2, 2048)
    assert prepare(torch.zeros(3, 20, 50)).shape == (3, 299, 299)


def test_torchscript_is_not_run(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(FormatError, match="TorchScript"):
        load_features(tmp_path / "other.safetensors")
    with pytest.raises(ModelNotFoundError, match="No features"):
        load_features(tmp_path / "nowhere.pth")


@pytest.mark.parametrize(
    ("name", "text", "want"),
    [
        ("a.txt", "\ufeffa cat\n\n# not this\n  a dog \n", [Prompt(text="a cat"), Prompt(text="a dog")]),
        (
            "a.csv",
            'group,prompt\nx,"a cat, red"\n,a dog\n',
            [Prompt(text="a cat, red", group="x"), Prompt(text="a dog")],
        ),
        ("a.JSONL", '{"caption": "ein Hündchen", "group": 3}\n\n', [Prompt(text="ein Hündchen", group="3")]),
    ],
)
def test_prompts_are_read(tmp_path: Path, name: str, text: str, want: list[Prompt]) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert list(read_prompts(tmp_path / name)) == want


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("a.pdf", b"x", "extension"),
        ("a.txt", b"# nothing\n", "no prompt"),
        ("a.txt", b"a cat\na cat\n", "twice"),
        ("a.txt", b"\xff\xfe\xff", "cannot be read"),
        ("a.csv", b"words\na cat\n", "expected one of"),
        ("a.csv", b'prompt\n" "\n', "expected words"),
        ("a.csv", b'prompt\n"a', "no table"),
        ("a.jsonl", b"{", "line 1 is no JSON"),
        ("a.jsonl", b"[1]", "JSON object"),
        ("a.jsonl", b'{"prompt": 3}', "expected words"),
    ],
)
def test_bad_files_of_prompts(tmp_path: Path, name: str, content: bytes, match: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=match):
        read_prompts(tmp_path / name)
