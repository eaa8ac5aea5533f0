"""Files that people give: read whole, if they are of a size that such files have."""

from pathlib import Path

from lienzo.errors import InputError


def read_whole(path: Path, most: int) -> bytes:
    """A file's bytes.

    Raises:
        InputError: it cannot be read, or has more than `most` bytes.
    """
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from None
    if len(content) > most:
        raise InputError(f"{path}: more than {most:,} bytes, which no file of this kind needs.")
    return content
