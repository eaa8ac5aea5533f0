"""The trainer: it learns, it resumes bit for bit, it does not count pauses, it stops on what is not finite."""

import json
import math
import os
import shutil
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from lienzo.errors import ConfigError, MissingExtraError, NonFiniteError, OutputError
from lienzo.nn.blocks import ResBlock
from lienzo.training import checkpoint, loop, watch
from lienzo.training.config import OptimizerConfig, RateConfig, RunConfig, TrainConfig, WatchConfig
from lienzo.training.ema import EMA
from lienzo.training.loop import train
from lienzo.training.share import Share
from lienzo.training.watch import Hooks


def config(
    *, optimizer: Mapping[str, Any] | None = None, watch: Mapping[str, Any] | None = None, **run: Any
) -> TrainConfig:
    return TrainConfig(
        optimizer=OptimizerConfig(**{"learning_rate": 3e-2, "betas": (0.9, 0.99), **(optimizer or {})}),
        schedule=RateConfig(shape="cosine", warmup=5),
        run=RunConfig(**{"steps": 60, "save_every": 20, "ema": 0.9, "batch_size": 32, **run}),
        watch=WatchConfig(**{"log_every": 10, **(watch or {})}),
    )


CONFIG = config()


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1))


def batch(share: Share) -> Tensor:
    return share.normal("x", 3)


def loss(net: nn.Module, x: Tensor, share: Share) -> Tensor:
    noise = share.normal("noise", 1)
    return (net(x) - x.sum(dim=1, keepdim=True) - 0.01 * noise).square().mean()


def lines(folder: Path, key: str = "loss") -> list[Any]:
    return [line[key] for text in (folder / "log.jsonl").read_text().splitlines() if key in (line := json.loads(text))]


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def interrupted(at: int) -> Callable[[nn.Module, Tensor, Share], Tensor]:
    def stops(net: nn.Module, x: Tensor, share: Share) -> Tensor:
        if share.step == at:
            raise KeyboardInterrupt
        return loss(net, x, share)

    return stops


def test_the_loss_falls(tmp_path: Path) -> None:
    train(model(), loss, batch, CONFIG, tmp_path)
    found = lines(tmp_path)
    assert found[-1] < 0.6 * found[0]


def _here(name: str) -> bool:
    try:
        __import__(name)
    except ImportError:
        return False
    return True


EIGHT = pytest.mark.skipif(not _here("bitsandbytes"), reason="bitsandbytes is not installed")
FREE = pytest.mark.skipif(not _here("schedulefree"), reason="schedulefree is not installed")


@pytest.mark.parametrize(
    "chosen",
    [
        config(),
        config(accumulate=4, precision="bf16"),
        config(precision="fp16"),
        config(optimizer={"name": "adafactor", "betas": (0.9, 0.999)}),
        pytest.param(config(optimizer={"name": "adamw8bit"}), marks=EIGHT),
        pytest.param(config(optimizer={"name": "schedulefree"}, ema=None), marks=FREE),
        config(ema=None),
        config(ema_on_cpu=True),
    ],
    ids=["plain", "bf16", "fp16", "adafactor", "adamw8bit", "schedulefree", "no average", "average on CPU"],
)
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, chosen: TrainConfig) -> None:
    whole = model()
    end = train(whole, loss, batch, chosen, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(model(), interrupted(36), batch, chosen, tmp_path / "parts")
    assert [path.name for path in checkpoint.checkpoints(tmp_path / "parts")] == ["step-00000020"]
    resumed = model()
    again = train(resumed, loss, batch, chosen, tmp_path / "parts")
    assert same(whole, resumed)
    assert all(torch.equal(value, again.weights[name]) for name, value in end.weights.items())
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")
    assert lines(tmp_path / "whole")[-1] < 0.9 * lines(tmp_path / "whole")[0]


def test_memory_order_survives(tmp_path: Path) -> None:
    def net() -> nn.Module:
        torch.manual_seed(0)
        return nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def conv_loss(net: nn.Module, x: Tensor, share: Share) -> Tensor:
        return (net(x) - 1).square().mean()  # type: ignore[no-any-return]

    def pictures(share: Share) -> Tensor:
        return share.normal("x", 4, 6, 6).contiguous(memory_format=torch.channels_last)

    whole, resumed = net(), net()
    train(whole, conv_loss, pictures, config(steps=8, batch_size=2), tmp_path / "whole")
    train(net(), conv_loss, pictures, config(steps=4, batch_size=2), tmp_path / "parts")
    train(resumed, conv_loss, pictures, config(steps=8, batch_size=2), tmp_path / "parts")
    torch.testing.assert_close(dict(resumed.state_dict()), dict(whole.state_dict()), rtol=0.2, atol=2e-2)
    assert resumed.weight.is_contiguous(memory_format=torch.channels_last)  # type: ignore[union-attr, operator]


def test_accumulation_changes_rounding_only(tmp_path: Path) -> None:
    one, parts = model(), model()
    train(one, loss, batch, config(steps=10), tmp_path / "one")
    train(parts, loss, batch, config(steps=10, accumulate=8), tmp_path / "parts")
    for name, value in one.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], value, rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match=r"batch_size is 32.*multiple of 5"):
        train(model(), loss, batch, config(accumulate=5), tmp_path / "odd")


