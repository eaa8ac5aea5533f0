"""A picture is a pure function of (weights, request). This is that function.

txt2img, img2img and inpainting differ only in where x starts, which levels are visited, what the network is shown
besides x, and what is put back after each step. The loop exists once.

On the CPU every picture passes the networks alone, so that it does not depend on its batch, bit for bit; on an
accelerator, where that cannot be had anyway, the batch goes through at once.
"""

import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from lienzo.diffusion.grids import Grid, default_grid, make_grid
from lienzo.diffusion.guidance import applies, guide
from lienzo.diffusion.prediction import denoiser
from lienzo.diffusion.samplers import SAMPLERS
from lienzo.errors import NonFiniteError, RequestError, nearest
from lienzo.images import mask_tensor, resize, to_image, to_tensor
from lienzo.memory import large_work
from lienzo.models.bundle import Bundle
from lienzo.models.unet import sinusoids
from lienzo.pipeline.prompt import encode_prompt
from lienzo.pipeline.request import InputImage, Request
from lienzo.rng import generator, normal

SDE = ("DPMSolverMultistepScheduler", "sde-dpmsolver++")
Given = Literal["latents", "generators", "steps"]
"""What a caller gave beside the request: the noise to start from, generators in another state than the seed's (or one for
several pictures), tensors sent back on the way. Then the request alone does not give the picture."""

TILE_ABOVE = 1536 * 1536
"""Pixels above which decoding is tiled where the request leaves it open."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One evaluation of the network is done.

    Attributes:
        index: 1 to `of`.
        time: the timestep that the network was told.
        sigma: the noise level that `x` is now at.
        x: (B, C, h, w), x0 + sigma * noise, a copy. Sending a tensor of this shape back to the generator replaces it.
        x0: (B, C, h, w), the current estimate of the finished latents, a copy. No check has seen what it would show.
        tiling: whether previews are decoded in tiles.
    """

    index: int
    of: int
    time: float
    sigma: float
    x: Tensor
    x0: Tensor
    bundle: Bundle = field(repr=False)
    tiling: bool = False

    def previews(self) -> list[Image.Image]:
        """The current estimates as pictures. Costs a decode; nothing is done unless this is called.

        They are unchecked and unmarked: safety checks see the finished picture alone. Show them to nobody who is not to see
        what a check would block.
        """
        return [to_image(pixels) for pixels in decode(self.bundle, self.x0, tiling=self.tiling)]


