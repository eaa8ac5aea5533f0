"""Same request, same picture: in any batch, in any order, in any thread, bit for bit."""

import threading
import warnings
from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import tiny
from lienzo import Pipeline, Request
from lienzo.diffusion.samplers import SAMPLERS

Loader = Callable[[str], Pipeline]


def one_request(draw: Any, picture: Image.Image, mask: Image.Image) -> Request:
    sampler = draw(st.sampled_from(["euler_a", "dpmpp_2m_sde", "ddim", "plms", "unipc", "heun"]))
    fields: dict[str, Any] = {
        "prompt": draw(st.sampled_from(["", "red", "the red cat", "blue"])),
        "negative_prompt": draw(st.sampled_from(["", "red"])),
        "sampler": sampler,
        "steps": draw(st.integers(2, 4)),
        "guidance_scale": draw(st.sampled_from([1.0, 5.0, 7.5])),
        "seed": draw(st.integers(0, 3)),
    }
    kind = draw(st.sampled_from(["txt2img", "txt2img", "img2img", "inpaint"]))
    if kind == "txt2img":
        fields |= {"width": draw(st.sampled_from([64, 72])), "height": 64}
    else:
        fields |= {"init": picture, "width": 64, "height": 64, "strength": 0.7}
        fields |= {"mask": mask} if kind == "inpaint" else {}
    return Request(**fields)


@pytest.mark.filterwarnings("ignore:negative_prompt does nothing")
@given(data=st.data())
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_mixed_batches_equal_single_pictures(
    pipeline: Loader, picture: Image.Image, mask: Image.Image, data: st.DataObject
) -> None:
    pipe = pipeline("sd1")
    requests = [one_request(data.draw, picture, mask) for _ in range(data.draw(st.integers(2, 5)))]
    together = pipe(requests)
    for request, result in zip(requests, together, strict=True):
        assert result.request.seed == request.seed
        assert torch.equal(pipe(request).pixels, result.pixels)


def test_a_finished_request_makes_the_same_picture_again(pipeline: Loader) -> None:
    first = pipeline("sd2")(Request("the red cat", steps=3, width=64, height=64))
    again = pipeline("sd2")(Request.from_json(first.request.canonical))
    assert torch.equal(first.pixels, again.pixels)
    assert first.request == again.request
    assert first.request.sampler is not None and first.request.grid is not None


def test_eight_threads_on_one_pipeline(
    pipeline: Loader, model: Callable[[str], Any], picture: Image.Image, mask: Image.Image
) -> None:
    """Every thread's picture is the one made alone, bit for bit, and that one is diffusers'."""
    pipe = pipeline("sd1")
    samplers = ["plms", "unipc", "dpmpp_2m", "heun", "euler_a", "ddim", "lcm", "ddpm"]
    requests = [
        Request("the red cat", sampler=name, seed=i, steps=4, width=64, height=64, **extra)
        for i, name in enumerate(samplers)
        for extra in ({}, {"init": picture, "mask": mask}, {"guidance_scale": 1.0})
    ]
    alone = [pipe(request).pixels for request in requests]
    theirs = tiny.reference(model("sd1"))
    for i, name in enumerate(samplers):
        published, _, _ = SAMPLERS[name].published.partition("/")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs.scheduler = getattr(diffusers, published).from_config(
                theirs.scheduler.config, clip_sample=False, **({"skip_prk_steps": True} if name == "plms" else {})
            )
            made = theirs(
                "the red cat",
                generator=torch.Generator().manual_seed(i),
                num_inference_steps=4,
                width=64,
                height=64,
                output_type="pt",
            )
        assert tiny.psnr(made.images[0], (alone[3 * i] / 2 + 0.5).clamp(0, 1)) >= 50, name
    wrong: list[str] = []
    gate = threading.Barrier(8)

    def work(offset: int) -> None:
        gate.wait()
        for i in range(len(requests)):
            j = (i + 3 * offset) % len(requests)
            if not torch.equal(pipe(requests[j]).pixels, alone[j]):
                wrong.append(f"thread {offset}: {requests[j].sampler}")

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_stopping_stops_the_work(pipeline: Loader) -> None:
    pipe = pipeline("sd1")
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    hook = pipe.bundle.unet.register_forward_hook(count)
    run = pipe.stream(Request("red", steps=10, sampler="euler", width=64, height=64))
    for step in run:
        assert step.of == 10
        if step.index == 3:
            run.close()
            break
    hook.remove()
    assert calls == 3


def test_previews_are_pictures(pipeline: Loader) -> None:
    step = next(iter(pipeline("sd1").stream([Request("red", steps=2, width=64, height=72)] * 2)))
    assert [image.size for image in step.previews()] == [(64, 72)] * 2


@pytest.mark.parametrize("where", ["unet", "vae"])
def test_not_a_number_is_an_error_and_never_a_picture(model: Callable[[str], Any], where: str) -> None:
    from lienzo.errors import NonFiniteError

    pipe = Pipeline.load(model("sd1"))
    network = getattr(pipe.bundle, where)
    convolution = network.conv_out if where == "unet" else network.decoder.conv_out
    convolution.bias = torch.nn.Parameter(torch.full_like(convolution.bias, float("nan")))
    with pytest.raises(NonFiniteError, match="NaN"):
        pipe(Request("red", steps=2, width=64, height=64))


def test_outside_its_interval_there_is_no_guidance(pipeline: Loader) -> None:
    pipe = pipeline("sd1")
    base = Request("red", negative_prompt="blue", seed=1, steps=4, width=64, height=64, guidance_scale=9.0)
    whole = pipe(base).pixels
    assert torch.equal(pipe(base.replace(guidance_interval=(0, 1e6))).pixels, whole)
    nowhere = pipe(base.replace(guidance_interval=(1e5, 1e6))).pixels
    assert torch.equal(nowhere, pipe(base.replace(guidance_scale=1.0, negative_prompt="")).pixels)
    assert not torch.equal(pipe(base.replace(guidance_interval=(1.0, 5.0))).pixels, whole)


def test_a_soft_mask_blends_by_its_grey(pipeline: Loader, picture: Image.Image) -> None:
    pipe = pipeline("sd1")
    base = Request("red", seed=1, steps=4, init=picture, mask=Image.new("L", picture.size, 255), strength=0.5)
    kept = pipe(base.replace(mask=Image.new("L", picture.size, 0))).latents

    def distance(grey: int) -> float:
        mask = Image.new("L", picture.size, grey)
        return float((pipe(base.replace(mask=mask, soft_mask=True)).latents - kept).square().mean())

    distances = [distance(grey) for grey in (0, 60, 150, 255)]
    assert distances[0] < 1e-8
    assert distances == sorted(distances)
    assert torch.equal(pipe(base.replace(soft_mask=True)).pixels, pipe(base).pixels)


def test_large_pictures_are_decoded_in_tiles(pipeline: Loader) -> None:
    from lienzo.pipeline.generate import resolve

    bundle = pipeline("sd1").bundle
    assert resolve(bundle, Request(width=1536, height=1536)).vae_tiling is False
    assert resolve(bundle, Request(width=1544, height=1536)).vae_tiling is True
    assert resolve(bundle, Request(width=1544, height=1536, vae_tiling=False)).vae_tiling is False
    with_tiles = pipeline("sd1")(Request("red", seed=1, steps=1, width=1024, height=64, vae_tiling=True)).pixels
    whole = pipeline("sd1")(Request("red", seed=1, steps=1, width=1024, height=64)).pixels
    assert not torch.equal(with_tiles, whole)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_paints_about_the_same(model: Callable[[str], Any], pipeline: Loader, dtype: str) -> None:
    request = Request("the red cat", seed=1, steps=4, width=64, height=64, sampler="euler")
    half = Pipeline.load(model("sd1"), dtype=dtype)(request).pixels
    assert tiny.psnr(half / 2, pipeline("sd1")(request).pixels / 2) > 25


def test_what_has_no_effect_is_said(pipeline: Loader) -> None:
    request = Request("red " * 100, negative_prompt="blue", guidance_scale=1.0, steps=1, width=64, height=64)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = pipeline("sd1")(request)
    assert {str(w.message) for w in caught} == set(result.warnings)
    assert any("did not see" in text for text in result.warnings)
    assert any("negative_prompt does nothing" in text for text in result.warnings)
