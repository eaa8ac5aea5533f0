"""What changes a model without being one: LoRA and textual inversion, on disk and on a bundle.

    style = load_adapter("style.safetensors", bundle)
    cat = load_embedding("cat.pt", token="<cat>")
    changed = with_adapters(bundle, [(style, 0.8, 0.8)], [cat])       # a new bundle; `bundle` stays as it is

A LoRA's names are told by a table of every name that a layer of *this* bundle has in one program or another, so nothing is guessed
and what is not in the table is an error:

| program | name of a layer |
|---|---|
| diffusers | `unet.down_blocks.0.attentions.0.proj_in`, `text_encoder.text_model.encoder.layers.0.mlp.fc1` |
| PEFT | the same after `base_model.model.`, without the network's name |
| kohya | `lora_unet_down_blocks_0_attentions_0_proj_in`, `lora_te_text_model_encoder_layers_0_mlp_fc1` |
| kohya and ComfyUI, original layout | `lora_unet_input_blocks_1_1_proj_in`, `diffusion_model.input_blocks.1.1.proj_in` |
"""

import glob
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lienzo.errors import ConfigError, FormatError, KeysError, ModelNotFoundError, RequestError, nearest
from lienzo.models.bundle import Bundle, UsedEmbedding, UsedLora, tensors_digest
from lienzo.models.clip import TextEncoder
from lienzo.models.tokenizer import Tokenizer
from lienzo.nn import lora
from lienzo.nn.lora import Layer, LowRank, adaptable, stacked, with_weight
from lienzo.nn.sharing import with_modules
from lienzo.weights import hub
from lienzo.weights.keymap import UNET, unet_rules
from lienzo.weights.read import Checkpoint, read
from lienzo.weights.save import placed, write_tensors

Network = Literal["unet", "text_encoder"]
Style = Literal["diffusers", "kohya"]
Networks = Mapping[str, Mapping[str, LowRank]]
"""Network ("unet", "text_encoder") -> path of a layer -> what is added to it."""

PART = re.compile(
    r"(?P<layer>.+?)(?:\.lora_(?P<role>down|up|A|B)(?:\.default\w*)?|[._]lora(?:_linear_layer)?\.(?P<old>down|up))\.weight"
)
"""A LoRA's tensor: kohya's `.lora_down`, PEFT's `.lora_A`, diffusers' `.lora.down`, `.lora_linear_layer.down`, `_lora.down`."""
PEFT = "base_model.model."
CONFIG = "adapter_config.json"
ALPHAS = "lora_adapter_metadata"
"""Key of a safetensors header under which diffusers keeps PEFT's configuration of each network."""
REFUSED: Mapping[str, str] = {
    r"\.(dora_scale|lora_magnitude_vector)": "DoRA",
    r"\.hada_w": "LoHa",
    r"\.lokr_": "LoKr",
    r"\.lora_mid\.": "LoCon in Tucker form",
    r"\.oft_": "OFT",
    r"\.on_input$": "IA3",
    r"\.diff(_b)?$": "a full difference of weights",
}
"""What the names in other kinds of adapters look like -> their kind."""
FILES = tuple(f"{base}{end}" for base in ("pytorch_lora_weights", "adapter_model") for end in (".safetensors", ".bin"))
"""A LoRA in a folder of diffusers or PEFT."""
EMBEDDING_FILES = ("learned_embeds.safetensors", "learned_embeds.bin")
ENDINGS = (".safetensors", ".bin", ".pt", ".ckpt")
"""Of files that may hold an adapter, the best first."""
BASES = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "SDXL", 1280: "SDXL"}
"""Width of what the prompt is encoded to -> generation."""
MOST_TRIGGERS = 12


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """A LoRA.

    Attributes:
        name: the file's, without folder and extension.
        digest: SHA-256 of the file; where there was none, of the tensors.
        metadata: the texts in the file's header.
    """

    name: str
    networks: Networks = field(repr=False)
    digest: str
    metadata: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, name: str, networks: Networks, metadata: Mapping[str, str] | None = None) -> "Adapter":
        """From layers that were made here, by training for one; see `lienzo.nn.lora.collect`."""
        table: dict[str, Tensor] = {}
        for network, layers in networks.items():
            for path, low in layers.items():
                scale = torch.tensor(low.scale, dtype=torch.float64)
                table |= {f"{network}.{path}.{k}": v for k, v in (("down", low.down), ("up", low.up), ("scale", scale))}
        return cls(name=name, networks=networks, digest=tensors_digest(table), metadata=dict(metadata or {}))


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """A word that textual inversion has given a meaning (arXiv:2208.01618).

    Attributes:
        token: what stands for it in prompts.
        vectors: (n, D), n tokens in a row of the text encoder's width.
        digest: SHA-256 of the file; where there was none, of the tensor.
    """

    token: str
    vectors: Tensor = field(repr=False)
    digest: str

    def __post_init__(self) -> None:
        if not self.token or self.token != self.token.strip():
            raise RequestError(f"token={self.token!r}: a word, without spaces around it.")

    @property
    def tokens(self) -> tuple[str, ...]:
        """One for each vector, spelled as diffusers does."""
        return (self.token, *(f"{self.token}_{i}" for i in range(1, len(self.vectors))))


