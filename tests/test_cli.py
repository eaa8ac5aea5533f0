"""The command line: in this process where that is enough, as a real process where signals, limits or stdout matter."""

import hashlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import tiny
from lienzo import Request
from lienzo.cli import COMMANDS, lienzo
from lienzo.cli.generate import OPTIONS
from lienzo.nn.lora import LowRank, collect, trainable
from lienzo.provenance.metadata import read
from lienzo.rng import generator
from lienzo.weights import find_models, load
from lienzo.weights.adapters import Adapter, Embedding, save_adapter, save_embedding

SMALL = ("--steps", "2", "--size", "64x64")
Run = Callable[..., Result]


@pytest.fixture(scope="session")
def folder(model: Callable[[str], Path]) -> str:
    return str(model("sd1"))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    return lambda *args: CliRunner().invoke(lienzo, [str(arg) for arg in args], catch_exceptions=False)


@pytest.fixture
def make(run: Run, folder: str) -> Run:
    def generate(*args: object) -> Result:
        return run("generate", "--model", folder, *SMALL, *args)

    return generate


def start(*args: str, cwd: Path, **options: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "lienzo", *args],
        cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,  # type: ignore[call-overload]
    )  # fmt: skip


def pixels(path: Path) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    with Image.open(path) as image:
        return np.asarray(image)


def rewrite(source: Path, target: Path, **parts: dict[str, str]) -> None:
    """A picture with some of the source's record replaced."""
    record = read(source)
    chunks = PngInfo()
    updates = {name: getattr(record, name).model_copy(update=values) for name, values in parts.items()}
    chunks.add_itxt("lienzo", record.model_copy(update=updates).canonical.decode())
    Image.new("RGB", (8, 8)).save(target, pnginfo=chunks)


# What is light


