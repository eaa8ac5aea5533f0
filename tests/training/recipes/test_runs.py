"""What a run promises: it goes on after a kill, mistakes are told before anything is trained, and bad data is survived."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file

from lienzo import Pipeline
from lienzo import read as read_record
from lienzo.cli import lienzo
from lienzo.errors import ConfigError, OutputError
from lienzo.evaluation.transparency import Training, read
from lienzo.models.clip import TextEncoder
from lienzo.models.vae import VAE
from lienzo.provenance.judging import judge
from lienzo.training.config import dump
from lienzo.training.recipes import check, notes, prepare, run
from lienzo.training.share import Share
from training.recipes.conftest import make_recipe, recorded

Sets = tuple[Path, Path]
ADAPTER = "adapter/pytorch_lora_weights.safetensors"


def invoke(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(lienzo, ["train", *map(str, arguments)], prog_name="lienzo")
    return result.exit_code, result.output


def written(folder: Path, train: Path, held_out: Path | None = None, kind: str = "lora", **changes: Any) -> Path:
    path = folder / f"{kind}.toml"
    path.write_text(dump(make_recipe(kind, train, held_out, folder / "run", **changes)), encoding="utf-8")
    return path


def test_the_command_trains_and_does_nothing_twice(cities: Sets, tmp_path: Path) -> None:
    recipe = written(tmp_path, *cities, run={"steps": 3, "batch_size": 2})
    code, output = invoke(recipe, "--dry-run")
    assert code == 0 and "24 (24 of 64x64)" in output and "Nothing was trained" in output
    assert not (tmp_path / "run").exists()
    code, output = invoke(recipe)
    assert code == 0 and "steps" in output and "--lora" in output
    product = (tmp_path / "run" / ADAPTER).read_bytes()
    log = (tmp_path / "run" / "log.jsonl").read_text()
    assert invoke(recipe)[0] == 0
    assert (tmp_path / "run" / ADAPTER).read_bytes() == product
    assert (tmp_path / "run" / "log.jsonl").read_text() == log
    assert (tmp_path / "run" / "samples" / "step-00000003.png").stat().st_size > 500


def test_pictures_made_on_the_way_are_signed_and_not_watermarked(
    cities: Sets, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A watermark in class pictures would be learned; a sheet has no receipt, since no request gives it."""
    monkeypatch.setenv("LIENZO_MARK", "full")
    words = {"prompt": "a red circle on a white background", "pictures": 1}
    changes = {"data": {"prior": tmp_path / "class"}, "classes": words, "run": {"steps": 1, "batch_size": 2}}
    recipe = written(tmp_path, *cities, kind="dreambooth", **changes)
    assert invoke(recipe, "--dry-run")[0] == 0
    one = tmp_path / "class" / "class-00000.png"
    assert invoke(recipe)[0] == 0
    verdicts = {path: judge(path.read_bytes()) for path in (one, *(tmp_path / "run" / "samples").iterdir())}
    assert len(verdicts) == 3 and {found.layers[0].state for found in verdicts.values()} == {"holds"}
    signed = verdicts[one].receipt
    assert signed is not None and signed.receipt.marks == ("credentials",)
    assert [found.outcome for found in verdicts.values()] == ["proved", "not proved", "not proved"]
    bare = Pipeline.load(mark="off")(read_record(one).request)
    assert Image.open(one).convert("RGB").tobytes() == bare.image.tobytes()
    assert not (home / "log.db").exists()


def test_a_denied_class_prompt_makes_no_pictures(cities: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('[[rules]]\nname = "c"\naction = "deny"\nterms = ["circle"]\nreason = "no circles here"\n')
    monkeypatch.setenv("LIENZO_POLICY", str(policy))
    words = {"prompt": "a red circle", "pictures": 1}
    recipe = written(tmp_path, *cities, kind="dreambooth", data={"prior": tmp_path / "class"}, classes=words)
    code, output = invoke(recipe)
    assert code == 2 and "no circles here" in output
    assert not list((tmp_path / "class").glob("*.png"))


def test_killed_and_run_again_it_comes_to_the_same(cities: Sets, tmp_path: Path) -> None:
    """SIGKILL in the middle of the real command; what comes out is bit for bit that of an uninterrupted run."""
    run_once = {"steps": 12, "batch_size": 2, "save_every": 4}
    recipe = written(tmp_path, cities[0], run=run_once)
    command = [sys.executable, "-m", "lienzo", "train", str(recipe)]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    for _ in range(2):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=alone)
        before = len(list((tmp_path / "run").glob("step-*")))
        deadline = time.monotonic() + 120
        while len(list((tmp_path / "run").glob("step-*[0-9]"))) <= before and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, check=True, capture_output=True, env=alone)
    whole = make_recipe("lora", cities[0], None, tmp_path / "whole", run=run_once)
    made = run(whole).product
    first, second = (
        load_file(folder / "pytorch_lora_weights.safetensors") for folder in (tmp_path / "run/adapter", made)
    )
    assert first.keys() == second.keys() and all(first[name].equal(second[name]) for name in first)


