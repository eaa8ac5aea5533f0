"""A key on a token: SoftHSM, which behaves as a hardware token does."""

import os
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lienzo.errors import KeystoreError
from lienzo.provenance.certificates import issuer
from lienzo.provenance.keys import LocalSigner, PublicKey
from lienzo.provenance.pkcs11 import open_signer

pytest.importorskip("pkcs11", reason="python-pkcs11 is not installed")
MODULES = [Path("/usr/lib/softhsm/libsofthsm2.so"), Path("/usr/lib64/pkcs11/libsofthsm2.so")]
MODULE = next((path for path in MODULES if path.exists()), None)
if MODULE is None or shutil.which("softhsm2-util") is None:
    pytest.skip("softhsm2 is not installed", allow_module_level=True)
LOCAL = LocalSigner.generate("es256")
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
    rsa = ["openssl", "genpkey", "-algorithm", "RSA", "-out", folder / "key.pem"]
    subprocess.run(rsa, check=True, capture_output=True)
    util("--import", folder / "key.pem", "--token", "lienzo", "--label", "rsa", "--id", "02", "--pin", "1234")
    for pin in ("1234", "9999"):
        (folder / pin).write_text(pin + "\n")
        (folder / pin).chmod(0o600)

    def named(token: str = "lienzo", label: str = "receipts", pin: str = "1234", module: object = MODULE) -> str:
        return f"pkcs11:token={token};object={label}?module-path={module}&pin-source=file:{folder / pin}"

    return named


def test_the_token_signs_as_the_key_in_a_file(uri: Uri) -> None:
    signer = open_signer(uri())
    assert signer.algorithm == "es256"
    assert signer.public == LOCAL.public == PublicKey.from_spki(signer.public.spki)
    with ThreadPoolExecutor(8) as pool:
        signatures = list(pool.map(lambda n: signer.sign(bytes([n])), range(64)))
    assert all(LOCAL.public.verify(bytes([n]), signature) for n, signature in enumerate(signatures))
    assert open_signer(uri()).public == signer.public  # a second session


def test_it_signs_credentials(uri: Uri, tmp_path: Path) -> None:
    """An authority issues for a key that it never saw."""
    from lienzo.provenance.certificates import _issue, _pem

    (tmp_path / "chain.pem").write_text(_pem(_issue("leaf", LocalSigner.generate("es256"), LOCAL.public)))
    found = issuer(chain=tmp_path / "chain.pem", key=uri())
    assert found.signer.public.verify(b"claim", found.signer.sign(b"claim"))


def test_mistakes_are_told(uri: Uri, tmp_path: Path) -> None:
    for wrong, message in (
        (uri(token="other"), "no ECDSA key"),
        (uri(label="other"), "no ECDSA key"),
        (uri(pin="9999"), "PIN"),
        (uri(label="rsa"), "no ECDSA key"),
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
