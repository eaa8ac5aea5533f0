"""What the page's buttons do: what the REST routes do, in process, told in words and pictures."""

import logging
import traceback
from asyncio import sleep
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

import gradio as gr
from anyio import to_thread

from lienzo.errors import LienzoError, RecordError, RequestError
from lienzo.pipeline.request import Request
from lienzo.provenance.examine import see
from lienzo.rng import SEED_LIMIT, new_seed
from lienzo.server.access import Caller, Permission
from lienzo.server.desk import Asked, Desk
from lienzo.server.jobs import Job
from lienzo.server.page import shown
from lienzo.server.page.controls import mask
from lienzo.server.page.texts import Texts
from lienzo.server.routes.verify import detected, verified

T = TypeVar("T")

LOG = logging.getLogger("lienzo.server")
LOOK: Final = 0.25
"""Seconds between looks at a job that is being made."""
LATEST: Final = 24
"""Pictures in the gallery."""
VARIATION: Final = 0.6
"""Strength of "vary from this picture": the composition stays, the rest does not."""


class Form(NamedTuple):
    """What the form's controls hold, in the order of the layout; the weights of LoRAs follow."""

    prompt: str
    negative: str
    model: str
    sampler: str
    steps: float | None
    guidance: float | None
    seed: str
    size: str
    number: float | None
    init: bytes | None
    strength: float | None
    drawing: tuple[bytes, ...] | None


class Told(NamedTuple):
    """What an action changes on the page; what it does not mention stays.

    Attributes:
        running: ids of jobs that Cancel would cancel; chosen: of the picture whose details are shown; last: the seed last used.
    """

    status: Any = gr.skip()
    progress: Any = gr.skip()
    gallery: Any = gr.skip()
    details: Any = gr.skip()
    running: Any = gr.skip()
    chosen: Any = gr.skip()
    last: Any = gr.skip()
    cancel: Any = gr.skip()


