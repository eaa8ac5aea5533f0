"""`lienzo generate`."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lienzo.cli import signals
from lienzo.cli.folders import filled
from lienzo.cli.params import Embedding, Lora, LoraFile, Number, Numbers, Size, json_option, model_options
from lienzo.cli.progress import Progress, progress
from lienzo.cli.text import note, plain, print_json, warn
from lienzo.errors import ImageError, InputError, OutputError
from lienzo.provenance.files import IfExists, check_target, kind_of
from lienzo.provenance.settings import LEVELS, Settings

if TYPE_CHECKING:
    from lienzo.models.bundle import Bundle
    from lienzo.pipeline.generate import Result, Step
    from lienzo.pipeline.request import Request
    from lienzo.provenance.metadata import Record

SETTINGS: Mapping[str, str] = {
    "negative_prompt": "--negative",
    "steps": "--steps",
    "guidance_scale": "--guidance",
    "sampler": "--sampler",
    "grid": "--grid",
    "strength": "--strength",
    "soft_mask": "--soft-mask",
    "guidance_rescale": "--guidance-rescale",
    "guidance_interval": "--guidance-interval",
    "eta": "--eta",
    "order": "--order",
    "clip_skip": "--clip-skip",
    "sigmas": "--sigmas",
    "vae_tiling": "--vae-tiling",
}
"""Fields of `Request` that an option sets as they are."""

OPTIONS: Mapping[str, str] = {
    **SETTINGS, "prompt": "PROMPT", "seed": "--seed", "width": "--size", "height": "--size", "init": "--init", "mask": "--mask",
}  # fmt: skip
"""What the user calls each field of `Request`."""

MODEL_OPTIONS = ("revision", "variant", "offline", "prediction_type", "ema", "tokenizer", "config")

EPILOG = """
\b
Prompts: words without quotes are one prompt (`lienzo generate a red circle`). Where any argument holds a space,
or with --each, every argument is a prompt of its own (`lienzo generate "a red circle" "a blue star"`).
An empty prompt is "". What starts with - needs quotes and a space in it, or a -- before it.

\b
Files: without --out, lienzo-SEED.png in this folder or the next free name; nothing is overwritten. --out FOLDER/
puts them there. --out NAME.png, .jpg or .webp (lossless) is that file; several pictures are NAME-1.png,
NAME-2.png and so on; a file that exists is an error unless --force is given.

Exit codes: see `lienzo --help`.
"""


class Generate(click.Command):
    """Lets a quoted prompt start with a dash, yet takes no mistyped option for a prompt."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        literal = len(args) - args.index("--") - 1 if "--" in args else 0
        rest = super().parse_args(ctx, list(args))
        prompts: tuple[str, ...] = ctx.params.get("prompts") or ()
        for prompt in prompts[: len(prompts) - literal]:
            if re.match(r"-\S*$|--[\w-]+=", prompt):
                known = [name for option in self.params for name in option.opts if name.startswith("--")]
                name = prompt.split("=")[0]
                raise click.UsageError(
                    f"No such option: {name}. "
                    + (f"Did you mean {' or '.join(close)}? " if (close := get_close_matches(name, known)) else "")
                    + f"If it is a prompt, put -- before it: `lienzo generate -- {prompt}`.",
                    ctx,
                )
        return rest


