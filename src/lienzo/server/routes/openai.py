"""OpenAI's images API, for clients that speak it: they wait for the pictures, and get errors in that API's form.

What lienzo has beyond it (seed, steps, sampler ...) may be given too; OpenAI's own client sends it as `extra_body`. What cannot
be honoured is an error.
"""

import base64
import json
import re
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Final, Literal

from anyio import to_thread
from fastapi import APIRouter, Depends, Response
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile

from lienzo.errors import RequestError
from lienzo.images import png, transparency
from lienzo.pipeline.request import InputImage, Request
from lienzo.provenance.examine import see
from lienzo.server.access import Caller
from lienzo.server.clients import Harmless, complaints, ended, first_seed, series, submit, undone
from lienzo.server.desk import Allowed, Asked, At, Desk
from lienzo.server.desk import Route as Admitting
from lienzo.server.jobs import Job

OWN: Final = tuple(name for name in Request.model_fields if name not in ("prompt", "width", "height", "init", "mask"))
"""Fields of lienzo's that may be given besides."""
HARMLESS: Final[Mapping[str, Harmless]] = {
    "quality": (("auto", "standard"), "Give steps instead."),
    "style": ((), "Say it in the prompt."),
    "background": (("auto", "opaque"), "lienzo's pictures are opaque."),
    "moderation": (("auto",), "What is let through is the service's affair."),
    "output_format": (("png",), "Pictures are PNG files with signed credentials, which another file would not have."),
    "output_compression": ((100,), "Pictures are PNG files, and lose nothing."),
    "stream": ((False,), "For events as it is made, ask at /v1/jobs."),
    "partial_images": ((0,), "For previews, ask at /v1/jobs."),
    "input_fidelity": (("low",), "Give strength instead."),
}
"""`style` has no value that means nothing: its default, vivid, is a style."""
KINDS: Final = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
"""Of errors; others are invalid requests, or the server's."""
CODES: Final = {401: "invalid_api_key", 429: "rate_limit_exceeded"}
SIZE: Final = "^(auto|[0-9]{1,5}x[0-9]{1,5})$"


class Generation(BaseModel):
    """What is asked for. Besides these, OpenAI's other settings at values that ask for nothing particular, and lienzo's own."""

    model_config = ConfigDict(
        extra="allow", json_schema_extra={"example": {"prompt": "a red circle", "size": "512x512", "n": 2, "seed": 7}}
    )

    prompt: str
    model: str | None = Field(default=None, description="A name of /v1/models; the first one where not given.")
    n: int | None = Field(default=1, ge=1, le=10, description="Pictures; each has the next seed.")
    size: str | None = Field(default=None, pattern=SIZE, description="WIDTHxHEIGHT; auto is the model's own.")
    response_format: Literal["b64_json", "url"] | None = Field(
        default=None, description="b64_json where not given. A url needs the same key."
    )
    user: str | None = Field(default=None, description="Not looked at and not kept: who calls is known by the key.")
    safety_identifier: str | None = Field(default=None, description="As user.")

    def request(self, **inputs: InputImage) -> Request:
        """The first picture's.

        Raises:
            RequestError: a setting that is unknown, or cannot be honoured.
        """
        given = self.model_extra or {}
        own = {name: value for name, value in given.items() if name in OWN and value is not None}
        foreign = {name: value for name, value in given.items() if name not in OWN}
        if found := complaints(foreign, HARMLESS, (*type(self).model_fields, *HARMLESS, *OWN)):
            raise RequestError("\n".join(found))
        fields: dict[str, Any] = {"seed": first_seed(self.n or 1), **own, **inputs}
        if self.size is not None and self.size != "auto":
            fields["width"], fields["height"] = map(int, self.size.split("x"))
        return Asked(prompt=self.prompt, **fields)


class Picture(BaseModel):
    """A picture; which of the first two it has depends on the response_format."""

    b64_json: str | None = Field(default=None, description="The PNG file.")
    url: str | None = Field(default=None, description="Where it is; it needs the same key.")
    id: str = Field(description="Of its job; its receipt is at /v1/images/{id}/receipt.")
    seed: int
    warnings: tuple[str, ...]


class Pictures(BaseModel):
    created: int = Field(description="Seconds since 1970.")
    data: list[Picture]


class Error(BaseModel):
    message: str
    type: str
    code: str | None
    param: str | None


class Errors(BaseModel):
    error: Error


