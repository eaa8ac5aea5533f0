"""Checkpoints are whole or absent, damage is noticed, and a killed run loses nothing."""

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lienzo.errors import OutputError
from lienzo.training import checkpoint

STEP = "step-{:08d}"


def save(folder: Path, step: int, *, best: bool = False, keep: int = 2, size: int = 1000) -> Path:
    parts = {"model": {"x": torch.full((size,), float(step))}, "optimizer": {"x/step": torch.tensor(step)}}
    return checkpoint.save(folder, step, parts, {"seconds": 1.5}, keep=keep, best=best)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_round_trip_and_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step)
    assert names(tmp_path) == ["latest", STEP.format(2), STEP.format(3)]
    assert (tmp_path / "latest").read_text() == STEP.format(3) + "\n"
    found = checkpoint.load_newest(tmp_path)
    assert found is not None and found.step == 3 and found.meta == {"seconds": 1.5}
    assert torch.equal(found.tensors("model")["x"], torch.full((1000,), 3.0))
    assert found.tensors("optimizer")["x/step"].item() == 3


def test_the_best_stays(tmp_path: Path) -> None:
    for step in range(1, 6):
        save(tmp_path, step, best=step == 2)
    assert names(tmp_path) == ["best", "latest", STEP.format(2), STEP.format(4), STEP.format(5)]
    best = checkpoint.load_best(tmp_path)
    assert best is not None and best.step == 2


def test_none_where_there_is_none(tmp_path: Path) -> None:
    assert checkpoint.load_newest(tmp_path / "nowhere") is None
    assert checkpoint.load_best(tmp_path) is None


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "checkpoint.json"])
@pytest.mark.parametrize(
    "damage",
    [flipped, lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"nonsense" * 99, None],
    ids=["one bit", "half", "empty", "nonsense", "gone"],
)
def test_a_damaged_checkpoint_is_passed_over(
    tmp_path: Path, file: str, damage: Callable[[bytes], bytes] | None
) -> None:
    save(tmp_path, 1)
    path = save(tmp_path, 2) / file
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(UserWarning, match="step-00000002 cannot be read"):
        found = checkpoint.load_newest(tmp_path)
    assert found is not None and found.step == 1
    again = save(tmp_path, 2)  # going on from step 1 leads to step 2 again
    assert checkpoint.load(again).step == 2


def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    save(tmp_path, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # writing beyond fails as on a full disk
    try:
        with pytest.raises(OutputError, match=r"step 2 cannot be written .*step-00000001 stays as it was.*Make room"):
            save(tmp_path, 2, size=1_000_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == ["latest", STEP.format(1)]
    found = checkpoint.load_newest(tmp_path)
    assert found is not None and found.step == 1
    save(tmp_path, 2, size=1_000_000)


# One process imports everything; its forks train and are killed, so that twenty of them cost seconds.
SOAK = """
import os, random, signal, sys, time, warnings
from pathlib import Path
import torch
torch.set_num_threads(1)
from torch import nn
from lienzo.training.config import *
from lienzo.training.loop import train
from safetensors.torch import save_file

folder, kills = Path(sys.argv[1]), int(sys.argv[2])
config = TrainConfig(
    optimizer=OptimizerConfig(learning_rate=1e-2), schedule=RateConfig(shape="cosine", warmup=5),
    run=RunConfig(steps=60, batch_size=8, save_every=2, ema=0.9), watch=WatchConfig(log_every=1, validate_every=7),
)

def run(name):
    child = os.fork()
    if child:
        return child
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 64), nn.Tanh(), nn.Linear(64, 1))
    def loss(net, x, share):
        time.sleep(0.003)
        return (net(x) - x.sum(1, keepdim=True) - 0.1 * share.normal("noise", 1)).square().mean()
    from lienzo.training.watch import Hooks
    def validate(net):
        return {"loss": sum(float(p.square().sum()) for p in net.parameters())}
    end = train(net, loss, lambda share: share.normal("x", 3), config, folder / name, Hooks(validate=validate))
    save_file({k: v.detach().contiguous() for k, v in net.state_dict().items()}, folder / f"{name}-end.safetensors")
    save_file(dict(end.weights), folder / f"{name}-average.safetensors")
    os._exit(0)

began = time.monotonic()
assert os.waitpid(run("whole"), 0)[1] == 0
takes = time.monotonic() - began
random.seed(0)
killed = 0
while True:
    child = run("killed")
    # at any moment: while it resumes, steps, writes, renames, removes; short enough that the run never ends too early
    time.sleep(random.uniform(0, takes * 3 / kills) if killed < kills else 10 * takes)
    done, status = os.waitpid(child, os.WNOHANG)
    if done:
        assert status == 0, status
        break
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    killed += 1
print(killed, file=sys.stderr)
print(killed)
"""


@pytest.mark.filterwarnings("ignore")
def test_twenty_kills_at_any_moment_change_no_bit(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SOAK, str(tmp_path), "20"], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) >= 20
    for what in ("end", "average"):
        whole, killed = (load_file(tmp_path / f"{name}-{what}.safetensors") for name in ("whole", "killed"))
        assert all(torch.equal(value, killed[name]) for name, value in whole.items()), what
    logs = [
        [
            {k: v for k, v in json.loads(line).items() if k not in ("seconds", "samples_per_second")}
            for line in (tmp_path / name / "log.jsonl").read_text().splitlines()
        ]
        for name in ("whole", "killed")
    ]
    assert logs[0] == logs[1]
