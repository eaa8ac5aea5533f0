"""Write the model card: what the model is, what it was measured to do, and what it cannot do.

Every figure in it comes from `judge.figures`, from the runs' own notes or from the files; none is written by hand.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from safetensors import safe_open

PARTS: Final = ("vae", "text_encoder", "unet")

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
{worlds} small worlds, at {side}x{side} pixels, from English or Spanish prompts.

| part | what | parameters | MB |
|---|---|---|---|
| VAE | KL, {factor} pixels a latent cell, {channels} channels | {vae} | {vae_mb} |
| text encoder | CLIP architecture, own bilingual byte-pair vocabulary | {text_encoder} | {text_encoder_mb} |
| U-Net | cross-attention, {prediction} | {unet} | {unet_mb} |
| all | | {all} | {all_mb} |

## What it understands

{families}

Colours are red, green, blue, yellow, orange, purple, black, white and gray (rojo, verde, azul, amarillo, naranja, morado,
negro, blanco, gris), for shapes and their backgrounds; diagrams, charts and pages are kept in one of them ("in blue", "en
azul"), on a white or a dark background. `boceto/scenes/` holds every wording.

## How well

{prompts} prompts a family (half English, half Spanish), each with a combination of attributes that never appeared in
training. One picture a prompt, {sampler}, {steps} steps, guidance {guidance}, nobody picked. Programs looked at the pixels
(`boceto/look/`); what they say of true renders of the same scenes stands beside. 95 % intervals after Wilson.

{groups}

"Colour" asks for the colours of all things, or the scheme that a chart, diagram or page is kept in; "count to four" for the
right number of shapes, nodes, bars, slices or trees, where there are four at most.

{icons}

{fid}

### By family

"Everything" asks for all marks of a picture at once.

{tables}

## Limits

- It knows nothing else. Any other prompt gives some arrangement of what it knows; do not expect a likeness of what was
  asked.
- Arrangements are those that it saw: `boceto/scenes/` says where things stand. Sizes other than {side}x{side} were not
  trained.
- It does get prompts wrong, as often as the tables say. The weakest marks: {weakest}.
- The programs do not see everything: not the sizes of shapes, not the wording on pages, and of
  icons only which of {icon_count} is likeliest.
- The figures are about these worlds only: layouts, wordings and single attributes of those prompts were all seen in
  training, their combinations were not.
- The mini-CLIP that tells icons apart and compares sets of pictures learned from renders of the same kind. Its distances
  can be compared with each other, not with FID figures of other features.
- Mock-ups of pages carry the word-mark band "SIMULATION", as all of them did in training; that is a habit of the model, no
  guarantee.

## How it was made

From procedural pictures alone (`boceto/scenes/`): no photograph, no artwork and no text of anyone was used, so there is
nobody in it and nothing to attribute.

{runs}

{minutes} minutes of training in all on {machine}; averaged weights (EMA), stored as {dtype}. One command makes one like it
again:

    {command}

MIT licence.

## {shown} unpicked pictures a family

The first ones of those that were judged, in order.

{sheets}
"""

FAMILIES: Final[dict[str, tuple[str, str]]] = {
    "shapes": (
        "coloured shapes: one, up to six alike, several unlike, or two in a relation; small, large",
        "a red circle to the left of a blue square on a white background",
    ),
    "networks": (
        "network and security diagrams: devices, links, arrows; a firewall between two, an attack, a compromised node in red",
        "a DDoS attack: many red bots sending traffic to a server",
    ),
    "flows": (
        "blockchains and data flows: chains of blocks, transactions into a block, steps",
        "una cadena de tres bloques unidos por flechas",
    ),
    "dashboards": (
        "bar, line and pie charts, gauges, dashboards with an alert",
        "a bar chart with five rising bars, in blue",
    ),
    "cities": (
        "skylines at dawn, noon, sunset and night, plain or futuristic with neon",
        "un paisaje urbano futurista al atardecer con elementos cibernéticos",
    ),
    "landscapes": (
        "mountains, sea, fields, with houses, trees and cars, at any time of the day",
        "two trees and a red house at noon",
    ),
    "interfaces": ("mock-ups of pages: a login form, a mail client, a warning", "a login form with a padlock"),
}
"""What a family is, and a prompt for it."""


