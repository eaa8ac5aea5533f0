import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from lienzo import weights
from lienzo.errors import ModelNotFoundError, RequestError
from lienzo.weights import hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "someone/tiny"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache and no switches."""
    for name in hub.SWITCHES:
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "cache"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    return folder


def put(cache: Path, model: Path, repo: str = REPO) -> Path:
    """What a download leaves in the cache."""
    root = cache / f"models--{repo.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs/main").write_text(COMMIT)
    return Path(shutil.copytree(model, root / "snapshots" / COMMIT))


def test_a_cached_model_is_loaded_offline(cache: Path, folders: dict[str, Path]) -> None:
    put(cache, folders["sd1"])
    bundle = weights.load(REPO, offline=True)
    assert bundle.name == REPO
    assert bundle.digest == weights.load(folders["sd1"]).digest
    assert f"revision {COMMIT}" in bundle.notes
    assert weights.load(REPO, offline=True, revision=COMMIT).digest == bundle.digest
    with pytest.raises(ModelNotFoundError, match="tiny@other"):
        weights.load(REPO, offline=True, revision="other")


@pytest.mark.parametrize("switch", hub.SWITCHES)
def test_the_switches(switch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(switch, "1")
    with pytest.raises(ModelNotFoundError, match=r"network is switched off.*LIENZO_OFFLINE"):
        weights.load("nobody/nothing")
    assert hub.is_offline(None)
    assert not hub.is_offline(False)
    monkeypatch.setenv(switch, "0")
    assert not hub.is_offline(None)


def test_without_network(cache: Path, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", unreachable)
    with pytest.raises(ModelNotFoundError, match=r"cannot be reached \(ConnectionError: no route"):
        weights.load("nobody/nothing")
    put(cache, folders["sd1"])
    assert weights.load(REPO).family == "sd1", "the cached one serves"


def unreachable(*_: Any, **__: Any) -> None:
    raise ConnectionError("no route to host")


def test_single_files_find_a_cached_tokenizer(
    cache: Path, folders: dict[str, Path], files: dict[str, Path], tmp_path: Path
) -> None:
    file = Path(shutil.copy(files["sd1"], tmp_path / "alone.safetensors"))
    put(cache, folders["sd1"], "CompVis/stable-diffusion-v1-4")
    assert weights.load(file, offline=True).family == "sd1"
    bundle = weights.load(file, offline=True, config="CompVis/stable-diffusion-v1-4")
    assert bundle.notes == ("configurations from the folder given",)


def test_models_at_hand(cache: Path, folders: dict[str, Path], files: dict[str, Path]) -> None:
    assert [m for m in weights.find_models() if m.source == "cache"] == []
    put(cache, folders["sd1"])
    found = weights.find_models((folders["sd2"].parent, files["sd1"].parent, "/no/such/folder"))
    cached = [m for m in found if m.source == "cache"]
    assert [m.name for m in cached] == [REPO]
    assert cached[0].size > 1000
    on_disk = {m.path for m in found if m.source == "disk"}
    assert {folders["sd2"], files["sd1"]} <= on_disk
    assert files["sd1"].with_name("sd1.tokenizer") not in on_disk


def test_the_embedded_model_is_listed(folders: dict[str, Path]) -> None:
    (found,) = [m for m in hub.find_models(embedded=folders["sd1"]) if m.source == "embedded"]
    assert found.path == folders["sd1"]


@pytest.mark.parametrize(
    ("variant", "want"),
    [
        (
            None,
            {
                "unet/diffusion_pytorch_model.safetensors",
                "vae/diffusion_pytorch_model.bin",
                "text_encoder/model.fp16.safetensors",
            },
        ),
        (
            "fp16",
            {
                "unet/diffusion_pytorch_model.fp16.safetensors",
                "vae/diffusion_pytorch_model.bin",
                "text_encoder/model.fp16.safetensors",
            },
        ),
    ],
)
def test_only_the_needed_files(variant: str | None, want: set[str]) -> None:
    names = [
        "README.md",
        "v1-5-pruned.ckpt",
        "safety_checker/model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "unet/diffusion_pytorch_model.bin",
        "vae/diffusion_pytorch_model.bin",
        "text_encoder/model.fp16.safetensors",
        "text_encoder/pytorch_model.fp16.bin",
    ]
    assert set(hub._needed(names, variant)) == want


def test_shards_are_needed() -> None:
    names = [f"unet/diffusion_pytorch_model{n}" for n in ("-00001-of-00002.safetensors", ".safetensors.index.json")]
    assert hub._needed(names, None) == names


def test_a_revision_of_a_local_model_is_an_error(folders: dict[str, Path]) -> None:
    with pytest.raises(RequestError, match="hub ids only"):
        weights.load(folders["sd1"], revision="main")


@pytest.fixture
def server(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A hub with one model, on this machine; yields the paths asked for."""
    asked: list[str] = []
    root = folders["sd1"]
    names = sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = unquote(self.path.partition("?")[0])
            asked.append(path)
            file = root / path.rpartition(f"/resolve/{COMMIT}/")[2]
            if path.startswith(f"/api/models/{REPO}/tree/"):
                files = [{"type": "file", "path": n, "size": 1, "oid": "0" * 40} for n in [*names, "unused.ckpt"]]
                self.answer(json.dumps(files).encode(), "application/json")
            elif path.startswith(f"/api/models/{REPO}"):
                siblings = [{"rfilename": n} for n in [*names, "unused.ckpt"]]
                self.answer(json.dumps({"id": REPO, "sha": COMMIT, "siblings": siblings}).encode(), "application/json")
            elif path.startswith(f"/{REPO}/") and file.is_file():
                self.answer(file.read_bytes(), "application/octet-stream")
            else:
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()

        def answer(self, body: bytes, kind: str) -> None:
            self.send_response(200)
            for name, value in {
                "Content-Type": kind,
                "Content-Length": str(len(body)),
                "X-Repo-Commit": COMMIT,
                "ETag": f'"{hashlib.sha1(body).hexdigest()}"',
            }.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815 - the server's own naming

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        address = f"http://127.0.0.1:{httpd.server_port}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield asked
        httpd.shutdown()
        thread.join()


def test_a_model_is_fetched_once(server: list[str], folders: dict[str, Path]) -> None:
    bundle = weights.load(REPO)
    assert bundle.digest == weights.load(folders["sd1"]).digest
    assert f"revision {COMMIT}" in bundle.notes
    assert not any("unused.ckpt" in path for path in server)
    server.clear()
    assert weights.load(REPO, offline=True).digest == bundle.digest
    assert server == []


def test_no_such_model_on_the_hub(server: list[str]) -> None:
    with pytest.raises(ModelNotFoundError, match="The hub has no model nobody/nothing"):
        weights.load("nobody/nothing")
