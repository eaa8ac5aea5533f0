"""Several processes, one run: what DDP, FSDP2, DeepSpeed and a process alone each do in their own way.

`torchrun` starts the processes; everything else is the recipe's. Checkpoints hold whole tensors, so a run can go on with
another number of processes or another strategy than it began with.
"""

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from lienzo.errors import ConfigError, MissingExtraError
from lienzo.training import optimizers
from lienzo.training.blocks import blocks
from lienzo.training.config import TrainConfig


def device() -> torch.device:
    """Where this process should keep its networks: its own GPU where there are any."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def start() -> None:
    """Join the processes that `torchrun` started; alone, do nothing."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        if device().type == "cuda":
            torch.cuda.set_device(device())
        dist.init_process_group("nccl" if device().type == "cuda" else "gloo")


def rank() -> int:
    """This process's number, 0 where it is alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def barrier() -> None:
    """Wait for all processes; alone, do nothing."""
    if dist.is_initialized():
        dist.barrier()


class Strategy(ABC):
    """How one process takes part. The base class is a process alone or one of several alike (DDP)."""

    def __init__(self, module: nn.Module, config: TrainConfig) -> None:
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world = dist.get_world_size() if dist.is_initialized() else 1
        self.config = config
        self.module = module

    def engage(self, optimizer: torch.optim.Optimizer) -> None:  # noqa: B027 (most need nothing)
        """Take over the optimizer, where the strategy does."""

    @abstractmethod
    def part(self, last: bool) -> AbstractContextManager[Any]:
        """Around the forward and backward pass of one part of a step; gradients meet in the last."""

    def backward(self, value: Tensor) -> None:
        value.backward()  # type: ignore[no-untyped-call]

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        optimizer.step()

    def state(
        self, optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The optimizer's state as whole tensors, and what JSON can hold; every process has to ask."""
        tensors, rest = optimizers.state_tensors(optimizer, parameters)
        return {name: self.full(value, parameters[name.rpartition("/")[0]]) for name, value in tensors.items()}, rest

    def load_state(
        self,
        optimizer: torch.optim.Optimizer,
        parameters: Mapping[str, nn.Parameter],
        tensors: Mapping[str, Tensor],
        rest: Mapping[str, Any],
    ) -> None:
        """Put the optimizer's state back, and tell the strategy that the parameters have other values."""
        optimizers.load_state(optimizer, parameters, tensors, rest, self.place)

    def norm(self, parameters: Mapping[str, nn.Parameter]) -> Tensor | None:
        """The norm of all gradients together; None where only the strategy itself sees them."""
        norm = nn.utils.get_total_norm([p.grad for p in parameters.values() if p.grad is not None], foreach=None)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def mean(self, values: Tensor) -> Tensor:
        """Of all processes' values."""
        if self.world > 1:
            dist.all_reduce(values)
            values /= self.world
        return values

    def full(self, value: Tensor, like: Tensor) -> Tensor:
        """A checkpoint's form of a tensor that belongs to a parameter; every process has to ask."""
        return value.detach()

    def place(self, value: Tensor, like: Tensor) -> Tensor:
        """A checkpoint's tensor laid out as `like` is: device, memory order, sharding."""
        if value.shape != like.shape:
            return value.to(like.device, copy=True)
        return torch.empty_like(like, dtype=value.dtype).copy_(value)

    def barrier(self) -> None:
        if self.world > 1:
            dist.barrier()


class Replicated(Strategy):
    """Every process has the whole model (torch's DistributedDataParallel), or there is one process only."""

    def __init__(self, module: nn.Module, config: TrainConfig) -> None:
        super().__init__(module, config)
        if self.world > 1:
            place = next(module.parameters()).device
            ids = [place.index] if place.type == "cuda" else None
            self.module = nn.parallel.DistributedDataParallel(module, device_ids=ids, gradient_as_bucket_view=True)

    def part(self, last: bool) -> AbstractContextManager[Any]:
        if isinstance(self.module, nn.parallel.DistributedDataParallel) and not last:
            return self.module.no_sync()
        return nullcontext()


class Sharded(Strategy):
    """Every process has a part of every parameter, gradient and optimizer state (torch's `fully_shard`, FSDP2)."""

    def __init__(self, module: nn.Module, config: TrainConfig) -> None:
        super().__init__(module, config)
        from torch.distributed.fsdp import fully_shard

        for block in blocks(module):
            fully_shard(block)
        self.root = fully_shard(module)

    def part(self, last: bool) -> AbstractContextManager[Any]:
        self.root.set_requires_gradient_sync(last)
        return nullcontext()

    def full(self, value: Tensor, like: Tensor) -> Tensor:
        if isinstance(like, DTensor) and not isinstance(value, DTensor) and value.shape == like.to_local().shape:
            value = DTensor.from_local(
                value.to(like.device), like.device_mesh, like.placements, run_check=False,
                shape=like.shape, stride=like.stride(),
            )  # fmt: skip
        return (value.full_tensor() if isinstance(value, DTensor) else value).detach()

    def place(self, value: Tensor, like: Tensor) -> Tensor:
        if isinstance(like, DTensor) and value.shape == like.shape:
            return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
        return value.to(like.device, copy=True)


