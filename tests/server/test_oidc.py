"""Bearer tokens: which are taken, for whom, and how seldom their issuer is asked."""

import base64
import contextlib
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from accounts import Clock, audit
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from issuer import AUDIENCE, ISSUER, Issuer, serving

from lienzo.errors import AccessError, CallerError, ConfigError, ExpiredError, ForbiddenError, IssuerError
from lienzo.server import schema
from lienzo.server.access import ROLES, Access, Caller
from lienzo.server.oidc import ALGORITHMS, LEEWAY, MAX_AGE, REFETCH, KeySet, Tokens
from lienzo.server.settings import Service


@pytest.fixture(scope="module")
def made() -> Issuer:
    """One key of each algorithm, made once: RSA's take a while."""
    issuer = Issuer()
    for algorithm in ALGORITHMS:
        issuer.add(algorithm.lower(), algorithm)
    return issuer


@pytest.fixture
def issuer(made: Issuer) -> Iterator[Issuer]:
    with serving() as running:
        running.keys, running.published = dict(made.keys), list(made.published)
        yield running


@pytest.fixture
def clock() -> Clock:
    return Clock(0)


@pytest.fixture
def tokens(issuer: Issuer, clock: Clock) -> Tokens:
    return Tokens(ISSUER, AUDIENCE, KeySet(f"{issuer.url}/keys", clock=clock))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_good_token(issuer: Issuer, tokens: Tokens, algorithm: str) -> None:
    caller = tokens.caller(issuer.token(algorithm.lower()))
    assert caller == Caller("token:4711", "acme", "user", ROLES["user"])


