"""DeepSpeed's ZeRO (arXiv:1910.02054) as a way to share the work, as its own configuration file says.

Stages 1 and 2 keep whole parameters in every process, stage 3 a part of each. What DeepSpeed's file leaves open, and what
the recipe says already, is the recipe's: batch size, clipping, precision, optimizer.
"""

import json
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from lienzo.errors import ConfigError, MissingExtraError
from lienzo.training.config import TrainConfig
from lienzo.training.distributed import Strategy, device, frozen
from lienzo.training.ordinary import Ordinary

STAGES = (1, 2, 3)
PRECISIONS = ("fp16", "bf16", "amp", "torch_autocast")
"""Sections of DeepSpeed's file that say what `run.precision` says."""
STATE = ("exp_avg", "exp_avg_sq")
"""AdamW's state but for its count of steps."""


def read(path: Path, config: TrainConfig, world: int) -> dict[str, Any]:
    """DeepSpeed's file, completed by the recipe.

    Raises:
        ConfigError: it cannot be read, contradicts the recipe, or asks for what is not supported.
    """
    run = config.run
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"distributed.deepspeed: {path} cannot be read as JSON: {error}.") from None
    if not isinstance(given, dict):
        raise ConfigError(f"distributed.deepspeed: {path} is no JSON object: it has to begin with {{.")
    ours: dict[str, Any] = {
        "train_batch_size": run.batch_size,
        "train_micro_batch_size_per_gpu": run.batch_size // (world * run.accumulate),
        "gradient_accumulation_steps": run.accumulate,
        "gradient_clipping": config.optimizer.clip or 0.0,
        "zero_allow_untested_optimizer": True,
    }
    for key, value in ours.items():
        if given.get(key, value) not in (value, "auto"):
            raise ConfigError(
                f'{path}: {key} is {given[key]!r}, but the recipe says {value!r}. Leave it out there, or say "auto".'
            )
    if "optimizer" in given or "scheduler" in given:
        raise ConfigError(f"{path}: optimizer and scheduler are the recipe's; leave them out there.")
    for key in PRECISIONS:
        if (given.pop(key, None) or {}).get("enabled", False) not in (False, "auto"):
            raise ConfigError(f"{path}: {key} is enabled, but the recipe says run.precision. Leave {key} out there.")
    zero = given.get("zero_optimization") or {}
    if zero.get("stage", 0) not in STAGES:
        raise ConfigError(
            f"{path}: zero_optimization.stage is {zero.get('stage', 0)!r}; 1, 2 and 3 are supported. "
            'For what stage 0 does there is distributed.strategy = "ddp".'
        )
    if zero["stage"] == 3 and run.compile:
        raise ConfigError(f"{path}: ZeRO 3 and run.compile do not go together. Leave one out, or take stage 2.")
    for key in ("offload_optimizer", "offload_param"):
        if (zero.get(key) or {}).get("device") == "nvme":
            raise ConfigError(f'{path}: zero_optimization.{key}.device is "nvme"; "cpu" and "none" are supported.')
    if config.optimizer.name != "adamw" or run.precision == "fp16":
        raise ConfigError(
            f'With DeepSpeed, optimizer.name has to be "adamw", and run.precision "fp32" or "bf16"; got '
            f'"{config.optimizer.name}" and "{run.precision}".'
        )
    # with offload_optimizer it would insist on an optimizer of its own
    return {"zero_force_ds_cpu_optimizer": False, **given, **ours}


def deepspeed() -> Any:
    """The package.

    Raises:
        MissingExtraError: it is not installed.
    """
    if device().type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or it would look for others and warn that it found none
    try:
        import deepspeed  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        raise MissingExtraError('DeepSpeed is not installed. Run: pip install "lienzo[deepspeed]"') from None
    if device().type == "cpu":
        # it would be compiled at the first start: a minute's work that wants a compiler, where gloo does as well
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


