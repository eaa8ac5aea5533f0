"""Write the model card: what the model is, what it was measured to do, and what it cannot do."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from safetensors import safe_open

from boceto.judge import GUIDANCE, SAMPLER, STEPS

TEMPLATE: Final = """\
---
license: mit
language: [en, es]
library_name: diffusers
pipeline_tag: text-to-image
---

# boceto

*boceto* (Spanish: sketch) is the model that lienzo carries with it, so that a picture can be made offline on any
machine. It is a real, small latent diffusion model in the ordinary diffusers layout, trained from scratch, and it draws
one small world: coloured shapes on plain backgrounds, at 128x128 pixels, from English or Spanish prompts.

| part | what | parameters |
|---|---|---|
| VAE | KL, 8 pixels a latent cell, 4 channels | {vae} |
| text encoder | CLIP architecture, own bilingual byte-pair vocabulary | {text_encoder} |
| U-Net | cross-attention, v-prediction | {unet} |

## What it understands

- shapes: circle, square, triangle, star, hexagon, cross (círculo, cuadrado, triángulo, estrella, hexágono, cruz)
- colours: red, green, blue, yellow, orange, purple, black, white, gray (rojo, verde, azul, amarillo, naranja, morado,
  negro, blanco, gris), for shapes and for backgrounds; without a background it is white
- one shape, with "small" or "large" if wanted; two, three or four alike; or two in a relation: to the left of, to the
  right of, above, below (a la izquierda de, a la derecha de, encima de, debajo de)

For example "a red circle to the left of a blue square on a white background", "tres estrellas amarillas sobre fondo
azul", "a small green cross on a black background".

## How well

{of} prompts (half English, half Spanish), each with a combination of shape, colour and background or relation that
never appeared in training. One picture a prompt, {sampler}, {steps} steps, guidance {guidance}, nobody picked. A
program looked at the pictures (`boceto/look.py`; on true renders of such scenes it is right in more than 99 per cent).
95 % intervals after Wilson.

| right | pictures | share | 95 % interval |
|---|---|---|---|
{rows}

"Colour" and "shape" ask for those of every thing, "count" for the right number of things, "everything" for all at once.

The first 64 of these pictures, in order:

![64 unpicked pictures of held-out prompts](sheet.png)

## Limits

- It knows nothing else. Any other prompt gives some arrangement of coloured shapes; do not expect a likeness of what
  was asked.
- Arrangements are those it saw: counted things stand in a row (2), one above two (3) or two above two (4); pairs stand
  side by side or one above the other. Sizes other than 128x128 were not trained.
- It does get prompts wrong, as often as the table says. Small shapes are the blurriest: an eighth of a picture's side
  is two latent cells.
- Colours are nine fixed ones; shades ("light blue") are not understood, nor are more than two different things.
- The figures are about this world only: layouts, wordings and single attributes of those prompts were all seen in
  training, their combinations were not. The program does not score sizes, nor edges, which are a little wavy.
- The same prompts were looked at while the recipe was being made, so they are held out from training, not from us.

## How it was made

From procedural pictures alone (`boceto/scenes.py`): no photograph, no artwork and no text of anyone was used, so there
is nobody in it and nothing to attribute. {scenes:,} scenes; the VAE took {vae_steps:,} steps of {vae_batch} crops,
U-Net and text encoder together {unet_steps:,} steps of {batch}, {minutes} minutes of training in all on {machine};
averaged weights (EMA), stored as fp16. One command makes one like it again:

    python -m boceto.make --out DIR --minutes {minutes} --device {device}

Captions are dropped in 10 % of the training samples for classifier-free guidance; the loss is the plain squared
error of v. MIT licence.
"""


def write_card(folder: Path, figures: Mapping[str, Mapping[str, Any]], facts: Mapping[str, Any]) -> None:
    """Write `README.md` into a model's folder.

    Args:
        figures: of `judge.figures`.
        facts: scenes, vae_steps, vae_batch, unet_steps, batch, minutes, machine, device.
    """
    rows = []
    for name, row in figures.items():
        low, high = row["interval"]
        rows.append(f"| {name} | {row['of']} | {row['right'] / row['of']:.1%} | {low:.1%} to {high:.1%} |")
    sizes = {part: f"{parameters(folder / part) / 1e6:.1f} M" for part in ("vae", "text_encoder", "unet")}
    drawn = {"of": figures["everything"]["of"], "sampler": SAMPLER, "steps": STEPS, "guidance": GUIDANCE}
    text = TEMPLATE.format_map({"rows": "\n".join(rows), **sizes, **drawn, **facts})
    (folder / "README.md").write_text(text, encoding="utf-8")


def parameters(part: Path) -> int:
    """Number of weights in a component's folder."""
    [file] = part.glob("*.safetensors")
    with safe_open(file, "pt") as weights:
        shapes = [weights.get_slice(name).get_shape() for name in weights.keys()]  # noqa: SIM118 (it is no dict)
    return sum(map(math.prod, shapes))


def last_line(log: Path) -> dict[str, Any]:
    """The last entry of a training log."""
    entry: dict[str, Any] = json.loads(log.read_text(encoding="utf-8").splitlines()[-1])
    return entry