def test_keys_from_a_file(made: Issuer, tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_bytes(made.document)
    tokens = Tokens(ISSUER, AUDIENCE, KeySet(str(tmp_path / "keys.json")))
    assert tokens.caller(made.token("es256")).tenant == "acme"


@pytest.mark.parametrize(
    ("claims", "error"),
    [
        ({"exp": None}, CallerError),
        ({"exp": "soon"}, CallerError),
        ({"iss": None}, CallerError),
        ({"iss": "https://accounts.example.com"}, CallerError),
        ({"aud": None}, CallerError),
        ({"aud": "another service"}, CallerError),
        ({"aud": ["another", "service"]}, CallerError),
        ({"sub": None}, CallerError),
        ({"sub": 4711}, CallerError),
        ({"nbf": int(time.time()) + 1000}, CallerError),
        ({"iat": int(time.time()) + 1000}, CallerError),
        ({"exp": int(time.time()) - LEEWAY - 1}, ExpiredError),
        ({"sub": "a b"}, ForbiddenError),
        ({"sub": ""}, ForbiddenError),
        ({"sub": "x" * 151}, ForbiddenError),
        ({"tenant": None}, ForbiddenError),
        ({"tenant": 7}, ForbiddenError),
        ({"tenant": "../other"}, ForbiddenError),
        ({"role": None}, ForbiddenError),
        ({"role": "emperor"}, ForbiddenError),
        ({"role": ["emperor", 7]}, ForbiddenError),
        ({"role": {"admin": True}}, ForbiddenError),
    ],
)
def test_tokens_that_let_nobody_in(
    issuer: Issuer, tokens: Tokens, claims: dict[str, Any], error: type[AccessError]
) -> None:
    token = issuer.token("eddsa")
    assert tokens.caller(token)
    token = signed(issuer, claims)
    with pytest.raises(AccessError) as told:
        tokens.caller(token)
    assert type(told.value) is error and len(str(told.value)) < 300


def encoded(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).decode().rstrip("=")


def signed(issuer: Issuer, claims: dict[str, Any], header: dict[str, Any] | None = None) -> str:
    """As `issuer.token`, made by hand, where PyJWT would make no such token."""
    good = issuer.token("eddsa").split(".")[1]
    body = {**json.loads(base64.urlsafe_b64decode(good + "==")), **claims}
    body = {name: value for name, value in body.items() if value is not None}
    head = {
        name: value for name, value in {"alg": "EdDSA", "kid": "eddsa", **(header or {})}.items() if value is not None
    }
    parts = f"{encoded(json.dumps(head).encode())}.{encoded(json.dumps(body).encode())}"
    return f"{parts}.{encoded(issuer.keys['eddsa'][1].sign(parts.encode()))}"


def test_a_small_difference_of_clocks_does_no_harm(issuer: Issuer, tokens: Tokens) -> None:
    now = int(time.time())
    assert tokens.caller(issuer.token("eddsa", exp=now - LEEWAY + 5, iat=now + LEEWAY - 5))


def test_a_changed_token(issuer: Issuer, tokens: Tokens) -> None:
    head, _, signature = issuer.token("rs256").split(".")
    other = issuer.token("rs256", role="admin").split(".")[1]
    with pytest.raises(CallerError, match="Signature verification failed"):
        tokens.caller(f"{head}.{other}.{signature}")


def test_no_signature_is_none(issuer: Issuer, tokens: Tokens) -> None:
    body = issuer.token("rs256").split(".")[1]
    for alg in ("none", "None", "NONE", "", None, 7):
        head = encoded(json.dumps({"alg": alg, "kid": "rs256"}).encode())
        with pytest.raises(CallerError):
            tokens.caller(f"{head}.{body}.")


def test_a_public_key_is_no_shared_secret(issuer: Issuer, tokens: Tokens) -> None:
    """The classic: HS256 with the issuer's public key, which everybody has, as the secret."""
    public = issuer.keys["rs256"][1].public_key()
    body = issuer.token("rs256").split(".")[1]
    for secret in (
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        issuer.published[0]["n"].encode(),
    ):
        head = encoded(json.dumps({"alg": "HS256", "kid": "rs256"}).encode())
        code = hmac.new(secret, f"{head}.{body}".encode(), hashlib.sha256).digest()
        with pytest.raises(CallerError, match="not signed with one of RS256, ES256, EdDSA"):
            tokens.caller(f"{head}.{body}.{encoded(code)}")


def test_a_key_is_held_to_its_own_algorithm(issuer: Issuer, tokens: Tokens) -> None:
    with pytest.raises(CallerError):
        tokens.caller(signed(issuer, {}, {"kid": "rs256"}))
    with pytest.raises(CallerError):
        tokens.caller(signed(issuer, {}, {"alg": "ES256"}))


def test_keys_that_a_token_brings_are_not_looked_at(issuer: Issuer, tokens: Tokens) -> None:
    stranger = Issuer()
    stranger.add("own", "EdDSA")
    for headers in (
        {"jwk": stranger.published[0]},
        {"jku": f"{issuer.url}/stranger"},
        {"x5u": f"{issuer.url}/stranger"},
        {"kid": "eddsa", "jwk": stranger.published[0]},
        {"kid": "../../etc/passwd"},
        {"kid": ""},
    ):
        with pytest.raises(CallerError):
            tokens.caller(stranger.token("own", headers=headers))
    assert issuer.asked == 1


@pytest.mark.parametrize("role", list(ROLES))
def test_every_role(issuer: Issuer, tokens: Tokens, role: str) -> None:
    assert tokens.caller(issuer.token("eddsa", role=role)).role == role
    caller = tokens.caller(issuer.token("eddsa", role=["offline_access", role, "verifier"]))
    assert (caller.role, caller.permissions) == (role, ROLES[role])  # type: ignore[index]


def test_the_most_powerful_of_several_roles_counts(issuer: Issuer, tokens: Tokens) -> None:
    assert tokens.caller(issuer.token("eddsa", role=["user", "admin"])).role == "admin"


def test_a_default_is_for_those_without_a_role(issuer: Issuer, tokens: Tokens) -> None:
    tokens = replace(tokens, default_role="verifier")
    assert tokens.caller(issuer.token("eddsa", role=None)).role == "verifier"
    assert tokens.caller(issuer.token("eddsa", role=[])).role == "verifier"
    assert tokens.caller(issuer.token("eddsa", role="user")).role == "user"
    for other in ("suspended", ["suspended"], 7, {}, False):
        with pytest.raises(ForbiddenError):
            tokens.caller(issuer.token("eddsa", role=other))


def test_claims_of_other_names(issuer: Issuer, tokens: Tokens) -> None:
    tokens = replace(tokens, tenant="https://example.org/tenant", role="realm_access.roles")
    claims = {"https://example.org/tenant": "other", "realm_access": {"roles": ["operator"]}}
    caller = tokens.caller(issuer.token("eddsa", **claims))
    assert (caller.tenant, caller.role) == ("other", "operator")
    for wrong in ({}, {"roles": None}, "roles", ["roles"]):
        with pytest.raises(ForbiddenError):
            tokens.caller(issuer.token("eddsa", **{**claims, "realm_access": wrong}))


@given(st.text() | st.lists(st.binary(), min_size=2, max_size=4).map(lambda parts: ".".join(map(encoded, parts))))
def test_any_text_is_refused(text: str) -> None:
    with pytest.raises(CallerError):
        Tokens(ISSUER, AUDIENCE, KeySet("nowhere.json")).caller(text)


@given(
    st.dictionaries(
        st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.sampled_from(["EdDSA", "eddsa", "b64"]),
            lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
            max_leaves=4,
        ),
    )
)
def test_any_header_is_refused_or_good(files: Tokens, made: Issuer, header: dict[str, Any]) -> None:
    with contextlib.suppress(CallerError):
        assert files.caller(signed(made, {}, header)).name == "token:4711"


