"""A key on a token: SoftHSM, which behaves as a hardware token does."""

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner

from lienzo import Pipeline, Request
from lienzo.cli import lienzo
from lienzo.errors import KeystoreError
from lienzo.provenance.certificates import issuer
from lienzo.provenance.keys import LocalSigner, PublicKey
from lienzo.provenance.marking import Marked
from lienzo.provenance.pkcs11 import open_signer
from lienzo.provenance.writing import save

pytest.importorskip("pkcs11", reason="python-pkcs11 is not installed")
MODULES = [Path("/usr/lib/softhsm/libsofthsm2.so"), Path("/usr/lib64/pkcs11/libsofthsm2.so")]
MODULE = next((path for path in MODULES if path.exists()), None)
if MODULE is None or shutil.which("softhsm2-util") is None:
    pytest.skip("softhsm2 is not installed", allow_module_level=True)
LOCAL, EDWARDS = LocalSigner.generate("es256"), LocalSigner.generate("ed25519")
Uri = Callable[..., str]


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> Uri:
    folder = tmp_path_factory.mktemp("token")
    (folder / "tokens").mkdir()
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder}/tokens\n")
    os.environ["SOFTHSM2_CONF"] = str(folder / "softhsm2.conf")  # read once in a process, when the library is loaded

    def util(*args: object) -> None:
        subprocess.run(["softhsm2-util", *map(str, args)], check=True, capture_output=True)

    util("--init-token", "--free", "--label", "lienzo", "--pin", "1234", "--so-pin", "5678")
    (folder / "key.pem").write_bytes(LOCAL.pem)
    util("--import", folder / "key.pem", "--token", "lienzo", "--label", "receipts", "--id", "01", "--pin", "1234")
    (folder / "key.pem").write_bytes(EDWARDS.pem)
    util("--import", folder / "key.pem", "--token", "lienzo", "--label", "log", "--id", "03", "--pin", "1234")
    rsa = ["openssl", "genpkey", "-algorithm", "RSA", "-out", folder / "key.pem"]
    subprocess.run(rsa, check=True, capture_output=True)
    util("--import", folder / "key.pem", "--token", "lienzo", "--label", "rsa", "--id", "02", "--pin", "1234")
    for pin in ("1234", "9999"):
        (folder / pin).write_text(pin + "\n")
        (folder / pin).chmod(0o600)

    def named(token: str = "lienzo", label: str = "receipts", pin: str = "1234", module: object = MODULE) -> str:
        return f"pkcs11:token={token};object={label}?module-path={module}&pin-source=file:{folder / pin}"

    return named


@pytest.mark.parametrize(("label", "local"), [("receipts", LOCAL), ("log", EDWARDS)])
def test_the_token_signs_as_the_key_in_a_file(uri: Uri, label: str, local: LocalSigner) -> None:
    signer = open_signer(uri(label=label))
    assert signer.algorithm == local.algorithm
    assert signer.public == local.public == PublicKey.from_spki(signer.public.spki)
    with ThreadPoolExecutor(8) as pool:
        signatures = list(pool.map(lambda n: signer.sign(bytes([n])), range(64)))
    assert all(local.public.verify(bytes([n]), signature) for n, signature in enumerate(signatures))
    assert open_signer(uri(label=label)).public == signer.public  # a second session


def test_receipts_and_the_log_are_signed_on_the_token(
    uri: Uri, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And all of it verifies without the token."""
    monkeypatch.setenv("LIENZO_HOME", str(tmp_path))
    monkeypatch.setenv("LIENZO_RECEIPTS_KEY", uri())
    monkeypatch.setenv("LIENZO_LOG_KEY", uri(label="log"))
    result = Pipeline.load(mark="full")(Request("a red circle", seed=7, steps=1))
    save(result, tmp_path / "marked.png")
    monkeypatch.delenv("LIENZO_RECEIPTS_KEY")
    monkeypatch.delenv("LIENZO_LOG_KEY")

    assert isinstance(result, Marked) and result.signed.key == base64.b64encode(LOCAL.public.spki).decode()
    private = {path.name for path in (tmp_path / "keys").glob("*.pem") if b"PRIVATE" in path.read_bytes()}
    assert private == {"ca.1.pem", "credentials.1.pem"}
    for command, state in ((["verify", str(tmp_path / "marked.png")], "outcome"), (["log", "check"], "state")):
        told = CliRunner().invoke(lienzo, [*command, "--json"], catch_exceptions=False)
        assert json.loads(told.stdout)[state] == "proved", told.output


def test_it_signs_credentials(uri: Uri, tmp_path: Path) -> None:
    """An authority issues for a key that it never saw."""
    from lienzo.provenance.certificates import _issue, _pem

    (tmp_path / "chain.pem").write_text(_pem(_issue("leaf", LocalSigner.generate("es256"), LOCAL.public)))
    found = issuer(chain=tmp_path / "chain.pem", key=uri())
    assert found.signer.public.verify(b"claim", found.signer.sign(b"claim"))


def test_mistakes_are_told(uri: Uri, tmp_path: Path) -> None:
    for wrong, message in (
        (uri(token="other"), "no Ed25519 or ECDSA key"),
        (uri(label="other"), "no Ed25519 or ECDSA key"),
        (uri(pin="9999"), "PIN"),
        (uri(label="rsa"), "no Ed25519 or ECDSA key"),
        (uri(module=tmp_path / "nothing.so"), "Check the names"),
        (uri(pin="nothing"), "cannot be read"),
        ("pkcs11:token=lienzo", "object, module-path, pin-source"),
        ("file:x", "lacks token"),
    ):
        with pytest.raises(KeystoreError, match=message):
            open_signer(wrong)


def test_a_pin_that_others_may_read(uri: Uri) -> None:
    path = Path(uri().rpartition("file:")[2])
    path.chmod(0o644)
    try:
        with pytest.raises(KeystoreError, match="chmod 600"):
            open_signer(uri())
    finally:
        path.chmod(0o600)
