"""A real timestamp authority: `openssl ts` behind a real HTTP server on this machine, and what else may answer at a URL."""

import contextlib
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

CONFIG = """
[req]
distinguished_name = name
prompt = no
[name]
O = Test authority
CN = Test authority
[ca]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash
[leaf]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = critical,timeStamping
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
[tsa]
default_tsa = tsa_config
[tsa_config]
serial = {folder}/serial
signer_cert = {folder}/leaf.pem
signer_key = {folder}/leaf.key
signer_digest = sha256
default_policy = 1.2.3.4
digests = sha256, sha384, sha512
ess_cert_id_chain = no
ess_cert_id_alg = sha256
"""


class Authority:
    """Certificates and keys in a folder; `answer` is what `openssl ts` replies."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        (folder / "config").write_text(CONFIG.format(folder=folder))
        (folder / "serial").write_text("01\n")
        for name in ("ca", "leaf"):
            self._openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", f"{name}.key")
        request = ("req", "-new", "-config", "config")
        self._openssl(*request, "-x509", "-key", "ca.key", "-days", "10", "-extensions", "ca", "-out", "ca.pem")
        self._openssl(*request, "-key", "leaf.key", "-subj", "/O=Test authority/CN=Clock", "-out", "leaf.csr")
        self._openssl(
            "x509", "-req", "-in", "leaf.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-set_serial", "7",
            "-days", "9", "-extfile", "config", "-extensions", "leaf", "-out", "leaf.pem",
        )  # fmt: skip
        self.root = (folder / "ca.pem").read_bytes()
        self._lock = threading.Lock()

    def answer(self, query: bytes) -> bytes:
        with self._lock:  # openssl counts in a file
            (self.folder / "query").write_bytes(query)
            return self._openssl("ts", "-reply", "-config", "config", "-section", "tsa_config", "-queryfile", "query")

    def _openssl(self, *args: str) -> bytes:
        return subprocess.run(["openssl", *args], cwd=self.folder, check=True, capture_output=True).stdout


@contextlib.contextmanager
def serving(answer: Callable[[bytes], bytes | int], seen: list[str] | None = None) -> Iterator[str]:
    """The URL of a server on this machine. `answer` gives the body, or the status of an empty one."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if seen is not None:
                seen.append(f"{self.command} {self.path}")
            given = answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            body = b"" if isinstance(given, int) else given
            with contextlib.suppress(OSError):  # the client may have gone
                self.send_response(given if isinstance(given, int) else 200)
                self.send_header("Location", "http://127.0.0.1:9/elsewhere")
                self.send_header("Content-Type", "application/timestamp-reply")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        do_POST = do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = False  # closing waits for them
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/stamp"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
