"""diffusers' names over lienzo's own door: with only the import changed, a script runs.

What is not supported is an error that says so; nothing is accepted and ignored. One difference is by design: noise is
drawn on the CPU, so generators must be CPU generators, and a picture does not depend on the device.
"""

import hashlib
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, NoReturn, Self

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor

from lienzo.diffusion.samplers import SAMPLERS
from lienzo.diffusion.schedule import Schedule, ScheduleConfig
from lienzo.errors import LienzoError, RequestError, nearest
from lienzo.images import to_tensor
from lienzo.models.bundle import Bundle
from lienzo.pipeline.generate import Result, Sample, Step, default_sampler, native_size, sample
from lienzo.pipeline.request import Request
from lienzo.provenance.marking import Marked
from lienzo.rng import SEED_LIMIT, new_seed
from lienzo.rng import generator as seeded
from lienzo.studio import house, make
from lienzo.weights import load
from lienzo.weights.adapters import Adapter, Embedding, Weighted, load_adapter, load_embedding, merged, with_adapters

LORA_PARTS = ("unet", "text_encoder")
OUTPUT_TYPES = ("pil", "np", "pt", "latent")
Callback = Callable[[Any, int, Tensor, dict[str, Tensor]], Mapping[str, Tensor]]
Several = str | Sequence[str]


@dataclass(frozen=True)
class StableDiffusionPipelineOutput:
    """Attributes as diffusers names them; `nsfw_content_detected` is None, since what a checker blocks is an error."""

    images: Any
    nsfw_content_detected: None = None


@dataclass(frozen=True)
class Scheduler:
    """Stands for a diffusers scheduler: `SomeScheduler.from_config(pipe.scheduler.config)` works as there."""

    config: dict[str, Any]


