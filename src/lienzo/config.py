"""Configurations as they are published: frozen dataclasses read strictly from JSON.

A published `config.json` carries three kinds of keys: those that are used here (the dataclass's fields), those
that other networks of the same family use and that must then hold their neutral value (`NEUTRAL`), and bookkeeping
(`IGNORED`). Anything else raises: an option that would be ignored would make a different picture silently.
"""

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, ClassVar, Self

from lienzo.errors import ConfigError


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
            ConfigError: an unknown key, or a known option with a value that is not supported.
        """
        names = {f.name for f in fields(cls)}  # type: ignore[arg-type]
        known: dict[str, Any] = {}
        for key, value in data.items():
            if key in names:
                known[key] = _frozen(value)
            elif key in cls.NEUTRAL:
                # None and False both mean "off" in published files; a list of them means it for every level
                values = value if isinstance(value, (list, tuple)) else [value]
                if any(v != cls.NEUTRAL[key] and v not in (None, False) for v in values):
                    raise ConfigError(
                        f"{cls.__name__}: {key}={value!r} is not supported; only {cls.NEUTRAL[key]!r} is. "
                        "This model needs something that lienzo does not have."
                    )
            elif key not in cls.IGNORED and not key.startswith("_"):
                raise ConfigError(
                    f"{cls.__name__}: unknown key {key!r} (value {value!r}). Known: {', '.join(sorted(names))}."
                )
        try:
            return cls(**known)
        except TypeError as error:
            raise ConfigError(f"{cls.__name__}: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """The configuration as other tools read it."""
        return {**self.HEADER, **_thawed(asdict(self))}  # type: ignore[call-overload]


def _frozen(value: Any) -> Any:
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value


def _thawed(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _thawed(v) for k, v in value.items()}
    return [_thawed(v) for v in value] if isinstance(value, tuple) else value
