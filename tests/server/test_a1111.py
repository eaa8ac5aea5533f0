"""A client of AUTOMATIC1111's API, unchanged but for the address, and the bodies that others send."""

import base64
import io
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import webuiapi
from PIL import Image

from lienzo import Request
from lienzo.diffusion.grids import GRIDS
from lienzo.errors import RequestError
from lienzo.provenance.infotext import SAMPLER_NAMES, SCHEDULE_NAMES
from lienzo.server.routes.a1111 import read_loras, read_sampler
from server.conftest import Served

QUICK = {"steps": 2, "width": 64, "height": 64}


@pytest.fixture
def client(served: Served) -> Iterator[webuiapi.WebUIApi]:
    made = webuiapi.WebUIApi(baseurl=f"{served.url}/sdapi/v1")
    yield made
    made.session.close()


def post(served: Served, path: str, **body: object) -> httpx.Response:
    with served.client as plain:
        return plain.post(f"/sdapi/v1/{path}", json=body)


def base64_png(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def job(served: Served, id: str) -> dict[str, Any]:
    with served.client as plain:
        return plain.get(f"/v1/jobs/{id}").json()  # type: ignore[no-any-return]


def test_pictures_as_the_service_makes_them(client: webuiapi.WebUIApi, served: Served) -> None:
    made = client.txt2img(
        prompt="a red circle",
        negative_prompt="blue",
        seed=7,
        sampler_name="DPM++ 2M Karras",
        n_iter=2,
        cfg_scale=5,
        **QUICK,
    )
    assert made.info["all_seeds"] == [7, 8] and made.info["seed"] == 7
    assert made.info["infotexts"][0].startswith(
        "a red circle\nNegative prompt: blue\nSteps: 2, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 5, Seed: 7, "
        "Size: 64x64, Model hash: "
    )
    assert made.parameters["prompt"] == "a red circle" and made.info["warnings"] == []
    fields = {"negative_prompt": "blue", "sampler": "dpmpp_2m", "grid": "karras", "guidance_scale": 5}
    for seed, picture in zip((7, 8), made.images, strict=True):
        same = served.ended(served.ask("a red circle", seed=seed, **fields)["id"])
        with served.client as plain:
            assert np.array_equal(picture, Image.open(io.BytesIO(plain.get(same["image"]).content)))


def test_what_there_is(client: webuiapi.WebUIApi) -> None:
    assert client.util_get_model_names() == ["tiny"] and client.util_get_current_model() == "tiny"
    assert {"Euler a", "DPM++ 2M", "UniPC"} <= set(client.util_get_sampler_names())
    assert {"automatic", "karras", "ays"} <= set(client.util_get_scheduler_names())
    assert client.get_loras() == [] and client.get_scripts() == {"txt2img": [], "img2img": []}
    ram = client.get_memory()["ram"]
    assert ram["free"] + ram["used"] == ram["total"] > 0
    client.util_set_model("tiny")
    client.util_wait_for_ready()


def test_every_name_that_is_told_is_understood(client: webuiapi.WebUIApi) -> None:
    for sampler in client.get_samplers():
        assert read_sampler(sampler["name"], "automatic") == (sampler["aliases"][0], None)
    for scheduler in client.get_schedulers():
        grid = None if scheduler["name"] == "automatic" else scheduler["name"]
        assert read_sampler(None, scheduler["name"]) == read_sampler(None, scheduler["label"]) == (None, grid)


def test_options_are_nobodys_to_change(served: Served) -> None:
    answer = post(served, "options", sd_model_checkpoint="other")
    assert answer.status_code == 422 and "override_settings" in answer.json()["detail"]
    answer = post(served, "txt2img", override_settings={"sd_model_checkpoint": "other"}, **QUICK)
    assert answer.status_code == 422 and "Allowed: tiny" in answer.json()["detail"]
    answer = post(
        served,
        "txt2img",
        seed=1,
        override_settings={"sd_model_checkpoint": "tiny", "CLIP_stop_at_last_layers": 2},
        **QUICK,
    )
    assert json.loads(answer.json()["info"])["clip_skip"] == 2


def test_a_picture_to_start_from(client: webuiapi.WebUIApi, served: Served) -> None:
    made = client.img2img(
        images=[Image.new("RGB", (64, 64), "navy")], prompt="a circle", denoising_strength=0.5, **QUICK
    )
    asked = job(served, made.info["jobs"][0])["request"]
    assert asked["strength"] == 0.5 and "mask" not in asked and made.image.size == (64, 64)
    assert made.parameters.keys().isdisjoint({"init_images", "mask"})


def test_a_mask_as_clients_send_it_by_default(client: webuiapi.WebUIApi) -> None:
    left = Image.new("L", (64, 64), 255)
    made = client.img2img(images=[Image.new("RGB", (64, 64), "navy")], mask_image=left, **QUICK)
    assert made.image.size == (64, 64)
    assert [warning.split(":")[0] for warning in made.info["warnings"]] == ["inpainting_fill", "inpaint_full_res"]


@pytest.mark.parametrize("inverted", [0, 1])
def test_a_mask(client: webuiapi.WebUIApi, served: Served, inverted: int) -> None:
    """White where to paint anew, or inverted; without blur it is split at one half, with it the edge is soft."""
    left = Image.new("L", (64, 64))
    left.paste(255, (0, 0, 32, 64))
    sharp = {"mask_blur": 0, "inpainting_fill": 1, "inpaint_full_res": False}
    made = client.img2img(
        images=[Image.new("RGB", (64, 64), "navy")], mask_image=left, inpainting_mask_invert=inverted, **sharp, **QUICK
    )
    asked = job(served, made.info["jobs"][0])["request"]
    with served.client as plain:
        area = left.point(lambda level: 255 - level) if inverted else left
        assert asked["mask"] == plain.post("/v1/inputs", files={"picture": base64.b64decode(base64_png(area))}).json()
    assert not asked["soft_mask"]
    body = {"init_images": [base64_png(left)], "mask": base64_png(left), "seed": 1, **QUICK}
    soft = json.loads(post(served, "img2img", **body).json()["info"])["jobs"][0]
    assert job(served, soft)["request"]["soft_mask"] and job(served, soft)["request"]["mask"] != asked["mask"]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"enable_hr": True}, ["enable_hr: got 'True'. Allowed: False."]),
        ({"tiling": True, "restore_faces": True}, ["tiling: ", "restore_faces: "]),
        ({"subseed_strength": 0.1}, ["subseed_strength: got '0.1'. Allowed: 0."]),
        ({"alwayson_scripts": {"ControlNet": {"args": [{"enabled": True}]}}}, ["alwayson_scripts: "]),
        ({"tilling": True}, ["tilling: there is no such setting here. Did you mean tiling"]),
        ({"sampler_name": "DPM2 a Karras"}, ["sampler_name: got 'DPM2 a Karras'."]),
        ({"sampler_name": "Euler a", "scheduler": "Beta"}, ["scheduler: got 'Beta'.", "Karras"]),
        ({"sampler_name": "DPM++ 2M Karras", "scheduler": "Exponential"}, ["Give one of the two"]),
        ({"sampler_name": "Euler a", "eta": 0.5}, ["eta: got 0.5. Allowed for Euler a: 1"]),
        ({"override_settings": {"sd_vae": "x"}}, ["override_settings.sd_vae: got 'x'. Allowed: 'Automatic', 'None'."]),
        ({"override_settings": {"CLIP_stop_at_last_layers": "2"}}, ["give a whole number from 1"]),
        ({"override_settings": {"sd_model_checkpoint": 3}}, ["give a name of sd-models"]),
        ({"prompt": "<lora:none:0.8> x"}, ["lora: got 'none'."]),
        ({"prompt": "<hypernet:none:0.8> x"}, ["Allowed: <lora:NAME:WEIGHT>"]),
        ({"n_iter": 20, "batch_size": 20}, ["n_iter: got 400 pictures; at most 100"]),
        ({"width": 65}, ["width: got 65"]),
        ({"steps": "many"}, ["body.steps"]),
    ],
)
def test_what_cannot_be_done_is_said(served: Served, fields: dict[str, object], says: list[str]) -> None:
    answer = post(served, "txt2img", **{"sampler_name": "Euler", **QUICK, **fields})
    assert answer.status_code == 422 and answer.headers["content-type"] == "application/problem+json"
    assert all(one in answer.json()["detail"] for one in says), answer.json()["detail"]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, "init_images"),
        ({"init_images": ["https://example.org/a.png"]}, "URLs are not fetched"),
        ({"init_images": ["AAAA"]}, "not a picture"),
        ({"init_images": ["AAAA", "AAAA"]}, "init_images"),
        ({"init_images": ["AAAA"], "resize_mode": 1}, "resize_mode: got '1'"),
        ({"init_images": ["AAAA"], "mask": "AAAA", "inpainting_fill": 2}, "inpainting_fill: got '2'"),
    ],
)
def test_pictures_that_cannot_be_started_from(served: Served, fields: dict[str, object], says: str) -> None:
    answer = post(served, "img2img", **QUICK, **fields)
    assert answer.status_code == 422 and says in answer.json()["detail"]


