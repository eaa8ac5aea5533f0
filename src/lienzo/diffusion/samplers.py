"""Samplers: generators that walk x down a list of noise levels.

Coordinates everywhere: x = x0 + sigma * noise, fp32. One step of every first-order method from level s to t is
`advance`: along the line through x and the estimate x0, and some of t's standard deviation as fresh noise. A sampler
only chooses a better x0 and how much is fresh. Its history lives in local variables, so nothing is shared.

A sampler is called as sampler(denoise, x, steps, noise, **options):

    denoise(x, s) -> x0     the estimate at level s (`prediction.denoiser`)
    x                       (B, C, h, w), at the first level
    steps                   pairs (from level, to level), see `grids.Grid`
    noise()                 a fresh standard normal of x's shape

It yields (x, x0, level) after every evaluation: the level is the one at which x is read next. Sending a tensor back
replaces x: that is how inpainting keeps what it must keep.
"""

import math
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lienzo.diffusion.grids import ANCESTRAL, DDIM, DDPM, EULER, LCM, MULTISTEP, PLMS, Convention, Grid
from lienzo.diffusion.prediction import Denoise, from_x0, to_x0
from lienzo.diffusion.schedule import Prediction

Walk = Generator[tuple[Tensor, Tensor, float], Tensor | None, None]
Steps = Sequence[tuple[float, float]]
Noise = Callable[[], Tensor]


def advance(x: Tensor, x0: Tensor, s: float, t: float, noise: Noise | None = None, up: float = 0.0) -> Tensor:
    """From level s to t on the line through x0; `up` of t's standard deviation is fresh noise (down^2 + up^2 = t^2)."""
    x = torch.lerp(x0, x, math.sqrt(t * t - up * up) / s)
    return x + up * noise() if up > 0 and noise is not None else x


def fresh(s: float, t: float, eta: float) -> float:
    """DDIM's sigma_t(eta), eq. 16 of arXiv:2010.02502, in these coordinates; 0 is deterministic, 1 is DDPM."""
    return min(t, eta * t * math.sqrt(max(0.0, 1 - (t / s) ** 2)))


def relabel(x: Tensor, level: float, s: float) -> Tensor:
    """Call x, which is at `level`, an x at s, keeping the variance-preserving x / sqrt(1 + sigma^2) that the network sees.

    Only where a published sampler's steps do not join (`grids.py`); otherwise nothing happens.
    """
    return x if level == s else x * math.sqrt((1 + s * s) / (1 + level * level))


def first_order(denoise: Denoise, x: Tensor, steps: Steps, noise: Noise, *, eta: float = 0.0) -> Walk:
    """DDIM, eq. 12 of arXiv:2010.02502. eta = 0 is also Euler's method, eta = 1 is DDPM and ancestral Euler."""
    for s, t, level in _with_next(steps):
        x0 = denoise(x, s)
        x = relabel(advance(x, x0, s, t, noise, fresh(s, t, eta)), t, level)
        x = _or(x, (yield x, x0, level))


def heun(denoise: Denoise, x: Tensor, steps: Steps, noise: Noise) -> Walk:
    """Heun's method, algorithm 1 of arXiv:2206.00364 without churn; two evaluations a step, one in the last."""
    for s, t in steps:
        x0 = mean = denoise(x, s)
        if t > 0:
            y = advance(x, x0, s, t)
            y = _or(y, (yield y, x0, t))
            slope = ((x - x0) / s + (y - denoise(y, t)) / t) / 2
            mean = x - s * slope
        x = advance(x, mean, s, t)
        x = _or(x, (yield x, x0, t))


ADAMS_BASHFORTH = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


