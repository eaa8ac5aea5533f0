"""Requests: what is allowed, what is said otherwise, and the canonical form."""

import json
import math
import re
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
        ({"width": 513}, "width: got 513; give a whole number from 8 up to 8,192, a multiple of 8."),
        ({"height": 0}, "from 8 up to 8,192"),
        ({"width": 1_000_000}, "from 8 up to 8,192"),
        ({"width": 8192, "height": 8192}, "at most 37,748,736 pixels"),
        ({"steps": 0}, "steps: got 0; give a whole number from 1 up to 1,000."),
        ({"guidance_scale": math.nan}, "a number from -1,000 up to 1,000."),
        ({"guidance_scale": math.inf}, "a number from -1,000 up to 1,000."),
        ({"guidance_interval": (0, math.inf)}, "finite"),
        ({"guidance_interval": (5, 1)}, "0 <= low < high"),
        ({"sampler": "euler_b"}, "got 'euler_b'; there is no such sampler. Did you mean euler"),
        ({"grid": "karas"}, "Did you mean karras"),
        ({"seed": -1}, "from 0 up to 4,294,967,295"),
        ({"seed": 2**32}, "from 0 up to 4,294,967,295"),
        ({"sigmas": (1.0, 2.0, 0.0)}, "must fall"),
        ({"sigmas": (1.0, -1.0)}, "2 to 1,001 numbers from 0 up to 1,000,000"),
        ({"sigmas": (2.0, 0.0), "grid": "karras"}, "not both"),
        ({"mask": RED}, "needs an init picture"),
        ({"strength": 0.5}, "needs an init picture"),
        ({"strength": 0.0, "init": RED}, "a number above 0 up to 1"),
        ({"soft_mask": True}, "needs a mask"),
        ({"eta": 0.5, "sampler": "euler"}, "does nothing for euler"),
        ({"order": 3, "sampler": "ddim"}, "unipc's"),
        ({"stepps": 3}, "Did you mean steps"),
        ({"flavour": 3}, "Allowed: clip_skip"),
        ({"prompt": "word " * 10_000}, "got 50,000 characters"),
        ({"prompt": 7}, "give text"),
        ({"init": 7}, "give a picture"),
        ({"init": "no.png"}, "init: got 'no.png'; no such file."),
        ({"soft_mask": "maybe"}, "true or false"),
    ],
)
def test_what_is_not_allowed_is_explained(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError) as caught:
        Request(**fields)
    message = str(caught.value)
    assert words in message
    assert re.fullmatch(r"\w+(\.\d)?: got .*; .*\.", message)
    assert len(message) < 600


@pytest.mark.parametrize("text", ["", "[]", '{"init": {"sha256": "zz", "width": 1, "height": 1}}'])
def test_json_that_is_no_request_is_explained(text: str) -> None:
    with pytest.raises(
        RequestError, match=r"^(The request cannot be read: .*|init\.sha256: got 'zz'; give a picture)\.$"
    ):
        Request.from_json(text)


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