@click.command(cls=Generate, epilog=EPILOG, context_settings={"ignore_unknown_options": True})
@click.argument("prompts", nargs=-1, metavar="PROMPT...")
@click.option(
    "--model",
    metavar="MODEL",
    help="A diffusers folder, a .safetensors or .ckpt file, or a hub id. [default: boceto, embedded]",
)
@click.option("--negative", "negative_prompt", metavar="TEXT", help="What to steer away from.")
@click.option("--steps", type=Number(int), metavar="N", help="Denoising steps. [default: 20]")
@click.option(
    "--guidance",
    "guidance_scale",
    type=Number(float),
    metavar="SCALE",
    help="How closely to follow the prompt; 1 is none. [default: 7.5]",
)
@click.option("--sampler", metavar="NAME", help="See `lienzo samplers`. [default: the model's own]")
@click.option(
    "--grid", metavar="NAME", help="Which noise levels to visit; see `lienzo samplers`. [default: the sampler's own]"
)
@click.option("--seed", type=Number(int), metavar="N", help="[default: random]")
@click.option(
    "--count",
    type=Number(int, 1, 100_000),
    default=1,
    metavar="N",
    help="Pictures of each prompt, 1 to 100,000, with seeds N, N+1 ... [default: 1]",
)
@click.option("--size", type=Size(), metavar="WxH", help="In pixels, multiples of 8. [default: the model's own]")
@click.option(
    "--init", type=click.Path(exists=True, dir_okay=False), metavar="PICTURE", help="Start from this picture."
)
@click.option(
    "--strength", type=Number(float), metavar="0..1", help="How much of --init to change. [default: 0.8; with --mask 1]"
)
@click.option(
    "--mask",
    type=click.Path(exists=True, dir_okay=False),
    metavar="PICTURE",
    help="White where --init is to be painted anew.",
)
@click.option(
    "--soft-mask/--hard-mask", default=None, help="Blend by the mask's grey values instead of splitting at one half."
)
@click.option("--out", metavar="FILE|FOLDER/", help="Where to; see below.")
@click.option("--force", is_flag=True, help="Overwrite the file that --out names.")
@click.option(
    "--mark",
    type=click.Choice(LEVELS),
    help="How the picture accounts for itself; see docs/howto/verify.md. [default: LIENZO_MARK, else full]",
)
@click.option(
    "--private",
    is_flag=True,
    default=None,
    help="Keep the prompt out of the picture: only a commitment to it is there.",
)
@click.option(
    "--from",
    "source",
    type=click.Path(exists=True, dir_okay=False),
    metavar="PICTURE",
    help="Make that picture again; options beside it change what they name.",
)
@json_option
@click.option(
    "--dtype", metavar="TYPE", help="fp32, fp16 or bf16. [default: fp32 on the CPU, elsewhere the file's own]"
)
@click.option(
    "--device",
    metavar="NAME",
    help="cpu, cuda, cuda:1, mps. [default: cuda where there is one, else cpu; with --from as recorded]",
)
@click.option(
    "--batch",
    type=Number(int, 1, 1000),
    default=1,
    metavar="N",
    help="Pictures made at once, 1 to 1,000: faster on a GPU. [default: 1]",
)
@click.option(
    "--simulation",
    metavar="LANGUAGE",
    help="Burn a visible label into the picture, for scenarios that analysts train on: en, es, de, fr ...",
)
@click.option("--each", is_flag=True, help="Every argument is a prompt of its own, without quotes too.")
@click.option(
    "--guidance-rescale", type=Number(float), metavar="0..1", help="Against over-exposure (arXiv:2305.08891)."
)
@click.option(
    "--guidance-interval",
    type=Number(float),
    nargs=2,
    metavar="LOW HIGH",
    help="Guide only at noise levels between these (arXiv:2404.07724).",
)
@click.option("--eta", type=Number(float), metavar="0..1", help="Fresh noise in ddim's steps.")
@click.option("--order", type=Number(int), metavar="1..3", help="Order of unipc. [default: 2]")
@click.option("--clip-skip", type=Number(int), metavar="N", help="Layers of the text encoder left out at the end.")
@click.option("--sigmas", type=Numbers(), help="Explicit noise levels, falling, instead of --steps and --grid.")
@click.option(
    "--vae-tiling/--no-vae-tiling", default=None, help="Decode in tiles, to save memory. [default: above 1536x1536]"
)
@click.option(
    "--lora",
    "loras",
    type=Lora(),
    multiple=True,
    help="A LoRA, a file or hub id, and how much of it, for the U-Net and for the text encoder; may be given several times. [default: 1]",
)
@click.option(
    "--embedding",
    "embeddings",
    type=Embedding(),
    multiple=True,
    help="A textual-inversion embedding, a file or hub id, and the word that stands for it in prompts; may be given several times.",
)
@model_options
def generate(prompts: tuple[str, ...], **given: Any) -> None:
    """Make a picture of each PROMPT."""
    if not prompts and given["source"] is None:
        raise click.UsageError(
            'Missing PROMPT. Say what to paint, for example: lienzo generate "a red circle". An empty prompt is "".'
        )
    if given["out"] and not _is_folder(given["out"]):
        kind_of(Path(given["out"]))
    told = {} if given["source"] is None else _receipt(given["source"])
    simulation = given["simulation"] or _label(told)
    settings = Settings.read(mark=given["mark"], private=given["private"], simulation=simulation)
    if given["mark"] is None and settings.mark == "full" and given["init"] is None and _latent(told):
        settings = replace(settings, mark="latent")  # else it starts from other noise, and is another picture
    texts = _prompts(prompts, each=given["each"], private=settings.private)
    record, requests = _requests(texts, given)
    with filled(Path(given["out"]) if given["out"] and _is_folder(given["out"]) else Path(".")):
        targets = _targets(given["out"], requests, force=given["force"], private=settings.private)
        bundle = _load(given, record)
        job = _Job(
            bundle,
            requests,
            targets,
            record=record,
            silent=given["as_json"],
            settings=settings,
            latent=_latent(told),
        )
        with progress() as bar:
            job.run(given["batch"], bar)
    if given["as_json"]:
        print_json({"pictures": job.made})


