"""What a trained model is, written beside it: a card to read, the data's report and the recipe."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lienzo import __version__
from lienzo.training.config import Recipe, dump
from lienzo.training.data import report
from lienzo.training.loop import Trained
from lienzo.training.recipes.job import Job
from lienzo.training.watch import LOG

CARD, REPORT, RECIPE = "README.md", "data-report.json", "recipe.toml"
KINDS: Mapping[str, str] = {
    "full": "a fine-tuned text-to-image model",
    "dreambooth": "a text-to-image model fine-tuned on one subject (DreamBooth)",
    "lora": "a LoRA: a small addition to a text-to-image model",
    "textual_inversion": "a textual-inversion embedding: a new word for a text-to-image model",
    "scratch-vae": "a VAE, trained from scratch or on from another",
    "scratch-clip": "a CLIP, trained from scratch",
    "scratch-unet": "a text-to-image model whose U-Net was trained from scratch or on from another",
}


def write_card(
    folder: Path,
    recipe: Recipe[Any],
    *,
    job: Job[Any, Any],
    trained: Trained,
    before: Sequence[Mapping[str, str]],
) -> None:
    """Write the card, the report and the recipe into a product's folder.

    Args:
        before: other data and parents that the run was trained with on the way, by digest.
    """
    found = report(job.dataset)
    validation = job.validation
    (folder / REPORT).write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / RECIPE).write_text(dump(recipe), encoding="utf-8")
    sections = [
        _header(recipe),
        f"# {recipe.model.out.name}\n\nThis is {KINDS[recipe.kind]}, made with lienzo {__version__}.\n\n{job.use}",
        _table("Made from", ("what", "name", "SHA-256"), [
            *((p.role, p.name, f"`{p.digest}`") for p in job.parents),
            ("training data", f"{len(job.dataset.records)} pictures", f"`{job.dataset.digest}`"),
            *([("validation data", f"{len(validation.records)} pictures", f"`{validation.digest}`")] if validation else []),
            *((f"{_role(key)}, earlier in this run", "", f"`{digest}`") for one in before for key, digest in one.items()),
        ]),
        _table("How", ("", ""), [
            ("steps", f"{trained.steps:,} of {recipe.run.batch_size} samples"),
            ("weights", f"of the last step{', averaged (`run.ema`)' if recipe.run.ema is not None else ''}"),
            ("time in steps", _time(trained.seconds)),
            ("machine", _machine()),
            ("energy", _energy(trained.energy)),
            *((name.replace("_", " "), _fact(value)) for name, value in job.facts.items()),
        ]) + f"\n\nThe whole recipe is in [`{RECIPE}`]({RECIPE}); `lienzo train {RECIPE} model.out=ANOTHER` repeats it, given the same "
        "data.",
        _scores(recipe.model.out / LOG),
        _data(found, job.notes),
        "## Limits\n\nNobody but the figures above has judged this model. It can show no more than its data and what it was made "
        "from, and repeats what is wrong or one-sided in them. No check of its pictures is part of it.",
    ]  # fmt: skip
    (folder / CARD).write_text("\n\n".join(section for section in sections if section) + "\n", encoding="utf-8")


def _header(recipe: Recipe[Any]) -> str:
    library = "transformers" if recipe.kind == "scratch-clip" else "diffusers"
    lines = ["---", f"library_name: {library}", f"tags: [lienzo, {recipe.kind}]"]
    if recipe.kind in ("full", "dreambooth", "lora", "textual_inversion"):
        lines.append(f"base_model: {json.dumps(recipe.model.base)}")
    return "\n".join([*lines, "---"])


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    escaped = ([cell.replace("|", "\\|") for cell in row] for row in rows)
    lines = [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *escaped)]
    return "\n".join([f"## {title}", "", *lines])


def _role(key: str) -> str:
    """What `run.json` calls something -> what the card does."""
    return "training data" if key == "data" else key.removeprefix("parent ")


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.1f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def _machine() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"


def _energy(energy: Mapping[str, Any]) -> str:
    if not energy:
        return "not measured (`watch.energy = true` does)"
    return f"{energy['kwh']:.4f} kWh, {'an estimate' if energy['estimate'] else 'counted by the hardware'}"


def _fact(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_fact(v)}" for name, v in value.items())
    return f"{value:,}" if isinstance(value, int) else f"`{value}`" if isinstance(value, str) else str(value)


def _scores(log: Path) -> str:
    """First and last of every figure that the log has of validation (the first is before training) and scores."""
    seen: dict[str, list[float]] = {}
    for line in log.read_text(encoding="utf-8").splitlines():
        for name, value in json.loads(line).items():
            if name.startswith(("validation/", "score/")):
                seen.setdefault(name, []).append(value)
    if not seen:
        return "## Scores\n\nNone: the recipe has no `[validation]`."
    rows = [(name, f"{values[0]:.5g}", f"{values[-1]:.5g}") for name, values in seen.items()]
    return _table("Scores", ("on the validation's pictures", "first", "last"), rows)


def _data(found: Mapping[str, Any], notes: Sequence[str]) -> str:
    captions, people, skipped = found["captions"], found["people"], found["skipped"]
    licences = [f"{one['name']} ({one['pictures']})" for one in found["licences"]["given"]]
    if missing := found["licences"]["not_given"]:
        licences.append(f"not given ({missing})")
    rows = [
        ("pictures", f"{found['pictures']:,}"),
        ("captions", f"{captions['captions']:,}, {captions['without']} pictures without"),
        ("languages", ", ".join(f"{name} ({count})" for name, count in captions["languages"].items()) or "none"),
        ("licences", ", ".join(licences)),
        ("captions with words for people", f"{people['pictures']} pictures (an estimate)"),
        ("skipped", f"{skipped['count']}"),
    ]
    told = "".join(f"\n\n{sentence}" for sentence in notes)
    return _table("Data", ("", ""), rows) + f"{told}\n\nMore is in [`{REPORT}`]({REPORT})."