class Zero(Strategy):
    """ZeRO 1 and 2: whole parameters, but a part of the optimizer's state (1) and of the gradients (2).

    DeepSpeed clips and steps in one go, and divides by the number of parts itself.
    """

    divides = True

    def __init__(self, module: nn.Module, config: TrainConfig, given: Mapping[str, Any]) -> None:
        super().__init__(module, config)
        self.given = given

    def part(self, last: bool) -> AbstractContextManager[Any]:
        self.engine.set_gradient_accumulation_boundary(last)
        return nullcontext()

    def engage(self, optimizer: torch.optim.Optimizer) -> None:
        self.engine, *_ = deepspeed().initialize(model=self.module, optimizer=optimizer, config=dict(self.given))
        self.module = self.engine
        # make room for the state now, so that one can be put back before the first step
        for flat in self.flats(optimizer):
            zeros = {what: torch.zeros_like(flat, requires_grad=False) for what in STATE}
            optimizer.state[flat] = {"step": torch.zeros((), device=flat.device), **zeros}
        self.link()

    def flats(self, optimizer: torch.optim.Optimizer) -> list[Tensor]:
        """What DeepSpeed steps: this process's part of all parameters of a group, one after the other."""
        return [flat for group in optimizer.param_groups for flat in group["params"]]

    def link(self) -> None:
        """Tell DeepSpeed's parameters that the optimizer has a state."""
        self.engine.optimizer._lazy_init_hp_params_optimizer_state()

    def backward(self, value: Tensor) -> None:
        self.engine.backward(value)

    def step(self, optimizer: torch.optim.Optimizer) -> bool:
        self.engine.step()
        return bool(self.engine.was_step_applied())

    def clear(self, optimizer: torch.optim.Optimizer) -> None:
        pass  # it does so itself after a step, and keeps buffers where gradients seem to be

    def norm(self, parameters: Mapping[str, nn.Parameter]) -> Tensor | None:
        return None

    def state(
        self, optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        from deepspeed.utils import safe_get_full_optimizer_state  # type: ignore[import-not-found,import-untyped,unused-ignore]

        tensors = {
            f"{name}/{what}": safe_get_full_optimizer_state(p, what).detach()
            for name, p in parameters.items()
            for what in STATE
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
        for name, p in parameters.items():
            self.put(p, {what: tensors[f"{name}/{what}"] for what in STATE})
            for state in optimizer.state.values():
                state["step"].copy_(tensors[f"{name}/step"])

    def put(self, p: nn.Parameter, state: Mapping[str, Tensor]) -> None:
        """Give DeepSpeed a parameter's state, and the parameter itself: it steps from a copy of its own."""
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        safe_set_full_fp32_param(p, p.detach().clone())
        for what, value in state.items():
            safe_set_full_optimizer_state(p, value, what)

    def release(self) -> None:
        self.engine.destroy()


class ZeroParts(Zero):
    """ZeRO 3: a part of the parameters too. DeepSpeed's hooks gather a layer's before it computes, and let them go after.

    A process's part of a parameter is a run of its elements, padded to the same length in all processes, in `ds_tensor`.
    """

    def engage(self, optimizer: torch.optim.Optimizer) -> None:
        self.ordinary = Ordinary(self.module)
        model = self.module.get_submodule("model")
        for name, network in frozen(self.module).items():
            if not isinstance(model, nn.Sequential):  # which finds its parts otherwise than by name
                del model._modules[name]
                vars(model)[name] = network  # there still, but out of DeepSpeed's sight
        super().engage(optimizer)
        self.wholes = {p.ds_tensor: p for p in self.module.parameters()}  # type: ignore[attr-defined]

    def flats(self, optimizer: torch.optim.Optimizer) -> list[Tensor]:
        return list(self.engine.optimizer.fp32_partitioned_groups_flat)

    def link(self) -> None:
        pass  # it looks the state up itself

    def held(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: getattr(value, "ds_tensor", value) for name, value in tensors.items()}

    def shape(self, like: Tensor) -> torch.Size:
        return self.wholes[like].ds_shape if like in self.wholes else like.shape  # type: ignore[attr-defined]

    def full(self, value: Tensor, like: Tensor) -> Tensor:
        if like not in self.wholes:
            return super().full(value, like)
        shape, part = self.shape(like), value.detach().to(device())
        whole = part.new_empty(self.world * part.numel())
        dist.all_gather_into_tensor(whole, part)
        return whole[: shape.numel()].view(shape)

    def place(self, value: Tensor, like: Tensor) -> Tensor:
        if like not in self.wholes:
            return super().place(value, like)
        size = like.numel()
        part = value.flatten()[self.rank * size :][:size]
        return F.pad(part, (0, size - part.numel())).to(like.device)

    def put(self, p: nn.Parameter, state: Mapping[str, Tensor]) -> None:
        from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state

        part: Tensor = p.ds_tensor  # type: ignore[attr-defined]
        safe_set_local_fp32_param(p, part)
        for what, value in state.items():
            safe_set_local_optimizer_state(p, self.place(value, part), what)

    def complete(self, p: nn.Parameter) -> nn.Parameter:
        part = getattr(p, "ds_tensor", None)
        return p if part is None else nn.Parameter(self.full(part, part), p.requires_grad)

    def whole(self) -> AbstractContextManager[None]:
        return self.ordinary.for_a_while(self.complete)

    def release(self) -> None:
        super().release()
        self.ordinary.put_back(self.complete)


def prepare(module: nn.Module, config: TrainConfig, world: int) -> Zero:
    """The strategy of the stage that DeepSpeed's file names.

    Raises:
        ConfigError: as `read`.
        MissingExtraError: DeepSpeed is not installed.
    """
    assert config.distributed.deepspeed is not None
    given = read(config.distributed.deepspeed, config, world)
    deepspeed()
    if not dist.is_initialized():  # it wants a group, of one process too
        os.environ.setdefault("LOCAL_RANK", "0")
        store = dist.HashStore()  # type: ignore[attr-defined]
        dist.init_process_group("nccl" if device().type == "cuda" else "gloo", store=store, rank=0, world_size=1)
    return (ZeroParts if given["zero_optimization"]["stage"] == 3 else Zero)(module, config, given)
