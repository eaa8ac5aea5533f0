"""The page in real Chromium, over a real service with a tiny model."""

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from PIL import Image, ImageDraw
from playwright.sync_api import Browser, Locator, Playwright, expect, sync_playwright

from server.conftest import Served

CHROMIUM = Path("/usr/bin/chromium")
PATIENCE = 60_000
"""Milliseconds; on a busy machine a worker takes its time to begin."""
expect.set_options(timeout=PATIENCE)
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason="needs /usr/bin/chromium (Debian's package chromium)")
LABELLED = ("textbox", "spinbutton", "slider", "combobox", "checkbox", "button", "tab", "link")
"""Roles (WAI-ARIA) that need an accessible name."""


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as running:
        yield running


@pytest.fixture(scope="module")
def chromium(playwright: Playwright) -> Iterator[Browser]:
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
    yield browser
    browser.close()


class Visit:
    """An open page, with what the browser asked for and complained about."""

    def __init__(self, chromium: Browser, url: str, **context: Any) -> None:
        self.page = chromium.new_page(**{"locale": "en-GB", **context})
        self.page.set_default_timeout(PATIENCE)
        self.hosts, self.complaints = set[str](), list[str]()
        self.page.on("request", lambda request: self.hosts.add(_host(request.url)))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        self.page.goto(url)
        expect(self.page.locator("#details")).not_to_be_empty(timeout=PATIENCE)

    def small(self, steps: int = 2) -> None:
        """Set what the tiny model makes fast."""
        self.page.locator("#size input").fill("64x64")
        self.page.locator("#size input").press("Enter")
        self.page.get_by_label(re.compile("number input for (Steps|Pasos)")).fill(str(steps))

    def finished(self, before: str | None = None) -> str:
        """The id of the picture that is shown, once it is another one."""
        other = "[data-shown]" if before is None else f"[data-shown]:not([data-shown='{before}'])"
        shown = self.page.locator(f"#details {other}").get_attribute("data-shown")
        expect(self.page.locator("#cancel")).to_be_disabled(timeout=PATIENCE)
        assert shown is not None
        return shown


def _host(url: str) -> str:
    """Whom a browser asks; what it holds itself (blob:, data:) is asked of nobody else."""
    parts = urlsplit(url)
    return "127.0.0.1" if parts.scheme in ("blob", "data") else parts.hostname or ""


@pytest.fixture
def visit(chromium: Browser, served: Served) -> Iterator[Callable[..., Visit]]:
    opened: list[Visit] = []

    def open_page(**context: Any) -> Visit:
        opened.append(Visit(chromium, served.url, **context))
        return opened[-1]

    yield open_page
    for one in opened:
        one.page.close()
        assert one.hosts == {"127.0.0.1"}, "something was asked of another host"
        assert one.complaints == []


def picture(served: Served, id_: str) -> bytes:
    with served.client as client:
        return client.get(f"/v1/images/{id_}").content


def request(served: Served, id_: str) -> dict[str, Any]:
    with served.client as client:
        return client.get(f"/v1/jobs/{id_}").json()["request"]  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("locale", "scheme", "words"),
    [("en-GB", "light", ("Generate", "Settings")), ("es-MX", "dark", ("Generar", "Ajustes"))],
)
def test_language_and_colours_are_the_systems(
    visit: Callable[..., Visit], locale: str, scheme: str, words: tuple[str, str]
) -> None:
    page = visit(locale=locale, color_scheme=scheme).page
    assert page.locator("html").get_attribute("lang") == locale[:2]
    expect(page.locator("#generate")).to_have_text(words[0])
    expect(page.locator("#settings")).to_contain_text(words[1])
    shade = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)")
    assert (sum(shade) < 3 * 128) == (scheme == "dark")


def test_a_picture_again_and_another(visit: Callable[..., Visit], served: Served, tmp_path: Path) -> None:
    here = visit()
    page = here.page
    here.small(steps=60)  # so many that it is seen at work
    page.get_by_label("Prompt", exact=True).fill("a red circle <b>{{value}} ${1+1}</b>")
    page.locator("#generate").click()
    bar = page.get_by_role("progressbar", name="Progress")
    expect(bar).to_be_visible(timeout=PATIENCE)
    expect(page.locator("#progress")).to_contain_text(re.compile(r"step \d+ of 60"))
    first = here.finished()
    expect(page.locator("#details")).to_contain_text("a red circle <b>{{value}} ${1+1}</b>")
    expect(page.locator("#gallery [aria-pressed=true]")).to_have_attribute("data-id", first)
    with page.expect_download() as caught:
        page.get_by_role("link", name="Download the signed PNG").click()
    assert caught.value.suggested_filename == f"lienzo-{first}.png"
    assert Path(caught.value.path()).read_bytes() == picture(served, first)

    page.locator("#again").click()
    second = here.finished(first)
    assert request(served, second) == request(served, first)
    assert pixels(picture(served, second)) == pixels(picture(served, first))

    page.locator("#vary").click()
    third = here.finished(second)
    kept = {**request(served, first), "seed": 0}
    assert request(served, third)["seed"] != request(served, first)["seed"]
    assert {**request(served, third), "seed": 0} == kept

    page.locator("#vary-from").click()
    fourth = here.finished(third)
    assert request(served, fourth)["init"]["width"] == 64 and request(served, fourth)["strength"] == 0.6

    page.locator(f"#gallery [data-id='{first}']").click()
    expect(page.locator("#details [data-shown]")).to_have_attribute("data-shown", first)