def test_a_finished_run_does_nothing_more(tmp_path: Path) -> None:
    first = train(model(), loss, batch, CONFIG, tmp_path)
    before = (tmp_path / "log.jsonl").read_text()
    again = train(model(), loss, batch, CONFIG, tmp_path)
    assert (tmp_path / "log.jsonl").read_text() == before
    assert all(torch.equal(first.weights[name], again.weights[name]) for name in first.weights)


def test_other_settings_are_told(tmp_path: Path) -> None:
    train(model(), loss, batch, config(steps=20), tmp_path)
    with pytest.warns(UserWarning, match=r"optimizer.learning_rate was 0.03, is 0.01; run.seed was 0, is 1\."):
        train(model(), loss, batch, config(optimizer={"learning_rate": 1e-2}, seed=1, keep=3), tmp_path)


def test_a_folder_of_another_model_is_refused(tmp_path: Path) -> None:
    train(model(), loss, batch, config(steps=20), tmp_path)
    with pytest.raises(ConfigError, match=r"another model: 6 tensors differ, '0.bias' first"):
        train(nn.Linear(3, 1), loss, batch, CONFIG, tmp_path)
    with pytest.raises(ConfigError, match=r"another model: '0.bias' is \[16\] there"):
        train(nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)), loss, batch, CONFIG, tmp_path)


def test_time_limited_and_pauses_are_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 3600.0  # every step seems to take an hour: the process was paused
        return now

    monkeypatch.setattr(loop.time, "monotonic", clock)
    train(model(), loss, batch, config(steps=1000, minutes=2, watch={"log_every": 1}), tmp_path)
    assert len(lines(tmp_path)) == 2 * 60 / loop.LONGEST_STEP


class Named(Tensor):
    keys = ("cat.png", "dog.png")


@pytest.mark.parametrize("what", ["loss", "gradient's norm"])
def test_what_is_not_finite_stops_before_the_optimizer(tmp_path: Path, what: str) -> None:
    def bad(net: nn.Module, x: Tensor, share: Share) -> Tensor:
        value = loss(net, x, share)
        if share.step != 23 or share.index != 1:
            return value
        return value * math.nan if what == "loss" else value + (next(net.parameters()).sum() * 0).sqrt()

    net = model()
    with pytest.raises(NonFiniteError, match=rf"{what} is .* at step 23 \(samples .*: cat.png, dog.png.*not taken"):
        train(net, bad, lambda share: batch(share).as_subclass(Named), config(accumulate=2), tmp_path)
    assert all(p.isfinite().all() for p in net.parameters())
    found = checkpoint.load_newest(tmp_path)
    assert found is not None and found.step == 20


def test_learning_rate() -> None:
    def rates(shape: str) -> list[float]:
        made = TrainConfig(schedule=RateConfig(shape=shape, warmup=10), run=RunConfig(steps=100))  # type: ignore[arg-type]
        return [made.rate(step) for step in range(101)]

    assert rates("cosine")[0] == pytest.approx(0.1) and rates("cosine")[100] == pytest.approx(0.0)
    assert max(rates("cosine")) > 0.97 and rates("cosine").index(max(rates("cosine"))) == 9
    assert rates("linear")[50] == pytest.approx(0.5) and rates("constant")[9:] == [1.0] * 92
    timed = TrainConfig(schedule=RateConfig(shape="cosine", warmup=0), run=RunConfig(steps=100, minutes=1))
    assert timed.rate(0, 60.0) == pytest.approx(0.0)


def test_the_average_is_warmed_up() -> None:
    net = nn.Linear(1, 1)
    ema = EMA(dict(net.named_parameters()), decay=0.999)
    with torch.no_grad():
        net.weight.fill_(5.0)
    for _ in range(50):
        ema.update()
    assert ema.average["weight"].item() == pytest.approx(5.0, abs=0.01)
    with ema.applied():
        assert net.weight.item() != 5.0
    assert net.weight.item() == 5.0


