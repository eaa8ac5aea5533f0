"""OpenAI's own client, unchanged but for the address, against the service as it is run."""

import base64
import io
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from server.conftest import Served

QUICK = {"steps": 2}


@pytest.fixture
def client(served: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="lk_any", max_retries=0) as made:
        yield made


def opened(picture: openai.types.Image) -> Image.Image:
    assert picture.b64_json is not None
    return Image.open(io.BytesIO(base64.b64decode(picture.b64_json)))


def file(image: Image.Image) -> tuple[str, bytes, str]:
    kept = io.BytesIO()
    image.save(kept, "PNG")
    return "picture.png", kept.getvalue(), "image/png"


def states(served: Served) -> list[str]:
    with served.client as plain:
        return [job["state"] for job in plain.get("/v1/jobs").json()["jobs"]]


def test_a_picture_as_the_service_makes_it(client: openai.OpenAI, served: Served) -> None:
    answer = client.images.generate(
        model="tiny", prompt="a red circle", size="64x64", user="somebody", extra_body={**QUICK, "seed": 7}
    )
    assert answer.data is not None and abs(answer.created - time.time()) < 60
    (picture,) = answer.data
    assert picture.url is None and picture.revised_prompt is None and answer.usage is None
    assert picture.model_extra is not None and picture.model_extra["seed"] == 7
    own = served.ended(served.ask("a red circle", seed=7)["id"])
    with served.client as plain:
        same = Image.open(io.BytesIO(plain.get(own["image"]).content))
        assert plain.get(f"/v1/images/{picture.model_extra['id']}/receipt").status_code == 200
    assert np.array_equal(np.asarray(opened(picture)), np.asarray(same))


def test_several_as_urls(client: openai.OpenAI) -> None:
    answer = client.images.generate(
        prompt="a red circle", n=3, size="64x64", response_format="url", quality="auto", extra_body=QUICK
    )
    assert answer.data is not None and len(answer.data) == 3
    seeds = [(picture.model_extra or {})["seed"] for picture in answer.data]
    assert seeds == [seeds[0], seeds[0] + 1, seeds[0] + 2]
    pictures = []
    for picture in answer.data:
        assert picture.url is not None and picture.b64_json is None
        got = httpx.get(picture.url, headers={"Authorization": f"Bearer {client.api_key}"})
        pictures.append(Image.open(io.BytesIO(got.raise_for_status().content)).tobytes())
    assert len(set(pictures)) == 3


def test_an_edit_of_the_whole_picture(client: openai.OpenAI, served: Served) -> None:
    start = Image.new("RGB", (64, 96), "navy")
    answer = client.images.edit(
        image=file(start), prompt="a red circle", extra_body={**QUICK, "strength": 0.5, "seed": 1}
    )
    assert answer.data is not None
    assert opened(answer.data[0]).size == (64, 96)
    with served.client as plain:
        asked = plain.get(f"/v1/jobs/{(answer.data[0].model_extra or {})['id']}").json()["request"]
    assert asked["strength"] == 0.5 and asked["init"]["height"] == 96 and "mask" not in asked


@pytest.mark.parametrize("own_mask", [True, False])
def test_an_edit_where_it_is_transparent(client: openai.OpenAI, served: Served, own_mask: bool) -> None:
    """The left half is transparent: that is what is painted anew, and only that."""
    start = Image.new("RGBA", (64, 64), "navy")
    hole = start.copy()
    hole.paste((0, 0, 0, 0), (0, 0, 32, 64))
    images = {"image": file(start), "mask": file(hole)} if own_mask else {"image": [file(hole)]}
    answer = client.images.edit(**images, prompt="a circle", size="64x64", extra_body={**QUICK, "seed": 1})
    assert answer.data is not None
    with served.client as plain:
        asked = plain.get(f"/v1/jobs/{(answer.data[0].model_extra or {})['id']}").json()["request"]
        white = Image.new("L", (64, 64))
        white.paste(255, (0, 0, 32, 64))
        expected = plain.post("/v1/inputs", files={"picture": file(white)}).json()
    assert asked["mask"] == expected


