"""AUTOMATIC1111's API (/sdapi/v1), for clients that speak it.

A setting that would change the picture and that lienzo does not have is an error, unless it has the value at which it does
nothing. Nothing is set for others: a model is chosen in each request (`override_settings`).
"""

import base64
import json
import os
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Final

from anyio import to_thread
from fastapi import APIRouter, Body, Depends, Response
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse
from PIL import ImageFilter, ImageOps
from pydantic import BaseModel, ConfigDict, Field, model_validator

from lienzo import __version__
from lienzo.diffusion.grids import GRIDS
from lienzo.diffusion.samplers import SAMPLERS
from lienzo.errors import RequestError, nearest
from lienzo.images import open_image, png, transparency
from lienzo.pipeline.request import InputImage, Request
from lienzo.provenance.examine import see
from lienzo.provenance.infotext import SAMPLER_NAMES, SCHEDULE_NAMES, infotext
from lienzo.provenance.parameters import read_parameters
from lienzo.server.access import Caller
from lienzo.server.clients import Harmless, cancel, complaints, decoded, ended, first_seed, series, submit, undone
from lienzo.server.desk import Allowed, Asked, At, Desk, Route
from lienzo.server.jobs import Job
from lienzo.server.problems import MEDIA_TYPE

AUTOMATIC: Final = "Automatic"
"""Of a scheduler or VAE: the model's own."""
HARMLESS: Final[Mapping[str, Harmless]] = {
    "enable_hr": ((False,), "Make a larger picture of it with img2img."),
    "subseed_strength": ((0,), "Seeds are not mixed."),
    "seed_resize_from_h": ((0, -1), "A seed's noise belongs to its size."),
    "seed_resize_from_w": ((0, -1), "A seed's noise belongs to its size."),
    "restore_faces": ((False,), "Pictures are marked as they are made."),
    "tiling": ((False,), "Pictures that repeat at their edges cannot be made."),
    "styles": (([],), "Write them into the prompt."),
    "s_churn": ((0,), "Choose a sampler with fresh noise, e.g. Euler a."),
    "s_noise": ((1,), "Noise has its own strength."),
    "s_min_uncond": ((0,), "The negative prompt counts in every step."),
    "script_name": (("", "None"), "There are no scripts."),
    "alwayson_scripts": (({},), "There are no extensions."),
    "refiner_checkpoint": (("", "None"), "Refine with img2img and another model."),
    "disable_extra_networks": ((False,), "Leave <lora:...> out of the prompt."),
    "infotext": (("",), "Send its values as fields; png-info reads them."),
    "comments": (({},), ""),
    "initial_noise_multiplier": ((1,), "Noise has its own strength."),
    "resize_mode": ((0,), "The picture is scaled to width and height; send it in their proportion."),
    "mask_round": ((True,), "Send mask_blur instead."),
    "latent_mask": ((), "Send mask."),
    "firstpass_image": ((), "Send it to img2img."),
}
MASKED: Final[Mapping[str, Harmless]] = {
    "inpainting_fill": ((1, 0), "What is masked starts as it is in the picture."),
    "inpaint_full_res": ((False, True, 0, 1), "The whole picture is made, not a part of it in another size."),
}
"""Where there is a mask. Clients send that program's defaults, 0 and true, without being asked to: those are told in `info`."""
WITHOUT_EFFECT: Final = (
    "hr_scale", "hr_upscaler", "hr_second_pass_steps", "hr_resize_x", "hr_resize_y", "hr_checkpoint_name",
    "hr_sampler_name", "hr_scheduler", "hr_prompt", "hr_negative_prompt", "firstphase_width", "firstphase_height",
    "subseed", "s_tmin", "s_tmax", "script_args", "refiner_switch_at", "image_cfg_scale", "inpaint_full_res_padding",
    "do_not_save_samples", "do_not_save_grid", "save_images", "override_settings_restore_afterwards", "force_task_id",
)  # fmt: skip
"""Whatever they are: they belong to a setting above that is off, or to what that program does with its own disk."""
OVERRIDES: Final[Mapping[str, Harmless]] = {
    "sd_vae": ((AUTOMATIC, "None"), "A model has its own VAE."),
    "samples_format": (("png",), "Pictures are PNG files with signed credentials."),
    "eta_noise_seed_delta": ((0,), "Add it to the seed."),
}
MODEL, CLIP_SKIP = "sd_model_checkpoint", "CLIP_stop_at_last_layers"
LORA: Final = re.compile(r"<(\w+):([^<>]*)>")
MOST: Final = 100
"""Pictures of one request."""


