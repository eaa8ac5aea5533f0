"""Copies of networks that share their tensors: the way to change a network that other threads are using."""

import copy
from collections.abc import Mapping
from typing import TypeVar

from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def with_modules(network: Network, modules: Mapping[str, nn.Module]) -> Network:
    """A copy of `network` with other modules at these paths.

    It shares every other tensor with `network`, which is not changed, so that any number of threads can use both.
    """
    below: dict[str, dict[str, nn.Module]] = {}
    for path, module in modules.items():
        child, _, rest = path.partition(".")
        below.setdefault(child, {})[rest] = module
    made = copy.copy(network)
    made._parameters, made._modules = dict(network._parameters), dict(network._modules)
    for child, inner in below.items():
        made._modules[child] = inner[""] if "" in inner else with_modules(network.get_submodule(child), inner)
    return made