def test_brackets_are_told_to_do_nothing(served: Served) -> None:
    answer = post(served, "txt2img", prompt="a (red:1.3) circle", seed=1, send_images=False, **QUICK).json()
    assert answer["images"] == []
    assert any("Brackets" in warning for warning in json.loads(answer["info"])["warnings"])


def test_progress_and_interrupt(client: webuiapi.WebUIApi, served: Served) -> None:
    found: list[webuiapi.WebUIApiResult] = []
    slow = {"prompt": "x", "width": 256, "height": 256, "steps": 150, "n_iter": 2}
    thread = threading.Thread(target=lambda: found.append(client.txt2img(**slow)))
    thread.start()
    until = time.monotonic() + 30
    with served.client as plain:
        while not (told := plain.get("/sdapi/v1/progress").json())["state"]["sampling_step"]:
            assert time.monotonic() < until
            time.sleep(0.05)
        assert told["state"]["job_count"] == 2 and told["state"]["sampling_steps"] == 150
        assert 0 < told["progress"] < 1 and told["eta_relative"] > 0
        assert plain.post("/sdapi/v1/interrupt").json() == {}
        thread.join(30)
        assert plain.get("/sdapi/v1/progress").json()["state"]["job_count"] == 0
    assert found[0].images == [] and found[0].info["all_seeds"] == []