@pytest.mark.parametrize(
    ("fields", "error", "code", "param", "says"),
    [
        ({"size": "65x64"}, openai.BadRequestError, "request", "width", "multiple of 8"),
        ({"size": "huge"}, openai.BadRequestError, "request", "size", "pattern"),
        ({"size": "8192x4096"}, openai.BadRequestError, "request", "width", "pixels are allowed here"),
        ({"n": 11}, openai.BadRequestError, "request", "n", "less than or equal to 10"),
        ({"model": "dall-e-9"}, openai.NotFoundError, "model_not_found", "model", "Allowed: tiny"),
        ({"quality": "hd"}, openai.BadRequestError, "request", "quality", "Allowed: 'auto', 'standard'. Give steps"),
        ({"style": "vivid"}, openai.BadRequestError, "request", "style", "Say it in the prompt"),
        ({"background": "transparent"}, openai.BadRequestError, "request", "background", "opaque"),
        ({"output_format": "jpeg"}, openai.BadRequestError, "request", "output_format", "signed credentials"),
        ({"moderation": "low"}, openai.BadRequestError, "request", "moderation", "'auto'"),
        ({"extra_body": {"sead": 1}}, openai.BadRequestError, "request", "sead", "Did you mean seed"),
        ({"extra_body": {"width": 64}}, openai.BadRequestError, "request", "width", "no such setting"),
        ({"extra_body": {"sampler": "eular"}}, openai.BadRequestError, "request", "sampler", "Did you mean euler"),
    ],
)
def test_what_cannot_be_done_is_an_error_of_the_client(
    client: openai.OpenAI,
    fields: dict[str, object],
    error: type[openai.APIStatusError],
    code: str,
    param: str,
    says: str,
) -> None:
    with pytest.raises(error) as caught:
        client.images.generate(**{"prompt": "a secret thing", **fields})  # type: ignore[call-overload]
    assert (caught.value.code, caught.value.param) == (code, param)
    assert caught.value.type == "invalid_request_error"
    assert says in caught.value.message and "secret" not in caught.value.message


@pytest.mark.parametrize(
    ("images", "code", "param"),
    [
        ({"image": [file(Image.new("RGB", (64, 64)))] * 2}, "request", "image"),
        ({"image": file(Image.new("RGB", (64, 64))), "mask": file(Image.new("RGB", (64, 64)))}, "request", "mask"),
        ({"image": file(Image.new("RGB", (64, 64))), "mask": file(Image.new("RGBA", (32, 64)))}, "request", "mask"),
        ({"image": ("picture.png", b"no picture", "image/png")}, "image", None),
    ],
)
def test_pictures_that_cannot_be_edited(
    client: openai.OpenAI, images: dict[str, object], code: str, param: str | None
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.edit(**images, prompt="x")  # type: ignore[call-overload]
    assert (caught.value.code, caught.value.param) == (code, param)


def test_other_routes_keep_problem_documents(served: Served) -> None:
    with served.client as plain:
        wrong = plain.post("/v1/images/generations", json={"prompt": 3})
        assert wrong.status_code == 400 and wrong.json().keys() == {"error"}
        assert plain.get("/v1/images/none").json()["title"] == "There is no such thing"


def test_who_goes_away_cancels(served: Served) -> None:
    with served.client as plain:
        before = states(served).count("cancelled")
        with pytest.raises(httpx.TimeoutException):
            plain.post(
                "/v1/images/generations", json={"prompt": "x", "n": 2, "steps": 150, "size": "256x256"}, timeout=1.0
            )
    until = time.monotonic() + 20
    while states(served).count("cancelled") < before + 2:
        assert time.monotonic() < until, states(served)
        time.sleep(0.1)


def test_a_cancelled_job_is_told_once(served: Served) -> None:
    """The client does not try again, as it would with its usual errors of this number."""
    caught: list[openai.APIStatusError] = []

    def ask() -> None:
        with (
            openai.OpenAI(base_url=f"{served.url}/v1", api_key="lk_any") as client,
            pytest.raises(openai.ConflictError) as one,
        ):
            client.images.generate(prompt="x", size="256x256", extra_body={"steps": 150})
        caught.append(one.value)

    thread = threading.Thread(target=ask)
    thread.start()
    until = time.monotonic() + 20
    with served.client as plain:
        while not (open_jobs := [job for job in plain.get("/v1/jobs").json()["jobs"] if job["state"] == "running"]):
            assert time.monotonic() < until
            time.sleep(0.05)
        plain.delete(f"/v1/jobs/{open_jobs[0]['id']}")
    thread.join(20)
    assert caught[0].code == "cancelled" and open_jobs[0]["id"] in caught[0].message


def test_a_full_queue_is_a_rate_limit(serve: Callable[..., Served]) -> None:
    small = serve("--no-auth", max_queued_each=1)
    with openai.OpenAI(base_url=f"{small.url}/v1", api_key="lk_any", max_retries=0) as client:
        with pytest.raises(openai.RateLimitError) as caught:
            client.images.generate(prompt="x", n=10, size="256x256", extra_body={"steps": 150})
        assert caught.value.code == "rate_limit_exceeded" and caught.value.response.headers["retry-after"] == "5"
    assert set(states(small)) == {"cancelled"}