@dataclass(frozen=True, kw_only=True)
class AdapterReport:
    """What `lienzo inspect` tells about a LoRA or an embedding.

    Attributes:
        kind: "LoRA" or "textual inversion".
        style: whose names its tensors have.
        layers: network -> number of adapted layers; for an embedding, the vectors.
        ranks, alphas: those that occur; an alpha that is not written is the rank.
        base: what the file says, or its widths tell, about the model that it is for.
        triggers: words that call it in a prompt.
        about: title, author, licence and so on, as the file says.
    """

    name: str
    kind: str
    style: str
    layers: Mapping[str, int]
    convolutions: int
    ranks: tuple[int, ...]
    alphas: tuple[float, ...]
    parameters: int
    dtypes: str
    digest: str
    base: tuple[str, ...]
    triggers: tuple[str, ...]
    about: Mapping[str, str]


# --- reading -------------------------------------------------------------------------------------------------------


def load_adapter(
    source: str | Path | Mapping[str, Tensor],
    bundle: Bundle,
    *,
    name: str | None = None,
    revision: str | None = None,
    offline: bool | None = None,
) -> Adapter:
    """Read a LoRA for a bundle.

    Args:
        source: a `.safetensors`, `.pt` or `.bin` file, a folder of diffusers or PEFT, a hub id ("organisation/name", or
            "organisation/name/FILE" where there are several), or a table of tensors.
        bundle: whose layers it is to change.
        name: None: the file's; of a hub id whose file has the usual name, the repository's.
        revision, offline: of a hub id, as for `lienzo.weights.load`.

    Raises:
        ModelNotFoundError: no such file, or several.
        FormatError: another kind of adapter, or a file that contradicts itself.
        KeysError: tensors for which the bundle has no layer, or one of another shape; all are listed.
    """
    if isinstance(source, Mapping):
        file, digest, what, folder = Checkpoint(tensors=source, kind="memory"), tensors_digest(source), "The LoRA", None
    else:
        path = _file(source, FILES, revision, offline)
        file, digest, what, folder = read(path), _sha256(path), str(path), path.parent
        repo = hub_file(source)
        name = name or (repo[0].rpartition("/")[2] if repo and path.name in FILES else path.stem)
    return Adapter(
        name=name or "lora",
        networks=_networks(what, file, folder, bundle.base or bundle),
        digest=digest,
        metadata=file.metadata,
    )


def load_embedding(
    source: str | Path | Mapping[str, Tensor] | Tensor,
    *,
    token: str | None = None,
    revision: str | None = None,
    offline: bool | None = None,
) -> Embedding:
    """Read a textual-inversion embedding: diffusers' (one tensor, named by its token) or AUTOMATIC1111's.

    Args:
        source: a file, a folder or a hub id as for `load_adapter`, a table with one tensor, or a tensor.
        token: what shall stand for it in prompts; None: as the file says, else the file's name.
        revision, offline: of a hub id, as for `lienzo.weights.load`.

    Raises:
        ModelNotFoundError: no such file, or several.
        FormatError: not an embedding, or one of SDXL.
        RequestError: a tensor without a token.
    """
    if isinstance(source, Tensor):
        if token is None:
            raise RequestError("A tensor alone does not say what stands for it in prompts: give its token.")
        source = {token: source}
    if isinstance(source, Mapping):
        file, what, stem = Checkpoint(tensors=source, kind="memory"), "The embedding", None
        digest = tensors_digest(source)
    else:
        path = _file(source, EMBEDDING_FILES, revision, offline)
        file, what, stem, digest = read(path), str(path), path.stem, _sha256(path)
    found = _embedding(file)
    if found is None:
        keys = ", ".join([*file.tensors, *file.tables][:8]) or "nothing"
        sdxl = " It is one of SDXL, which lienzo does not have." if {"clip_l", "clip_g"} & file.tensors.keys() else ""
        raise FormatError(
            f"{what} is no textual-inversion embedding: expected one tensor, emb_params or string_to_param; it has: {keys}.{sdxl}"
        )
    written, vectors = found
    return Embedding(token=token or written or stem or "", vectors=vectors, digest=digest)


