"""How the service runs: what `[service]` in config.toml, the environment or the command line says."""

from dataclasses import dataclass, fields
from ipaddress import ip_address
from typing import Any, Final, Self

from lienzo.config import Config
from lienzo.errors import ConfigError, RequestError
from lienzo.pipeline.request import Request
from lienzo.provenance.keys import home
from lienzo.provenance.settings import table
from lienzo.server.jobs import Limits

TABLE: Final = "service"
"""Of config.toml."""


@dataclass(frozen=True, kw_only=True)
class Service(Config):
    """How the service runs.

    Attributes:
        host, port: where it listens.
        proxy: address of a reverse proxy whose X-Forwarded-For and X-Forwarded-Proto are believed; None: nobody's.
        auth: whether callers must say who they are; without, it listens to this machine alone.
        database: of jobs and API keys: a file or database URL; None: `service.db` in lienzo's home.
        audit: what was done to the service, and every verdict: a file or database URL; None: `audit.db` in lienzo's home.
        store: where pictures lie: a folder or any URL that fsspec knows (s3://bucket/folder); None: `pictures` in lienzo's home.
        models: what may be asked for: names of models, or NAME=SOURCE; the first one is the default.
        loras: adapters that may be asked for: NAME=FILE or hub id.
        workers: processes that make pictures.
        cached: models that a worker keeps in memory; the one that was not used for longest goes first.
        device: that workers compute on; dtype: in what.
        batch: jobs that a worker takes at once, where they are alike. On the CPU that gains nothing.
        lease: seconds without a sign of life after which a worker's jobs are given to another.
        attempts: how often a job is begun before it counts as poison; faults: and how often more, each time later, where store or
            database failed.
        stall: seconds without a step after which a worker is taken to hang, and killed.
        max_queued: jobs that may wait; max_queued_each: of one tenant.
        max_pixels, max_steps: of a request.
        max_upload: bytes of a request's body; max_inputs: input pictures that one tenant may add in a day.
        keep: days for which pictures, inputs and requests are kept.
        rate: requests a second that a caller may make over a minute; 0: any number.
        quota: pictures a day of one tenant; 0: any number.
        private: pictures and receipts carry only a commitment to the prompt.
        oidc_issuer: whose bearer tokens are taken, as their `iss` says it; None: nobody's.
        oidc_audience: what their `aud` must name: this service.
        oidc_keys: the issuer's public keys (a JWK set): a file, or a URL with https, or with http to this machine.
        oidc_tenant, oidc_role: the claims that say so; dots lead into nested ones.
        oidc_default_role: of tokens without a role; None: they are refused.
        page: whether there is a page for the browser at "/".
    """

    host: str = "127.0.0.1"
    port: int = 8000
    proxy: str | None = None
    auth: bool = True
    database: str | None = None
    audit: str | None = None
    store: str | None = None
    models: tuple[str, ...] = ("boceto",)
    loras: tuple[str, ...] = ()
    workers: int = 1
    cached: int = 2
    device: str = "cpu"
    dtype: str | None = None
    batch: int = 1
    lease: float = 30.0
    attempts: int = 3
    faults: int = 12
    stall: float = 600.0
    max_queued: int = 1000
    max_queued_each: int = 100
    max_pixels: int = 1 << 20
    max_steps: int = 150
    max_upload: int = 20_000_000
    max_inputs: int = 1000
    keep: float = 30.0
    rate: float = 20.0
    quota: int = 0
    private: bool = True
    oidc_issuer: str | None = None
    oidc_audience: str | None = None
    oidc_keys: str | None = None
    oidc_tenant: str = "tenant"
    oidc_role: str = "role"
    oidc_default_role: str | None = None
    page: bool = True

    def __post_init__(self) -> None:
        if not self.auth and not is_loopback(self.host):
            raise ConfigError(
                f"host: got {self.host!r} without authentication. Without it the service listens to this machine alone: "
                "use 127.0.0.1, or leave --no-auth out."
            )
        for name, least in (
            ("workers", 1), ("cached", 1), ("batch", 1), ("attempts", 1), ("faults", 1), ("stall", 10), ("max_queued", 1), ("max_queued_each", 1),
            ("max_pixels", 64), ("max_steps", 1), ("max_upload", 1000), ("max_inputs", 0), ("lease", 1), ("keep", 0), ("rate", 0), ("quota", 0),
        ):  # fmt: skip
            if getattr(self, name) < least:
                raise ConfigError(f"{name}: got {getattr(self, name)}; give {least} or more.")
        if not 0 <= self.port < 1 << 16:
            raise ConfigError(f"port: got {self.port}; give 0 (any that is free) to 65535.")
        if not self.models or any(not name for name in self.sources):
            raise ConfigError("models: got none, or one without a name. Give names, or NAME=SOURCE.")
        if any(not name or not source for name, source in self.lora_sources.items()):
            raise ConfigError("loras: got one without a name or without a file. Give NAME=FILE.")

    @classmethod
    def read(cls, **chosen: Any) -> Self:
        """The settings in force: the caller's, else those of config.toml.

        Raises:
            ConfigError: an unknown or wrong setting.
        """
        given = {name: value for name, value in chosen.items() if value is not None}
        return cls.from_dict({**table(TABLE), **given})

    def check(self, request: Request) -> None:
        """Whether a request is within the limits. Sides that it leaves to the model count once the model has filled them in.

        Raises:
            RequestError: it is not.
        """
        if (request.width or 8) * (request.height or 8) > self.max_pixels:
            raise RequestError(
                f"width: got {request.width}x{request.height}; at most {self.max_pixels:,} pixels are allowed here."
            )
        if max(request.steps, len(request.sigmas or ())) > self.max_steps:
            raise RequestError(f"steps: got {request.steps}; at most {self.max_steps} are allowed here.")

    @property
    def sources(self) -> dict[str, str | None]:
        """Name -> what `lienzo.weights.load` is given; None: the embedded model."""
        pairs = (text.partition("=") for text in self.models)
        return {name: source or (None if name == "boceto" else name) for name, _, source in pairs}

    @property
    def lora_sources(self) -> dict[str, str]:
        """Name -> file or hub id."""
        return {name: source for name, _, source in (text.partition("=") for text in self.loras)}

    @property
    def limits(self) -> Limits:
        """Of the queue."""
        return Limits(**{one.name: getattr(self, one.name) for one in fields(Limits)})

    @property
    def database_place(self) -> str:
        return self.database or str(home() / "service.db")

    @property
    def audit_place(self) -> str:
        return self.audit or str(home() / "audit.db")

    @property
    def store_place(self) -> str:
        return self.store or str(home() / "pictures")


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
