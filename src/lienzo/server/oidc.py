"""Bearer tokens of an OpenID Connect issuer: JSON Web Tokens (RFC 7519) that are checked with its published keys (RFC 7517).

Only what is configured is asked, and only for keys: a URL that stands in a token is never followed.
"""

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

from lienzo.errors import (
    CallerError,
    ConfigError,
    ExpiredError,
    ForbiddenError,
    IssuerError,
    MissingExtraError,
    RequestError,
    nearest,
)
from lienzo.server.access import ROLES, Caller, Role, check_tenant
from lienzo.server.settings import is_loopback

if TYPE_CHECKING:
    from jwt import PyJWK

    from lienzo.server.settings import Service

ALGORITHMS: Final = ("RS256", "ES256", "EdDSA")
"""Signatures by a key that only the issuer has. With HS256 whoever checks tokens could make them; `none` signs nothing."""
LEEWAY: Final = 10
"""Seconds by which the issuer's clock may differ from ours."""
REFETCH: Final = 60.0
"""Seconds between two looks at the issuer's keys, whatever tokens say: strangers must not make us ask without end."""
MAX_AGE: Final = 3600.0
"""Seconds after which keys are looked at anew, so that one that the issuer took back counts no longer than that."""
TIMEOUT: Final = 5.0
MOST_BYTES: Final = 1_000_000
LEAST_BITS: Final = 2048
"""Of an RSA key (RFC 7518, section 3.3)."""
MAX_SUBJECT: Final = 150
"""Characters of a subject; it stands in the audit log."""


