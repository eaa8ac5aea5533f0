"""Low-rank adapters (LoRA, arXiv:2106.09685) on linear layers and convolutions, without touching the network they adapt.

| here | paper (section 4.1) |
|---|---|
| `down` (r, in) | A |
| `up` (out, r) | B |
| `scale` | alpha / r |

A convolution's `down` is a convolution of the base's own kernel, stride and padding to r channels, `up` one of 1x1.
"""

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from lienzo.errors import ConfigError
from lienzo.nn.sharing import Network, with_modules

Layer = nn.Linear | nn.Conv2d


@dataclass(frozen=True)
class LowRank:
    """What one layer's adapter adds to its weight: `scale * up @ down`.

    Attributes:
        down: (r, in), or (r, in, kh, kw) for a convolution.
        up: (out, r), or (out, r, 1, 1).
        scale: alpha / r.
    """

    down: Tensor
    up: Tensor
    scale: float = 1.0

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    def delta(self) -> Tensor:
        """The change of the weight, in fp32 and in the weight's shape."""
        flat = self.scale * (self.up.flatten(1).float() @ self.down.flatten(1).float())  # (out, in * kh * kw)
        return flat.view(self.up.shape[0], *self.down.shape[1:])


def stacked(parts: Sequence[tuple[LowRank, float]]) -> LowRank:
    """Several adapters of one layer, each with its weight, as one whose rank is the sum of theirs."""
    if len(parts) == 1:
        part, weight = parts[0]
        return LowRank(part.down, part.up, part.scale * weight)
    ups = [part.up.float() * (part.scale * weight) for part, weight in parts]
    return LowRank(torch.cat([part.down.float() for part, _ in parts]), torch.cat(ups, dim=1))


class LoraLinear(nn.Linear):
    """base(x) + scale * up(down(x)); weight and bias are the base's own, under their own names."""

    down: nn.Parameter
    up: nn.Parameter
    scale: float

    def __init__(self, base: nn.Linear, low: LowRank) -> None:
        _adapt(self, base, low)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return torch.add(super().forward(x), F.linear(F.linear(x, self.down), self.up), alpha=self.scale)


class LoraConv(nn.Conv2d):
    """base(x) + scale * up(down(x)); weight and bias are the base's own, under their own names."""

    down: nn.Parameter
    up: nn.Parameter
    scale: float

    def __init__(self, base: nn.Conv2d, low: LowRank) -> None:
        _adapt(self, base, low)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H', W')."""
        h = self._conv_forward(x, self.down, None)
        return torch.add(super().forward(x), F.conv2d(h, self.up), alpha=self.scale)


def _adapt(lora: LoraLinear | LoraConv, base: Layer, low: LowRank) -> None:
    if isinstance(base, (LoraLinear, LoraConv)):
        raise ConfigError("The layer has an adapter already. Adapt the network without it, with all adapters at once.")
    nn.Module.__init__(lora)
    lora.__dict__.update({**base.__dict__, "_parameters": dict(base._parameters)})
    weight, trained = base.weight, low.down.requires_grad or low.up.requires_grad
    for name, value in (("down", low.down), ("up", low.up)):
        on_weight = value.detach().to(weight.device, weight.dtype)
        lora.register_parameter(name, nn.Parameter(on_weight, requires_grad=trained))
    lora.scale = low.scale


def adapted(network: Network, layers: Mapping[str, LowRank]) -> Network:
    """A copy of `network` with these adapters on the layers of these paths."""
    found = adaptable(network)
    return with_modules(network, {path: _lora(found[path], low) for path, low in layers.items()})


def merged(network: Network, layers: Mapping[str, LowRank]) -> Network:
    """A copy of `network` with the adapters added to the weights, in fp32 before they get the weight's own dtype."""
    found, made = adaptable(network), {}
    for path, low in layers.items():
        weight = found[path].weight
        made[path] = with_weight(found[path], (weight.float() + low.delta().to(weight.device)).to(weight.dtype))
    return with_modules(network, made)


def with_weight(module: Network, weight: Tensor) -> Network:
    """A copy of a layer with another weight, which needs no gradient."""
    made = copy.copy(module)
    made._parameters = {**module._parameters, "weight": nn.Parameter(weight, requires_grad=False)}
    return made


def trainable(
    network: Network, targets: Iterable[str], *, rank: int, alpha: float | None = None, generator: Generator
) -> tuple[Network, dict[str, nn.Parameter]]:
    """A copy of `network` with fresh adapters to be trained; as long as `up` is zero it computes what `network` does.

    Args:
        network: frozen: its tensors are shared and stay as they are.
        targets: ends of the paths of linear layers and convolutions, whole names as in PEFT: "to_q", "to_out.0",
            "attn2.to_k", "conv1".
        alpha: the scale is alpha / rank; None: rank.
        generator: draws `down`, uniform in +-1 / sqrt(inputs of one output) as in PEFT; on the CPU.

    Returns:
        The copy, and its `down` and `up` by name.

    Raises:
        ConfigError: a target that no layer has, or a rank below 1.
    """
    if rank < 1:
        raise ConfigError(f"rank={rank}: a whole number, at least 1.")
    layers: dict[str, LowRank] = {}
    found = set()
    wanted = tuple(dict.fromkeys(targets))
    for path, layer in adaptable(network).items():
        ends = {target for target in wanted if path == target or path.endswith(f".{target}")}
        found |= ends
        if ends:
            weight = layer.weight
            shape = (rank, *weight.shape[1:])
            bound = weight[0].numel() ** -0.5
            down = (torch.rand(shape, generator=generator) * 2 - 1) * bound
            up = torch.zeros((weight.shape[0], rank, *(1,) * (weight.ndim - 2)))
            layers[path] = LowRank(down.requires_grad_(), up.requires_grad_(), (alpha or rank) / rank)
    lacking = [target for target in wanted if target not in found]
    if lacking or not wanted:
        ends = {re.sub(r"^.*\.(?=\D)", "", path) for path in adaptable(network)}
        raise ConfigError(
            f"targets: got {list(wanted)}; no layer's path ends in {', '.join(lacking) or 'nothing'}. There are: "
            f"{', '.join(sorted(ends))}."
        )
    made = adapted(network, layers)
    return made, {f"{path}.{name}": made.get_parameter(f"{path}.{name}") for path in layers for name in ("down", "up")}


def collect(network: nn.Module) -> dict[str, LowRank]:
    """The adapters in a network, by path; their tensors are the network's own, detached."""
    return {
        path: LowRank(layer.down.detach(), layer.up.detach(), layer.scale)
        for path, layer in network.named_modules()
        if isinstance(layer, (LoraLinear, LoraConv))
    }


def adaptable(network: nn.Module) -> dict[str, Layer]:
    """Layers that can have an adapter, by path."""
    return {path: layer for path, layer in network.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d))}


def _lora(layer: Layer, low: LowRank) -> nn.Module:
    return LoraLinear(layer, low) if isinstance(layer, nn.Linear) else LoraConv(layer, low)