@dataclass(frozen=True, kw_only=True)
class Result:
    """A finished picture.

    Attributes:
        request: complete: with it and the weights, the same picture comes again.
        pixels: (3, H, W) fp32 in [-1, 1] on the CPU, before rounding to 8 bits.
        latents: (C, h, w) fp32, unit variance.
        warnings: what the user should know, e.g. words of the prompt that did not fit.
        given: what went in beside the request; where anything did, the request alone does not give the picture.
    """

    request: Request = field(repr=False)  # a log line that shows a result shall not hold the prompt
    pixels: Tensor = field(repr=False)
    latents: Tensor = field(repr=False)
    bundle: Bundle = field(repr=False)
    warnings: tuple[str, ...] = ()
    given: tuple[Given, ...] = ()

    @cached_property
    def image(self) -> Image.Image:
        return to_image(self.pixels)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Finished latents, before they are decoded: (C, h, w) fp32, unit variance."""

    request: Request = field(repr=False)
    latents: Tensor = field(repr=False)
    warnings: tuple[str, ...] = ()
    given: tuple[Given, ...] = ()


Run = Generator[Step, Tensor | None, tuple[Result, ...]]


def resolve(bundle: Bundle, request: Request) -> Request:
    """Fill in what the request leaves to the model.

    Raises:
        RequestError: the model cannot do what is asked.
    """
    config = bundle.schedule.config
    width, height = _size(bundle, request)
    sampler = request.sampler or default_sampler(bundle)
    schedule, convention = bundle.schedule, SAMPLERS[sampler].convention
    if sampler == "plms" and config.starts_with_runge_kutta:
        raise RequestError(
            f"{bundle.name} asks for PLMS with Runge-Kutta steps at the start (skip_prk_steps=false), which lienzo does "
            "not have. Choose another sampler, or set skip_prk_steps to true in its scheduler_config.json."
        )
    if sampler.startswith("dpmpp_2m") and config.class_name.startswith("DPMSolver") and config.solver_order != 2:
        raise RequestError(
            f"{bundle.name} asks for DPM-Solver++ of order {config.solver_order}; lienzo has order 2. Choose another sampler."
        )
    grid = request.grid if request.grid or request.sigmas else default_grid(schedule, convention)
    order = config.solver_order if config.class_name == "UniPCMultistepScheduler" else 2
    strength = request.strength or ((1.0 if request.mask else 0.8) if request.init else None)
    tiling = request.vae_tiling if request.vae_tiling is not None else width * height > TILE_ABOVE
    if request.mask is None and bundle.unet.config.in_channels != bundle.unet.config.out_channels:
        raise RequestError(f"{bundle.name} is an inpainting model: it needs an init picture and a mask.")
    return request.replace(
        width=width,
        height=height,
        sampler=sampler,
        grid=grid,
        steps=len(request.sigmas) - 1 if request.sigmas else request.steps,
        order=request.order or (order if sampler == "unipc" else None),
        strength=strength,
        vae_tiling=tiling,
    )


def default_sampler(bundle: Bundle) -> str:
    """The sampler that the model was published with.

    Raises:
        RequestError: lienzo does not have that one.
    """
    config = bundle.schedule.config
    sde = "/sde-dpmsolver++" if (config.class_name, config.algorithm_type) == SDE else ""
    for name, sampler in SAMPLERS.items():
        if sampler.published == config.class_name + sde:
            return name
    raise RequestError(
        f"{bundle.name} names {config.class_name}{sde}, which lienzo does not have. Choose a sampler: {nearest('', SAMPLERS)}"
    )


def generate(
    bundle: Bundle,
    requests: Request | Sequence[Request],
    *,
    generators: Sequence[torch.Generator] | None = None,
    latents: Tensor | None = None,
) -> Run:
    """Make pictures. A generator: it yields a `Step` after every evaluation of the network and returns the results.

    Stop iterating and the work stops. Requests may differ in anything; those that share size, sampler and so on run
    in lockstep, the rest one group after the other, and the results come in the requests' order.

    Args:
        generators: sources of noise, one a request, instead of each request's seed.
        latents: the initial noise (B, C, h, w), a standard normal, instead of drawing it.

    Raises:
        RequestError: something that this model cannot do.
        NonFiniteError: NaN or infinity on the way; no picture is returned.
    """
    samples = yield from sample(bundle, requests, generators=generators, latents=latents)
    return tuple(
        Result(
            request=made.request,
            pixels=decode(bundle, made.latents[None], tiling=bool(made.request.vae_tiling))[0],
            latents=made.latents,
            bundle=bundle,
            warnings=made.warnings,
            given=made.given,
        )
        for made in samples
    )


def finished(run: Run, on_step: Callable[[Step], object] | None = None) -> tuple[Result, ...]:
    """Walk through a run to its results, and show each step on the way."""
    while True:
        try:
            step = next(run)
        except StopIteration as stopped:
            return stopped.value  # type: ignore[no-any-return]
        if on_step is not None:
            on_step(step)


def sample(
    bundle: Bundle,
    requests: Request | Sequence[Request],
    *,
    generators: Sequence[torch.Generator] | None = None,
    latents: Tensor | None = None,
) -> Generator[Step, Tensor | None, tuple[Sample, ...]]:
    """`generate` up to the finished latents."""
    batch = [resolve(bundle, r) for r in ([requests] if isinstance(requests, Request) else requests)]
    sources = list(generators) if generators is not None else [generator(r.seed) for r in batch]
    for name, given in (("generators", sources), ("latents", batch if latents is None else latents)):
        if len(given) != len(batch):
            raise RequestError(f"{name}: got {len(given)} for {len(batch)} pictures; give one each.")
    # looked at before anything is drawn: whether a picture's noise is that of its seed, and of no other picture's
    own = [
        sources.count(s) == 1 and s.get_state().equal(generator(r.seed).get_state())
        for r, s in zip(batch, sources, strict=True)
    ]
    groups: dict[str, list[int]] = {}
    for i, request in enumerate(batch):
        groups.setdefault(lockstep_key(request), []).append(i)
    runs = []
    for members in groups.values():
        noise = latents[members] if latents is not None else None
        requests, noises, owns = [batch[i] for i in members], [sources[i] for i in members], [own[i] for i in members]
        runs.append((members, _Group(bundle, requests, noises, owns, noise)))
    total, done = sum(run.evaluations for _, run in runs), 0
    samples: dict[int, Sample] = {}
    for members, run in runs:
        made = yield from run.walk(done, total)
        done += run.evaluations
        samples.update(zip(members, made, strict=True))
    return tuple(samples[i] for i in range(len(batch)))


def lockstep_key(request: Request) -> str:
    """The same for requests that run in lockstep; says nothing of prompts, seeds and pictures."""
    own = {"prompt", "negative_prompt", "seed", "init", "mask"}
    return f"{request.model_dump_json(exclude=own)} {request.init is None} {request.mask is None}"


def native_size(bundle: Bundle) -> tuple[int, int]:
    """(width, height) in pixels that the model was trained for."""
    side = bundle.unet.config.sample_size or 64
    rows, columns = (side, side) if isinstance(side, int) else side
    return columns * bundle.vae.config.factor, rows * bundle.vae.config.factor


def _size(bundle: Bundle, request: Request) -> tuple[int, int]:
    factor = bundle.vae.config.factor
    if request.init is not None:
        default = (request.init.width // factor * factor, request.init.height // factor * factor)
    else:
        default = native_size(bundle)
    width, height = request.width or default[0], request.height or default[1]
    if width % factor or height % factor:
        raise RequestError(f"{width}x{height}: this model needs multiples of {factor} pixels.")
    return width, height


class _Group:
    """Requests that run in lockstep: everything that is fixed before the first step."""

    def __init__(
        self,
        bundle: Bundle,
        batch: list[Request],
        sources: list[torch.Generator],
        own_noise: list[bool],
        latents: Tensor | None,
    ) -> None:
        first = batch[0]
        assert first.width and first.height and first.sampler
        self.bundle, self.batch, self.request, self.sources = bundle, batch, first, sources
        weight = next(bundle.unet.parameters())
        self.device, self.dtype = weight.device, weight.dtype
        self.sampler = SAMPLERS[first.sampler]
        grid = make_grid(bundle.schedule, self.sampler.convention, first.steps, first.grid, first.sigmas)
        self.grid: Grid = grid.tail(first.strength) if first.strength is not None else grid
        self.evaluations = self.sampler.evaluations(self.grid)
        offered = {
            "eta": first.eta,
            "order": first.order,
            "prediction": bundle.schedule.prediction_type,
            "doubled": self.grid.doubled,
        }
        self.options = {**self.sampler.options, **{name: offered[name] for name in self.sampler.takes}}
        factor = bundle.vae.config.factor
        self.shape = (bundle.vae.config.latent_channels, first.height // factor, first.width // factor)
        self.given = latents
        self.steered = False
        self.own_noise = own_noise
        if latents is not None and tuple(latents.shape[1:]) != self.shape:
            raise RequestError(f"latents: got {tuple(latents.shape)}, expected {(len(batch), *self.shape)}.")

    @torch.no_grad()
    def walk(self, done: int, total: int) -> Generator[Step, Tensor | None, list[Sample]]:
        """Run the group; `done` of `total` evaluations came before it."""
        warnings = self._encode_prompts()
        x = self._start()
        denoise = denoiser(self._predict, self.bundle.schedule.prediction_type)
        walk = self.sampler.walk(denoise, x, self.grid.steps, self._noise, **self.options)
        level = self.grid.steps[0][0]
        sent: Tensor | None = None
        for index in range(1, self.evaluations + 1):
            time = self._time(level)
            x, x0, level = next(walk) if index == 1 else walk.send(sent)
            if not bool(torch.isfinite(x).all()):
                raise NonFiniteError(
                    f"NaN or infinity after step {index} of {self.evaluations} (sigma {level:.3g}). Usual causes: damaged "
                    f"weights, half precision (this is {self.dtype}; try --dtype fp32), or an extreme guidance scale."
                )
            sent = self._keep(x, level, last=index == self.evaluations)
            x = x if sent is None else sent
            changed = yield Step(
                index=done + index,
                of=total,
                time=time,
                sigma=level,
                x=x.clone(),  # what is done to it without sending it back shall not go into the picture unseen
                x0=x0.clone(),
                bundle=self.bundle,
                tiling=bool(self.request.vae_tiling),
            )
            if changed is not None:
                self.steered = True
                x = sent = changed
        latents = (x / math.sqrt(1 + level * level)).cpu()
        rows = zip(self.batch, latents, warnings, self._given(), strict=True)
        return [Sample(request=r, latents=z, warnings=w, given=g) for r, z, w, g in rows]

    def _given(self) -> Iterator[tuple[Given, ...]]:
        for own in self.own_noise:
            found: dict[Given, bool] = {
                "latents": self.given is not None,
                "generators": not own,
                "steps": self.steered,
            }
            yield tuple(name for name, there in found.items() if there)

    def _encode_prompts(self) -> list[tuple[str, ...]]:
        """Contexts of every picture, without and with its prompt: (B, 2, L, D)."""
        skip = self.request.clip_skip
        cache: dict[str, tuple[Tensor, str]] = {}
        for text in {t for r in self.batch for t in (r.prompt, r.negative_prompt)}:
            cache[text] = encode_prompt(self.bundle, text, skip)
        pairs = [torch.cat([cache[r.negative_prompt][0], cache[r.prompt][0]]) for r in self.batch]
        self.contexts = torch.stack(pairs).to(self.device, self.dtype)
        dropped = {text: rest for text, (_, rest) in cache.items()}
        return [tuple(_prompt_warnings(request, dropped)) for request in self.batch]

    def _noise(self) -> Tensor:
        return normal(self.sources, self.shape).to(self.device)

    def _start(self) -> Tensor:
        """x at the first level, and what inpainting needs; draws noise in the reference's order."""
        self.extra: Tensor | None = None
        self.mask: Tensor | None = None
        sigma = self.grid.steps[0][0]
        nine = self.bundle.unet.config.in_channels > self.bundle.unet.config.out_channels
        whole = self.request.mask is not None and self.request.strength == 1.0
        source = None
        if self.request.init is not None and not (whole and nine):
            source = self._encode([self._pixels(r.init) for r in self.batch])
        noise = self._noise() if self.given is None else self.given.to(self.device, torch.float32)
        if self.request.mask is not None:
            self._prepare_mask(nine)
        self.source, self.first_noise = source, noise
        return noise * self.grid.start if source is None or whole else source + sigma * noise

    def _pixels(self, picture: InputImage | None) -> Tensor:
        assert picture is not None and self.request.width and self.request.height
        return to_tensor(resize(picture.image.convert("RGB"), self.request.width, self.request.height))

    def _encode(self, pictures: list[Tensor]) -> Tensor:
        """(3, H, W) each -> unit-variance latents (B, C, h, w), sampled with each picture's own generator."""
        vae = self.bundle.vae
        weight = next(vae.parameters())
        sources = self._one_source_a_picture(pictures)
        latents = []
        for picture, source in zip(pictures, sources, strict=False):
            q = vae.encode(picture[None].to(weight.device, weight.dtype))
            noise = normal([source], self.shape).to(weight.device, weight.dtype)
            latents.append(vae.to_latents(q.sample(noise)).float())
        return torch.cat(latents).expand(len(self.sources), -1, -1, -1)

    def _one_source_a_picture(self, pictures: Sequence[Tensor]) -> list[torch.Generator]:
        """The generators; only one where it is shared by copies of one picture: diffusers then draws once for all."""
        shared = all(source is self.sources[0] for source in self.sources)
        return self.sources[:1] if shared and all(p.equal(pictures[0]) for p in pictures) else self.sources

    def _prepare_mask(self, nine: bool) -> None:
        assert self.request.width and self.request.height
        soft = self.request.soft_mask
        masks = torch.stack(
            [
                mask_tensor(r.mask.image, self.request.width, self.request.height, soft=soft)
                for r in self.batch
                if r.mask
            ]
        )
        size = self.shape[1:]
        mask = F.interpolate(masks, size=size, mode="area") if soft else F.interpolate(masks, size=size)
        self.mask = mask.to(self.device)
        if nine:
            hidden = [self._pixels(r.init) * (m < 0.5) for r, m in zip(self.batch, masks, strict=True)]
            self.extra = torch.cat([self.mask, self._encode(hidden)], dim=1)
        else:  # the reference encodes the visible part here too, and throws all but the draw away
            normal(self._one_source_a_picture(list(masks)), self.shape)

    def _keep(self, x: Tensor, level: float, *, last: bool) -> Tensor | None:
        """Outside the mask, put the original back at this level (models without mask channels); None: x stays."""
        if self.mask is None or self.extra is not None or self.source is None:
            return None
        kept = self.source * math.sqrt(1 + level * level) if last else self.source + level * self.first_noise
        return torch.lerp(kept, x, self.mask)

    def _predict(self, x: Tensor, sigma: float) -> Tensor:
        """The guided output of the network for unit-variance x (B, C, h, w)."""
        if self.extra is not None:
            x = torch.cat([x, self.extra], dim=1)
        x = x.to(self.dtype)
        if self.device.type == "cpu":
            return torch.cat([self._predict_some(x[i : i + 1], self.contexts[i : i + 1], sigma) for i in range(len(x))])
        return self._predict_some(x, self.contexts, sigma)

    def _predict_some(self, x: Tensor, contexts: Tensor, sigma: float) -> Tensor:
        time = torch.tensor([self._time(sigma)], device=self.device)
        r = self.request
        dim = self.bundle.unet.config.time_cond_proj_dim
        if dim is not None:
            return self.bundle.unet(x, time.expand(len(x)), contexts[:, 1], self._guidance(len(x), dim))  # type: ignore[no-any-return]
        if not applies(sigma, r.guidance_scale, r.guidance_interval):
            return self._call(x, time, contexts[:, 1])
        both = torch.cat([contexts[:, 0], contexts[:, 1]])  # (2B, L, D)
        without, with_prompt = self._call(torch.cat([x, x]), time, both).float().chunk(2)
        return guide(without, with_prompt, r.guidance_scale, r.guidance_rescale)

    def _guidance(self, count: int, dim: int) -> Tensor:
        """The embedding of w - 1 that latent consistency models take instead of a second pass (arXiv:2310.04378)."""
        w = torch.full((count,), 1000.0 * (self.request.guidance_scale - 1), device=self.device)
        return sinusoids(w, dim, freq_shift=1.0, flip=False).to(self.dtype)

    def _time(self, sigma: float) -> float:
        time = self.grid.times.get(sigma)
        return self.bundle.schedule.time(sigma) if time is None else time

    def _call(self, x: Tensor, time: Tensor, context: Tensor) -> Tensor:
        return self.bundle.unet(x, time.expand(len(x)), context)  # type: ignore[no-any-return]