class Txt2Img(BaseModel):
    """What is asked for. What is null counts as not given. Other settings of that program may be sent at values that do nothing."""

    model_config = ConfigDict(
        extra="allow",
        allow_inf_nan=False,
        json_schema_extra={
            "example": {"prompt": "a red circle", "sampler_name": "DPM++ 2M Karras", "steps": 20, "seed": 7}
        },
    )

    prompt: str = ""
    negative_prompt: str = ""
    seed: int = Field(default=-1, description="-1: a random one.")
    sampler_name: str | None = Field(default=None, description="The model's own where not given.")
    sampler_index: str | None = Field(default=None, description="An older name of sampler_name.")
    scheduler: str = AUTOMATIC
    steps: int = 50
    cfg_scale: float = 7.0
    width: int | None = Field(default=None, description="The model's own, or the picture's, where not given.")
    height: int | None = None
    batch_size: int = Field(default=1, ge=1, le=MOST)
    n_iter: int = Field(default=1, ge=1, le=MOST)
    eta: float | None = Field(default=None, description="Of DDIM; of samplers with fresh noise only 1.")
    denoising_strength: float = Field(default=0.75, description="Of img2img.")
    override_settings: dict[str, Any] = Field(default={}, description=f"{MODEL} and {CLIP_SKIP}.")
    send_images: bool = True

    @model_validator(mode="before")
    @classmethod
    def _given(cls, values: Any) -> Any:
        return {name: one for name, one in values.items() if one is not None} if isinstance(values, dict) else values

    @property
    def n(self) -> int:
        return self.batch_size * self.n_iter


class Img2Img(Txt2Img):
    """As Txt2Img, with a picture to start from."""

    init_images: list[str] = Field(min_length=1, max_length=1, description="One, in base64.")
    mask: str | None = Field(default=None, description="White where to paint anew; in base64.")
    mask_blur: float | None = Field(default=None, ge=0, le=64)
    mask_blur_x: float = Field(default=4, ge=0, le=64)
    mask_blur_y: float = Field(default=4, ge=0, le=64)
    inpainting_mask_invert: bool = Field(default=False, description="Black where to paint anew.")
    include_init_images: bool = False
    denoising_strength: float = Field(default=0.75, gt=0, le=1)


class Made(BaseModel):
    images: list[str] = Field(description="PNG files in base64, with their Content Credentials.")
    parameters: dict[str, Any]
    info: str = Field(description="JSON: seeds, prompts, each picture's text, its job's id, warnings.")


class Picture(BaseModel):
    image: str = Field(description="In base64.")


class Info(BaseModel):
    info: str
    items: dict[str, str]
    parameters: dict[str, str]


router = APIRouter(prefix="/sdapi/v1", tags=["AUTOMATIC1111's API"], route_class=Route)
Creator = Annotated[Caller, Depends(Allowed("jobs:create"))]
Reader = Annotated[Caller, Depends(Allowed("jobs:read"))]
Canceller = Annotated[Caller, Depends(Allowed("jobs:cancel"))]
Looker = Annotated[Caller, Depends(Allowed("models:read"))]


@router.post("/txt2img", response_model=Made)
async def txt2img(at: At, caller: Creator, http: HttpRequest, asked: Txt2Img) -> Response | Made:
    """Pictures from words. Answers when all are there; who goes away earlier cancels what is not."""
    return await _made(at, caller, http, asked)


@router.post("/img2img", response_model=Made)
async def img2img(at: At, caller: Creator, http: HttpRequest, asked: Img2Img) -> Response | Made:
    """Pictures from words and a picture, or in the part of it that a mask shows."""
    return await _made(at, caller, http, asked)


async def _made(at: Desk, caller: Caller, http: HttpRequest, asked: Txt2Img) -> Response | Made:
    request, how = await to_thread.run_sync(_request, at, caller, asked)
    requests = series(request, asked.n)
    jobs = await to_thread.run_sync(partial(submit, at, caller, requests, **how))
    # What an interrupt left is given, as there.
    known = await ended(at, http, caller, jobs, enough=lambda job: job.state in ("done", "cancelled"))
    if known[-1].state not in ("done", "cancelled"):
        document = undone(known[-1])
        return JSONResponse(document, status_code=document["status"], media_type=MEDIA_TYPE)
    done = [(job, one) for job, one in zip(known, requests, strict=True) if job.state == "done"]
    return await to_thread.run_sync(_answer, at, asked, done)


