"""An exponential moving average of a model's weights: what one samples with."""

import torch
from torch import Tensor, nn


class EMA:
    """Average of a model's floating-point state, warmed up so that early averages are not the random start.

    Args:
        decay: of the average in the long run; after n updates it is min(decay, (1 + n) / (10 + n)).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.average = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, value in model.state_dict().items():
            mean = self.average[name]
            if mean.is_floating_point():
                mean.lerp_(value, 1 - decay)
            else:
                mean.copy_(value)

    def copy_to(self, model: nn.Module) -> None:
        """Give the model the averaged weights."""
        model.load_state_dict(self.average)

    def state_dict(self) -> dict[str, object]:
        return {"updates": self.updates, "average": self.average}

    def load_state_dict(self, state: dict[str, object]) -> None:
        updates, average = state["updates"], state["average"]
        assert isinstance(updates, int) and isinstance(average, dict)
        self.updates = updates
        for name, value in average.items():
            assert isinstance(value, Tensor)
            self.average[name].copy_(value)
