"""A bias audit: prompts that differ in one thing only, pictures of all of them, and what a CLIP sees differently.

An audit is a TOML file of prompt sets. In a set, *variants* are compared (two languages, say); *slots* are what varies beside
them. Every way to fill the slots is a *context*, in which the variants are counterfactuals of each other:

    name = "words"
    about = "What this audit asks."

    [[sets]]
    name = "language"
    about = "Does the language change how well a prompt is followed?"
    variants = ["English", "Spanish"]
    template = {English = "a {colour} circle", Spanish = "un círculo {colour}"}    # or one text for all, with {variant} in it
    slots.colour = [{English = "red", Spanish = "rojo"}, {English = "blue", Spanish = "azul"}]    # or plain texts
    judge = "a {colour} circle"      # what every variant's picture is held against: its CLIP similarity

    [[sets.measures]]
    name = "colour"
    options = {red = "a red circle", blue = "a blue circle"}    # the CLIP says which text fits a picture best
    right = "{colour}"               # the answer that follows the prompt; without it, each answer's share is compared
    control = "a {option} circle"    # without `right`: prompts that name an answer outright, to see whether the CLIP can tell

What judges (`judge`, `options`, `right`, `control`) reads the first variant's words and is the same for all variants, so that the
CLIP's own command of a language or a word cannot pass for the model's. A context's variants share their seeds; no two contexts
do, so that pairs are independent of each other.
"""

import hashlib
import itertools
import math
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lienzo.cards import Block, Bullets, Picture, Section, Table
from lienzo.errors import ConfigError, InputError, nearest
from lienzo.evaluation.features import clip_features, text_features
from lienzo.evaluation.metrics import Array, unit
from lienzo.evaluation.resampling import (
    Interval,
    bootstrap,
    holm,
    mcnemar,
    share,
    share_difference,
    sign_flips,
)
from lienzo.images import open_image
from lienzo.reading import read_whole
from lienzo.shares import CONFIDENCE
from lienzo.weights.clip import LoadedCLIP

AUDITS = Path(__file__).parents[1] / "assets" / "audits"
MOST_BYTES = 1_000_000
MOST_PROMPTS = 10_000
MOST_PICTURES = 100_000
MOST_ROWS = 6
ALPHA = 1 - CONFIDENCE
"""The risk of even one false alarm in a whole audit, where no variant matters."""
DIFFERS, SAME, BLIND = "differs", "no difference found", "the CLIP cannot tell"
LEANS = "differs, perhaps by the CLIP's own lean"
"""Where the variants have different right answers: a CLIP that likes one answer better makes that variant look better followed."""
SLOT = re.compile(r"\{(\w+)\}")
OWN = ("variant", "option")
"""Names in braces that are no slots."""