class _Pipeline:
    """What the three pipelines share."""

    __slots__ = ("_active", "_base", "_bundle", "_embeddings", "_enabled", "_fused", "_loras", "_tiling")

    def __init__(self, bundle: Bundle) -> None:
        self._base = bundle
        self._bundle = bundle  # the base with what is loaded; made anew by every change
        self._tiling: bool | None = None
        self._loras: dict[str, Weighted] = {}
        self._active: tuple[str, ...] = ()
        self._enabled = True
        self._fused: dict[str, tuple[tuple[Adapter, float], ...]] = {}
        self._embeddings: tuple[Embedding, ...] = ()

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        torch_dtype: torch.dtype | None = None,
        revision: str | None = None,
        variant: str | None = None,
        local_files_only: bool = False,
        use_safetensors: bool | None = None,
        safety_checker: None = None,
        requires_safety_checker: bool = False,
        feature_extractor: None = None,
        **unsupported: Any,
    ) -> Self:
        """Load a folder, a single file or a hub id.

        Args:
            torch_dtype: None is fp32.
            local_files_only: never ask the hub.
            safety_checker, feature_extractor: None only; lienzo's own is set up for all pictures (LIENZO_SAFETY).

        Raises:
            RequestError: an argument that is not supported.
            WeightsError: the model cannot be loaded.
        """
        _refuse(unsupported, "from_pretrained", "torch_dtype, revision, variant, local_files_only")
        if safety_checker is not None or requires_safety_checker or feature_extractor is not None:
            raise RequestError(
                "safety_checker and feature_extractor: only None is supported. Name the checker's weights in LIENZO_SAFETY instead."
            )
        folder = Path(pretrained_model_name_or_path)
        if use_safetensors and folder.is_dir() and not any(folder.rglob("*.safetensors")):
            raise RequestError(f"use_safetensors: got True; {folder.name} holds no .safetensors files. Leave it out.")
        if use_safetensors is False:
            raise RequestError("use_safetensors: got False; safetensors are always preferred. Leave it out.")
        offline = True if local_files_only else None
        return cls(
            load(pretrained_model_name_or_path, dtype=torch_dtype, revision=revision, variant=variant, offline=offline)
        )

    @classmethod
    def from_single_file(cls, path: str | Path, *, torch_dtype: torch.dtype | None = None, **options: Any) -> Self:
        """Load an original `.safetensors` or `.ckpt` file; options are those of `lienzo.weights.load`."""
        return cls(load(path, dtype=torch_dtype, **options))

    def to(self, *where: str | torch.device | torch.dtype, **named: Any) -> Self:
        """Move the networks to a device, cast them to a dtype, or both (`device=`, `dtype=`, or as they come)."""
        nets = {name: getattr(self._base, name).to(*where, **named) for name in ("text_encoder", "unet", "vae")}
        self._base = replace(self._base, **nets)
        self._apply()
        return self

    def enable_vae_tiling(self) -> None:
        """Decode in overlapping tiles."""
        self._tiling = True

    def disable_vae_tiling(self) -> None:
        """Decode whole."""
        self._tiling = False

    @property
    def scheduler(self) -> "Scheduler":
        """The noise schedule; assign a diffusers scheduler (or anything with its `config`) to change sampler and grid."""
        return Scheduler(self._bundle.schedule.config.to_dict())

    @scheduler.setter
    def scheduler(self, scheduler: Any) -> None:
        config = getattr(scheduler, "config", None)
        if not isinstance(config, Mapping):
            raise RequestError(f"scheduler: got {type(scheduler).__name__}; give a diffusers scheduler.")
        name = config.get("_class_name", type(scheduler).__name__)
        settings = {k: v for k, v in config.items() if not k.startswith("_")}
        if settings.get("clip_sample"):
            raise RequestError(
                f"scheduler: got {name}; it would clip the latents, which have no range to clip to. Give it clip_sample=False."
            )
        schedule = Schedule(ScheduleConfig.from_dict({"_class_name": name, **settings}))
        changed = replace(self._base, schedule=schedule)
        default_sampler(changed)
        self._base = changed
        self._apply()

    def load_lora_weights(
        self,
        pretrained_model_name_or_path_or_dict: str | Path | Mapping[str, Tensor],
        adapter_name: str | None = None,
        *,
        weight_name: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        **unsupported: Any,
    ) -> None:
        """Load a LoRA and make it the active one, as diffusers does; `set_adapters` makes several active.

        Args:
            pretrained_model_name_or_path_or_dict: a file, a folder, a hub id, or a table of tensors.
            adapter_name: None: "default_0", "default_1" ...
            weight_name: the file in the folder or of the hub id.
            revision, local_files_only: of a hub id, as for `from_pretrained`.
        """
        _refuse(unsupported, "load_lora_weights", "adapter_name, weight_name, revision, local_files_only")
        name = adapter_name or next(n for i in count(len(self._loras)) if (n := f"default_{i}") not in self._loras)
        if name in self._loras:
            raise RequestError(f"adapter_name={name!r} is in use: {', '.join(self._loras)}. Choose another one.")
        source = _within(pretrained_model_name_or_path_or_dict, weight_name)
        adapter = load_adapter(
            source, self._base, name=name if isinstance(source, Mapping) else None, revision=revision,
            offline=local_files_only or None,
        )  # fmt: skip
        self._change(loras={**self._loras, name: (adapter, 1.0, 1.0)}, active=(name,))

    def set_adapters(
        self,
        adapter_names: str | Sequence[str],
        adapter_weights: float | Mapping[str, float] | Sequence[float | Mapping[str, float] | None] | None = None,
    ) -> None:
        """Make these the active adapters, each with its weight: a number, or one for "unet" and "text_encoder" each."""
        names = self._known(adapter_names)
        single = adapter_weights is None or isinstance(adapter_weights, (int, float, Mapping))
        weights: list[Any] = [adapter_weights] * len(names) if single else list(adapter_weights)  # type: ignore[arg-type]
        if len(weights) != len(names):
            raise RequestError(f"adapter_weights: got {len(weights)} for {len(names)} adapters; give one, or one each.")
        loras = {name: (self._loras[name][0], *_both(weight)) for name, weight in zip(names, weights, strict=True)}
        self._change(loras={**self._loras, **loras}, active=tuple(names))

    def get_active_adapters(self) -> list[str]:
        """The names of the active adapters."""
        return list(self._active)

    def get_list_adapters(self) -> dict[str, list[str]]:
        """The names of all loaded adapters, by network."""
        names = {part: [n for n, (a, _, _) in self._loras.items() if a.networks.get(part)] for part in LORA_PARTS}
        return {part: found for part, found in names.items() if found}

    def delete_adapters(self, adapter_names: str | Sequence[str]) -> None:
        """Forget these adapters; where none stays active, the first that is left becomes it, as in diffusers."""
        gone = self._known(adapter_names)
        loras = {name: lora for name, lora in self._loras.items() if name not in gone}
        left = tuple(name for name in self._active if name in loras)
        self._change(loras=loras, active=left or tuple(loras)[:1])

    def disable_lora(self) -> None:
        """Leave the active adapters out until `enable_lora`; what is fused stays fused."""
        self._enabled = False
        self._apply()

    def enable_lora(self) -> None:
        """Undo `disable_lora`."""
        self._enabled = True
        self._apply()

    def fuse_lora(
        self,
        components: Sequence[str] = ("unet", "text_encoder"),
        lora_scale: float = 1.0,
        safe_fusing: bool = False,
        adapter_names: Sequence[str] | None = None,
        **unsupported: Any,
    ) -> None:
        """Add the active adapters (or those named) to the weights, so that pictures cost no more than without.

        Until `unfuse_lora`, other adapters do nothing in these components; `unload_lora_weights` makes it final.

        Args:
            lora_scale: multiplies the adapters' own weights.
            safe_fusing: make sure that the weights stay finite.
        """
        _refuse(unsupported, "fuse_lora", "components, lora_scale, safe_fusing, adapter_names")
        if isinstance(lora_scale, bool) or not isinstance(lora_scale, (int, float)) or not math.isfinite(lora_scale):
            raise RequestError(f"lora_scale: got {lora_scale!r}; expected a number.")
        if again := sorted(set(_components(components)) & self._fused.keys()):
            raise RequestError(f"{', '.join(again)}: something is fused already; call unfuse_lora() first.")
        names = self._known(self._active if adapter_names is None else adapter_names)
        if not names:
            raise RequestError("fuse_lora: no adapter is active, so there is nothing to fuse. Load one first.")
        for part in _components(components):
            index = 1 + LORA_PARTS.index(part)
            self._fused[part] = tuple((self._loras[n][0], float(self._loras[n][index]) * lora_scale) for n in names)  # type: ignore[arg-type]
        try:
            self._apply()
            if safe_fusing and any(
                not bool(t.isfinite().all()) for part in components for t in getattr(self._bundle, part).parameters()
            ):
                raise RequestError("fuse_lora: the fused weights would hold NaN or infinity. Nothing was fused.")
        except LienzoError:
            self.unfuse_lora(components)
            raise

    def unfuse_lora(self, components: Sequence[str] = ("unet", "text_encoder"), **unsupported: Any) -> None:
        """Undo `fuse_lora`: the weights are what they were, bit for bit, and the adapters active as they were before."""
        _refuse(unsupported, "unfuse_lora", "components")
        self._fused = {part: row for part, row in self._fused.items() if part not in _components(components)}
        self._apply()

    def unload_lora_weights(self) -> None:
        """Forget all adapters. What is fused stays in the weights for good, as in diffusers."""
        self._base = self._with_fused()
        self._loras, self._active, self._fused = {}, (), {}
        self._apply()

    def load_textual_inversion(
        self,
        pretrained_model_name_or_path: Any,
        token: str | Sequence[str | None] | None = None,
        *,
        weight_name: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        **unsupported: Any,
    ) -> None:
        """Load embeddings; the prompt's words that stand for them are `token`, or what the files say.

        Args:
            pretrained_model_name_or_path: a file, a folder, a hub id, a table with one tensor, a tensor, or a list of these.
            token: one, or a list of as many; of one tensor with several tokens, a row for each.
            weight_name, revision, local_files_only: as for `load_lora_weights`.
        """
        _refuse(unsupported, "load_textual_inversion", "token, weight_name, revision, local_files_only")
        given = pretrained_model_name_or_path
        sources = list(given) if isinstance(given, (list, tuple)) else [given]
        tokens = [token] * len(sources) if token is None or isinstance(token, str) else list(token)
        if len(sources) == 1 and len(tokens) > 1 and isinstance(given, Tensor):
            sources = list(given)
        if len(sources) != len(tokens):
            raise RequestError(f"token: got {len(tokens)} for {len(sources)} embeddings; give one each.")
        offline = local_files_only or None
        new = [
            load_embedding(_within(one, weight_name), token=word, revision=revision, offline=offline)
            for one, word in zip(sources, tokens, strict=True)
        ]
        with_adapters(self._base, (), (*self._embeddings, *new))  # an error leaves everything as it was
        self._embeddings = (*self._embeddings, *new)
        self._apply()

    def unload_textual_inversion(self, tokens: str | Sequence[str] | None = None) -> None:
        """Forget embeddings: those of these tokens, or all."""
        named = [tokens] if isinstance(tokens, str) else tokens
        known = {embedding.token for embedding in self._embeddings}
        if named is not None and (wrong := [one for one in named if one not in known]):
            raise RequestError(f"tokens={wrong}: no embedding of that name is loaded. {nearest(wrong[0], known)}")
        self._embeddings = tuple(e for e in self._embeddings if named is not None and e.token not in named)
        self._apply()

    def _known(self, names: str | Sequence[str]) -> list[str]:
        several = [names] if isinstance(names, str) else list(names)
        for name in several:
            if name not in self._loras:
                raise RequestError(f"No adapter {name!r} is loaded. {nearest(name, self._loras)}")
        return several

    def _with_fused(self) -> Bundle:
        rows = [
            (adapter, *(weight if one == part else 0.0 for one in LORA_PARTS))
            for part, row in self._fused.items()
            for adapter, weight in row
        ]
        return merged(self._base, rows) if rows else self._base  # type: ignore[arg-type]

    def _change(self, *, loras: dict[str, Weighted], active: tuple[str, ...]) -> None:
        """Load, weigh, activate, forget; an error leaves everything as it was."""
        before = self._loras, self._active
        self._loras, self._active = loras, active
        try:
            self._apply()
        except LienzoError:
            self._loras, self._active = before
            raise
        idle = [name for name in active if self._is_idle(name, before[0].get(name))]
        if idle:
            warnings.warn(
                f"{', '.join(idle)}: without effect on {', '.join(sorted(self._fused))}, where adapters are fused. Call "
                "unfuse_lora() first, or unload_lora_weights() to make what is fused final.",
                stacklevel=3,
            )

    def _is_idle(self, name: str, before: Weighted | None) -> bool:
        """Whether what is fused hides an adapter, or a change of its weights; `before`: as it was."""
        adapter, *weights = self._loras[name]
        return any(
            adapter.networks.get(part)
            and (before is None or weights != list(before[1:]) or all(adapter.digest != one.digest for one, _ in row))
            for part, row in self._fused.items()
        )

    def _apply(self) -> None:
        """Make the bundle that is used from the base and everything that is loaded."""
        rows = [self._loras[name] for name in self._active] if self._enabled else []
        free = [(a, *(0.0 if p in self._fused else w for p, w in zip(LORA_PARTS, ws, strict=True))) for a, *ws in rows]
        start = self._with_fused()
        self._bundle = with_adapters(start, free, self._embeddings) if free or self._embeddings else start  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            f"lienzo's {type(self).__name__} has no {name!r}. It has: "
            f"{', '.join(n for n in dir(type(self)) if not n.startswith('_'))}. "
            "Attention is always computed without its matrix and pictures are decoded one by one, so diffusers' "
            "memory switches are not needed."
        )

    def _run(
        self,
        prompt: Several | None,
        negative_prompt: Several | None,
        num_images_per_prompt: int | None,
        generator: Generator | Sequence[Generator] | None,
        latents: Tensor | None,
        output_type: str,
        return_dict: bool,
        guidance_scale: float,
        clip_skip: int | None,
        callback_on_step_end: Callback | None,
        tensor_inputs: Sequence[str],
        inputs: Sequence[Mapping[str, Any]],
        settings: Mapping[str, Any],
    ) -> Any:
        if output_type not in OUTPUT_TYPES:
            raise RequestError(
                f"output_type: got {output_type!r}; there is no such type. {nearest(output_type, OUTPUT_TYPES)}"
            )
        if list(tensor_inputs) != ["latents"]:
            raise RequestError(
                f"callback_on_step_end_tensor_inputs: got {list(tensor_inputs)}; only ['latents'] is supported."
            )
        prompts = [prompt] if isinstance(prompt, str) else list(prompt) if isinstance(prompt, (list, tuple)) else []
        if not prompts:
            raise RequestError(
                f"prompt: got {prompt!r}; give a string or a list of them. Embeddings are not supported."
            )
        negatives = _as_many("negative_prompt", negative_prompt or "", len(prompts))
        pictures = list(inputs) * len(prompts) if len(inputs) == 1 else list(inputs)
        if len(pictures) != len(prompts):
            raise RequestError(
                f"image: got {len(pictures)} pictures for {len(prompts)} prompts; give one, or one each."
            )
        copies = 1 if num_images_per_prompt is None else num_images_per_prompt
        if not isinstance(copies, int) or copies < 1:
            raise RequestError(f"num_images_per_prompt: got {copies!r}; give a whole number from 1.")
        if isinstance(guidance_scale, (int, float)) and math.isfinite(guidance_scale):
            guidance_scale = max(1.0, guidance_scale)  # diffusers guides above 1 only
        asked = [
            {"prompt": text, "negative_prompt": negative, **picture}
            for text, negative, picture in zip(prompts, negatives, pictures, strict=True)
            for _ in range(copies)
        ]
        sources = _sources(generator, len(asked))
        requests = [
            Request(
                seed=_seed_of(source),
                guidance_scale=guidance_scale,
                clip_skip=clip_skip or 0,
                vae_tiling=self._tiling,
                **one,
                **settings,
            )
            for one, source in zip(asked, sources, strict=True)
        ]
        if latents is not None and not isinstance(latents, Tensor):
            raise RequestError(f"latents: got {type(latents).__name__}; give a tensor.")
        if output_type == "latent":  # no picture leaves, but its latents do
            house().admit(requests)
        start = sample if output_type == "latent" else make
        run = start(self._bundle, requests, generators=sources, latents=latents)
        images = _output(self._iterate(run, callback_on_step_end), output_type)
        return StableDiffusionPipelineOutput(images) if return_dict else (images, None)

    def _iterate(self, run: Any, callback: Callback | None) -> tuple[Sample | Result, ...]:
        sent: Tensor | None = None
        while True:
            try:
                step: Step = run.send(sent)
            except StopIteration as finished:
                made: tuple[Sample | Result, ...] = finished.value
                return made
            sent = None
            if callback is not None:
                sent = self._call_back(callback, step)

    def _call_back(self, callback: Callback, step: Step) -> Tensor | None:
        """Show the latents in the coordinates of the published scheduler, and take back what the callback returns."""
        whole = SAMPLERS[default_sampler(self._bundle)].convention.starts_at_sigma
        scale = 1.0 if whole else math.sqrt(1 + step.sigma * step.sigma)
        shown = step.x / scale
        returned = callback(self, step.index - 1, torch.tensor(step.time), {"latents": shown})
        if not isinstance(returned, Mapping) or set(returned) - {"latents"}:
            raise RequestError(
                f"callback_on_step_end: got {returned!r:.100}; return a dict with latents, or an empty one."
            )
        changed = returned.get("latents", shown)
        if not isinstance(changed, Tensor) or changed.shape != shown.shape:
            raise RequestError(
                f"callback_on_step_end: got other latents; return a tensor of shape {tuple(shown.shape)}."
            )
        # compared, since it may have been changed in place; what was not is not sent, so that the receipt says nothing of it
        return None if changed.equal(step.x / scale) else changed * scale