def inspect_adapter(source: str | Path) -> AdapterReport | None:
    """Describe a LoRA or an embedding, without a model; None where the file is neither.

    Raises:
        ModelNotFoundError: no such file.
        FormatError: a damaged file, or an adapter of another kind.
    """
    path = Path(source)
    if path.is_dir() and not any((path / name).is_file() for name in (*FILES, *EMBEDDING_FILES)):
        return None
    path = _file(path, (*FILES, *EMBEDDING_FILES))
    file = read(path)
    if not any(PART.fullmatch(key) for key in file.tensors) and not _refused(file.tensors):
        return _describe_embedding(path, file)
    _refuse(str(path), file.tensors)
    groups, _ = _groups(file.tensors)
    downs = {layer: group["down"] for layer, group in groups.items() if "down" in group}
    texts = re.compile(r"lora_te|text_encoder|text_model|encoder\.layers")
    layers = Counter("text_encoder" if texts.search(layer) else "unet" for layer in downs)
    style = "kohya" if any(layer.startswith("lora_") for layer in groups) else "diffusers"
    meta = file.metadata
    said = [meta.get(key, "") for key in ("modelspec.architecture", "ss_base_model_version", "ss_sd_model_name")]
    if any(key.startswith(PEFT) for key in file.tensors):
        style = "PEFT"
        said.append(str(_config(path.parent, str(path)).get("base_model_name_or_path") or ""))
    alphas = _Alphas.of(str(path), file, path.parent)
    return AdapterReport(
        name=path.stem,
        kind="LoRA",
        style=style,
        layers=dict(sorted(layers.items())),
        convolutions=sum(tensor.ndim == 4 and tensor.shape[2:] != (1, 1) for _, tensor in downs.values()),
        ranks=tuple(sorted({tensor.shape[0] for _, tensor in downs.values() if tensor.ndim})),
        alphas=tuple(
            sorted({alphas.alpha(str(path), layer, group) for layer, group in groups.items() if "down" in group})
        ),
        parameters=sum(tensor.numel() for key, tensor in file.tensors.items() if PART.fullmatch(key)),
        dtypes=_dtypes(file.tensors[key] for key in file.tensors if PART.fullmatch(key)),
        digest=_sha256(path),
        base=tuple(dict.fromkeys(text for text in [*said, *_made_for(groups)] if text)),
        triggers=_triggers(meta),
        about={
            name: meta[key]
            for name in ("title", "author", "description", "license", "usage_hint", "date")
            if meta.get(key := f"modelspec.{name}")
        },
    )


def _describe_embedding(path: Path, file: Checkpoint) -> AdapterReport | None:
    found = _embedding(file)
    if found is None:
        return None
    token, vectors = found
    said = str(file.values.get("sd_checkpoint_name") or "")
    return AdapterReport(
        name=path.stem,
        kind="textual inversion",
        style="AUTOMATIC1111" if "string_to_param" in file.tables or "emb_params" in file.tensors else "diffusers",
        layers={"vectors": len(vectors)},
        convolutions=0,
        ranks=(),
        alphas=(),
        parameters=vectors.numel(),
        dtypes=_dtypes([vectors]),
        digest=_sha256(path),
        base=tuple(filter(None, (said, BASES.get(vectors.shape[1])))),
        triggers=(token or path.stem,),
        about={},
    )


def _embedding(file: Checkpoint) -> tuple[str | None, Tensor] | None:
    """(token where the file says it, vectors (n, D))."""
    token: str | None = None
    if "string_to_param" in file.tables:
        tensors = list(file.tables["string_to_param"].values())
        token = str(file.values["name"]) if file.values.get("name") else None
    elif "emb_params" in file.tensors:
        tensors = [file.tensors["emb_params"]]
    else:
        tensors = list(file.tensors.values())
        token = next(iter(file.tensors), None)
    if (
        len(tensors) != 1
        or tensors[0].ndim not in (1, 2)
        or not tensors[0].is_floating_point()
        or not tensors[0].numel()
    ):
        return None
    return token, tensors[0].detach().view(-1, tensors[0].shape[-1])