def test_stopped_before_its_first_step_it_looks_once(cities: Sets, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "log.jsonl").write_text('{"step": 0, "validation/loss": 9.0}\n')
    run(make_recipe("lora", *cities, out, run={"steps": 1, "batch_size": 2}))
    before, after = recorded(out, "validation/loss")
    assert before < 9 and after < 9


def test_caches_change_nothing(cities: Sets, tmp_path: Path) -> None:
    """Read ahead and encoded, or taken from a cache that was filled, then opened again: the batches are the same."""
    kept = {"cache": tmp_path / "cache", "cache_latents": True, "cache_text": True}
    with ExitStack() as stack:
        jobs = []
        for data in ({}, kept, kept):
            recipe = make_recipe("lora", cities[0], None, tmp_path / "run", data={"flip": 0.5, "dropout": 0.5, **data})
            jobs.append(prepare(recipe, stack))
            jobs[-1].fill()
        for step in (0, 1, 7):
            share = Share(seed=0, step=step, size=4)
            plain, *others = (job.batch(share) for job in jobs)
            for other in others:
                assert other.keys == plain.keys
                assert torch.allclose(other.latents, plain.latents, atol=1e-4)
                assert torch.allclose(other.context, plain.context, atol=1e-4)


def test_one_process_fills_the_caches_for_all(cities: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {"cache": tmp_path / "cache", "cache_latents": True, "cache_text": True}
    recipe = make_recipe("lora", *cities, tmp_path / "run", data=kept)
    with ExitStack() as stack:
        first, waiting = prepare(recipe, stack), prepare(recipe, stack)
        first.fill()
        monkeypatch.setattr(VAE, "encode", None)
        monkeypatch.setattr(TextEncoder, "forward", None)
        assert waiting.batch(Share(seed=0, step=0, size=4)).latents.shape == (4, 4, 8, 8)


def test_held_out_pictures_are_as_large_as_the_others(cities: Sets, tmp_path: Path) -> None:
    recipe = make_recipe("full", *cities, tmp_path / "run", data={"bucket_min": 64, "flip": 0.5})
    assert recipe.validation is not None
    assert recipe.validation.buckets == recipe.data.buckets and recipe.validation.flip == 0


def test_parts_of_a_batch_come_to_the_same(cities: Sets, tmp_path: Path) -> None:
    """With class pictures too, whose random numbers do not depend on how a step is divided."""
    ends = []
    for parts in (1, 2):
        recipe = make_recipe(
            "lora", cities[0], None, tmp_path / str(parts), run={"steps": 2, "batch_size": 4, "accumulate": parts},
            data={"prior": cities[1]}, optimizer={"learning_rate": 1e-3},
        )  # fmt: skip
        ends.append(load_file(run(recipe).product / "pytorch_lora_weights.safetensors"))
    assert all((ends[0][name] - ends[1][name]).abs().max() < 1e-5 for name in ends[0])


def test_broken_pictures_are_told_and_skipped(cities: Sets, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for path in sorted(cities[0].iterdir())[:8]:
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "cut.png").write_bytes((folder / "000.png").read_bytes()[:300])
    recipe = written(tmp_path, folder, run={"steps": 1, "batch_size": 2})
    code, output = invoke(recipe, "--dry-run")
    assert code == 0 and "4 (4 of 64x64)" in output and "2 skipped: 2 broken" in output
    code, output = invoke(recipe)
    assert code == 0 and "Warning: 2 skipped: 2 broken" in output
    report = json.loads((tmp_path / "run/adapter/data-report.json").read_text())
    assert report["skipped"]["reasons"] == {"broken": 2}
    card = (tmp_path / "run/adapter/README.md").read_text()
    told = read(Training, tmp_path / "run/adapter/training.json")
    assert (told.steps, told.batch_size, told.energy) == (1, 2, {})
    assert all(f"| {one.role} | {one.name} | `{one.digest}` |" in card for one in told.made_from)
    assert "| skipped | 2 |" in card and "2 skipped: 2 broken" in card and "| licences | not given (4) |" in card


def test_going_on_with_other_data_is_told(cities: Sets, tmp_path: Path) -> None:
    warm = {"schedule": {"warmup": 1}}
    first = run(
        make_recipe("lora", cities[0], None, tmp_path / "run", run={"steps": 1, "batch_size": 2}, **warm)
    ).product
    began = json.loads((tmp_path / "run/run.json").read_text())["data"]
    assert "earlier in this run" not in (first / "README.md").read_text()
    changed = make_recipe("lora", cities[1], None, tmp_path / "run", run={"steps": 2, "batch_size": 2}, **warm)
    with pytest.warns(UserWarning, match="data changed|data.sources was"):
        run(changed)
    assert f"| training data, earlier in this run |  | `{began}` |" in (first / "README.md").read_text()
    with pytest.warns(UserWarning, match=r"had done 2 steps already, more than run.steps = 1"):
        run(make_recipe("lora", cities[1], None, tmp_path / "run", run={"steps": 1, "batch_size": 2}, **warm))
    other = make_recipe("full", cities[0], None, tmp_path / "run", run={"steps": 1, "batch_size": 2}, **warm)
    with pytest.raises(ConfigError, match="holds a run of kind 'lora'"):
        run(other)


def test_notes_before_training(cities: Sets, tmp_path: Path) -> None:
    """Pictures that are held out of nothing, and a warm-up that never ends."""
    recipe = make_recipe(
        "lora", cities[0], cities[0], tmp_path / "run", run={"steps": 2, "batch_size": 2}, schedule={"warmup": 500}
    )
    said = notes(recipe, check(recipe)[0])
    assert any("24 of 24 validation pictures are among those trained on" in sentence for sentence in said)
    assert any("the learning rate never gets to 0.0001" in sentence for sentence in said)
    recipe = make_recipe("lora", *cities, tmp_path / "run", run={"steps": 2, "batch_size": 2})
    assert notes(recipe, check(recipe)[0]) == ()


def test_a_run_within_its_data_is_refused(cities: Sets) -> None:
    with pytest.raises(ConfigError, match="would become data"):
        check(make_recipe("lora", *cities, cities[1] / "run"))


def test_what_is_there_is_not_replaced(cities: Sets, tmp_path: Path) -> None:
    kept = tmp_path / "run/adapter/precious.txt"
    kept.parent.mkdir(parents=True)
    kept.write_text("mine")
    with pytest.raises(OutputError, match="of no run"):
        run(make_recipe("lora", cities[0], None, tmp_path / "run", run={"steps": 1, "batch_size": 2}))
    assert kept.read_text() == "mine"


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("lora", {"model": {"unet": "somewhere"}}, "model.unet is for scratch-unet, not for kind = 'lora'"),
        ("full", {"adapter": {"rank": 4}}, "adapter.rank is for lora, not for kind = 'full'"),
        ("scratch-vae", {"loss": {"noise_offset": 0.1}}, "loss.noise_offset is for .*not for kind = 'scratch-vae'"),
        ("full", {"model": {"train_text_encoder": True}, "data": {"cache": "c", "cache_text": True}}, "data.cache_text"),
        ("full", {"loss": {"gamma": 3.0}}, "gamma is given, but needs weighting = 'min_snr'"),
        ("lora", {"optimizer": {"text_encoder_rate": 1e-5}}, "text encoder"),
        ("full", {"loss": {"prior_weight": 2.0}}, "there are no class pictures"),
        ("scratch-vae", {"data": {"masks": True}}, "data.masks is for .*not for kind = 'scratch-vae'"),
        ("full", {"data": {"keep_tags": 1}}, "needs shuffle_tags"),
        ("full", {"data": {"shuffle_tags": True, "cache": "c", "cache_text": True}}, "does not go with shuffle_tags"),
        ("full", {"loss": {"masked": True}}, "Set both, or neither"),
        ("full", {"loss": {"prediction": "epsilon", "zero_terminal_snr": True}}, "zero_terminal_snr needs prediction"),
        ("full", {"model": {"base": "no-such-thing"}}, "No model|No such"),
        ("dreambooth", {}, "needs class pictures"),
        ("textual_inversion", {"adapter": {"token": "<x>"}}, "24 of 24 pictures have no caption with '<x>'"),
        ("textual_inversion", {}, "needs the new word"),
        ("lora", {"adapter": {"layers": ["to_q", "to_z"]}}, r"no layer's path ends in to_z"),
        ("lora", {"classes": {"prompt": "a city"}}, "name it in data.prior"),
        ("scratch-clip", {}, "needs the shapes of both sides"),
        ("scratch-unet", {"model": {"text_encoder": {"hidden_size": 64}}}, "train_text_encoder=true"),
        ("scratch-unet", {"model": {"unet": {"in_channels": 5}}}, "model.unet.in_channels: got 5"),
        ("scratch-unet", {"model": {"tokenizer": 20}}, "which knows only its own"),
        ("scratch-unet", {"model": {"unet": {"sample_size": 5}}}, "model.unet.sample_size: got 5"),
        ("scratch-clip", {"model": {"base": "b", "tokenizer": 9, "text_encoder": {}, "image_encoder": {}}}, "model.base: got 'b'"),
        ("scratch-unet", {"model": {"vae": "nowhere"}}, "No folder nowhere"),
        ("scratch-vae", {"model": {"vae": {"block_out_channels": "wide"}}}, "block_out_channels"),
        ("full", {"run": {"batch_size": 4, "accumulate": 3}}, "batch"),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 20 else "",
)  # fmt: skip
def test_mistakes_are_told_before_training(
    kind: str, changes: dict[str, Any], message: str, cities: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = {"out": tmp_path / "run", **changes.pop("model", {})}
    with pytest.raises((ValueError, Exception), match=message) as caught:
        check(make_recipe(kind, cities[0], None, tmp_path / "run", model=model, **changes))
    assert "Error" in type(caught.value).__name__ and not (tmp_path / "run").exists()


def test_the_command_says_mistakes_in_a_line(cities: Sets, tmp_path: Path) -> None:
    recipe = written(tmp_path, *cities, watch={"sample_steps": 2})
    for arguments, message in (
        ((recipe, "run.stepz=3"), "run.stepz: no such setting. Did you mean steps?"),
        ((tmp_path / "none.toml",), "cannot be read"),
        ((recipe, "data.sources=nothing-here"), "nothing-here"),
        ((recipe, "watch.score_every=5"), "watch.score_every needs watch.clip"),
        ((recipe, "watch.score_every=5", "--dry-run"), "watch.score_every needs watch.clip"),
    ):
        code, output = invoke(*arguments)
        assert code == 2 and message in output and "Traceback" not in output, output


def test_v_prediction_and_zero_terminal_snr(cities: Sets, tmp_path: Path) -> None:
    """A model that is retrained for another target says so in its scheduler's configuration, and is sampled accordingly."""
    recipe = make_recipe(
        "full", *cities, tmp_path / "run", run={"steps": 2, "batch_size": 2},
        loss={"prediction": "sample", "zero_terminal_snr": True, "weighting": "min_snr", "kind": "huber"},
    )  # fmt: skip
    made = run(recipe)
    scheduler = json.loads((made.product / "scheduler/scheduler_config.json").read_text())
    assert (scheduler["prediction_type"], scheduler["rescale_betas_zero_snr"]) == ("sample", True)
    assert scheduler["timestep_spacing"] == "trailing"
    assert len(recorded(tmp_path / "run", "validation/loss")) == 2


def test_scores_at_intervals(cities: Sets, tmp_path: Path) -> None:
    from lienzo.trainer import train

    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    clip = run(
        make_recipe(
            "scratch-clip", *cities, tmp_path / "clip", run={"steps": 2, "batch_size": 8},
            model={
                "out": tmp_path / "clip", "tokenizer": 50, "text_encoder": text,
                "image_encoder": {**text, "image_size": 64, "patch_size": 16, "projection_dim": 16},
            },
        )
    )  # fmt: skip
    recipe = make_recipe(
        "lora", *cities, tmp_path / "run", run={"steps": 2, "batch_size": 2},
        watch={"clip": str(clip.product), "score_every": 1, "validation_pictures": 5},
    )  # fmt: skip
    train(recipe)
    for name in ("clip_score", "fid", "kid", "precision", "recall"):
        assert len(recorded(tmp_path / "run", f"score/{name}")) == 2
    assert "score/fid" in (tmp_path / "run/adapter/README.md").read_text()