class KeySet:
    """The issuer's public keys, by their id.

    Args:
        place: a file, or a URL with https, or with http to this machine. It is looked at when a token comes.
        clock: seconds that only grow.

    Raises:
        ConfigError: another URL.
    """

    def __init__(self, place: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        if "://" in place:
            parts = urlsplit(place)
            safe = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
            if not safe or not parts.hostname:
                raise ConfigError(
                    f"oidc_keys: got {place!r}. Whoever can change keys on their way can make tokens: use a file or https."
                )
        self._place, self._clock = place, clock
        self._keys: Mapping[str | None, PyJWK] = {}
        self._read_at = self._tried_at = -float("inf")
        self._failed: IssuerError | None = None
        self._reading = threading.Lock()

    def find(self, kid: str | None) -> "PyJWK":
        """The key of an id.

        Args:
            kid: None: of a token that names none, which only helps where there is one key.

        Raises:
            CallerError: no such key.
            IssuerError: the keys cannot be had.
        """
        key = self._known(kid)
        if key is None:
            with self._reading:
                if self._clock() - self._tried_at >= REFETCH:  # else somebody else has just looked
                    self._look()
                if self._failed is not None:
                    raise self._failed
            key = self._known(kid)
        if key is None:
            raise CallerError("got a token that is signed with none of the issuer's keys.")
        return key

    def _known(self, kid: str | None) -> "PyJWK | None":
        if self._clock() - self._read_at > MAX_AGE:
            return None
        keys = self._keys
        if kid is None:
            return next(iter(keys.values())) if len(keys) == 1 else None
        return keys.get(kid)

    def _look(self) -> None:
        self._tried_at = self._clock()
        try:
            self._keys = _usable(self._fetch())
            self._read_at, self._failed = self._tried_at, None
        except IssuerError as error:
            self._failed = error

    def _fetch(self) -> bytes:
        end, found = time.monotonic() + TIMEOUT, b""
        try:
            if "://" not in self._place:
                with Path(self._place).open("rb") as file:
                    found = file.read(MOST_BYTES + 1)
            else:
                with urllib.request.build_opener(_NoRedirect).open(self._place, timeout=TIMEOUT) as answer:
                    while chunk := answer.read1(MOST_BYTES + 1 - len(found)):
                        found += chunk
                        if time.monotonic() > end:  # each piece came in time, but not all of them
                            raise TimeoutError("timed out")
        except (OSError, HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            raise IssuerError(f"the token issuer's keys cannot be had from {self._place}: {reason}.") from None
        if len(found) > MOST_BYTES:
            raise IssuerError(f"{self._place}: has more than {MOST_BYTES:,} bytes, which no set of keys has.")
        return found


@dataclass(frozen=True)
class Tokens:
    """Who the bearer of a token is.

    Args:
        issuer, audience: what `iss` and `aud` must say.
        tenant, role: the claims that say so. A role may be a list, of which the most powerful that is known here counts.
        default_role: of tokens without one; None: they are refused.
    """

    issuer: str
    audience: str
    keys: KeySet
    tenant: str = "tenant"
    role: str = "role"
    default_role: Role | None = None

    @classmethod
    def of(cls, service: "Service") -> Self:
        """As the settings say.

        Raises:
            ConfigError: they do not fit together.
            MissingExtraError: PyJWT is not installed.
        """
        try:
            import jwt  # noqa: F401
        except ModuleNotFoundError:
            raise MissingExtraError('Bearer tokens need PyJWT: run pip install "lienzo[server]".') from None
        issuer, audience, keys = service.oidc_issuer, service.oidc_audience, service.oidc_keys
        if not (issuer and audience and keys):
            raise ConfigError("oidc_issuer, oidc_audience, oidc_keys: set all three to take tokens, or none of them.")
        default = service.oidc_default_role
        if default is not None and default not in ROLES:
            raise ConfigError(f"oidc_default_role: got {default[:80]!r}. {nearest(default, ROLES)}")
        return cls(
            issuer,
            audience,
            KeySet(keys),
            service.oidc_tenant,
            service.oidc_role,
            next((one for one in ROLES if one == default), None),
        )

    def caller(self, token: str) -> Caller:
        """Whose token this is.

        Raises:
            CallerError: it is damaged, forged, or of another issuer or for another audience.
            ExpiredError: its time is over.
            ForbiddenError: it is good, but names no role or tenant that is known here.
            IssuerError: the issuer's keys cannot be had.
        """
        claims = self._claims(token)
        subject = claims["sub"]
        if not (0 < len(subject) <= MAX_SUBJECT and all("!" <= c <= "~" for c in subject)):
            raise ForbiddenError(f"sub: got {subject[:80]!r}. Allowed: {MAX_SUBJECT} ASCII characters without spaces.")
        tenant = _claim(claims, self.tenant)
        if not isinstance(tenant, str):
            raise ForbiddenError(f"got a token without a tenant; the claim {self.tenant!r} must name it.")
        try:
            check_tenant(tenant)
        except RequestError as error:
            raise ForbiddenError(str(error)) from None
        role = self._role(_claim(claims, self.role))
        return Caller(f"token:{subject}", tenant, role, ROLES[role])

    def _claims(self, token: str) -> dict[str, Any]:
        import jwt

        try:
            header = jwt.get_unverified_header(token)
            if header.get("alg") not in ALGORITHMS:
                raise CallerError(f"got a token that is not signed with one of {', '.join(ALGORITHMS)}.")
            key = self.keys.find(header.get("kid"))
            return jwt.decode(
                token,
                key,
                algorithms=[key.algorithm_name],  # the key's own, whatever the token says
                audience=self.audience,
                issuer=self.issuer,
                leeway=LEEWAY,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except jwt.ExpiredSignatureError:
            raise ExpiredError("got a token whose time is over. Get a fresh one from its issuer.") from None
        except jwt.InvalidTokenError as error:
            raise CallerError(f"got a token that is not good here: {str(error)[:200]}.") from None
        except (ValueError, TypeError, AttributeError, RecursionError):  # JSON, but not a token's
            raise CallerError("got a token that cannot be read.") from None

    def _role(self, claim: object) -> Role:
        given = claim if isinstance(claim, list) else [claim]
        found = next((role for role in ROLES if role in given), None)
        if found is None and claim in (None, []):
            found = self.default_role
        if found is None:
            raise ForbiddenError(
                f"got a token without a role that is known here; the claim {self.role!r} must be one of {', '.join(ROLES)}."
            )
        return found


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Keys come from where they were said to be."""

    def redirect_request(self, *_: object) -> None:
        return None


def _usable(document: bytes) -> "dict[str | None, PyJWK]":
    """The keys of a JWK set that check signatures we take; others are passed over, as issuers publish them too.

    Raises:
        IssuerError: no JWK set, or one without any such key.
    """
    import jwt
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    try:
        listed = json.loads(document)["keys"]
        keys = [one for one in listed if isinstance(one, dict)]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise IssuerError("the token issuer's keys: expected a JWK set, a JSON object with `keys` in it.") from None
    found: dict[str | None, PyJWK] = {}
    for one in keys:
        kid = one.get("kid")
        # "d" is of private keys; one that is published proves nothing any more. An "oct" key is a shared secret.
        if one.get("kty") == "oct" or "d" in one or one.get("use", "sig") != "sig" or not isinstance(kid, str | None):
            continue
        try:
            key = jwt.PyJWK(one)
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError):
            continue
        weak = isinstance(key.key, RSAPublicKey) and key.key.key_size < LEAST_BITS
        if key.algorithm_name in ALGORITHMS and not weak:
            found[kid] = key
    if not found:
        raise IssuerError(f"the token issuer's keys: got none for {', '.join(ALGORITHMS)}.")
    return found


def _claim(claims: Mapping[str, Any], name: str) -> object:
    """A claim by its name; where there is none, by the path that its dots make (`realm_access.roles`)."""
    if name in claims:
        return claims[name]
    found: object = claims
    for step in name.split("."):
        found = found.get(step) if isinstance(found, Mapping) else None
    return found
