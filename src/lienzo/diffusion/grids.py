"""Grids: which noise levels a sampler visits.

The level names are those of the field: `leading`, `linspace` and `trailing` space timesteps (arXiv:2305.08891, table 2),
`karras` (arXiv:2206.00364, eq. 5) and `exponential` space sigmas, `sgm_uniform` is ComfyUI's name for linspace without
its last point, `ays` are the optimised levels of "Align Your Steps" (arXiv:2404.14507), `lcm` those that latent
consistency models were distilled on.

Published samplers differ in where exactly they start, stop and round. Those differences are data: a `Convention`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from lienzo.diffusion.schedule import Schedule
from lienzo.errors import RequestError, nearest

GRIDS: Mapping[str, str] = {
    "leading": "timesteps 0, r, 2r ... (DDIM's and PLMS's own)",
    "linspace": "timesteps evenly from the last to 0 (Euler's and DPM-Solver's own)",
    "trailing": "timesteps evenly, ending at the last; needed by zero-terminal-SNR models",
    "karras": "sigma^(1/7) evenly (arXiv:2206.00364)",
    "exponential": "log sigma evenly",
    "sgm_uniform": "timesteps evenly, without 0",
    "ays": "Align Your Steps (arXiv:2404.14507), optimised for 10 steps of Stable Diffusion 1.5",
    "lcm": "the levels that latent consistency models are distilled on",
}
SPACINGS = ("leading", "linspace", "trailing")

AYS_SIGMAS = (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029)
RHO = 7.0


@dataclass(frozen=True, kw_only=True)
class Convention:
    """How the published implementation of a family of samplers lays out its levels.

    Attributes:
        spacing: the grid used where neither the request nor the model names one.
        whole: timesteps are rounded to whole numbers.
        spare: spaces one point more and leaves the lowest out, since another is appended at 0.
        starts_at_sigma: on linspace and trailing the first x is sigma * noise; otherwise sqrt(1 + sigma^2) * noise.
        model_end: ends where the model says (`ScheduleConfig.ends_at_zero`), which may be above 0.
        stride: a step from timestep t goes to t - T // n, even where that is not the next one of the grid.
        doubled_start: counts its first step twice, which shifts where img2img enters (see `Grid.tail`).
        sigma_grids: the published class can space sigmas (karras, exponential) if the model's settings say so.
        rounding: how the timesteps of sigma-spaced grids are made whole, by grid.
        limit: stands for the infinite sigma of a zero-terminal-SNR schedule.
    """

    spacing: str
    whole: bool = True
    spare: bool = False
    starts_at_sigma: bool = False
    model_end: bool = False
    stride: bool = False
    doubled_start: bool = False
    sigma_grids: bool = False
    rounding: Mapping[str, Callable[[float], float]] = field(default_factory=dict)
    limit: float = 4096.0


# sqrt(1 / 2^-24) = 4096 is where the published Euler and DPM-Solver put the pure noise of a zero-terminal-SNR schedule;
# DDIM and DDPM compute with the exact 0, which 1e8 stands for well within fp32.
DDIM = Convention(spacing="leading", model_end=True, stride=True, limit=1e8)
DDPM = Convention(spacing="leading", limit=1e8)
PLMS = Convention(spacing="leading", model_end=True, stride=True, doubled_start=True, limit=1e8)
ANCESTRAL = Convention(spacing="linspace", whole=False, starts_at_sigma=True)
EULER = replace(ANCESTRAL, sigma_grids=True)
MULTISTEP = Convention(
    spacing="linspace", spare=True, sigma_grids=True, rounding={"karras": round, "exponential": math.floor}
)
LCM = Convention(spacing="lcm", limit=1e8)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The noise levels of one run.

    Attributes:
        steps: (from level, to level) of every step, falling. As a rule each starts where the one before ended.
        times: noise level -> the timestep that the network is told.
        start: what a standard normal is multiplied by to become x at the first level.
        doubled: PLMS only. Its first step is made twice: a trial to the first of these levels, whose outcome is read at
            the second; then the step itself, from the third. As a rule (to, to, from) of the first step.
    """

    steps: tuple[tuple[float, float], ...]
    times: Mapping[float, float]
    start: float
    doubled: tuple[float, float, float] | None = None

    @property
    def end(self) -> float:
        """The level of the finished latents; 0 for most samplers."""
        return self.steps[-1][1]

    def tail(self, strength: float) -> "Grid":
        """The last `strength` of the grid, for img2img: int(n * strength) steps.

        Raises:
            RequestError: no step is left.
        """
        n = len(self.steps)
        run = min(int(n * strength), n)
        if run < 1:
            raise RequestError(
                f"strength={strength:g} of {n} steps leaves none to run: use strength >= {1 / n:.3g}, or more steps."
            )
        steps = self.steps[n - run :]
        if self.doubled is not None and run < n:
            # The published PLMS lists its second timestep twice, so it enters one level early, and after its doubled
            # step it leaves one level out. Entering at the second timestep it even takes both listings for its start.
            (early, to), *rest = self.steps[n - run - 1 :]
            if n - run > 1:
                return replace(self, steps=((early, to), *rest[1:]), doubled=(to, to, early))
            return replace(self, steps=((to, to), *rest[1:]), doubled=(rest[0][1], to, early))
        return replace(self, steps=steps)


