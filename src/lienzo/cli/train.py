"""`lienzo train`."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lienzo.cli.progress import progress
from lienzo.cli.text import note, plain, table

if TYPE_CHECKING:
    from lienzo.training.config import Recipe
    from lienzo.training.recipes import Job, Made
    from lienzo.training.recipes.batches import Tell


@click.command(short_help="Train what a recipe says.")
@click.argument("recipe", type=click.Path(path_type=Path), metavar="RECIPE.toml")
@click.argument("overrides", nargs=-1, metavar="[SECTION.KEY=VALUE]...")
@click.option("--dry-run", is_flag=True, help="Read the data, build the networks and compute one loss; train nothing.")
@click.option("--print-recipe", is_flag=True, help="Print the whole recipe, defaults included, and stop.")
def train(recipe: Path, overrides: tuple[str, ...], dry_run: bool, print_recipe: bool) -> None:
    """Train a model or an adapter as RECIPE.toml says, with single settings replaced by SECTION.KEY=VALUE.

    \b
      lienzo train lora.toml
      lienzo train lora.toml run.steps=200 optimizer.learning_rate=2e-4
      torchrun --nproc-per-node 2 -m lienzo train full.toml

    Stopped or killed, the same command goes on from the last checkpoint in the run's folder (model.out). What comes out is
    an ordinary diffusers folder or adapter file, with a card. Paths in a recipe are as seen from the current folder.
    """
    from lienzo.training.config import Recipe, dump, read_recipe
    from lienzo.training.data.config import DataConfig

    settings = read_recipe(recipe, Recipe[DataConfig], overrides)
    if print_recipe:
        click.echo(dump(settings), nl=False)
        return
    if dry_run:
        from lienzo.trainer import check

        with _told() as tell:
            job, loss = check(settings, tell)
        rows, said = _plan(settings, job, loss), "Nothing was trained."
    else:
        from lienzo.trainer import train as run

        made = run(settings, _told)
        rows, said = _outcome(made), made.use
    if int(os.environ.get("RANK", "0")) == 0:  # of the processes that torchrun starts, the first speaks
        table(rows)
        note(said)


@contextmanager
def _told() -> "Iterator[Tell]":
    with progress() as bar:
        yield bar.advance


def _plan(recipe: "Recipe[Any]", job: "Job[Any, Any]", loss: float) -> list[tuple[str, str]]:
    from collections import Counter

    learned = sum(p.numel() for p in job.model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in job.model.parameters() if not p.requires_grad)
    records, run = job.dataset.records, recipe.run
    buckets = Counter("{}x{}".format(*record.bucket) for record in records)
    drawn = sum(record.source.repeats for record in records)
    return [
        ("kind", recipe.kind),
        ("learns", f"{learned:,} weights; {frozen:,} stay"),
        *((parent.role, f"{plain(parent.name)} {parent.digest[:16]}...") for parent in job.parents),
        ("pictures", f"{len(records)} ({', '.join(f'{n} of {size}' for size, n in sorted(buckets.items()))})"),
        *([("class pictures", str(len(job.dataset.prior)))] if job.dataset.prior else []),
        *([("validation", f"{len(job.validation.records)} pictures")] if job.validation else []),
        *(("note", plain(sentence)) for sentence in job.dataset.notes),
        (
            "steps",
            f"{run.steps} of {run.batch_size}: {run.steps * run.batch_size / max(1, drawn):.1f} times all pictures",
        ),
        ("loss now", f"{loss:.4f}, of the first batch"),
        ("out", plain(str(recipe.model.out / job.product))),
    ]


def _outcome(made: "Made") -> list[tuple[str, str]]:
    trained = made.trained
    return [
        ("steps", f"{trained.steps} in {trained.seconds / 60:.1f} minutes"),
        *([("best validation", f"{trained.best['loss']:.5g} at step {trained.best['step']:.0f}")] if trained.best else []),
        *([("energy", f"{trained.energy['kwh']:.4f} kWh{', an estimate' if trained.energy['estimate'] else ''}")] if trained.energy else []),
        ("out", plain(str(made.product))),
    ]  # fmt: skip
