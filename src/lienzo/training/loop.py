"""The one loop: parts of a batch, gradients, optimizer, average, checkpoints, and what one sees of it.

All randomness is a function of (seed, step, number of the sample in the global batch); see `lienzo.training.share`. So a
run that was interrupted and started again with the same command equals one that never stopped, and a run on two processes
equals one on one process to rounding.
"""

import math
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from lienzo.errors import ConfigError, NonFiniteError
from lienzo.memory import keep_freed_memory
from lienzo.training import checkpoint, optimizers
from lienzo.training.blocks import compile_blocks, recomputed
from lienzo.training.config import TrainConfig
from lienzo.training.distributed import Strategy, strategy
from lienzo.training.ema import EMA, copy
from lienzo.training.share import Share
from lienzo.training.stopping import stops_noted
from lienzo.training.watch import Hooks, Watcher

Model = TypeVar("Model", bound=nn.Module)
Batch = TypeVar("Batch")

LONGEST_STEP = 10.0
"""Seconds that one step counts at most towards `run.minutes`: a paused process does not spend its time."""
MAY_CHANGE = {"steps", "minutes", "save_every", "keep", "checkpointing", "compile", "accumulate", "ema_on_cpu"}
"""Settings of `run` that may be others when it goes on. Steps and minutes are how one prolongs it."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a run came to.

    Attributes:
        weights: what to use, by name, whole and on the CPU or the model's device: averages where there are any. Only of
            what learned.
        steps, seconds: done and spent in them.
        loss: the mean loss that the log has last; NaN where nothing was left to do.
        best: {"step", "loss"} of the best validation, or None.
        energy: {"kwh", "estimate"}, or empty.
    """

    weights: Mapping[str, Tensor]
    steps: int
    seconds: float
    best: Mapping[str, float] | None
    energy: Mapping[str, Any]

    def copy_to(self, model: nn.Module) -> None:
        """Give a model of the same kind these weights."""
        copy(self.weights, learning(model))


class Step(nn.Module, Generic[Model, Batch]):
    """The loss of one part of a batch as a module, which is what the ways to share work want."""

    def __init__(
        self, model: Model, loss: Callable[[Model, Batch, Share], Tensor], precision: torch.dtype, device: str
    ) -> None:
        super().__init__()
        self.model, self.loss, self.precision, self.device = model, loss, precision, device

    def forward(self, batch: Batch, share: Share) -> Tensor:
        with torch.autocast(self.device, self.precision, enabled=self.precision != torch.float32):
            return self.loss(self.model, batch, share).float()


def learning(model: nn.Module) -> dict[str, Tensor]:
    """What changes in training, by name: parameters that need gradients, and buffers that are kept."""
    frozen = {name for name, p in model.named_parameters(remove_duplicate=False) if not p.requires_grad}
    # keep_vars: the parameters themselves, whose memory order and sharding matter
    return {name: value for name, value in model.state_dict(keep_vars=True).items() if name not in frozen}