def test_help_reads_no_command(tmp_path: Path) -> None:
    """What makes it quick; `benchmarks/against_diffusers.py` measures how quick."""
    code = (
        "import sys; sys.argv = ['lienzo', '--help']\nfrom lienzo.cli import lienzo\n"
        "try: lienzo()\nexcept SystemExit: pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert "Make a picture of each PROMPT." in ran.stdout
    loaded = set(ran.stderr.split())
    ours = {name for name in loaded if name.startswith("lienzo")}
    assert ours == {"lienzo", "lienzo.cli", "lienzo.cli.signals", "lienzo.cli.text", "lienzo.errors"}
    assert not {"importlib.metadata", "email", "asyncio", "sqlite3", "http", "tomllib"} & loaded


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_listed_as_it_describes_itself(name: str) -> None:
    command = lienzo.get_command(click.Context(lienzo), name)
    assert command is not None and command.name == name
    assert command.get_short_help_str(limit=100) == COMMANDS[name][1]


@pytest.mark.parametrize(
    "args", [["--version"], ["generate", "--help"], ["generate"], ["generate", "x", "--size", "512"]]
)
def test_no_torch_where_none_is_needed(args: list[str], tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['lienzo', *sys.argv[1:]]\nfrom lienzo.cli import lienzo\n"
        "lienzo(standalone_mode=False) if '--help' in sys.argv or '--version' in sys.argv else None\n"
        "try: lienzo(standalone_mode=False)\nexcept Exception: pass\n"
        "assert not {'torch', 'rich', 'PIL', 'numpy', 'pydantic'} & sys.modules.keys(), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, *args], cwd=tmp_path, check=True, capture_output=True)


def test_every_setting_of_a_request_has_an_option() -> None:
    assert OPTIONS.keys() == Request.model_fields.keys()
    text = CliRunner().invoke(lienzo, ["generate", "--help"]).output
    for option in OPTIONS.values():
        assert option in text


# Making pictures


def test_a_picture_its_place_seed_and_digest(make: Run, tmp_path: Path) -> None:
    made = make("a red circle", "--seed", 7)
    assert made.exit_code == 0
    record = read(tmp_path / "lienzo-7.png")
    assert made.stdout == f"lienzo-7.png  seed 7  digest {record.picture.sha256}\n"
    assert made.stderr == ""
    assert record.request.prompt == "a red circle"
    assert (record.request.width, record.request.steps) == (64, 2)


def test_json(make: Run, tmp_path: Path) -> None:
    made = make("a red circle", "a blue star", "--seed", 7, "--count", 2, "--json", "--out", "many/")
    pictures = json.loads(made.stdout)["pictures"]
    assert [(p["seed"], p["record"]["request"]["prompt"]) for p in pictures] == [
        (7, "a red circle"), (8, "a red circle"), (7, "a blue star"), (8, "a blue star"),
    ]  # fmt: skip
    names = ["lienzo-7.png", "lienzo-8.png", "lienzo-7-2.png", "lienzo-8-2.png"]
    assert [p["path"] for p in pictures] == [os.path.join("many", name) for name in names]
    for picture in pictures:
        assert read(tmp_path / picture["path"]).picture.sha256 == picture["digest"]


def test_default_names_never_overwrite(make: Run, tmp_path: Path) -> None:
    for _ in range(3):
        make("x", "--seed", 1, "--force")
    assert {p.name for p in tmp_path.iterdir()} == {"lienzo-1.png", "lienzo-1-2.png", "lienzo-1-3.png"}


def test_an_explicit_file_needs_force(make: Run, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("mine")
    refused = make("x", "--out", "a.png")
    assert refused.exit_code == 2
    assert "a.png exists already" in refused.stderr
    assert (tmp_path / "a.png").read_text() == "mine"
    assert make("x", "--out", "a.png", "--force").exit_code == 0
    assert read(tmp_path / "a.png").request.prompt == "x"


def test_several_pictures_and_one_name(make: Run, tmp_path: Path) -> None:
    assert make("x", "--count", 2, "--out", "a.webp").exit_code == 0
    assert {p.name for p in tmp_path.iterdir()} == {"a-1.webp", "a-2.webp"}


def test_a_batch_equals_each_alone(make: Run, tmp_path: Path) -> None:
    make("a red circle", "a blue star", "--seed", 3, "--count", 2, "--batch", 3, "--out", "together.png")
    for i, (prompt, seed) in enumerate(
        [("a red circle", 3), ("a red circle", 4), ("a blue star", 3), ("a blue star", 4)], 1
    ):
        make(prompt, "--each", "--seed", seed, "--out", f"alone-{i}.png")
        assert (tmp_path / f"together-{i}.png").read_bytes() == (tmp_path / f"alone-{i}.png").read_bytes()


@pytest.mark.parametrize(
    ("args", "prompts"),
    [
        (["a", "red", "circle"], ["a red circle"]),
        (["a red circle", "cat"], ["a red circle", "cat"]),
        (["cat", "dog", "--each"], ["cat", "dog"]),
        ([""], [""]),
        (["", "cat"], ["", "cat"]),
        (["-5 degrees, snow"], ["-5 degrees, snow"]),
        (["--", "-5"], ["-5"]),
        (["--", "--steps"], ["--steps"]),
        (["😀 مرحبا بالعالم"], ["😀 مرحبا بالعالم"]),
        (["x", "--negative", "-y"], ["x"]),
    ],
)
def test_which_arguments_are_prompts(make: Run, args: list[str], prompts: list[str]) -> None:
    made = make("--json", *args)
    assert [p["record"]["request"]["prompt"] for p in json.loads(made.stdout)["pictures"]] == prompts


def test_one_quoted_argument_beside_bare_words_is_told(make: Run) -> None:
    made = make("a", "red", "blue star")
    assert made.stderr.startswith('3 prompts: "a", "red", "blue star": every argument is one of its own')
    for clear in (["a red circle", "blue star"], ["a", "blue star", "--each"], ["", "blue star"]):
        assert make(*clear).stderr == ""


def test_a_truncated_prompt_is_told(make: Run) -> None:
    made = make("word " * 200 + "theend")
    assert made.exit_code == 0
    (line,) = (line for line in made.stderr.splitlines() if "did not see" in line)
    assert re.fullmatch(r"Warning: prompt too long for the model; it did not see its last \d+ words\.", line)
    assert "theend" not in made.stderr, "it may be private"


def test_settings_arrive(make: Run, tmp_path: Path) -> None:
    settings = {
        "--negative": "no", "--guidance": 3, "--sampler": "ddim", "--grid": "trailing", "--eta": 0.5, "--clip-skip": 1,
        "--guidance-rescale": 0.5, "--seed": 0,
    }  # fmt: skip
    flat = [value for pair in settings.items() for value in pair]
    assert make("x", *flat, "--guidance-interval", 0.5, 10, "--vae-tiling", "--out", "a.png").exit_code == 0
    request = read(tmp_path / "a.png").request
    assert request == Request(
        "x", negative_prompt="no", guidance_scale=3, sampler="ddim", grid="trailing", eta=0.5, clip_skip=1,
        guidance_rescale=0.5, seed=0, guidance_interval=(0.5, 10), vae_tiling=True, width=64, height=64, steps=2,
    )  # fmt: skip
    assert make("x", "--sampler", "unipc", "--order", 3, "--sigmas", "10,3,1,0", "--out", "b.png").exit_code == 0
    request = read(tmp_path / "b.png").request
    assert (request.order, request.sigmas, request.grid) == (3, (10, 3, 1, 0), None)


# The same picture again


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_from_a_picture(make: Run, run: Run, folder: str, tmp_path: Path, ending: str) -> None:
    make("a red circle", "--seed", 7, "--sampler", "euler_a", "--guidance", 3, "--out", "first.png")
    make("a red circle", "--seed", 7, "--sampler", "euler_a", "--guidance", 3, "--out", f"source.{ending}")
    again = run("generate", "--from", f"source.{ending}", "--model", folder, "--out", "again.png")
    assert again.exit_code == 0
    assert again.stderr == ""
    assert (pixels(tmp_path / "again.png") == pixels(tmp_path / "first.png")).all()
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "first.png").read_bytes()


def test_from_uses_as_many_threads_as_recorded(make: Run, run: Run, folder: str, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            make("x", "--seed", 1, "--out", f"{threads}.png")
        for threads in (1, 2):
            again = run("generate", "--from", f"{threads}.png", "--model", folder, "--out", "again.png", "--force")
            assert again.stderr == ""
            assert (tmp_path / "again.png").read_bytes() == (tmp_path / f"{threads}.png").read_bytes()
    finally:
        torch.set_num_threads(before)


def test_options_beside_from_override(make: Run, run: Run, folder: str, tmp_path: Path) -> None:
    make("a red circle", "--seed", 7, "--sampler", "euler", "--out", "a.png")
    run("generate", "a star", "--from", "a.png", "--model", folder, "--steps", 1, "--count", 2, "--out", "b.png")
    old = read(tmp_path / "a.png").request
    assert read(tmp_path / "b-1.png").request == old.replace(prompt="a star", steps=1)
    assert read(tmp_path / "b-2.png").request == old.replace(prompt="a star", steps=1, seed=8)
    assert run("generate", "--from", "a.png", "--model", folder, "--sigmas", "9,1,0", "--out", "c.png").exit_code == 0
    assert run("generate", "--from", "c.png", "--model", folder, "--grid", "karras", "--out", "d.png").exit_code == 0
    assert read(tmp_path / "d.png").request.sigmas is None


def test_from_needs_the_same_weights(make: Run, run: Run, folder: str, tmp_path: Path) -> None:
    make("x", "--out", "a.png")
    unnamed = run("generate", "--from", "a.png")
    assert unnamed.exit_code == 2
    assert "Say where it is with --model" in unnamed.stderr
    hub = tmp_path / "hub.png"
    rewrite(tmp_path / "a.png", hub, weights={"name": "someone/something"})
    assert "Say where it is with --model" in run("generate", "--from", hub).stderr
    other = tiny.make(tmp_path / "other", "sd1", seed=1)
    named = run("generate", "--from", "a.png", "--model", other, "--out", "b.png")
    assert named.exit_code == 0
    assert "not the weights that made the picture" in named.stderr


def test_from_a_picture_with_inputs(make: Run, run: Run, folder: str, tmp_path: Path) -> None:
    Image.effect_noise((64, 64), 90).convert("RGB").save(tmp_path / "init.png")
    Image.linear_gradient("L").resize((64, 64)).save(tmp_path / "mask.png")
    inputs = ["--init", "init.png", "--mask", "mask.png"]
    make("x", *inputs, "--soft-mask", "--strength", 0.75, "--steps", 4, "--seed", 2, "--out", "a.png")
    record = read(tmp_path / "a.png")
    assert record.request.strength == 0.75
    assert record.request.soft_mask
    assert b"init.png" not in (tmp_path / "a.png").read_bytes()
    assert str(Path(folder).parent).encode() not in (tmp_path / "a.png").read_bytes()
    again = ["generate", "--from", "a.png", "--model", folder, "--out", "b.png"]
    missing = run(*again, "--init", "init.png")
    assert (missing.exit_code, "--mask" in missing.stderr) == (2, True)
    wrong = run(*again, "--init", "mask.png", "--mask", "mask.png")
    assert (wrong.exit_code, "not the recorded picture" in wrong.stderr) == (2, True)
    assert run(*again, *inputs).exit_code == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_other_pixels_than_recorded_are_told(make: Run, run: Run, folder: str, tmp_path: Path) -> None:
    make("x", "--out", "a.png", "--seed", 1)
    rewrite(tmp_path / "a.png", tmp_path / "b.png", picture={"sha256": "0" * 64})
    again = run("generate", "--from", "b.png", "--model", folder)
    assert again.exit_code == 0
    assert "the pixels differ from the recorded ones" in again.stderr


@pytest.mark.skipif(not any(m.source == "embedded" for m in find_models()), reason="no embedded model yet")
def test_the_embedded_model_is_found_by_its_name(run: Run, tmp_path: Path) -> None:
    assert run("generate", "a red circle", "--steps", 2, "--seed", 1, "--out", "a.png").exit_code == 0
    again = run("generate", "--from", "a.png", "--out", "b.png")
    assert (again.exit_code, again.stderr) == (0, "")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    rewrite(tmp_path / "a.png", tmp_path / "c.png", weights={"digest": "0" * 64})
    other = run("generate", "--from", "c.png")
    assert other.exit_code == 2
    assert "not the weights that made the picture" in other.stderr


# Adapters


@pytest.fixture
def adapters(folder: str, tmp_path: Path) -> Path:
    """a.safetensors and b.safetensors, two LoRA; cat.safetensors, an embedding."""
    bundle = load(folder)
    for i, name in enumerate("ab"):
        network, parameters = trainable(bundle.unet, ["to_q", "conv1"], rank=2, generator=generator(i))
        for parameter in parameters.values():
            parameter.data = torch.randn(parameter.shape, generator=generator(i)) * 0.3
        text = {"text_model.encoder.layers.0.mlp.fc1": LowRank(torch.ones(1, 32), torch.ones(64, 1) * (1 + i))}
        save_adapter(
            tmp_path / f"{name}.safetensors", Adapter.of(name, {"unet": collect(network), "text_encoder": text})
        )
    save_embedding(tmp_path / "cat.safetensors", Embedding(token="<cat>", vectors=torch.ones(2, 32), digest="0" * 64))
    return tmp_path


def test_adapters_are_recorded_and_needed_again(adapters: Path, make: Run, run: Run, folder: str) -> None:
    assert make("a <katze>", "--seed", 1, "--out", "plain.png").exit_code == 0
    options = [
        "--lora",
        "a.safetensors:0.5",
        "--lora",
        "b.safetensors:0.25:1",
        "--embedding",
        "cat.safetensors:<katze>",
    ]
    result = make("a <katze>", "--seed", 1, "--out", "x.png", *options)
    assert (result.exit_code, result.stderr) == (0, "")
    record = read(adapters / "x.png")
    plain = read(adapters / "plain.png")
    assert record.version == 2 and plain.version == 1
    assert record.picture.sha256 != plain.picture.sha256
    assert record.weights == plain.weights
    assert record.adapters is not None and record.embeddings is not None
    assert [(a.name, a.unet, a.text_encoder) for a in record.adapters] == [("a", 0.5, 0.5), ("b", 0.25, 1.0)]
    assert [e.token for e in record.embeddings] == ["<katze>"]
    assert record.adapters[0].digest == hashlib.sha256((adapters / "a.safetensors").read_bytes()).hexdigest()
    assert b"adapters" not in plain.canonical
    with Image.open(adapters / "x.png") as image:
        assert "a <katze> <lora:a:0.5> <lora:b:1:0.25>\n" in image.info["parameters"]

    again = ["generate", "--from", "x.png", "--model", folder, "--out"]
    # in another order, under other names, without weights and tokens: the digests tell which is which
    (adapters / "b.safetensors").rename(adapters / "renamed.pt")
    files = ["--lora", "renamed.pt", "--lora", "a.safetensors", "--embedding", "cat.safetensors"]
    same = run(*again, "y.png", *files)
    assert (same.exit_code, same.stderr) == (0, "")
    assert read(adapters / "y.png").picture == record.picture
    missing = run(*again, "z.png", "--lora", "a.safetensors")
    assert missing.exit_code == 2
    assert f"--lora b (SHA-256 {record.adapters[1].digest[:16]}" in missing.stderr
    assert "--embedding for '<katze>'" in missing.stderr
    other = run(*again, "z.png", *files[:2], "--lora", "a.safetensors:0.9", *files[4:])
    assert other.exit_code == 0
    changed = read(adapters / "z.png")
    assert changed.adapters is not None and changed.adapters[0].unet == 0.9
    assert changed.picture != record.picture


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--lora", "none.safetensors"], "no such file and no hub id, or its weights are no numbers"),
        (["--lora", "a.safetensors:much"], "expected FILE[:WEIGHT[:TEXT_WEIGHT]]"),
        (["--lora", "a.safetensors:nan"], "no numbers"),
        (["--lora", "cat.safetensors"], "is no LoRA"),
        (["--lora", "a.safetensors", "--lora", "a.safetensors:0.2"], "is given twice"),
        (["--embedding", "none.pt:x"], "expected FILE[:TOKEN]"),
        (["--embedding", "cat.safetensors:an"], "knows the token 'an' already"),
        (["--embedding", "a.safetensors"], "no textual-inversion embedding"),
    ],
)
def test_adapters_that_cannot_be_used(adapters: Path, make: Run, options: list[str], message: str) -> None:
    result = make("x", *options)
    assert result.exit_code == 2
    assert message in result.stderr


def test_inspect_tells_what_an_adapter_is(adapters: Path, run: Run) -> None:
    told = run("inspect", "a.safetensors")
    assert told.exit_code == 0
    assert re.search(r"^kind +LoRA\nnames +diffusers$", told.stdout, re.M)
    assert re.search(r"^rank +1, 2, alpha 1, 2$", told.stdout, re.M)
    report = json.loads(run("inspect", "a.safetensors", "--json").stdout)
    assert report["layers"].keys() == {"unet", "text_encoder"}
    word = json.loads(run("inspect", "cat.safetensors", "--json").stdout)
    assert (word["kind"], word["triggers"], word["layers"]) == ("textual inversion", ["<cat>"], {"vectors": 2})
    assert re.search(r"^words +<cat>$", run("inspect", "cat.safetensors").stdout, re.M)


# Mistakes


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "Missing PROMPT"),
        (["x", "--size", "128"], "--size: got '128'; give width x height in pixels, for example 128x128."),
        (["x", "--size", "512x"], "for example 512x512"),
        (["x", "--size", "-8x8"], "give width x height"),
        (["x", "--size", "513x512"], "for example 512x512 or 520x512"),
        (["x", "--size", "0x0"], "from 8 on, for example 8x8"),
        (["x", "--size", "800000x8"], "--size: got 800000"),
        (["x", "--count", "0"], "--count: got '0'; give a whole number from 1 up to 100,000."),
        (["x", "--steps", "0"], "--steps: got 0; give a whole number from 1 up to 1,000."),
        (["x", "--steps", "many"], "--steps: got 'many'; give a whole number."),
        (["x", "--guidance", "nan"], "--guidance: got nan"),
        (["x", "--guidance", "inf"], "--guidance: got inf"),
        (["x", "--sampler", "eular"], "--sampler: got 'eular'; there is no such sampler. Did you mean euler"),
        (["x", "--grid", "karas"], "Did you mean karras"),
        (["x", "--seed", "-1"], "--seed: got -1"),
        (["x", "--seed", str(2**32 - 1), "--count", "2"], f"--seed: got {2**32}"),
        (["x", "--sigmas", "1,a"], "--sigmas: got '1,a'"),
        (["x", "--sigmas", "1,2"], "must fall"),
        (["x", "--strength", "0.5"], "needs an init picture"),
        (["x", "--init", "nothing.png"], "does not exist"),
        (["x", "--init", "text.png"], "--init: got 'text.png'; not a picture"),
        (["x", "--from", "text.png"], "not a PNG, JPEG or WebP"),
        (["--from", "plain.png"], "no record of lienzo's"),
        (["word " * 10_000], "49,999 characters|50,000 characters"),
        (["x", "--stpes", "5"], "Did you mean --steps"),
        (["-x"], "put -- before it"),
        (["x", "--dtype", "fp8"], "--dtype: got 'fp8'; .* Allowed: bf16, fp16, fp32"),
        (["x", "--device", "abacus"], "cannot be used here"),
        (["x", "--clip-skip", "50"], "clip_skip|--clip-skip"),
        (["x", "--out", "a.gif"], "Allowed: .png, .jpg, .jpeg, .webp"),
        (["x", "--out", "a"], "no extension"),
        (["x", "--out", "nowhere/a.png"], "Make the folder first"),
        (["x", "--out", "text.png/a.png"], "cannot be written"),
        (["x", "--out", "text.png/"], "cannot be made"),
        (["x", "--out", "new/folder/", "--sampler", "plms", "--device", "abacus"], "--device: got"),
        (["x", "--steps"], "requires an argument"),
        (["😀" * 9000, "--negative", "😀" * 9000, "--out", "a.jpg"], "The request takes .* Save as .png or .webp."),
        (["x", "--out", "f" * 300 + ".png"], "Choose a shorter name"),
        (["x", "--model", "bocetto"], "boceto"),
        (["x", "--model", "./nothing"], "No such folder or file"),
        (["x", "--model", "text.png"], "text.png"),
        (["x", "--revision", "main"], "hub ids only"),
    ],
)
def test_mistakes_get_one_message(make: Run, tmp_path: Path, args: list[str], message: str) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    before = {p.name for p in tmp_path.iterdir()}
    made = make(*args)
    assert made.exit_code == 2
    assert made.stdout == ""
    assert re.search(message, made.stderr), made.stderr
    assert made.stderr.count("Error: ") == made.stderr.count("\n") == 1  # no lines on usage
    assert made.stderr.endswith(".\n")
    assert "Traceback" not in made.stderr
    assert {p.name for p in tmp_path.iterdir()} == before