def pixels(data: bytes) -> bytes:
    return Image.open(io.BytesIO(data)).tobytes()


def test_several_with_a_seed_of_ones_own(visit: Callable[..., Visit], served: Served) -> None:
    here = visit()
    page = here.page
    here.small()
    page.get_by_label("Seed", exact=True).fill("41")
    page.get_by_label("number input for Pictures").fill("3")
    page.locator("#generate").click()
    expect(page.locator("#status")).to_contain_text("Done: 3 of 3", timeout=PATIENCE)
    newest = page.locator("#gallery [data-id]")
    ids = [newest.nth(i).get_attribute("data-id") or "" for i in range(3)]
    assert sorted(request(served, id_)["seed"] for id_ in ids) == [41, 42, 43]
    page.locator("#random").click()
    expect(page.get_by_label("Seed", exact=True)).to_have_value("")
    page.locator("#reuse").click()
    expect(page.get_by_label("Seed", exact=True)).to_have_value("41")


def test_by_keyboard_alone(visit: Callable[..., Visit]) -> None:
    here = visit()
    page = here.page
    here.small(steps=150)
    page.get_by_label("Prompt", exact=True).focus()
    page.keyboard.type("two stars")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#cancel")).to_be_enabled(timeout=PATIENCE)
    page.keyboard.press("Escape")
    expect(page.locator("#status")).to_contain_text("Cancelled", timeout=PATIENCE)
    expect(page.locator("#cancel")).to_be_disabled()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("two stars")
    for _ in range(2):  # to the next control but one
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "generate"


def test_what_cannot_be_done_is_said_and_nothing_typed_is_lost(visit: Callable[..., Visit]) -> None:
    page = visit(locale="es").page
    page.get_by_label("Descripción", exact=True).fill("una casa")
    page.locator("#size input").fill("65x64")
    page.locator("#size input").press("Enter")
    page.locator("#generate").click()
    expect(page.get_by_role("alert")).to_contain_text("a multiple of 8")
    page.locator("#size input").fill("enorme")
    page.locator("#size input").press("Enter")
    page.locator("#generate").click()
    expect(page.get_by_role("alert")).to_contain_text("Tamaño: se ha dado 'enorme'")
    expect(page.get_by_label("Descripción", exact=True)).to_have_value("una casa")


def test_verdicts_of_dropped_files(visit: Callable[..., Visit], served: Served) -> None:
    job = served.ended(served.ask("a blue square", seed=5)["id"])
    data = picture(served, job["id"])
    edited = Image.open(io.BytesIO(data))
    ImageDraw.Draw(edited).rectangle((0, 0, 30, 30), "white")
    page = visit().page
    page.get_by_role("tab", name="Verify").click()
    drop(page.locator("#verify-picture"), data)
    expect(page.locator("#verify-told [data-outcome]")).to_have_attribute("data-outcome", "proved", timeout=PATIENCE)
    expect(page.locator("#verify-told")).to_contain_text("Proved")
    expect(page.locator("#verify-told")).to_contain_text("Content Credentials")
    page.reload()
    page.get_by_role("tab", name="Verify").click()
    drop(page.locator("#verify-picture"), repainted(data, edited))
    expect(page.locator("#verify-told")).to_contain_text("Tampered with", timeout=PATIENCE)
    page.get_by_role("tab", name="Detect").click()
    drop(page.locator("#detect-picture"), data)
    expect(page.locator("#detect-told [data-outcome]")).to_be_visible(timeout=PATIENCE)


def repainted(data: bytes, image: Image.Image) -> bytes:
    """The same file with other pixels: its credentials and receipt are kept, and do not fit any more."""
    file = io.BytesIO()
    image.save(file, "PNG")
    kept = [chunk for chunk in chunks(data) if chunk[4:8] not in (b"IHDR", b"IDAT", b"IEND")]
    ihdr, *rest = chunks(file.getvalue())
    return file.getvalue()[:8] + ihdr + b"".join(kept) + b"".join(c for c in rest if c[4:8] in (b"IDAT", b"IEND"))