@dataclass
class _Job:
    """Pictures to make, and those that are made.

    Attributes:
        record: of the picture that is to be made again.
        latent: whether that one's initial noise was marked, by its credentials.
    """

    bundle: "Bundle"
    requests: "Sequence[Request]"
    targets: Sequence[tuple[Path, IfExists]]
    record: "Record | None"
    silent: bool
    settings: Settings
    latent: bool
    made: list[dict[str, Any]] = field(default_factory=list)
    unchecked: bool = False

    def __post_init__(self) -> None:
        from lienzo.pipeline.generate import resolve
        from lienzo.provenance.writing import check_room

        self.requests = [resolve(self.bundle, request) for request in self.requests]
        for request, (target, _) in zip(self.requests, self.targets, strict=True):
            check_room(self.bundle, request, kind_of(target))

    def run(self, batch: int, bar: Progress) -> None:
        from lienzo.pipeline.generate import finished
        from lienzo.studio import Pipeline

        pipeline, rounds = Pipeline(self.bundle, self.settings), -(-len(self.requests) // batch)
        todo = iter(zip(self.requests, self.targets, strict=True))
        try:
            for index in range(rounds):
                members = list(islice(todo, batch))

                def show(step: "Step", index: int = index) -> None:
                    signals.check()
                    what = f"picture {min(index * batch + 1, len(self.requests))}/{len(self.requests)}"
                    bar.advance(what, index * step.of + step.index, rounds * step.of)

                results = finished(pipeline.stream([request for request, _ in members]), show)
                for result, (_, target) in zip(results, members, strict=True):
                    self.keep(result, *target, bar)
            if self.unchecked:
                note("No safety checker looked at the pictures: none is set up (LIENZO_SAFETY). Their receipts say so.")
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"Stopped. {len(self.made)} of {len(self.requests)} pictures were saved.") from None

    def keep(self, result: "Result", target: Path, if_exists: IfExists, bar: Progress) -> None:
        import json

        from lienzo.provenance.marking import Marked
        from lienzo.provenance.metadata import Record
        from lienzo.provenance.writing import save

        try:
            path = save(result, target, if_exists=if_exists)
        except OutputError as error:
            raise OutputError(f"{error} The same picture comes again with --seed {result.request.seed}.") from None
        self.unchecked |= isinstance(result, Marked) and result.signed.receipt.safety.picture.status == "not_checked"
        record = Record.of(result)
        notes = [*result.warnings, *self._compared(record)]
        for message in notes:
            bar.say(plain(f"Warning: {message}."), True)
        if not self.silent:
            bar.say(plain(f"{path}  seed {record.request.seed}  digest {record.picture.sha256}"), False)
        self.made.append(
            {
                "path": str(path),
                "seed": record.request.seed,
                "digest": record.picture.sha256,
                "warnings": notes,
                # of a private picture, nothing holds the prompt
                **({} if self.settings.private else {"record": json.loads(record.canonical)}),
                **({"receipt": result.signed.document} if isinstance(result, Marked) else {}),
            }
        )

    def _compared(self, made: "Record") -> Iterator[str]:
        """What to say where the same request and weights gave other pixels than recorded."""
        old = self.record
        if old is None:
            return
        of = attrgetter("request_digest", "weights.digest", "settings", "adapters", "embeddings")
        if of(made) == of(old) and old.given is not None:
            yield (
                f"the recorded picture was not made from its request alone: its maker gave {' and '.join(old.given)} "
                "besides. This is what the request alone gives"
            )
        elif of(made) == of(old) and made.model_made != old.model_made:
            differs = "the pixels differ from the recorded ones, which were made"
            if self.latent:
                yield (
                    f"{differs} from marked noise (--mark latent): that comes again only with --mark latent and its maker's "
                    "watermark key"
                )
            elif _means(made) == _means(old):
                yield f"{differs} with {_means(old)} too, so on another kind of processor or from marked noise (--mark latent)"
            else:
                yield f"{differs} with {_means(old)}; this is {_means(made)}, or another kind of processor"
        elif of(made) == of(old) and made.unmarked and old.unmarked and made.picture.sha256 != old.picture.sha256:
            yield (
                "the picture below the marks is as recorded, what is marked in it is not: a watermark of another key (another "
                "machine's, or it was changed since), of another tenant or form, or another label"
            )


