"""Several processes, one run: what DDP, FSDP2, DeepSpeed and a process alone each do in their own way.

`torchrun` starts the processes; everything else is the recipe's. Checkpoints hold whole tensors, so a run can go on with
another number of processes or another strategy than it began with.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from lienzo.errors import ConfigError
from lienzo.training import optimizers
from lienzo.training.blocks import blocks
from lienzo.training.config import TrainConfig
from lienzo.training.ordinary import Ordinary

PATIENCE = timedelta(days=1)
"""The first process fills caches while the others wait; torchrun ends them at once where one of them dies."""
UNSHARDED = ("adamw8bit", "adafactor")
"""Optimizers whose state is not as large as the parameter, element by element."""


def frozen(step: nn.Module) -> dict[str, nn.Module]:
    """The parts of a step's model in which nothing learns. They stay whole, for batches may be made with them."""
    networks = step.get_submodule("model").named_children()
    return {name: one for name, one in networks if not any(p.requires_grad for p in one.parameters())}


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
        dist.init_process_group("nccl" if device().type == "cuda" else "gloo", timeout=PATIENCE)


def stop() -> None:
    """Leave the processes that `torchrun` started; alone, do nothing."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """This process's number, 0 where it is alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def barrier() -> None:
    """Wait for all processes; alone, do nothing."""
    if dist.is_initialized():
        dist.barrier()


class Strategy(ABC):
    """How one process takes part. The base class is a process alone or one of several alike (DDP)."""

    divides = False
    """The backward pass divides by the number of parts itself."""

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

    def clear(self, optimizer: torch.optim.Optimizer) -> None:
        """Forget the last step's gradients."""
        optimizer.zero_grad(set_to_none=True)

    def step(self, optimizer: torch.optim.Optimizer) -> bool:
        """Returns whether the step was taken: not where only the strategy sees gradients, and one is not finite."""
        optimizer.step()
        return True

    def held(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What this process has of the model's tensors: all of them, or its parts, which then stand for them below."""
        return dict(tensors)

    def shape(self, like: Tensor) -> torch.Size:
        """Of the whole tensor."""
        return like.shape

    def whole(self) -> AbstractContextManager[None]:
        """Inside, the model is an ordinary one in every process, to be used but not changed."""
        return nullcontext()

    def release(self) -> None:  # noqa: B027 (most need nothing)
        """Training is over: leave the model an ordinary one in every process."""

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
        self.ordinary = Ordinary(module)
        from torch.distributed.fsdp import fully_shard

        if config.optimizer.name in UNSHARDED:
            raise ConfigError(
                f'optimizer.name is "{config.optimizer.name}", which cannot work on parts of parameters. With '
                'distributed.strategy = "fsdp" take "adamw" or "schedulefree".'
            )
        ignored = {p for network in frozen(module).values() for p in network.parameters()}
        for block in blocks(module):
            if not ignored.issuperset(block.parameters()):
                fully_shard(block)
        self.root = fully_shard(module, ignored_params=ignored)

    def part(self, last: bool) -> AbstractContextManager[Any]:
        self.root.set_requires_gradient_sync(last)
        return nullcontext()

    def complete(self, p: nn.Parameter) -> nn.Parameter:
        return nn.Parameter(p.full_tensor().detach(), p.requires_grad) if isinstance(p, DTensor) else p

    def whole(self) -> AbstractContextManager[None]:
        return self.ordinary.for_a_while(self.complete)

    def release(self) -> None:
        self.ordinary.put_back(self.complete)

    def full(self, value: Tensor, like: Tensor) -> Tensor:
        if isinstance(like, DTensor) and not isinstance(value, DTensor) and value.shape == like.to_local().shape:
            value = DTensor.from_local(
                value.to(like.device), like.device_mesh, like.placements, run_check=False,
                shape=like.shape, stride=like.stride(),
            )  # fmt: skip
        value = value.detach().to(like.device)  # averages may lie in main memory, where GPUs cannot exchange them
        return value.full_tensor() if isinstance(value, DTensor) else value

    def place(self, value: Tensor, like: Tensor) -> Tensor:
        if isinstance(like, DTensor) and value.shape == like.shape:
            return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
        return value.to(like.device, copy=True)


def strategy(module: nn.Module, config: TrainConfig) -> Strategy:
    """The strategy that a recipe names, with the module made ready for it.

    Raises:
        ConfigError: the batch cannot be divided equally, or the strategy cannot do what the recipe says.
        MissingExtraError: the strategy's package is not installed.
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
            from lienzo.training.zero import prepare

            return prepare(module, config, world)
        case _:
            return Replicated(module, config)