Name = Annotated[str, Field(min_length=1, max_length=100)]
Words = Annotated[str, Field(min_length=1, max_length=1000)]
ByVariant = Words | Annotated[dict[Name, Words], Field(min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Measure(_Strict):
    """A question to the CLIP about a picture, with its possible answers."""

    name: Name
    options: Annotated[dict[Name, Words], Field(min_length=2, max_length=100)]
    right: Words | None = None
    control: Words | None = None


class PromptSet(_Strict):
    """Variants of prompts, and how their pictures are compared."""

    name: Name
    about: Words
    variants: Annotated[list[Name], Field(min_length=2, max_length=30)]
    template: ByVariant
    slots: dict[Name, Annotated[list[ByVariant], Field(min_length=1, max_length=1000)]] = {}
    judge: Words | None = None
    measures: list[Measure] = []

    @model_validator(mode="after")
    def _checked(self) -> Self:
        if len({*self.variants}) < len(self.variants):
            raise ValueError(f"variants: {self.variants} has one twice")
        for text in (self.template, *itertools.chain(*self.slots.values())):
            if isinstance(text, dict) and text.keys() != {*self.variants}:
                raise ValueError(f"{text}: expected one text for each of the variants {self.variants}")
        if not self.judge and not self.measures:
            raise ValueError("expected a judge, or measures: nothing would be looked at")
        if OWN[0] in self.slots or OWN[1] in self.slots:
            raise ValueError("slots: 'variant' and 'option' have a meaning of their own; choose another name")
        size = len(self.variants) * int(np.prod([len(values) for values in self.slots.values()], dtype=float))
        if size > MOST_PROMPTS:
            raise ValueError(f"the slots make {size:,} prompts; allowed are up to {MOST_PROMPTS:,}")
        for measure in self.measures:
            if measure.right is not None and measure.control is not None:
                raise ValueError(
                    f"{measure.name}: `right` says how well the CLIP can tell already; leave `control` out"
                )
        for context in self.contexts():
            prompts = [self.prompt(variant, context) for variant in self.variants]
            if len({*prompts}) < len(prompts):
                raise ValueError(f"two variants have the same prompt: {prompts}")
            self.judged(self.judge or "", context)
            for measure in self.measures:
                for text in measure.options.values():
                    self.judged(text, context)
                for variant in self.variants if measure.right is not None else ():
                    if (answer := self.right(measure, variant, context)) not in measure.options:
                        raise ValueError(f"{measure.name}: right is {answer!r}. {nearest(answer, measure.options)}")
                for option in measure.options if measure.control is not None else ():
                    self.judged(measure.control or "", context, option)
        return self

    def contexts(self) -> Iterator[dict[str, ByVariant]]:
        """Every way to fill the slots."""
        for values in itertools.product(*self.slots.values()):
            yield dict(zip(self.slots, values, strict=True))

    def prompt(self, variant: str, context: Mapping[str, ByVariant]) -> str:
        """What is painted."""
        return self._filled(_of(self.template, variant), variant, context, {"variant": variant})

    def judged(self, text: str, context: Mapping[str, ByVariant], option: str | None = None) -> str:
        """What is read by the CLIP, the same for all variants; or, with an option, the prompt that names it outright."""
        return self._filled(text, self.variants[0], context, {} if option is None else {"option": option})

    def right(self, measure: Measure, variant: str, context: Mapping[str, ByVariant]) -> str:
        """The option that follows a variant's prompt."""
        assert measure.right is not None
        return self._filled(measure.right, self.variants[0], context, {"variant": variant})

    def controls(self, measure: Measure) -> dict[str, list[str]]:
        """Option -> the prompts that name it outright."""
        text = measure.control
        if text is None:
            return {}
        return {
            option: list(dict.fromkeys(self.judged(text, context, option) for context in self.contexts()))
            for option in measure.options
        }

    def _filled(self, text: str, variant: str, context: Mapping[str, ByVariant], own: Mapping[str, str]) -> str:
        def word(found: re.Match[str]) -> str:
            name = found[1]
            if name in own:
                return own[name]
            if name not in context:
                raise ValueError(f"{text!r}: no slot {name!r}. {nearest(name, [*context, *own])}")
            return _of(context[name], variant)

        if {*SLOT.sub("", text)} & {*"{}"}:
            raise ValueError(f"{text!r}: braces stand around the name of a slot, as in {{colour}}, and nowhere else")
        return SLOT.sub(word, text)


class Audit(_Strict):
    """Prompt sets that are asked together."""

    name: Name
    about: Words
    sets: Annotated[list[PromptSet], Field(min_length=1, max_length=100)]

    @model_validator(mode="after")
    def _checked(self) -> Self:
        if len({one.name for one in self.sets}) < len(self.sets):
            raise ValueError("two sets have the same name")
        return self


def _of(text: ByVariant, variant: str) -> str:
    return text if isinstance(text, str) else text[variant]


def read_audit(source: str | Path) -> tuple[Audit, str]:
    """An audit and its file's SHA-256.

    Args:
        source: a file, or the name of one that lienzo has: "scenes", what the embedded model paints; "people", for models that paint
            people.

    Raises:
        InputError: no such file, or too large.
        ConfigError: no TOML, or not as this module's description says.
    """
    own = {path.stem: path for path in AUDITS.glob("*.toml")}
    path = own.get(str(source)) or Path(source)
    if not path.is_file():
        raise InputError(f"{source}: no such file, and no audit of that name. {nearest(str(source), own)}")
    content = read_whole(path, MOST_BYTES)
    try:
        return Audit.model_validate(tomllib.loads(content.decode())), hashlib.sha256(content).hexdigest()
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is no TOML: {error}.") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the audit"
        raise ConfigError(f"{path}: {place}: {first['msg'].removeprefix('Value error, ').rstrip('.')}.") from None


@dataclass(frozen=True, kw_only=True)
class Shot:
    """A picture that is needed."""

    prompt: str
    seed: int


def shots(audit: Audit, count: int, first: int = 0) -> tuple[Shot, ...]:
    """All pictures that are needed: of each set, context by context, its variants with the same `count` seeds; then the controls.

    Raises:
        InputError: too many.
    """
    made: list[Shot] = []
    fresh = first

    def add(prompts: Sequence[str]) -> None:
        nonlocal fresh
        made.extend(Shot(prompt=prompt, seed=fresh + i) for prompt in prompts for i in range(count))
        fresh += count
        if len(made) > MOST_PICTURES:
            raise InputError(
                f"{audit.name}, {count} of each prompt: more than {MOST_PICTURES:,} pictures. Ask for fewer."
            )

    for one in audit.sets:
        for context in one.contexts():
            add([one.prompt(variant, context) for variant in one.variants])
        for measure in one.measures:
            for prompts in one.controls(measure).values():
                for prompt in prompts:
                    add([prompt])
    return tuple(made)


def rows(audit: Audit, count: int) -> list[tuple[tuple[int, ...], ...]]:
    """Of each set, for a sheet: the places of its first `MOST_ROWS` contexts' pictures among the shots, of the first seed, a row a
    context and a column a variant."""
    found, begin = [], 0
    for one in audit.sets:
        contexts, variants = len(list(one.contexts())), len(one.variants)
        found.append(
            tuple(
                tuple(begin + (i * variants + j) * count for j in range(variants))
                for i in range(min(contexts, MOST_ROWS))
            )
        )
        controls = (prompts for measure in one.measures for prompts in one.controls(measure).values())
        begin += (contexts * variants + sum(map(len, controls))) * count
    return found


# --- what is found ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What the CLIP said of one measure.

    Attributes:
        shares: answer -> its share among each variant's pictures; of a measure with a right one, "right" alone.
        check: share of right answers where they are known: of all pictures, or of the controls'; None: they are not.
        chance: that share if the same answers had nothing to do with the pictures: always saying the same is no knowledge.
        tells: whether the CLIP, looking at this model's pictures, does better than that; None: not known, as no right answer is, or
            the same one always.
        leans: whether the variants have different right answers, so that a CLIP's liking for one of them looks like a difference.
    """

    name: str
    shares: Mapping[str, tuple[Interval, ...]]
    check: Interval | None
    chance: float | None
    tells: bool | None
    leans: bool


@dataclass(frozen=True, kw_only=True)
class SetFindings:
    """What was found of one set.

    Attributes:
        contexts, pictures: of each variant.
        fit: 100 times the cosine of each variant's pictures with what they are held against; empty without a judge.
        lift: how much better pictures fit their own text than those of other contexts; None: there is one context only.
        tells: whether the lift is above 0, so that the fit says anything.
    """

    name: str
    about: str
    variants: tuple[str, ...]
    contexts: int
    pictures: int
    fit: tuple[Interval, ...]
    lift: Interval | None
    tells: bool | None
    measures: tuple[Answers, ...]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two variants against each other.

    Attributes:
        measure: its name, or "fit"; option: which answer's share; None: the right one's, or the fit.
        difference: second less first.
        chance: how likely it would be at least so large if the variant did not matter.
        adjusted: the same, for all comparisons of the audit at once (Holm).
    """

    set: str
    measure: str
    option: str | None
    first: str
    second: str
    difference: Interval
    chance: float
    adjusted: float
    verdict: str


@dataclass(frozen=True, kw_only=True)
class Findings:
    """A whole audit."""

    audit: str
    about: str
    digest: str
    count: int
    pictures: int
    clip: Mapping[str, str]
    settings: Mapping[str, Any]
    sets: tuple[SetFindings, ...]
    comparisons: tuple[Comparison, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return {"confidence": CONFIDENCE, **asdict(self)}


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """A comparison whose chance is not adjusted yet."""

    set: str
    measure: str
    option: str | None
    first: str
    second: str
    difference: Interval
    chance: float
    tells: bool | None
    leans: bool


def look(
    audit: Audit,
    digest: str,
    count: int,
    pictures: Sequence[Path],
    clip: LoadedCLIP,
    *,
    settings: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
    resamples: int = 1000,
    seed: int = 0,
    advance: Callable[[int], object] = lambda done: None,
) -> Findings:
    """Have a CLIP look at the pictures of an audit's `shots`, in their order.

    Args:
        settings, notes: what the pictures were made with, and what is to be known of their prompts; for the report.

    Raises:
        InputError: the CLIP has no text side.
    """
    cut: dict[str, None] = {}

    def read(texts: Sequence[str]) -> Array:
        found, some = text_features(clip, texts)
        cut.update(dict.fromkeys(some))
        return found

    read(["a"])  # before hundreds of pictures are looked at
    features = clip_features(clip).of(map(open_image, pictures), on_batch=advance)
    sets, comparisons = find(audit, count, features, read, resamples=resamples, seed=seed)
    ends = [f"The CLIP could not read the end of {len(cut)} texts, {next(iter(cut))[:60]!r} among them."] if cut else []
    return Findings(
        audit=audit.name,
        about=audit.about,
        digest=digest,
        count=count,
        pictures=len(pictures),
        clip={"name": clip.name, "digest": clip.digest},
        sets=sets,
        comparisons=comparisons,
        settings=dict(settings or {}),
        notes=(*notes, *ends),
    )


def find(
    audit: Audit,
    count: int,
    pictures: Array,
    read: Callable[[Sequence[str]], Array],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[tuple[SetFindings, ...], tuple[Comparison, ...]]:
    """The figures, of features.

    Args:
        pictures: (N, D), of `shots`, in their order.
        read: texts -> (N, D), in the same space.
    """
    rest = iter(unit(pictures))
    asked = sum(math.comb(len(o.variants), 2) * (1 + sum(len(m.options) for m in o.measures)) for o in audit.sets)
    flips = max(9999, math.ceil(2 * asked / ALPHA))  # so many that even the strictest of all comparisons can differ
    judge = _Judge(count, rest, read, resamples, flips, seed)
    sets = tuple(judge.set(one) for one in audit.sets)
    if next(rest, None) is not None:
        raise ValueError("There are more pictures than the audit has.")
    adjusted = holm([pair.chance for pair in judge.pairs])
    comparisons = []
    for pair, chance in zip(judge.pairs, adjusted, strict=True):
        fields = {k: v for k, v in asdict(pair).items() if k not in ("tells", "leans", "difference")}
        verdict = BLIND if pair.tells is False else SAME if chance >= ALPHA else LEANS if pair.leans else DIFFERS
        comparisons.append(Comparison(**fields, difference=pair.difference, adjusted=chance, verdict=verdict))
    return sets, tuple(comparisons)


class _Judge:
    """An audit under way: takes the pictures in their order and gathers comparisons."""

    def __init__(
        self,
        count: int,
        rest: Iterator[Array],
        read: Callable[[Sequence[str]], Array],
        resamples: int,
        flips: int,
        seed: int,
    ) -> None:
        self.count, self.rest, self.read = count, rest, read
        self.resamples, self.flips, self.seed = resamples, flips, seed
        self.pairs: list[_Pair] = []

    def set(self, one: PromptSet) -> SetFindings:
        contexts, variants = list(one.contexts()), len(one.variants)
        taken = self._take(len(contexts) * variants * self.count)
        seen = taken.reshape(len(contexts), variants, self.count, -1).swapaxes(0, 1)  # (V, C, n, D)
        fit: tuple[Interval, ...] = ()
        lift, tells = None, None
        if one.judge is not None:
            cosines = 100 * np.einsum("vcnd,kd->vcnk", seen, self._read([one.judged(one.judge, c) for c in contexts]))
            own = np.stack([cosines[:, i, :, i] for i in range(len(contexts))], 1).reshape(variants, -1)  # (V, C n)
            if len(contexts) > 1:
                others = (cosines.sum(3).reshape(variants, -1) - own) / (len(contexts) - 1)
                lift = self._mean((own - others).mean(0))
                tells = bool(lift.low is not None and lift.low > 0)
            fit = tuple(self._mean(row) for row in own)
            for i, j in itertools.combinations(range(variants), 2):
                difference = own[j] - own[i]
                self._compare(one, "fit", None, (i, j), self._mean(difference), self._flips(difference), tells)
        measures = tuple(self._measure(one, measure, contexts, seen) for measure in one.measures)
        return SetFindings(
            name=one.name,
            about=one.about,
            variants=tuple(one.variants),
            contexts=len(contexts),
            pictures=len(contexts) * self.count,
            fit=fit,
            lift=lift,
            tells=tells,
            measures=measures,
        )

    def _measure(
        self, one: PromptSet, measure: Measure, contexts: Sequence[Mapping[str, ByVariant]], seen: Array
    ) -> Answers:
        names = list(measure.options)
        texts = [one.judged(text, context) for context in contexts for text in measure.options.values()]
        options = self._read(texts).reshape(len(contexts), len(names), -1)  # (C, O, D)
        said = np.einsum("vcnd,cod->vcno", seen, options).argmax(3)  # (V, C, n)
        check: Interval | None = None
        chance: float | None = None
        tells: bool | None = None
        leans = False
        if measure.right is not None:
            right = [[names.index(one.right(measure, variant, c)) for c in contexts] for variant in one.variants]
            want = np.repeat(np.array(right)[:, :, None], self.count, 2)  # (V, C, n)
            hits = {"right": (said == want).reshape(len(said), -1)}
            check, chance, tells = _knows(said, want)
            if tells is False:  # one variant that nobody follows must not hide that others are seen well
                tells = any(_knows(s, w)[2] for s, w in zip(said, want, strict=True))
            leans = bool((want != want[0]).any())
        else:
            hits = {name: (said == i).reshape(len(said), -1) for i, name in enumerate(names)}
            control = self._control(one, measure, options)
            if control is not None:
                check, chance, tells = _knows(*control)
        for option in list(hits)[: 1 if len(hits) == 2 else None]:  # of two answers, the second is what is left
            for i, j in itertools.combinations(range(len(said)), 2):
                first, second = hits[option][i], hits[option][j]
                what = None if measure.right is not None else option
                self._compare(
                    one, measure.name, what, (i, j), share_difference(first, second), mcnemar(first, second), tells, leans
                )  # fmt: skip
        shares = {option: tuple(share(int(row.sum()), row.size) for row in rows) for option, rows in hits.items()}
        return Answers(name=measure.name, shares=shares, check=check, chance=chance, tells=tells, leans=leans)

    def _control(
        self, one: PromptSet, measure: Measure, options: Array
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
        """What the CLIP says of each control picture, and what its prompt names; by the options' words in the first context."""
        controls = one.controls(measure)
        if not controls:
            return None
        want = np.concatenate([np.full(len(p) * self.count, i) for i, p in enumerate(controls.values())])
        return (self._take(len(want)) @ options[0].T).argmax(1), want

    def _compare(
        self,
        one: PromptSet,
        measure: str,
        option: str | None,
        which: tuple[int, int],
        difference: Interval,
        chance: float,
        tells: bool | None,
        leans: bool = False,
    ) -> None:
        first, second = (one.variants[i] for i in which)
        self.pairs.append(
            _Pair(
                set=one.name,
                measure=measure,
                option=option,
                first=first,
                second=second,
                difference=difference,
                chance=chance,
                tells=tells,
                leans=leans,
            )
        )

    def _take(self, count: int) -> Array:
        taken = list(itertools.islice(self.rest, count))
        if len(taken) < count:
            raise ValueError("There are fewer pictures than the audit has.")
        return np.stack(taken)

    def _read(self, texts: Sequence[str]) -> Array:
        return unit(self.read(texts))

    def _mean(self, values: Array) -> Interval:
        """Of independent pairs."""
        return bootstrap(
            lambda rows: float(values[rows].mean()), range(len(values)), resamples=self.resamples, seed=self.seed
        )

    def _flips(self, values: NDArray[np.float64]) -> float:
        return sign_flips(values, flips=self.flips, seed=self.seed)


def _knows(said: NDArray[np.int64], want: NDArray[np.int64]) -> tuple[Interval | None, float | None, bool | None]:
    """(share of right answers, that share by chance, whether it is above that), as `Answers` has them.

    By chance: the sum over the answers of how often each is given times how often it is right, as of two that know nothing of each
    other (Cohen 1960). With one right answer only, that is the share itself and tells nothing.
    """
    hits = share(int((said == want).sum()), want.size)
    if (want == want.flat[0]).all():
        return hits, None, None
    most = int(max(said.max(), want.max())) + 1
    given, right = (np.bincount(x.ravel(), minlength=most) / x.size for x in (said, want))
    chance = float(given @ right)
    return hits, chance, bool(hits.low is not None and hits.low > chance)


# --- as a document ----------------------------------------------------------------------------------------------------

READ_THIS = (
    "Every figure is what the CLIP sees, and a CLIP has biases of its own; its accuracy on these questions is not known beyond the "
    "checks below. Answers about people tell how pictures look to it, never what anybody is.",
    "A context's variants are painted from the same seeds, and differences are of such pairs. Intervals hold in 95 of 100 cases, for "
    "other seeds of these prompts; they say nothing of other prompts.",
    f'"adjusted" is the chance of a difference at least so large if no variant mattered, made larger for all comparisons of the audit '
    f"at once (Holm); below {ALPHA:.2g} it is said to differ. No difference found is no proof that there is none: the interval says "
    "how large one may have been missed.",
    f'"{BLIND}" stands where its answers have nothing to do with those that are known to be right: then either it does not see the thing, '
    "or the model does not paint it.",
    f'"{LEANS}" stands where the variants have different right answers: a CLIP that likes one answer better makes its variant look '
    "better followed. Look at the pictures.",
)


def sections(found: Findings, sheets: Sequence[str] = ()) -> list[Section]:
    """The audit for people.

    Args:
        sheets: paths of pictures, one a set.
    """
    verdicts = [c.verdict for c in found.comparisons]
    head: list[Block] = [
        found.about,
        f"{found.pictures:,} pictures, {found.count} of each prompt; {len(verdicts)} comparisons: "
        + "; ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in dict.fromkeys(verdicts)) + ".",
        Bullets((*READ_THIS, *found.notes)),
        Table(("", ""), (
            ("audit", found.audit), ("its file's SHA-256", found.digest), ("CLIP", found.clip["name"]), ("its digest", found.clip["digest"]),
            ("settings", ", ".join(f"{k} {v}" for k, v in found.settings.items()) or "the model's own"),
        )),
    ]  # fmt: skip
    parts = [Section("Bias audit", tuple(head))]
    for i, one in enumerate(found.sets):
        blocks: list[Block] = [
            f"{one.about} {one.contexts} contexts, {one.pictures} pictures of each variant.",
            Table(("", *one.variants, "does the CLIP tell?"), tuple(_rows(one))),
            Table(
                ("second less first", "first", "second", "difference", "chance", "adjusted", ""),
                tuple(_compared(c) for c in found.comparisons if c.set == one.name),
            ),
        ]
        if i < len(sheets):
            blocks.append(Picture(sheets[i], f"{one.name}: one row a context, one column a variant"))
            blocks.append(f"Columns: {', '.join(one.variants)}. Each row is a context, all of it from one seed.")
        parts.append(Section(f"Audit: {one.name}", tuple(blocks), 3))
    return parts


def _rows(one: SetFindings) -> Iterator[tuple[str, ...]]:
    if one.fit:
        known = f"{_tells(one.tells)}: own text less others' {one.lift}" if one.lift else "not known: one context only"
        yield ("fit", *map(str, one.fit), known)
    for measure in one.measures:
        known = "not known: no control"
        if measure.check is not None:
            known = f"not known: one right answer only, {measure.check}"
        if measure.chance is not None:
            known = f"{_tells(measure.tells)}: {measure.check} right, {measure.chance:.2g} by chance"
        for option, shares in measure.shares.items():
            yield (f"{measure.name}: {option}", *map(str, shares), known)


def _tells(tells: bool | None) -> str:
    return "yes" if tells else "no"


def _compared(c: Comparison) -> tuple[str, ...]:
    what = c.measure if c.option is None else f"{c.measure}: {c.option}"
    return (what, c.first, c.second, str(c.difference), f"{c.chance:.2g}", f"{c.adjusted:.2g}", c.verdict)
