"""The trainer: it learns, it resumes bit for bit, it does not count pauses, it stops on NaN."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor, nn

from lienzo.errors import NonFiniteError
from lienzo.training import checkpoint, loop
from lienzo.training.ema import EMA
from lienzo.training.loop import TrainConfig, step_generator, train

CONFIG = TrainConfig(steps=60, learning_rate=3e-2, warmup=5, save_every=20, log_every=10, ema=0.9)


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1))


def batch(generator: Generator) -> Tensor:
    return torch.randn(32, 3, generator=generator)


def loss(net: nn.Module, x: Tensor, generator: Generator) -> Tensor:
    noise = torch.randn(len(x), 1, generator=generator)
    return (net(x) - x.prod(dim=1, keepdim=True) - 0.01 * noise).square().mean()


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


def test_the_loss_falls(tmp_path: Path) -> None:
    train(model(), loss, batch, CONFIG, tmp_path)
    found = losses(tmp_path)
    assert found[-1] < 0.6 * found[0]


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = model()
    average = train(whole, loss, batch, CONFIG, tmp_path / "whole")

    calls = 0

    def interrupted(net: nn.Module, x: Tensor, generator: Generator) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 37:
            raise KeyboardInterrupt
        return loss(net, x, generator)

    with pytest.raises(KeyboardInterrupt):
        train(model(), interrupted, batch, CONFIG, tmp_path / "parts")
    assert [path.name for path in checkpoint.checkpoints(tmp_path / "parts")] == ["step-00000020.pt"]
    resumed = model()
    again = train(resumed, loss, batch, CONFIG, tmp_path / "parts")

    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
        assert torch.equal(average.average[name], again.average[name]), name


def test_a_finished_run_does_nothing_more(tmp_path: Path) -> None:
    first = train(model(), loss, batch, CONFIG, tmp_path)
    lines = losses(tmp_path)
    again = train(model(), loss, batch, CONFIG, tmp_path)
    assert losses(tmp_path) == lines
    assert all(torch.equal(first.average[name], again.average[name]) for name in first.average)


def test_time_limited_and_pauses_are_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 3600.0  # every step seems to take an hour: the process was paused
        return now

    monkeypatch.setattr(loop.time, "monotonic", clock)
    train(model(), loss, batch, TrainConfig(steps=1000, minutes=2, log_every=1), tmp_path)
    assert len(losses(tmp_path)) == 2 * 60 / loop.LONGEST_STEP


def test_nan_stops_and_leaves_the_checkpoints(tmp_path: Path) -> None:
    def bad(net: nn.Module, x: Tensor, generator: Generator) -> Tensor:
        value = loss(net, x, generator)
        return value * math.nan if (tmp_path / "step-00000020.pt").exists() else value

    with pytest.raises(NonFiniteError, match="step 20"):
        train(model(), bad, batch, CONFIG, tmp_path)
    state = checkpoint.load_newest(tmp_path)
    assert state is not None and state["step"] == 20


def test_learning_rate_rises_then_falls_to_zero() -> None:
    config = TrainConfig(steps=100, learning_rate=1.0, warmup=10)
    rates = [config.rate(step, 0.0) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and max(rates) > 0.97 and rates[100] == pytest.approx(0.0)
    assert rates.index(max(rates)) == 9
    assert TrainConfig(steps=100, minutes=1, warmup=0).rate(0, 60.0) == pytest.approx(0.0)


def test_a_steps_randomness_depends_on_seed_and_step_only() -> None:
    def draw(seed: int, step: int) -> float:
        return torch.rand((), generator=step_generator(seed, step)).item()

    assert draw(1, 2) == draw(1, 2)
    assert len({draw(seed, step) for seed in range(5) for step in range(5)}) == 25


def test_the_average_is_warmed_up() -> None:
    net = nn.Linear(1, 1)
    ema = EMA(net, decay=0.999)
    with torch.no_grad():
        net.weight.fill_(5.0)
    for _ in range(50):
        ema.update(net)
    assert ema.average["weight"].item() == pytest.approx(5.0, abs=0.01)