class Zero(Strategy):
    """As DeepSpeed's own configuration file says: ZeRO 1 or 2. For what ZeRO 3 does there is `Sharded`.

    DeepSpeed clips and steps in one go, so a gradient that is not finite is seen in the next step's loss only.
    """

    def part(self, last: bool) -> AbstractContextManager[Any]:
        self.engine.set_gradient_accumulation_boundary(last)
        return nullcontext()

    def engage(self, optimizer: torch.optim.Optimizer) -> None:
        try:
            import deepspeed  # type: ignore[import-not-found,import-untyped,unused-ignore]
        except ImportError:
            raise MissingExtraError(
                'DeepSpeed is not installed. Run: pip install "lienzo[deepspeed]" '
                "(on a machine without a GPU with DS_BUILD_OPS=0 DS_ACCELERATOR=cpu in the environment)"
            ) from None
        run, path = self.config.run, self.config.distributed.deepspeed
        assert path is not None
        try:
            given = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"distributed.deepspeed: {path} cannot be read as JSON: {error}.") from None
        ours = {
            "train_batch_size": run.batch_size,
            "train_micro_batch_size_per_gpu": run.batch_size // (self.world * run.accumulate),
            "gradient_accumulation_steps": run.accumulate,
            "gradient_clipping": self.config.optimizer.clip or 0.0,
            "zero_allow_untested_optimizer": True,
        }
        for key, value in ours.items():
            if given.get(key, value) not in (value, "auto"):
                raise ConfigError(
                    f'{path}: {key} is {given[key]!r}, but the recipe says {value!r}. Leave it out there, or say "auto".'
                )
        if "optimizer" in given or "scheduler" in given:
            raise ConfigError(f"{path}: optimizer and scheduler are the recipe's; leave them out there.")
        stage = given.get("zero_optimization", {}).get("stage", 0)
        if stage not in (1, 2):
            raise ConfigError(
                f"{path}: zero_optimization.stage is {stage!r}; 1 and 2 are supported. "
                'For what stage 3 does there is distributed.strategy = "fsdp", for stage 0 "ddp".'
            )
        if self.config.optimizer.name != "adamw" or run.precision == "fp16":
            raise ConfigError('With DeepSpeed, optimizer.name has to be "adamw", and run.precision "fp32" or "bf16".')
        optimizers.set_rate(optimizer, 0.0)  # for the step below that makes room for the state
        self.engine, *_ = deepspeed.initialize(model=self.module, optimizer=optimizer, config={**given, **ours})
        self.module = self.engine
        # make room for the state now, so that one can be put back before the first step
        for group in optimizer.param_groups:
            for flat in group["params"]:
                flat.grad = torch.zeros_like(flat)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        for state in optimizer.state.values():
            for value in state.values():
                value.zero_()
        self.engine.optimizer._lazy_init_hp_params_optimizer_state()

    def backward(self, value: Tensor) -> None:
        self.engine.backward(value)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        self.engine.step()

    def norm(self, parameters: Mapping[str, nn.Parameter]) -> Tensor | None:
        return None

    def state(
        self, optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        from deepspeed.utils import safe_get_full_optimizer_state  # type: ignore[import-not-found,import-untyped,unused-ignore]

        tensors = {
            f"{name}/{what}": safe_get_full_optimizer_state(p, what).detach()
            for name, p in parameters.items()
            for what in ("exp_avg", "exp_avg_sq")
        }
        steps = next(iter(optimizer.state.values()))["step"]
        counts = {f"{name}/step": steps.clone() for name in parameters}
        return {**tensors, **counts}, {"numbers": {}, "groups": [{} for _ in optimizer.param_groups]}

    def load_state(
        self,
        optimizer: torch.optim.Optimizer,
        parameters: Mapping[str, nn.Parameter],
        tensors: Mapping[str, Tensor],
        rest: Mapping[str, Any],
    ) -> None:
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        for name, p in parameters.items():
            safe_set_full_fp32_param(p, p.detach().clone())  # DeepSpeed steps from a copy of its own
            for what in ("exp_avg", "exp_avg_sq"):
                safe_set_full_optimizer_state(p, tensors[f"{name}/{what}"], what)
            for state in optimizer.state.values():
                state["step"].copy_(tensors[f"{name}/step"])


def strategy(module: nn.Module, config: TrainConfig) -> Strategy:
    """The strategy that a recipe names, with the module made ready for it.

    Raises:
        ConfigError: the batch cannot be divided equally.
    """
    start()
    world = dist.get_world_size() if dist.is_initialized() else 1
    run = config.run
    if run.batch_size % (world * run.accumulate):
        raise ConfigError(
            f"run.batch_size is {run.batch_size}, which {world} processes with run.accumulate = {run.accumulate} cannot "
            f"divide equally. Take a multiple of {world * run.accumulate}."
        )
    match config.distributed.strategy:
        case "fsdp" if world > 1:
            return Sharded(module, config)
        case "deepspeed":
            return Zero(module, config)
        case _:
            return Replicated(module, config)
