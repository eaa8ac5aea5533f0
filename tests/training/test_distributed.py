"""Two processes on the CPU (gloo) come to what one process comes to, to rounding, in every way to share the work."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

WORKER = """
import json, sys, warnings
warnings.simplefilter("ignore")
import torch
torch.set_num_threads(1)
from pathlib import Path
sys.path[:0] = json.loads(sys.argv[3])
from lienzo.diffusion.schedule import Schedule
from lienzo.errors import NonFiniteError
from lienzo.training.config import TrainConfig
from lienzo.training.loop import train
from lienzo.training.losses import diffusion_loss
from training.test_losses import EMPTY, SCHEDULE, conditioned, two_flat_pictures
from safetensors.torch import save_file
import torch.distributed as dist

folder, config = Path(sys.argv[1]), json.loads(sys.argv[2])
bad = config.pop("bad", None)
model = conditioned()
loss = diffusion_loss(Schedule(SCHEDULE), empty=EMPTY, dropout=0.1)
def maybe(model, batch, share):
    value = loss(model, batch, share)
    return value * float("nan") if bad is not None and share.step == bad and 15 in share.numbers else value
try:
    end = train(model, maybe, two_flat_pictures, TrainConfig.model_validate(config), folder)
except NonFiniteError as error:
    print(error, flush=True)
    sys.exit(3)
if not dist.is_initialized() or dist.get_rank() == 0:
    save_file({k: v.contiguous() for k, v in end.weights.items()}, folder / "end.safetensors")
if dist.is_initialized():
    dist.barrier()
    dist.destroy_process_group()
"""
TESTS = Path(__file__).parent.parent
CONFIG = {
    "optimizer": {"learning_rate": 1e-3, "clip": 0.5},
    "schedule": {"warmup": 2},
    "run": {"steps": 6, "batch_size": 16, "ema": 0.9, "save_every": 3},
    "watch": {"log_every": 1},
}


def run(folder: Path, processes: int, *, code: int = 0, **settings: dict[str, Any] | int) -> dict[str, Tensor]:
    folder.mkdir(exist_ok=True)
    script = folder / "worker.py"
    script.write_text(WORKER)
    config: dict[str, Any] = {k: dict(v) for k, v in CONFIG.items()}  # type: ignore[call-overload]
    for key, value in settings.items():
        config[key] = {**config.get(key, {}), **value} if isinstance(value, dict) else value
    launch = [sys.executable]
    if processes > 1:
        launch += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    done = subprocess.run(
        [*launch, str(script), str(folder), json.dumps(config), json.dumps([str(TESTS)])],
        capture_output=True, text=True, timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1", "DS_BUILD_OPS": "0", "DS_ACCELERATOR": "cpu", "GLOO_SOCKET_IFNAME": "lo"},
    )  # fmt: skip
    if code:
        assert done.returncode != 0
        return {"text": done.stdout}  # type: ignore[dict-item]
    assert done.returncode == 0, done.stdout + done.stderr
    return load_file(folder / "end.safetensors")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    return run(tmp_path_factory.mktemp("alone"), 1)


def difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


@pytest.mark.parametrize(
    "settings",
    [
        {"distributed": {"strategy": "ddp"}},
        {"distributed": {"strategy": "ddp"}, "run": {"accumulate": 2, "checkpointing": True}},
        {"distributed": {"strategy": "fsdp"}},
        {"distributed": {"strategy": "fsdp"}, "run": {"accumulate": 2, "checkpointing": True}},
    ],
    ids=["ddp", "ddp in parts", "fsdp", "fsdp in parts"],
)
def test_two_processes_equal_one(tmp_path: Path, alone: dict[str, Tensor], settings: dict[str, Any]) -> None:
    # six steps of at most 1e-3 each: a step taken otherwise would show at 1e-3
    assert difference(run(tmp_path, 2, **settings), alone) < 2e-5


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed")
def test_deepspeed_equals_one_process_and_goes_on(tmp_path: Path, alone: dict[str, Tensor]) -> None:
    file = tmp_path / "zero.json"
    file.write_text(json.dumps({"zero_optimization": {"stage": 2}}))
    settings = {"distributed": {"strategy": "deepspeed", "deepspeed": str(file)}}
    run(tmp_path / "run", 2, **settings, run={"steps": 3})  # type: ignore[arg-type]
    assert difference(run(tmp_path / "run", 2, **settings), alone) < 2e-5  # type: ignore[arg-type]


def test_a_run_goes_on_with_other_processes_and_another_strategy(tmp_path: Path, alone: dict[str, Tensor]) -> None:
    run(tmp_path, 2, distributed={"strategy": "fsdp"}, run={"steps": 3})
    assert difference(run(tmp_path, 1), alone) < 2e-5
    (tmp_path / "other").mkdir()
    run(tmp_path / "other", 1, run={"steps": 3})
    assert difference(run(tmp_path / "other", 2, distributed={"strategy": "fsdp"}), alone) < 2e-5


def test_all_processes_stop_where_one_has_nan(tmp_path: Path) -> None:
    text = str(run(tmp_path, 2, code=3, bad=4)["text"])
    assert "samples 8 to 15 of the batch: picture" in text
    found = sorted(path.name for path in tmp_path.glob("step-*"))
    assert found == ["step-00000003"]
