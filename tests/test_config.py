"""Published configurations are read strictly: no option is ignored, no value of another type gets in."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pytest

from lienzo.config import Config
from lienzo.diffusion.schedule import ScheduleConfig
from lienzo.errors import ConfigError
from lienzo.models.clip import TextConfig
from lienzo.models.unet import UNetConfig
from lienzo.models.vae import VAEConfig


@dataclass(frozen=True, kw_only=True)
class Example(Config):
    whole: int = 0
    number: float = 0.0
    text: str = ""
    switch: bool = False
    several: tuple[float, ...] | None = None
    size: int | tuple[int, int] = 1
    choice: Literal["apple", "pear"] = "apple"

    NEUTRAL: ClassVar[dict[str, Any]] = {"off": False, "on": True, "none": None, "one": 1, "empty": []}


@pytest.mark.parametrize(
    "data",
    [
        {"whole": 2, "number": 2, "text": "x", "switch": True, "several": [1, 2.5], "size": [3, 4]},
        {"number": 1e-5, "several": None, "size": 3, "choice": "pear"},
        {"off": False, "on": True, "none": None, "one": 1, "empty": []},
        {"off": None, "on": None, "one": None, "empty": None},
        {"none": False, "off": [False, False], "one": 1.0},
    ],
)
def test_what_fits_is_read(data: dict[str, Any]) -> None:
    made = Example.from_dict(data)
    assert all(made.to_dict()[key] == value for key, value in data.items() if key not in Example.NEUTRAL)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"whole": "x"}, "whole='x': got str, expected int"),
        ({"whole": 1.0}, "got float, expected int"),
        ({"whole": True}, "got bool, expected int"),
        ({"whole": None}, "got NoneType, expected int"),
        ({"whole": 2**60}, "expected int"),
        ({"number": "0.18"}, "got str, expected float"),
        ({"number": False}, "got bool, expected float"),
        ({"number": float("nan")}, "nan.*expected float"),
        ({"text": 1}, "got int, expected str"),
        ({"switch": 0}, "got int, expected bool"),
        ({"several": [0.1, "b"]}, r"got list, expected tuple\[float, \.\.\.\] \| None"),
        ({"several": 1}, "got int"),
        ({"size": [1, 2, 3]}, r"expected int \| tuple\[int, int\]"),
        ({"choice": "pare"}, "Did you mean pear"),
        ({"choice": 1}, "got int, expected Literal"),
        ({"whole": "x" * 10_000}, r"\.\.\."),
        ({"off": True}, "only False is"),
        ({"on": False}, "only True is"),
        ({"on": []}, "only True is"),
        ({"one": False}, "only 1 is"),
        ({"one": 0}, "only 1 is"),
        ({"none": 0}, "only None is"),
        ({"empty": [0]}, r"only \[\] is"),
        ({"off": [False, True]}, "only False is"),
    ],
)
def test_what_does_not_fit_is_refused(data: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        Example.from_dict(data)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("config", "data"),
    [
        (ScheduleConfig, {"predict_x0": False}),
        (ScheduleConfig, {"lower_order_final": False}),
        (ScheduleConfig, {"beta_start": "a"}),
        (ScheduleConfig, {"steps_offset": "x"}),
        (ScheduleConfig, {"trained_betas": [0.1, "b"]}),
        (UNetConfig, {"downsample_padding": 0}),
        (UNetConfig, {"mid_block_scale_factor": 0}),
        (UNetConfig, {"conv_in_kernel": 0}),
        (VAEConfig, {"scaling_factor": "0.18"}),
        (VAEConfig, {"latent_channels": "4"}),
        (TextConfig, {"hidden_size": [768]}),
    ],
)
def test_published_options_with_wrong_values(config: type[Config], data: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(data))):
        config.from_dict(data)