def chunks(png: bytes) -> list[bytes]:
    """Of a PNG, whole (W3C PNG, section 5.3)."""
    found, at = [], 8
    while at < len(png):
        size = 12 + int.from_bytes(png[at : at + 4], "big")
        found.append(png[at : at + size])
        at += size
    return found


def drop(target: Locator, data: bytes) -> None:
    """Drop a file, as a mouse would."""
    transfer = target.page.evaluate_handle(
        """bytes => { const all = new DataTransfer();
        all.items.add(new File([new Uint8Array(bytes)], 'picture.png', {type: 'image/png'})); return all; }""",
        list(data),
    )
    target.get_by_role("button").first.dispatch_event("drop", {"dataTransfer": transfer})


def test_a_drawn_mask_reaches_the_request(visit: Callable[..., Visit], served: Served) -> None:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "#3366cc").save(file, "PNG")
    here = visit()
    page = here.page
    here.small()
    page.locator("#size input").fill("")
    page.locator("#start > button").click()
    page.locator("#init input[type=file]").set_input_files(
        {"name": "blue.png", "mimeType": "image/png", "buffer": file.getvalue()}
    )
    canvas = page.locator("#mask canvas").first
    expect(canvas).to_be_visible(timeout=PATIENCE)
    page.get_by_role("button", name="Brush", exact=True).click()
    page.wait_for_timeout(500)  # the editor fits the picture into its canvas
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 20, y)
    page.mouse.down()
    page.mouse.move(x + 20, y, steps=10)
    page.mouse.up()
    page.locator("#generate").click()
    asked = request(served, here.finished())
    assert asked["init"]["width"] == 64 and asked["mask"]["width"] == 64
    name = next(served.home.glob(f"pictures/inputs/*/{asked['mask']['sha256']}"))
    values = Image.open(name).tobytes()
    drawn = sum(value == 255 for value in values) / len(values)
    assert set(values) == {0, 255} and 0.001 < drawn < 0.9
    page.locator("#init").get_by_role("button", name="Remove Image").click()
    expect(page.locator("#mask")).to_be_hidden()


def test_every_control_has_a_name(visit: Callable[..., Visit]) -> None:
    page = visit().page
    devtools = page.context.new_cdp_session(page)
    page.locator("#start > button").click()
    expect(page.locator("#init")).to_be_visible()
    for tab, least in (("Make", 25), ("Verify", 3), ("Detect", 3)):
        page.get_by_role("tab", name=tab).click()
        expect(page.get_by_role("tabpanel")).to_have_count(1)
        nodes = devtools.send("Accessibility.getFullAXTree")["nodes"]
        roles = [
            (node["role"]["value"].lower(), node.get("name", {}).get("value", ""))
            for node in nodes
            if not node["ignored"]
        ]
        assert sum(role in LABELLED for role, _ in roles) >= least, tab
        assert [role for role, name in roles if role in LABELLED and not name.strip()] == [], tab


def test_no_other_host_is_named(served: Served) -> None:
    with served.client as client:
        answer = client.get("/", headers={"Accept-Language": "de, es;q=0.3, en;q=0.2"})
        hosts = set(re.findall(r"https?://([^/\"'\\s:]+)", answer.text + client.get("/theme.css").text))
    assert answer.status_code == 200 and '<html\n\tlang="es"' in answer.text
    assert hosts <= {"127.0.0.1", "www.w3.org"}, "names of namespaces apart"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "'unsafe-inline'" not in policy.split("script-src")[1].split(";")[0]
    assert answer.headers["x-frame-options"] == "DENY"


def test_only_what_the_page_needs_of_gradio(served: Served) -> None:
    with served.client as client:
        for path in ("monitoring", "gradio_api/info", "gradio_api/proxy=http://127.0.0.1/", "gradio_api/runs", "docs"):
            assert client.get(f"/{path}").status_code == 404, path
        assert client.get("/v1/nothing").headers["content-type"] == "application/problem+json"
        assert client.post("/v1/models").status_code == 405
        fetched = {"data": [{"path": "http://127.0.0.1:1/x.png", "meta": {"_type": "gradio.FileData"}}], "fn_index": 0}
        assert client.post("/gradio_api/queue/join", json=fetched).json()["status"] == 422
        foreign = client.post("/gradio_api/queue/join", json={}, headers={"Sec-Fetch-Site": "cross-site"})
        assert foreign.status_code == 403


def test_none_where_it_is_switched_off(tmp_path: Path) -> None:
    program = (
        "import sys; from lienzo.server.app import create_app; from lienzo.server.settings import Service; "
        "app = create_app(Service(page=False)); "
        "assert 'gradio' not in sys.modules and '/' not in [getattr(route, 'path', None) for route in app.routes]"
    )
    subprocess.run([sys.executable, "-c", program], env={**os.environ, "LIENZO_HOME": str(tmp_path)}, check=True)
