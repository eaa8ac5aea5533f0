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
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from lienzo import StableDiffusionPipeline, weights
from lienzo.cli import lienzo
from lienzo.errors import ModelNotFoundError, RequestError, WeightsError
from lienzo.nn.lora import LowRank
from lienzo.provenance.metadata import read
from lienzo.weights import hub
from lienzo.weights.adapters import Adapter, load_adapter, load_embedding, save_adapter

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


LORAS = "someone/loras"
PEFT = "someone/peft"
WORD = "someone/cat-toy"


@pytest.fixture
def shelf(folders: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    """What there is on the hub: a model, LoRAs, an embedding."""
    bundle = weights.load(folders["sd1"])
    model = Path(shutil.copytree(folders["sd1"], tmp_path / "tiny"))
    made = {REPO: model, **{repo: tmp_path / repo.partition("/")[2] for repo in (LORAS, PEFT, WORD)}}
    for repo in (LORAS, PEFT, WORD):
        made[repo].mkdir()
    layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    side = bundle.unet.get_parameter(f"{layer}.weight").shape[0]
    for name, value in (("one", 1.0), ("two [v2]", 2.0)):
        low = LowRank(torch.ones(2, side), torch.full((side, 2), value))
        save_adapter(made[LORAS] / f"{name}.safetensors", Adapter.of(name, {"unet": {layer: low}}))
    table = {
        f"base_model.model.{layer}.lora_{role}.weight": torch.ones(shape)
        for role, shape in (("A", (2, side)), ("B", (side, 2)))
    }
    save_file(table, made[PEFT] / "adapter_model.safetensors")
    (made[PEFT] / "adapter_config.json").write_text('{"lora_alpha": 6, "r": 2}')
    torch.save({"<cat-toy>": torch.ones(32)}, made[WORD] / "learned_embeds.bin")
    for folder in made.values():
        (folder / "unused.ckpt").write_bytes(b"x")
    return made


@pytest.fixture
def server(shelf: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A hub on this machine; yields the paths asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = unquote(self.path.partition("?")[0])
            asked.append(path)
            words = path.removeprefix("/api/models").split("/")
            repo = "/".join(words[1:3])
            root = shelf.get(repo, Path("nothing"))
            names = sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())
            file = root / path.rpartition(f"/resolve/{COMMIT}/")[2]
            if path.startswith(f"/api/models/{repo}/tree/"):
                files = [{"type": "file", "path": n, "size": 1, "oid": "0" * 40} for n in names]
                self.answer(json.dumps(files).encode(), "application/json")
            elif path.startswith("/api/models/") and names:
                siblings = [{"rfilename": n} for n in names]
                self.answer(json.dumps({"id": repo, "sha": COMMIT, "siblings": siblings}).encode(), "application/json")
            elif path.startswith(f"/{repo}/") and file.is_file():
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


def test_adapters_are_fetched_once(server: list[str], shelf: dict[str, Path]) -> None:
    bundle = weights.load(shelf[REPO])
    for source, file, name in (
        (f"{LORAS}/one.safetensors", "one.safetensors", "one"),
        (f"{LORAS}/two [v2].safetensors", "two [v2].safetensors", "two [v2]"),
        (PEFT, "adapter_model.safetensors", "peft"),
    ):
        found = load_adapter(source, bundle)
        assert (found.name, found.digest) == (
            name,
            load_adapter(shelf["/".join(source.split("/")[:2])] / file, bundle).digest,
        )
    (low,) = found.networks["unet"].values()
    assert low.scale == 3, "the alpha of adapter_config.json, which was fetched too"
    assert load_embedding(WORD).token == "<cat-toy>"
    assert not any("unused.ckpt" in path for path in server)
    server.clear()
    assert load_adapter(f"{LORAS}/one.safetensors", bundle, offline=True).name == "one"
    assert load_adapter(PEFT, bundle, offline=True, revision=COMMIT).digest == found.digest
    assert load_embedding(WORD, offline=True, token="cat").token == "cat"
    assert server == []


def test_adapters_by_the_names_of_diffusers_and_on_the_command_line(
    server: list[str], shelf: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(shelf[REPO])
    pipe.load_lora_weights(LORAS, weight_name="one.safetensors", adapter_name="a", revision="main")
    pipe.load_textual_inversion(WORD)
    used = pipe._bundle.adapters
    assert [(one.name, one.unet) for one in used] == [("one", 1.0)] and pipe._bundle.embeddings[0].token == "<cat-toy>"
    server.clear()
    pipe.unload_lora_weights()
    pipe.load_lora_weights(LORAS, weight_name="one.safetensors", local_files_only=True)
    assert pipe._bundle.adapters == used and server == []
    monkeypatch.chdir(tmp_path)
    options = [
        "--model",
        shelf[REPO],
        "--lora",
        f"{LORAS}/one.safetensors:0.5",
        "--embedding",
        f"{WORD}:<cat>",
        "--out",
        "a.png",
    ]
    made = CliRunner().invoke(lienzo, ["generate", "a <cat>", "--steps", "1", "--size", "64x64", *map(str, options)])
    assert made.exit_code == 0, made.output
    record = read("a.png")
    assert record.adapters is not None and record.embeddings is not None
    assert (record.adapters[0].name, record.adapters[0].unet, record.embeddings[0].token) == ("one", 0.5, "<cat>")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (LORAS, r"someone/loras holds several: one.safetensors, two .*Name one, as someone/loras/one.safetensors"),
        (f"{LORAS}/none.safetensors", r"holds no none.safetensors, but one.safetensors"),
        (WORD, r"is no LoRA"),
        ("nobody/nothing", r"The hub has no model nobody/nothing"),
        ("here/none.safetensors", r"No such file: here/none.safetensors"),
        ("here/there/none.safetensors", r"No such file: here/there/none.safetensors"),
        ("./none/nothing", r"No such file: none/nothing"),
    ],
)
def test_adapters_that_the_hub_has_not(
    server: list[str], shelf: dict[str, Path], source: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = weights.load(shelf[REPO])
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match=words):
        load_adapter(source, bundle)
    assert server == [] or "No such file" not in words, "what is a path is no business of the hub's"
    with pytest.raises(RequestError, match="revisions are for those only"):
        load_adapter("here", bundle, revision="main")
