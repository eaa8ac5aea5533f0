"""A progress bar on stderr where that is a terminal; nothing elsewhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import click


@dataclass(frozen=True)
class Progress:
    """How far the work is.

    Attributes:
        advance: called with (what is done, steps done, steps in all).
        say: prints (a line, whether on stderr) without tearing the bar.
    """

    advance: Callable[[str, int, int], None]
    say: Callable[[str, bool], None]


@contextmanager
def progress() -> Iterator[Progress]:
    if not sys.stderr.isatty():
        yield Progress(lambda what, done, of: None, lambda line, err: click.echo(line, err=err))
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar
    from rich.text import Text

    class Speed(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{speed:.2f} it/s" if speed >= 1 else f"{1 / speed:.1f} s/it")

    bar = Bar(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("left"),
        TimeRemainingColumn(compact=True),
        Speed(),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    task = bar.add_task("starting", total=None)

    def advance(what: str, done: int, of: int) -> None:
        bar.update(task, description=what, completed=done, total=of)

    def say(line: str, err: bool) -> None:
        bar.stop()
        click.echo(line, err=err)
        bar.start()

    with bar:
        yield Progress(advance, say)
