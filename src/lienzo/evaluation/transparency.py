"""A model card and a transparency report: what is known of a model, where it was measured, and what nobody has told.

Nothing is made up: what no file says is "not given", and a list tells which command or file would supply it. The points of law and
of NIST AI 600-1 are *mapped to*: they name where in the report something stands that such a point asks for. That is no
certificate, and no lawyer's reading of the law.

| read | what it is |
|---|---|
| the model | its weights, configurations, and in a folder `README.md`, `training.json`, `recipe.toml`, `data-report.json`, `use.toml` |
| `Evaluated` | what `lienzo eval` writes, `report.json` |
| `Data` | what `lienzo data report --json` prints |
| `Rates` | error rates of a watermark or a filter, as the script that measured them writes them |
| `Use` | intended and forbidden use and who answers for them, a TOML file by the model's provider |
"""

import hashlib
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lienzo import __version__
from lienzo.cards import (
    Block,
    Bullets,
    Code,
    Quoted,
    Section,
    Table,
    data_rows,
    duration,
    energy,
    html,
    markdown,
)
from lienzo.errors import ConfigError, InputError, OutputError
from lienzo.evaluation import bias
from lienzo.evaluation.report import KINDS, place
from lienzo.evaluation.resampling import Interval
from lienzo.reading import read_whole
from lienzo.weights import ModelReport, inspect, locate, open_model

CARD, REPORT, PAGE, DATA = "model-card.md", "transparency.md", "index.html", "report.json"
OWN_CARD, TRAINING, RECIPE, DATA_REPORT, USE = (
    "README.md",
    "training.json",
    "recipe.toml",
    "data-report.json",
    "use.toml",
)
MOST_BYTES = 64_000_000
"""Of a file that is read; a data report of a million pictures lists its near duplicates in about so much."""
MOST_QUOTED = 6_000
"""Letters of a section of the model's own card."""
MOST_SECTIONS = 4
MOST_ROWS = 30
NOT_GIVEN = "not given"

