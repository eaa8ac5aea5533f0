"""The forward process: how much noise there is at every training timestep.

Variance preserving (arXiv:2006.11239, eq. 4): x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) eps, with a_t = `alphas_cumprod[t]`.
Dividing by sqrt(a_t) gives the coordinates that sampling uses, x_0 + sigma_t eps with sigma_t = sqrt((1 - a_t) / a_t).
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from lienzo.config import Config
from lienzo.errors import ConfigError, nearest

Prediction = Literal["epsilon", "v_prediction", "sample"]
PREDICTIONS: tuple[Prediction, ...] = ("epsilon", "v_prediction", "sample")
DPM_SOLVERS = ("dpmsolver++", "sde-dpmsolver++")


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig(Config):
    """A noise schedule and the published sampler settings; field names of diffusers' `scheduler_config.json`.

    Attributes:
        class_name: the published scheduler class, which names the model's own sampler.
        prediction_type: what the network predicts: the noise, v (arXiv:2202.00512, appendix D), or x_0.
        timestep_spacing: leading, linspace or trailing (arXiv:2305.08891, table 2); None: each sampler's own default.
        steps_offset: added to the timesteps of the leading grid.
        set_alpha_to_one: whether DDIM and PLMS end at noise level 0 rather than at the level of timestep 0;
            None: as the published class defaults.
        skip_prk_steps: PLMS starts without Runge-Kutta steps, the only way that lienzo has; None: as the class defaults.
        rescale_betas_zero_snr: pure noise at the last timestep (arXiv:2305.08891, algorithm 1).
    """

    class_name: str = "DDIMScheduler"
    num_train_timesteps: int = 1000
    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: str = "linear"
    trained_betas: tuple[float, ...] | None = None
    prediction_type: Prediction = "epsilon"
    timestep_spacing: str | None = None
    steps_offset: int = 0
    set_alpha_to_one: bool | None = None
    skip_prk_steps: bool | None = None
    rescale_betas_zero_snr: bool = False
    use_karras_sigmas: bool | None = False
    use_exponential_sigmas: bool | None = False
    algorithm_type: str = "dpmsolver++"
    solver_order: int = 2
    original_inference_steps: int = 50

    NEUTRAL: ClassVar[Mapping[str, Any]] = {
        "thresholding": False,
        "use_beta_sigmas": False,
        "use_lu_lambdas": False,
        "use_flow_sigmas": False,
        "use_dynamic_shifting": False,
        "solver_type": "bh2",
        "predict_x0": True,
        "lower_order_final": True,
        "euler_at_final": False,
        "disable_corrector": [],
        "solver_p": None,
        "final_sigmas_type": "zero",
        "variance_type": "fixed_small",
        "interpolation_type": "linear",
        "timestep_type": "discrete",
        "sigma_min": None,
        "sigma_max": None,
    }
    # clip_sample: latents have no range to clip to; the published pipelines switch it off whatever the file says
    IGNORED: ClassVar[frozenset[str]] = frozenset(
        [
            "clip_sample",
            "clip_sample_range",
            "dynamic_thresholding_ratio",
            "sample_max_value",
            "lambda_min_clipped",
            "flow_shift",
            "time_shift_type",
            "timestep_scaling",
            "shift_terminal",
            "sigma_data",
        ]
    )

    def __post_init__(self) -> None:
        for field, allowed in (("prediction_type", PREDICTIONS), ("beta_schedule", BETAS)):
            got = getattr(self, field)
            if got not in allowed:
                raise ConfigError(f"ScheduleConfig: {field}={got!r}: there is no such choice. {nearest(got, allowed)}")
        if self.class_name.startswith("DPMSolver") and self.algorithm_type not in DPM_SOLVERS:
            raise ConfigError(
                f"ScheduleConfig: algorithm_type={self.algorithm_type!r}: there is no such choice. "
                f"{nearest(self.algorithm_type, DPM_SOLVERS)}"
            )
        if self.rescale_betas_zero_snr and self.prediction_type == "epsilon":
            raise ConfigError(
                "ScheduleConfig: a zero-terminal-SNR schedule needs prediction_type 'v_prediction' or 'sample': "
                "from pure noise, predicting the noise says nothing about the picture."
            )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "ScheduleConfig":
        """Read a published `scheduler_config.json`; a solver type of DPM-Solver's ("midpoint") counts as the neutral one."""
        data = dict(data)
        if "_class_name" in data:
            data["class_name"] = data.pop("_class_name")
        if data.get("solver_type") == "midpoint":
            del data["solver_type"]
        return super().from_dict(data)

    def to_dict(self) -> dict[str, Any]:
        data = {key: value for key, value in super().to_dict().items() if value is not None}
        name = data.pop("class_name")
        return {"_class_name": name, "clip_sample": False, **data}

    def for_latents(self) -> "ScheduleConfig":
        """With the correction that the published Stable Diffusion pipelines make to old files: `steps_offset` is 1."""
        return replace(self, steps_offset=1)

    @property
    def starts_with_runge_kutta(self) -> bool:
        """Whether the published PLMS would start with Runge-Kutta steps."""
        return self.class_name == "PNDMScheduler" if self.skip_prk_steps is None else not self.skip_prk_steps

    @property
    def ends_at_zero(self) -> bool:
        """Whether DDIM and PLMS go on from timestep 0's noise level to none at all."""
        if self.set_alpha_to_one is None:
            return self.class_name not in ("PNDMScheduler", "DDIMInverseScheduler")
        return self.set_alpha_to_one