@pytest.fixture(scope="module")
def files(made: Issuer, tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    place = tmp_path_factory.mktemp("keys") / "keys.json"
    place.write_bytes(made.document)
    return Tokens(ISSUER, AUDIENCE, KeySet(str(place)))


def test_deep_json_is_refused(files: Tokens) -> None:
    deep = encoded(b'{"alg":' + b"[" * 5000 + b"]" * 5000 + b"}")
    with pytest.raises(CallerError):
        files.caller(f"{deep}.{deep}.AAAA")


# The issuer's keys


def test_the_issuer_is_asked_seldom(issuer: Issuer, tokens: Tokens, clock: Clock) -> None:
    for _ in range(20):
        tokens.caller(issuer.token("eddsa"))
    assert issuer.asked == 1
    issuer.add("new", "EdDSA")
    with pytest.raises(CallerError, match="none of the issuer's keys"):
        tokens.caller(issuer.token("new"))
    for number in range(20):  # a stranger who makes up names of keys
        with pytest.raises(CallerError):
            tokens.caller(issuer.token("eddsa", headers={"kid": f"made-up-{number}"}))
    assert issuer.asked == 1
    clock.now += REFETCH
    assert tokens.caller(issuer.token("new"))
    assert issuer.asked == 2


def test_a_key_that_was_taken_back(issuer: Issuer, tokens: Tokens, clock: Clock) -> None:
    token = issuer.token("eddsa")
    assert tokens.caller(token)
    issuer.published = [key for key in issuer.published if key["kid"] != "eddsa"]
    clock.now += MAX_AGE + 1
    with pytest.raises(CallerError):
        tokens.caller(token)


def test_an_issuer_that_does_not_answer(issuer: Issuer, tokens: Tokens, clock: Clock) -> None:
    issuer.broken = 500
    for _ in range(5):
        with pytest.raises(IssuerError, match="cannot be had from http"):
            tokens.caller(issuer.token("eddsa"))
    assert issuer.asked == 1
    issuer.broken = None
    clock.now += REFETCH
    assert tokens.caller(issuer.token("eddsa"))
    issuer.broken = 500
    clock.now += MAX_AGE / 2
    assert tokens.caller(issuer.token("eddsa"))  # the keys at hand still count
    with pytest.raises(IssuerError):
        tokens.caller(issuer.token("eddsa", headers={"kid": "other"}))
    assert tokens.caller(issuer.token("eddsa"))
    clock.now += MAX_AGE
    with pytest.raises(IssuerError):
        tokens.caller(issuer.token("eddsa"))


def test_redirects_are_not_followed(issuer: Issuer) -> None:
    with pytest.raises(IssuerError):
        KeySet(f"{issuer.url}/elsewhere").find("eddsa")
    assert issuer.asked == 1


def test_threads_ask_once(issuer: Issuer, tokens: Tokens) -> None:
    token = issuer.token("eddsa")
    found: list[Caller] = []
    threads = [threading.Thread(target=lambda: found.append(tokens.caller(token))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and issuer.asked == 1


def test_a_token_without_a_key_id_needs_an_issuer_with_one_key(tmp_path: Path, made: Issuer) -> None:
    several, one = tmp_path / "several.json", tmp_path / "one.json"
    several.write_bytes(made.document)
    one.write_text(json.dumps({"keys": [key for key in made.published if key["kid"] == "eddsa"]}))
    token = signed(made, {}, {"kid": None})
    assert Tokens(ISSUER, AUDIENCE, KeySet(str(one))).caller(token)
    with pytest.raises(CallerError):
        Tokens(ISSUER, AUDIENCE, KeySet(str(several))).caller(token)


@pytest.mark.parametrize(
    "document",
    [b"", b"[]", b"{}", b'{"keys": 7}', b'{"keys": []}', b'{"keys": [7, {}, {"kty": "RSA"}, {"kty": 7}]}', b"[" * 50_000],
)  # fmt: skip
def test_what_is_no_set_of_keys(tmp_path: Path, document: bytes) -> None:
    (tmp_path / "keys.json").write_bytes(document)
    with pytest.raises(IssuerError):
        KeySet(str(tmp_path / "keys.json")).find("a")


def test_keys_that_do_not_count(tmp_path: Path, made: Issuer) -> None:
    weak = Issuer()
    weak.add("weak", key=rsa.generate_private_key(65537, 1024))
    weak.add("encrypts", "EdDSA", use="enc")
    weak.add("other", "EdDSA", alg="ES384")
    weak.add("published", "EdDSA", d="AAAA")
    weak.published.append({"kty": "oct", "kid": "shared", "k": "c2VjcmV0", "alg": "HS256"})
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [*weak.published, *made.published]}))
    tokens = Tokens(ISSUER, AUDIENCE, KeySet(str(tmp_path / "keys.json")))
    assert tokens.caller(made.token("es256"))
    for kid in ("encrypts", "other", "published", "shared"):
        with pytest.raises(CallerError, match="none of the issuer's keys"):
            tokens.keys.find(kid)
    with pytest.raises(CallerError):
        tokens.keys.find("weak")


