"""Checkpoints are whole or absent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lienzo.training import checkpoint

WRITER = """
import sys, torch
from pathlib import Path
from lienzo.training import checkpoint
for step in range(1, 10**6):
    checkpoint.save(Path(sys.argv[1]), step, {"step": step, "data": torch.full((300_000,), float(step))})
"""


def test_round_trip_and_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, step, {"step": step, "x": torch.arange(step)})
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step-00000002.pt", "step-00000003.pt"]
    state = checkpoint.load_newest(tmp_path)
    assert state is not None and state["step"] == 3 and torch.equal(state["x"], torch.arange(3))


def test_none_where_there_is_none(tmp_path: Path) -> None:
    assert checkpoint.load_newest(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"nonsense" * 99]
)
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, damage: object) -> None:
    checkpoint.save(tmp_path, 1, {"step": 1})
    newest = checkpoint.save(tmp_path, 2, {"step": 2, "x": torch.zeros(1000)})
    newest.write_bytes(damage(newest.read_bytes()))  # type: ignore[operator]
    with pytest.warns(UserWarning, match="step-00000002.pt cannot be read"):
        state = checkpoint.load_newest(tmp_path)
    assert state == {"step": 1}


def test_code_in_a_checkpoint_is_never_run(tmp_path: Path) -> None:
    canary = tmp_path / "canary"

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return os.system, (f"touch {canary}",)

    torch.save({"step": 9, "evil": Evil()}, tmp_path / "step-00000009.pt")
    with pytest.warns(UserWarning, match="cannot be read"):
        assert checkpoint.load_newest(tmp_path) is None
    assert not canary.exists()


def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)])
    try:
        deadline = time.monotonic() + 30
        while len(checkpoint.checkpoints(tmp_path)) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    state = checkpoint.load_newest(tmp_path)
    assert state is not None and torch.equal(state["data"], torch.full((300_000,), float(state["step"])))