def _means(record: "Record") -> str:
    """What, besides the request and the weights, the last bits depend on."""
    threads = "" if record.threads is None else f" with {record.threads} threads"
    return f"torch {record.software.torch} on {record.device}{threads} in {record.dtype}"


def _prompts(arguments: tuple[str, ...], *, each: bool, private: bool) -> list[str]:
    """The rule of `EPILOG`. What is private is not shown."""

    def shown(*texts: str) -> str:
        return "" if private else f": {', '.join(map(_quote, texts))}"

    quoted = [text for text in arguments if not text or re.search(r"\s", text)]
    if each or len(arguments) < 2 or quoted:
        if not each and 0 < len(quoted) < len(arguments):
            note(
                f"{len(arguments)} prompts{shown(*arguments)}: every argument is one of its own, because "
                f"{'one of them' if private else _quote(quoted[0])} is quoted. For one prompt, quote it whole; --each says that this is meant."
            )
        return list(arguments)
    joined = " ".join(arguments)
    note(f"One prompt{shown(joined)}. For several, quote them or use --each.")
    return [joined]


def _quote(text: str) -> str:
    return f'"{text}"'


def _requests(texts: list[str], given: Mapping[str, Any]) -> "tuple[Record | None, list[Request]]":
    """What is asked for, and the record it was read from, if any."""
    from lienzo.pipeline.request import Request
    from lienzo.provenance.metadata import read
    from lienzo.rng import new_seed

    settings = {name: given[name] for name in SETTINGS if given[name] is not None}
    if given["size"] is not None:
        settings["width"], settings["height"] = given["size"]
    if given["source"] is None:
        inputs = {name: given[name] for name in ("init", "mask") if given[name] is not None}
        bases = [Request(text, seed=new_seed(), **inputs, **settings) for text in texts]
        record = None
    else:
        record = read(given["source"])
        base = record.request.with_inputs(init=given["init"], mask=given["mask"])
        for picture in (base.init, base.mask):
            if picture is not None:
                _ = picture.image  # an error now, before the model is loaded, where it is not given
        if "sigmas" in settings:
            settings["grid"] = None
        elif "grid" in settings or "steps" in settings:
            settings["sigmas"] = None
        bases = [base.replace(**settings, prompt=text) for text in texts or [base.prompt]]
    first = given["seed"]
    if first is None and given["count"] == 1:
        return record, bases
    return record, [
        base.replace(seed=(base.seed if first is None else first) + i) for base in bases for i in range(given["count"])
    ]


