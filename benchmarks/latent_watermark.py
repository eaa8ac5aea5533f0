"""How well marks in the initial noise are recognised in the embedded model's pictures.

    python -m benchmarks.latent_watermark [--pictures 60] [--json latent.json]

Several samplers and guidance scales in turn. The fit is `recognise`'s: chance has one of standard deviation 1, and above
5.26 a mark is recognised among one record. In the finished latents it is what walking backwards can do, in pictures what
the autoencoder and a file's compression leave of it.
"""

import argparse
import io
import json
import math
import statistics
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from boceto.scenes import FAMILIES, captions, sample_scene
from lienzo.images import to_image, to_tensor
from lienzo.pipeline.generate import finished, generate
from lienzo.pipeline.request import Request
from lienzo.provenance.watermark.latent import FALSE_POSITIVES, invert, latents_for
from lienzo.weights import load

KEY = b"benchmark" * 4
NEEDED = math.sqrt(-2 * math.log(FALSE_POSITIVES))
SAMPLERS, GUIDANCE = ("ddim", "dpmpp_2m", "euler_a", "unipc", "plms"), (1.0, 3.0, 5.0, 7.5)


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=60)
    parser.add_argument("--json", type=Path, help="write the figures here")
    chosen = parser.parse_args()
    bundle, rng = load(), np.random.default_rng(0)
    fits: dict[str, list[float]] = {"finished latents": [], "picture": [], "JPEG 50": [], "unmarked picture": []}
    matches: dict[str, list[float]] = {name: [] for name in fits}
    with torch.no_grad():
        for i in range(chosen.pictures):
            caption = captions(sample_scene(rng, list(FAMILIES)[i % len(FAMILIES)]))[0].text
            request = Request(
                caption, seed=i, sampler=SAMPLERS[i % len(SAMPLERS)], guidance_scale=GUIDANCE[i % len(GUIDANCE)]
            )
            marked = latents_for(bundle, request, KEY)
            (made,) = finished(generate(bundle, request, latents=marked))
            image = to_image(made.pixels)
            seen = {"finished latents": made.latents[None]}
            for name, changed in (("picture", image), ("JPEG 50", jpeg(image, 50))):
                seen[name] = bundle.vae.to_latents(bundle.vae.encode(to_tensor(changed)[None]).mode()).float()
            noises = {name: invert(bundle, latents) for name, latents in seen.items()}
            signs = dict.fromkeys(noises, marked.sign())
            # held against the signs of another request, a picture is as good as unmarked
            noises["unmarked picture"] = noises["picture"]
            signs["unmarked picture"] = latents_for(bundle, request.replace(seed=i + 1000), KEY).sign()
            for name, noise in noises.items():
                fits[name].append(float((signs[name] * noise).sum() / noise.norm()))
                matches[name].append(float((signs[name] * noise > 0).float().mean()))
    figures = {
        name: {
            "pictures": len(values),
            "recognised": sum(value >= NEEDED for value in values),
            "fit_median": statistics.median(values),
            "fit_max": max(values),
            "matches_mean": statistics.mean(matches[name]),
        }
        for name, values in fits.items()
    }
    for name, row in figures.items():
        print(name, row)
    if chosen.json:
        chosen.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
