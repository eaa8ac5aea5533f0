"""lienzo beside diffusers at the full size of Stable Diffusion 1.5, in one run, pair by pair.

    python benchmarks/against_diffusers.py [--pairs 5] [--work DIR]

Random weights in the published layout are written once to DIR (4.3 GB). Each library lives in a process of its own;
the two take turns, so that a noisy machine hits both alike, and the ratios are taken pair by pair. Run it on an
otherwise idle machine all the same.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LIBRARIES = ("diffusers", "lienzo")


def write_model(folder: Path) -> None:
    """Stable Diffusion 1.5's architecture with random weights, in diffusers' layout."""
    sys.path.insert(0, str(ROOT / "tests"))
    import diffusers
    import torch
    import transformers

    import tiny

    tiny.write_vocabulary(folder / "words")
    torch.manual_seed(0)
    parts = {
        "tokenizer": transformers.CLIPTokenizer.from_pretrained(folder / "words", model_max_length=77),
        "text_encoder": transformers.CLIPTextModel(
            transformers.CLIPTextConfig(
                vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
                projection_dim=768, bos_token_id=49406, eos_token_id=49407,
            )
        ),
        "unet": diffusers.UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8),
        "vae": diffusers.AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, sample_size=512,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        ),
        "scheduler": diffusers.PNDMScheduler(**tiny.SCHEDULE, skip_prk_steps=True, steps_offset=1),
    }  # fmt: skip
    pipe = diffusers.StableDiffusionPipeline(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    pipe.save_pretrained(folder / "model")


def work(library: str, model: Path) -> None:
    """Obey commands from standard input, one a line; answer each with one line of JSON."""
    import torch

    torch.set_grad_enabled(False)
    if library == "diffusers":
        from diffusers import StableDiffusionPipeline
    else:
        from lienzo import StableDiffusionPipeline
    began = time.perf_counter()
    extra = {"requires_safety_checker": False} if library == "diffusers" else {}
    pipe: Any = StableDiffusionPipeline.from_pretrained(model, safety_checker=None, **extra)
    loaded = time.perf_counter() - began
    if library == "diffusers":
        pipe.set_progress_bar_config(disable=True)
    latents = torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(0))

    def decode() -> None:
        if library == "diffusers":
            pipe.vae.decode(latents)
        else:  # as every picture is decoded
            from lienzo.pipeline.generate import decode

            decode(pipe._bundle, latents, tiling=False)

    for line in sys.stdin:
        moments: list[float] = []

        def note(_pipe: Any, _i: int, _t: Any, kwargs: dict[str, Any], moments: list[float] = moments) -> Any:
            moments.append(time.perf_counter())
            return kwargs

        def run(steps: int, output: str, note: Any = note) -> Any:
            generator = torch.Generator().manual_seed(1)
            return pipe("the red cat", num_inference_steps=steps, generator=generator, output_type=output,
                        callback_on_step_end=note)  # fmt: skip

        match line.strip():
            case "load":
                answer = loaded
            case "first":  # from here to the first picture: whatever loading put off is paid now
                began = time.perf_counter()
                run(1, "pil")
                answer = time.perf_counter() - began
            case "step":
                run(2, "latent")
                answer = moments[-1] - moments[-2]
            case "decode":
                began = time.perf_counter()
                decode()
                answer = time.perf_counter() - began
            case _:  # memory, GB
                answer = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps(answer), flush=True)


class Worker:
    def __init__(self, library: str, model: Path) -> None:
        command = [sys.executable, "-W", "ignore", __file__, "--worker", library, "--work", str(model)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def ask(self, what: str) -> float:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        return float(json.loads(self.process.stdout.readline()))

    def stop(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def seconds(*command: str) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def compare(model: Path, pairs: int) -> dict[str, dict[str, list[float]]]:
    """Measure everything in turns: what -> library -> values."""
    found: dict[str, dict[str, list[float]]] = {}

    def add(what: str, library: str, value: float) -> None:
        found.setdefault(what, {name: [] for name in LIBRARIES})[library].append(value)

    lienzo = str(Path(sys.executable).with_name("lienzo"))
    commands = {
        "import, s": {name: (sys.executable, "-W", "ignore", "-c", f"import {name}") for name in LIBRARIES},
        "import the pipeline, s": {
            name: (sys.executable, "-W", "ignore", "-c", f"from {name} import StableDiffusionPipeline")
            for name in LIBRARIES
        },
    }
    for what, each in commands.items():
        for _ in range(max(3, pairs)):
            for name, command in each.items():
                add(what, name, seconds(*command))
    for _ in range(max(3, pairs)):
        found.setdefault("lienzo --help, s", {"lienzo": []})["lienzo"].append(seconds(lienzo, "--help"))
    for _ in range(3):  # the first round warms the file cache for both
        for name in LIBRARIES:
            worker = Worker(name, model)
            add("load, s", name, worker.ask("load"))
            add("first picture after loading, 1 step, s", name, worker.ask("first"))
            add("peak memory for it, GB", name, worker.ask("memory"))
            worker.stop()
    workers = {name: Worker(name, model) for name in LIBRARIES}
    for name in LIBRARIES:
        workers[name].ask("step")
        workers[name].ask("decode")
    for what, key in (("step with guidance, s", "step"), ("VAE decode, s", "decode")):
        for i in range(pairs):
            for name in LIBRARIES if i % 2 else LIBRARIES[::-1]:
                add(what, name, workers[name].ask(key))
    for name in LIBRARIES:
        add("peak memory in the end, GB", name, workers[name].ask("memory"))
        workers[name].stop()
    return found


def report(found: dict[str, dict[str, list[float]]]) -> None:
    import diffusers
    import torch

    print(
        f"\n{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, diffusers {diffusers.__version__}, fp32, 512x512"
    )
    print(f"{'':42} {'diffusers':>10} {'lienzo':>10}   diffusers / lienzo, pair by pair")
    for what, values in found.items():
        medians = {name: statistics.median(v) for name, v in values.items()}
        theirs = f"{medians['diffusers']:10.2f}" if "diffusers" in medians else f"{'':10}"
        line = f"{what:42} {theirs} {medians['lienzo']:10.2f}"
        if "diffusers" in values:
            ratios = [a / b for a, b in zip(values["diffusers"], values["lienzo"], strict=True)]
            line += f"   median {statistics.median(ratios):.2f}  ({', '.join(f'{r:.2f}' for r in ratios)})"
        print(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache" / "lienzo-benchmark")
    parser.add_argument("--worker", choices=LIBRARIES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.worker:
        work(options.worker, options.work)
        return
    model = options.work / "model"
    if not (model / "model_index.json").exists():
        print(f"Writing random weights to {model} ...", flush=True)
        write_model(options.work)
    report(compare(model, options.pairs))


if __name__ == "__main__":
    main()