def make_grid(
    schedule: Schedule,
    convention: Convention,
    steps: int,
    grid: str | None = None,
    sigmas: Sequence[float] | None = None,
) -> Grid:
    """Lay out the levels of a run.

    Args:
        steps: number of steps, 1 to the schedule's number of timesteps; ignored with `sigmas`.
        grid: a name of `GRIDS`; None is what `default_grid` says.
        sigmas: explicit levels instead, falling, at least two, the last one 0 as a rule.

    Raises:
        RequestError: a name that does not exist, or more steps than there are levels.
    """
    table = tuple(convention.limit if math.isinf(s) else s for s in schedule.sigmas)
    last = len(table) - 1
    if sigmas is not None:
        levels, pairs = list(sigmas), tuple(pairwise(sigmas))
        return Grid(
            steps=pairs,
            times={s: schedule.time(s) for s in levels},
            start=_start(levels[0], convention, "linspace"),
            doubled=(levels[1], levels[1], levels[0]) if convention.doubled_start and len(pairs) > 1 else None,
        )

    name = grid or default_grid(schedule, convention)
    if name not in GRIDS:
        raise RequestError(f"grid: got {name!r}; there is no such grid. {nearest(name, GRIDS)}")
    if not 1 <= steps <= last + 1:
        raise RequestError(f"steps={steps}: allowed are 1 to {last + 1}, the number of noise levels of this model.")

    spacing = schedule.config.timestep_spacing or convention.spacing
    spacing = name if name in SPACINGS else spacing if spacing in SPACINGS else "linspace"
    if name in SPACINGS or name in ("sgm_uniform", "lcm"):
        times_list = _timesteps(name, steps, schedule, convention)
        if times_list[0] > last or any(a <= b for a, b in pairwise(times_list)):
            raise RequestError(
                f"{steps} steps do not fit the {name} grid of {last + 1} timesteps: ask for fewer steps."
            )
        levels = [_interpolate(table, t) for t in times_list]
    else:
        if name == "ays":
            levels = _ays(steps)
        else:
            ends = (table[-1], table[0])
            if not convention.whole:  # the Euler family spans what its timestep spacing spans
                spaced = _timesteps(spacing, steps, schedule, convention)
                ends = (_interpolate(table, spaced[0]), _interpolate(table, spaced[-1]))
            elif name in convention.rounding:
                ends = (float(schedule.published_sigmas[-1]), float(schedule.published_sigmas[0]))
            levels = (_karras if name == "karras" else _exponential)(*ends, steps)
        if name in convention.rounding:
            times_list = [float(convention.rounding[name](t)) for t in _published_times(schedule, levels)]
        else:
            times_list = [schedule.time(s) for s in levels]

    end = table[0] if convention.model_end and not schedule.config.ends_at_zero else 0.0
    targets = [*levels[1:], end]
    if convention.stride and name in SPACINGS:
        stride = (last + 1) // steps
        targets = [table[int(t) - stride] if t >= stride else end for t in times_list]
    pairs = tuple(zip(levels, targets, strict=True))
    first, second = pairs[0]
    return Grid(
        steps=pairs,
        times=dict(zip(levels, times_list, strict=True)),
        start=_start(levels[0], convention, spacing),
        doubled=(second, second, first) if convention.doubled_start and steps > 1 else None,
    )