def _request(at: Desk, caller: Caller, asked: Txt2Img) -> tuple[Request, dict[str, Any]]:
    """The first picture's request, and how it is to be submitted.

    Raises:
        RequestError: a setting that is unknown or cannot be honoured; all of them are told.
    """
    given = {name: value for name, value in (asked.model_extra or {}).items() if name not in WITHOUT_EFFECT}
    if isinstance(scripts := given.get("alwayson_scripts"), dict):
        given["alwayson_scripts"] = {name: one for name, one in scripts.items() if one not in ({}, {"args": []})}
    masked = isinstance(asked, Img2Img) and asked.mask is not None
    if not masked:
        given = {name: value for name, value in given.items() if name not in MASKED}
    found = complaints(given, {**HARMLESS, **MASKED}, [*type(asked).model_fields, *HARMLESS, *MASKED, *WITHOUT_EFFECT])
    overrides = dict(asked.override_settings)
    model, clip_stop = overrides.pop(MODEL, None), overrides.pop(CLIP_SKIP, None) or 1
    found += [f"override_settings.{one}" for one in complaints(overrides, OVERRIDES, [MODEL, CLIP_SKIP, *OVERRIDES])]
    if not isinstance(clip_stop, int) or clip_stop < 1:
        found.append(
            f"override_settings.{CLIP_SKIP}: got {str(clip_stop)[:50]!r}; give a whole number from 1, the last layer."
        )
    if model is not None and not isinstance(model, str):
        found.append(f"override_settings.{MODEL}: got {str(model)[:50]!r}; give a name of sd-models.")
    if asked.n > MOST:
        found.append(f"n_iter: got {asked.n} pictures; at most {MOST} may be asked for at once.")
    sampler, grid = read_sampler(asked.sampler_name or asked.sampler_index, asked.scheduler)
    eta = asked.eta or 0.0
    if sampler is not None and sampler != "ddim":
        if SAMPLERS[sampler].stochastic and asked.eta not in (None, 1):
            found.append(f"eta: got {asked.eta}. Allowed for {SAMPLER_NAMES[sampler]}: 1, all noise fresh.")
        eta = 0.0
    if found:
        raise RequestError("\n".join(found))
    prompt, loras = read_loras(asked.prompt)
    inputs = _inputs(at, caller, asked) if isinstance(asked, Img2Img) else {}
    request = Asked(
        prompt=prompt,
        negative_prompt=asked.negative_prompt,
        width=asked.width,
        height=asked.height,
        steps=asked.steps,
        sampler=sampler,
        grid=grid,
        guidance_scale=asked.cfg_scale,
        eta=eta,
        clip_skip=clip_stop - 1,
        seed=first_seed(asked.n) if asked.seed == -1 else asked.seed,
        **inputs,
    )
    return request, {"model": model, "loras": loras}


def read_sampler(name: str | None, scheduler: str) -> tuple[str | None, str | None]:
    """lienzo's sampler and grid by that program's names, also where an older client has both in one: "DPM++ 2M Karras".

    Raises:
        RequestError: there is no such one.
    """
    grids: dict[str, str | None] = {one: one for one in GRIDS}
    for one, label in SCHEDULE_NAMES.items():
        grids |= {label.casefold(): one, label.casefold().replace(" ", "_"): one}
    grids |= {AUTOMATIC.casefold(): None, "": None}
    samplers = {label.casefold(): one for one, label in SAMPLER_NAMES.items()}
    samplers |= {prefix + one: one for one in SAMPLERS for prefix in ("", "k_")}
    if scheduler.casefold() not in grids:
        raise RequestError(f"scheduler: got {scheduler[:50]!r}. {nearest(scheduler[:50], schedulers_by_label())}")
    grid = grids[scheduler.casefold()]
    if name is None:
        return None, grid
    if name.casefold() in samplers:
        return samplers[name.casefold()], grid
    for one, label in SCHEDULE_NAMES.items():
        first = name.casefold().removesuffix(f" {label.casefold()}")
        if first in samplers:
            if grid not in (None, one):
                raise RequestError(f"scheduler: got {scheduler!r} beside {name!r}. Give one of the two.")
            return samplers[first], one
    raise RequestError(f"sampler_name: got {name[:50]!r}. {nearest(name[:50], SAMPLER_NAMES.values())}")


def read_loras(prompt: str) -> tuple[str, tuple[tuple[str, float], ...]]:
    """The prompt without `<lora:NAME:WEIGHT>`, and those.

    Raises:
        RequestError: what cannot be read, or another kind of network.
    """
    found: dict[str, float] = {}
    for kind, arguments in LORA.findall(prompt):
        name, *weights = arguments.split(":")
        if kind != "lora":
            raise RequestError(f"prompt: got <{kind[:50]}:...>. Allowed: <lora:NAME:WEIGHT>.")
        try:
            numbers = {float(one) for one in weights} or {1.0}
        except ValueError:
            numbers = set()
        if len(numbers) != 1 or name in found:
            raise RequestError(
                f"prompt: got <lora:{arguments[:100]}>. Give each name once, with one weight, a number: <lora:NAME:WEIGHT>."
            )
        found[name] = numbers.pop()
    return LORA.sub("", prompt).strip(" ") if found else prompt, tuple(found.items())