def _receipt(source: str | Path) -> dict[str, Any]:
    """What a picture says of itself by its credentials, whoever signed them; nothing where there are none."""
    from lienzo.errors import UnreadableError
    from lienzo.provenance.examine import MOST_BYTES, examine
    from lienzo.reading import read_whole

    receipt = None
    with suppress(
        UnreadableError, ImageError, KeyError, TypeError
    ):  # what is wrong with it, reading its record will tell
        receipt = examine(read_whole(Path(source), MOST_BYTES), trust_anchors="").document["receipt"]["receipt"]
    return receipt if isinstance(receipt, dict) else {}


def _label(receipt: Mapping[str, Any]) -> str | None:
    """The language of the label in a picture: it is not to be lost."""
    from lienzo.safety.simulation import WORDS

    return next((language for language, word in WORDS.items() if word == receipt.get("simulation")), None)


def _latent(receipt: Mapping[str, Any]) -> bool:
    """Whether a picture's initial noise is marked."""
    marks = receipt.get("marks")
    return isinstance(marks, list) and "latent" in marks


def _is_folder(out: str) -> bool:
    return out.endswith(("/", os.sep)) or os.path.isdir(out)  # Path.is_dir raises where the name is too long


def _targets(
    out: str | None, requests: "Sequence[Request]", *, force: bool, private: bool
) -> list[tuple[Path, IfExists]]:
    """Where each picture goes, checked before any work."""
    targets: list[tuple[Path, IfExists]]
    if out is None or _is_folder(out):
        folder = Path(out or ".")
        # a seed helps to guess a private picture's prompt
        names = ["lienzo-private" if private else f"lienzo-{request.seed}" for request in requests]
        targets = [(folder / f"{name}.png", "number") for name in names]
        check_target(targets[0][0], if_exists="number")
        return targets
    path, mode = Path(out), "overwrite" if force else "error"
    several = [path.with_name(f"{path.stem}-{i}{path.suffix}") for i in range(1, len(requests) + 1)]
    targets = [(name, mode) for name in (several if len(requests) > 1 else [path])]  # type: ignore[misc]
    for name, how in targets:
        check_target(name, if_exists=how)
    return targets


def _load(given: Mapping[str, Any], record: "Record | None") -> "Bundle":
    """The model that was named, or the recorded one."""
    import torch

    from lienzo.weights import load

    options = {name: given[name] for name in MODEL_OPTIONS}
    model, dtype = given["model"], given["dtype"]
    if record is not None:
        dtype = dtype or record.dtype
        options["prediction_type"] = options["prediction_type"] or record.prediction_type
        if model is None:
            model = _by_name(record)
            options["offline"] = True  # a picture from anywhere must not decide what is fetched
    signals.check()
    best = "cuda" if torch.cuda.is_available() else "cpu"
    if record is not None and record.device == "cpu":
        best = "cpu"  # only the same kind of device, and as many threads, give the same bits
    device = given["device"] or best
    if record is not None and record.threads is not None and device == "cpu":
        torch.set_num_threads(record.threads)
    bundle = _adapted(load(model, dtype=dtype, device=device, **options), given, record)
    if record is not None:
        _check_model(bundle, record, named=given["model"] is not None)
    return bundle


