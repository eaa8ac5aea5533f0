"""A folder whose files only their owner may read, for several processes without a lock.

Files are only ever added under a name that is free, or replaced at once. What changes over time has generations,
`NAME.1.KIND`, `NAME.2.KIND` ..., of which the last is current: whoever finds the number taken uses what is there.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from lienzo.errors import KeystoreError, OutputError
from lienzo.provenance.files import flush_folder, place

MOST_BYTES = 1_000_000
"""That any file of a vault has."""

_NAME = re.compile(r"[a-z][a-z0-9-]{0,39}")
_OTHERS = 0o077
_OTHERS_WRITE = 0o022


class Vault:
    """The folder, made by the first write with mode 0700; files have mode 0600.

    Every method raises `KeystoreError` where others may write to the folder, and where a file cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self, kind: str | None = None) -> list[str]:
        """All names of which there is a generation."""
        return sorted({_name(path) for path in self._files() if kind in (None, path.suffix[1:])})

    def generations(self, name: str, kind: str) -> list[Path]:
        """Oldest first.

        Raises:
            KeystoreError: a name that is no plain word.
        """
        if not _NAME.fullmatch(name):
            raise KeystoreError(f"got the purpose {name[:40]!r}; use small letters, digits and hyphens.")
        return [path for path in self._files() if (_name(path), path.suffix) == (name, f".{kind}")]

    def latest(self, name: str, kind: str) -> Path | None:
        return next(reversed(self.generations(name, kind)), None)

    def add(self, name: str, kind: str, after: Path | None, content: Callable[[], bytes]) -> None:
        """Write the generation that follows `after` (None: the first), unless another process was quicker."""
        number = 1 if after is None else _number(after) + 1
        self.put(f"{name}.{number}.{kind}", content(), if_exists="keep")

    def put(self, path: str, data: bytes, *, if_exists: Literal["keep", "overwrite"]) -> None:
        """Write a file, also one in a folder below, as private as the others."""
        wanted = self.folder / path
        for folder in dict.fromkeys((self.folder, wanted.parent)):
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                _check_folder(folder)
            except OSError as error:
                raise KeystoreError(
                    f"{folder} cannot be made: {error.strerror or error}. "
                    "Set LIENZO_HOME to a folder that you may write to."
                ) from None
        try:
            place(data, wanted, if_exists="error" if if_exists == "keep" else "overwrite", mode=0o600)
        except OutputError:
            if if_exists == "overwrite" or not wanted.exists():
                raise

    def read(self, path: Path) -> bytes:
        """What may hold a private key: only if nobody else can read it."""
        try:
            with path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                if os.name == "posix" and mode & _OTHERS:
                    raise KeystoreError(
                        f"{path}: others may read it or write to it (mode {mode & 0o777:04o}), so it may be theirs too. "
                        f"Allowed: only you, mode 0600. Run: chmod 600 {path} , and if others use this machine, "
                        f"`lienzo keys rotate {_name(path)}` after it."
                    )
                data = file.read(MOST_BYTES + 1)
        except OSError as error:
            raise _unreadable(path, error) from None
        if len(data) > MOST_BYTES:
            raise KeystoreError(f"{path}: more than {MOST_BYTES:,} bytes, which no key has. Remove it.")
        return data

    def remove(self, path: Path) -> None:
        """Take a file away for good; another process may have been quicker."""
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise KeystoreError(f"{path}: cannot be removed: {error.strerror or error}. Remove it yourself.") from None
        flush_folder(path.parent)

    def _files(self) -> list[Path]:
        """Of all generations, oldest first."""
        try:
            _check_folder(self.folder)
            names = os.listdir(self.folder)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _unreadable(self.folder, error) from None
        ours = [name for name in names if re.fullmatch(rf"{_NAME.pattern}\.[1-9][0-9]*\.[a-z]+", name)]
        return sorted((self.folder / name for name in ours), key=_number)


def _check_folder(folder: Path) -> None:
    mode = folder.stat().st_mode
    if os.name == "posix" and mode & _OTHERS_WRITE:
        raise KeystoreError(
            f"{folder}: others may write to it (mode {mode & 0o777:04o}) and could plant a key of theirs. "
            f"Check that its keys are yours, then run: chmod 700 {folder}"
        )


def _name(path: Path) -> str:
    return path.name.split(".")[0]


def _number(path: Path) -> int:
    return int(path.name.split(".")[1])


def _unreadable(path: Path, error: OSError) -> KeystoreError:
    return KeystoreError(f"{path}: cannot be read: {error.strerror or error}. Make it readable for yourself alone.")
