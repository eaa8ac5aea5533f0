"""Optimizers by name, and their state as plain named tensors."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lienzo.errors import FormatError, MissingExtraError
from lienzo.training.config import OptimizerConfig

TEXT_ENCODER = "text_encoder."
"""How the names of a text encoder's parameters begin, in `Conditioned`."""


def make(parameters: Mapping[str, nn.Parameter], config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimizer that a recipe names; every group holds its highest learning rate as "peak".

    Raises:
        MissingExtraError: it comes with a package that is not installed.
    """
    groups = _groups(parameters, config)
    kinds: dict[str, Callable[[], Any]] = {
        "adamw": lambda: torch.optim.AdamW(
            groups, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay, fused=True
        ),
        "adamw8bit": lambda: _extra("bitsandbytes").optim.AdamW8bit(
            groups, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay
        ),
        "adafactor": lambda: torch.optim.Adafactor(groups, weight_decay=config.weight_decay),
        # the loop's own warm-up acts here too, and schedule-free weighs its average by the rates it is given
        "schedulefree": lambda: _extra("schedulefree").AdamWScheduleFree(
            groups, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay
        ),
    }
    optimizer: torch.optim.Optimizer = kinds[config.name]()
    training(optimizer)
    return optimizer


def _groups(parameters: Mapping[str, nn.Parameter], config: OptimizerConfig) -> list[dict[str, Any]]:
    rates = {False: config.learning_rate, True: config.text_encoder_rate or config.learning_rate}
    groups = []
    for text, rate in rates.items():
        members = [p for name, p in parameters.items() if name.startswith(TEXT_ENCODER) == text]
        if members:
            groups.append({"params": members, "lr": rate, "peak": rate})
    return groups


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> float:
    """Multiply every group's highest rate; returns the first group's."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor
    return float(optimizer.param_groups[0]["lr"])


def training(optimizer: torch.optim.Optimizer) -> None:
    """Schedule-free optimizers: hold the weights at which gradients are taken (arXiv:2405.15682, y)."""
    getattr(optimizer, "train", lambda: None)()


@contextmanager
def evaluating(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Schedule-free optimizers: the parameters are the averaged weights inside (arXiv:2405.15682, x).

    Going back is exact to rounding only, so the weights themselves are kept aside and put back bit for bit.
    """
    if not hasattr(optimizer, "eval"):
        yield
        return
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    own = [p.detach().clone() for p in parameters]
    optimizer.eval()
    try:
        yield
    finally:
        training(optimizer)
        with torch.no_grad():
            for p, value in zip(parameters, own, strict=True):
                p.copy_(value)


# --- state ------------------------------------------------------------------------------------------------------------
# An optimizer's state is a tensor or number for each (parameter, what), named "<parameter>/<what>" here.


def state_tensors(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state as (named tensors, what can be written as JSON)."""
    found = {
        f"{name}/{what}": value for name, p in parameters.items() for what, value in optimizer.state.get(p, {}).items()
    }
    tensors = {name: value for name, value in found.items() if isinstance(value, Tensor)}
    numbers = {name: value for name, value in found.items() if type(value) in (int, float)}
    return tensors, {"numbers": numbers, "groups": [_counters(group) for group in optimizer.param_groups]}


def _counters(group: Mapping[str, Any]) -> dict[str, Any]:
    """What schedule-free counts in its groups; settings come from the recipe."""
    return {key: group[key] for key in ("k", "weight_sum", "lr_max", "scheduled_lr", "train_mode") if key in group}


def load_state(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, nn.Parameter],
    tensors: Mapping[str, Tensor],
    rest: Mapping[str, Any],
    place: Callable[[Tensor, Tensor], Tensor],
) -> None:
    """Put a state back.

    Args:
        place: (value, parameter) -> the value laid out as the parameter is: device, memory order, sharding. An optimizer
            walks through a parameter and its state side by side, so a state in another order would be taken for another.

    Raises:
        FormatError: the state of other parameters.
    """
    optimizer.state.clear()
    for full, value in {**tensors, **rest["numbers"]}.items():
        name, _, what = full.rpartition("/")
        if name not in parameters:
            raise FormatError(f"The checkpoint's optimizer state names {name!r}, which does not learn in this run.")
        p = parameters[name]
        optimizer.state[p][what] = place(value, p) if isinstance(value, Tensor) else value
    for group, saved in zip(optimizer.param_groups, rest["groups"], strict=True):
        group.update(saved)


def _extra(package: str) -> Any:
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError:
        raise MissingExtraError(
            f'This optimizer needs {package}, which is not installed. Run: pip install "lienzo[train]"'
        ) from None