def _inputs(at: Desk, caller: Caller, asked: Img2Img) -> dict[str, Any]:
    """The fields of a request that starts from a picture.

    Raises:
        RequestError, ImageError: pictures that cannot be read.
    """
    init = at.pictures.add_input(caller.tenant, decoded(asked.init_images[0], "init_images"))
    fields: dict[str, Any] = {"init": init, "strength": asked.denoising_strength}
    if asked.mask is not None:
        blur = (asked.mask_blur_x, asked.mask_blur_y) if asked.mask_blur is None else (asked.mask_blur,) * 2
        fields |= {"mask": _mask(at, caller, asked, blur), "soft_mask": any(blur)}
    return fields


def _mask(at: Desk, caller: Caller, asked: Img2Img, blur: tuple[float, float]) -> InputImage:
    """White where to paint anew. Of a mask with transparency that program looks at nothing else: what is opaque counts."""
    file = decoded(asked.mask or "", "mask")
    see(file, "mask", most=at.service.max_pixels)  # whether it can be read within bounds
    seen = transparency(file, "mask")
    mask = open_image(file, "mask").convert("L") if seen is None else ImageOps.invert(seen)
    if asked.inpainting_mask_invert:
        mask = ImageOps.invert(mask)
    return at.pictures.add_input(caller.tenant, png(mask.filter(ImageFilter.GaussianBlur(blur))))


def _answer(at: Desk, asked: Txt2Img, done: Sequence[tuple[Job, Request]]) -> Made:
    hidden = set() if getattr(asked, "include_init_images", True) else {"init_images", "mask"}
    texts = [_text(job, request) for job, request in done]
    pictures = (
        [at.pictures.read(job.picture) for job, _ in done if job.picture is not None] if asked.send_images else []
    )
    first = done[0][1] if done else None
    info = {
        "prompt": asked.prompt,
        "all_prompts": [asked.prompt] * len(done),
        "negative_prompt": asked.negative_prompt,
        "all_negative_prompts": [asked.negative_prompt] * len(done),
        "seed": first.seed if first else asked.seed,
        "all_seeds": [request.seed for _, request in done],
        "width": asked.width,
        "height": asked.height,
        "sampler_name": asked.sampler_name or asked.sampler_index,
        "cfg_scale": asked.cfg_scale,
        "steps": asked.steps,
        "batch_size": asked.batch_size,
        "sd_model_name": done[0][0].model if done else None,
        "denoising_strength": first.strength if first else None,
        "index_of_first_image": 0,
        "infotexts": texts,
        "clip_skip": first.clip_skip + 1 if first else None,
        "job_timestamp": datetime.now(UTC).strftime("%Y%m%d%H%M%S"),
        "version": f"lienzo {__version__}",
        "jobs": [job.id for job, _ in done],
        "warnings": [*_unread(asked), *dict.fromkeys(warning for job, _ in done for warning in job.warnings)],
    }
    return Made(
        images=[base64.b64encode(file).decode() for file in pictures],
        parameters=asked.model_dump(mode="json", exclude=hidden),
        info=json.dumps(info),
    )


def _text(job: Job, request: Request) -> str:
    """What that program would write into the picture. The file has it only where it is not private."""
    assert job.receipt is not None
    receipt = job.receipt["receipt"]["receipt"]
    return infotext(
        request.replace(width=receipt["picture"]["width"], height=receipt["picture"]["height"]),
        model=job.model,
        model_digest=receipt["weights"]["digest"],
        version=__version__,
        loras=[(name, weight, weight) for name, weight in job.loras],
    )


def _unread(asked: Txt2Img) -> list[str]:
    """What was sent and is done in another way than that program does."""
    told, given = list[str](), asked.model_extra or {}
    if isinstance(asked, Img2Img) and asked.mask is not None:
        meant = {
            "inpainting_fill": given.get("inpainting_fill") == 0,
            "inpaint_full_res": bool(given.get("inpaint_full_res")),
        }
        told += [f"{name}: {MASKED[name][1]}" for name, other in meant.items() if other]
    if re.search(r"[()\[\]]|\bAND\b|\bBREAK\b", LORA.sub("", f"{asked.prompt} {asked.negative_prompt}")):
        told.append("Brackets, AND and BREAK do nothing special in a prompt here; they are read as they stand.")
    return told


