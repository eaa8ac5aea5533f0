"""Noise schedules against diffusers' tables, and the forward process against its definition."""

import math
import warnings

import pytest
import torch

from lienzo.diffusion.schedule import Schedule, ScheduleConfig
from lienzo.errors import ConfigError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from diffusers import DDPMScheduler


@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("zero_snr", [False, True])
def test_tables_equal_diffusers(beta_schedule: str, zero_snr: bool) -> None:
    settings = {"beta_schedule": beta_schedule, "rescale_betas_zero_snr": zero_snr, "prediction_type": "v_prediction"}
    theirs = DDPMScheduler(**settings, clip_sample=False).alphas_cumprod.double()
    mine = Schedule(ScheduleConfig.from_dict(settings)).alphas_cumprod
    assert torch.allclose(theirs, mine, atol=2e-6)
    assert (mine[-1] == 0) == zero_snr


def test_forward_process_step_by_step_has_the_moments_of_the_jump() -> None:
    schedule = Schedule(ScheduleConfig(num_train_timesteps=20, beta_start=0.01, beta_end=0.1))
    generator = torch.Generator().manual_seed(0)
    n = 200_000
    x0 = torch.full((n, 1, 1, 1), 2.0)
    x = x0
    for t in range(20):
        x = schedule.q_step(x, torch.randn(x.shape, generator=generator), torch.full((n,), t))
    jump = schedule.q_sample(x0, torch.randn(x.shape, generator=generator), torch.full((n,), 19))
    assert abs(float(x.mean() - jump.mean())) < 0.01
    assert abs(float(x.std() - jump.std())) < 0.01


def test_time_and_sigma_are_inverse() -> None:
    schedule = Schedule(ScheduleConfig())
    for t in range(0, 1000, 37):
        assert math.isclose(schedule.time(schedule.sigma(t)), t, abs_tol=1e-6)
    assert schedule.time(1e9) == 999
    assert schedule.time(0.0) == 0


def test_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ConfigError, match="unknown key 'betta'"):
        ScheduleConfig.from_dict({"betta": 1})
    with pytest.raises(ConfigError, match="Did you mean scaled_linear"):
        ScheduleConfig.from_dict({"beta_schedule": "scaled_linea"})
    with pytest.raises(ConfigError, match="thresholding"):
        ScheduleConfig.from_dict({"thresholding": True})
    with pytest.raises(ConfigError, match="zero-terminal"):
        ScheduleConfig(rescale_betas_zero_snr=True)
