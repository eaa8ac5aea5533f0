"""Grids that diffusers lacks, or that only their definition can check."""

import math
import warnings

import pytest
import torch

from lienzo.diffusion.grids import AYS_SIGMAS, EULER, GRIDS, MULTISTEP, make_grid
from lienzo.diffusion.samplers import SAMPLERS
from lienzo.diffusion.schedule import Schedule, ScheduleConfig
from lienzo.errors import RequestError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from diffusers import EulerDiscreteScheduler
    from diffusers.schedulers import AysSchedules

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SCHEDULE = Schedule(ScheduleConfig.from_dict(SD))


def levels(name: str, steps: int) -> list[float]:
    return [s for s, _ in make_grid(SCHEDULE, EULER, steps, name).steps]


def test_ays_visits_the_published_levels() -> None:
    published = AysSchedules["StableDiffusionTimesteps"]
    grid = make_grid(SCHEDULE, EULER, 10, "ays")
    assert [round(t) for t in grid.times.values()] == pytest.approx(published, abs=2)
    assert levels("ays", 10) == pytest.approx(AYS_SIGMAS[:10])
    assert grid.end == 0


def test_ays_for_other_numbers_lies_between() -> None:
    assert levels("ays", 20)[::2] == pytest.approx(levels("ays", 10))
    between = levels("ays", 20)[1]
    assert between == pytest.approx(math.sqrt(AYS_SIGMAS[0] * AYS_SIGMAS[1]))


@pytest.mark.parametrize("steps", [1, 7, 20])
def test_sgm_uniform_is_linspace_with_one_more_without_its_last(steps: int) -> None:
    assert levels("sgm_uniform", steps) == pytest.approx(levels("linspace", steps + 1)[:-1])


@pytest.mark.parametrize("sigmas", [(14.6, 7.0, 2.0, 0.5, 0.0), (3.0, 0.1, 0.0)])
def test_explicit_levels_equal_diffusers(sigmas: tuple[float, ...]) -> None:
    theirs = EulerDiscreteScheduler(**SD)
    theirs.set_timesteps(sigmas=list(sigmas))
    grid = make_grid(SCHEDULE, EULER, 20, sigmas=sigmas)
    assert [s for s, _ in grid.steps] + [grid.end] == pytest.approx(theirs.sigmas.tolist())
    assert list(grid.times.values())[: len(grid.steps)] == pytest.approx(theirs.timesteps.tolist(), abs=0.01)
    assert grid.start == pytest.approx(float(theirs.init_noise_sigma))


def test_a_finite_last_level_is_never_cut_off() -> None:
    cosine = Schedule(ScheduleConfig(beta_schedule="squaredcos_cap_v2"))
    first, _ = make_grid(cosine, MULTISTEP, 10, "linspace").steps[0]
    assert first == pytest.approx(20291, rel=1e-3)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("name", GRIDS)
def test_levels_fall_and_strength_takes_the_end(sampler: str, name: str) -> None:
    grid = make_grid(SCHEDULE, SAMPLERS[sampler].convention, 10, name)
    falling = [s for s, _ in grid.steps]
    assert falling == sorted(falling, reverse=True)
    assert grid.end == pytest.approx(grid.steps[-1][1])
    tail = grid.tail(0.5)
    assert tail.steps[-1] == grid.steps[-1]
    assert len(tail.steps) == 5


@pytest.mark.parametrize(
    ("steps", "words"), [(0, "allowed are 1 to 1000"), (1001, "allowed are 1 to 1000"), (1000, None)]
)
def test_numbers_of_steps(steps: int, words: str | None) -> None:
    if words is None:
        assert len(make_grid(SCHEDULE, EULER, steps, "linspace").steps) == steps
        return
    with pytest.raises(RequestError, match=words):
        make_grid(SCHEDULE, EULER, steps, "linspace")


def test_one_level_a_timestep_is_told() -> None:
    for name in GRIDS:
        grid = make_grid(SCHEDULE, EULER, 8, name)
        assert torch.tensor(list(grid.times.values())).diff().lt(0).all()
