"""Targets, weights and guidance against their definitions."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lienzo.diffusion.guidance import applies, guide
from lienzo.diffusion.loss import Huber, debiased_weight, denoising_loss, min_snr_weight, offset_noise, pseudo_huber
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


SIGMAS = st.floats(0.03, 100)


@given(SIGMAS, st.sampled_from(PREDICTIONS), st.floats(0.1, 100))
def test_weights_are_positive(sigma: float, kind: Prediction, gamma: float) -> None:
    level = torch.tensor([sigma], dtype=torch.float64)
    assert min_snr_weight(level, kind, gamma) > 0 and debiased_weight(level, kind) > 0


@given(SIGMAS)
def test_min_snr_without_a_cap_is_the_plain_loss_of_the_noise(sigma: float) -> None:
    level = torch.tensor([sigma], dtype=torch.float64)
    assert min_snr_weight(level, "epsilon", math.inf).item() == pytest.approx(1)


@given(SIGMAS, st.sampled_from(PREDICTIONS))
def test_a_weighted_error_is_the_same_whatever_is_predicted(sigma: float, kind: Prediction) -> None:
    """The same wrong x0 costs the same under each prediction: the weights are one weighting in three coordinates."""
    x0, wrong, noise = torch.randn(3, 1, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    level = torch.tensor([sigma], dtype=torch.float64)
    x = x0 + sigma * noise
    costs = {
        k: (from_x0(wrong, x, sigma, k) - from_x0(x0, x, sigma, k)).square().mean() * debiased_weight(level, k)
        for k in ("epsilon", kind)
    }
    assert costs[kind].item() == pytest.approx(costs["epsilon"].item(), rel=1e-6)


def test_debiased_weights_are_those_of_the_paper() -> None:
    sigma = torch.tensor([0.1, 1.0, 10.0])
    assert torch.allclose(debiased_weight(sigma, "epsilon"), sigma)  # 1 / sqrt(SNR)


@given(st.floats(-50, 50), st.floats(1e-3, 50))
def test_pseudo_huber_is_the_papers(error: float, c: float) -> None:
    got = pseudo_huber(torch.tensor(error, dtype=torch.float64), torch.tensor(c, dtype=torch.float64)).item()
    assert got == pytest.approx(2 * c * (math.sqrt(error**2 + c**2) - c), rel=1e-5, abs=1e-9)
    assert got <= error**2 + 1e-12


def test_huber_schedules() -> None:
    t, sigma = torch.tensor([0, 999]), torch.tensor([0.03, 14.6], dtype=torch.float64)
    assert Huber(c=0.1, schedule="constant").at(t, sigma, 1000).tolist() == [0.1, 0.1]
    assert Huber(c=0.1, schedule="exponential").at(t, sigma, 1000).tolist() == pytest.approx([1.0, 0.1], rel=3e-3)
    assert Huber(c=0.1, schedule="snr").at(t, sigma, 1000).tolist() == pytest.approx(
        [0.9 / 1.03**2 + 0.1, 0.9 / 15.6**2 + 0.1]
    )


def test_what_a_mask_hides_has_no_gradient() -> None:
    x0, noise = torch.randn(2, 2, 4, 8, 8)
    mask = torch.zeros(2, 1, 8, 8)
    mask[0, :, 2:5, 3:6] = 1  # and nothing of the second
    output = torch.randn(2, 4, 8, 8, requires_grad=True)
    loss = denoising_loss(
        lambda x, _t: output, x0, noise, torch.tensor([5, 500]), Schedule(ScheduleConfig()), mask=mask
    )
    loss.backward()
    assert output.grad is not None
    assert torch.equal(output.grad != 0, mask.expand_as(output) > 0)
    shown = (output - noise)[0, :, 2:5, 3:6].square().mean() / 2
    assert loss.item() == pytest.approx(shown.item(), rel=1e-5)
    whole = denoising_loss(lambda x, _t: output, x0, noise, torch.tensor([5, 500]), Schedule(ScheduleConfig()), mask=torch.ones(2, 1, 8, 8))  # fmt: skip
    assert whole.item() == pytest.approx((output - noise).square().mean().item(), rel=1e-5)


def test_offset_noise_shifts_whole_channels() -> None:
    noise, offset = torch.randn(2, 4, 8, 8), torch.randn(2, 4)
    shift = offset_noise(noise, offset, 0.1) - noise
    assert torch.allclose(shift, 0.1 * offset[:, :, None, None].expand_as(noise), atol=1e-6)
    assert torch.equal(offset_noise(noise, offset, 0.0), noise)