class Block(nn.Module):
    """The smallest network with a block."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.block = ResBlock(4, 4, groups=2, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)  # type: ignore[no-any-return]


def block_loss(net: nn.Module, x: Tensor, share: Share) -> Tensor:
    return (net(x) - 1).square().mean()  # type: ignore[no-any-return]


@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="there is no C++ compiler")
@pytest.mark.filterwarnings("ignore")  # torch's own, of its compiler's parts
def test_compiled_blocks_come_to_the_same(tmp_path: Path) -> None:
    plain, compiled = Block(), Block()
    for net, chosen in ((plain, False), (compiled, True)):
        train(
            net, block_loss, lambda share: share.normal("x", 4, 8, 8), config(steps=3, batch_size=2, compile=chosen),
            tmp_path / str(chosen),
        )  # fmt: skip
    assert compiled.block._compiled_call_impl is not None
    torch.testing.assert_close(dict(compiled.state_dict()), dict(plain.state_dict()), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_compiling_without_a_compiler_is_told_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._inductor import config as inductor

    monkeypatch.setattr(inductor.cpp, "cxx", ("no-such-compiler",))
    with pytest.raises(ConfigError, match="needs a C\\+\\+ compiler"):
        train(Block(), block_loss, batch, config(steps=3, batch_size=2, compile=True), tmp_path)
    assert not list(tmp_path.iterdir())


def test_only_what_learns_is_kept(tmp_path: Path) -> None:
    net = model()
    net[0].requires_grad_(False)  # type: ignore[index]
    before = net[0].weight.clone()  # type: ignore[index, union-attr, operator]
    end = train(net, loss, batch, config(steps=3), tmp_path)
    assert end.weights.keys() == {"2.weight", "2.bias"}
    assert torch.equal(net[0].weight, before)  # type: ignore[index, arg-type]
    found = checkpoint.load_newest(tmp_path)
    assert found is not None and found.tensors("model").keys() == end.weights.keys()
    with pytest.raises(ConfigError, match="Nothing is to be trained"):
        train(net.requires_grad_(False), loss, batch, CONFIG, tmp_path / "none")
    with pytest.raises(ConfigError, match="has to be fp32"):
        train(model().half(), loss, batch, CONFIG, tmp_path / "half")


def test_hooks_see_the_weights_in_use_and_the_best_is_kept(tmp_path: Path) -> None:
    figures = iter([4.0, 3.0, 1.0, 2.0, 2.0, 2.0, 2.0])
    modes = []

    def validate(net: nn.Module) -> dict[str, float]:
        modes.append((net.training, torch.is_grad_enabled()))
        return {"loss": next(figures)}

    hooks = Hooks[nn.Module](
        validate=validate, sample=lambda _: Image.new("RGB", (8, 8)), score=lambda _: {"clip": 0.3}
    )
    chosen = config(
        keep=1, save_every=10, watch={"validate_every": 10, "sample_every": 30, "score_every": 60, "tensorboard": False}
    )
    hooked, plain = model(), model()
    end = train(hooked, loss, batch, chosen, tmp_path / "hooked", hooks)
    train(plain, loss, batch, chosen, tmp_path / "plain")
    assert same(hooked, plain)  # asking changes nothing
    assert modes == [(False, False)] * 7  # once before the first step
    assert end.best == {"step": 20, "loss": 1.0}
    folder = tmp_path / "hooked"
    assert [path.name for path in checkpoint.checkpoints(folder)] == ["step-00000060", "step-00000020"]
    best = checkpoint.load_best(folder)
    assert best is not None and best.step == 20
    assert (folder / "latest").read_text() == "step-00000060\n"
    assert lines(folder, "validation/loss") == [4.0, 3.0, 1.0, 2.0, 2.0, 2.0, 2.0] and lines(folder, "score/clip") == [
        0.3
    ]
    sheets = [f"step-000000{step}.png" for step in ("00", "30", "60")]
    assert [path.name for path in sorted((folder / "samples").iterdir())] == sheets


@pytest.mark.skipif(not _here("tensorboard"), reason="tensorboard is not installed")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard(tmp_path: Path) -> None:
    hooks = Hooks[nn.Module](sample=lambda _: Image.new("RGB", (8, 8)))
    train(model(), loss, batch, config(steps=20, watch={"tensorboard": True}), tmp_path, hooks)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [10, 20]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx(lines(tmp_path))
    assert [event.step for event in events.Images("samples")] == [0, 20]


@pytest.mark.skipif(not _here("codecarbon"), reason="codecarbon is not installed")
@pytest.mark.filterwarnings("ignore")
def test_energy_adds_up_over_sessions(tmp_path: Path) -> None:
    first = train(model(), loss, batch, config(steps=20, watch={"energy": True}), tmp_path)
    second = train(model(), loss, batch, config(steps=40, watch={"energy": True}), tmp_path)
    assert 0 < first.energy["kwh"] < second.energy["kwh"] < 1
    assert first.energy["estimate"] == (not watch.measured())


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    with pytest.raises(MissingExtraError, match=r"lienzo\[train\]"):
        train(model(), loss, batch, config(optimizer={"name": "adamw8bit"}), tmp_path)


def test_a_log_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        train(model(), loss, batch, CONFIG, tmp_path / "file")


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_is_obeyed_after_the_step_which_is_kept(
    tmp_path: Path, number: signal.Signals, raised: type[BaseException]
) -> None:
    before = signal.getsignal(number)

    def told(net: nn.Module, x: Tensor, share: Share) -> Tensor:
        if share.step == 36:
            signal.raise_signal(number)
        return loss(net, x, share)

    with pytest.raises(raised):
        train(model(), told, batch, CONFIG, tmp_path / "stopped")
    assert checkpoint.checkpoints(tmp_path / "stopped")[0].name == "step-00000037"
    assert signal.getsignal(number) is before
    whole, resumed = model(), model()
    train(whole, loss, batch, CONFIG, tmp_path / "whole")
    train(resumed, loss, batch, CONFIG, tmp_path / "stopped")
    assert same(whole, resumed)
