"""One training step of the U-Net of Stable Diffusion 1.5, lienzo beside diffusers, in one run, pair by pair.

    python benchmarks/training_step.py [--pairs 5] [--size 64] [--tiny]

Forward, backward, clipped gradients and AdamW in fp32 at batch 1. Diffusers' side is the step of its own text-to-image
example; lienzo's is that of `lienzo.training.loop`. Each library lives in a process of its own, and the two take turns.
At full size each process needs about 16 GB.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
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


def diffusers_step(shape: dict[str, Any], size: int) -> Callable[[], None]:
    """As in examples/text_to_image/train_text_to_image.py."""
    import diffusers
    import torch
    import torch.nn.functional as F

    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(**shape)
    unet.train()
    scheduler = diffusers.DDPMScheduler(**SCHEDULE)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-5, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8)
    latents, context = torch.randn(1, 4, size, size), torch.randn(1, 77, shape["cross_attention_dim"])

    def step() -> None:
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

    return step


def lienzo_steps(shape: dict[str, Any], size: int) -> Callable[[], None]:
    """The loop itself, which is asked for one more step each time."""
    import threading

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
    asked, done = threading.Semaphore(0), threading.Semaphore(0)
    started = False

    def batch(share: Share) -> CaptionedLatents:  # the loop asks for the next batch when a step is done
        nonlocal started
        if started:
            done.release()
        started = True
        asked.acquire()
        return CaptionedLatents(latents=latents, context=context)

    config = TrainConfig(run=RunConfig(steps=10**6, batch_size=1, ema=None, save_every=10**6))
    schedule = Schedule(ScheduleConfig(**SCHEDULE))
    folder = Path(tempfile.mkdtemp())
    threading.Thread(
        target=train, args=(Model(), diffusion_loss(schedule), batch, config, folder), daemon=True
    ).start()  # fmt: skip

    def step() -> None:
        asked.release()
        done.acquire()

    return step


def work(library: str, tiny: bool, size: int) -> None:
    """Obey commands from standard input, one a line; answer each with one line of JSON."""
    shape = SHAPES[tiny]
    step = (diffusers_step if library == "diffusers" else lienzo_steps)(shape, size)
    for line in sys.stdin:
        if line.strip() == "step":
            began = time.perf_counter()
            step()
            answer = time.perf_counter() - began
        else:
            answer = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps(answer), flush=True)


class Worker:
    def __init__(self, library: str, options: argparse.Namespace) -> None:
        command = [sys.executable, "-W", "ignore", __file__, "--worker", library, "--size", str(options.size)]
        self.process = subprocess.Popen(
            command + ["--tiny"] * options.tiny, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, what: str) -> float:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        return float(json.loads(self.process.stdout.readline()))

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--size", type=int, default=64, help="side of the latents (default: %(default)s)")
    parser.add_argument("--tiny", action="store_true", help="a small network, to try the script")
    parser.add_argument("--in-turn", action="store_true", help="one process at a time, where memory is short")
    parser.add_argument("--worker", choices=LIBRARIES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.worker:
        work(options.worker, options.tiny, options.size)
        return
    times: dict[str, list[float]] = {name: [] for name in LIBRARIES}
    peaks: dict[str, float] = {}
    if options.in_turn:
        for name in LIBRARIES:
            worker = Worker(name, options)
            worker.ask("step")
            times[name] = [worker.ask("step") for _ in range(options.pairs)]
            peaks[name] = worker.ask("memory")
            worker.stop()
    else:
        workers = {name: Worker(name, options) for name in LIBRARIES}
        for name in LIBRARIES:
            workers[name].ask("step")
        for i in range(options.pairs):
            for name in LIBRARIES if i % 2 else LIBRARIES[::-1]:
                times[name].append(workers[name].ask("step"))
        for name in LIBRARIES:
            peaks[name] = workers[name].ask("memory")
            workers[name].stop()
    ratios = [a / b for a, b in zip(times["diffusers"], times["lienzo"], strict=True)]
    for name in LIBRARIES:
        print(f"{name:10} {statistics.median(times[name]):8.3f} s a step   peak {peaks[name]:.2f} GB")
    print(f"diffusers / lienzo: median {statistics.median(ratios):.2f}  ({', '.join(f'{r:.2f}' for r in ratios)})")


if __name__ == "__main__":
    main()
