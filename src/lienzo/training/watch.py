"""What one sees of a run: a progress bar, a JSON Lines log, TensorBoard, sample sheets, validation, energy."""

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import torch
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from lienzo.errors import MissingExtraError, OutputError
from lienzo.images import png
from lienzo.training.checkpoint import replace_text
from lienzo.training.config import TrainConfig

Model = TypeVar("Model", bound=nn.Module)
LOG, SAMPLES = "log.jsonl", "samples"


@dataclass(frozen=True, kw_only=True)
class Hooks(Generic[Model]):
    """What a recipe wants to be asked on the way. The model then has the weights that one would use (the averages), is in
    evaluation mode and needs no gradients; with several processes, all of them ask, so the answers have to agree.

    Attributes:
        validate: figures by name on pictures that are never trained on. "loss" has to be one; the lowest is the best.
        sample: a sheet of pictures, always of the same prompts and seeds.
        score: figures by name that take longer: FID, CLIP score.
        file: a sheet as the bytes of a PNG file.
    """

    validate: Callable[[Model], Mapping[str, float]] | None = None
    sample: Callable[[Model], Image.Image] | None = None
    score: Callable[[Model], Mapping[str, float]] | None = None
    file: Callable[[Image.Image], bytes] = png


class Watcher:
    """Tells what happens; as a context manager, for the time of a run. Processes other than the first are silent.

    Args:
        folder: of the run; `log.jsonl`, `samples/` and `tensorboard/` go there.
        step: where the run goes on. What the log says about later steps is removed: they will be done again.
        kwh: energy used before.
    """

    def __init__(self, folder: Path, config: TrainConfig, *, step: int, kwh: float, speaks: bool) -> None:
        self.folder, self.config, self.speaks = folder, config, speaks
        self._losses: list[float] = []
        self._began = self._marked = time.monotonic()
        self._kwh = kwh
        self._tracker = _tracker() if speaks and config.watch.energy else None
        self._board = _board(folder, step) if speaks and config.watch.tensorboard else None
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn(
                "{task.percentage:>3.0f}%  step {task.fields[step]}  loss {task.fields[loss]}  "
                "{task.fields[speed]:.1f} samples/s  {task.fields[memory]:.1f} GB"
            ),
            TimeRemainingColumn(),
            console=console,
            disable=not (console.is_terminal and speaks),
        )
        self._task = self._bar.add_task("training", total=1.0, loss="-", step=step, speed=0.0, memory=memory())
        if speaks:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                _forget(folder / LOG, step)
                self._log = (folder / LOG).open("a", encoding="utf-8")
            except OSError as error:
                raise OutputError(f"The log in {folder} cannot be written: {error.strerror or error}.") from None

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        if self._tracker is not None:
            self._tracker.stop()
        if self._board is not None:
            self._board.close()
        if self.speaks:
            self._log.close()

    def step(self, step: int, loss: float, progress: float) -> None:
        """One more step was done."""
        self._losses.append(loss)
        mean = sum(self._losses) / len(self._losses)
        self._bar.update(
            self._task, completed=progress, loss=f"{mean:.4f}", step=step, speed=self._speed(), memory=memory()
        )  # fmt: skip

    def line(self, step: int, seconds: float, **figures: float) -> None:
        """Write the mean loss since the last line, and more figures, to the log and to TensorBoard."""
        mean = sum(self._losses) / max(1, len(self._losses))
        speed = round(self._speed(), 2)
        line = {"step": step, "loss": mean, **figures, "seconds": round(seconds, 1), "samples_per_second": speed}
        self._losses.clear()
        self._marked = time.monotonic()
        self.write(line)

    def write(self, line: Mapping[str, Any]) -> None:
        """Write one line about a step."""
        if not self.speaks:
            return
        try:
            print(json.dumps(line), file=self._log, flush=True)
        except OSError as error:
            raise OutputError(
                f"The log in {self.folder} cannot be written: {error.strerror or error}. The checkpoints stay. Make room and "
                "run the same command again."
            ) from None
        if self._board is not None:
            for name, value in line.items():
                if name != "step" and isinstance(value, (int, float)):
                    self._board.add_scalar(name, value, line["step"])

    def sheet(self, step: int, picture: Image.Image, file: Callable[[Image.Image], bytes]) -> None:
        """Keep a sample sheet."""
        if not self.speaks:
            return
        path = self.folder / SAMPLES / f"step-{step:08d}.png"
        try:
            path.parent.mkdir(exist_ok=True)
            temporary = path.with_suffix(".tmp")
            temporary.write_bytes(file(picture))
            temporary.replace(path)
        except OSError as error:
            raise OutputError(f"The sample sheet {path} cannot be written: {error.strerror or error}.") from None
        if self._board is not None:
            import numpy as np

            self._board.add_image("samples", np.asarray(picture.convert("RGB")), step, dataformats="HWC")

    def energy(self) -> dict[str, Any]:
        """kWh used so far, and whether that is an estimate; empty where it is not measured."""
        if self._tracker is None:
            return {"kwh": self._kwh, "estimate": True} if self._kwh else {}
        used = self._tracker.stop_task()
        self._kwh += float(used.energy_consumed)
        self._tracker.start_task()
        return {"kwh": self._kwh, "estimate": not measured()}

    def _speed(self) -> float:
        return len(self._losses) * self.config.run.batch_size / max(time.monotonic() - self._marked, 1e-9)


def memory() -> float:
    """The most memory so far, GB: the GPU's where there is one, else the process's."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**30 if sys.platform == "darwin" else 2**20)


def measured() -> bool:
    """Whether energy is counted by the hardware (Intel's RAPL for the processor); else codecarbon estimates it."""
    counters = Path("/sys/class/powercap").glob("intel-rapl*/energy_uj")
    return any(os.access(counter, os.R_OK) for counter in counters)


def _forget(log: Path, step: int) -> None:
    """Remove a log's lines about steps after `step`, and a line that a kill cut off."""
    if not log.exists():
        return
    kept = []
    for line in log.read_text(encoding="utf-8").splitlines():
        try:
            if step and json.loads(line)["step"] <= step:  # from the beginning, step 0 is looked at again
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue
    replace_text(log, "".join(kept))


def _tracker() -> Any:
    try:
        from codecarbon import OfflineEmissionsTracker
    except ImportError:
        raise MissingExtraError('watch.energy needs codecarbon. Run: pip install "lienzo[train]"') from None
    # the country only matters for grams of CO2, which are not told; offline, so that nothing is sent anywhere
    tracker = OfflineEmissionsTracker(
        country_iso_code="ESP",
        save_to_file=False,
        log_level="critical",
        allow_multiple_runs=True,
        measure_power_secs=15,
    )
    tracker.start_task()
    return tracker


def _board(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingExtraError('watch.tensorboard needs tensorboard. Run: pip install "lienzo[train]"') from None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
