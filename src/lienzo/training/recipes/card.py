"""What a trained model is, written beside it: a card to read, the same as JSON, the data's report and the recipe."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lienzo import __version__
from lienzo.cards import data_rows, duration, energy, markdown_table
from lienzo.training.config import Recipe, dump
from lienzo.training.data import report
from lienzo.training.loop import Trained
from lienzo.training.recipes.job import Job
from lienzo.training.watch import LOG

CARD, FACTS, REPORT, RECIPE = "README.md", "training.json", "data-report.json", "recipe.toml"
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
    """Write the card, its figures, the report and the recipe into a product's folder.

    Args:
        before: other data and parents that the run was trained with on the way, by digest.
    """
    found = report(job.dataset)
    told = _facts(recipe, job=job, trained=trained, before=before)
    for name, document in ((REPORT, found), (FACTS, told)):
        (folder / name).write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / RECIPE).write_text(dump(recipe), encoding="utf-8")
    sections = [
        _header(recipe),
        f"# {recipe.model.out.name}\n\nThis is {told['what']}, made with lienzo {__version__}.\n\n{job.use}",
        _table("Made from", ("what", "name", "SHA-256"), [(m["role"], m["name"], f"`{m['digest']}`") for m in told["made_from"]]),
        _table("How", ("", ""), [
            ("steps", f"{told['steps']:,} of {told['batch_size']} samples"),
            ("weights", f"of the last step{', averaged (`run.ema`)' if told['averaged'] else ''}"),
            ("time in steps", duration(told["seconds"])),
            ("machine", told["machine"]),
            ("energy", energy(told["energy"]) or "not measured (`watch.energy = true` does)"),
            *((name.replace("_", " "), _fact(value)) for name, value in job.facts.items()),
        ]) + f"\n\nThe whole recipe is in [`{RECIPE}`]({RECIPE}); `lienzo train {RECIPE} model.out=ANOTHER` repeats it, given the same "
        "data.",
        _table("Scores", ("on the validation's pictures", "first", "last"), [
            (name, f"{score['first']:.5g}", f"{score['last']:.5g}") for name, score in told["scores"].items()
        ]) if told["scores"] else "## Scores\n\nNone: the recipe has no `[validation]`.",
        _table("Data", ("", ""), data_rows(found)) + "".join(f"\n\n{sentence}" for sentence in job.notes)
        + f"\n\nMore is in [`{REPORT}`]({REPORT}).",
        "## Limits\n\nNobody but the figures above has judged this model. It can show no more than its data and what it was made "
        "from, and repeats what is wrong or one-sided in them. No check of its pictures is part of it.",
    ]  # fmt: skip
    (folder / CARD).write_text("\n\n".join(section for section in sections if section) + "\n", encoding="utf-8")


def _facts(
    recipe: Recipe[Any], *, job: Job[Any, Any], trained: Trained, before: Sequence[Mapping[str, str]]
) -> dict[str, Any]:
    """The card's figures as what JSON can hold; `lienzo report` reads them."""
    sets = [("training data", job.dataset), *([("validation data", job.validation)] if job.validation else [])]
    made_from = [
        *({"role": p.role, "name": p.name, "digest": p.digest} for p in job.parents),
        *({"role": role, "name": f"{len(one.records)} pictures", "digest": one.digest} for role, one in sets),
        *(
            {"role": f"{_role(key)}, earlier in this run", "name": "", "digest": digest}
            for one in before
            for key, digest in one.items()
        ),
    ]
    return {
        "lienzo": __version__,
        "kind": recipe.kind,
        "what": KINDS[recipe.kind],
        "made_from": made_from,
        "steps": trained.steps,
        "batch_size": recipe.run.batch_size,
        "averaged": recipe.run.ema is not None,
        "seconds": trained.seconds,
        "machine": _machine(),
        "energy": dict(trained.energy),
        "scores": _scores(recipe.model.out / LOG),
    }


def _header(recipe: Recipe[Any]) -> str:
    library = "transformers" if recipe.kind == "scratch-clip" else "diffusers"
    lines = ["---", f"library_name: {library}", f"tags: [lienzo, {recipe.kind}]"]
    if recipe.kind in ("full", "dreambooth", "lora", "textual_inversion"):
        lines.append(f"base_model: {json.dumps(recipe.model.base)}")
    return "\n".join([*lines, "---"])


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return f"## {title}\n\n{markdown_table(heads, rows)}"


def _role(key: str) -> str:
    """What `run.json` calls something -> what the card does."""
    return "training data" if key == "data" else key.removeprefix("parent ")


def _machine() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"


def _fact(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_fact(v)}" for name, v in value.items())
    return f"{value:,}" if isinstance(value, int) else f"`{value}`" if isinstance(value, str) else str(value)


def _scores(log: Path) -> dict[str, dict[str, float]]:
    """First and last of every figure that the log has of validation (the first is before training) and scores."""
    seen: dict[str, dict[str, float]] = {}
    for line in log.read_text(encoding="utf-8").splitlines():
        for name, value in json.loads(line).items():
            if name.startswith(("validation/", "score/")):
                seen.setdefault(name, {"first": value})["last"] = value
    return seen