Text = Annotated[str, Field(max_length=10_000)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Whole = Annotated[int, Field(ge=0, le=2**53)]
Share = Annotated[float, Field(ge=0, le=1)]
Notes = Annotated[list[Text], Field(max_length=1000)]


class _Read(BaseModel):
    """What other versions and other programs add is left out."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Score(_Read):
    """A score and its interval."""

    value: Number
    low: Number | None = None
    high: Number | None = None

    def __str__(self) -> str:
        return str(Interval(value=self.value, low=self.low, high=self.high))


class _About(_Read):
    model: Text = ""
    digest: Text = ""
    settings: dict[Text, bool | int | Number | Text | None] = {}


class _Side(_Read):
    name: Text
    about: _About


class _Scores(_Read):
    side: _Side
    overall: Annotated[dict[Text, Score], Field(max_length=1000)] = {}


class _Prompt(_Read):
    text: Text


class _Network(_Read):
    name: Text
    digest: Text


class Evaluated(_Read):
    """Scores, as `lienzo eval` writes them; of two sides, the ones of another model are left out."""

    prompts: list[_Prompt]
    seeds: list[Annotated[int, Field(ge=-(2**63), lt=2**64)]]
    scores: list[_Scores]
    networks: dict[Text, _Network] = {}
    resamples: Whole = 0
    left_out: dict[Text, Text] = {}
    notes: Notes = []


class _Captions(_Read):
    captions: Whole
    without: Whole
    languages: Annotated[dict[Text, Whole], Field(max_length=1000)]


class _Count(_Read):
    pictures: Whole


class _Named(_Read):
    name: Text
    pictures: Whole


class _Given(_Read):
    not_given: Whole
    given: list[_Named]


class _Skipped(_Read):
    count: Whole


class _Copies(_Read):
    exact: list[Any]
    near: list[Any]


class Data(_Read):
    """The parts of a data report that are told here."""

    digest: Text
    pictures: Whole
    captions: _Captions
    people: _Count
    licences: _Given
    origins: _Given
    skipped: _Skipped
    duplicates: _Copies | None = Field(default=None, exclude=True)
    notes: Notes = []


class Rate(_Read):
    """A share, of how many, with its interval where it was computed."""

    name: Text
    value: Share
    low: Share | None = None
    high: Share | None = None
    n: Annotated[Whole, Field(ge=1)] | None = None
    about: Text = ""


class Rates(_Read):
    """Error rates as measured.

    Attributes:
        what: the watermark or filter.
        made_by: the command that repeats the measurement.
        weights: digest of the model whose pictures were measured.
    """

    what: Text = NOT_GIVEN
    made_by: Text = NOT_GIVEN
    weights: Text | None = None
    rates: Annotated[list[Rate], Field(min_length=1, max_length=1000)]
    notes: Notes = []


class Use(BaseModel):
    """What only the provider can say."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    intended: Notes = []
    forbidden: Notes = []
    limits: Notes = []
    licence: Text | None = None
    provider: Text | None = None
    contact: Text | None = None
    released: Text | None = None


class _Source(_Read):
    role: Text
    name: Text
    digest: Text


class _Energy(_Read):
    kwh: Number
    estimate: bool


class _FirstLast(_Read):
    first: Number
    last: Number


class Training(_Read):
    """How the weights were trained, as `lienzo train` notes it beside them."""

    kind: Text
    what: Text
    made_from: list[_Source]
    steps: Whole
    batch_size: Whole
    averaged: bool
    seconds: Number
    machine: Text
    energy: _Energy | Annotated[dict[Text, Text], Field(max_length=0)] = {}
    scores: dict[Text, _FirstLast] = {}


@dataclass(frozen=True, kw_only=True)
class OwnCard:
    """The model's own card: what its head names, and its sections, heading by heading."""

    digest: str
    head: Mapping[str, str]
    sections: Mapping[str, str]


Kind = TypeVar("Kind", bound=BaseModel)


def read(kind: type[Kind], path: Path) -> Kind:
    """One of the JSON files above; `Use` is TOML.

    Raises:
        InputError: no such file, unreadable or too large.
        ConfigError: it is not what it is taken for; says where.
    """
    content = read_whole(path, MOST_BYTES)
    try:
        if kind is Use:
            return kind.model_validate(tomllib.loads(content.decode("utf-8-sig")))
        return kind.model_validate_json(content)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is no TOML: {error}.") from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:200] or "the whole"
        raise ConfigError(f"{path} is no {_file_of(kind)}: {where}: {first['msg'][:300]}.") from None


def _file_of(kind: type[BaseModel]) -> str:
    return {
        Evaluated: "evaluation (report.json of `lienzo eval`)",
        Data: "data report (`lienzo data report DATA --json`)",
        Rates: "table of error rates (docs/howto/report.md says how they are written)",
        Use: "statement of use (docs/howto/report.md says how it is written)",
        Training: "note of a training (training.json of `lienzo train`)",
    }[kind]


def read_card(path: Path) -> OwnCard:
    """A `README.md` with or without the head of a model card (lines of `name: value` between two of ---).

    Raises:
        InputError: unreadable or too large.
    """
    content = read_whole(path, MOST_BYTES)
    text = content.decode("utf-8", "replace").removeprefix("\ufeff").replace("\r\n", "\n")
    found = re.match(r"---\n(.*?)\n---\n", text, re.S)
    lines = (line.partition(":") for line in found[1].split("\n")) if found else ()
    head = {key.strip(): value.strip().strip("\"'") for key, colon, value in lines if colon and value.strip()}
    parts = re.split(r"^#{1,3} +(.*)$", text, flags=re.M)
    sections = {title.strip(): body.strip() for title, body in zip(parts[1::2], parts[2::2], strict=True)}
    return OwnCard(digest=hashlib.sha256(content).hexdigest(), head=head, sections=sections)


# --- the report -------------------------------------------------------------------------------------------------------

SUPPLY: Mapping[str, tuple[str, str]] = {
    "licence": ("the licence", f"licence in {USE} beside the model or in --use FILE, or license: at the head of its {OWN_CARD}"),
    "use": ("intended and forbidden use", f"intended and forbidden in {USE} beside the model or in --use FILE"),
    "provider": ("who answers for the model", f"provider and contact in {USE} beside the model or in --use FILE"),
    "training": ("how it was trained", f"lienzo train writes {TRAINING} and {RECIPE} beside a model"),
    "data": ("the training data", "lienzo data report DATA --json > data.json, then --data data.json; or --data DATA"),
    "scores": ("scores", "lienzo eval MODEL --prompts FILE --clip CLIP --out DIR, then --eval DIR"),
    "watermark": ("error rates of the watermark", "the JSON of the script that measures them, by --watermark FILE"),
    "filter": ("error rates of the filter", "the JSON of the script that measures them, by --filter FILE"),
    "energy": ("energy of the training", "lienzo train with watch.energy = true"),
    "audit": ("a bias audit", "--audit scenes, people or FILE, with --clip CLIP"),
    "limits": ("limits", f"limits in {USE} beside the model or in --use FILE"),
}  # fmt: skip
"""What a report may lack -> what that is, and what supplies it."""
HEADINGS: Mapping[str, tuple[str, ...]] = {
    "use": ("what it understands", "use", "intended use", "direct use", "out-of-scope", "misuse"),
    "training": ("how it was made", "made from", "training"),
    "scores": ("how well", "scores", "evaluation"),
    "limits": ("limits", "limitations", "bias"),
}
"""How the sections of a model's own card begin that are quoted."""
ARCHITECTURE: Mapping[str, tuple[str, ...]] = {
    "text_encoder": ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "max_position_embeddings"),
    "unet": ("in_channels", "out_channels", "block_out_channels", "layers_per_block", "cross_attention_dim", "sample_size"),
    "vae": ("latent_channels", "block_out_channels", "layers_per_block", "scaling_factor"),
    "scheduler": ("prediction_type", "num_train_timesteps", "beta_schedule", "beta_start", "beta_end"),
}  # fmt: skip
"""What the page shows of the configurations; the JSON has all."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """Something that a law or a profile asks for.

    Attributes:
        asks: in our own words.
        needs: parts of the report that answer to it; empty: none can.
        note: what the report cannot do about it.
    """

    id: str
    asks: str
    needs: tuple[str, ...]
    note: str = ""


EU: Sequence[Point] = (
    Point(
        id="Art. 50(1)", asks="People who deal with an AI system directly are told that they do, unless it is obvious.",
        needs=(), note="Of the service around the model; for whoever runs one.",
    ),
    Point(
        id="Art. 50(2)",
        asks="The provider of a system that makes pictures marks them so that machines can read it and tell that they were made "
        "artificially, as effectively, interoperably, robustly and reliably as is technically feasible.",
        needs=("watermark",), note="Marks are put on by the program that runs the model, not by the weights: it depends on how it is run.",
    ),
    Point(
        id="Art. 50(4)", asks="Who publishes a picture that is a deep fake says that it was made or changed artificially.",
        needs=(), note="For whoever publishes pictures.",
    ),
    Point(
        id="Art. 50(5)", asks="What is to be said is said clearly, at the latest when somebody first meets it, and accessibly.",
        needs=(), note="For whoever runs a service or publishes pictures.",
    ),
    Point(
        id="Art. 53(1)(a), Annex XI",
        asks="Technical documentation of the model: tasks, acceptable use, architecture and number of parameters, licence, training "
        "process, data, evaluation, energy.",
        needs=("weights", "use", "licence", "training", "data", "scores", "energy"),
    ),
    Point(
        id="Art. 53(1)(b), Annex XII",
        asks="What those who build the model into their systems need to understand what it can do and where it ends.",
        needs=("weights", "use", "licence", "limits", "scores"),
    ),
    Point(
        id="Art. 53(1)(c)",
        asks="A policy to respect Union copyright law, reservations of rights (Directive (EU) 2019/790, Art. 4(3)) among it.",
        needs=(), note="The policy is the provider's; the data report's licences and origins are what it can be checked against.",
    ),
    Point(
        id="Art. 53(1)(d)", asks="A public summary of the content used for training, on the AI Office's template.",
        needs=("data",), note="The data report counts; the template is the provider's to fill in.",
    ),
    Point(
        id="Art. 53(2)",
        asks="Models under a free and open licence whose weights, architecture and use are public are exempt from (a) and (b), "
        "unless they pose a systemic risk.",
        needs=("licence", "weights", "use"), note="Whether it applies is for counsel.",
    ),
)  # fmt: skip
"""Regulation (EU) 2024/1689."""
NIST: Sequence[Point] = (
    Point(id="GV-1.2-001", asks="Policies for documenting origin and history of training data and of generated data.", needs=("data", "training")),
    Point(id="GV-1.4-002", asks="An open acceptable-use policy that speaks of illegal use.", needs=("use",)),
    Point(id="GV-1.6-003", asks="An inventory entry: provenance of data, known issues, rights, underlying models and their versions.",
          needs=("weights", "licence", "data", "training", "limits")),
    Point(id="MP-1.1-004", asks="Foreseeable illegal uses are named.", needs=("use",)),
    Point(id="MP-2.1-001", asks="Known assumptions and practices for telling where data and content come from.", needs=("data", "watermark")),
    Point(id="MP-2.2-001", asks="What the system depends on upstream, data and provenance included.", needs=("training", "data")),
    Point(id="MP-2.3-001", asks="Output is compared with known truth, by several methods.", needs=("scores", "audit")),
    Point(id="MS-1.1-001", asks="Methods that trace where digital content comes from and how it was changed.", needs=("watermark",)),
    Point(id="MS-2.3-002", asks="Claims of what a model can do are tested by measurement.", needs=("scores",)),
    Point(id="MS-2.7-005", asks="Reliability of watermarks and the like: false positives and negatives.", needs=("watermark",)),
    Point(id="MS-2.9-001", asks="Explanations are tried and documented, counterfactual prompts among them.", needs=("audit",)),
    Point(id="MS-2.9-002", asks="Documented model details: use, assumptions and limits, data, architecture, training, evaluation.",
          needs=("weights", "use", "limits", "data", "training", "scores")),
    Point(id="MS-2.10-003", asks="Training samples are checked for duplicates.", needs=("data",)),
    Point(id="MS-2.11-002", asks="Systemic bias is measured across groups, with counterfactual prompts among others.", needs=("audit",)),
    Point(id="MS-2.11-004", asks="Sources of bias in training and test data are reviewed.", needs=("data", "audit")),
    Point(id="MS-2.12-003", asks="Energy and other effects on the environment are measured or estimated, of training and of use.",
          needs=("energy",), note="Of the training only; water and use are not told."),
    Point(id="MS-2.13-001", asks="Errors of the metrics themselves are measured or estimated.", needs=("scores", "audit")),
    Point(id="MG-2.2-002", asks="Sources of training data are documented, to trace what is generated.", needs=("data",)),
    Point(id="MG-3.2-003", asks="Of a pre-trained model: data and origins, possible biases, architecture, training process.",
          needs=("weights", "data", "training", "audit")),
    Point(id="MG-3.2-005", asks="Filters against harmful or illegal content.", needs=("filter",)),
)  # fmt: skip
"""NIST AI 600-1 (July 2024), suggested actions by their ids."""
LAW = (
    "These points are mapped to, not certified: the table says where in this report something stands that a point asks for, in our "
    "own words. Whether it is enough, whether this model is a general-purpose model at all, and which duties fall on whom has to be "
    "read from the law itself, by counsel, before anybody claims to conform.",
    "By secondary sources, Art. 53 applies to general-purpose models since 2025-08-02 and Art. 50(2) since 2026-08-02; for what was on the market "
    "before, other dates may hold. Signed metadata and an imperceptible mark, with a free detector, is how Art. 50(2) is commonly read; "
    "logging alone is not.",
)


@dataclass(frozen=True, kw_only=True)
class Transparency:
    """Everything that is known of a model; None where nobody told.

    Attributes:
        architecture: component -> its configuration.
        recipe: SHA-256 of the recipe beside the model.
        sheets: pictures of the audit, one a set, as seen from the report's folder.
    """

    model: ModelReport
    architecture: Mapping[str, Mapping[str, Any]]
    card: OwnCard | None = None
    use: Use | None = None
    training: Training | None = None
    recipe: str | None = None
    data: Data | None = None
    scores: Evaluated | None = None
    watermark: Rates | None = None
    filter: Rates | None = None
    audit: bias.Findings | None = None
    sheets: tuple[str, ...] = ()

    @property
    def licence(self) -> str | None:
        """The provider's statement goes before the card's head."""
        if self.use is not None and self.use.licence:
            return self.use.licence
        return self.card.head.get("license") if self.card is not None else None

    @property
    def energy(self) -> Mapping[str, Any]:
        used = self.training.energy if self.training is not None else {}
        return used.model_dump() if isinstance(used, _Energy) else {}

    def quoted(self, what: str) -> dict[str, str]:
        """Sections of the model's own card about something (`HEADINGS`)."""
        found = self.card.sections if self.card is not None else {}
        about = ((title, body) for title, body in found.items() if _heads(title, HEADINGS[what]) and body)
        return dict(islice(about, MOST_SECTIONS))

    @property
    def given(self) -> dict[str, bool]:
        """Part of the report -> whether there is anything in it."""
        use = self.use
        return {
            "weights": True,
            "licence": bool(self.licence),
            "use": use is not None and bool(use.intended and use.forbidden),
            "provider": use is not None and bool(use.provider and use.contact),
            "training": self.training is not None or bool(self.quoted("training")),
            "data": self.data is not None,
            "scores": self.scores is not None or bool(self.quoted("scores")),
            "watermark": self.watermark is not None,
            "filter": self.filter is not None,
            "energy": bool(self.energy),
            "audit": self.audit is not None,
            "limits": (use is not None and bool(use.limits)) or bool(self.quoted("limits")),
        }

    @property
    def missing(self) -> list[tuple[str, str]]:
        """What is not given, and what supplies it."""
        return [SUPPLY[name] for name, given in self.given.items() if not given]

    def points(self, which: Sequence[Point]) -> list[tuple[str, str, str]]:
        """Id, what is asked, and what the report has of it."""
        return [(point.id, point.asks, self._answer(point)) for point in which]

    def _is_claimed(self, name: str) -> bool:
        """Whether nothing but the model's own card says it: it was neither measured nor noted by a program."""
        measured = {"training": self.training, "scores": self.scores, "limits": self.use and self.use.limits}
        return name in measured and not measured[name]

    def _answer(self, point: Point) -> str:
        if not point.needs:
            return f"Not in this report. {point.note}".strip()
        here = [
            f"{name} (its own card's word)" if self._is_claimed(name) else name
            for name in point.needs
            if self.given[name]
        ]
        lacks = [SUPPLY[name][0] for name in point.needs if not self.given[name]]
        told = f"Told here: {', '.join(here)}." if here else "Not given."
        return " ".join(part for part in (told, f"Lacking: {', '.join(lacks)}." if lacks else "", point.note) if part)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""

        def dumped(found: BaseModel | None) -> Any:
            return None if found is None else found.model_dump(mode="json")

        return {
            "version": 1,
            "lienzo": __version__,
            "model": asdict(self.model),
            "architecture": self.architecture,
            "licence": self.licence,
            "card": None if self.card is None else {"digest": self.card.digest, "head": dict(self.card.head)},
            "use": dumped(self.use),
            "training": dumped(self.training),
            "recipe": self.recipe,
            "data": dumped(self.data),
            "scores": dumped(self.scores),
            "watermark": dumped(self.watermark),
            "filter": dumped(self.filter),
            "energy": dict(self.energy) or None,
            "audit": None if self.audit is None else {**self.audit.to_dict(), "sheets": list(self.sheets)},
            "eu_ai_act": [dict(zip(("id", "asks", "here"), row, strict=True)) for row in self.points(EU)],
            "nist_ai_600_1": [dict(zip(("id", "asks", "here"), row, strict=True)) for row in self.points(NIST)],
            "missing": [{"what": what, "supplied_by": how} for what, how in self.missing],
        }