class Actions:
    """Of the page in one language."""

    def __init__(self, desk: Desk, texts: Texts) -> None:
        self._desk, self._texts = desk, texts

    # Pictures

    async def generate(self, http: gr.Request, *given: Any) -> AsyncIterator[Told]:
        def asked(caller: Caller) -> list[Job]:
            form, weights = Form(*given[: len(Form._fields)]), given[len(Form._fields) :]
            loras = tuple((n, w) for n, w in zip(self._desk.service.lora_sources, weights, strict=True) if w)
            requests = self._requests(form, caller)
            return [self._desk.submit(one, caller, model=form.model, loras=loras)[0] for one in requests]

        async for told in self._made(http, asked):
            yield told

    async def again(self, http: gr.Request, chosen: str | None) -> AsyncIterator[Told]:
        """The same once more."""
        async for told in self._made(http, lambda caller: [self._once_more(caller, chosen, lambda request: request)]):
            yield told

    async def vary(self, http: gr.Request, chosen: str | None) -> AsyncIterator[Told]:
        """The same with another seed."""

        def other(request: Request) -> Request:
            return request.replace(seed=new_seed())

        async for told in self._made(http, lambda caller: [self._once_more(caller, chosen, other)]):
            yield told

    async def vary_from(self, http: gr.Request, chosen: str | None) -> AsyncIterator[Told]:
        """The same words and another seed, from this picture on."""

        def asked(caller: Caller) -> list[Job]:
            picture = self._desk.pictures.add_input(caller.tenant, self._file(self._job(caller, chosen)))

            def other(request: Request) -> Request:
                return request.replace(seed=new_seed(), init=picture, mask=None, soft_mask=False, strength=VARIATION)

            return [self._once_more(caller, chosen, other)]

        async for told in self._made(http, asked):
            yield told

    async def cancel(self, http: gr.Request, running: Sequence[str]) -> str:
        """Cancel what this page asked for."""

        def cancelled(caller: Caller) -> str:
            for id_ in running:
                self._desk.queue.cancel(id_, caller.tenant)
            return shown.note(self._texts.states["cancelled"] + "." if running else self._texts.nothing_runs)

        return await self._told(http, "jobs:cancel", cancelled)

    async def opened(self, http: gr.Request) -> Told:
        """What the page shows when it is opened."""
        return await self._changed(
            http, lambda caller: Told(gallery=self._gallery(caller, None), details=shown.note(self._texts.choose))
        )

    async def choose(self, http: gr.Request, event: gr.EventData) -> Told:
        """Show one picture of the gallery."""

        def chosen(caller: Caller) -> Told:
            job = self._job(caller, str(event._data.get("id")))
            return Told(
                gallery=self._gallery(caller, job.id),
                details=shown.details(self._texts, job, self._desk.queue.request(job)),
                chosen=job.id,
                status="",
            )

        return await self._changed(http, chosen)

    async def start_from(self, http: gr.Request, chosen: str | None) -> tuple[Any, Any, str]:
        """Put a finished picture where one to start from goes: itself, what may be drawn upon, a message."""
        try:
            data = await self._call(http, "images:read", lambda caller: self._file(self._job(caller, chosen)))
        except Exception as error:
            return gr.skip(), gr.skip(), self._failed(error)
        return data, *await self.started(data)

    async def started(self, data: bytes | None) -> tuple[Any, str]:
        """Something to draw upon, once there is a picture to start from."""
        if data is None:
            return gr.update(value=None, visible=False), ""
        try:
            picture = await to_thread.run_sync(partial(see, data, most=self._desk.service.max_pixels))
        except LienzoError as error:
            return gr.update(value=None, visible=False), self._failed(error)
        return gr.update(value={"background": picture, "layers": [], "composite": None}, visible=True), ""

    # Verdicts

    async def verify(self, http: gr.Request, data: bytes | None) -> str:
        return await self._judged(
            http, data, lambda caller, found: shown.verdict(self._texts, verified(self._desk, caller, found))
        )

    async def detect(self, http: gr.Request, data: bytes | None) -> str:
        return await self._judged(
            http, data, lambda caller, found: shown.finding(self._texts, detected(self._desk, caller, found))
        )

    async def _judged(self, http: gr.Request, data: bytes | None, judge: Callable[[Caller, bytes], str]) -> str:
        if data is None:
            return ""
        return await self._told(http, "verify", lambda caller: judge(caller, data))

    # Within

    def _requests(self, form: Form, caller: Caller) -> list[Request]:
        """What is asked for, one request a picture."""
        texts = self._texts
        numbers = ((texts.steps, form.steps), (texts.guidance, form.guidance), (texts.count, form.number))
        for name, value in numbers:
            if value is None:
                raise RequestError(texts.no_number.format(name=name))
        first = _seed(form.seed, texts)
        asked: dict[str, Any] = {
            "prompt": form.prompt,
            "negative_prompt": form.negative,
            "steps": form.steps,
            "guidance_scale": form.guidance,
            **_size(form.size, texts),
        }
        if form.sampler != texts.as_model:
            asked["sampler"] = form.sampler
        if form.init is not None:
            init = self._desk.pictures.add_input(caller.tenant, form.init)
            asked.update(init=init, strength=form.strength)
            drawn = mask(form.drawing or (), (init.width, init.height))
            if drawn is not None:
                asked["mask"] = self._desk.pictures.add_input(caller.tenant, drawn)
        seeds = [(first + i) % SEED_LIMIT for i in range(int(form.number or 1))]
        return [Asked(**asked, seed=seed) for seed in seeds]

    def _once_more(self, caller: Caller, chosen: str | None, change: Callable[[Request], Request]) -> Job:
        job = self._job(caller, chosen)
        request = change(self._desk.queue.request(job))
        return self._desk.submit(request, caller, model=job.model, loras=job.loras)[0]

    def _job(self, caller: Caller, id_: str | None) -> Job:
        """A picture of the caller's."""
        if id_ is None:
            raise RequestError(self._texts.choose_first)
        return self._desk.queue.get(id_, caller.tenant)

    def _file(self, job: Job) -> bytes:
        if job.picture is None:
            raise RecordError(self._texts.choose_first)
        return self._desk.pictures.read(job.picture)

    def _gallery(self, caller: Caller, chosen: str | None) -> str:
        jobs = self._desk.queue.latest(caller.tenant, owner=caller.name, limit=2 * LATEST)
        own = [job for job in jobs if job.state == "done"][:LATEST]
        return shown.gallery(self._texts, [(job, self._desk.queue.request(job)) for job in own], chosen)

    async def _made(self, http: gr.Request, ask: Callable[[Caller], list[Job]]) -> AsyncIterator[Told]:
        """Ask for pictures, and tell how far they are until all have ended. Who leaves the page meanwhile finds them there
        when coming back."""
        try:
            yield Told(status=shown.note(self._texts.submitting), progress="")
            caller, jobs = await self._call(http, "jobs:create", lambda caller: (caller, ask(caller)))
            async for told in self._watched(caller, [job.id for job in jobs]):
                yield told
        except Exception as error:
            yield Told(status=self._failed(error), progress="", running=(), cancel=gr.update(interactive=False))

    async def _watched(self, caller: Caller, ids: Sequence[str]) -> AsyncIterator[Told]:
        """Who was let in is let watch to the end: looks count against nobody's rate."""
        finished, told = 0, ""
        while True:
            jobs, ahead = await to_thread.run_sync(self._look, caller, ids)
            seen = Told()
            if (count := sum(job.state == "done" for job in jobs)) > finished:
                finished, seen = count, await to_thread.run_sync(self._latest, caller, jobs)
            status = shown.status(self._texts, jobs)
            is_open = any(job.is_open for job in jobs)
            yield seen._replace(
                status=status if status != told else gr.skip(),
                progress=shown.progress(self._texts, jobs, ahead),
                running=tuple(job.id for job in jobs if job.is_open),
                cancel=gr.update(interactive=is_open),
            )
            told = status
            if not is_open:
                return
            await sleep(LOOK)

    def _look(self, caller: Caller, ids: Sequence[str]) -> tuple[list[Job], int | None]:
        """The jobs as they are, and how many wait before the first that is open."""
        jobs = [self._desk.queue.get(id_, caller.tenant) for id_ in ids]
        first = next((job for job in jobs if job.is_open), None)
        return jobs, self._desk.queue.ahead(first) if first is not None and first.state == "queued" else None

    def _latest(self, caller: Caller, jobs: Sequence[Job]) -> Told:
        """The last one that is done."""
        job = next(job for job in reversed(jobs) if job.state == "done")
        return Told(
            gallery=self._gallery(caller, job.id),
            details=shown.details(self._texts, job, self._desk.queue.request(job)),
            chosen=job.id,
            last=self._desk.queue.request(jobs[0]).seed,
        )

    async def _changed(self, http: gr.Request, look: Callable[[Caller], Told]) -> Told:
        try:
            return await self._call(http, "images:read", look)
        except Exception as error:
            return Told(status=self._failed(error))

    async def _told(self, http: gr.Request, permission: Permission, act: Callable[[Caller], str]) -> str:
        try:
            return await self._call(http, permission, act)
        except Exception as error:
            return self._failed(error)

    async def _call(self, http: gr.Request, permission: Permission, act: Callable[[Caller], T]) -> T:
        """Do something on behalf of whoever uses the page, if it may."""
        request = http.request
        assert request is not None

        def admitted() -> T:
            return act(self._desk.gate.admit(request.headers, request.cookies, permission))

        return await to_thread.run_sync(admitted)

    def _failed(self, error: Exception) -> str:
        if not isinstance(error, LienzoError):  # without its own words, which may hold a prompt
            LOG.error("page: %s\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
        return shown.failure(self._texts, error)


def _seed(text: str, texts: Texts) -> int:
    """As typed; random where nothing is. What it may be, the request says."""
    try:
        return int(text) if text.strip() else new_seed()
    except ValueError:
        raise RequestError(texts.bad_seed.format(got=text[:40])) from None


def _size(text: str, texts: Texts) -> dict[str, int]:
    """Width and height; nothing where the model's own is wanted."""
    if text in ("", texts.as_model):
        return {}
    width, _, height = text.lower().replace("×", "x").partition("x")
    try:
        return {"width": int(width), "height": int(height)}
    except ValueError:
        raise RequestError(texts.bad_size.format(got=text[:40])) from None
