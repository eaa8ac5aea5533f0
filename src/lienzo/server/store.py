"""Where pictures and inputs lie: a folder, or any place that fsspec knows. A name is written once, whole or not at all."""

import os
from pathlib import Path
from typing import Any

from lienzo.errors import MissingExtraError, OutputError, RecordError
from lienzo.provenance.files import place


class Store:
    """Bytes by name. Names are ours ("images/…", "inputs/…"), never a caller's.

    Args:
        place: a folder, made when it is needed, or a URL.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self._remote: Any = None
        if "://" in place:
            try:
                import fsspec
            except ModuleNotFoundError:
                raise MissingExtraError('A store by URL needs fsspec: run pip install "lienzo[server]".') from None
            try:
                self._remote, self._root = fsspec.core.url_to_fs(place)  # type: ignore[no-untyped-call]
            except (ImportError, ValueError) as error:
                raise OutputError(f"{place}: {error}") from None

    def put(self, name: str, data: bytes) -> None:
        """Durable when this returns.

        Raises:
            OutputError: no space, no permission.
        """
        try:
            if self._remote is not None:  # object stores write whole objects
                self._remote.makedirs(os.path.dirname(f"{self._root}/{name}"), exist_ok=True)
                self._remote.pipe_file(f"{self._root}/{name}", data)
            else:
                path = Path(self.place) / name
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                place(data, path, if_exists="overwrite", mode=0o600)
        except OSError as error:
            raise OutputError(f"{self.place}: a picture cannot be stored: {error.strerror or error}.") from None

    def get(self, name: str) -> bytes:
        """
        Raises:
            RecordError: nothing of that name: never, or removed since.
            OutputError: it cannot be read.
        """
        try:
            if self._remote is not None:
                data: bytes = self._remote.cat_file(f"{self._root}/{name}")
                return data
            return (Path(self.place) / name).read_bytes()
        except FileNotFoundError:
            raise RecordError("it is not kept: never, or removed since.") from None
        except OSError as error:
            raise OutputError(f"{self.place}: a picture cannot be read: {error.strerror or error}.") from None

    def remove(self, name: str) -> None:
        """That it is not there is fine.

        Raises:
            OutputError: it cannot be removed.
        """
        try:
            if self._remote is not None:
                self._remote.rm_file(f"{self._root}/{name}")
            else:
                (Path(self.place) / name).unlink()
        except FileNotFoundError:
            return
        except OSError as error:
            raise OutputError(f"{self.place}: a picture cannot be removed: {error.strerror or error}.") from None
