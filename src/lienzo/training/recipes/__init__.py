"""From a recipe to a trained model: read it, build what it names, train, write the product and its card.

    recipe = read("recipe.toml", ["run.steps=100"])
    print(run(recipe).product)

The run's folder, `model.out`, holds checkpoints, `log.jsonl`, `samples/`, `run.json` and the product: `model/`, or
`adapter/` for LoRA and textual inversion. The same call goes on where an interrupted one stopped.
"""

import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lienzo.errors import ConfigError, OutputError
from lienzo.training import distributed
from lienzo.training.checkpoint import replace_text
from lienzo.training.config import Recipe, read_recipe
from lienzo.training.data import DataConfig, Dataset, load_data
from lienzo.training.loop import Trained, train
from lienzo.training.recipes.autoencoder import autoencoder
from lienzo.training.recipes.batches import Tell
from lienzo.training.recipes.card import write_card
from lienzo.training.recipes.classes import make_class_pictures
from lienzo.training.recipes.contrastive import contrastive
from lienzo.training.recipes.denoiser import base_of, denoiser
from lienzo.training.recipes.job import Job
from lienzo.training.recipes.sheets import Files
from lienzo.training.share import Share
from lienzo.training.watch import Hooks
from lienzo.weights.save import placed

__all__ = ["Files", "Job", "Made", "ScoreOf", "check", "notes", "prepare", "read", "run", "silent"]

RUN = "run.json"
ScoreOf = Callable[[Job[Any, Any], Recipe[DataConfig]], Callable[[Any], Mapping[str, float]] | None]
"""Makes the hook that scores a job's model; see `lienzo.trainer`."""


@dataclass(frozen=True, kw_only=True)
class Made:
    """A finished run.

    Attributes:
        product: the folder of what came out.
        use: how it is used, in a sentence.
    """

    product: Path
    use: str
    trained: Trained


def read(path: str | Path, overrides: Iterable[str] = ()) -> Recipe[DataConfig]:
    """Read a recipe file.

    Raises:
        ConfigError: lists everything that is wrong with it.
    """
    return read_recipe(Path(path), Recipe[DataConfig], overrides)


def prepare(
    recipe: Recipe[DataConfig],
    stack: ExitStack,
    tell: Tell = lambda what, done, of: None,
    files: Files = Files(),  # noqa: B008
) -> Job[Any, Any]:
    """Read the data and build the networks.

    Raises:
        InputError: data or settings that cannot be used.
        WeightsError: a model that cannot be loaded.
    """
    _apart(recipe)
    base = base_of(recipe) if recipe.kind in ("full", "lora", "dreambooth", "textual_inversion") else None
    if recipe.classes.prompt is not None:
        assert base is not None
        if distributed.rank() == 0:
            make_class_pictures(recipe, base, tell, files)
        distributed.barrier()
    dataset = load_data(recipe.data, lambda done, of: tell("reading pictures", done, of))
    validation = _validation(recipe, tell)
    match recipe.kind:
        case "scratch-vae":
            return autoencoder(recipe, dataset, validation, stack)
        case "scratch-clip":
            return contrastive(recipe, dataset, validation, stack)
        case _:
            return denoiser(recipe, dataset, validation, base, tell, stack)


def _apart(recipe: Recipe[DataConfig]) -> None:
    """The run's sheets must not become pictures to train on.

    Raises:
        ConfigError: the run's folder lies in that of its data.
    """
    configs = [recipe.data, *([recipe.validation] if recipe.validation else [])]
    sources = [source for config in configs for source in (*config.sources, *([config.prior] if config.prior else []))]
    out = recipe.model.out.resolve()
    for source in sources:
        if out.is_relative_to(source.path.resolve()):
            raise ConfigError(
                f"model.out: {recipe.model.out} lies in {source.path}, so that the run's own sample sheets would become data. "
                "Name a folder beside it."
            )


def _validation(recipe: Recipe[DataConfig], tell: Tell) -> Dataset | None:
    if recipe.validation is None:
        return None
    return load_data(recipe.validation, lambda done, of: tell("reading validation pictures", done, of))


def notes(recipe: Recipe[DataConfig], job: Job[Any, Any]) -> tuple[str, ...]:
    """What is worth knowing before the training, a sentence each."""
    warmup, steps = recipe.schedule.warmup, recipe.run.steps
    slow = (
        f"schedule.warmup = {warmup} is more than run.steps = {steps}: the learning rate never gets to "
        f"{recipe.optimizer.learning_rate:g}. Shorten the warm-up, to {steps // 10} say."
    )
    return (*job.notes, *([slow] if warmup > steps else []))


