"""Two processes on the CPU (gloo) come to what one process comes to, to rounding, in every way to share the work."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lienzo.errors import ConfigError
from lienzo.training import zero
from lienzo.training.checkpoint import checkpoints
from lienzo.training.config import TrainConfig
from lienzo.training.ordinary import Ordinary
from training import several

TESTS = Path(__file__).parent.parent
DEEPSPEED = find_spec("deepspeed") is not None
CONFIG: Mapping[str, Mapping[str, Any]] = {
    "optimizer": {"learning_rate": 1e-3, "clip": 0.5},
    "schedule": {"warmup": 2},
    "run": {"steps": 6, "batch_size": 16, "ema": 0.9, "save_every": 3},
    "watch": {"log_every": 1, "validate_every": 3},
}
# six steps of at most 1e-3 each: a step taken otherwise would show at 1e-3
CLOSE = 2e-5
TIMEOUT = 600
IN_PARTS = {"accumulate": 2, "checkpointing": True, "ema_on_cpu": True}
HALF = {"steps": 3}
FREE: Mapping[str, Mapping[str, Any]] = {"optimizer": {"name": "schedulefree"}, "run": {"ema": None}}


def config(strategy: str = "ddp", **sections: Mapping[str, Any]) -> dict[str, Any]:
    """The tests' recipe. "zero3" as a strategy stands for DeepSpeed with a file of that name in the current folder."""
    ways = {"strategy": "deepspeed", "deepspeed": f"{strategy}.json"} if "zero" in strategy else {"strategy": strategy}
    given = {**sections, "distributed": ways}
    return {name: {**CONFIG.get(name, {}), **given.get(name, {})} for name in {**CONFIG, **given}}


