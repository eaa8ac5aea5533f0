"""How pictures are accounted for: what the user, the organisation or the environment decided.

A setting is taken from the caller (an option), else from the environment, else from `config.toml` in lienzo's home folder,
else it is the default below. A file or a value that is not understood is an error: marks are never left out silently.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Self, get_args

from lienzo.config import Config
from lienzo.errors import ConfigError, nearest
from lienzo.provenance.keys import home

Level = Literal["off", "credentials", "full", "latent"]
LEVELS: Final[tuple[str, ...]] = get_args(Level)
VARIABLES: Final = {
    "mark": "LIENZO_MARK",
    "private": "LIENZO_PRIVATE",
    "log": "LIENZO_LOG",
    "records": "LIENZO_RECORDS",
    "safety": "LIENZO_SAFETY",
    "policy": "LIENZO_POLICY",
    "tenant": "LIENZO_TENANT",
    "simulation": "LIENZO_SIMULATION",
}
TABLES: Final = ("pictures", "service")
"""Of config.toml: what is here, and what `lienzo.server.settings` has."""


@dataclass(frozen=True, kw_only=True)
class Settings(Config):
    """How pictures are accounted for.

    Attributes:
        mark: off: the bare pixels. credentials: a signed receipt in Content Credentials. full: also a watermark in the pixels
            and an entry in the log. latent: also a watermark in the initial noise, which changes the picture.
        private: the picture carries no prompt, only a commitment to it.
        log: a file or database URL; None: `log.db` in lienzo's home.
        records: where requests and salts are kept, encrypted: a file or database URL; None: `records.db` in lienzo's home.
        safety: weights of the safety checker: a folder, file or hub id; None: pictures are not checked, and say so.
        policy: a prompt policy's file; None: the one that comes with lienzo.
        tenant: whose pictures these are.
        simulation: a language (ISO 639), in whose word a visible label is burnt into every picture; None: no label.
    """

    mark: Level = "full"
    private: bool = False
    log: str | None = None
    records: str | None = None
    safety: str | None = None
    policy: str | None = None
    tenant: str = "local"
    simulation: str | None = None

    def __post_init__(self) -> None:
        for name, set_ in (("private", self.private), ("simulation", self.simulation)):
            if set_ and self.mark == "off":
                raise ConfigError(
                    f"{name}: got {set_!r} with mark=off, which leaves no place to say so. Set mark to credentials, full or latent."
                )

    @classmethod
    def read(cls, **chosen: Any) -> Self:
        """The settings in force.

        Args:
            chosen: by the caller; None: not chosen.

        Raises:
            ConfigError: an unknown or wrong setting.
        """
        given = {name: value for name, value in chosen.items() if value is not None}
        return cls.from_dict({**table("pictures"), **_environment(os.environ), **given})

    @classmethod
    def signed_only(cls) -> Self:
        """Those in force, but that nothing is marked in pixels: for pictures that are measured or learned from."""
        return cls.read(mark="off" if cls.read().mark == "off" else "credentials")

    def place(self, name: Literal["log", "records"]) -> str:
        """The database of a name: as set, else in lienzo's home."""
        return getattr(self, name) or str(home() / f"{name}.db")


def _environment(variables: Mapping[str, str]) -> dict[str, Any]:
    """What is set; an empty variable counts as not set."""
    set_ = {name: (variable, variables[variable]) for name, variable in VARIABLES.items() if variables.get(variable)}
    found: dict[str, Any] = {name: value for name, (_, value) in set_.items()}
    if "mark" in found and found["mark"] not in LEVELS:
        raise ConfigError(f"{VARIABLES['mark']}: got {found['mark'][:40]!r}. {nearest(found['mark'], LEVELS)}")
    if "private" in found:
        found["private"] = _truth(*set_["private"])
    return found


def _truth(name: str, value: str) -> bool:
    known = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if value.lower() not in known:
        raise ConfigError(f"{name}: got {value[:40]!r}. {nearest(value.lower(), known)}")
    return known[value.lower()]


def table(name: str) -> dict[str, Any]:
    """One of the tables of `config.toml` in lienzo's home; nothing where there is no such file or table.

    Raises:
        ConfigError: it cannot be read, or has tables that nobody knows.
    """
    path = home() / "config.toml"
    if not path.exists():
        return {}
    from lienzo.toml import read_toml  # brings pydantic, which the command line does without

    tables = read_toml(path, "The settings")
    wrong = sorted(set(tables) - set(TABLES)) or [one for one in tables if not isinstance(tables[one], dict)]
    if wrong:
        known = " and ".join(f"[{one}]" for one in TABLES)
        raise ConfigError(f"{path}: got {', '.join(wrong)}; expected the tables {known}.")
    return dict(tables.get(name, {}))