def train(
    model: Model,
    loss: Callable[[Model, Batch, Share], Tensor],
    batch: Callable[[Share], Batch],
    config: TrainConfig,
    folder: Path,
    hooks: Hooks[Model] | None = None,
) -> Trained:
    """Train `model` in place; resume from `folder` if it holds a checkpoint.

    In the end the model has the last step's weights; `Trained.copy_to` gives it those that one would use.

    Args:
        model: what needs gradients learns, in fp32; the rest is frozen and makes no graph. On `distributed.device()`.
        loss: a pure function of the model, a batch and the share, which has all random numbers: the mean over samples.
        batch: a pure function of the share: its samples. A batch with an attribute `keys` (the records' names) is named in
            errors.
        folder: for checkpoints, `log.jsonl` and `samples/`.
        hooks: validation, samples and scores.

    The first Ctrl-C or SIGTERM is obeyed after the step, which is kept; the second at once.

    Raises:
        NonFiniteError: the loss or its gradient became NaN or infinite; the step was not taken, and the checkpoints before
            it stay.
        OutputError: a checkpoint or the log could not be written; likewise.
        ConfigError: settings that do not go together.

    Warns:
        UserWarning: the folder's checkpoint is damaged, or was made with other settings.
    """
    keep_freed_memory()
    run, hooks = config.run, hooks or Hooks()
    _check(model, config)
    with ExitStack() as stack:
        place = next(model.parameters()).device.type
        module = Step(model, loss, DTYPES[run.precision], place)
        if run.checkpointing:
            stack.enter_context(recomputed(model))
        ways = strategy(module, config)
        if run.compile:
            compile_blocks(model)
        state = _State(model, ways, config, place)
        began_at = state.resume(folder)
        shown = stack.enter_context(
            Watcher(folder, config, step=state.step, kwh=state.kwh, speaks=ways.rank == 0)
        )  # fmt: skip
        if began_at == 0:
            _look_before(hooks, model, state, shown)
        model.train()
        noted = stack.enter_context(stops_noted())
        while config.progress(state.step, state.seconds) < 1:
            began = time.monotonic()
            factor = config.rate(state.step, state.seconds)
            rate = optimizers.set_rate(state.optimizer, factor)
            parts = _parts(config, state.step, ways)
            value, norm = _gradients(ways, state, batch, parts)
            state.update(norm)
            # all processes have to agree on the time, and on whether one of them is to stop
            agreed = torch.tensor([min(time.monotonic() - began, LONGEST_STEP), noted()], dtype=torch.float64)
            spent, stop = (ways.mean(agreed.to(place)) if ways.world > 1 else agreed).tolist()
            state.seconds += spent
            done = config.progress(state.step, state.seconds)
            shown.step(state.step, value, done)

            if state.step % config.watch.log_every == 0 or done >= 1:
                shown.line(state.step, state.seconds, rate=rate, **({} if norm is None else {"gradient": norm}))
            better = _ask(hooks, model, state, config, shown, last=done >= 1)
            if state.step % run.save_every == 0 or better or done >= 1 or stop:
                state.save(folder, shown.energy(), best=better)
            if stop and done < 1:
                raise _stopped(noted(), state.step)
        model.eval()
        energy = shown.energy()
        if began_at == state.step and not energy and state.kwh:
            energy = {"kwh": state.kwh, "estimate": True}
        with state.in_use():
            weights = {name: ways.full(value, value).clone() for name, value in state.tensors.items()}
        ways.release()
        return Trained(weights=weights, steps=state.step, seconds=state.seconds, best=state.best, energy=energy)


def _stopped(number: int, step: int) -> BaseException:
    if number == signal.SIGTERM:
        return SystemExit(128 + number)
    return KeyboardInterrupt(f"Stopped after step {step}, which is kept. The same command goes on from there.")


def _check(model: nn.Module, config: TrainConfig) -> None:
    trained = {name: p.dtype for name, p in model.named_parameters() if p.requires_grad}
    if not trained:
        raise ConfigError("Nothing is to be trained: no parameter of the model needs gradients.")
    low = [name for name, dtype in trained.items() if dtype != torch.float32]
    if low:
        raise ConfigError(
            f"{low[0]} is {trained[low[0]]}: what learns has to be fp32, small steps vanish in less. Load the model with "
            'dtype="fp32"; run.precision makes the arithmetic faster all the same.'
        )
    if config.optimizer.name == "schedulefree" and config.run.ema is not None:
        raise ConfigError('Schedule-free AdamW averages the weights itself: set run.ema to "none" (in Python None).')