def write_card(folder: Path, figures: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Write `README.md` into a model's folder, beside the sheets.

    Args:
        figures: of `judge.Judgement`.
        facts: of `make.facts`: runs, machine, command, sets, side.
    """
    judged, how = figures["families"], figures["how"]
    vae, schedule = (
        json.loads((folder / name).read_text(encoding="utf-8"))
        for name in ("vae/config.json", "scheduler/scheduler_config.json")
    )
    counts = {part: parameters(folder / part) for part in PARTS}
    bytes_ = {part: sum(file.stat().st_size for file in (folder / part).glob("*.safetensors")) for part in PARTS}
    counts["all"], bytes_["all"] = sum(counts.values()), sum(bytes_.values())
    text = TEMPLATE.format_map(
        {
            **{name: f"{count / 1e6:.1f} M" for name, count in counts.items()},
            **{f"{name}_mb": f"{size / 1e6:.1f}" for name, size in bytes_.items()},
            "factor": 2 ** (len(vae["block_out_channels"]) - 1),
            "channels": vae["latent_channels"],
            "prediction": schedule["prediction_type"],
            "side": facts["side"],
            "worlds": len(judged),
            "families": "\n".join(f'- {FAMILIES[name][0]}: "{FAMILIES[name][1]}"' for name in judged),
            **{name: how[name] for name in ("prompts", "sampler", "steps", "guidance")},
            "groups": _table(figures["groups"]),
            "icons": _icons(figures),
            "fid": _fid(figures),
            "tables": "\n\n".join(f"**{name}**\n\n{_table(table)}" for name, table in judged.items()),
            "weakest": ", ".join(_weakest(judged)),
            "icon_count": how["icons"],
            "runs": _runs(facts),
            "minutes": round(sum(run["minutes"] for run in facts["runs"].values())),
            "machine": facts["machine"],
            "dtype": dtype(folder / "unet"),
            "command": facts["command"],
            "shown": min(how["shown"], how["prompts"]),
            "sheets": "\n\n".join(f"![unpicked pictures: {name}](sheet-{name}.webp)" for name in judged),
        }
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def _table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    lines = ["| right | pictures | share | 95 % interval | true renders |", "|---|---|---|---|---|"]
    for name, row in rows.items():
        low, high = row["interval"]
        lines.append(
            f"| {name} | {row['of']} | {row['right'] / row['of']:.1%} | {low:.1%} to {high:.1%} | {row['renders']:.1%} |"
        )
    return "\n".join(lines)


def _icons(figures: Mapping[str, Any]) -> str:
    if not figures["icons"]:
        return "No icons were judged."
    lines = ["| icons told apart by the mini-CLIP, top-1 | icons | share | 95 % interval |", "|---|---|---|---|"]
    for name, said in (("pictures", "in the model's pictures"), ("renders", "in true renders: its own accuracy")):
        row = figures["icons"][name]
        low, high = row["interval"]
        lines.append(f"| {said} | {row['of']} | {row['right'] / row['of']:.1%} | {low:.1%} to {high:.1%} |")
    return "\n".join(lines)


def _fid(figures: Mapping[str, Any]) -> str:
    """The distances, and what they are to be compared with."""
    lines = [f"| FID, features of the {figures['how']['features']} | pictures | the VAE's reconstruction (the floor) |"]
    lines += ["|---|---|---|"]
    lines += [f"| {name} | {row['pictures']:.3g} | {row['floor']:.3g} |" for name, row in figures["fid"].items()]
    return "\n".join(lines)


def _weakest(families: Mapping[str, Mapping[str, Mapping[str, Any]]], count: int = 5) -> list[str]:
    """Marks that are wrong most often."""
    marks = [
        (row["right"] / row["of"], f"{name} of {family} ({row['right'] / row['of']:.0%})")
        for family, rows in families.items()
        for name, row in rows.items()
        if not name.startswith("everything")
    ]
    return [said for _, said in sorted(marks)[:count]]


def _runs(facts: Mapping[str, Any]) -> str:
    names = {
        "vae": ("VAE", "crops"),
        "clip": ("mini-CLIP (not part of the model)", "looks"),
        "unet": ("text encoder and U-Net", "scenes"),
    }
    lines = ["| network | pictures | steps | batch | precision | minutes |", "|---|---|---|---|---|---|"]
    for part, run in facts["runs"].items():
        name, of = names[part]
        lines.append(
            f"| {name} | {facts['sets'][of]:,} | {run['steps']:,} | {run['batch']} | {run['precision']} | {run['minutes']:.1f} |"
        )
    return "\n".join(lines)


def parameters(part: Path) -> int:
    """Number of weights in a component's folder."""
    [file] = part.glob("*.safetensors")
    with safe_open(file, "pt") as weights:
        shapes = [weights.get_slice(name).get_shape() for name in weights.keys()]
    return sum(map(math.prod, shapes))


def dtype(part: Path) -> str:
    """What the weights in a component's folder are stored as."""
    [file] = part.glob("*.safetensors")
    with safe_open(file, "pt") as weights:
        kinds = {str(weights.get_slice(name).get_dtype()) for name in weights.keys()}
    return ", ".join(sorted({"F16": "fp16", "F32": "fp32", "BF16": "bf16"}.get(kind, kind) for kind in kinds))


def last_line(log: Path) -> dict[str, Any]:
    """The last entry of a training log that tells of a step, not of a validation."""
    entries: list[dict[str, Any]] = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return next(entry for entry in reversed(entries) if "seconds" in entry)