def test_messages_do_not_steer_the_terminal(make: Run) -> None:
    made = make("x", "--sampler", "\x1b[2Jeuler")
    assert made.exit_code == 2
    assert "\x1b" not in made.stderr


def test_a_full_disk(folder: str, tmp_path: Path) -> None:
    process = start(
        "generate", "x", "--model", folder, *SMALL, "--seed", "5", cwd=tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
    )  # fmt: skip
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "lienzo-5.png cannot be written: File too large." in err
    assert "Nothing was left behind" in err
    assert "--seed 5" in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c(folder: str, tmp_path: Path) -> None:
    process = start(
        "generate", "x", "--model", folder, "--size", "64x64", "--steps", "60", "--count", "1000", cwd=tmp_path,
        # a test run that was itself started in the background ignores SIGINT, and its children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stdout is not None
    assert "lienzo-" in process.stdout.readline()
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert re.fullmatch(r"Stopped\. \d+ of 1000 pictures were saved\.\n", err)
    saved = list(tmp_path.iterdir())
    assert saved
    for path in saved:
        assert re.fullmatch(r"lienzo-\d+\.png", path.name)
        assert pixels(path).shape == (64, 64, 3)


def test_a_folder_made_for_nothing_goes_again(folder: str, tmp_path: Path) -> None:
    process = start(
        "generate", "x", "--model", folder, "--size", "64x64", "--steps", "1000", "--out", "new/folder/", cwd=tmp_path,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    while not (tmp_path / "new/folder").is_dir():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert list(tmp_path.iterdir()) == []


def test_a_progress_bar_on_terminals_only(folder: str, tmp_path: Path) -> None:
    import pty

    terminal, end = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "lienzo", "generate", "x", "--model", folder, "--size", "64x64", "--steps", "40", "--json"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=end, text=True, env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    )  # fmt: skip
    os.close(end)
    shown = b""
    while True:
        try:
            chunk = os.read(terminal, 65536)
        except OSError:  # the process has closed its side
            break
        if not chunk:
            break
        shown += chunk
    out, _ = process.communicate(timeout=60)
    os.close(terminal)
    assert process.returncode == 0
    assert json.loads(out)["pictures"]
    assert b"picture 1/1" in shown
    assert re.search(rb"\d/4[01]\b", shown)
    assert re.search(rb"it/s|s/it", shown)


# The other commands


def test_samplers(run: Run) -> None:
    from lienzo.diffusion.grids import GRIDS
    from lienzo.diffusion.samplers import SAMPLERS

    text = run("samplers").stdout
    for name in (*SAMPLERS, *GRIDS):
        assert f"  {name} " in text
    document = json.loads(run("samplers", "--json").stdout)
    assert (document["samplers"].keys(), document["grids"].keys()) == (SAMPLERS.keys(), GRIDS.keys())


def test_inspect_and_convert(run: Run, make: Run, folder: str, tmp_path: Path) -> None:
    report = json.loads(run("inspect", folder, "--json").stdout)
    assert report["family"] == "sd1"
    text = run("inspect", folder).stdout
    assert report["digest"] in text
    assert "epsilon" in text

    assert run("convert", folder, "one.safetensors", "--to", "file").stdout == "one.safetensors\n"
    assert json.loads(run("inspect", "one.safetensors", "--json").stdout)["digest"] == report["digest"]
    assert run("convert", "one.safetensors", "again", "--to", "folder").exit_code == 0
    make("x", "--seed", 1, "--out", "a.png")
    again = run("generate", "--from", "a.png", "--model", "again", "--out", "b.png")
    assert (again.exit_code, again.stderr) == (0, "")
    assert (pixels(tmp_path / "a.png") == pixels(tmp_path / "b.png")).all()

    assert "note  " in run("inspect", "one.safetensors").stdout
    assert (
        "again exists already. Choose another name, or allow overwriting (--force"
        in run("convert", folder, "again").stderr
    )
    wrong = run("convert", folder, "out", "--to", "file")
    assert (wrong.exit_code, "must end in .safetensors" in wrong.stderr) == (2, True)


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_inspect_a_picture(run: Run, make: Run, tmp_path: Path, ending: str) -> None:
    Image.new("L", (64, 64), 255).save(tmp_path / "mask.png")
    inputs = ["--init", "mask.png", "--mask", "mask.png"]
    make("a red circle", "--seed", 7, *inputs, "--out", f"a.{ending}")
    record = read(tmp_path / f"a.{ending}")
    text = run("inspect", f"a.{ending}").stdout
    for shown in (
        "prompt            a red circle",
        "seed              7",
        "64x64 pixels",
        record.weights.digest,
        record.request_digest,
    ):
        assert shown in text
    assert json.loads(run("inspect", f"a.{ending}", "--json").stdout) == json.loads(record.canonical)
    refused = run("inspect", f"a.{ending}", "--variant", "fp16")
    assert (refused.exit_code, "is a picture" in refused.stderr) == (2, True)
    assert "no record of lienzo's" in run("inspect", "mask.png").stderr


@pytest.mark.parametrize(
    "args",
    [[], ["nothing"], ["--nothing"], ["inspect", "--nothing"], ["convert", "x"], ["convert", "x", "y", "--to", "z"]],
)
def test_usage_is_told_one_way(run: Run, args: list[str]) -> None:
    wrong = run(*args)
    assert wrong.exit_code == 2
    assert wrong.stderr.startswith("Error: " if args else "Usage: ")
    assert ("Commands:" in wrong.stderr) == (not args)


def test_models(run: Run, folder: str) -> None:
    found = json.loads(run("models", Path(folder).parent, "--json").stdout)
    assert [m["path"] for m in found if m["source"] == "disk"] == [folder]
    assert folder in run("models", Path(folder).parent).stdout


def test_doctor(run: Run) -> None:
    embedded = any(found.source == "embedded" for found in find_models())
    checked = run("doctor", "--json")
    document = json.loads(checked.stdout)
    assert checked.exit_code == (0 if embedded else 1)
    assert document["works"] == embedded
    assert {"python", "torch", "memory", "this folder", "hub access"} <= {f["name"] for f in document["findings"]}
    assert "torch" in run("doctor").stdout