CASES: Mapping[str, Mapping[str, Any]] = {
    "ddp": {"config": config("ddp")},
    "ddp in parts": {"config": config("ddp", run=IN_PARTS)},
    "ddp, bf16": {"config": config("ddp", run={"precision": "bf16"})},
    "fsdp": {"config": config("fsdp")},
    "fsdp in parts": {"config": config("fsdp", run=IN_PARTS)},
    "fsdp, bf16": {"config": config("fsdp", run={"precision": "bf16"})},
    "fsdp, schedule-free": {"config": config("fsdp", **FREE)},
    "fsdp, adafactor": {"config": config("fsdp", optimizer={"name": "adafactor"})},
    "fsdp, 8 bits": {"config": config("fsdp", optimizer={"name": "adamw8bit"})},
    "fsdp after one": {"config": config("fsdp")},
    "one after fsdp": {"config": config("fsdp", run=HALF)},
    "bad": {"config": config("ddp"), "bad": 4},
}
DEEPSPEED_CASES: Mapping[str, Mapping[str, Any]] = {
    "zero 2 in parts": {"config": config("zero2", run=IN_PARTS)},
    "zero 3 in parts": {"config": config("zero3", run=IN_PARTS)},
    "zero 3, bf16": {"config": config("zero3", run={"precision": "bf16"})},
    "zero 3 after one": {"config": config("zero3")},
    "one after zero 3": {"config": config("zero3", run=HALF)},
    "zero 3, bad gradient": {"config": config("zero3"), "bad": 4, "what": "gradient"},
    "zero 2 with 3 later": {"config": config("zero2", run=HALF)},
    # the same folder again
    "zero 3 after 2": {"config": config("zero3"), "folder": "zero 2 with 3 later"},
}
NEEDS_DEEPSPEED = pytest.mark.skipif(not DEEPSPEED, reason="deepspeed is not installed")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all runs: a process alone, then two processes for all cases, then a process alone that goes on."""
    folder = tmp_path_factory.mktemp("runs")
    for stage in (2, 3):
        # small parameters would stay whole otherwise, and all are small here
        small = {"stage3_param_persistence_threshold": 0, "reduce_bucket_size": 100_000}
        (folder / f"zero{stage}.json").write_text(json.dumps({"zero_optimization": {"stage": stage, **small}}))
    several.run(folder / "one", config())
    several.run(folder / "half", config(run=HALF))
    several.run(folder / "one, schedule-free", config(**FREE))
    for name in ("fsdp after one", "zero 3 after one"):
        shutil.copytree(folder / "half", folder / name)
    cases = {**CASES, **(DEEPSPEED_CASES if DEEPSPEED else {})}
    (folder / "cases.json").write_text(json.dumps([{"folder": name, **case} for name, case in cases.items()]))
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", several.__file__, "cases.json"]
    path = os.pathsep.join(map(str, [TESTS, *sys.path]))
    with subprocess.Popen(
        [sys.executable, *command],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
    ) as process:  # fmt: skip
        try:
            said, _ = process.communicate(timeout=TIMEOUT)
        finally:
            process.terminate()  # not kill, which would leave the processes that it has started
    assert process.returncode == 0, said
    for name in ("one after fsdp", *(["one after zero 3"] if DEEPSPEED else [])):
        several.run(folder / name, config())
    return folder


def difference(one: Path, other: Path) -> float:
    a, b = load_file(one / several.WEIGHTS), load_file(other / several.WEIGHTS)
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a)


def validations(folder: Path) -> list[float]:
    """What was found on the way, with the averaged weights; and after the end, by the model that was trained."""
    lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    found = {line["step"]: line["validation/loss"] for line in lines if "validation/loss" in line}
    return [found[0], found[3], found[6], json.loads((folder / several.FOUND).read_text())["after"]]


@pytest.mark.parametrize(
    "case",
    [
        "ddp",
        "ddp in parts",
        "fsdp",
        "fsdp in parts",
        "fsdp after one",
        "one after fsdp",
        *(
            pytest.param(name, marks=NEEDS_DEEPSPEED)
            for name in (
                "zero 2 in parts",
                "zero 3 in parts",
                "zero 3 after one",
                "one after zero 3",
                "zero 2 with 3 later",
            )
        ),
    ],
)
def test_two_processes_equal_one(runs: Path, case: str) -> None:
    assert difference(runs / case, runs / "one") < CLOSE
    assert validations(runs / case) == pytest.approx(validations(runs / "one"), rel=1e-6)


def test_schedule_free_in_parts_equals_one_process(runs: Path) -> None:
    assert difference(runs / "fsdp, schedule-free", runs / "one, schedule-free") < CLOSE


@pytest.mark.parametrize("case", ["fsdp, bf16", pytest.param("zero 3, bf16", marks=NEEDS_DEEPSPEED)])
def test_half_precision(runs: Path, case: str) -> None:
    """Where a gradient is nothing but rounding, Adam makes whole steps of it; so not every weight has to agree."""
    assert validations(runs / case) == pytest.approx(validations(runs / "ddp, bf16"), rel=1e-3)
    assert validations(runs / case)[-1] < 0.95 * validations(runs / case)[0]


@pytest.mark.parametrize("case", ["fsdp, adafactor", "fsdp, 8 bits"])
def test_optimizers_that_need_whole_parameters_are_refused(runs: Path, case: str) -> None:
    assert "ConfigError: optimizer.name" in (runs / case / several.REFUSED).read_text()


def test_all_processes_stop_where_one_has_nan(runs: Path) -> None:
    said = (runs / "bad" / several.REFUSED).read_text()
    assert said.count("NonFiniteError: The loss is nan at step 4") == 2
    assert "samples 8 to 15 of the batch: picture" in said
    assert checkpoints(runs / "bad")[0].name == "step-00000003"


@NEEDS_DEEPSPEED
def test_deepspeed_stops_on_a_gradient_that_is_not_finite(runs: Path) -> None:
    said = (runs / "zero 3, bad gradient" / several.REFUSED).read_text()
    assert said.count("NonFiniteError: The gradient's norm is not finite at step 4") == 2
    assert checkpoints(runs / "zero 3, bad gradient")[0].name == "step-00000003"


@pytest.mark.parametrize(
    ("given", "sections", "says"),
    [
        ({"train_batch_size": 8}, {}, r"train_batch_size is 8, but the recipe says 16"),
        ({"scheduler": {}}, {}, r"scheduler are the recipe's"),
        ({"bf16": {"enabled": True}}, {}, r"bf16 is enabled, but the recipe says run.precision"),
        ({"zero_optimization": {"stage": 0}}, {}, r"stage is 0; 1, 2 and 3 are supported"),
        ({"zero_optimization": {"stage": 3}}, {"run": {"compile": True}}, r"run.compile do not go together"),
        ({"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme"}}}, {}, r"offload_param.device"),
        ({"zero_optimization": {"stage": 2}}, {"optimizer": {"name": "adafactor"}}, r'has to be "adamw"'),
        ({"zero_optimization": {"stage": 2}}, {"run": {"precision": "fp16"}}, r'got "adamw" and "fp16"'),
        ([], {}, r"is no JSON object"),
        (None, {}, r"cannot be read as JSON"),
    ],
)
def test_what_deepspeed_is_told(
    tmp_path: Path, given: dict[str, Any] | list[Any] | None, sections: dict[str, Any], says: str
) -> None:
    file = tmp_path / "zero.json"
    file.write_text("{" if given is None else json.dumps(given))
    with pytest.raises(ConfigError, match=says):
        zero.read(file, TrainConfig.model_validate(config(**sections)), world=2)
    file.write_text(json.dumps({"zero_optimization": {"stage": 2}, "train_batch_size": "auto"}))
    read = zero.read(file, TrainConfig.model_validate(config(run={"accumulate": 4})), world=2)
    assert (read["train_batch_size"], read["train_micro_batch_size_per_gpu"], read["gradient_clipping"]) == (16, 2, 0.5)


def test_a_changed_model_becomes_an_ordinary_one_again() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
            self.other.weight = self.one.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.one(self.other(x))  # type: ignore[no-any-return]

    class Strange(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return input * 0

    model = Tied()
    x = torch.ones(1, 2)
    with torch.no_grad():
        expected = model(x)
        before = Ordinary(model)
        whole = model.one.weight.detach().clone()
        model.one.__class__ = Strange
        model.other.register_forward_hook(lambda *_: x * 7)
        for one in (model.one, model.other):
            one._parameters["weight"] = None
        part = model.one.weight = model.other.weight = nn.Parameter(torch.zeros(2, 2))
        with before.for_a_while(lambda p: nn.Parameter(whole) if p is part else p):
            assert torch.equal(model(x), expected)
            assert type(model.one) is nn.Linear and model.one.weight is model.other.weight
        assert model.one.weight is part and not model(x).any()
        before.put_back(lambda p: nn.Parameter(whole))
        assert torch.equal(model(x), expected)