def gather(
    model: str | Path | None = None,
    *,
    evaluated: Path | None = None,
    data: Path | Data | None = None,
    watermark: Path | None = None,
    filter: Path | None = None,
    use: Path | None = None,
    audit: bias.Findings | None = None,
    sheets: Sequence[str] = (),
    revision: str | None = None,
    variant: str | None = None,
    offline: bool | None = None,
    config: str | Path | None = None,
) -> Transparency:
    """Read everything. What lies beside the model is taken where no file is named for it.

    Args:
        evaluated: the folder or the `report.json` of `lienzo eval`.
        revision, variant, offline, config: as for `lienzo.weights.inspect`.

    Raises:
        WeightsError: no such model.
        InputError: a file that cannot be read, is not what it is taken for, or is about another model.
    """
    found = inspect(model, revision=revision, variant=variant, offline=offline, config=config)
    opened = open_model(model, revision=revision, variant=variant, offline=offline, config=config, with_tokenizer=False)
    _, path, _ = locate(model, revision=revision, variant=variant, offline=offline)
    folder = path if path.is_dir() else None

    def beside(name: str) -> Path | None:
        return folder / name if folder is not None and (folder / name).is_file() else None

    use, own, noted, recipe = use or beside(USE), beside(OWN_CARD), beside(TRAINING), beside(RECIPE)
    data = data or beside(DATA_REPORT)
    return Transparency(
        model=found,
        architecture=opened.configs.to_dict(),
        card=read_card(own) if own is not None else None,
        use=read(Use, use) if use is not None else None,
        training=read(Training, noted) if noted is not None else None,
        recipe=hashlib.sha256(read_whole(recipe, MOST_BYTES)).hexdigest() if recipe is not None else None,
        data=read(Data, data) if isinstance(data, Path) else data,
        scores=_scored(evaluated, found.digest) if evaluated is not None else None,
        watermark=_measured(watermark, found.digest) if watermark is not None else None,
        filter=_measured(filter, found.digest) if filter is not None else None,
        audit=audit,
        sheets=tuple(sheets),
    )


