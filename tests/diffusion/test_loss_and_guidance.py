"""Targets, weights and guidance against their definitions."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lienzo.diffusion.guidance import applies, guide
from lienzo.diffusion.loss import denoising_loss, min_snr_weight
from lienzo.diffusion.prediction import from_x0, input_scale, target, to_x0
from lienzo.diffusion.schedule import PREDICTIONS, Prediction, Schedule, ScheduleConfig


@given(st.floats(0.03, 100), st.sampled_from(PREDICTIONS))
def test_conversions_are_inverse_and_agree_with_the_target(sigma: float, kind: Prediction) -> None:
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 3, 4, 4, 4, generator=generator, dtype=torch.float64)
    x = x0 + sigma * noise
    output = target(x0, noise, torch.tensor(input_scale(sigma) ** 2, dtype=torch.float64), kind)
    assert torch.allclose(to_x0(output, x, sigma, kind), x0)
    assert torch.allclose(from_x0(x0, x, sigma, kind), output)


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_a_perfect_network_has_no_loss(kind: Prediction) -> None:
    schedule = Schedule(ScheduleConfig(prediction_type=kind))
    x0, noise = torch.randn(2, 3, 4, 8, 8, dtype=torch.float64)
    t = torch.tensor([0, 500, 999])
    sigma = torch.tensor(schedule.sigmas)[t][:, None, None, None]

    def perfect(x: torch.Tensor, _t: torch.Tensor) -> torch.Tensor:
        assert torch.allclose(x, schedule.q_sample(x0, noise, t))
        return from_x0(x0, x / input_scale(sigma), sigma, kind)

    assert denoising_loss(perfect, x0, noise, t, schedule) < 1e-10


@pytest.mark.parametrize("gamma", [None, 5.0])
def test_pure_noise_has_a_finite_loss(gamma: float | None) -> None:
    schedule = Schedule(ScheduleConfig(prediction_type="v_prediction", rescale_betas_zero_snr=True))
    x0, noise = torch.randn(2, 2, 4, 8, 8)
    t = torch.tensor([3, 999])
    loss = denoising_loss(lambda x, _t: x, x0, noise, t, schedule, min_snr_gamma=gamma)
    assert torch.isfinite(loss)
    assert torch.allclose(target(x0[1:], noise[1:], torch.tensor(0.0), "v_prediction"), -x0[1:])


def test_plain_loss_is_the_mean_squared_error_of_the_noise() -> None:
    x0, noise = torch.randn(2, 3, 4, 8, 8)
    zero = denoising_loss(lambda x, t: x * 0, x0, noise, torch.tensor([3, 4, 5]), Schedule(ScheduleConfig()))
    assert zero.item() == pytest.approx(noise.square().mean().item(), rel=1e-5)


def test_min_snr_weights_are_those_of_the_paper() -> None:
    sigma = torch.tensor([0.1, 1.0, 10.0])  # SNR 100, 1, 0.01
    assert torch.allclose(min_snr_weight(sigma, "epsilon", 5.0), torch.tensor([0.05, 1.0, 1.0]))
    assert torch.allclose(min_snr_weight(sigma, "v_prediction", 5.0), torch.tensor([5 / 101, 0.5, 0.01 / 1.01]))
    assert torch.allclose(min_snr_weight(sigma, "sample", 5.0), torch.tensor([5.0, 1.0, 0.01]))


@given(st.floats(-20, 20), st.floats(0, 1))
def test_guidance(scale: float, rescale: float) -> None:
    u, c = torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(guide(u, c, 1.0), c, atol=1e-6)
    assert torch.equal(guide(u, c, 0.0), u)
    guided = guide(u, c, scale, rescale)
    assert torch.isfinite(guided).all()
    if rescale == 1:
        assert torch.allclose(guided.std(dim=(1, 2, 3)), c.std(dim=(1, 2, 3)), rtol=1e-4)


def test_guidance_applies_within_its_interval_only() -> None:
    assert not applies(3.0, 1.0, None)
    assert applies(3.0, 0.5, None)
    assert [applies(s, 7.5, (1.0, 3.0)) for s in (0.5, 1.0, 2.0, 3.0, 4.0)] == [False, False, True, True, False]
