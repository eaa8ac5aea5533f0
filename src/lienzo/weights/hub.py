"""Models of the Hugging Face hub: fetched once, pinned to a revision, then read from the cache."""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lienzo.errors import LienzoError, MissingExtraError, ModelNotFoundError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
PARTS = (
    "model_index.json",
    "scheduler/*.json",
    "tokenizer/*",
    "text_encoder/config.json",
    "unet/config.json",
    "vae/config.json",
)
WEIGHTS = ("text_encoder", "unet", "vae")
Only = Sequence[str] | Callable[[Sequence[str]], Sequence[str]]
"""Patterns of files, or what chooses them among the names of all."""
SWITCHES = ("LIENZO_OFFLINE", "HF_HUB_OFFLINE")


@dataclass(frozen=True, kw_only=True)
class Found:
    """A model that can be loaded without a network.

    Attributes:
        name: what to give to `load`.
        source: "embedded", "cache" or "disk".
        size: bytes on disk.
    """

    name: str
    source: str
    path: Path
    size: int


def local(source: str | Path, what: str) -> Path:
    """The path that a name would have on this machine, "~" filled in; there need be nothing.

    Raises:
        ModelNotFoundError: no file can have that name.
    """
    try:
        path = Path(source).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:  # too long, no such user, a locked folder
        raise ModelNotFoundError(f"{what} {str(source)[:100]!r} cannot be looked up: {error.args[-1]}.") from None
    return path


def is_offline(offline: bool | None) -> bool:
    """What was asked for, else what the environment's switches say."""
    if offline is not None:
        return offline
    return any(os.environ.get(name, "").upper() in ("1", "TRUE", "YES", "ON") for name in SWITCHES)


def find(
    source: str | Path,
    what: str,
    *,
    revision: str | None = None,
    offline: bool | None = None,
    only: Only = (),
) -> Path:
    """What a name stands for: a path on this machine, or else, of a hub id, the folder that was fetched; there need be nothing.

    Raises:
        ModelNotFoundError: no file can have that name, or the hub has no such model.
    """
    path = local(source, what)
    if not path.exists() and HUB_ID.fullmatch(str(source)):
        return fetch(str(source), revision=revision, offline=offline, only=only)
    return path


def fetch(
    repo: str,
    *,
    revision: str | None = None,
    variant: str | None = None,
    offline: bool | None = None,
    only: Only = (),
) -> Path:
    """The folder of a hub model, in the cache: fetched if need be, and only the files that `load` reads.

    Args:
        repo: "organisation/name".
        revision: branch, tag or commit; the returned folder's name is the commit it stood for.
        offline: never use the network; None: as LIENZO_OFFLINE or HF_HUB_OFFLINE say.
        only: patterns of files instead of a whole model's, or what chooses them among the names of all.

    Raises:
        ModelNotFoundError: not cached and not to be had; says what to do.
        MissingExtraError: huggingface_hub is not installed.
    """
    at = f"{repo}@{revision}" if revision else repo
    if is_offline(offline):
        if (folder := cached(repo, revision)) is not None:
            return folder
        raise ModelNotFoundError(
            f"The hub model {at} is not in the cache and the network is switched off. Unset LIENZO_OFFLINE and "
            "HF_HUB_OFFLINE to fetch it, or copy its folder here and give the folder's path."
        )
    try:
        from huggingface_hub import HfApi, snapshot_download
        from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError
    except ImportError:
        raise MissingExtraError('Hub models need huggingface_hub: pip install "lienzo[hub]".') from None
    try:
        if callable(only) or not only:
            info = HfApi().model_info(repo, revision=revision)
            names = [file.rfilename for file in info.siblings or ()]
            only = only(names) if callable(only) else [*PARTS, *_needed(names, variant)]
        return Path(snapshot_download(repo, revision=revision, allow_patterns=list(only)))
    except LienzoError:
        raise
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise ModelNotFoundError(
            f"The hub has no model {at}, or it is not open to you: {_first_line(error)} Check the name; for a gated model "
            "run `hf auth login` first. A local folder or file is given by its path."
        ) from None
    except Exception as error:  # the transport's many errors: no route, no name service, timeout, proxy, HTTP 5xx
        if (folder := cached(repo, revision)) is not None:
            return folder
        raise ModelNotFoundError(
            f"The hub model {at} is not in the cache and the hub cannot be reached ({type(error).__name__}: "
            f"{_first_line(error)}). Check the network, or copy the model's folder here and give the folder's path."
        ) from None


def cached(repo: str, revision: str | None = None) -> Path | None:
    """The folder of what was fetched of a repository; None if nothing was. Never uses the network.

    The hub cache has models--ORG--NAME/snapshots/COMMIT, and in refs/ a file for each branch or tag that names its commit.
    """
    try:
        from huggingface_hub import constants
    except ImportError:
        return None
    home = Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"
    wanted = revision or "main"
    name = home / "refs" / wanted
    commit = name.read_text(encoding="utf-8").strip() if name.is_file() else wanted
    folder = home / "snapshots" / commit
    return folder if folder.is_dir() else None


def find_models(folders: Iterable[str | Path] = (), *, embedded: Path | None = None) -> list[Found]:
    """Models at hand: the embedded one, those in the hub cache, and those in `folders`, which are looked into."""
    found = []
    if embedded is not None and (embedded / "model_index.json").is_file():
        found.append(Found(name=embedded.name, source="embedded", path=embedded, size=_size(embedded)))
    found += _cached_models()
    for folder in map(Path, folders):
        inside = sorted(folder.iterdir()) if folder.is_dir() else []
        for path in (folder, *inside):
            if (path / "model_index.json").is_file() or (path.is_file() and path.suffix in (".safetensors", ".ckpt")):
                found.append(Found(name=str(path), source="disk", path=path, size=_size(path)))
    return found


def _cached_models() -> list[Found]:
    """The newest snapshot of every model in the hub cache; see `cached` for its layout."""
    try:
        from huggingface_hub import constants
    except ImportError:
        return []
    newest: dict[str, Path] = {}
    for index in Path(constants.HF_HUB_CACHE).glob("models--*/snapshots/*/model_index.json"):
        repo = index.parents[2].name.removeprefix("models--").replace("--", "/")
        if repo not in newest or index.parent.stat().st_mtime > newest[repo].stat().st_mtime:
            newest[repo] = index.parent
    return [Found(name=repo, source="cache", path=path, size=_size(path)) for repo, path in sorted(newest.items())]


def _needed(names: Sequence[str], variant: str | None) -> list[str]:
    """The weights that `open_folder` would choose: of the variant if there are some, safetensors before pickles."""
    needed = []
    for part in WEIGHTS:
        mine = [n for n in names if re.fullmatch(rf"{part}/(model|pytorch_model|diffusion_pytorch_model)[^/]*", n)]
        for ext in ("safetensors", "bin"):
            of_kind = [n for n in mine if f".{ext}" in n]
            special = [n for n in of_kind if variant is not None and re.search(rf"\.{re.escape(variant)}[.-]", n)]
            plain = [n for n in of_kind if re.fullmatch(rf"[^.]+\.{ext}(\.index\.json)?", n)]
            chosen = special or plain or of_kind
            if chosen:
                needed += chosen
                break
    return needed


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(p.stat().st_size for p in files)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0]