def plms(
    denoise: Denoise,
    x: Tensor,
    steps: Steps,
    noise: Noise,
    *,
    doubled: tuple[float, float, float] | None,
    prediction: Prediction = "epsilon",
) -> Walk:
    """Pseudo linear multistep, eq. 9 and 12 of arXiv:2202.09778: Adams-Bashforth on the network's own output.

    The first step is made twice, as Heun's is (`doubled`, see `grids.Grid`), so n steps cost n + 1 evaluations.
    """
    kind: Prediction = "v_prediction" if prediction == "v_prediction" else "epsilon"
    past: deque[Tensor] = deque(maxlen=4)
    for i, (s, t, level) in enumerate(_with_next(steps)):
        x0 = denoise(x, s)
        past.appendleft(from_x0(x0, x, s, kind))
        if i == 0 and doubled is not None:
            to, seen, start = doubled
            y = relabel(advance(x, x0, s, to), to, seen)
            y = _or(y, (yield y, x0, seen))
            output = (past[0] + from_x0(denoise(y, seen), y, seen, kind)) / 2
        else:
            start = s
            output = _weighted(ADAMS_BASHFORTH[len(past) - 1], past)
        x = relabel(x, s, start)
        x = relabel(advance(x, to_x0(output, x, start, kind), start, t), t, level)
        x = _or(x, (yield x, x0, level))


def multistep(
    denoise: Denoise,
    x: Tensor,
    steps: Steps,
    noise: Noise,
    *,
    order: int = 2,
    correct: bool = False,
    eta: float = 0.0,
) -> Walk:
    """Multistep solvers in lambda = -log(sigma).

    Order 2 is DPM-Solver++(2M) (arXiv:2211.01095, algorithm 2); with eta = 1 its SDE form; `correct` makes it UniPC
    (arXiv:2302.04867, B_2(h)), whose corrector redoes each step once its end is known, at no extra evaluation.
    """
    points: list[tuple[float, Tensor]] = []  # (lambda, x0), newest first
    last: tuple[Tensor, float] | None = None
    used = 0
    for i, (s, t) in enumerate(steps):
        x0 = denoise(x, s)
        if correct and last is not None:
            x = advance(last[0], _extrapolate(points[:used], _lambda(s), x0), last[1], s)
        points = [(_lambda(s), x0), *points][:order]
        last = (x, s)
        used = min(order, len(steps) - i, len(points))
        up = t * math.sqrt(-math.expm1(2 * eta * (_lambda(s) - _lambda(t)))) if eta > 0 and t > 0 else 0.0
        x = advance(x, _extrapolate(points[:used], _lambda(t)), s, t, noise, up)
        x = _or(x, (yield x, x0, t))


def lcm(denoise: Denoise, x: Tensor, steps: Steps, noise: Noise) -> Walk:
    """Multistep consistency sampling (arXiv:2310.04378, algorithm 3): the estimate, noised anew to the next level.

    The boundary function c_skip of the paper differs from 0 by less than 1e-5 at every level used, and is taken as 0.
    """
    for s, t in steps:
        x0 = denoise(x, s)
        x = advance(x, x0, s, t, noise, t)
        x = _or(x, (yield x, x0, t))


def _with_next(steps: Steps) -> Iterator[tuple[float, float, float]]:
    """(from level, to level, the level at which the next step reads what came out)."""
    for i, (s, t) in enumerate(steps):
        yield s, t, steps[i + 1][0] if i + 1 < len(steps) else t


def _or(x: Tensor, sent: Tensor | None) -> Tensor:
    return x if sent is None else sent


def _lambda(sigma: float) -> float:
    return -math.log(sigma) if sigma > 0 else math.inf


def _weighted(weights: Sequence[float], tensors: Sequence[Tensor]) -> Tensor:
    total = weights[0] * tensors[0]
    for weight, tensor in zip(weights[1:], list(tensors)[1:], strict=True):
        total = total.add_(tensor, alpha=weight)
    return total


def _extrapolate(points: Sequence[tuple[float, Tensor]], end: float, known: Tensor | None = None) -> Tensor:
    """The x0 that makes one `advance` to lambda `end` of high order (arXiv:2302.04867, section 3, weights of B_2(h)).

    Args:
        points: (lambda, x0) so far, newest first.
        known: the x0 at `end` itself, for the corrector.
    """
    (start, newest), *older = points
    h = end - start
    others = [((at - start) / h, x0) for at, x0 in older] + ([(1.0, known)] if known is not None else [])
    if not others or math.isinf(h):
        return newest
    rest = [r for r, _ in others]
    n = len(others)
    phi, factorial, right = math.expm1(-h) / -h - 1, 1, []
    for k in range(n):
        right.append(phi * factorial / math.expm1(-h))
        factorial *= k + 2
        phi = phi / -h - 1 / factorial
    # one unknown: the paper takes the limit of small h, 1/2, rather than the exact weight
    weights = [0.5] if n == 1 else _solve([[r**k for r in rest] for k in range(n)], right)
    x0 = newest.clone()
    for weight, (r, other) in zip(weights, others, strict=True):
        x0 += (weight / r) * (other - newest)
    return x0