def check(
    recipe: Recipe[DataConfig],
    tell: Tell = lambda what, done, of: None,
    files: Files = Files(),  # noqa: B008
) -> tuple[Job[Any, Any], float]:
    """Everything but training: the job, and the loss of its first batch. Nothing is written but caches and class pictures.

    Raises: as `run` does.
    """
    distributed.start()
    with ExitStack() as stack, torch.no_grad():
        job = prepare(recipe, stack, tell, files)
        size = recipe.run.batch_size // recipe.run.accumulate
        share = Share(seed=recipe.run.seed, step=0, count=recipe.run.accumulate, size=size)
        return job, float(job.loss(job.model, job.batch(share), share))


@contextmanager
def silent() -> Iterator[Tell]:
    """Tells nobody."""
    yield lambda what, done, of: None


def run(
    recipe: Recipe[DataConfig],
    *,
    telling: Callable[[], AbstractContextManager[Tell]] = silent,
    score: ScoreOf = lambda job, recipe: None,
    files: Files = Files(),  # noqa: B008
) -> Made:
    """Train what a recipe says, or go on with it, and write what came out.

    Args:
        telling: opens what is told how far the preparations are; it is closed before the training, which has its own bar.
        score: makes the hook for `watch.score_every`.
        files: how class pictures and sheets are written; as it is, unmarked.

    Raises:
        InputError: a recipe, data or settings that cannot be used.
        WeightsError: a model that cannot be loaded.
        NonFiniteError: the loss became NaN or infinite; the checkpoints before it stay.
        OutputError: something could not be written; likewise.

    Warns:
        UserWarning: a run that goes on with other data or settings than it began with; what `notes` says.
    """
    distributed.start()
    out, first = recipe.model.out, distributed.rank() == 0
    with ExitStack() as stack:
        with telling() as tell:
            job = prepare(recipe, stack, tell, files)
            product = out / job.product
            if first:
                for sentence in notes(recipe, job):
                    warnings.warn(sentence, stacklevel=2)
                before = _claim(out, product, recipe, job)
                job.fill()
            distributed.barrier()
            hooks = Hooks(validate=job.validate, sample=job.sample, score=score(job, recipe), file=files.sheet)
        trained = train(job.model, job.loss, job.batch, recipe, out, hooks)
        if first:
            if trained.steps > recipe.run.steps:
                warnings.warn(
                    f"The run in {out} had done {trained.steps} steps already, more than run.steps = {recipe.run.steps}. None was "
                    "taken back.",
                    stacklevel=2,
                )
            with placed(product) as folder:
                job.write(trained.weights, folder)
                write_card(folder, recipe, job=job, trained=trained, before=before)
        distributed.barrier()
    distributed.stop()
    return Made(product=product, use=job.use, trained=trained)


def _claim(out: Path, product: Path, recipe: Recipe[DataConfig], job: Job[Any, Any]) -> list[dict[str, str]]:
    """Say in the folder whose run it is; warn where it goes on with other things than it had.

    Returns:
        What was otherwise before, by digest.

    Raises:
        ConfigError: it holds another kind of run.
        OutputError: it holds what no run has put there, or cannot be written.
    """
    mine = {
        "kind": recipe.kind,
        "data": job.dataset.digest,
        **{f"parent {parent.role}": parent.digest for parent in job.parents},
    }
    path = out / RUN
    before: list[dict[str, str]] = []
    try:
        if path.exists():
            began = json.loads(path.read_text(encoding="utf-8"))
            before = began.pop("before", [])
            if began["kind"] != recipe.kind:
                raise ConfigError(
                    f"{out} holds a run of kind {began['kind']!r}, and this one is {recipe.kind!r}. Name another folder in model.out."
                )
            changed = sorted(key for key in began.keys() | mine.keys() if began.get(key) != mine.get(key))
            if changed:
                before.append({key: began[key] for key in changed if key in began})
                warnings.warn(
                    f"The run in {out} goes on, but not with what it had: {', '.join(changed)} changed.", stacklevel=3
                )
        elif product.exists():
            raise OutputError(f"{product} exists already and is of no run. Name another folder in model.out.")
        out.mkdir(parents=True, exist_ok=True)
        replace_text(path, json.dumps({**mine, **({"before": before} if before else {})}, indent=2) + "\n")
    except ConfigError:
        raise
    except OSError as error:
        raise OutputError(
            f"The run's folder {out} cannot be used: {error.strerror or error}. Name another one in model.out."
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OutputError(f"{path} is not what a run writes: {error}. Name another folder in model.out.") from None
    return before
