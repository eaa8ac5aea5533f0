"""The command line: parse, call, print. Nothing here imports torch until a command needs it."""

import contextlib
import errno
import sys
import warnings
from collections.abc import Iterator
from importlib import import_module
from typing import Any, Final

import click

from lienzo.cli import signals
from lienzo.cli.text import fail, usage, warn
from lienzo.errors import LienzoError, NonFiniteError, ProofError, RequestError, UnknownKeyError

COMMANDS: Final = {
    "access": ("access", "Say who may use the service."),
    "convert": ("models", "Write a model in another layout or dtype."),
    "data": ("data", "Look at training data."),
    "detect": ("detect", "Tell whether a picture came from a model, by its pixels."),
    "doctor": ("doctor", "Tell what works on this machine."),
    "eval": ("evaluate", "Score a model, or compare two."),
    "generate": ("generate", "Make a picture of each PROMPT."),
    "inspect": ("models", "Tell what a model is, or how a picture was made."),
    "keys": ("keys", "Look after the keys that sign pictures."),
    "log": ("log", "Look after the log of pictures."),
    "models": ("models", "List the models at hand."),
    "policy": ("policy", "Look at the prompt policy."),
    "prompts": ("prompts", "Look after prompts that are kept encrypted."),
    "report": ("report", "Write a model's card and transparency report."),
    "samplers": ("models", "List the samplers and grids."),
    "serve": ("serve", "Serve pictures over HTTP."),
    "train": ("train", "Train what a recipe says."),
    "verify": ("verify", "Tell what a picture's marks prove."),
}
"""Name -> the module of `lienzo.cli` that has it, read when the command is asked for, and what it does."""
EPILOG = """
Exit codes: 0, done, or proved; 1, it could not be finished (not enough memory, NaN; `doctor` found something broken), or
nothing was proved; 2, it cannot be done as asked (an option, a picture, a model, an output file); 3, something was tampered
with; 130, stopped with Ctrl-C.
Whatever the exit code, no half-written file stays.
"""
LESS_MEMORY = {
    "generate": "Ask for a smaller --size, a smaller --batch or --dtype fp16, or use --vae-tiling.",
    "train": "Set run.accumulate to 2 or more, run.checkpointing=true, or a smaller run.batch_size or data.resolution.",
}


class Lienzo(click.Group):
    """Turns the errors that users can do something about into one message and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        members = vars(import_module(f"lienzo.cli.{COMMANDS[cmd_name][0]}")).values()
        return next(member for member in members if isinstance(member, click.Command) and member.name == cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        try:
            return super().make_context(*args, **extra)
        except click.UsageError as error:
            raise usage(error) from None

    def invoke(self, ctx: click.Context) -> object:
        try:
            with _visible_warnings():
                return super().invoke(ctx)
        except click.UsageError as error:
            raise usage(error) from None
        except KeyboardInterrupt as stopped:
            fail(str(stopped) or "Stopped.", 130, prefix="")
        except (NonFiniteError, UnknownKeyError) as error:
            fail(str(error), 1)
        except ProofError as error:
            fail(str(error), 3)
        except RequestError as error:
            from lienzo.cli.generate import as_options

            fail(as_options(str(error)), 2)
        except LienzoError as error:
            fail(str(error), 2)
        except OSError as error:  # of a file that no error of lienzo's speaks for, stdout for one
            if error.errno == errno.EPIPE:
                raise
            fail(f"{error.filename or 'Input or output'}: {error.strerror or error}.", 1)
        except (MemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
            fail(f"Not enough memory. {LESS_MEMORY.get(ctx.invoked_subcommand or '', LESS_MEMORY['generate'])}", 1)


@click.group(
    cls=Lienzo,
    epilog=EPILOG,
    context_settings={"help_option_names": ["--help"], "max_content_width": 110, "auto_envvar_prefix": None},
)
@click.version_option(package_name="lienzo", prog_name="lienzo", message="%(prog)s %(version)s")
def lienzo() -> None:
    """Pictures from words, the same ones every time.

    \b
      lienzo generate "a red circle on a white background"
      lienzo generate --from lienzo-7.png          makes the same picture again
    """


def main() -> None:
    """Entry point of the `lienzo` command."""
    for stream in (sys.stdout, sys.stderr):  # a prompt may hold what this terminal cannot show
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    signals.install()
    try:
        lienzo(prog_name="lienzo")
    except KeyboardInterrupt:  # before a command began
        sys.exit(130)


@contextlib.contextmanager
def _visible_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_, **__: warn(str(message))
        yield


def _out_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    return (
        isinstance(error, MemoryError)
        or "out of memory" in text
        or "not enough memory" in text
        or "can't allocate" in text
    )
