"""A folder of finished pictures that is filled once: what is there already is not made again.

A picture's file is named by its request's digest, in a folder named by the model's and its adapters'; what it holds is checked
before it is taken.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from lienzo.errors import ConfigError, ImageError, MetadataError, OutputError
from lienzo.images import open_image
from lienzo.models.bundle import Bundle
from lienzo.pipeline.generate import Step, finished, prompt_warnings, resolve
from lienzo.pipeline.request import InputImage, Request
from lienzo.provenance.metadata import read
from lienzo.provenance.settings import Settings
from lienzo.provenance.writing import save
from lienzo.studio import make


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A picture on disk.

    Attributes:
        index: its place among the requests.
        reused: it was there before.
        warnings: what the user should know of the request, e.g. words of the prompt that did not fit.
    """

    index: int
    request: Request
    path: Path
    reused: bool
    warnings: tuple[str, ...]


def fill(
    bundle: Bundle,
    requests: Sequence[Request],
    folder: Path,
    *,
    batch: int = 1,
    on_step: Callable[[Step], object] | None = None,
) -> Iterator[Kept]:
    """Make the pictures that `folder` lacks, and give all of them: first those that are there, then each as it is saved.

    Stopped at any point, the same call goes on where it was. A picture is taken only if its record names the same request,
    weights, adapters, settings, dtype and kind of device, and the same torch, and if its pixels are those recorded.

    Raises:
        RequestError: a request that this model cannot do; nothing is made then.
        OutputError: the folder cannot be written.
    """
    rules = Settings.read()
    if rules.private:
        raise ConfigError(
            "private: got true, but these pictures are kept with their prompts, to be found again. Set LIENZO_PRIVATE=0 "
            "for this command if that may be."
        )
    complete = [resolve(bundle, request) for request in requests]
    # what is judged are the model's own pixels, so nothing is marked in them; each file is signed nevertheless
    unmarked = Settings.signed_only()
    home = folder / "-".join([bundle.digest[:12], bundle.settings_digest[:8], *_adapters(bundle)])
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{home} cannot be made: {error.strerror or error}. Choose another folder.") from None
    paths = [home / f"{request.digest[:32]}.png" for request in complete]
    todo = []
    for index, (request, path) in enumerate(zip(complete, paths, strict=True)):
        if _is_it(path, bundle, request):
            told = prompt_warnings(bundle, request)
            yield Kept(index=index, request=request, path=path, reused=True, warnings=told)
        else:
            todo.append(index)
    for start in range(0, len(todo), batch):
        members = todo[start : start + batch]
        results = finished(make(bundle, [complete[i] for i in members], settings=unmarked), on_step)
        for index, result in zip(members, results, strict=True):
            save(result, paths[index], if_exists="overwrite")
            yield Kept(index=index, request=complete[index], path=paths[index], reused=False, warnings=result.warnings)


def _is_it(path: Path, bundle: Bundle, request: Request) -> bool:
    if not path.is_file():
        return False
    try:
        record, picture = read(path), InputImage.of(open_image(path))
    except (MetadataError, ImageError):
        return False
    used = (*(record.adapters or ()), *(record.embeddings or ()))
    weight = next(bundle.unet.parameters())
    return (
        record.request_digest, record.weights.digest, list(map(dict, used)), record.settings, record.dtype, record.device, record.software.torch,
        record.given, record.picture.sha256,
    ) == (
        request.digest, bundle.digest, _used(bundle), bundle.settings_digest, str(weight.dtype).removeprefix("torch."),
        weight.device.type, torch.__version__, None, picture.sha256,
    )  # fmt: skip


def _used(bundle: Bundle) -> list[dict[str, object]]:
    """Adapters and embeddings as records have them: the model's digest does not know them."""
    return [*map(asdict, bundle.adapters), *map(asdict, bundle.embeddings)]


def _adapters(bundle: Bundle) -> list[str]:
    used = _used(bundle)
    return [hashlib.sha256(json.dumps(used).encode()).hexdigest()[:8]] if used else []