def _adapted(bundle: "Bundle", given: Mapping[str, Any], record: "Record | None") -> "Bundle":
    """The bundle with the LoRA and embeddings that are given; those of a record in its order and with its weights.

    Raises:
        InputError: a recorded one is not among those given.
    """
    from lienzo.weights.adapters import load_adapter, load_embedding, with_adapters

    files: Sequence[LoraFile] = given["loras"]
    offline = given["offline"]
    loras = [(load_adapter(file.source, bundle, offline=offline), file.unet, file.text_encoder) for file in files]
    words = [(load_embedding(source, token=token, offline=offline), token) for source, token in given["embeddings"]]
    if record is not None:
        recorded = {used.digest: used for used in record.adapters or ()}
        tokens = {used.digest: used.token for used in record.embeddings or ()}
        lacking = [f"--lora {one.name} (SHA-256 {digest[:16]}...)" for digest, one in recorded.items()
                   if digest not in {lora.digest for lora, _, _ in loras}]  # fmt: skip
        lacking += [f"--embedding for {token!r} (SHA-256 {digest[:16]}...)" for digest, token in tokens.items()
                    if digest not in {word.digest for word, _ in words}]  # fmt: skip
        if lacking:
            raise InputError(
                f"The picture was made with adapters whose files have to be given again: {', '.join(lacking)}. Among the files "
                "given is none with that digest."
            )
        loras.sort(key=lambda one: _place(one[0].digest, recorded))
        words.sort(key=lambda one: _place(one[0].digest, tokens))
        loras = [
            (lora, recorded[lora.digest].unet, recorded[lora.digest].text_encoder)
            if unet is None and lora.digest in recorded
            else (lora, unet, text)
            for lora, unet, text in loras
        ]
        words = [
            (replace(word, token=tokens.get(word.digest, word.token)) if token is None else word, token)
            for word, token in words
        ]
    if not loras and not words:
        return bundle
    return with_adapters(
        bundle, [(lora, *_weights(unet, text)) for lora, unet, text in loras], [word for word, _ in words]
    )


def _place(digest: str, recorded: Mapping[str, Any]) -> int:
    """Where in the record; behind all that are there."""
    return [*recorded, digest].index(digest)


def _weights(unet: float | None, text_encoder: float | None) -> tuple[float, float]:
    unet = 1.0 if unet is None else unet
    return unet, unet if text_encoder is None else text_encoder


def _by_name(record: "Record") -> str:
    """The recorded model, if its name is enough to find it on this machine."""
    from lienzo.weights import EMBEDDED
    from lienzo.weights.hub import HUB_ID, cached

    name = record.weights.name
    if name == EMBEDDED or (HUB_ID.fullmatch(name) and not os.path.exists(name) and cached(name) is not None):
        return name
    raise InputError(
        f"The picture was made with the model {name!r} (digest {record.weights.digest[:16]}...), which cannot be found here by "
        "its name alone. Say where it is with --model."
    )


def _check_model(bundle: "Bundle", record: "Record", *, named: bool) -> None:
    if bundle.digest != record.weights.digest:
        differs = (
            f"these are not the weights that made the picture: {bundle.name} has the digest {bundle.digest[:16]}..., "
            f"recorded is {record.weights.name} with {record.weights.digest[:16]}..."
        )
        if not named:
            raise InputError(f"{differs} Name the right model, or another one on purpose, with --model.")
        warn(f"{differs} The picture will be another one.")
    elif bundle.settings_digest != record.settings:
        warn(
            "the model's settings (networks, noise schedule or tokenizer) are not the recorded ones, though the weights are. "
            "The picture may be another one."
        )


def as_options(message: str) -> str:
    """A `RequestError`'s message with the command line's names for the request's fields and the model's options."""
    names = {**{name: f"--{name.replace('_', '-')}" for name in (*MODEL_OPTIONS, "dtype", "device")}, **OPTIONS}
    return re.sub(r"^(\w+)(?=[.:])", lambda found: names.get(found[1], found[1]), message, flags=re.MULTILINE)
