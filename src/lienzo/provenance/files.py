"""Writing a picture's file: whole or not at all, and never over another picture by accident. Knows no torch."""

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from lienzo.errors import OutputError

Kind = Literal["PNG", "JPEG", "WEBP"]

KINDS: Mapping[str, Kind] = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""Extension -> format."""

IfExists = Literal["error", "overwrite", "number"]

_ADVICE = {
    errno.ENOSPC: "Free some space or choose another disk.",
    errno.EDQUOT: "Free some space or choose another disk.",
    errno.EFBIG: "Choose a place without that limit.",
    errno.ENOENT: "Make the folder first or choose another one.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.EISDIR: "That is a folder: choose another name.",
}
_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)


def kind_of(path: Path) -> Kind:
    """The format that a file name asks for: "PNG", "JPEG" or "WEBP".

    Raises:
        OutputError: another extension, or none.
    """
    kind = KINDS.get(path.suffix.lower())
    if kind is None:
        got = f"got the extension {path.suffix!r}" if path.suffix else "the name has no extension"
        raise OutputError(f"{path}: {got}. Allowed: {', '.join(KINDS)}. Name the file with one of those.")
    return kind


def is_picture(path: str | Path) -> bool:
    """Whether a file is of one of these formats, told by how it starts."""
    try:
        with open(path, "rb") as file:
            start = file.read(12)
    except (OSError, ValueError):  # no such file, or no file can have that name
        return False
    return kind_of_data(start) is not None


def kind_of_data(data: bytes) -> Kind | None:
    """The format of a picture's file, told by its first 12 bytes: "PNG", "JPEG", "WEBP", or None."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    return "WEBP" if (data[:4], data[8:12]) == (b"RIFF", b"WEBP") else None


def check_target(path: Path, *, if_exists: IfExists = "error") -> None:
    """Find out before any work whether a picture can be written there.

    Raises:
        OutputError: unknown extension, no such folder, no permission, no space, or a file that is in the way.
    """
    kind_of(path)
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        pass
    except OSError as error:
        raise _cannot(path, error) from None
    else:
        if stat.S_ISDIR(mode):
            raise OutputError(f"{path} is a folder. Name a file.")
        if if_exists == "error":
            raise _in_the_way(path)
    _write_temporary(path, (b"\0",)).unlink()


def place(data: bytes, path: Path, *, if_exists: IfExists = "error", mode: int = 0o666) -> Path:
    """Write a file: under a temporary name in the same folder, flushed to the disk, then given its name at once.

    Args:
        if_exists: "number" takes the next free name: cat.png, cat-2.png, cat-3.png ...; two processes that do so at the
            same time get two names.
        mode: permissions, of which the process's umask takes away.

    Returns:
        The path that was written.

    Raises:
        OutputError: it exists or cannot be written; nothing is left behind, and what was there is still there.
    """
    return place_parts((data,), path, if_exists=if_exists, mode=mode)


def place_parts(parts: Iterable[bytes], path: Path, *, if_exists: IfExists = "error", mode: int = 0o666) -> Path:
    """`place`, of a file that is too long to be in memory whole: its parts are written as they are made."""
    if if_exists == "error" and os.path.lexists(path):  # before much is made for nothing; `_publish` has the last word
        raise _in_the_way(path)
    temporary = _write_temporary(path, parts, mode)
    try:
        written = _publish(temporary, path, if_exists)
        flush_folder(path.parent)
        return written
    except OSError as error:
        raise _cannot(path, error) from None
    finally:
        _remove(temporary)


def numbered(path: Path, number: int) -> Path:
    """cat.png, 2 -> cat-2.png; 1 is the name itself."""
    return path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")


def _write_temporary(path: Path, parts: Iterable[bytes], mode: int = 0o666) -> Path:
    temporary = path.with_name(f".lienzo-{secrets.token_hex(8)}.part")
    try:
        with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        _remove(temporary)
        raise _cannot(path, error) from None
    except BaseException:  # Ctrl-C, or no more parts can be made
        _remove(temporary)
        raise
    return temporary


def _publish(temporary: Path, path: Path, if_exists: IfExists) -> Path:
    if if_exists == "overwrite":
        return temporary.replace(path)
    number = 1
    while True:
        wanted = numbered(path, number)
        try:
            _link(temporary, wanted)
            return wanted
        except FileExistsError:
            if if_exists == "error":
                raise _in_the_way(path) from None
            number += 1


def _link(temporary: Path, path: Path) -> None:
    """Give the file its name only if that is free. A rename would replace what is there."""
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        temporary.rename(path)


def flush_folder(folder: Path) -> None:
    """So that the name, too, survives a power cut; not every file system can."""
    if os.name == "posix":
        with contextlib.suppress(OSError):
            handle = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _in_the_way(path: Path) -> OutputError:
    return OutputError(f"{path} exists already. Choose another name, or allow overwriting (--force).")


def _cannot(path: Path, error: OSError) -> OutputError:
    advice = _ADVICE.get(error.errno or 0, "Choose a folder that you may write to.")
    return OutputError(f"{path} cannot be written: {error.strerror or error}. {advice} Nothing was left behind.")
