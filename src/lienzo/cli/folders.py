"""Folders that commands write into."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lienzo.errors import OutputError


@contextmanager
def filled(folder: Path) -> Iterator[None]:
    """Make a folder. If nothing came into it, what was made goes again.

    Raises:
        OutputError: it cannot be made.
    """
    missing: list[Path] = []
    try:
        try:
            missing = [path for path in (folder, *folder.parents) if not path.exists()]
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{folder} cannot be made: {error.strerror or error}. Choose another folder.") from None
        yield
    finally:
        for path in missing:
            with suppress(OSError):  # it holds something
                path.rmdir()
