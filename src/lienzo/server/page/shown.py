"""Results as HTML. Whatever comes from outside is escaped here."""

import base64
import json
from collections.abc import Sequence
from html import escape
from typing import Any

from lienzo.errors import LienzoError
from lienzo.pipeline.request import Request
from lienzo.server.jobs import Job
from lienzo.server.page.texts import Texts
from lienzo.server.problems import problem_of
from lienzo.server.routes.verify import FindingDocument, VerdictDocument

SIGNS = {"holds": "✓", "fails": "✗", "absent": "–", "unknown": "?"}


def failure(texts: Texts, error: Exception) -> str:
    """What went wrong. Of errors that are not lienzo's own nothing is told: they may hold a prompt."""
    if not isinstance(error, LienzoError):
        return alert(texts.fault)
    # lienzo's own messages are English, and are said to be
    english = f'<span lang="en">{escape(problem_of(error)["detail"])}</span>'
    return f'<p class="lz-error" role="alert">{escape(texts.failed)} {english}</p>'


def alert(message: str) -> str:
    return f'<p class="lz-error" role="alert">{escape(message)}</p>'


def note(message: str) -> str:
    return f'<p class="lz-note">{escape(message)}</p>'


def status(texts: Texts, jobs: Sequence[Job]) -> str:
    """In words, one sentence, changed only when something happens, so that it may be read aloud."""
    for job in jobs:
        if job.problem is not None:
            detail = f'<span lang="en">{escape(str(job.problem.get("detail", "")))}</span>'
            return f'<p class="lz-error" role="alert">{escape(texts.states[job.state])}. {detail}</p>'
    running = [job for job in jobs if job.is_open]
    if running:
        return _said(f"{texts.states[running[0].state]} …")
    done = sum(job.state == "done" for job in jobs)
    if done == 0 and jobs:
        return _said(f"{texts.states[jobs[0].state]}.")
    return _said(texts.finished.format(done=done, of=len(jobs)))


def _said(message: str) -> str:
    return f'<p class="lz-note" role="status">{escape(message)}</p>'


def progress(texts: Texts, jobs: Sequence[Job], ahead: int | None) -> str:
    """How far it is, with the latest preview; nothing where nothing runs."""
    number, job = next(((i, job) for i, job in enumerate(jobs, 1) if job.is_open), (0, None))
    if job is None:
        return ""
    words = texts.step.format(number=number, of=len(jobs), step=job.step, steps=job.steps)
    if ahead:
        words += " · " + texts.ahead.format(ahead=ahead)
    if job.seconds_left is not None:
        words += " · " + texts.seconds.format(seconds=max(1, round(job.seconds_left)))
    steps = sum(one.steps for one in jobs)
    made = sum(one.step if one.is_open else one.steps for one in jobs)
    preview = ""
    if job.preview is not None:
        data = base64.b64encode(job.preview).decode()
        preview = f'<img class="lz-preview" alt="{escape(texts.preview)}" src="data:image/png;base64,{data}">'
    return (
        f'<div class="lz-progress"><progress max="{steps}" value="{made}" aria-label="{escape(texts.progress)}"></progress>'
        f"<p>{escape(words)}</p>{preview}</div>"
    )


def gallery(texts: Texts, pictures: Sequence[tuple[Job, Request]], chosen: str | None) -> str:
    """Finished pictures as buttons; the files shown are the signed ones themselves."""
    if not pictures:
        return note(texts.none_yet)
    items = []
    for number, (job, request) in enumerate(pictures, 1):
        name = texts.picture.format(number=number, seed=request.seed, prompt=request.prompt)
        items.append(
            f'<li><button type="button" data-id="{job.id}" aria-pressed="{str(job.id == chosen).lower()}" '
            f'aria-label="{escape(name)}"><img src="/v1/images/{job.id}" alt="" loading="lazy"></button></li>'
        )
    return f'<ul class="lz-gallery" aria-label="{escape(texts.pictures)}">{"".join(items)}</ul>'


def details(texts: Texts, job: Job, request: Request) -> str:
    """One picture: large, with what was asked for, its receipt, and the file itself."""
    rows: list[tuple[str, Any]] = [(texts.model, job.model)]
    rows += [(texts.lora.format(name=name), f"{weight:g}") for name, weight in job.loras]
    told = json.loads(request.canonical)
    labels = {
        "prompt": texts.prompt, "negative_prompt": texts.negative, "sampler": texts.sampler, "steps": texts.steps,
        "guidance_scale": texts.guidance, "seed": texts.seed, "strength": texts.strength,
    }  # fmt: skip
    rows += [(label, told.pop(name)) for name, label in labels.items() if name in told]
    if request.width is not None:
        rows.append((texts.size, f"{told.pop('width')}x{told.pop('height', '')}"))
    rows += [(texts.init if name == "init" else texts.mask, f"SHA-256 {told.pop(name)['sha256'][:16]}…")
             for name in ("init", "mask") if name in told]  # fmt: skip
    rows += [(name, value) for name, value in told.items() if value not in (0, False)]
    if job.started is not None and job.finished is not None:
        rows.append((texts.seconds_taken, f"{job.finished - job.started:.1f} s"))
    if job.warnings:
        rows.append((texts.warnings, " ".join(job.warnings)))
    url = f"/v1/images/{job.id}"
    table = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(str(value))}</td></tr>'
        for name, value in rows
        if value != ""
    )
    receipt = escape(json.dumps(job.receipt, indent=2, ensure_ascii=False))
    return (
        f'<div class="lz-details" data-shown="{job.id}"><a href="{url}" target="_blank" rel="noopener">'
        f'<img src="{url}" alt="{escape(request.prompt) or escape(texts.chosen)}"></a>'
        f"<div><table><caption>{escape(texts.request)}</caption><tbody>{table}</tbody></table>"
        f'<p><a class="lz-download" href="{url}" download="lienzo-{job.id}.png">{escape(texts.download)}</a></p></div>'
        f"<details><summary>{escape(texts.receipt_open)}</summary>"
        f'<pre tabindex="0" aria-label="{escape(texts.receipt)}">{receipt}</pre></details></div>'
    )


def verdict(texts: Texts, found: VerdictDocument) -> str:
    """What a picture proves: headline, sentence, and every layer."""
    rows = []
    for layer in found.layers:
        title, what = texts.layers[layer.name]
        rows.append(
            f'<tr class="lz-{layer.state}"><th scope="row">{escape(title)}<small>{escape(what)}</small></th>'
            f'<td><span aria-hidden="true">{SIGNS[layer.state]}</span> {escape(texts.layer_states[layer.state])}</td>'
            f'<td lang="en">{escape(layer.says)}</td></tr>'
        )
    return (
        f'<div role="status" class="lz-verdict" data-outcome="{escape(found.outcome)}">'
        f"<h3>{escape(texts.outcomes[found.outcome])}</h3>"
        f'<p lang="en">{escape(found.says)}</p></div><table class="lz-layers"><tbody>{"".join(rows)}</tbody></table>'
    )


def finding(texts: Texts, found: FindingDocument) -> str:
    ratio = "" if found.likelihood_ratio is None else note(f"{texts.ratio}: {found.likelihood_ratio:.2g}")
    return (
        f'<div role="status" class="lz-verdict" data-outcome="{escape(found.verdict)}">'
        f"<h3>{escape(texts.verdicts[found.verdict])}</h3>"
        f'<p lang="en">{escape(found.means)}</p></div>{ratio}{note(f"{texts.model}: {found.model}")}'
    )