def _solve(rows: list[list[float]], right: list[float]) -> list[float]:
    answer: list[float] = torch.linalg.solve(
        torch.tensor(rows, dtype=torch.float64), torch.tensor(right, dtype=torch.float64)
    ).tolist()
    return answer


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """A row of `SAMPLERS`.

    Attributes:
        walk: the generator function.
        convention: how its published implementation lays out noise levels (`grids.py`).
        options: fixed keyword arguments of `walk`.
        takes: names of what `walk` wants to know of the request (eta, order), the model (prediction) or the grid (doubled).
        evaluations: how often `walk` asks the network on a grid.
        stochastic: draws fresh noise in its steps.
        published: the scheduler class of diffusers that means this sampler.
        about: one line for `lienzo samplers`.
    """

    walk: Callable[..., Walk]
    convention: Convention
    options: Mapping[str, Any] = field(default_factory=dict)
    takes: tuple[str, ...] = ()
    evaluations: Callable[[Grid], int] = lambda grid: len(grid.steps)
    stochastic: bool = False
    published: str
    about: str


SAMPLERS: Mapping[str, Sampler] = {
    "ddim": Sampler(
        walk=first_order, convention=DDIM, takes=("eta",), published="DDIMScheduler",
        about="DDIM (arXiv:2010.02502); eta from 0 (deterministic) to 1",
    ),
    "ddpm": Sampler(
        walk=first_order, convention=DDPM, options={"eta": 1.0}, stochastic=True, published="DDPMScheduler",
        about="ancestral sampling (arXiv:2006.11239); wants many steps",
    ),
    "plms": Sampler(
        walk=plms, convention=PLMS, takes=("prediction", "doubled"), published="PNDMScheduler",
        evaluations=lambda grid: len(grid.steps) + (grid.doubled is not None),
        about="pseudo linear multistep (arXiv:2202.09778), the default of SD 1.x",
    ),
    "euler": Sampler(
        walk=first_order, convention=EULER, published="EulerDiscreteScheduler",
        about="Euler's method (arXiv:2206.00364)",
    ),
    "euler_a": Sampler(
        walk=first_order, convention=ANCESTRAL, options={"eta": 1.0}, stochastic=True, published="EulerAncestralDiscreteScheduler",
        about="Euler with fresh noise in every step",
    ),
    "heun": Sampler(
        walk=heun, convention=EULER, published="HeunDiscreteScheduler",
        evaluations=lambda grid: sum(1 + (t > 0) for _, t in grid.steps),
        about="second order, two evaluations a step (arXiv:2206.00364)",
    ),
    "dpmpp_2m": Sampler(
        walk=multistep, convention=MULTISTEP, published="DPMSolverMultistepScheduler",
        about="DPM-Solver++(2M) (arXiv:2211.01095); good at 20 steps",
    ),
    "dpmpp_2m_sde": Sampler(
        walk=multistep, convention=MULTISTEP, options={"eta": 1.0}, stochastic=True,
        published="DPMSolverMultistepScheduler/sde-dpmsolver++",
        about="its stochastic form",
    ),
    "unipc": Sampler(
        walk=multistep, convention=MULTISTEP, options={"correct": True}, takes=("order",),
        published="UniPCMultistepScheduler",
        about="UniPC (arXiv:2302.04867); good at 10 steps",
    ),
    "lcm": Sampler(
        walk=lcm, convention=LCM, stochastic=True, published="LCMScheduler",
        about="for latent consistency models, 4 to 8 steps (arXiv:2310.04378)",
    ),
}  # fmt: skip
