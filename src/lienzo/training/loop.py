"""The loop: AdamW, warm-up and cosine decay, clipped gradients, EMA, checkpoints, a progress bar and a JSONL log.

Randomness is a function of (seed, step): each step makes its own generator, draws its batch with it and hands it to the
loss. A run that was interrupted and started again with the same command therefore equals one that never stopped.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Generator, Tensor, nn

from lienzo.errors import NonFiniteError
from lienzo.training import checkpoint
from lienzo.training.ema import EMA

Model = TypeVar("Model", bound=nn.Module)
Batch = TypeVar("Batch")

LONGEST_STEP = 10.0
"""Seconds that one step counts at most towards `TrainConfig.minutes`: a paused process does not spend its time."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long and how to train.

    Attributes:
        steps: stop after this many.
        minutes: or after this much time spent in steps, whichever is first.
        warmup: steps over which the learning rate rises linearly; then it falls to 0 along a cosine.
        clip: largest norm of the gradient.
        ema: decay of the averaged weights.
        save_every: steps between checkpoints.
        log_every: steps between lines in the log.
    """

    steps: int
    minutes: float = math.inf
    seed: int = 0
    learning_rate: float = 1e-3
    warmup: int = 200
    weight_decay: float = 1e-2
    betas: tuple[float, float] = (0.9, 0.99)
    clip: float = 1.0
    ema: float = 0.999
    save_every: int = 500
    log_every: int = 50

    def progress(self, step: int, seconds: float) -> float:
        """How much of the run is done, 0 to 1."""
        return min(1.0, max(step / self.steps, seconds / 60 / self.minutes))

    def rate(self, step: int, seconds: float) -> float:
        """Learning rate of a step."""
        rise = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        return self.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * self.progress(step, seconds)))


def step_generator(seed: int, step: int) -> Generator:
    """The generator of one step: all of a step's randomness comes from it, and it depends on nothing else."""
    digest = hashlib.sha256(f"{seed}/{step}".encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def train(
    model: Model,
    loss: Callable[[Model, Batch, Generator], Tensor],
    batch: Callable[[Generator], Batch],
    config: TrainConfig,
    folder: Path,
) -> EMA:
    """Train `model` in place; resume from `folder` if it holds a checkpoint.

    Args:
        loss: a pure function of the model, a batch and a generator.
        batch: draws a batch with the step's generator.
        folder: for checkpoints and `log.jsonl`.

    Returns:
        The averaged weights.

    Raises:
        NonFiniteError: the loss became NaN or infinite; the checkpoints before it stay.
    """
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay, fused=True
    )
    ema = EMA(model, config.ema)
    began_at, seconds = _resume(folder, model, ema, optimizer)
    step = began_at
    folder.mkdir(parents=True, exist_ok=True)

    def save() -> None:
        checkpoint.save(
            folder,
            step,
            {
                "step": step,
                "seconds": seconds,
                "model": model.state_dict(),
                "ema": ema.state_dict(),
                "optimizer": optimizer.state_dict(),
                "config": asdict(config),
            },
        )

    model.train()
    recent: list[float] = []
    with _bar() as bar, (folder / "log.jsonl").open("a", encoding="utf-8") as log:
        task = bar.add_task("training", total=1.0, loss=math.nan, step=step)
        while config.progress(step, seconds) < 1:
            began = time.monotonic()
            rate = config.rate(step, seconds)
            for group in optimizer.param_groups:
                group["lr"] = rate
            generator = step_generator(config.seed, step)
            value = loss(model, batch(generator), generator)
            if not torch.isfinite(value):
                raise NonFiniteError(f"The loss is {value.item()} at step {step}. A lower learning rate usually helps.")
            optimizer.zero_grad(set_to_none=True)
            value.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), config.clip)
            optimizer.step()
            ema.update(model)
            step += 1
            seconds += min(time.monotonic() - began, LONGEST_STEP)
            recent.append(value.item())
            bar.update(task, completed=config.progress(step, seconds), loss=sum(recent) / len(recent), step=step)
            if step % config.log_every == 0 or config.progress(step, seconds) >= 1:
                line = {"step": step, "loss": sum(recent) / len(recent), "rate": rate, "seconds": round(seconds, 1)}
                print(json.dumps(line), file=log, flush=True)
                recent.clear()
            if step % config.save_every == 0:
                save()
        if began_at < step and step % config.save_every:
            save()
    return ema


def _resume(folder: Path, model: nn.Module, ema: EMA, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    state = checkpoint.load_newest(folder)
    if state is None:
        return 0, 0.0
    model.load_state_dict(state["model"])
    ema.load_state_dict(state["ema"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"]), float(state["seconds"])


def _bar() -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%  step {task.fields[step]}  loss {task.fields[loss]:.4f}"),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )
