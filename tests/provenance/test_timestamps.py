"""Timestamps from a real authority (`openssl ts`), which openssl and we both verify; and all else that may come back."""

import random
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from authority import Authority as Openssl
from authority import serving

from lienzo.errors import TimestampError, UntrustedTimestampError
from lienzo.provenance.timestamps import Authority, verify

MESSAGE = b"a signed checkpoint"


@pytest.fixture(scope="module")
def openssl(tmp_path_factory: pytest.TempPathFactory) -> Openssl:
    return Openssl(tmp_path_factory.mktemp("authority") / "tsa")


@pytest.fixture(scope="module")
def url(openssl: Openssl) -> Iterator[str]:
    with serving(openssl.answer) as url:
        yield url


@pytest.fixture(scope="module")
def token(url: str) -> bytes:
    return Authority(url)(MESSAGE)


def test_a_stamp_says_when(url: str, openssl: Openssl) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    token = Authority(url, roots=openssl.root)(MESSAGE)
    assert before <= verify(token, MESSAGE, openssl.root) <= datetime.now(UTC) + timedelta(seconds=1)


def test_openssl_verifies_it(token: bytes, openssl: Openssl, tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(token)
    (tmp_path / "message").write_bytes(MESSAGE)
    (tmp_path / "ca.pem").write_bytes(openssl.root)
    command = ["openssl", "ts", "-verify", "-in", "token", "-data", "message", "-CAfile", "ca.pem"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)


def test_of_another_message_or_a_stranger(token: bytes, openssl: Openssl, url: str, tmp_path: Path) -> None:
    with pytest.raises(TimestampError, match="another message"):
        verify(token, MESSAGE + b".", openssl.root)
    stranger = Openssl(tmp_path / "stranger")
    with pytest.raises(UntrustedTimestampError, match=r"leads to none of the roots.*local issuer"):
        verify(token, MESSAGE, stranger.root)
    forged = bytes([*token[:-3], token[-3] ^ 1, *token[-2:]])  # the signature is last
    with pytest.raises(TimestampError, match="signature is not right") as told:
        verify(forged, MESSAGE, openssl.root)
    assert not isinstance(told.value, UntrustedTimestampError)
    with pytest.raises(TimestampError, match="not to be trusted"):
        Authority(url, roots=stranger.root)(MESSAGE)
    assert verify(token, MESSAGE, stranger.root + openssl.root)
    with pytest.raises(TimestampError, match="no certificate"):
        verify(token, MESSAGE, b"")


def test_an_old_answer_is_not_taken_for_a_new_one(token: bytes) -> None:
    with serving(lambda _: token) as url, pytest.raises(TimestampError, match="another request"):
        Authority(url)(MESSAGE)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"", "not a timestamp"),
        (b"<html>", "not a timestamp"),
        (bytes(200_000), "more than 100,000 bytes"),
        (bytes.fromhex("30053003020102"), "refused"),
        (500, "500|Internal"),
        (302, "302|Found"),
    ],
)
def test_other_answers(answer: bytes | int, message: str) -> None:
    with serving(lambda _: answer) as url, pytest.raises(TimestampError, match=message):
        Authority(url)(MESSAGE)


def test_nobody_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # not listening
        with pytest.raises(TimestampError, match="no timestamp"):
            Authority(f"http://127.0.0.1:{taken.getsockname()[1]}/")(MESSAGE)


@pytest.mark.parametrize("drip", [False, True])
def test_somebody_slow_is_left_in_time(drip: bool) -> None:
    stop = threading.Event()

    def serve(server: socket.socket) -> None:
        client, _ = server.accept()
        with client:
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" if drip else b"")
            while not stop.wait(0.05):
                if drip:
                    client.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        begin = time.monotonic()
        try:
            with pytest.raises(TimestampError, match="timed out"):
                Authority(f"http://127.0.0.1:{server.getsockname()[1]}/", timeout=0.4)(MESSAGE)
        finally:
            stop.set()
            thread.join()
        assert time.monotonic() - begin < 20


@pytest.mark.parametrize("url", ["", "file:///etc/passwd", "ftp://x/", "tsa.example", "http://"])
def test_only_http(url: str) -> None:
    with pytest.raises(TimestampError, match="http or https"):
        Authority(url)


def test_changed_tokens_prove_nothing_else(token: bytes, openssl: Openssl) -> None:
    """Bytes that no signature covers may change; the time and the message may not."""
    when = verify(token, MESSAGE, openssl.root)
    rng = random.Random(0)
    accepted = 0
    for _ in range(3000):
        changed = bytearray(token)
        for _ in range(rng.choice((1, 1, 1, 3))):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        if rng.random() < 0.1:
            del changed[rng.randrange(len(changed)) :]
        try:
            assert verify(bytes(changed), MESSAGE, openssl.root) == when
            accepted += 1
        except TimestampError:
            pass
    assert accepted < 300
