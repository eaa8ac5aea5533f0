"""One training step of the U-Net of Stable Diffusion 1.5, lienzo beside diffusers, in one run, pair by pair.

    python benchmarks/training_step.py [--pairs 3] [--steps 2] [--size 64] [--tiny]

Forward, backward, clipped gradients and AdamW in fp32 at batch 1. Diffusers' side is the step of its own text-to-image
example; lienzo's is that of `lienzo.training.loop`. The two take turns, each time in a fresh process, since at full size
one alone needs about 16 GB: one step to warm up, then some that count.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

LIBRARIES = ("diffusers", "lienzo")
SHAPES: dict[bool, dict[str, Any]] = {
    False: {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
    True: {
        "sample_size": 16, "cross_attention_dim": 64, "attention_head_dim": 4, "block_out_channels": (64, 128),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    },
}  # fmt: skip
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


class Enough(Exception):  # noqa: N818 (no error)
    """Enough steps are done."""


def diffusers_steps(shape: dict[str, Any], size: int, begin: Callable[[], None]) -> None:
    """As in examples/text_to_image/train_text_to_image.py, until `begin` raises."""
    import diffusers
    import torch
    import torch.nn.functional as F

    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(**shape)
    unet.train()
    scheduler = diffusers.DDPMScheduler(**SCHEDULE)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-5, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8)
    latents, context = torch.randn(1, 4, size, size), torch.randn(1, 77, shape["cross_attention_dim"])
    while True:
        begin()
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, 1000, (1,)).long()
        noisy = scheduler.add_noise(latents, noise, timesteps)
        output = unet(noisy, timesteps, context, return_dict=False)[0]
        loss = F.mse_loss(output.float(), noise.float(), reduction="mean")
        loss.item()  # the example gathers it for its log
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def lienzo_steps(shape: dict[str, Any], size: int, begin: Callable[[], None]) -> None:
    """The loop itself, until `begin` raises."""
    import torch
    from torch import nn

    from lienzo.diffusion.schedule import Schedule, ScheduleConfig
    from lienzo.models.unet import UNet, UNetConfig
    from lienzo.training.config import RunConfig, TrainConfig
    from lienzo.training.loop import train
    from lienzo.training.losses import CaptionedLatents, diffusion_loss
    from lienzo.training.share import Share

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unet = UNet(UNetConfig(**shape))

    torch.manual_seed(0)
    latents, context = torch.randn(1, 4, size, size), torch.randn(1, 77, shape["cross_attention_dim"])

    def batch(share: Share) -> CaptionedLatents:  # the loop asks for one when a step begins
        begin()
        return CaptionedLatents(latents=latents, context=context)

    config = TrainConfig(run=RunConfig(steps=10**6, batch_size=1, ema=None, save_every=10**6))
    with tempfile.TemporaryDirectory() as folder:
        train(Model(), diffusion_loss(Schedule(ScheduleConfig(**SCHEDULE))), batch, config, Path(folder))


def work(library: str, options: argparse.Namespace) -> None:
    """Print what one process measured: seconds of each step, and the largest resident size in GB."""
    began: list[float] = []

    def begin() -> None:
        began.append(time.perf_counter())
        if len(began) > 1 + options.steps:
            raise Enough

    with suppress(Enough):
        (diffusers_steps if library == "diffusers" else lienzo_steps)(SHAPES[options.tiny], options.size, begin)
    steps = [end - start for start, end in pairwise(began)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"steps": steps[1:], "peak": peak}))


def measure(library: str) -> dict[str, Any]:
    """Run this script again as one library's process, with the same options."""
    command = [sys.executable, "-W", "ignore", __file__, "--worker", library, *sys.argv[1:]]
    return dict(json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=3, help="processes of each library (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=2, help="measured in every process (default: %(default)s)")
    parser.add_argument("--size", type=int, default=64, help="side of the latents (default: %(default)s)")
    parser.add_argument("--tiny", action="store_true", help="a small network, to try the script")
    parser.add_argument("--worker", choices=LIBRARIES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, options)
        return
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in LIBRARIES}
    for i in range(options.pairs):
        for name in LIBRARIES if i % 2 == 0 else LIBRARIES[::-1]:
            result = measure(name)
            found[name].append(result)
            steps = ", ".join(f"{seconds:.3f}" for seconds in result["steps"])
            print(f"{name:10} {steps} s   peak {result['peak']:.2f} GB", flush=True)
    times = {name: [statistics.median(r["steps"]) for r in results] for name, results in found.items()}
    ratios = [a / b for a, b in zip(times["diffusers"], times["lienzo"], strict=True)]
    print("\nin all")
    for name, results in found.items():
        peak = max(r["peak"] for r in results)
        print(f"{name:10} median {statistics.median(times[name]):.3f} s a step   peak {peak:.2f} GB")
    print(f"diffusers / lienzo: median {statistics.median(ratios):.2f}  ({', '.join(f'{r:.2f}' for r in ratios)})")


if __name__ == "__main__":
    main()
