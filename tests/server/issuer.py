"""A token issuer on this machine: real keys, real tokens, and a JWK set behind a real HTTP server."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms

ISSUER = "https://accounts.example.org"
AUDIENCE = "lienzo"
MADE: dict[str, Any] = {
    "RS256": lambda: rsa.generate_private_key(65537, 2048),
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
}


@dataclass
class Issuer:
    """Makes keys and tokens.

    Attributes:
        keys: id -> (algorithm, private key).
        published: the JWK set.
        asked: how often it was fetched.
        broken: answers so instead: a status.
    """

    keys: dict[str, tuple[str, Any]] = field(default_factory=dict)
    published: list[dict[str, Any]] = field(default_factory=list)
    asked: int = 0
    broken: int | None = None
    url: str = ""

    def add(self, kid: str, algorithm: str = "RS256", key: Any = None, **more: Any) -> None:
        """Make a key, unless there is one, and publish its public half."""
        key = MADE[algorithm]() if key is None else key
        self.keys[kid] = algorithm, key
        jwk = get_default_algorithms()[algorithm].to_jwk(key.public_key(), as_dict=True)
        self.published.append({**jwk, "kid": kid, "alg": algorithm, "use": "sig", **more})

    def token(self, kid: str, *, headers: dict[str, Any] | None = None, **claims: Any) -> str:
        """Good, but for what is said otherwise; a claim that is None is left out."""
        algorithm, key = self.keys[kid]
        now = int(time.time())
        usual = {
            "iss": ISSUER, "aud": AUDIENCE, "sub": "4711", "iat": now, "exp": now + 300, "tenant": "acme", "role": "user",
        }  # fmt: skip
        given = {name: value for name, value in {**usual, **claims}.items() if value is not None}
        return jwt.encode(given, key, algorithm=algorithm, headers={"kid": kid, **(headers or {})})

    @property
    def document(self) -> bytes:
        return json.dumps({"keys": self.published}).encode()


@contextlib.contextmanager
def serving() -> Iterator[Issuer]:
    issuer = Issuer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            issuer.asked += 1
            if self.path == "/elsewhere":
                self.send_response(302)
                self.send_header("Location", "/keys")
                self.end_headers()
                return
            self.send_response(issuer.broken or 200)
            self.send_header("Content-Length", str(len(issuer.document)))
            self.end_headers()
            self.wfile.write(issuer.document)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    issuer.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield issuer
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
