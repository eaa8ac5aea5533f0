"""The recipe: everything that says how a model is trained, as one typed, frozen configuration.

It is written as TOML, one table a section, and single values can be overridden by `section.key=value`. An unknown key is an
error that offers the nearest name. Nothing here needs torch, so that a recipe can be checked at once.

`lienzo.training.loop` obeys the sections of `TrainConfig`; `lienzo.training.recipes` builds what it trains from the others.
"""

import math
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lienzo.errors import ConfigError
from lienzo.toml import explain, read_toml

Kind = Literal["full", "lora", "dreambooth", "textual_inversion", "scratch-vae", "scratch-clip", "scratch-unet"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Chance = Annotated[float, Field(ge=0, le=1)]
USUAL_RATES: Mapping[str, float] = {
    "lora": 1e-4,
    "textual_inversion": 5e-4,
    "scratch-vae": 1e-4,
    "scratch-clip": 5e-4,
    "scratch-unet": 1e-4,
}
"""Learning rates where a recipe names none: those of diffusers' examples, latent diffusion's U-Net and CLIP's ViT-B/32.
1e-5 for the others."""
Network = Mapping[str, Any] | str
"""A new network of this shape (a table), or the one in a folder (its path)."""

SEED_LIMIT = 2**63

Data = TypeVar("Data", bound=BaseModel)
Read = TypeVar("Read", bound=BaseModel)


NONE = "none"
"""How a recipe says None, for which TOML has no word."""


class Section(BaseModel):
    """Base of all sections: frozen, complete, and without room for what is not known."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _none(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        optional = {name for name, field in cls.model_fields.items() if type(None) in get_args(field.annotation)}
        return {key: None if value == NONE and key in optional else value for key, value in data.items()}

    def _need(self, *names: str, when: bool, what: str) -> None:
        """Refuse settings that would be silently ignored unless `when`."""
        for name in names:
            if not when and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} is given, but needs {what}")


class OptimizerConfig(Section):
    """What turns gradients into steps."""

    name: Literal["adamw", "adamw8bit", "adafactor", "schedulefree"] = Field(
        default="adamw",
        description="AdamW (arXiv:1711.05101); with 8-bit state (arXiv:2110.02861, needs bitsandbytes); Adafactor "
        "(arXiv:1804.04235); schedule-free AdamW (arXiv:2405.15682, needs schedulefree).",
    )
    learning_rate: float = Field(
        default=1e-5,
        gt=0,
        le=10,
        description="The highest. 1e-5 as in Stable Diffusion's own fine-tuning; where a recipe names none, lora has 1e-4, "
        "textual_inversion 5e-4, scratch-clip 5e-4, scratch-vae and scratch-unet 1e-4.",
    )
    text_encoder_rate: float | None = Field(
        default=None, gt=0, le=10, description="For the text encoder where it learns too; none: the same."
    )
    betas: tuple[Chance, Chance] = Field(default=(0.9, 0.999), description="Adam's averages (arXiv:1412.6980).")
    eps: float = Field(default=1e-8, gt=0, le=1, description="Adam's epsilon (arXiv:1412.6980).")
    weight_decay: float = Field(default=1e-2, ge=0, le=1, description="Decoupled (arXiv:1711.05101), torch's default.")
    clip: float | None = Field(
        default=1.0, gt=0, description="Largest norm of the gradient, as in latent diffusion's fine-tuning; none: any."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        self._need("betas", "eps", when=self.name != "adafactor", what="an Adam, not name = 'adafactor'")
        return self


class RateConfig(Section):
    """How the learning rate goes from the first step to the last."""

    shape: Literal["constant", "linear", "cosine"] = Field(
        default="constant",
        description="After the warm-up: stay, fall to 0 along a line, or along a cosine (arXiv:1608.03983). "
        "Schedule-free AdamW wants constant.",
    )
    warmup: int = Field(
        default=500, ge=0, description="Steps over which the rate rises from 0 (diffusers' examples: 500)."
    )


class RunConfig(Section):
    """How long, in which precision, and what is kept."""

    steps: int = Field(default=1000, ge=1, description="Optimizer steps.")
    minutes: float | None = Field(
        default=None, gt=0, description="Stop earlier, after so much time spent in steps; then rates follow the clock."
    )
    seed: int = Field(default=0, ge=0, lt=SEED_LIMIT, description="Of everything random in the run.")
    batch_size: int = Field(default=4, ge=1, description="Samples a step, over all processes and parts together.")
    accumulate: int = Field(
        default=1, ge=1, description="Parts in which each process works through its share of a batch, to save memory."
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        default="fp32",
        description="Of the arithmetic; trained weights and optimizer stay fp32 (arXiv:1710.03740). fp16 scales the loss.",
    )
    checkpointing: bool = Field(
        default=False,
        description="Compute activations again in the backward pass (arXiv:1604.06174): less memory, slower.",
    )
    compile: bool = Field(default=False, description="Compile the networks' blocks (torch.compile).")
    ema: float | None = Field(
        default=0.9999,
        gt=0,
        lt=1,
        description="Decay of the averaged weights (arXiv:2006.11239, appendix B), warmed up; none: no average.",
    )
    ema_on_cpu: bool = Field(default=False, description="Keep the averaged weights in main memory.")
    save_every: int = Field(default=500, ge=1, description="Steps between checkpoints.")
    keep: int = Field(default=2, ge=1, le=1000, description="The newest checkpoints that stay, beside the best one.")


class WatchConfig(Section):
    """What is told on the way."""

    log_every: int = Field(default=10, ge=1, description="Steps between lines in the log.")
    validate_every: int = Field(default=500, ge=1, description="Steps between validations, where the recipe has any.")
    sample_every: int = Field(default=500, ge=1, description="Steps between sample sheets, where the recipe has any.")
    score_every: int | None = Field(
        default=None, ge=1, description="Steps between scores (FID, CLIP score), where the recipe has any; none: never."
    )
    validation_pictures: int = Field(
        default=64,
        ge=1,
        description="At most so many of the validation's pictures are looked at each time, always the same.",
    )
    prompts: tuple[str, ...] = Field(
        default=(), max_length=64, description="What sample sheets show; none: the first four captions of the data."
    )
    sample_steps: int = Field(default=20, ge=1, le=1000, description="Steps of each picture on a sheet.")
    guidance: float = Field(default=7.5, ge=0, le=100, description="Guidance scale of the pictures on a sheet.")
    clip: str | None = Field(
        default=None,
        description="A CLIP (folder or hub id) that scores the samples; needs validation and the extra eval.",
    )
    tensorboard: bool = Field(default=False, description="Write TensorBoard's event files too (needs tensorboard).")
    energy: bool = Field(default=False, description="Measure the energy used (needs codecarbon).")


class DistributedConfig(Section):
    """How several processes share the work; they are started by `torchrun --nproc-per-node N -m lienzo train ...`."""

    strategy: Literal["ddp", "fsdp", "deepspeed"] = Field(
        default="ddp",
        description="Every process has the whole model (DDP, arXiv:2006.15704); a part of it (FSDP2, arXiv:2304.11277); "
        "as DeepSpeed's file says (ZeRO, arXiv:1910.02054). One process alone needs none and takes DDP for plain.",
    )
    deepspeed: Path | None = Field(default=None, description="DeepSpeed's own JSON file: zero_optimization and so on.")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.strategy == "deepspeed") != (self.deepspeed is not None):
            raise ValueError('distributed.strategy = "deepspeed" and distributed.deepspeed = FILE go together')
        return self


class TrainConfig(Section):
    """What the loop has to know; a recipe knows more."""

    optimizer: OptimizerConfig = Field(default=OptimizerConfig(), description="What turns gradients into steps.")
    schedule: RateConfig = Field(default=RateConfig(), description="The learning rate's course.")
    run: RunConfig = Field(default=RunConfig(), description="How long, in which precision, and what is kept.")
    watch: WatchConfig = Field(default=WatchConfig(), description="What is told on the way.")
    distributed: DistributedConfig = Field(
        default=DistributedConfig(), description="How several processes share the work."
    )

    def progress(self, step: int, seconds: float) -> float:
        """How much of the run is done, 0 to 1."""
        spent = 0.0 if self.run.minutes is None else seconds / 60 / self.run.minutes
        return min(1.0, max(step / self.run.steps, spent))

    def rate(self, step: int, seconds: float = 0.0) -> float:
        """What a step's learning rates are multiplied with."""
        rise = min(1.0, (step + 1) / self.schedule.warmup) if self.schedule.warmup else 1.0
        done = self.progress(step, seconds)
        match self.schedule.shape:
            case "constant":
                return rise
            case "linear":
                return rise * (1 - done)
            case "cosine":
                return rise * 0.5 * (1 + math.cos(math.pi * done))


class ModelConfig(Section):
    """Which model to start from, and where the new one goes.

    A recipe from scratch takes each network that it is not told otherwise about from the base. A path names a folder that holds
    the network itself, or a whole model of which it is a part.
    """

    base: str = Field(
        default="boceto", description="As `--model` of `lienzo generate`: folder, file, hub id, or boceto."
    )
    out: Path = Field(
        default=Path("trained"), description="The folder of the run: checkpoints, log, and what comes out."
    )
    train_text_encoder: bool = Field(
        default=False, description="Let the text encoder learn as well (full, dreambooth, scratch-unet)."
    )
    dtype: Literal["fp32", "fp16", "bf16"] = Field(default="fp32", description="Of the weights that come out.")
    unet: Network | None = Field(
        default=None, description="Of scratch-unet: a table as in `unet/config.json`, or a path to go on from."
    )
    vae: Network | None = Field(
        default=None, description="Of scratch-vae: a table as in `vae/config.json`, or a path; of scratch-unet: a path."
    )
    text_encoder: Network | None = Field(
        default=None,
        description="Of scratch-unet and scratch-clip: a table as in `text_encoder/config.json`, or a path. What the tokenizer "
        "decides can be left out of it.",
    )
    image_encoder: Mapping[str, Any] | None = Field(
        default=None, description="Of scratch-clip: as in a CLIP model's vision configuration."
    )
    tokenizer: Annotated[int, Field(ge=1, le=100_000)] | str | None = Field(
        default=None,
        description="Of scratch-clip and scratch-unet: a path, or a number: so many merges are learned from the captions.",
    )
    scheduler: Mapping[str, Any] | None = Field(
        default=None, description="Of scratch-unet: as in `scheduler/scheduler_config.json`."
    )


class LossConfig(Section):
    """What is punished. Left alone, the plain loss E ||eps - eps_theta(x_t, t)||^2 (arXiv:2006.11239, eq. 14)."""

    prediction: Literal["epsilon", "v_prediction", "sample"] | None = Field(
        default=None,
        description="What the network says: noise, v (arXiv:2202.00512) or x0; none: as the base model does.",
    )
    kind: Literal["l2", "huber"] = Field(
        default="l2", description="Squared, or pseudo-Huber (arXiv:2403.16728): quadratic near 0, linear far from it."
    )
    huber_c: float = Field(default=0.1, gt=0, description="Where Huber turns linear (arXiv:2403.16728).")
    huber_schedule: Literal["constant", "exponential", "snr"] = Field(
        default="snr", description="How huber_c falls with the noise level (arXiv:2403.16728, section 4)."
    )
    weighting: Literal["none", "min_snr", "debiased"] = Field(
        default="none", description="Of noise levels: min-SNR-gamma (arXiv:2303.09556) or debiased (arXiv:2310.08442)."
    )
    gamma: float = Field(default=5.0, gt=0, description="Of min-SNR weights (arXiv:2303.09556: 5).")
    noise_offset: float = Field(
        default=0.0, ge=0, le=1, description="A shift of whole channels added to the noise (Guttenberg 2023: 0.1)."
    )
    zero_terminal_snr: bool = Field(
        default=False,
        description="Let the last timestep be pure noise (arXiv:2305.08891); needs v_prediction or sample.",
    )
    masked: bool = Field(default=False, description="Count only what the pictures' masks show.")
    prior_weight: float = Field(
        default=1.0, ge=0, description="Of class pictures (DreamBooth, arXiv:2208.12242, eq. 2)."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        self._need("huber_c", "huber_schedule", when=self.kind == "huber", what="kind = 'huber'")
        self._need("gamma", when=self.weighting == "min_snr", what="weighting = 'min_snr'")
        if self.zero_terminal_snr and self.prediction == "epsilon":
            raise ValueError(
                "zero_terminal_snr needs prediction 'v_prediction' or 'sample': from pure noise, predicting the noise says "
                "nothing about the picture"
            )
        return self


class AdapterConfig(Section):
    """What lora and textual_inversion train beside the frozen model."""

    rank: int = Field(default=16, ge=1, le=1024, description="Of the low-rank matrices (arXiv:2106.09685).")
    alpha: float | None = Field(default=None, gt=0, description="The update counts alpha / rank; none: as rank.")
    targets: tuple[Literal["unet", "text_encoder"], ...] = Field(
        default=("unet",), min_length=1, description="Networks that get one."
    )
    conv: bool = Field(default=False, description="The U-Net's convolutions too, not only its attention.")
    layers: tuple[str, ...] | None = Field(
        default=None,
        min_length=1,
        description="Ends of the paths of the U-Net's layers that get one; none: those of attention, as in diffusers' example.",
    )
    style: Literal["diffusers", "kohya"] = Field(default="diffusers", description="Names in the file that comes out.")
    token: str | None = Field(default=None, description="Textual inversion (arXiv:2208.01618): the new word.")
    initial: str | None = Field(default=None, description="Textual inversion: a word to start from.")
    vectors: int = Field(default=1, ge=1, le=75, description="Textual inversion: embeddings that the word stands for.")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        self._need("conv", "layers", when="unet" in self.targets, what="'unet' among the targets")
        return self


class ClassesConfig(Section):
    """DreamBooth's class pictures, where the base is to make them: as many as `data.prior`'s folder lacks."""

    prompt: str | None = Field(
        default=None, description="What they show, 'a photo of a dog' say; none: all are in the folder already."
    )
    pictures: int = Field(default=100, ge=1, le=100_000, description="So many in all (diffusers' example: 100).")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        self._need("pictures", when=self.prompt is not None, what="a prompt to make them from")
        return self


SCRATCH = ("scratch-unet", "scratch-clip")
DENOISERS = ("full", "lora", "dreambooth", "textual_inversion", "scratch-unet")
OF_KINDS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "model": {
        "train_text_encoder": ("full", "dreambooth", "scratch-unet"),
        "unet": ("scratch-unet",),
        "vae": ("scratch-vae", "scratch-unet"),
        "text_encoder": SCRATCH,
        "image_encoder": ("scratch-clip",),
        "tokenizer": SCRATCH,
        "scheduler": ("scratch-unet",),
    },
    "loss": {
        name: ("full", "dreambooth") if name in ("prediction", "zero_terminal_snr") else DENOISERS
        for name in LossConfig.model_fields
    },
    "adapter": {
        name: ("textual_inversion",) if name in ("token", "initial", "vectors") else ("lora",)
        for name in AdapterConfig.model_fields
    },
    "classes": dict.fromkeys(ClassesConfig.model_fields, ("dreambooth", "lora")),
    "data": dict.fromkeys(("prior", "masks", "trim_padding", "cache_latents", "cache_text"), DENOISERS),
    "optimizer": {"text_encoder_rate": ("full", "dreambooth", "lora", "scratch-unet")},
    "watch": dict.fromkeys(("prompts", "sample_steps", "guidance"), DENOISERS),
}
"""Section -> setting -> the kinds that obey it."""
SIZES = ("resolution", "bucket_min", "bucket_max", "bucket_step")
"""Settings of `[data]` that hold for `[validation]` too where it has no others: what is compared has to be alike."""


class Recipe(TrainConfig, Generic[Data]):
    """One training run, complete; generic in what its `[data]` section is, so that this module knows no data format."""

    kind: Kind = Field(description="What is trained: " + ", ".join(KINDS) + ".")
    data: Data = Field(description="The pictures.")
    validation: Data | None = Field(
        default=None,
        description="Pictures that are never trained on: as large as those of `data`, unless it says otherwise; each with its "
        "first caption, cut in the middle and not mirrored, whatever it says of chance.",
    )
    model: ModelConfig = Field(default=ModelConfig(), description="Where to start from, and where it goes.")
    loss: LossConfig = Field(default=LossConfig(), description="What is punished.")
    adapter: AdapterConfig = Field(default=AdapterConfig(), description="What lora and textual_inversion train.")
    classes: ClassesConfig = Field(default=ClassesConfig(), description="Class pictures that the base makes.")

    @model_validator(mode="before")
    @classmethod
    def _usual_rate(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or (rate := USUAL_RATES.get(str(data.get("kind")))) is None:
            return data
        optimizer = data.get("optimizer", {})
        if not isinstance(optimizer, Mapping):
            return data
        return {**data, "optimizer": {"learning_rate": rate, **optimizer}}

    @model_validator(mode="before")
    @classmethod
    def _as_large_as_the_data(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or not all(
            isinstance(data.get(name), Mapping) for name in ("data", "validation")
        ):
            return data
        sizes = {name: data["data"][name] for name in SIZES if name in data["data"]}
        return {**data, "validation": {**sizes, **data["validation"]}}

    @model_validator(mode="after")
    def _kind_has_what_it_needs(self) -> Self:
        if self.kind == "textual_inversion" and self.adapter.token is None:
            raise ValueError("kind = 'textual_inversion' needs the new word: set adapter.token")
        self._refuse_what_would_be_ignored()
        return self

    def _refuse_what_would_be_ignored(self) -> None:
        """A setting that the kind has no use for is a mistake: it would be silently ignored."""
        for section, names in OF_KINDS.items():
            given: BaseModel = getattr(self, section)
            fields = type(given).model_fields
            for name, kinds in names.items():
                if self.kind not in kinds and name in fields and getattr(given, name) != fields[name].default:
                    raise ValueError(f"{section}.{name} is for {' and '.join(kinds)}, not for kind = {self.kind!r}")
        learns = self.model.train_text_encoder or (self.kind == "lora" and "text_encoder" in self.adapter.targets)
        if self.optimizer.text_encoder_rate is not None and not learns:
            raise ValueError("optimizer.text_encoder_rate would be ignored: no text encoder learns beside the U-Net")


def read_recipe(path: Path, model: type[Read], overrides: Iterable[str] = ()) -> Read:
    """Read a recipe file and apply `section.key=value` overrides.

    Args:
        model: what it has to be, `Recipe[DataConfig]` as a rule.

    Raises:
        ConfigError: no such file, no TOML, an unknown key, or a value that is not allowed; all of them are listed.
    """
    data = read_toml(path, "The recipe")
    for override in overrides:
        override_value(data, override)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{path}:\n{explain(error, model)}") from None


def override_value(data: dict[str, Any], override: str) -> None:
    """Set what `section.key=value` says, value being TOML (`1e-4`, `true`, `["unet"]`); a bare word is a string."""
    name, equals, text = override.partition("=")
    *sections, key = name.strip().split(".")
    if not equals or not all((*sections, key)):
        raise ConfigError(f"Override {override!r}: expected section.key=value, say optimizer.learning_rate=1e-4.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    place = data
    for section in sections:
        place = place.setdefault(section, {})
        if not isinstance(place, dict):
            raise ConfigError(f"Override {override!r}: {section} is a value, not a section.")
    place[key] = value


def dump(config: Section) -> str:
    """The whole configuration as TOML, defaults included; what is None by default is left out."""
    return "\n".join(_tables(_plain(config), ())).strip() + "\n"


def _plain(model: BaseModel) -> dict[str, Any]:
    data = model.model_dump(mode="json")
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            data[name] = _plain(value)
        elif value is None and field.default is not None:
            data[name] = NONE
    return _without_none(data)  # type: ignore[no-any-return]


def _without_none(value: Any) -> Any:
    match value:
        case dict():
            return {k: _without_none(v) for k, v in value.items() if v is not None}
        case list():
            return [_without_none(v) for v in value]
        case _:
            return value


def _tables(data: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    lines = [f"[{'.'.join(path)}]"] if path else []
    lines += [f"{_key(key)} = {_toml(value)}" for key, value in data.items() if not isinstance(value, dict)]
    lines.append("")
    for key, value in data.items():
        if isinstance(value, dict):
            lines += _tables(value, (*path, _key(key)))
    return lines


def _key(name: str) -> str:
    return name if name and name.replace("_", "").replace("-", "").isalnum() and name.isascii() else _toml(name)


def _toml(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            escaped = "".join(
                f"\\u{ord(c):04x}" if c < " " or c == "\x7f" else "\\" + c if c in '\\"' else c for c in value
            )
            return f'"{escaped}"'
        case list():
            return "[" + ", ".join(map(_toml, value)) + "]"
        case dict():
            return "{" + ", ".join(f"{_key(k)} = {_toml(v)}" for k, v in value.items()) + "}"
        case _:
            return repr(value)
