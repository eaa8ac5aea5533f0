"""The line that AUTOMATIC1111's web UI writes into its pictures, so that other tools read lienzo's as well.

The prompt, a line "Negative prompt: ...", and a line of "Key: value" pairs, values quoted as JSON where they hold a
comma, a colon or a line break. The names of samplers and schedules are that program's.
"""

import json
import re
from collections.abc import Mapping, Sequence

from lienzo.pipeline.request import Request

SAMPLER_NAMES: Mapping[str, str] = {
    "ddim": "DDIM",
    "ddpm": "DDPM",
    "plms": "PLMS",
    "euler": "Euler",
    "euler_a": "Euler a",
    "heun": "Heun",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_2m_sde": "DPM++ 2M SDE",
    "unipc": "UniPC",
    "lcm": "LCM",
}
SCHEDULE_NAMES: Mapping[str, str] = {
    "karras": "Karras",
    "exponential": "Exponential",
    "sgm_uniform": "SGM Uniform",
    "ays": "Align Your Steps",
}
"""The other grids are each sampler's own there: no entry, which means "Automatic"."""


def infotext(
    request: Request, *, model: str, model_digest: str, version: str, loras: Sequence[tuple[str, float, float]] = ()
) -> str:
    """The text of a finished picture's complete request.

    Args:
        loras: name and weights for U-Net and text encoder, which that program has at the end of the prompt.
        model: the model's name.
        model_digest: of its weights; the first ten digits are written.
        version: of lienzo.
    """
    values = {
        "Steps": request.steps,
        "Sampler": SAMPLER_NAMES.get(request.sampler or "", request.sampler),
        "Schedule type": SCHEDULE_NAMES.get(request.grid or ""),
        "CFG scale": request.guidance_scale,
        "Seed": request.seed,
        "Size": f"{request.width}x{request.height}",
        "Model hash": model_digest[:10],
        "Model": model,
        "Denoising strength": request.strength,
        "Clip skip": request.clip_skip + 1 if request.clip_skip else None,  # 1 is none left out there
        "RNG": "CPU",
        "Eta": request.eta or None,
        "Version": f"lienzo {version}",
    }
    line = ", ".join(f"{key}: {_shown(value)}" for key, value in values.items() if value is not None)
    negative = f"\nNegative prompt: {_clean(request.negative_prompt)}" if request.negative_prompt else ""
    prompt = (
        " ".join([_clean(request.prompt), *(_lora(*one) for one in loras)]).strip(" ")
        if loras
        else _clean(request.prompt)
    )
    return f"{prompt}{negative}\n{line}".strip()


def _lora(name: str, unet: float, text_encoder: float) -> str:
    """`<lora:name:weight>`, or where they differ `<lora:name:text encoder's:U-Net's>`, the order that program has."""
    weights = [unet] if unet == text_encoder else [text_encoder, unet]
    return f"<lora:{re.sub(r'[<>:]', '_', _clean(name))}:{':'.join(_shown(float(weight)) for weight in weights)}>"


def _shown(value: object) -> str:
    if isinstance(value, float):
        return repr(int(value)) if value.is_integer() else repr(value)
    text = _clean(str(value))
    return json.dumps(text, ensure_ascii=False) if re.search(r'[,:\n"]', text) else text


def _clean(text: str) -> str:
    """Without the control characters that end or break a text field in one format or another."""
    return re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", " ", text.replace("\r\n", "\n").replace("\r", "\n"))