def _cosine_betas(steps: int) -> Tensor:
    """arXiv:2102.09672, eq. 17, with betas capped at 0.999."""
    t = torch.arange(steps + 1, dtype=torch.float64) / steps
    bar = torch.cos((t + 0.008) / 1.008 * math.pi / 2).square()
    return (1 - bar[1:] / bar[:-1]).clamp(max=0.999)


BETAS: Mapping[str, Callable[[ScheduleConfig, torch.dtype], Tensor]] = {
    "linear": lambda c, dtype: torch.linspace(c.beta_start, c.beta_end, c.num_train_timesteps, dtype=dtype),
    "scaled_linear": lambda c, dtype: torch.linspace(
        c.beta_start**0.5, c.beta_end**0.5, c.num_train_timesteps, dtype=dtype
    ).square(),
    "squaredcos_cap_v2": lambda c, dtype: _cosine_betas(c.num_train_timesteps).to(dtype),
}


def _alphas_cumprod(c: ScheduleConfig, dtype: torch.dtype) -> Tensor:
    if c.trained_betas is not None:
        betas = torch.tensor(c.trained_betas, dtype=dtype)
    else:
        betas = BETAS[c.beta_schedule](c, dtype)
    bar = torch.cumprod(1 - betas, dim=0)
    if c.rescale_betas_zero_snr:
        root = bar.sqrt()
        bar = ((root - root[-1]) * root[0] / (root[0] - root[-1])).square()
    return bar


class Schedule:
    """The tables of one noise schedule. Nothing in it changes after it was made."""

    def __init__(self, config: ScheduleConfig) -> None:
        self.config = config

    @property
    def prediction_type(self) -> Prediction:
        return self.config.prediction_type

    @cached_property
    def alphas_cumprod(self) -> Tensor:
        """a_t, (T,) float64, falling; exactly 0 at the end of a zero-terminal-SNR schedule."""
        return _alphas_cumprod(self.config, torch.float64)

    @cached_property
    def sigmas(self) -> tuple[float, ...]:
        """sigma_t = sqrt((1 - a_t) / a_t) for every timestep, rising; infinite where a_t is 0."""
        bar = self.alphas_cumprod
        return tuple(((1 - bar) / bar).sqrt().tolist())

    @cached_property
    def published_sigmas(self) -> Tensor:
        """The table as published code computes it, in fp32: (T,). Only for what hangs on its very bits."""
        bar = _alphas_cumprod(self.config, torch.float32).clamp(min=2**-24)
        return ((1 - bar) / bar).sqrt()

    def sigma(self, t: float) -> float:
        """sigma at a timestep, linear between whole ones; 0 <= t <= T - 1."""
        low = min(int(t), len(self.sigmas) - 2)
        s0, s1 = self.sigmas[low : low + 2]
        return s1 if t >= low + 1 else s0 + (t - low) * (s1 - s0) if t > low else s0

    def time(self, sigma: float) -> float:
        """The timestep of a noise level, linear in log sigma between whole ones; clamped to [0, T - 1]."""
        low = max(0, min(bisect_right(self.sigmas, sigma) - 1, len(self.sigmas) - 2))
        s0, s1 = self.sigmas[low : low + 2]
        if math.isinf(s1):
            return float(low) if sigma <= s0 else low + 1.0
        weight = (math.log(max(sigma, 1e-10)) - math.log(s0)) / (math.log(s1) - math.log(s0))
        return low + min(max(weight, 0.0), 1.0)

    def q_sample(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Draw from q(x_t | x_0) (arXiv:2006.11239, eq. 4), in variance-preserving coordinates.

        Args:
            x0, noise: (B, C, h, w).
            t: (B,) whole timesteps in [0, T).
        """
        a = self._at(self.alphas_cumprod, t, x0)
        return a.sqrt() * x0 + (1 - a).sqrt() * noise

    def q_step(self, previous: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Draw from q(x_t | x_{t-1}) (arXiv:2006.11239, eq. 2); shapes as in `q_sample`, x_{-1} being x_0."""
        bar = self.alphas_cumprod
        alphas = bar / torch.cat([bar.new_ones(1), bar[:-1]])
        a = self._at(alphas, t, previous)
        return a.sqrt() * previous + (1 - a).sqrt() * noise

    @staticmethod
    def _at(table: Tensor, t: Tensor, like: Tensor) -> Tensor:
        return table.to(like.device)[t].to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))
