"""The recipe: typed, complete, with messages that say what to write instead; and its TOML reads back."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from lienzo.errors import ConfigError
from lienzo.training.config import (
    AdapterConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    Recipe,
    RunConfig,
    Section,
    TrainConfig,
    dump,
    override_value,
    read_recipe,
)


class DataConfig(Section):
    source: Path
    flip: float = 0.0


TEXT = """
kind = "lora"
[data]
source = "pictures"
[optimizer]
learning_rate = 1e-4
"""


def read(folder: Path, text: str = TEXT, *overrides: str) -> Recipe[DataConfig]:
    path = folder / "recipe.toml"
    path.write_text(text)
    return read_recipe(path, Recipe[DataConfig], overrides)


def test_defaults_and_overrides(tmp_path: Path) -> None:
    recipe = read(
        tmp_path, TEXT, "optimizer.betas=[0.8, 0.9]", "data.flip=0.5", "model.base=some/hub-id", "run.ema=0.5"
    )
    assert recipe.optimizer == OptimizerConfig(learning_rate=1e-4, betas=(0.8, 0.9))
    assert recipe.data.flip == 0.5 and recipe.model.base == "some/hub-id" and recipe.run.ema == 0.5
    assert recipe.loss == LossConfig() and recipe.loss.weighting == "none"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optimizer.learning_rat=1"], r"optimizer.learning_rat: no such setting. Did you mean learning_rate\?"),
        (["optimiser.name=adamw"], r"optimiser: no such setting. Did you mean optimizer or adapter\?"),
        (["data.flop=1"], r"data.flop: no such setting. Did you mean flip\?"),
        (["optimizer.name=adam"], r"optimizer.name: got 'adam'; .*Did you mean adamw"),
        (["optimizer.learning_rate=-1"], r"optimizer.learning_rate: got -1; .*greater than 0"),
        (["run.steps=many", "run.seed=-1"], r"(?s)run.steps: got 'many'.*run.seed: got -1"),
        (["kind=textual_inversion"], "set adapter.token"),
        (["distributed.strategy=deepspeed"], "distributed.deepspeed = FILE go together"),
        (["loss.zero_terminal_snr=true", "loss.prediction=epsilon"], "zero_terminal_snr needs prediction"),
        (["optimizer.name=adafactor", "optimizer.eps=1e-6"], "eps is given, but needs an Adam"),
        (["loss.gamma=3"], "gamma is given, but needs weighting = 'min_snr'"),
        (["loss.huber_c=0.2"], "huber_c is given, but needs kind = 'huber'"),
        (
            ['adapter.targets=["text_encoder"]', "adapter.conv=true"],
            "conv is given, but needs 'unet' among the targets",
        ),
        (["classes.pictures=5"], "pictures is given, but needs a prompt"),
        (["kind=scratch-clip", "watch.guidance=3"], "watch.guidance is for .* not for kind = 'scratch-clip'"),
        (["kind=scratch-vae", "optimizer.text_encoder_rate=1"], "optimizer.text_encoder_rate is for .* 'scratch-vae'"),
        (["steps"], r"expected section.key=value"),
        (["kind.more=1"], "kind is a value, not a section"),
    ],
)
def test_mistakes_are_explained(tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, TEXT, *overrides)


@pytest.mark.parametrize(
    ("text", "message"), [("kind = ", "is no TOML"), ("[data]\nsource='x'", "kind: is missing; it has no default")]
)
def test_files_that_are_no_recipe(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, text)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_recipe(tmp_path / "none.toml", Recipe[DataConfig])


@given(st.text(max_size=20), st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=3))
def test_a_dump_reads_back(base: str, unet: dict[str, Any]) -> None:
    import tomllib

    recipe = Recipe[DataConfig](
        kind="scratch-unet",
        data=DataConfig(source=Path("x")),
        model=ModelConfig(base=base, unet=unet),
        run=RunConfig(ema=None),
        optimizer=OptimizerConfig(clip=None),
    )
    assert Recipe[DataConfig].model_validate(tomllib.loads(dump(recipe))) == recipe


def sections(model: type[BaseModel]) -> list[type[BaseModel]]:
    return [
        model,
        *(
            f.annotation
            for f in model.model_fields.values()
            if isinstance(f.annotation, type) and issubclass(f.annotation, BaseModel)
        ),
    ]


@pytest.mark.parametrize("model", [*sections(TrainConfig), ModelConfig, LossConfig, AdapterConfig, Recipe])
def test_every_setting_is_described(model: type[BaseModel]) -> None:
    for name, field in model.model_fields.items():
        assert field.description, f"{model.__name__}.{name}"


def test_none_can_be_said(tmp_path: Path) -> None:
    recipe = read(tmp_path, TEXT, "run.ema=none", 'optimizer.clip="none"')
    assert recipe.run.ema is None and recipe.optimizer.clip is None and recipe.loss.weighting == "none"


def test_override_makes_sections() -> None:
    data: dict[str, Any] = {}
    override_value(data, 'adapter.targets=["unet"]')
    assert data == {"adapter": {"targets": ["unet"]}}


def test_a_recipe_is_checked_without_torch() -> None:
    code = "import lienzo.training.config, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