class StableDiffusionPipeline(_Pipeline):
    """Text to picture, with diffusers' argument names and defaults."""

    __slots__ = ()

    def __call__(
        self,
        prompt: Several | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 7.5,
        negative_prompt: Several | None = None,
        num_images_per_prompt: int | None = 1,
        eta: float = 0.0,
        generator: Generator | Sequence[Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        guidance_rescale: float = 0.0,
        clip_skip: int | None = None,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        **unsupported: Any,
    ) -> Any:
        """Make pictures. `latents` is the initial noise, (B, C, h, w); `output_type` one of pil, np, pt, latent."""
        _refuse(unsupported, "StableDiffusionPipeline", _names(StableDiffusionPipeline))
        settings = {
            "height": height,
            "width": width,
            "guidance_rescale": guidance_rescale,
            "steps": num_inference_steps,
        }
        return self._run(
            prompt, negative_prompt, num_images_per_prompt, generator, latents, output_type, return_dict, guidance_scale,
            clip_skip, callback_on_step_end, callback_on_step_end_tensor_inputs, [{}], settings | {"eta": eta},
        )  # fmt: skip


class StableDiffusionImg2ImgPipeline(_Pipeline):
    """Picture to picture, with diffusers' argument names and defaults."""

    __slots__ = ()

    def __call__(
        self,
        prompt: Several | None = None,
        image: Image.Image | Sequence[Image.Image] | None = None,
        strength: float = 0.8,
        num_inference_steps: int | None = 50,
        guidance_scale: float | None = 7.5,
        negative_prompt: Several | None = None,
        num_images_per_prompt: int | None = 1,
        eta: float | None = 0.0,
        generator: Generator | Sequence[Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        clip_skip: int | None = None,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        **unsupported: Any,
    ) -> Any:
        """Make pictures from `image`; `strength` is how much of it to change."""
        _refuse(unsupported, "StableDiffusionImg2ImgPipeline", _names(StableDiffusionImg2ImgPipeline))
        inputs = [{"init": picture} for picture in _pictures("image", image)]
        settings = {"strength": strength, "steps": 50 if num_inference_steps is None else num_inference_steps}
        return self._run(
            prompt, negative_prompt, num_images_per_prompt, generator, None, output_type, return_dict,
            7.5 if guidance_scale is None else guidance_scale, clip_skip, callback_on_step_end,
            callback_on_step_end_tensor_inputs, inputs, settings | {"eta": eta or 0.0},
        )  # fmt: skip


class StableDiffusionInpaintPipeline(_Pipeline):
    """Paint part of a picture anew, with diffusers' argument names and defaults."""

    __slots__ = ()

    def __call__(
        self,
        prompt: Several | None = None,
        image: Image.Image | Sequence[Image.Image] | None = None,
        mask_image: Image.Image | Sequence[Image.Image] | None = None,
        height: int | None = None,
        width: int | None = None,
        strength: float = 1.0,
        num_inference_steps: int = 50,
        guidance_scale: float = 7.5,
        negative_prompt: Several | None = None,
        num_images_per_prompt: int | None = 1,
        eta: float = 0.0,
        generator: Generator | Sequence[Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        clip_skip: int | None = None,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        **unsupported: Any,
    ) -> Any:
        """Paint `image` anew where `mask_image` is white. Sizes default to the model's own, as in diffusers."""
        _refuse(unsupported, "StableDiffusionInpaintPipeline", _names(StableDiffusionInpaintPipeline))
        pictures, masks = _pictures("image", image), _pictures("mask_image", mask_image)
        if len(pictures) != len(masks):
            raise RequestError(
                f"mask_image: got {len(masks)} masks for {len(pictures)} pictures; give one mask a picture."
            )
        inputs = [{"init": picture, "mask": mask} for picture, mask in zip(pictures, masks, strict=True)]
        native = native_size(self._bundle)
        settings = {
            "height": native[1] if height is None else height,
            "width": native[0] if width is None else width,
            "strength": strength,
            "steps": num_inference_steps,
        }
        return self._run(
            prompt, negative_prompt, num_images_per_prompt, generator, latents, output_type, return_dict, guidance_scale,
            clip_skip, callback_on_step_end, callback_on_step_end_tensor_inputs, inputs,
            settings | {"eta": eta},
        )  # fmt: skip


def _within(source: Any, weight_name: Any) -> Any:
    """What to load: a table or tensor as it is, else the file in a folder or hub id."""
    if weight_name is not None and not isinstance(weight_name, str):
        raise RequestError(f"weight_name: got {weight_name!r}; give the name of one file.")
    if isinstance(source, (str, Path)):
        return source if weight_name is None else f"{source}/{weight_name}"
    if weight_name is None and isinstance(source, (Mapping, Tensor)):
        return source
    raise RequestError(
        f"got {type(source).__name__}; give a file, a folder or a hub id (with weight_name, the file in it), or a table of tensors."
    )


def _both(weight: Any) -> tuple[float, float]:
    """For U-Net and text encoder; what is not said is 1."""
    table = weight if isinstance(weight, Mapping) else dict.fromkeys(LORA_PARTS, 1.0 if weight is None else weight)
    if wrong := [part for part in table if part not in LORA_PARTS]:
        raise RequestError(
            f"adapter_weights: got {wrong[0]!r}; there is no such part. {nearest(wrong[0], LORA_PARTS)} Weights block by block are not supported."
        )
    values = [table.get(part, 1.0) for part in LORA_PARTS]
    if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in values):
        raise RequestError(
            f"adapter_weights: got {values}; expected numbers. Weights block by block are not supported."
        )
    return float(values[0]), float(values[1])


def _components(names: Sequence[str]) -> list[str]:
    if not names or isinstance(names, str) or any(name not in LORA_PARTS for name in names):
        raise RequestError(f"components={names!r}: a list of {' and '.join(LORA_PARTS)}.")
    return list(names)


def _names(cls: type) -> str:
    code = cls.__call__.__code__
    return ", ".join(code.co_varnames[1 : code.co_argcount])


def _refuse(unsupported: Mapping[str, Any], where: str, supported: str) -> None:
    if unsupported:
        raise RequestError(
            f"{where}: {', '.join(unsupported)} not supported, so not ignored either. Supported: {supported}."
        )


def _as_many(name: str, value: Several, count: int) -> list[str]:
    values = [value] * count if isinstance(value, str) else list(value) if isinstance(value, (list, tuple)) else []
    if len(values) != count:
        raise RequestError(f"{name}: got {len(values)} for {count} prompts; give one, or one each.")
    return values


def _pictures(name: str, value: Image.Image | Sequence[Image.Image] | None) -> list[Image.Image]:
    pictures = [value] if isinstance(value, Image.Image) else list(value) if isinstance(value, (list, tuple)) else []
    if not pictures or not all(isinstance(picture, Image.Image) for picture in pictures):
        raise RequestError(f"{name}: got {type(value).__name__}; give a PIL picture or a list of them.")
    return pictures


def _sources(generator: Generator | Sequence[Generator] | None, count: int) -> list[Generator]:
    if generator is None:
        return [seeded(new_seed()) for _ in range(count)]
    sources = [generator] * count if isinstance(generator, Generator) else list(generator)
    if not all(isinstance(source, Generator) for source in sources):
        raise RequestError("generator: got something else among them; give a torch.Generator or a list of them.")
    if len(sources) != count:
        raise RequestError(f"generator: got {len(sources)} for {count} pictures; give one, or one each.")
    if any(source.device.type != "cpu" for source in sources):
        raise RequestError(
            "generator: got one of another device; noise is always drawn on the CPU. Give torch.Generator('cpu')."
        )
    return sources


def _seed_of(source: Generator) -> int:
    """The seed that gives this source; where it was drawn from before, one that stands for the state that it is in.

    The mark in a picture is a function of its request, so that the same state has to give the same one.
    """
    state, seed = source.get_state(), source.initial_seed()
    if seed < SEED_LIMIT and state.equal(seeded(seed).get_state()):
        return seed
    return int.from_bytes(hashlib.sha256(state.numpy().tobytes()).digest()[:4])


def _output(made: Sequence[Sample | Result], output_type: str) -> Any:
    for warning in dict.fromkeys(w for one in made for w in one.warnings):
        warnings.warn(warning, stacklevel=4)
    if output_type == "latent":
        return torch.stack([one.latents for one in made])
    results = [one for one in made if isinstance(one, Result)]
    if output_type == "pil":
        return [result.image for result in results]
    shown = [to_tensor(result.image) if isinstance(result, Marked) else result.pixels for result in results]
    unit = (torch.stack(shown) / 2 + 0.5).clamp(0, 1)
    return unit if output_type == "pt" else np.ascontiguousarray(unit.permute(0, 2, 3, 1).numpy())
