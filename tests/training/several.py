"""Runs of `test_distributed`, one after the other in the same processes: starting processes takes longer than the runs.

`torchrun several.py CASES.json`: a JSON list of {"folder", "config", and where wanted "bad", "what": in that step, the loss
or the gradient is NaN}.
"""

import json
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor, nn

from lienzo.diffusion.schedule import Schedule
from lienzo.errors import LienzoError
from lienzo.training.config import TrainConfig
from lienzo.training.loop import train
from lienzo.training.losses import CaptionedLatents, Conditioned, diffusion_loss, validation_loss
from lienzo.training.share import Share
from lienzo.training.watch import Hooks
from training.test_losses import EMPTY, SCHEDULE, conditioned, share, two_flat_pictures

WEIGHTS, FOUND, REFUSED = "end.safetensors", "found.json", "refused.txt"


def run(folder: Path, config: Mapping[str, Any], bad: int | None = None, what: str = "loss") -> None:
    """Train as `config` says and leave in `folder` the weights and what validation found, or why it was refused."""
    folder.mkdir(exist_ok=True)
    model = conditioned()
    model.text_encoder.text_model.final_layer_norm.requires_grad_(False)  # something is frozen
    model.scale = nn.Parameter(torch.ones(3))  # cannot be cut into two equal parts
    plain = diffusion_loss(Schedule(SCHEDULE), empty=EMPTY, dropout=0.1)
    validate = validation_loss(Schedule(SCHEDULE), lambda: [two_flat_pictures(share(7, 0))])

    def loss(model: Conditioned, batch: CaptionedLatents, share: Share) -> Tensor:
        value = plain(model, batch, share) * model.scale.prod()
        if share.step != bad or 15 not in share.numbers:
            return value
        return value * float("nan") if what == "loss" else value + (model.scale.sum() * 0).sqrt()

    speaks = not dist.is_initialized() or dist.get_rank() == 0
    try:
        end = train(
            model, loss, two_flat_pictures, TrainConfig.model_validate(config), folder, Hooks(validate=validate)
        )
    except LienzoError as error:
        with (folder / REFUSED).open("a") as file:  # every process says what it knows
            file.write(f"{type(error).__name__}: {error}\n")
        return
    end.copy_to(model)  # whatever the strategy, an ordinary model comes back
    with torch.no_grad():
        found = validate(model)
    if speaks:
        save_file({name: value.contiguous() for name, value in end.weights.items()}, folder / WEIGHTS)
        (folder / FOUND).write_text(json.dumps({"after": found["loss"]}))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for case in json.loads(Path(sys.argv[1]).read_text()):
        run(Path(case.pop("folder")), **case)
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
