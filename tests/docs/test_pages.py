"""Nothing is left undocumented, nothing documented that is not there, and every link leads somewhere."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from pages import ALL, DOCS, ROOT, anchors, prose, rows, title

from docs.make_pictures import FOLDER, PROMPTS
from docs.make_reference import error_classes
from docs.make_reference import pages as reference
from lienzo.cli import lienzo
from lienzo.cli.generate import OPTIONS
from lienzo.compat import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline, StableDiffusionPipeline
from lienzo.diffusion.grids import GRIDS
from lienzo.diffusion.samplers import SAMPLERS
from lienzo.pipeline.request import Request
from lienzo.server.access import PERMISSIONS, ROLES

SETTINGS = DOCS / "settings.md"
SAMPLERS_PAGE = DOCS / "howto" / "samplers-and-grids.md"
SWITCH = re.compile(r"(LIENZO|HF)_[A-Z_]+")
MOST_BYTES = 400_000


def code(text: str) -> set[str]:
    """What stands between backticks, word by word."""
    return {word for span in re.findall(r"`([^`\n]+)`", text) for word in re.split(r"[ ,=]+", span)}


def test_the_reference_is_current() -> None:
    committed = {path.name: path.read_text(encoding="utf-8") for path in (DOCS / "reference").glob("*.md")}
    assert committed.keys() == reference().keys()
    for name, text in reference().items():
        assert committed[name] == text, f"docs/reference/{name} is not current: run `make docs`"


def test_every_setting_of_a_request() -> None:
    table = rows(SETTINGS, "## A request")
    documented = {name: row for row in table for name in code(row[0])}
    assert documented.keys() == Request.model_fields.keys()
    for name, row in documented.items():
        assert OPTIONS[name] in code(row[1]), name


def every_command(command: click.Command) -> Iterator[click.Command]:
    yield command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from every_command(inner)


def test_every_option_of_the_command_line() -> None:
    text = code(prose(SETTINGS))
    options: set[str] = {"--help"}
    for command in every_command(lienzo):
        assert command.name in text
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                options |= {*parameter.opts, *parameter.secondary_opts}
    missing, stale = options - text, {word for word in text if re.fullmatch(r"--[\w-]+", word)} - options
    assert (missing, stale) == (set(), set())


def test_every_environment_variable() -> None:
    used = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and SWITCH.fullmatch(node.value):
                used.add(node.value)
    assert {row[0].strip("`") for row in rows(SETTINGS, "## The environment")} == used


def test_every_sampler() -> None:
    table = {row[0].strip("`"): row[1:] for row in rows(SAMPLERS_PAGE, "## Samplers")}
    assert list(table) == list(SAMPLERS)
    for name, (evaluations, fresh, grid, published) in table.items():
        row = SAMPLERS[name]
        assert fresh == ("yes" if row.stochastic else "with `eta`" if "eta" in row.takes else "no"), name
        assert (grid, published) == (row.convention.spacing, row.published)
        assert evaluations == {"plms": "n + 1", "heun": "2n - 1"}.get(name, "n")


def test_every_grid() -> None:
    assert [row[0].strip("`") for row in rows(SAMPLERS_PAGE, "## Grids")] == list(GRIDS)


def test_every_error() -> None:
    text = (DOCS / "howto" / "troubleshooting.md").read_text(encoding="utf-8")
    explained = set(re.findall(r"\*\*`(\w+)`\*\*", text))
    assert explained == {error.__name__ for error in error_classes()} - {"LienzoError"}
    assert "`LienzoError`" in text


def test_every_permission_of_every_role() -> None:
    table = rows(DOCS / "howto" / "access.md", "## Roles")
    told = {permission: [cell == "yes" for cell in row[1:-1]] for row in table for permission in code(row[0])}
    assert told == {one: [one in allowed for allowed in ROLES.values()] for one in PERMISSIONS}


@pytest.mark.parametrize(
    "pipeline", [StableDiffusionPipeline, StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline]
)
def test_every_argument_of_diffusers(pipeline: type) -> None:
    call = pipeline.__call__.__code__
    names = set(call.co_varnames[1 : call.co_argcount])
    assert names <= code(prose(DOCS / "howto" / "from-diffusers.md"))


@pytest.mark.parametrize("page", ALL, ids=title)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{target}: no such file"
        assert not anchor or anchor in anchors(file), f"{target}: no such heading"


def test_every_page_is_on_the_map() -> None:
    linked = set(re.findall(r"\]\(([^)#\s]+)\)", (DOCS / "index.md").read_text(encoding="utf-8")))
    pages = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")} - {"index.md"}
    assert pages <= linked


def test_readme_shows_the_pictures_of_its_script() -> None:
    table = rows(ROOT / "README.md", "## What the embedded model paints")
    shown = {re.search(r"([\w-]+)\.webp", row[1])[1]: row[0] for row in table}  # type: ignore[index]
    assert shown == PROMPTS


def test_pictures_are_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < MOST_BYTES