def _parts(config: TrainConfig, step: int, ways: Strategy) -> list[Share]:
    """What this process does of a step."""
    run = config.run
    count = ways.world * run.accumulate
    return [
        Share(seed=run.seed, step=step, index=ways.rank * run.accumulate + i, count=count, size=run.batch_size // count)
        for i in range(run.accumulate)
    ]


def _gradients(
    ways: Strategy, state: "_State[Any]", batch: Callable[[Share], Any], parts: list[Share]
) -> tuple[float, float | None]:
    """Leave the step's gradient in the parameters. Returns its loss and the gradient's norm, where that can be seen.

    Raises:
        NonFiniteError: one of them is not finite.
    """
    ways.clear(state.optimizer)
    values: list[Tensor] = []
    keys: list[Any] = []
    for share in parts:
        data = batch(share)
        with ways.part(last=share is parts[-1]):
            value = ways.module(data, share)
            scaled = value if ways.divides else value / len(parts)
            ways.backward(state.scaler.scale(scaled) if state.scaler else scaled)
        values.append(value.detach())
        keys.append(getattr(data, "keys", None))
    own = torch.stack(values)
    mean = ways.mean(own.mean())
    if state.scaler:
        state.scaler.unscale_(state.optimizer)
    norm = ways.norm(state.parameters)
    figures = [mean] if norm is None else [mean, norm.to(mean)]
    loss, *sizes = torch.stack(figures).tolist()  # the only time a step waits for the device
    if not math.isfinite(loss):
        raise NonFiniteError(_blame("loss", loss, parts, own, keys))
    # with scaled fp16 gradients, an overflow now and then is how the scale is found: that step is left out
    if not state.scaler and not all(map(math.isfinite, sizes)):
        raise NonFiniteError(_blame("gradient's norm", sizes[0], parts, own, keys))
    return loss, sizes[0] if sizes else None


def _blame(what: str, value: float, parts: list[Share], own: Tensor, keys: list[Any]) -> str:
    step = parts[0].step
    bad = [i for i, finite in enumerate(own.isfinite().tolist()) if not finite] or list(range(len(parts)))
    if what == "loss" and bool(own.isfinite().all()):
        where = "it came from another process, whose message names the batch"
    else:
        numbers = ", ".join(f"{parts[i].numbers[0]} to {parts[i].numbers[-1]}" for i in bad)
        names = [str(key) for i in bad if isinstance(keys[i], (tuple, list)) for key in keys[i]]
        where = f"samples {numbers} of the batch" + (f": {', '.join(names)}" if names else "")
    return _failed(what, value, step, where)


def _failed(what: str, value: float | str, step: int, where: str) -> str:
    return (
        f"The {what} is {value} at step {step} ({where}). The step was not taken; the checkpoints before it stay. "
        "A lower learning rate usually helps; fp16 may need bf16 or fp32."
    )


def _ask(
    hooks: Hooks[Model], model: Model, state: "_State[Model]", config: TrainConfig, shown: Watcher, *, last: bool
) -> bool:
    """Validate, sample and score where it is time to. Returns whether the validation was the best so far."""
    watch, step, better = config.watch, state.step, False
    due = [
        (hooks.validate, watch.validate_every),
        (hooks.sample, watch.sample_every),
        (hooks.score, watch.score_every),
    ]
    if not any(hook and every and (last or step % every == 0) for hook, every in due):
        return False
    model.eval()
    with state.in_use(), state.ways.whole(), torch.no_grad():
        for hook, every in due:
            if hook is None or every is None or not (last or step % every == 0):
                continue
            found = hook(model)
            if not isinstance(found, Mapping):
                shown.sheet(step, found, hooks.file)
                continue
            name = "validation" if hook is hooks.validate else "score"
            shown.write({"step": step, **{f"{name}/{key}": value for key, value in found.items()}})
            if hook is hooks.validate and (state.best is None or found["loss"] < state.best["loss"]):
                state.best, better = {"step": step, "loss": found["loss"]}, True
    model.train()
    return better


def _look_before(hooks: Hooks[Model], model: Model, state: "_State[Model]", shown: Watcher) -> None:
    """What the model can do before the first step, to compare with."""
    model.eval()
    with state.in_use(), state.ways.whole(), torch.no_grad():
        if hooks.validate is not None:
            shown.write({"step": 0, **{f"validation/{key}": value for key, value in hooks.validate(model).items()}})
        if hooks.sample is not None:
            shown.sheet(0, hooks.sample(model), hooks.file)


class _State(Generic[Model]):
    """Everything that changes in a run, and how it is kept."""

    def __init__(self, model: Model, ways: Strategy, config: TrainConfig, device: str) -> None:
        self.ways, self.config = ways, config
        self.model = model
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.optimizer = optimizers.make(self.parameters, config.optimizer)
        tensors = learning(model)
        ways.engage(self.optimizer)
        run = config.run
        self.tensors = ways.held(tensors)
        self.ema = EMA(self.tensors, run.ema, "cpu" if run.ema_on_cpu else None) if run.ema is not None else None
        self.scaler = torch.amp.GradScaler(device) if run.precision == "fp16" else None
        self.step, self.seconds, self.kwh = 0, 0.0, 0.0
        self.best: dict[str, float] | None = None
        self._saved = -1

    def update(self, norm: float | None) -> None:
        """Clip, step, average."""
        clip = self.config.optimizer.clip
        if clip is not None and norm is not None and norm > clip:
            grads = [p.grad for p in self.parameters.values() if p.grad is not None]
            torch._foreach_mul_(grads, clip / (norm + 1e-6))
        if self.scaler:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        elif not self.ways.step(self.optimizer):
            raise NonFiniteError(_failed("gradient's norm", "not finite", self.step, "DeepSpeed does not say where"))
        if self.ema:
            self.ema.update()
        self.step += 1

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Inside, the model has the weights that one would use."""
        with self.ema.applied() if self.ema else optimizers.evaluating(self.optimizer):
            yield

    def save(self, folder: Path, energy: Mapping[str, Any], *, best: bool) -> None:
        ways = self.ways
        tensors, rest = ways.state(self.optimizer, self.parameters)
        parts = {
            "model": {name: ways.full(value, value) for name, value in self.tensors.items()},
            "optimizer": tensors,
        }
        if self.ema:
            parts["ema"] = {name: ways.full(value, self.tensors[name]) for name, value in self.ema.average.items()}
        meta = {
            "seconds": self.seconds,
            "optimizer": rest,
            "ema_updates": self.ema.updates if self.ema else None,
            "scaler": self.scaler.state_dict() if self.scaler else None,
            "best": self.best,
            "kwh": energy.get("kwh", 0.0),
            "config": self.config.model_dump(mode="json"),
        }
        if ways.rank == 0:
            checkpoint.save(folder, self.step, parts, meta, keep=self.config.run.keep, best=best)
        ways.barrier()

    def resume(self, folder: Path) -> int:
        """Go on from the newest whole checkpoint. Returns the step."""
        found = checkpoint.load_newest(folder)
        if found is None:
            return 0
        meta, place = found.meta, self.ways.place
        self._compare(meta["config"], folder)
        weights = found.tensors("model")
        if weights.keys() != self.tensors.keys():
            odd = sorted(weights.keys() ^ self.tensors.keys())
            raise ConfigError(
                f"{found.path} is of another model: {len(odd)} tensors differ, {odd[0]!r} first. Name another folder."
            )
        shapes = {name: self.ways.shape(value) for name, value in self.tensors.items()}
        wrong = [name for name, value in weights.items() if value.shape != shapes[name]]
        if wrong:
            raise ConfigError(
                f"{found.path} is of another model: {wrong[0]!r} is {list(weights[wrong[0]].shape)} there and "
                f"{list(shapes[wrong[0]])} here. Name another folder."
            )
        with torch.no_grad():
            for name, value in weights.items():
                self.tensors[name].copy_(place(value, self.tensors[name]))
            if self.ema and meta["ema_updates"] is not None:
                self.ema.updates = meta["ema_updates"]
                for name, value in found.tensors("ema").items():
                    self.ema.average[name].copy_(place(value, self.tensors[name]))
        self.ways.load_state(self.optimizer, self.parameters, found.tensors("optimizer"), meta["optimizer"])
        if self.scaler and meta["scaler"]:
            self.scaler.load_state_dict(meta["scaler"])
        self.step, self.seconds, self.best, self.kwh = found.step, meta["seconds"], meta["best"], meta["kwh"]
        return self.step

    def _compare(self, old: Mapping[str, Any], folder: Path) -> None:
        """Warn of settings that the run began with otherwise."""
        new = self.config.model_dump(mode="json")
        changed = [
            f"{section}.{key} was {value!r}, is {new[section].get(key)!r}"
            for section in ("optimizer", "schedule", "run", "loss", "adapter", "data")
            for key, value in old.get(section, {}).items()
            if new[section].get(key) != value and not (section == "run" and key in MAY_CHANGE)
        ]
        if changed and self.ways.rank == 0:
            warnings.warn(
                f"The run in {folder} goes on with other settings than it began with: {'; '.join(changed)}.",
                stacklevel=4,
            )