def default_grid(schedule: Schedule, convention: Convention) -> str:
    """The grid that the model asks for, else the sampler's own."""
    config = schedule.config
    if convention.spacing == "lcm":
        return "lcm"
    if convention.sigma_grids:
        if config.use_karras_sigmas:
            return "karras"
        if config.use_exponential_sigmas:
            return "exponential"
    return config.timestep_spacing or convention.spacing


def _start(sigma: float, convention: Convention, spacing: str) -> float:
    at_sigma = convention.starts_at_sigma and spacing in ("linspace", "trailing")
    return sigma if at_sigma else math.sqrt(1 + sigma * sigma)


def _timesteps(spacing: str, steps: int, schedule: Schedule, convention: Convention) -> list[float]:
    """Falling timesteps of a named spacing."""
    total = schedule.config.num_train_timesteps
    n = steps + convention.spare
    match spacing:
        case "leading":
            rising = [float(i * (total // n) + schedule.config.steps_offset) for i in range(n)]
            rising = rising[convention.spare :]
        case "linspace":
            rising = [min(i * ((total - 1) / max(n - 1, 1)), total - 1) for i in range(n)][convention.spare :]
        case "trailing":
            stride = (total - total / steps) - total  # as the published code rounds it
            return [round(total + i * stride) - 1.0 for i in range(steps)]
        case "sgm_uniform":
            rising = [i * (total - 1) / steps for i in range(1, steps + 1)]
        case _:  # lcm
            original = schedule.config.original_inference_steps
            if steps > original:
                raise RequestError(
                    f"steps={steps}: latent consistency models were distilled on {original}; ask for at most that."
                )
            falling = [float(i * (total // original) - 1) for i in range(original, 0, -1)]
            return [falling[i * original // steps] for i in range(steps)]
    falling = rising[::-1]
    return [float(round(t)) for t in falling] if convention.whole else falling


def _published_times(schedule: Schedule, levels: Sequence[float]) -> list[float]:
    """`Schedule.time` as published, on a fp32 table: which whole timestep a level gets can hang on the last bit."""
    logs = np.log(schedule.published_sigmas.numpy())
    wanted = np.log(levels)
    low = np.clip(np.searchsorted(logs, wanted, side="right") - 1, 0, len(logs) - 2)
    weight = np.clip((logs[low] - wanted) / (logs[low] - logs[low + 1]), 0, 1)
    return ((1 - weight) * low + weight * (low + 1)).tolist()  # type: ignore[no-any-return]


def _interpolate(table: Sequence[float], t: float) -> float:
    low = min(int(t), len(table) - 2)
    return table[low] + (t - low) * (table[low + 1] - table[low])


def _ramp(steps: int) -> list[float]:
    return np.linspace(0, 1, steps).tolist()  # type: ignore[no-any-return]


def _karras(high: float, low: float, steps: int) -> list[float]:
    a, b = high ** (1 / RHO), low ** (1 / RHO)
    return [(a + r * (b - a)) ** RHO for r in _ramp(steps)]


def _exponential(high: float, low: float, steps: int) -> list[float]:
    return np.exp(np.linspace(math.log(high), math.log(low), steps)).tolist()  # type: ignore[no-any-return]


def _ays(steps: int) -> list[float]:
    """The paper's levels for 10 steps; for others, log-linear between them."""
    logs = [math.log(s) for s in AYS_SIGMAS]
    places = [i * (len(logs) - 1) / steps for i in range(steps)]
    return [math.exp(_interpolate(logs, p)) for p in places]
