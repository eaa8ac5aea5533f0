"""Every example in README and docs runs, in the order of its page, against the embedded model."""

import doctest
import importlib
import re
import shlex
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from pages import ALL, SERVED, WRITTEN, Block, blocks, title

import lienzo.cli

LANGUAGES = {"python", "console", "text", "json", "pycon"}
NOT_RUN = 8
CHECKER = doctest.OutputChecker()
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def examples(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.language in ("python", "console") and block.why is None]


@pytest.mark.parametrize("page", [page for page in WRITTEN if examples(page) and page not in SERVED], ids=title)
def test_examples(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    for block in examples(page):
        if block.language == "python":
            # padded, so that a traceback shows the page's own lines
            exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), names)
        else:
            for command, expected in commands(block):
                check(command, expected, f"{title(page)}:{block.line}")


def commands(block: Block) -> Iterator[tuple[str, str]]:
    """What is typed after `$ `, and what is to be seen then."""
    for part in re.split(r"^\$ ", block.text, flags=re.M)[1:]:
        command, _, expected = part.partition("\n")
        yield command, expected


def check(command: str, expected: str, where: str) -> None:
    """Run it and compare what it prints, if the page shows that; an error is shown as one."""
    code, output = run(command)
    wrong, unproved = (re.search(rf"^({words}): ", expected, re.M) for words in ("Error|Usage", "not proved"))
    assert code == (2 if wrong else 1 if unproved else 0), f"{where}: {command}\n{output}"
    if expected:
        # "..." stands for anything, up to the end where the page stops early
        matches = CHECKER.check_output(expected, output, FLAGS) or CHECKER.check_output(
            expected + "...\n", output, FLAGS
        )
        assert matches, f"{where}: {command}\nprinted\n{output}\nbut the page shows\n{expected}"


def run(command: str) -> tuple[int, str]:
    """Exit code and everything printed. It runs in this process, which spares importing torch anew."""
    words = shlex.split(command)
    env = {}
    while "=" in words[0]:
        name, _, env[name] = words.pop(0).partition("=")
    assert words[0] == "lienzo", f"only lienzo's own commands are run: {command}"
    result = CliRunner(env=env).invoke(lienzo.cli.lienzo, words[1:], catch_exceptions=False, prog_name="lienzo")
    return result.exit_code, result.output


def test_few_examples_are_not_run_and_each_has_a_reason() -> None:
    left_out = [block for page in WRITTEN for block in blocks(page) if block.why is not None]
    assert len(left_out) <= NOT_RUN, "run the example, or take another one away"
    for block in left_out:
        assert len(block.why or "") >= 20, f"{title(block.page)}:{block.line}"


@pytest.mark.parametrize("page", ALL, ids=title)
def test_every_block_has_a_known_language(page: Path) -> None:
    """A `bash` or a bare block would escape from being run."""
    fences = re.findall(r"^```(\w*)$", page.read_text(encoding="utf-8"), re.M)
    assert set(fences[::2]) <= LANGUAGES
    assert set(fences[1::2]) <= {""}
    assert len(fences) == 2 * len(blocks(page))


@pytest.mark.parametrize("name", ["lienzo.studio"])
def test_examples_in_docstrings(name: str) -> None:
    with warnings.catch_warnings():
        failed, tried = doctest.testmod(importlib.import_module(name))
    assert tried and not failed