def _triggers(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Words that the file says it was trained with, the most frequent first."""
    said = [word.strip() for word in metadata.get("modelspec.trigger_phrase", "").split(",")]
    counted: Counter[str] = Counter()
    try:
        for tags in json.loads(metadata.get("ss_tag_frequency", "{}")).values():
            counted.update({str(tag).strip(): int(count) for tag, count in tags.items()})
    except (ValueError, TypeError, AttributeError, RecursionError, OverflowError):
        counted.clear()  # a hint, and a damaged one
    return tuple(filter(None, dict.fromkeys([*said, *(tag for tag, _ in counted.most_common(MOST_TRIGGERS))])))


def _dtypes(tensors: Iterable[Tensor]) -> str:
    return "+".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors}))


def hub_file(source: str | Path) -> tuple[str, str] | None:
    """(hub id, file within or ""), where a name stands for that and for nothing on this machine."""
    text = source.as_posix() if isinstance(source, Path) else source
    found = re.fullmatch(rf"(?P<repo>{hub.HUB_ID.pattern})(?:/(?P<file>[^:]+))?", text)
    if found is None or hub.local(source, "The adapter").exists():
        return None
    if found["file"] is None:
        return None if text.endswith(ENDINGS) else (text, "")
    return None if Path(text.partition("/")[0]).is_dir() else (found["repo"], found["file"])


def _file(source: str | Path, usual: Sequence[str], revision: str | None = None, offline: bool | None = None) -> Path:
    at = hub_file(source)
    if at is not None:
        repo, wanted = at

        def only(held: Sequence[str]) -> Sequence[str]:
            name = _chosen(held, usual, repo, wanted)
            return [glob.escape(name), f"{glob.escape(name.rpartition('/')[0])}/{CONFIG}".lstrip("/")]

        folder = hub.fetch(repo, revision=revision, offline=offline, only=only)
        held = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
        return folder / _chosen(held, usual, repo, wanted)
    path = hub.local(source, "The adapter")
    if revision is not None:
        raise RequestError(
            f"revision: got {revision!r}; {source} is no hub id, and revisions are for those only. Leave it out."
        )
    if path.is_dir():
        return path / _chosen([item.name for item in path.iterdir() if item.is_file()], usual, str(path))
    if not path.is_file():
        raise ModelNotFoundError(f"No such file: {path}. Give a file, a folder that holds one, or a hub id.")
    return path


def _chosen(held: Sequence[str], usual: Sequence[str], where: str, wanted: str = "") -> str:
    """The file that is wanted, or has a usual name, or is the only one at the top that could be an adapter."""
    found = [name for name in ([wanted] if wanted else usual) if name in held][:1]
    if not found and not wanted:
        kinds = ([name for name in held if name.endswith(ending) and "/" not in name] for ending in ENDINGS)
        found = sorted(next(filter(None, kinds), []))
    if not found:
        raise ModelNotFoundError(
            f"{where} holds {'no ' + wanted if wanted else 'none of ' + ', '.join(usual)}, but "
            f"{', '.join(sorted(held)[:8]) or 'nothing'}. Name the file itself."
        )
    if len(found) > 1:
        raise ModelNotFoundError(f"{where} holds several: {', '.join(found[:8])}. Name one, as {where}/{found[0]}.")
    return found[0]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


Group = dict[str, tuple[str, Tensor]]
"""Role ("down", "up", "alpha") -> key in the file and tensor."""


def _groups(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Group], list[str]]:
    """The tensors by layer, and the keys that are no LoRA's or name a tensor twice."""
    groups: dict[str, Group] = {}
    unexpected = []
    for key, tensor in tensors.items():
        found = PART.fullmatch(key)
        if found is not None:
            layer, role = found["layer"], {"A": "down", "B": "up"}.get(found["role"], found["role"]) or found["old"]
        elif key.endswith(".alpha"):
            layer, role = key.removesuffix(".alpha"), "alpha"
        else:
            unexpected.append(key)
            continue
        group = groups.setdefault(layer.removeprefix(PEFT).replace(".processor.", "."), {})
        if role in group:
            unexpected.append(key)
        group.setdefault(role, (key, tensor))
    return groups, unexpected


def _made_for(groups: Mapping[str, Group]) -> list[str]:
    """The generations that the widths of a LoRA's layers tell."""
    found = {
        BASES.get(group["down"][1].shape[1])
        for layer, group in groups.items()
        if "down" in group
        and group["down"][1].ndim > 1
        and re.search(r"attn2[._]to_[kv]|text_model.*self_attn[._]", layer)
    }
    return sorted(filter(None, found))


def _networks(what: str, file: Checkpoint, folder: Path | None, bundle: Bundle) -> dict[str, dict[str, LowRank]]:
    """Every layer's adapter; errors speak of the file's own keys."""
    _refuse(what, file.tensors)
    groups, unexpected = _groups(file.tensors)
    if not any("down" in group for group in groups.values()):
        has = ", ".join(list(file.tensors)[:5]) or "no tensors"
        raise FormatError(
            f"{what} is no LoRA: expected keys such as x.lora_down.weight or x.lora_A.weight; it has: {has}."
        )
    alphas, places = _Alphas.of(what, file, folder), _places(bundle)
    networks: dict[str, dict[str, LowRank]] = {}
    missing: list[str] = []
    wrong: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    for name, group in groups.items():
        place = places.get(name)
        if place is None or not {"down", "up"} & group.keys():
            unexpected += [key for key, _ in group.values()]
            continue
        if lacking := {"down", "up"} - group.keys():
            missing += [f"{lacking.pop()} of {name}"]
            continue
        network, path, layer = place
        if path in networks.setdefault(network, {}):  # the same layer under two names
            unexpected += [key for key, _ in group.values()]
            continue
        (down_key, down), (up_key, up) = group["down"], group["up"]
        if not (down.is_floating_point() and up.is_floating_point()):
            raise FormatError(f"{what}: {name!r} holds {down.dtype} and {up.dtype}, not weights.")
        down, up = _as_ranked(down, layer), _as_ranked(up, layer)
        if misfit := _misfit(layer, down, up):
            wrong |= {{"down": down_key, "up": up_key}[role]: shapes for role, shapes in misfit.items()}
            continue
        networks[network][path] = LowRank(down, up, alphas.scale(what, name, group))
    if missing or unexpected or wrong:
        bases = _made_for(groups)
        what = f"{what}, made for {' or '.join(bases)}" if bases else what
        raise KeysError(what, missing=missing, unexpected=unexpected, wrong_shape=wrong)
    return networks


def _as_ranked(tensor: Tensor, layer: Layer) -> Tensor:
    """Linear layers' adapters are written as 1x1 convolutions by some programs, and the other way round."""
    if layer.weight.ndim == 2 and tensor.ndim == 4 and tensor.shape[2:] == (1, 1):
        return tensor[:, :, 0, 0]
    return tensor[:, :, None, None] if layer.weight.ndim == 4 and tensor.ndim == 2 else tensor


def _misfit(layer: Layer, down: Tensor, up: Tensor) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """role -> (shape got, shape that the layer needs), where they differ."""
    weight, rank = layer.weight, down.shape[0] if down.ndim else 0
    want = {"down": (rank, *weight.shape[1:]), "up": (weight.shape[0], rank, *(1,) * (weight.ndim - 2))}
    got = {"down": tuple(down.shape), "up": tuple(up.shape)}
    return {role: (got[role], want[role]) for role in want if got[role] != want[role] or not rank}


def _places(bundle: Bundle) -> dict[str, tuple[Network, str, Layer]]:
    """Every name that a layer of the bundle has somewhere -> network, path and the layer."""
    original = {rule.ours[0]: rule.theirs.removeprefix(UNET) for rule in unet_rules(bundle.unet.config)}
    places: dict[str, tuple[Network, str, Layer]] = {}
    for path, layer in adaptable(bundle.unet).items():
        theirs = original[f"{path}.weight"].removesuffix(".weight")
        old = re.sub(r"\.to_out\.0$", ".to_out", path)
        for dotted in (path, old):
            places |= dict.fromkeys((dotted, f"unet.{dotted}"), ("unet", path, layer))
        for flat in (path, theirs):
            places[f"lora_unet_{flat.replace('.', '_')}"] = ("unet", path, layer)
        places[f"diffusion_model.{theirs}"] = ("unet", path, layer)
    for path, layer in adaptable(bundle.text_encoder).items():
        old = re.sub(r"\.self_attn\.(q|k|v|out)_proj$", r".self_attn.to_\1", path)
        for dotted in (path, old):
            short = dotted.removeprefix("text_model.")
            names = (dotted, short, f"text_encoder.{dotted}", f"text_encoder.{short}")
            places |= dict.fromkeys(names, ("text_encoder", path, layer))
        for prefix in ("lora_te_", "lora_te1_"):
            places[prefix + path.replace(".", "_")] = ("text_encoder", path, layer)
    return places


def _refused(keys: Iterable[str]) -> str | None:
    return next((kind for key in keys for sign, kind in REFUSED.items() if re.search(sign, key)), None)


def _refuse(what: str, keys: Iterable[str]) -> None:
    kind = _refused(keys)
    if kind is not None:
        raise FormatError(
            f"{what} is {kind}, which lienzo does not have. Supported adapters are LoRA, linear and convolution."
        )


# --- alpha ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Alphas:
    """Where a file's alphas are: tensors beside the layers', or a configuration of PEFT's for each network (or for all: "").

    Neither: alpha is the rank, by diffusers' convention.
    """

    configs: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(cls, what: str, file: Checkpoint, folder: Path | None) -> "_Alphas":
        if any(key.startswith(PEFT) for key in file.tensors):
            return cls({"": _config(folder, what)})
        if ALPHAS not in file.metadata:
            return cls({})
        table = _json(file.metadata[ALPHAS], f"{what}: {ALPHAS}")
        configs: dict[str, dict[str, Any]] = {}
        for key, value in table.items():
            network = next((n for n in get_args(Network) if key.startswith(f"{n}.")), "")
            configs.setdefault(network, {})[key.removeprefix(f"{network}.")] = value
        return cls(configs)

    def alpha(self, what: str, name: str, group: Group) -> float:
        rank = group["down"][1].shape[0]
        if "alpha" in group:
            key, tensor = group["alpha"]
            if tensor.numel() != 1:
                raise KeysError(what, wrong_shape={key: (tuple(tensor.shape), ())})
            return _number(what, key, tensor.item())
        config = self._config_of(name)
        if config is None:
            return float(rank)
        if config.get("use_dora"):
            raise FormatError(f"{what} is DoRA, which lienzo does not have.")
        patterns = config.get("alpha_pattern") or {}
        if not isinstance(patterns, dict):
            raise FormatError(f"{what}: alpha_pattern is a {type(patterns).__name__}, expected a table.")
        found = (value for pattern, value in patterns.items() if _matches(what, pattern, name))
        return _number(what, "lora_alpha", next(found, config.get("lora_alpha", 8)))  # 8 is PEFT's own default

    def scale(self, what: str, name: str, group: Group) -> float:
        rank, config = group["down"][1].shape[0], self._config_of(name) or {}
        stabilised = "alpha" not in group and config.get("use_rslora")  # arXiv:2312.03732
        return self.alpha(what, name, group) / (math.sqrt(rank) if stabilised else rank)

    def _config_of(self, name: str) -> Mapping[str, Any] | None:
        return next((c for network, c in self.configs.items() if not network or name.startswith(f"{network}.")), None)


def _matches(what: str, pattern: str, name: str) -> bool:
    """PEFT's patterns are regular expressions; those that programs write are the ends of paths, and only they are taken."""
    if re.search(r"[*+?\[\](){}|\\$]", pattern):
        raise FormatError(f"{what}: alpha_pattern {pattern!r} is a regular expression; only paths are supported.")
    if pattern.startswith("^"):
        return pattern[1:] in (name, name.partition(".")[2])
    return name == pattern or name.endswith(f".{pattern}")


def _number(what: str, key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise FormatError(f"{what}: {key} is {value!r}, expected a number.")
    return float(value)


def _config(folder: Path | None, what: str) -> dict[str, Any]:
    if folder is None or not (folder / CONFIG).is_file():
        raise FormatError(f"{what} is PEFT's, whose alpha is in {CONFIG} beside it, and that is missing. Put it there.")
    return _json((folder / CONFIG).read_bytes(), str(folder / CONFIG))


def _json(text: str | bytes, what: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{what} is no valid JSON: {error}.") from None
    if not isinstance(data, dict):
        raise FormatError(f"{what}: expected a JSON object, got {type(data).__name__}.")
    return data


# --- on a bundle ---------------------------------------------------------------------------------------------------

Weighted = tuple[Adapter, float, float]
"""An adapter and how much of it the U-Net and the text encoder have."""


def with_adapters(bundle: Bundle, adapters: Sequence[Weighted], embeddings: Sequence[Embedding] = ()) -> Bundle:
    """A new bundle with adapters and embeddings; `bundle` is not changed and shares all its tensors with it.

    To take them off again, go on with `bundle` (the new one's `base`).

    Raises:
        ConfigError: the bundle has some already: give all at once to its base.
        KeysError: an adapter or embedding of another model.
        RequestError: a weight that is no number, a token that the tokenizer has already, or the same file twice.
    """
    _check_once(adapters, embeddings)
    networks = {
        network: lora.adapted(getattr(bundle, network), layers)
        for network, layers in _layers(bundle, adapters).items()
        if layers
    }
    return replace(
        _with_embeddings(replace(bundle, **networks), embeddings),
        base=bundle,
        adapters=tuple(UsedLora(name=a.name, digest=a.digest, unet=u, text_encoder=t) for a, u, t in adapters),
        embeddings=tuple(UsedEmbedding(token=e.token, digest=e.digest) for e in embeddings),
    )


def merged(bundle: Bundle, adapters: Sequence[Weighted], embeddings: Sequence[Embedding] = ()) -> Bundle:
    """A new bundle whose weights have the adapters in them: an ordinary model, with a digest of its own, that can be saved.

    Pictures cost no more than the base's; they differ from those of `with_adapters` in the last digits. Raises as that does.
    """
    networks = {
        network: lora.merged(getattr(bundle, network), layers)
        for network, layers in _layers(bundle, adapters).items()
        if layers
    }
    made = _with_embeddings(replace(bundle, **networks), embeddings)
    names = [*(adapter.name for adapter, _, _ in adapters), *(embedding.token for embedding in embeddings)]
    return replace(made, name="+".join([bundle.name, *names]), weights=None)


def _check_once(adapters: Sequence[Weighted], embeddings: Sequence[Embedding]) -> None:
    """A record tells files apart by their digests, so each may be there once."""
    counted = Counter([*(adapter.digest for adapter, _, _ in adapters), *(e.digest for e in embeddings)])
    for name, digest in [*((a.name, a.digest) for a, _, _ in adapters), *((e.token, e.digest) for e in embeddings)]:
        if counted[digest] > 1:
            raise RequestError(
                f"{name!r} is given twice (SHA-256 {digest[:16]}...). Give it once, with the sum of the weights."
            )


def _layers(bundle: Bundle, adapters: Sequence[Weighted]) -> dict[str, dict[str, LowRank]]:
    """Network -> path -> what all adapters add there; nothing where their weights are 0."""
    if bundle.base is not None:
        raise ConfigError(
            f"{bundle.name} has adapters already. Give all of them at once to the bundle without (its base)."
        )
    parts: dict[str, dict[str, list[tuple[LowRank, float]]]] = {network: {} for network in get_args(Network)}
    for adapter, *weights in adapters:
        if not all(isinstance(weight, (int, float)) and math.isfinite(weight) for weight in weights):
            raise RequestError(f"The weights of the LoRA {adapter.name!r} are {weights}; expected two numbers.")
        for (network, rows), weight in zip(parts.items(), weights, strict=True):
            there, layers = adapter.networks.get(network, {}), adaptable(getattr(bundle, network))
            unexpected = [f"{network}.{path}" for path in there if path not in layers]
            wrong = {
                f"{network}.{path}.{role}": shapes
                for path, low in there.items()
                if path in layers
                for role, shapes in _misfit(layers[path], low.down, low.up).items()
            }
            if unexpected or wrong:
                raise KeysError(f"The LoRA {adapter.name!r}", unexpected=unexpected, wrong_shape=wrong)
            if weight:
                for path, low in there.items():
                    rows.setdefault(path, []).append((low, float(weight)))
    return {network: {path: stacked(row) for path, row in rows.items()} for network, rows in parts.items()}


def _with_embeddings(bundle: Bundle, embeddings: Sequence[Embedding]) -> Bundle:
    if not embeddings:
        return bundle
    tokens = [token for embedding in embeddings for token in embedding.tokens]
    _check_tokens(bundle.tokenizer, embeddings)
    table = bundle.text_encoder.text_model.embeddings.token_embedding
    rows, width = table.weight.shape
    first = len(bundle.tokenizer)
    if first > rows:
        raise ConfigError(f"{bundle.name}: its tokenizer has {first} tokens, its text encoder {rows}.")
    wrong = {
        e.token: (tuple(e.vectors.shape), (len(e.vectors), width))
        for e in embeddings
        if e.vectors.shape[1:] != (width,)
    }
    if wrong:
        raise KeysError("The embeddings", wrong_shape=wrong)
    weight = torch.cat([table.weight.detach()[:first], *(e.vectors.to(table.weight) for e in embeddings)])
    larger = with_weight(table, weight)
    larger.num_embeddings = len(weight)
    encoder: TextEncoder = with_modules(bundle.text_encoder, {"text_model.embeddings.token_embedding": larger})
    encoder.config = replace(encoder.config, vocab_size=len(weight))
    return replace(bundle, tokenizer=bundle.tokenizer.with_tokens(tokens), text_encoder=encoder)


def _check_tokens(tokenizer: Tokenizer, embeddings: Sequence[Embedding]) -> None:
    seen: set[str] = set()
    for embedding in embeddings:
        for token in (*embedding.tokens, f"{embedding.token}_1"):
            if token in tokenizer or token in seen:
                raise RequestError(
                    f"The model knows the token {token!r} already. Choose another one for the embedding (FILE:TOKEN, token=)."
                )
        seen.update(embedding.tokens)


# --- writing -------------------------------------------------------------------------------------------------------


def save_adapter(
    path: str | Path, adapter: Adapter, *, style: Style = "diffusers", dtype: torch.dtype | None = None
) -> Path:
    """Write a LoRA as safetensors; a file that is there is replaced.

    Args:
        style: "diffusers": PEFT's keys under each network's name, which diffusers 0.21 and later read. Some readers know
            no alpha there, so it is multiplied into `up`. "kohya": what the web interfaces read, alphas beside the layers.
        dtype: cast the weights; None: as they are.

    Raises:
        FormatError: no .safetensors, or weights that the dtype cannot hold.
        OutputError: it cannot be written; nothing is left behind.
    """
    out = _safetensors(path)
    if style not in get_args(Style):
        raise RequestError(f"style: got {style!r}; there is no such style. {nearest(style, get_args(Style))}")
    tensors = dict(_diffusers(adapter) if style == "diffusers" else _kohya(adapter))
    metadata = {key: text for key, text in adapter.metadata.items() if key not in ("format", ALPHAS)}
    with placed(out) as temporary:
        write_tensors(temporary, tensors, tensors.__getitem__, dtype=dtype, metadata=metadata)
    return out


def save_embedding(path: str | Path, embedding: Embedding) -> Path:
    """Write an embedding as diffusers does: one tensor under its token's name; a file that is there is replaced.

    Raises:
        FormatError: no .safetensors.
        OutputError: it cannot be written; nothing is left behind.
    """
    out = _safetensors(path)
    tensors = {embedding.token: embedding.vectors}
    with placed(out) as temporary:
        write_tensors(temporary, tensors, tensors.__getitem__)
    return out


def _safetensors(path: str | Path) -> Path:
    out = Path(path)
    if out.suffix != ".safetensors":
        raise FormatError(f"{out}: adapters are written as safetensors only. Name a .safetensors file.")
    return out


def _diffusers(adapter: Adapter) -> Iterator[tuple[str, Tensor]]:
    for network, layers in adapter.networks.items():
        for path, low in layers.items():
            up = low.up if low.scale == 1 else (low.up.float() * low.scale).to(low.up.dtype)
            yield f"{network}.{path}.lora_A.weight", low.down
            yield f"{network}.{path}.lora_B.weight", up


def _kohya(adapter: Adapter) -> Iterator[tuple[str, Tensor]]:
    prefixes = {"unet": "lora_unet_", "text_encoder": "lora_te_"}
    for network, layers in adapter.networks.items():
        for path, low in layers.items():
            name = prefixes[network] + path.replace(".", "_")
            yield f"{name}.lora_down.weight", low.down
            yield f"{name}.lora_up.weight", low.up
            yield f"{name}.alpha", torch.tensor(low.scale * low.rank)
