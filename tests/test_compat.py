"""diffusers' names: what is supported works (tests/pipeline/test_parity.py), what is not is said, never ignored."""

import inspect
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import lienzo
from lienzo import compat
from lienzo.errors import BlockedError, RequestError
from lienzo.provenance.keys import Keystore
from lienzo.provenance.watermark import find

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import diffusers

Loader = Callable[[str], Path]
NAMES = ["StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"]


@pytest.mark.parametrize("name", NAMES)
def test_arguments_have_the_same_names_order_and_defaults(name: str) -> None:
    theirs = inspect.signature(getattr(diffusers, name).__call__).parameters
    mine = inspect.signature(getattr(lienzo, name).__call__).parameters
    supported = [p for p in mine if p not in ("self", "unsupported")]
    assert [p for p in theirs if p in supported] == supported
    for argument in supported:
        default = theirs[argument].default
        assert mine[argument].default == (tuple(default) if isinstance(default, list) else default), argument


@pytest.mark.parametrize("name", NAMES)
def test_every_other_argument_is_an_error(model: Loader, name: str) -> None:
    pipe = getattr(lienzo, name).from_pretrained(model("sd1"))
    mine = inspect.signature(type(pipe).__call__).parameters
    for argument in inspect.signature(getattr(diffusers, name).__call__).parameters:
        if argument not in mine and argument != "kwargs":
            with pytest.raises(RequestError, match=f"{argument} not supported"):
                pipe("red", **{argument: 1})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"prompt": None}, "give a string"),
        ({"output_type": "pill"}, "Did you mean pil"),
        ({"generator": [torch.Generator()] * 3}, "got 3 for 1"),
        ({"negative_prompt": ["a", "b"]}, "got 2 for 1"),
        ({"num_images_per_prompt": 0}, "a whole number from 1"),
        ({"width": 100}, "multiple of 8"),
        ({"latents": torch.zeros(1, 4, 3, 3)}, "latents: got"),
        ({"eta": 0.5}, "does nothing for plms"),
        ({"callback_on_step_end_tensor_inputs": ["prompt_embeds"]}, "only"),
        ({"callback_on_step_end": lambda *_: None}, "return a dict"),
        ({"callback_on_step_end": lambda *_: {"prompt_embeds": 1}}, "return a dict"),
        ({"callback_on_step_end": lambda *_: {"latents": torch.zeros(1)}}, "other latents"),
        ({"guidance_scale": float("nan")}, "a number from -1,000"),
        ({"num_inference_steps": 0}, "from 1 up to 1,000"),
        ({"prompt": []}, "give a string"),
        ({"prompt": 7}, "give a string"),
        ({"negative_prompt": 3}, "got 0 for 1"),
        ({"generator": [3]}, "give a torch.Generator"),
        ({"latents": [1]}, "give a tensor"),
        ({"latents": torch.zeros(2, 4, 8, 8)}, "got 2 for 1"),
        ({"num_images_per_prompt": 1.5}, "whole number"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_values(model: Loader, arguments: dict[str, Any], words: str) -> None:
    pipe = lienzo.StableDiffusionPipeline.from_pretrained(model("sd1"))
    with pytest.raises(RequestError, match=words):
        pipe(**{"prompt": "red", "num_inference_steps": 2, "width": 64, "height": 64, **arguments})


def test_loading_refuses_what_it_would_ignore(model: Loader) -> None:
    with pytest.raises(RequestError, match="device_map not supported"):
        lienzo.StableDiffusionPipeline.from_pretrained(model("sd1"), device_map="auto")
    with pytest.raises(RequestError, match="LIENZO_SAFETY"):
        lienzo.StableDiffusionPipeline.from_pretrained(model("sd1"), requires_safety_checker=True)


def test_unknown_switches_say_what_there_is(model: Loader) -> None:
    pipe = lienzo.StableDiffusionPipeline.from_pretrained(model("sd1"))
    with pytest.raises(AttributeError, match=r"no 'enable_attention_slicing'.*enable_vae_tiling"):
        pipe.enable_attention_slicing()
    with pytest.raises(AttributeError):
        pipe.anything = 1


def test_pictures_and_tuples(model: Loader) -> None:
    pipe = lienzo.StableDiffusionPipeline.from_pretrained(model("sd1")).to("cpu")
    images, flagged = pipe(["red", "blue"], num_inference_steps=2, width=64, height=64, return_dict=False)
    assert [image.size for image in images] == [(64, 64)] * 2
    assert isinstance(images[0], Image.Image)
    assert flagged is None


def test_tiling_is_a_setting_of_the_pipeline(model: Loader) -> None:
    pipe = lienzo.StableDiffusionPipeline.from_pretrained(model("sd1"))
    arguments = {"num_inference_steps": 1, "width": 640, "height": 64, "output_type": "pt"}
    whole = pipe("red", generator=torch.Generator().manual_seed(0), **arguments).images
    pipe.enable_vae_tiling()
    tiled = pipe("red", generator=torch.Generator().manual_seed(0), **arguments).images
    assert whole.shape == tiled.shape
    assert not torch.equal(whole, tiled)


# Adapters; that their pictures are diffusers' is in tests/weights/test_adapters.py


def a_lora(pipe: lienzo.StableDiffusionPipeline, scale: float = 1.0) -> dict[str, torch.Tensor]:
    path = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    side = pipe._base.unet.get_submodule(path).weight.shape[0]
    return {
        f"unet.{path}.lora_A.weight": torch.ones(2, side),
        f"unet.{path}.lora_B.weight": torch.ones(side, 2) * scale,
    }


def of_seed(pipe: lienzo.StableDiffusionPipeline) -> torch.Tensor:
    arguments = {"num_inference_steps": 2, "width": 64, "height": 64, "output_type": "latent"}
    latents: torch.Tensor = pipe("red", generator=torch.Generator().manual_seed(0), **arguments).images
    return latents


def test_adapters_have_the_same_argument_names() -> None:
    methods = (
        "set_adapters", "delete_adapters", "get_active_adapters", "get_list_adapters", "disable_lora", "enable_lora",
        "unload_lora_weights", "fuse_lora", "unfuse_lora", "load_lora_weights", "load_textual_inversion",
    )  # fmt: skip
    keywords = ("weight_name", "revision", "local_files_only")  # among theirs in **kwargs
    for method in methods:
        theirs = inspect.signature(getattr(diffusers.StableDiffusionPipeline, method)).parameters
        mine = inspect.signature(getattr(lienzo.StableDiffusionPipeline, method)).parameters
        supported = [p for p in mine if p not in ("self", "unsupported", *keywords)]
        assert [p for p in theirs if p in supported] == supported, method


def test_adapters_stay_through_changes_of_the_rest(model: Loader) -> None:
    pipe = lienzo.StableDiffusionPipeline.from_pretrained(model("sd1"))
    plain = of_seed(pipe)
    pipe.load_lora_weights(a_lora(pipe))
    pipe.load_textual_inversion({"<zwx>": torch.ones(32)})
    changed = of_seed(pipe)
    assert not torch.equal(plain, changed)
    pipe.scheduler = pipe.scheduler
    assert torch.equal(of_seed(pipe.to("cpu")), changed)
    half = pipe.to(torch.bfloat16)
    assert next(half._bundle.unet.parameters()).dtype == torch.bfloat16
    assert not torch.equal(of_seed(half), changed)
    assert (half.get_active_adapters(), half.get_list_adapters()) == (["default_0"], {"unet": ["default_0"]})


def test_adapters_that_are_not_there(model: Loader) -> None:
    pipe = lienzo.StableDiffusionPipeline.from_pretrained(model("sd1"))
    plain = of_seed(pipe)
    pipe.load_lora_weights(a_lora(pipe), "style")
    changed = of_seed(pipe)
    wrong: list[tuple[Callable[[], object], str]] = [
        (lambda: pipe.load_lora_weights(a_lora(pipe), "style"), "in use: style"),
        (lambda: pipe.load_lora_weights(a_lora(pipe), hotswap=True), "hotswap not supported"),
        (lambda: pipe.set_adapters("stile"), "Did you mean style"),
        (lambda: pipe.set_adapters("style", [0.1, 0.2]), "got 2 for 1"),
        (lambda: pipe.set_adapters("style", float("nan")), "expected numbers"),
        (lambda: pipe.set_adapters("style", {"unet": {"down": 1.0}}), "block by block"),  # type: ignore[dict-item]
        (lambda: pipe.set_adapters("style", {"vae": 1.0}), "Allowed: text_encoder, unet"),
        (lambda: pipe.set_adapters(["style", "style"]), "given twice"),
        (lambda: pipe.fuse_lora(adapter_names=[]), "no adapter is active"),
        (lambda: pipe.fuse_lora(lora_scale="much"), "lora_scale: got 'much'"),  # type: ignore[arg-type]
        (lambda: pipe.load_lora_weights(None), "got NoneType"),  # type: ignore[arg-type]
        (lambda: pipe.load_lora_weights({}, weight_name="x"), "got dict"),
        (lambda: pipe.load_textual_inversion("a/b", weight_name=["x"]), "the name of one file"),  # type: ignore[arg-type]
        (lambda: pipe.delete_adapters(["x"]), "No adapter 'x'"),
        (lambda: pipe.fuse_lora(components=["vae"]), "a list of unet and text_encoder"),
        (lambda: pipe.fuse_lora(fuse_unet=True), "fuse_unet not supported"),
        (lambda: pipe.unload_textual_inversion("x"), "no embedding of that name"),
        (lambda: pipe.load_textual_inversion({"an": torch.ones(32)}), "already"),
        (lambda: pipe.load_textual_inversion([torch.ones(32)] * 2, token=["x"]), "got 1 for 2"),
    ]
    for call, words in wrong:
        with pytest.raises(RequestError, match=words):
            call()
    assert torch.equal(of_seed(pipe), changed), "an error leaves everything as it was"
    pipe.load_lora_weights(a_lora(pipe, float("inf")), "broken")
    with pytest.raises(RequestError, match="Nothing was fused"):
        pipe.fuse_lora(safe_fusing=True)
    pipe.set_adapters("style")
    assert torch.equal(of_seed(pipe), changed)
    pipe.unload_lora_weights()
    assert torch.equal(of_seed(pipe), plain)


def test_what_is_fused_hides_is_told(model: Loader) -> None:
    pipe = lienzo.StableDiffusionPipeline.from_pretrained(model("sd1"))
    pipe.load_lora_weights(a_lora(pipe), "style")
    pipe.fuse_lora(components=["unet"])
    fused = of_seed(pipe)
    pipe.set_adapters("style")  # as it is
    for call in (lambda: pipe.set_adapters("style", 0.5), lambda: pipe.load_lora_weights(a_lora(pipe, 2.0), "other")):
        with pytest.warns(UserWarning, match="without effect on unet, where adapters are fused"):
            call()
        assert torch.equal(of_seed(pipe), fused)
    pipe.unfuse_lora(["unet"])
    assert not torch.equal(of_seed(pipe), fused)
    pipe.delete_adapters(["style", "style"])
    assert pipe.get_active_adapters() == ["other"]


@pytest.mark.parametrize("output_type", ["pil", "latent"])
def test_the_prompt_policy_holds(
    model: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output_type: str
) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('[[rules]]\nname = "c"\naction = "deny"\nterms = ["circle"]\nreason = "no circles here"\n')
    monkeypatch.setenv("LIENZO_POLICY", str(policy))
    pipe = lienzo.StableDiffusionPipeline.from_pretrained(model("sd1"))
    with pytest.raises(BlockedError, match="no circles here"):
        pipe("a red circle", num_inference_steps=1, output_type=output_type)


def test_pictures_are_marked_in_every_form(model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = lienzo.StableDiffusionPipeline.from_pretrained(model("sd1"))

    def made(output_type: str) -> Any:
        source = torch.Generator().manual_seed(3)
        options = {"num_inference_steps": 1, "height": 64, "width": 64, "output_type": output_type}
        return pipe("a red circle", generator=source, **options).images

    bare = np.asarray(made("pil")[0])
    monkeypatch.setenv("LIENZO_MARK", "full")
    marked = np.asarray(made("pil")[0])
    assert find(Image.fromarray(marked), [Keystore().secret("watermark")]) is not None
    assert (marked != bare).any()
    assert (np.rint(made("np")[0] * 255) == marked).all()
    assert (np.rint(made("pt")[0].permute(1, 2, 0).numpy() * 255) == marked).all()


def test_what_a_callback_changes_is_in_the_receipt(
    model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = lienzo.StableDiffusionPipeline.from_pretrained(model("sd1"))
    told: list[tuple[str, ...]] = []
    monkeypatch.setattr(compat, "_output", lambda made, kind: told.append(made[0].given))

    def looks(_: Any, index: int, time: Any, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return tensors

    def changes(_: Any, index: int, time: Any, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        tensors["latents"].mul_(0.9)  # in place, as diffusers allows
        return {}

    drawn = torch.Generator().manual_seed(3)
    drawn_from = torch.Generator().manual_seed(3)
    torch.randn(1, generator=drawn_from)
    for callback, source in ((looks, drawn), (changes, torch.Generator().manual_seed(3)), (None, drawn_from)):
        pipe(
            "a red circle", generator=source, callback_on_step_end=callback, num_inference_steps=2, height=64, width=64
        )
    assert told == [(), ("steps",), ("generators",)]
