"""Configurations as they are published: frozen dataclasses read strictly from JSON.

A published `config.json` carries three kinds of keys: those that are used here (the dataclass's fields), those
that other networks of the same family use and that must then hold their neutral value (`NEUTRAL`), and bookkeeping
(`IGNORED`). Anything else raises: an option that would be ignored would make a different picture silently.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from inspect import formatannotation
from reprlib import repr as short
from types import UnionType
from typing import Any, ClassVar, Literal, Self, Union, get_args, get_origin, get_type_hints

from lienzo.errors import ConfigError, nearest

EXACT = 2**53
"""Whole numbers below are the same to every reader of JSON (RFC 8785)."""


class Config:
    """Base of all configurations; subclasses are frozen, keyword-only dataclasses."""

    NEUTRAL: ClassVar[Mapping[str, Any]] = {}
    """Published options that are not supported -> the only value that means "not used"."""
    IGNORED: ClassVar[frozenset[str]] = frozenset()
    """Published keys that do not change what is computed."""
    HEADER: ClassVar[Mapping[str, Any]] = {}
    """Keys that other tools want to find when they read what `to_dict` wrote."""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read a published configuration.

        Raises:
            ConfigError: an unknown key, or a known one with a value that is not supported or of another type.
        """
        hints = get_type_hints(cls)
        names = {f.name for f in fields(cls)}  # type: ignore[arg-type]
        known: dict[str, Any] = {}
        for key, value in data.items():
            if key in names:
                if not _is_a(value, hints[key]):
                    raise ConfigError(f"{cls.__name__}: {key}={short(value)}: {_expected(value, hints[key])}")
                known[key] = _frozen(value)
            elif key in cls.NEUTRAL:
                # a list means every level
                values = value if isinstance(value, (list, tuple)) and value else [value]
                if not all(_is_neutral(v, cls.NEUTRAL[key]) for v in values):
                    raise ConfigError(
                        f"{cls.__name__}: {key}={short(value)} is not supported; only {cls.NEUTRAL[key]!r} is. "
                        "This model needs something that lienzo does not have."
                    )
            elif key not in cls.IGNORED and not key.startswith("_"):
                raise ConfigError(
                    f"{cls.__name__}: unknown key {key!r} (value {short(value)}). Known: {', '.join(sorted(names))}."
                )
        try:
            return cls(**known)
        except TypeError as error:
            raise ConfigError(f"{cls.__name__}: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """The configuration as other tools read it."""
        return {**self.HEADER, **_thawed(asdict(self))}  # type: ignore[call-overload]


def _is_neutral(value: Any, neutral: Any) -> bool:
    """Whether a value means "not used": published files write null for any such option, and false for null."""
    return value is None or bool(value == neutral) or (value is False and neutral is None)


def _is_a(value: Any, kind: Any) -> bool:
    """Whether a value read from JSON is of an annotation's type."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(_is_a(value, one) for one in inner)
    if origin is Literal:
        return any(type(value) is type(one) and value == one for one in inner)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            return False
        kinds = inner[:1] * len(value) if inner[-1] is ... else inner
        return len(kinds) == len(value) and all(map(_is_a, value, kinds))
    if isinstance(value, bool):  # which Python counts among the whole numbers
        return kind is bool
    if isinstance(value, int):
        return kind in (int, float) and abs(value) < EXACT
    return isinstance(value, kind) and (kind is not float or math.isfinite(value))


def _expected(value: Any, kind: Any) -> str:
    if get_origin(kind) is Literal and isinstance(value, str):
        return f"there is no such choice. {nearest(value, get_args(kind))}"
    return f"got {type(value).__name__}, expected {formatannotation(kind)}."


def _frozen(value: Any) -> Any:
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value


def _thawed(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _thawed(v) for k, v in value.items()}
    return [_thawed(v) for v in value] if isinstance(value, tuple) else value