class Route(Admitting):
    """Tells errors as OpenAI's API does; they are those that the other routes tell as problem documents."""

    def get_route_handler(self) -> Callable[[HttpRequest], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def told(http: HttpRequest) -> Response:
            try:
                return await handle(http)
            except Exception as error:
                known = http.app.exception_handlers
                tell = next((known[one] for one in type(error).__mro__ if one in known), None)
                if tell is None:
                    raise
                answer = await tell(http, error)
                kept = {
                    name: answer.headers[name] for name in ("retry-after", "www-authenticate") if name in answer.headers
                }
                return as_error(json.loads(answer.body), kept)

        return told


router = APIRouter(
    prefix="/v1/images",
    tags=["pictures"],
    route_class=Route,
    responses={"default": {"model": Errors, "description": "What is wrong, as OpenAI tells it."}},
)
Creator = Annotated[Caller, Depends(Allowed("jobs:create"))]


def as_error(document: Mapping[str, Any], headers: Mapping[str, str]) -> JSONResponse:
    """A problem document in OpenAI's form. What is 422 elsewhere is 400 there, and a model that there is not 404."""
    status, detail = document["status"], document["detail"]
    found = re.match(r"(?:body\.)?(\w+(?:\[\])?): ", detail)
    kind = None if document["type"] == "about:blank" else document["type"].rpartition(":")[2]
    error = Error(
        message=detail.removeprefix("body."),
        type=KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error"),
        code=CODES.get(status, kind),
        param=found[1] if found else None,
    )
    if status == 422:
        status = 400
    if kind == "request" and error.param == "model":
        status, error.code = 404, "model_not_found"
    if kind == "blocked":
        error.type, error.code = "image_generation_user_error", "moderation_blocked"
    return JSONResponse(Errors(error=error).model_dump(), status_code=status, headers=dict(headers))


@router.post("/generations", response_model=Pictures, response_model_exclude_none=True)
async def generations(at: At, caller: Creator, http: HttpRequest, asked: Generation) -> Response | Pictures:
    """Pictures from words. Answers when all are there; who goes away earlier cancels what is not."""
    return await _made(at, caller, http, asked, await to_thread.run_sync(asked.request))


@router.post(
    "/edits",
    response_model=Pictures,
    response_model_exclude_none=True,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "required": ["image", "prompt"],
                        "properties": {
                            "image": {"type": "string", "format": "binary"},
                            "mask": {"type": "string", "format": "binary"},
                            **{name: {"type": "string"} for name in Generation.model_fields},
                        },
                    }
                }
            },
        }
    },
)
async def edits(at: At, caller: Creator, http: HttpRequest) -> Response | Pictures:
    """A picture anew: whole, or where the mask, or the picture itself without one, is transparent. The fields are those of
    generations."""
    async with http.form(max_files=4, max_fields=100) as form:
        files = {"image": list[bytes](), "mask": list[bytes]()}
        fields: dict[str, Any] = {}
        for name, value in form.multi_items():
            name = name.removesuffix("[]")
            if not isinstance(value, UploadFile):
                fields[name] = value
            elif name in files:
                files[name].append(await value.read())
            else:
                raise RequestError(f"{name[:50]}: got a file. Allowed: {' and '.join(files)}.")
    try:
        asked = Generation.model_validate(fields)
    except ValidationError as error:
        raise RequestValidationError([{**one, "loc": ("body", *one["loc"])} for one in error.errors()]) from None
    for name, least in (("image", 1), ("mask", 0)):
        if not least <= len(files[name]) <= 1:
            raise RequestError(f"{name}: got {len(files[name])} files. Give one, as multipart/form-data.")
    inputs = await to_thread.run_sync(partial(_inputs, at, caller, files["image"][0], *files["mask"]))
    return await _made(at, caller, http, asked, await to_thread.run_sync(partial(asked.request, **inputs)))


def _inputs(at: Desk, caller: Caller, image: bytes, mask: bytes | None = None) -> dict[str, InputImage]:
    """
    Raises:
        ImageError, RequestError: unreadable, too large, or a mask that has no transparency or not the picture's size.
    """
    found = {"init": at.pictures.add_input(caller.tenant, image)}
    if mask is not None:
        see(mask, "mask", most=at.service.max_pixels)  # whether it can be read within bounds
    seen = transparency(image if mask is None else mask, "image" if mask is None else "mask")
    if seen is None and mask is not None:
        raise RequestError("mask: is opaque throughout. Make it transparent where the picture is to be painted anew.")
    if seen is not None:
        if seen.size != (found["init"].width, found["init"].height):
            raise RequestError(
                f"mask: got {seen.width}x{seen.height}; the picture has {found['init'].width}x{found['init'].height}. "
                "Give one of the same size."
            )
        found["mask"] = at.pictures.add_input(caller.tenant, png(seen))
    return found


async def _made(at: Desk, caller: Caller, http: HttpRequest, asked: Generation, first: Request) -> Response | Pictures:
    requests = series(first, asked.n or 1)
    jobs = await to_thread.run_sync(partial(submit, at, caller, requests, model=asked.model))
    known = await ended(at, http, caller, jobs)
    if known[-1].state != "done":
        # The service has tried again already what may pass; the client need not.
        return as_error(undone(known[-1]), {"x-should-retry": "false"})

    def told(job: Job, request: Request) -> Picture:
        assert job.picture is not None
        where = (
            {"url": str(http.url_for("picture", id=job.id))}
            if asked.response_format == "url"
            else {"b64_json": base64.b64encode(at.pictures.read(job.picture)).decode()}
        )
        return Picture(id=job.id, seed=request.seed, warnings=job.warnings, **where)

    def all_told(jobs: Sequence[Job]) -> list[Picture]:
        return [told(*one) for one in zip(jobs, requests, strict=True)]

    return Pictures(created=int(time.time()), data=await to_thread.run_sync(all_told, known))