@router.post("/png-info")
def png_info(caller: Reader, picture: Picture) -> Info:
    """What a picture's file tells of how it was made; of a private picture nothing."""
    found = read_parameters(decoded(picture.image, "image"))
    return Info(info=found.text, items={"parameters": found.text} if found.text else {}, parameters=found.values)


@router.get("/progress")
def progress(at: At, caller: Reader, skip_current_image: bool = False) -> dict[str, Any]:
    """How far the caller's own job is that runs, and how many of them wait."""
    jobs = at.queue.open_of(caller.tenant, caller.name)
    job = next((one for one in jobs if one.state == "running"), None)
    preview = None if job is None or skip_current_image else job.preview
    state = {
        "skipped": False,
        "interrupted": False,
        "job": jobs[0].id if jobs else "",
        "job_count": len(jobs),
        "job_no": 0,
        "job_timestamp": datetime.fromtimestamp(jobs[0].created, UTC).strftime("%Y%m%d%H%M%S") if jobs else "0",
        "sampling_step": job.step if job else 0,
        "sampling_steps": job.steps if job else 0,
    }
    return {
        "progress": job.step / job.steps if job else 0.0,
        "eta_relative": (job.seconds_left or 0.0) if job else 0.0,
        "state": state,
        "current_image": None if preview is None else base64.b64encode(preview).decode(),
        "textinfo": None,
    }


@router.post("/interrupt")
def interrupt(at: At, caller: Canceller) -> dict[str, Any]:
    """Cancel all of the caller's own jobs that wait or run, and nobody else's."""
    cancel(at, at.queue.open_of(caller.tenant, caller.name))
    return {}


@router.get("/samplers")
def samplers(caller: Looker) -> list[dict[str, Any]]:
    return [{"name": label, "aliases": [name], "options": {}} for name, label in SAMPLER_NAMES.items()]


def schedulers_by_label() -> dict[str, str]:
    """Label -> name; grids that that program does not have are called as they are here."""
    return {AUTOMATIC: AUTOMATIC.casefold(), **{SCHEDULE_NAMES.get(name, name): name for name in GRIDS}}


@router.get("/schedulers")
def schedulers(caller: Looker) -> list[dict[str, Any]]:
    unknown = {"aliases": None, "default_rho": -1.0, "need_inner_model": False}
    return [{"name": name, "label": label, **unknown} for label, name in schedulers_by_label().items()]


@router.get("/sd-models")
def sd_models(at: At, caller: Looker) -> list[dict[str, Any]]:
    unknown = {"hash": None, "sha256": None, "config": None}
    return [{"title": name, "model_name": name, "filename": name, **unknown} for name in at.service.sources]


@router.get("/loras")
def loras(at: At, caller: Looker) -> list[dict[str, Any]]:
    return [{"name": name, "alias": name, "path": name, "metadata": {}} for name in at.service.lora_sources]


def _options(at: Desk) -> dict[str, Any]:
    return {MODEL: next(iter(at.service.sources)), CLIP_SKIP: 1, "sd_vae": AUTOMATIC, "samples_format": "png"}


@router.get("/options")
def options(at: At, caller: Looker) -> dict[str, Any]:
    """What counts where a request says nothing else."""
    return _options(at)


@router.post("/options")
def set_options(at: At, caller: Creator, wanted: Annotated[dict[str, Any], Body()]) -> dict[str, Any]:
    """Changes nothing: others use the service too. What is so already is accepted."""
    known = _options(at)
    if wrong := [name for name, value in wanted.items() if name not in known or known[name] != value]:
        raise RequestError(
            f"{wrong[0][:50]}: options are everybody's here and are not changed. Send it in each request: "
            f'"override_settings": {{"{MODEL}": NAME}} or {CLIP_SKIP}.'
        )
    return {}


@router.get("/scripts")
def scripts(caller: Looker) -> dict[str, list[str]]:
    """There are none."""
    return {"txt2img": [], "img2img": []}


@router.get("/memory")
def memory(caller: Annotated[Caller, Depends(Allowed("metrics:read"))]) -> dict[str, Any]:
    """Of this machine, in bytes; that of GPUs is the workers' and is not known here."""
    page, total, free = (os.sysconf(f"SC_{name}") for name in ("PAGE_SIZE", "PHYS_PAGES", "AVPHYS_PAGES"))
    return {
        "ram": {"free": page * free, "used": page * (total - free), "total": page * total},
        "cuda": {"error": "unavailable"},
    }
