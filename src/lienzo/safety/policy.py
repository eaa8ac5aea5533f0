"""The prompt policy: which words may not be asked for, which are worth a look, and why; for everybody, and for single tenants.

It is one TOML file, read strictly:

    [[rules]]
    name = "weapons"
    action = "deny"                          # or "flag", or "allow": what it matches is no match of the other two
    reason = "Weapons are not painted here."
    terms = ["machine gun", "hand grenade"]  # whole words, however they are written, see `lienzo.safety.folding`
    beside = ["photo"]                       # only where one of these is in the prompt too
    patterns = ['rifles?']                   # regular expressions over folded text; they need the extra `safety`

    [tenants.museum]
    without = ["weapons"]                    # rules for everybody that are not for this tenant
    [[tenants.museum.rules]]                 # its own rules, as above
    ...

A negative prompt says what is *not* wanted, and naming it there is often meant well; so only rules with `negative = true` look at
it. Where guidance is below 1 it is painted rather than avoided (the guided estimate is `negative + guidance * (prompt - negative)`),
and then every rule looks at it.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

import rfc8785
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from lienzo.errors import ConfigError, SafetyError
from lienzo.safety.folding import Folded, fold, in_words, words
from lienzo.safety.outcome import Outcome, Status
from lienzo.toml import explain, read_toml

if TYPE_CHECKING:  # this brings torch
    from lienzo.pipeline.request import Request

Action = Literal["deny", "flag", "allow"]
Where = Literal["prompt", "negative prompt"]
SECONDS: Final = 1.0
"""That all patterns together may take for a text; regular expressions can take for ever."""
MOST_LETTERS: Final = 10_000
"""Of a text that is looked at: as long as a request's prompts may be."""
BETWEEN: Final = "-_'’"
"""What may stand between the words of a term beside blanks; in a prompt, anything that is no letter or digit may."""
DEFAULT: Final = Path(__file__).parent.parent / "assets" / "policy.toml"

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
Words = Annotated[str, Field(min_length=1, max_length=200)]
Span = tuple[int, int]
Terms = Mapping[str, set[tuple[str, ...]]]
"""First word -> terms, as words, that begin with it."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True, kw_only=True)
class _Read:
    """A text as rules look at it; `words` with their places in the original."""

    folded: Folded
    words: list[tuple[str, int, int]]

    @classmethod
    def of(cls, text: str, keep_marks: bool) -> Self:
        folded = fold(text, keep_marks=keep_marks)
        return cls(folded=folded, words=list(words(folded)))


class Rule(_Section):
    """Words, and what follows from them."""

    name: Name
    action: Action
    reason: str = Field(min_length=1, max_length=500)
    terms: tuple[Words, ...] = Field(default=(), max_length=10_000)
    patterns: tuple[Annotated[str, Field(min_length=1, max_length=1000)], ...] = Field(default=(), max_length=100)
    beside: tuple[Words, ...] = Field(default=(), max_length=10_000)
    keep_marks: bool = False
    negative: bool = False

    _terms: Terms = PrivateAttr()
    _beside: Terms = PrivateAttr()
    _patterns: tuple[Any, ...] = PrivateAttr()

    @model_validator(mode="after")
    def _compile(self) -> Self:
        if not self.terms and not self.patterns:
            raise ValueError("expected terms or patterns; there is nothing to look for")
        self._terms = _by_first(self.terms, self.keep_marks)
        self._beside = _by_first(self.beside, self.keep_marks)
        self._patterns = tuple(_compiled(pattern, self.keep_marks) for pattern in self.patterns)
        return self

    def _find(self, text: _Read, deadline: float) -> list[Span]:
        """Where it finds something: from, to.

        Raises:
            SafetyError: the patterns had not finished by the deadline.
        """
        folded = text.folded
        if self.beside and not any(_spans(self._beside, text.words)):
            return []
        spans = list(_spans(self._terms, text.words))
        for pattern in self._patterns:
            try:
                left = max(deadline - monotonic(), 1e-3)
                hits = [hit.span() for hit in pattern.finditer(folded.text, timeout=left, concurrent=True)]
            except TimeoutError:
                raise SafetyError(
                    f"The policy's rule {self.name!r} took longer than {SECONDS:g} s: one of its patterns is too slow for this "
                    "text, so nothing is made. Write it without repetitions inside repetitions."
                ) from None
            spans += [(folded.spans[a][0], folded.spans[b - 1][1]) for a, b in hits if a < b]
        return sorted(set(spans))


class Tenant(_Section):
    """What is different for one tenant."""

    without: tuple[Name, ...] = ()
    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Match:
    """Something that a rule found.

    Attributes:
        where: in which of the request's texts.
        text: what was written there, from `start` to `end`.
        lifted_by: the "allow" rule that covers it, so that it does not count; None: it counts.
    """

    rule: str
    action: Action
    reason: str
    where: Where
    text: str
    start: int
    end: int
    lifted_by: str | None = None


class Policy(_Section):
    """Rules for everybody and for single tenants. Threads may share it."""

    rules: tuple[Rule, ...] = ()
    tenants: Mapping[str, Tenant] = {}

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        common = [rule.name for rule in self.rules]
        for title, own in (("", ()), *((f"tenants.{name}: ", tenant.rules) for name, tenant in self.tenants.items())):
            names = [*common, *(rule.name for rule in own)]
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"{title}two rules are called {twice[0]!r}; names are what outcomes tell rules by")
        for name, tenant in self.tenants.items():
            if unknown := sorted(set(tenant.without) - set(common)):
                raise ValueError(f"tenants.{name}.without: there is no rule {unknown[0]!r} for everybody")
        return self

    def rules_for(self, tenant: str | None = None) -> tuple[Rule, ...]:
        """The rules that apply to a tenant; one who is not in the file has those for everybody."""
        own = self.tenants.get(tenant, Tenant()) if tenant is not None else Tenant()
        return (*(rule for rule in self.rules if rule.name not in own.without), *own.rules)

    def digest(self, tenant: str | None = None) -> str:
        """SHA-256 in hex of the rules that apply, as canonical JSON (RFC 8785); it does not tell whose they are."""
        return hashlib.sha256(
            rfc8785.dumps([rule.model_dump(mode="json") for rule in self.rules_for(tenant)])
        ).hexdigest()

    def check(self, request: "Request", tenant: str | None = None) -> Outcome:
        """What the policy says of a request.

        Raises:
            SafetyError: a pattern took too long.
        """
        found = self.matches(request.prompt, request.negative_prompt, painted=request.guidance_scale < 1, tenant=tenant)
        return self.outcome(found, tenant)

    def matches(
        self, prompt: str, negative: str = "", *, painted: bool = False, tenant: str | None = None
    ) -> tuple[Match, ...]:
        """Everything that the rules find, and what lifts it, in the order of the rules.

        Args:
            painted: the negative prompt is painted rather than avoided, so every rule looks at it.

        Raises:
            SafetyError: a pattern took too long, or a text is longer than a request's can be.
        """
        rules, deadline = self.rules_for(tenant), monotonic() + SECONDS
        found: list[Match] = []
        written: tuple[tuple[Where, str], ...] = (("prompt", prompt), ("negative prompt", negative))
        for where, text in written:
            if len(text) > MOST_LETTERS:
                raise SafetyError(
                    f"The {where} has {len(text):,} characters; the policy looks at {MOST_LETTERS:,} at most."
                )
            read = {keep: _Read.of(text, keep) for keep in {rule.keep_marks for rule in rules}}
            allowed = [
                (rule.name, span)
                for rule in rules
                if rule.action == "allow"
                for span in rule._find(read[rule.keep_marks], deadline)
            ]
            for rule in rules:
                if rule.action != "allow" and (where == "prompt" or painted or rule.negative):
                    found += [
                        Match(
                            rule=rule.name, action=rule.action, reason=rule.reason, where=where, text=text[a:b], start=a, end=b,
                            lifted_by=next((name for name, (c, d) in allowed if c <= a and b <= d), None),
                        )
                        for a, b in rule._find(read[rule.keep_marks], deadline)
                    ]  # fmt: skip
        return tuple(found)

    def outcome(self, matches: Iterable[Match], tenant: str | None = None) -> Outcome:
        """What follows from matches. It names rules and their reasons, and no word of the prompt."""
        counted = [match for match in matches if match.lifted_by is None]
        actions = {match.action for match in counted}
        status: Status = "blocked" if "deny" in actions else "flagged" if actions else "passed"
        reasons = dict.fromkeys(f"{match.reason} (rule {match.rule}, {match.where})" for match in counted)
        return Outcome(status=status, by=(f"policy:{self.digest(tenant)}",), reasons=tuple(reasons))


def load_policy(path: str | Path | None = None) -> Policy:
    """Read a policy.

    Args:
        path: None: the short one that comes with lienzo.

    Raises:
        ConfigError: no such file, an unknown key, a value that is not allowed, or patterns without the package for them; all
            of that is listed.
    """
    file = Path(path or DEFAULT).expanduser()
    data = read_toml(file, "The policy")
    try:
        return Policy.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{file}:\n{explain(error, Policy)}") from None


def _by_first(terms: Iterable[str], keep_marks: bool) -> Terms:
    """Raises ValueError: a term that is no words."""
    found: dict[str, set[tuple[str, ...]]] = {}
    for term in terms:
        folded = fold(term, keep_marks=keep_marks)
        if odd := [c for c in folded.text if not (in_words(c) or c.isspace() or c in BETWEEN)]:
            raise ValueError(f"{term!r} holds {odd[0]!r}; a term is words, for anything else write a pattern")
        in_term = tuple(word for word, _, _ in words(folded))
        if not in_term:
            raise ValueError(f"{term!r} holds no word")
        found.setdefault(in_term[0], set()).add(in_term)
    return found


def _spans(terms: Terms, text: list[tuple[str, int, int]]) -> Iterator[Span]:
    """Where terms stand among a text's words."""
    for i, (word, start, _) in enumerate(text):
        for term in terms.get(word, ()):
            if tuple(w for w, _, _ in text[i : i + len(term)]) == term:
                yield start, text[i + len(term) - 1][2]


def _compiled(pattern: str, keep_marks: bool) -> Any:
    """A pattern that can be stopped, ignoring case.

    Raises:
        ValueError: it is no regular expression, or it can never find anything, or finds everything.
    """
    try:
        import regex
    except ImportError:
        raise ValueError('patterns need regex: pip install "lienzo[safety]"') from None
    for character in pattern:
        if not character.isascii() and fold(character, keep_marks=keep_marks).text != character.casefold():
            raise ValueError(
                f"{pattern!r} holds {character!r}, which folded text never does; write "
                f"{fold(character, keep_marks=keep_marks).text!r}, or set keep_marks = true where the mark matters"
            )
    try:
        compiled = regex.compile(pattern, regex.IGNORECASE | regex.VERSION0)
        if compiled.search("", timeout=SECONDS):
            raise ValueError(f"{pattern!r} finds nothing at all too, so it would find it everywhere")
    except regex.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
    except TimeoutError:
        raise ValueError(f"{pattern!r} takes too long") from None
    return compiled