def test_a_picture_tells_how_it_was_made(client: webuiapi.WebUIApi, served: Served) -> None:
    private = client.txt2img(prompt="a secret", seed=1, **QUICK)
    assert client.png_info(private.image).info == ""
    picture = Image.new("RGB", (8, 8))
    picture.info["parameters"] = "a circle\nSteps: 20, Sampler: Euler a, Size: 512x768"
    told = client.png_info(picture)
    assert told.info == picture.info["parameters"]
    assert told.parameters["Sampler"] == "Euler a" and told.parameters["Size-2"] == "768"
    assert post(served, "png-info", image="AAAA").status_code == 422


def test_loras_are_read_from_the_prompt() -> None:
    assert read_loras("a <lora:one:0.5> red <lora:two> circle") == ("a  red  circle", (("one", 0.5), ("two", 1.0)))
    assert read_loras("a circle <lora:one:-1:-1>") == ("a circle", (("one", -1.0),))
    assert read_loras(" as it is ") == (" as it is ", ())
    for wrong in ("<lora:one:x>", "<lora:one:1:0>", "<lora:one><lora:one>"):
        with pytest.raises(RequestError, match="<lora:NAME:WEIGHT>"):
            read_loras(wrong)


@pytest.mark.parametrize("schedule", [None, *SCHEDULE_NAMES])
@pytest.mark.parametrize("sampler", SAMPLER_NAMES)
def test_samplers_by_all_their_names(sampler: str, schedule: str | None) -> None:
    label = SAMPLER_NAMES[sampler]
    if schedule is None:
        assert read_sampler(label.upper(), "") == read_sampler(f"k_{sampler}", "Automatic") == (sampler, None)
    else:
        both = f"{label} {SCHEDULE_NAMES[schedule]}"
        assert (
            read_sampler(both, "Automatic")
            == read_sampler(label, SCHEDULE_NAMES[schedule].lower())
            == (sampler, schedule)
        )
        assert read_sampler(both, schedule) == (sampler, schedule)
    Request("x", sampler=sampler, grid=schedule)
    assert schedule is None or schedule in GRIDS
