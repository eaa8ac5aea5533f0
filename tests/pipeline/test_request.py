"""Requests: what is allowed, what is said otherwise, and the canonical form."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lienzo import Request
from lienzo.diffusion.grids import GRIDS
from lienzo.diffusion.samplers import SAMPLERS
from lienzo.errors import LienzoError, RequestError

RED = Image.new("RGB", (16, 16), "red")

requests = st.builds(
    Request,
    st.text(max_size=50),
    negative_prompt=st.text(max_size=20),
    width=st.none() | st.integers(1, 128).map(lambda n: 8 * n),
    height=st.none() | st.integers(1, 128).map(lambda n: 8 * n),
    steps=st.integers(1, 1000),
    sampler=st.none() | st.sampled_from(sorted(SAMPLERS)),
    grid=st.none() | st.sampled_from(sorted(GRIDS)),
    guidance_scale=st.floats(-1000, 1000),
    guidance_rescale=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
    init=st.none() | st.just(RED),
)


@given(requests)
def test_json_and_back(request: Request) -> None:
    again = Request.from_json(request.canonical)
    assert again == request
    assert again.digest == request.digest
    assert json.loads(request.canonical)["seed"] == request.seed


@given(requests, requests)
def test_digests_tell_requests_apart(a: Request, b: Request) -> None:
    assert (a.digest == b.digest) == (a == b)


@given(
    st.dictionaries(
        st.sampled_from(sorted(Request.model_fields)),
        st.none() | st.booleans() | st.floats() | st.text() | st.integers(),
    )
)
def test_any_values_give_a_request_or_one_kind_of_error(fields: dict[str, Any]) -> None:
    prompt = fields.pop("prompt", "")
    try:
        made = Request(prompt, **fields)
    except LienzoError:
        return
    assert made.steps >= 1
    assert math.isfinite(made.guidance_scale)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"width": 513}, "multiple of 8"),
        ({"height": 0}, "greater than or equal to 8"),
        ({"width": 1_000_000}, "less than or equal to 8192"),
        ({"width": 8192, "height": 8192}, "more than 37,748,736 pixels"),
        ({"steps": 0}, "greater than or equal to 1"),
        ({"guidance_scale": math.nan}, "finite"),
        ({"guidance_scale": math.inf}, "finite"),
        ({"guidance_interval": (0, math.inf)}, "finite"),
        ({"guidance_interval": (5, 1)}, "0 <= low < high"),
        ({"sampler": "euler_b"}, "did you mean euler"),
        ({"grid": "karas"}, "did you mean karras"),
        ({"seed": -1}, "greater than or equal to 0"),
        ({"seed": 2**32}, "less than 4294967296"),
        ({"sigmas": (1.0, 2.0, 0.0)}, "must fall"),
        ({"sigmas": (2.0, 0.0), "grid": "karras"}, "not both"),
        ({"mask": RED}, "needs an init picture"),
        ({"strength": 0.5}, "needs an init picture"),
        ({"strength": 0.0, "init": RED}, "greater than 0"),
        ({"soft_mask": True}, "needs a mask"),
        ({"eta": 0.5, "sampler": "euler"}, "does nothing for euler"),
        ({"order": 3, "sampler": "ddim"}, "UniPC's"),
        ({"stepps": 3}, "did you mean steps"),
        ({"flavour": 3}, "Settings: prompt"),
        ({"prompt": "word " * 10_000}, "got 50,000 characters"),
        ({"prompt": 7}, "valid string"),
        ({"init": 7}, "valid dictionary"),
    ],
)
def test_what_is_not_allowed_is_explained(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words) as caught:
        Request(**fields)
    assert len(str(caught.value)) < 600


def test_seeds_are_random_unless_given() -> None:
    assert len({Request().seed for _ in range(20)}) > 15
    assert Request(seed=0).seed == 0


def test_inputs_are_named_by_their_pixels() -> None:
    request = Request("x", init=RED, seed=1)
    assert request.init is not None
    assert request.init.image.size == (16, 16)
    bare = Request.from_json(request.canonical)
    assert bare.init is not None
    with pytest.raises(RequestError, match="only its digest is recorded"):
        _ = bare.init.image
    assert bare.with_inputs(init=RED).init.image.tobytes() == RED.tobytes()  # type: ignore[union-attr]
    with pytest.raises(RequestError, match="not the recorded picture"):
        bare.with_inputs(init=Image.new("RGB", (16, 16), "blue"))


def test_requests_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Request("x").steps = 3  # type: ignore[misc]
    assert Request("x", seed=1).replace(steps=3).steps == 3
    with pytest.raises(RequestError):
        Request("x").replace(steps=0)