def _scored(path: Path, digest: str) -> Evaluated:
    """The sides of an evaluation that are about these weights."""
    file = path / "report.json" if path.is_dir() else path
    found = read(Evaluated, file)
    own = [scores for scores in found.scores if scores.side.about.digest == digest]
    if not own:
        others = ", ".join(scores.side.about.digest[:16] for scores in found.scores)
        raise InputError(
            f"{file} is about other weights ({others or 'none'}); this model's are {digest[:16]}. Evaluate this model."
        )
    return found.model_copy(update={"scores": own})


def _measured(path: Path, digest: str) -> Rates:
    found = read(Rates, path)
    if found.weights is not None and found.weights != digest:
        raise InputError(
            f"{path} was measured on pictures of other weights ({found.weights[:16]}); this model's are {digest[:16]}. "
            "Measure this model, or leave `weights` out of the file where they do not matter."
        )
    return found


def _heads(title: str, begins: Sequence[str]) -> bool:
    return any(re.match(rf"{re.escape(begin)}\b", title.lower()) for begin in begins)


# --- as documents -----------------------------------------------------------------------------------------------------


def write(found: Transparency, folder: Path) -> Path:
    """Write the card, the report, the page and the JSON into a folder, over older ones.

    Returns:
        The page.

    Raises:
        OutputError: they cannot be written.
    """
    name = found.model.name
    card, report = card_sections(found), report_sections(found)
    page = html(f"{name}: model card and transparency report", [*card, *report])
    files = {
        CARD: markdown(card),
        REPORT: markdown(report),
        DATA: json.dumps(found.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        PAGE: page,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            place(folder / file, text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise OutputError(f"{folder}: the report cannot be written: {error.strerror or error}.") from None
    return folder / PAGE


def card_sections(found: Transparency) -> list[Section]:
    """The model card."""
    model = found.model
    total = sum(model.parameters.values())
    return [
        Section(f"Model card: {model.name}", (
            f"A latent diffusion model, text to picture, family {model.family}. This card was written by lienzo {__version__} from the "
            "model's files and from measurements; what nobody told is \"not given\".",
        ), 1),
        Section("What it is", (
            Table(("", ""), (
                ("name", model.name),
                ("layout", model.kind),
                ("family", model.family + (", inpainting" if model.inpainting else "")),
                ("predicts", model.prediction_type),
                ("pictures", "{} x {} pixels".format(*model.native_size)),
                ("parameters", f"{total:,}"),
                ("digest of the weights, SHA-256", Code(model.digest)),
                ("licence", found.licence or NOT_GIVEN),
                ("languages, by its own card", _head(found, "language")),
                ("provider", _stated(found, "provider")),
                ("contact", _stated(found, "contact")),
                ("released", _stated(found, "released")),
            )),
            Table(("network", "parameters", "stored as", "SHA-256 of its tensors"), tuple(
                (part, f"{count:,}", model.dtypes[part], Code(model.digests[part])) for part, count in model.parameters.items()
            )),
            *_listed([*model.odd, *model.notes]),
        )),
        Section("Architecture", (Table(("", ""), tuple(_architecture(found.architecture))),)),
        Section("Use", tuple(_use(found))),
        Section("Training", tuple(_training(found))),
        Section("Data", tuple(_data(found.data))),
        Section("Scores", tuple(_scores(found))),
        Section("Limits", tuple(_limits(found))),
    ]  # fmt: skip


def report_sections(found: Transparency) -> list[Section]:
    """The transparency report."""
    model = found.model
    head = ("id", "what is asked, in our words", "here")
    missing = [f"{what}: {how}" for what, how in found.missing]
    audit = bias.sections(found.audit, found.sheets) if found.audit is not None else [
        Section("Bias audit", (f"{NOT_GIVEN.capitalize()}. Supplied by: {SUPPLY['audit'][1]}.",))
    ]  # fmt: skip
    return [
        Section(f"Transparency report: {model.name}", (
            Table(("", ""), (("weights, SHA-256", Code(model.digest)), ("written by", f"lienzo {__version__}"))),
            f"The model itself is described in its card ({CARD}).",
        ), 1),
        Section("Not given", (
            *([Table(("what is missing", "what supplies it"), tuple(found.missing))] if missing else ["Nothing that this report knows of."]),
        )),
        Section("Watermark", tuple(_rates(found.watermark, "watermark"))),
        Section("Filter", tuple(_rates(found.filter, "filter"))),
        Section("Energy", (
            (f"Training: {energy(found.energy)}. Energy of making pictures: {NOT_GIVEN}.") if found.energy
            else f"{NOT_GIVEN.capitalize()}, neither measured nor estimated. Supplied by: {SUPPLY['energy'][1]}.",
        )),
        *audit,
        Section("EU AI Act (Regulation (EU) 2024/1689)", (*LAW, Table(head, tuple(found.points(EU))))),
        Section("NIST AI 600-1, Generative AI Profile", (
            "Suggested actions by id, mapped to and not certified. They are suggestions to an organisation; a report about one model "
            "answers to a few of them in part.",
            Table(head, tuple(found.points(NIST))),
        )),
    ]  # fmt: skip


def _listed(items: Sequence[str]) -> Iterator[Block]:
    if items:
        yield Bullets(tuple(items))


def _head(found: Transparency, name: str) -> str:
    return (found.card.head.get(name) if found.card is not None else None) or NOT_GIVEN


def _stated(found: Transparency, name: str) -> str:
    return (getattr(found.use, name) if found.use is not None else None) or NOT_GIVEN


def _architecture(configs: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    for part, keys in ARCHITECTURE.items():
        values = {key: configs[part][key] for key in keys if configs[part].get(key) is not None}
        yield part, ", ".join(f"{key} {value}" for key, value in values.items())


def _lacks(what: str) -> str:
    return f"{NOT_GIVEN.capitalize()}. Supplied by: {SUPPLY[what][1]}."


def _quotes(found: Transparency, what: str) -> Iterator[Block]:
    """What the model's own card says, letter by letter: it is the provider's word, not ours."""
    for title, body in found.quoted(what).items():
        cut = f"{body[:MOST_QUOTED]}\n[...]" if len(body) > MOST_QUOTED else body
        yield f'The model\'s own card says under "{title}":'
        yield Quoted(cut)


def _use(found: Transparency) -> Iterator[Block]:
    for title, items in (
        ("Intended", found.use.intended if found.use else []),
        ("Forbidden", found.use.forbidden if found.use else []),
    ):
        yield f"{title}:" if items else f"{title}: {NOT_GIVEN}."
        yield from _listed(items)
    if not found.given["use"]:
        yield f"Supplied by: {SUPPLY['use'][1]}."
    yield from _quotes(found, "use")


def _training(found: Transparency) -> Iterator[Block]:
    noted = found.training
    if noted is not None:
        yield f"This is {noted.what}."
        yield Table(("made from", "name", "SHA-256"), tuple((s.role, s.name, Code(s.digest)) for s in noted.made_from))
        yield Table(("", ""), (
            ("steps", f"{noted.steps:,} of {noted.batch_size} samples"),
            ("weights", "averaged" if noted.averaged else "of the last step"),
            ("time in steps", duration(noted.seconds)),
            ("machine", noted.machine),
            ("energy", energy(found.energy) or "not measured"),
            ("recipe, SHA-256", Code(found.recipe) if found.recipe else NOT_GIVEN),
        ))  # fmt: skip
    elif found.recipe is not None:
        yield Table(("", ""), (("recipe, SHA-256", Code(found.recipe)),))
    if not found.given["training"]:
        yield _lacks("training")
    elif noted is None:
        yield from _quotes(found, "training")


def _data(found: Data | None) -> Iterator[Block]:
    if found is None:
        yield _lacks("data")
        return
    copies = found.duplicates
    rows: list[tuple[str, str | Code]] = [*data_rows(found.model_dump()), ("SHA-256", Code(found.digest))]
    if copies is not None:
        rows.append(("duplicates", f"{len(copies.exact):,} equal, left out; {len(copies.near):,} nearly so"))
    yield Table(("", ""), tuple(rows))
    origins = [(one.name, f"{one.pictures:,}") for one in found.origins.given[:MOST_ROWS]]
    if len(found.origins.given) > MOST_ROWS:
        origins.append((f"... and {len(found.origins.given) - MOST_ROWS:,} more", ""))
    yield Table(("where they come from", "pictures"), (*origins, ("not given", f"{found.origins.not_given:,}")))
    yield from _listed(found.notes)


def _scores(found: Transparency) -> Iterator[Block]:
    if not found.given["scores"]:
        yield _lacks("scores")
    if (scores := found.scores) is not None:
        yield f"{len(scores.prompts):,} prompts, {len(scores.seeds)} seeds of each, by lienzo eval. In brackets: 95 % of {scores.resamples:,} resamples."
        for one in scores.scores:
            yield Table((one.side.name, "", "better"), tuple(
                (KINDS[name].title if name in KINDS else name, str(value), KINDS[name].better if name in KINDS else "")
                for name, value in one.overall.items()
            ))  # fmt: skip
        judges = [f"judged by {role}: {of.name}, digest {of.digest}" for role, of in scores.networks.items()]
        left = [
            f"not computed: {KINDS[name].title if name in KINDS else name}: {why}"
            for name, why in scores.left_out.items()
        ]
        yield from _listed([*judges, *left, *scores.notes][:MOST_ROWS])
    if found.training is not None and found.training.scores:
        yield Table(("on the training's validation", "first", "last"), tuple(
            (name, f"{of.first:.5g}", f"{of.last:.5g}") for name, of in found.training.scores.items()
        ))  # fmt: skip
    if found.training is None:  # then the card is not `lienzo train`'s, which says the same
        yield from _quotes(found, "scores")


def _limits(found: Transparency) -> Iterator[Block]:
    yield from _listed(found.use.limits if found.use is not None else [])
    yield from _quotes(found, "limits")
    if not found.given["limits"]:
        yield _lacks("limits")
    yield (
        "Of this card: it tells what files say and what was measured, on the prompts and pictures that were looked at. A model can show "
        "no more than its data, and repeats what is wrong or one-sided in them."
    )


def _rates(found: Rates | None, what: str) -> Iterator[Block]:
    if found is None:
        yield _lacks(what)
        return
    yield Table(("", ""), (("what", found.what), ("measured by", found.made_by)))
    yield Table(("", "share", "of", ""), tuple(
        (rate.name, str(Interval(value=rate.value, low=rate.low, high=rate.high)), f"{rate.n:,}" if rate.n else NOT_GIVEN, rate.about)
        for rate in found.rates
    ))  # fmt: skip
    yield from _listed(found.notes)