def test_a_set_without_end(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_bytes(b" " * 1_000_001)
    with pytest.raises(IssuerError, match="more than 1,000,000 bytes"):
        KeySet(str(tmp_path / "keys.json")).find("a")


# Settings


def test_access_takes_both_keys_and_tokens(issuer: Issuer, tmp_path: Path) -> None:
    service = Service(oidc_issuer=ISSUER, oidc_audience=AUDIENCE, oidc_keys=f"{issuer.url}/keys")
    with (
        contextlib.closing(schema.opened(str(tmp_path / "service.db"))) as opened,
        contextlib.closing(audit(tmp_path)) as log,
    ):
        access = Access.of(service, opened, log)
        key, _ = access.keys.add(
            "ada", tenant="acme", role="user", by=Caller("local", "local", "admin", ROLES["admin"])
        )
        assert access.authenticate({"authorization": f"Bearer {key}"}).name.startswith("key:")
        assert access.authenticate({"authorization": f"Bearer {issuer.token('rs256')}"}).name == "token:4711"
        with pytest.raises(CallerError):
            Access.of(Service(), opened, log).authenticate({"authorization": f"Bearer {issuer.token('rs256')}"})


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "set all three"),
        ({"oidc_audience": "lienzo"}, "set all three"),
        ({"oidc_keys": "keys.json"}, "set all three"),
        ({"oidc_audience": "lienzo", "oidc_keys": "http://accounts.example.org/keys"}, "use a file or https"),
        ({"oidc_audience": "lienzo", "oidc_keys": "file:///etc/passwd"}, "use a file or https"),
        ({"oidc_audience": "lienzo", "oidc_keys": "https:///keys"}, "use a file or https"),
        ({"oidc_audience": "lienzo", "oidc_keys": "keys.json", "oidc_default_role": "amdin"}, "Did you mean admin"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Tokens.of(Service(oidc_issuer=ISSUER, **settings))  # type: ignore[arg-type]


def test_nothing_is_fetched_before_a_token_comes(issuer: Issuer) -> None:
    Tokens.of(Service(oidc_issuer=ISSUER, oidc_audience=AUDIENCE, oidc_keys=f"{issuer.url}/keys"))
    assert issuer.asked == 0