def decode(bundle: Bundle, latents: Tensor, *, tiling: bool) -> Tensor:
    """Unit-variance latents (B, C, h, w) -> pixels (B, 3, H, W) fp32 on the CPU, one picture at a time.

    Raises:
        NonFiniteError: NaN or infinity came out.
    """
    vae: Callable[[Tensor], Tensor] = bundle.vae.decode_tiled if tiling else bundle.vae.decode
    weight = next(bundle.vae.parameters())
    with torch.no_grad(), large_work():
        z = bundle.vae.from_latents(latents).to(weight.device, weight.dtype)
        pixels = torch.cat([vae(z[i : i + 1]).float().cpu() for i in range(len(z))])
    if not bool(torch.isfinite(pixels).all()):
        raise NonFiniteError(
            "NaN or infinity in the VAE's output. Try --dtype fp32; if that fails, the weights are damaged."
        )
    return pixels


def prompt_warnings(bundle: Bundle, request: Request) -> tuple[str, ...]:
    """What `Result.warnings` of a request will say, without making it."""
    texts = (request.prompt, request.negative_prompt)
    return tuple(_prompt_warnings(request, {text: bundle.tokenizer.encode(text).dropped for text in texts}))


def _prompt_warnings(request: Request, dropped: Mapping[str, str]) -> Iterator[str]:
    """What the user should know about the prompts; `dropped`: text -> the part of it that did not fit."""
    for name, text in (("prompt", request.prompt), ("negative prompt", request.negative_prompt)):
        if dropped[text]:
            words = len(dropped[text].split())  # the words themselves may be private
            yield f"{name} too long for the model; it did not see its last {words} word{'s' * (words != 1)}"
    if request.guidance_scale == 1:
        unused = {"negative_prompt": request.negative_prompt, "guidance_rescale": request.guidance_rescale}
        for name in (name for name, value in unused.items() if value):
            yield f"{name} does nothing at guidance_scale 1, which is no guidance"
