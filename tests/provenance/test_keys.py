"""Keys: made once however many ask, readable by nobody else, rotated, revoked, trusted; signatures that openssl agrees with."""

import base64
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from lienzo.cli import lienzo
from lienzo.errors import KeystoreError, OutputError
from lienzo.provenance.keys import Algorithm, Keystore, LocalSigner, PublicKey, home

ALGORITHMS = ("ed25519", "es256")
SIGNERS = {name: LocalSigner.generate(name) for name in ALGORITHMS}  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path) -> Keystore:
    return Keystore(tmp_path / "keys")


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Result]:
    env = {"LIENZO_HOME": str(tmp_path)}
    return lambda *args: CliRunner(env=env).invoke(lienzo, ["keys", *map(str, args)], catch_exceptions=False)


# Signing


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@given(message=st.binary(max_size=300), position=st.integers(0, 511))
def test_a_signature_is_of_one_message_and_every_bit_counts(algorithm: str, message: bytes, position: int) -> None:
    signer = SIGNERS[algorithm]
    signature = signer.sign(message)
    assert len(signature) == 64
    assert signer.public.verify(message, signature)
    assert not signer.public.verify(message + b"\0", signature)
    flipped = bytearray(signature)
    flipped[position // 8] ^= 1 << position % 8
    assert not signer.public.verify(message, bytes(flipped))
    for wrong in (b"", signature[:-1], signature + b"\0", bytes(64), b"\xff" * 64):
        assert not signer.public.verify(message, wrong)


def test_openssl_agrees(tmp_path: Path) -> None:
    signer = SIGNERS["ed25519"]
    (tmp_path / "key.pem").write_bytes(signer.pem)
    (tmp_path / "message").write_bytes(b"a picture")
    command = ["openssl", "pkeyutl", "-sign", "-rawin", "-inkey", "key.pem", "-in", "message"]
    assert subprocess.run(command, cwd=tmp_path, check=True, capture_output=True).stdout == signer.sign(b"a picture")


def test_a_public_key_is_known_by_its_spki() -> None:
    for signer in SIGNERS.values():
        public = PublicKey.from_spki(signer.public.spki)
        assert public == signer.public
        assert public.id == signer.public.id
        assert public.algorithm == signer.algorithm


def test_other_kinds_of_keys_are_refused() -> None:
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    for key in (ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)):
        with pytest.raises(KeystoreError, match=r"Allowed: Ed25519, and ECDSA on P-256"):
            LocalSigner.from_pem(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        with pytest.raises(KeystoreError, match=r"Allowed: Ed25519, and ECDSA on P-256"):
            PublicKey.from_spki(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(KeystoreError, match="not a public key"):
        PublicKey.from_spki(b"\x30\x00")


def test_a_signer_does_not_show_its_key() -> None:
    assert "_key" not in repr(SIGNERS["ed25519"])


# The folder


def test_made_on_first_use_for_its_owner_alone(store: Keystore) -> None:
    assert store.keys() == []
    assert not store.folder.exists()
    signer = store.signer()
    assert signer.algorithm == "ed25519"
    assert Keystore(store.folder).signer().public == signer.public
    assert store.signer("log").public != signer.public
    assert len(store.secret("watermark")) == 32
    assert Keystore(store.folder).secret("watermark") == store.secret("watermark")
    assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in store.folder.iterdir()} == {0o600}
    assert {path.name for path in store.folder.iterdir()} == {"receipts.1.pem", "log.1.pem", "watermark.1.hex"}


def test_openssl_reads_the_files(store: Keystore) -> None:
    store.signer()
    store.rotate("receipts")
    for name, more in (("receipts.2.pem", []), ("receipts.1.pem", ["-pubin"])):
        subprocess.run(["openssl", "pkey", "-noout", "-in", store.folder / name, *more], check=True)


def test_processes_at_once_end_with_one_key(tmp_path: Path) -> None:
    code = (
        "import sys, time; from lienzo.provenance.keys import Keystore\n"
        "import cryptography.hazmat.primitives.serialization\n"
        "from pathlib import Path\n"
        "print(flush=True); sys.stdin.readline()\n"
        "store = Keystore(Path(sys.argv[1]))\n"
        "print(store.signer().public.id, store.secret('watermark').hex())"
    )
    for attempt in range(3):
        command = [sys.executable, "-c", code, str(tmp_path / f"keys{attempt}")]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        processes = [subprocess.Popen(command, **pipes) for _ in range(4)]  # type: ignore[call-overload]
        for process in processes:
            process.stdout.readline()  # all have imported
        for process in processes:
            process.stdin.write("\n")
            process.stdin.flush()
        assert len({process.communicate()[0] for process in processes}) == 1
        assert all(process.returncode == 0 for process in processes)
        assert len(list((tmp_path / f"keys{attempt}").iterdir())) == 2


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o622, 0o644])
def test_a_key_that_others_can_touch_is_refused(store: Keystore, mode: int) -> None:
    store.signer()
    store.secret("watermark")
    for path in store.folder.iterdir():
        path.chmod(mode)
    for use in (store.signer, lambda: store.secret("watermark"), store.keys, lambda: store.rotate("receipts")):
        with pytest.raises(KeystoreError, match=rf"mode {mode:04o}.*chmod 600"):
            use()
    (store.folder / "receipts.1.pem").chmod(0o600)
    store.signer()


def test_a_folder_that_others_can_write_to_is_refused(store: Keystore) -> None:
    store.folder.mkdir()
    store.folder.chmod(0o777)
    with pytest.raises(KeystoreError, match="could plant a key"):
        store.signer()
    store.folder.chmod(0o755)
    with_others = store.signer()
    store.folder.chmod(0o777)
    with pytest.raises(KeystoreError, match="could plant a key"):
        store.signer()
    store.folder.chmod(0o700)
    assert store.signer().public == with_others.public


def test_damaged_files_are_told(store: Keystore) -> None:
    store.signer()
    store.secret("watermark")
    for name, text in (
        ("receipts.1.pem", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
        ("receipts.1.pem", b""),
    ):
        (store.folder / name).write_bytes(text)
        with pytest.raises(KeystoreError, match=r"receipts\.1\.pem"):
            store.signer()
        with pytest.raises(KeystoreError, match=r"receipts\.1\.pem"):
            store.keys()
    for text in (b"", b"00" * 31, b"zz" * 32, b"\xff" * 64):
        (store.folder / "watermark.1.hex").write_bytes(text)
        with pytest.raises(KeystoreError, match=r"watermark\.1\.hex"):
            store.secret("watermark")


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises((KeystoreError, OutputError), match="file"):
        Keystore(tmp_path / "file" / "keys").signer()


@pytest.mark.parametrize("purpose", ["", "Receipts", "../x", "a.b", "a/b", "-a", "a" * 41])
def test_a_purpose_is_a_plain_word(store: Keystore, purpose: str) -> None:
    with pytest.raises(KeystoreError, match="small letters"):
        store.signer(purpose)
    assert not store.folder.exists()


def test_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LIENZO_HOME", str(tmp_path))
    assert home() == tmp_path
    assert Keystore().folder == tmp_path / "keys"
    monkeypatch.delenv("LIENZO_HOME")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    assert home() == tmp_path / "config" / "lienzo"
    monkeypatch.setenv("XDG_CONFIG_HOME", "")
    assert home() == Path.home() / ".config" / "lienzo"


# Rotation and revocation


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_rotation_keeps_what_was_signed_checkable(store: Keystore, algorithm: str) -> None:
    first = store.signer(algorithm=algorithm)  # type: ignore[arg-type]
    signature = first.sign(b"old")
    assert store.rotate("receipts") == store.signer().public != first.public
    assert store.signer().algorithm == algorithm
    old, new = store.keys()
    assert old.public == first.public and old.public.verify(b"old", signature)
    assert (old.retired, new.retired) == (new.made, None)
    assert b"PRIVATE" not in (store.folder / "receipts.1.pem").read_bytes()


def test_rotation_to_another_algorithm(store: Keystore) -> None:
    store.signer()
    assert store.rotate("receipts", algorithm="es256").algorithm == "es256"  # type: ignore[union-attr]
    assert store.signer(algorithm="ed25519").algorithm == "es256"


def test_old_secrets_stay(store: Keystore) -> None:
    first = store.secret("watermark")
    assert store.rotate("watermark") is None
    assert store.secrets("watermark") == [store.secret("watermark"), first]
    assert first != store.secret("watermark")


def test_more_than_nine_keys_are_in_order(store: Keystore) -> None:
    made = [store.signer().public] + [store.rotate("receipts") for _ in range(11)]
    assert [key.public for key in store.keys()] == made
    assert store.signer().public == made[-1]


def test_nothing_to_rotate(store: Keystore) -> None:
    with pytest.raises(KeystoreError, match="There are: none yet"):
        store.rotate("receipts")
    store.signer()
    with pytest.raises(KeystoreError, match="There are: receipts"):
        store.rotate("recepits")


def test_an_interrupted_rotation_is_finished_by_the_next(store: Keystore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.signer()
    with monkeypatch.context() as patched:
        patched.setattr(Keystore, "_forget_private", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            store.rotate("receipts")
    assert [key.retired is None for key in store.keys()] == [False, True]
    store.rotate("receipts")
    private = [b"PRIVATE" in (store.folder / f"receipts.{n}.pem").read_bytes() for n in (1, 2, 3)]
    assert private == [False, False, True]


def test_a_revoked_key_signs_no_more(store: Keystore) -> None:
    stolen = store.signer().public
    known = store.revoke(stolen.id[:12], "laptop lost")
    assert known.revoked is not None and known.revoked.reason == "laptop lost"
    assert known.public == stolen and known.retired is not None
    assert store.signer().public != stolen
    again = store.revoke(stolen.id, "another reason")
    assert again.revoked == known.revoked
    assert len(store.keys()) == 2


def test_a_revocation_that_was_interrupted_still_holds(store: Keystore, monkeypatch: pytest.MonkeyPatch) -> None:
    stolen = store.signer().public
    with monkeypatch.context() as patched:
        patched.setattr(Keystore, "rotate", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            store.revoke(stolen.id, "stolen")
    assert store.signer().public != stolen


def test_a_damaged_revocation_still_revokes(store: Keystore) -> None:
    stolen = store.signer().public
    store.revoke(stolen.id, "stolen")
    (store.folder / "revoked" / f"{stolen.id}.json").write_text("{}")
    assert store.find(stolen.id).revoked is not None


def test_what_cannot_be_revoked(store: Keystore) -> None:
    store.signer()
    for key_id in ("", "0" * 64, store.signer().public.id[:7]):
        with pytest.raises(KeystoreError, match="no key has that id"):
            store.revoke(key_id, "x")
    with pytest.raises(KeystoreError, match="reason"):
        store.revoke(store.signer().public.id, " ")


# Trust


def test_others_keys(store: Keystore, tmp_path: Path) -> None:
    store.signer()
    store.secret("watermark")
    stolen = store.rotate("receipts")
    assert stolen is not None
    store.revoke(stolen.id, "stolen")
    document = json.dumps(store.export("Ana")).encode()
    for secret in (store.secret("watermark").hex().encode(), b"PRIVATE"):
        assert secret not in document

    mine = Keystore(tmp_path / "mine")
    mine.signer()
    trusted = mine.trust(document)
    assert {key.public.id: key.revoked for key in trusted} == {key.public.id: key.revoked for key in store.keys()}
    assert {(key.name, key.own) for key in trusted} == {("Ana: receipts", False)}
    assert [key.own for key in mine.keys()] == [True, False, False, False]
    assert mine.find(stolen.id).revoked.reason == "stolen"  # type: ignore[union-attr]

    older = json.loads(document)
    for key in older["keys"]:
        key.pop("revoked", None)
    mine.trust(older)
    assert mine.find(stolen.id).revoked is not None
    assert len(mine.export()["keys"]) == 1  # only one's own


@pytest.mark.parametrize("revokes", [True, False])
def test_a_list_speaks_of_its_owners_keys_alone(store: Keystore, tmp_path: Path, revokes: bool) -> None:
    mine, carl = Keystore(tmp_path / "mine"), Keystore(tmp_path / "carl")
    for one in (store, mine, carl):
        one.signer()
    mine.trust(store.export("Ana"))
    before = mine.keys()
    taken = {"revoked": {"time": "2020-01-01T00:00:00Z", "reason": "a lie"}} if revokes else {}
    for victim, match in ((mine, "with your own key"), (store, r"trusted here as 'Ana: receipts'.*\(--as\)")):
        evil = carl.export("Carl")
        evil["keys"] += [{**key, **taken} for key in victim.export()["keys"]]
        with pytest.raises(KeystoreError, match=match):
            mine.trust(evil)
        assert mine.keys() == before, "nothing of it was taken, not Carl's own keys either"
    mine.trust(carl.export("Carl"), "Uncle Carl")
    assert [key.whose for key in mine.keys()] == [None, "Ana", "Uncle Carl"]


def test_a_key_keeps_its_purpose(store: Keystore, tmp_path: Path) -> None:
    store.signer("log")
    mine = Keystore(tmp_path / "mine")
    mine.trust(store.export("Ana"))
    changed = store.export("Ana")
    changed["keys"][0]["purpose"] = "receipts"
    with pytest.raises(KeystoreError, match="trusted here as 'Ana: log'"):
        mine.trust(changed)


def test_a_list_without_a_name_is_known_by_its_key(store: Keystore, tmp_path: Path) -> None:
    store.signer()
    mine = Keystore(tmp_path / "mine")
    (key,) = mine.trust(store.export())
    assert key.whose == key.public.id[:16]


@pytest.mark.parametrize("name", ["", " \n", "An\x1b[31ma", "a" * 101, 7])
def test_a_name_can_be_shown(store: Keystore, tmp_path: Path, name: object) -> None:
    store.signer()
    with pytest.raises(KeystoreError, match="cannot be shown"):
        Keystore(tmp_path / "mine").trust({**store.export(), "name": name})


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.pop("format"),
        lambda d: d.update(keys={}),
        lambda d: d["keys"].append(None),
        lambda d: d["keys"][0].pop("spki"),
        lambda d: d["keys"][0].update(spki="%%"),
        lambda d: d["keys"][0].update(spki="é"),
        lambda d: d["keys"][0].update(spki=d["keys"][0]["spki"][:-1]),
        lambda d: d["keys"][0].update(spki=d["keys"][0]["spki"] + "="),
        lambda d: d["keys"][0].update(spki=base64.b64encode(b"x").decode()),
        lambda d: d["keys"][0].update(id="0" * 64),
        lambda d: d["keys"][0].update(algorithm="es256"),
        lambda d: d["keys"][0].update(
            spki=d["keys"][0]["spki"][:-2] + "==" if d["keys"][0]["spki"][-2:] != "==" else "A"
        ),
        lambda d: d["keys"][0].update(purpose=""),
        lambda d: d["keys"][0].update(purpose=7),
        lambda d: d["keys"][0].update(purpose="receipts\n"),
        lambda d: d["keys"][0].update(made=7),
        lambda d: d["keys"][0].update(revoked={}),
        lambda d: d["keys"][0].update(revoked=[]),
        lambda d: d["keys"][0].update(revoked={"time": "x", "reason": ""}),
    ],
)
def test_a_bad_trust_list_is_refused_whole(store: Keystore, tmp_path: Path, change: Callable[[dict], object]) -> None:  # type: ignore[type-arg]
    store.signer()
    store.signer("log")
    document = store.export()
    document["keys"].reverse()
    change(document)
    mine = Keystore(tmp_path / "mine")
    with pytest.raises(KeystoreError):
        mine.trust(json.dumps(document).encode())
    assert mine.keys() == []


@given(st.binary(max_size=200) | st.just(b"[" * 100_000) | st.just(b"{}") | st.just(b" " * 1_000_001))
def test_anything_for_a_trust_list(document: bytes) -> None:
    with pytest.raises(KeystoreError):
        Keystore(Path("/nonexistent")).trust(document)


# A key that lies elsewhere


@pytest.fixture
def elsewhere(tmp_path: Path) -> Callable[..., str]:
    def file(name: str, algorithm: Algorithm = "ed25519") -> str:
        path = tmp_path / f"{name}.pem"
        path.touch(mode=0o600)
        path.write_bytes(LocalSigner.generate(algorithm).pem)
        return str(path)

    return file


def test_a_key_that_the_environment_names(
    store: Keystore, elsewhere: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = store.signer()
    monkeypatch.setenv("LIENZO_RECEIPTS_KEY", elsewhere("first", "es256"))
    with ThreadPoolExecutor(8) as pool:
        (named,) = {one.public for one in pool.map(lambda _: Keystore(store.folder).signer(), range(16))}
    assert named.algorithm == "es256"
    assert [(key.public, key.retired is None) for key in store.keys()] == [(own.public, False), (named, True)]
    assert not any(b"PRIVATE" in path.read_bytes() for path in store.folder.iterdir()), "the old one signs no more"
    assert store.signer("log").public.algorithm == "ed25519", "which has its own"
    with pytest.raises(KeystoreError, match="that LIENZO_RECEIPTS_KEY names"):
        store.rotate("receipts")

    monkeypatch.delenv("LIENZO_RECEIPTS_KEY")
    with pytest.raises(KeystoreError, match="LIENZO_RECEIPTS_KEY"):
        store.signer()
    after = store.rotate("receipts")
    monkeypatch.setenv("LIENZO_RECEIPTS_KEY", str(store.folder.parent / "first.pem"))
    assert store.signer().public == named, "known already, so nothing is added"
    assert [key.public for key in store.keys() if key.purpose == "receipts"] == [own.public, named, after]

    store.revoke(named.id, "the token was lost")
    with pytest.raises(KeystoreError, match=r"LIENZO_RECEIPTS_KEY: the key .* was revoked\. Name another one"):
        store.signer()
    monkeypatch.setenv("LIENZO_RECEIPTS_KEY", elsewhere("second"))
    second = store.signer().public
    assert store.revoke(second.id, "lost too").revoked is not None
    assert [key.public for key in store.keys() if key.purpose == "receipts"][-1] == second, (
        "the environment names the next"
    )


def test_a_named_key_is_of_one_purpose(
    store: Keystore, elsewhere: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ana = Keystore(tmp_path / "ana" / "keys")
    theirs = ana.signer()
    store.trust(ana.export("Ana"))
    shared = elsewhere("shared")
    monkeypatch.setenv("LIENZO_LOG_KEY", shared)
    assert store.signer("log").public == LocalSigner.from_pem(Path(shared).read_bytes()).public
    for key, match in (
        (shared, "is 'log' here, and a key counts for one purpose"),
        (str(ana.folder / "receipts.1.pem"), f"the key {theirs.public.id[:16]} is 'Ana: receipts' here"),
        (str(tmp_path / "nothing.pem"), "LIENZO_RECEIPTS_KEY: .*nothing.pem: cannot be read"),
    ):
        monkeypatch.setenv("LIENZO_RECEIPTS_KEY", key)
        with pytest.raises(KeystoreError, match=match):
            store.signer()
    monkeypatch.setenv("LIENZO_LOG_KEY", elsewhere("other", "es256"))
    with pytest.raises(
        KeystoreError, match=r"LIENZO_LOG_KEY: got a key of the algorithm es256\. Allowed for log: ed25519"
    ):
        store.signer("log")


# The command line


def test_the_commands(run: Callable[..., Result], tmp_path: Path) -> None:
    empty = run("list")
    assert (empty.exit_code, empty.stdout) == (0, "")
    assert "No keys in" in empty.stderr
    assert json.loads(run("list", "--json").stdout) == []

    store = Keystore(tmp_path / "keys")
    first = store.signer().public.id
    rotated = json.loads(run("rotate", "receipts", "--json").stdout)
    assert store.signer().public.id == rotated["id"] != first
    assert run("list").stdout.split("\n")[1].split()[:3] == [rotated["id"][:16], "receipts", "ed25519"]

    revoked = run("revoke", first[:16], "--reason", "lost")
    assert "REVOKED" in revoked.stdout and "lost" in revoked.stdout
    listed = json.loads(run("list", "--json").stdout)
    assert [key.get("revoked", {}).get("reason") for key in listed] == ["lost", None]

    (tmp_path / "ana.json").write_text(run("export", "--name", "Ana").stdout)
    other = CliRunner(env={"LIENZO_HOME": str(tmp_path / "other")})
    trusted = other.invoke(lienzo, ["keys", "trust", str(tmp_path / "ana.json"), "--json"])
    assert [(key["whose"], key["purpose"]) for key in json.loads(trusted.stdout)] == [("Ana", "receipts")] * 2

    store.secret("watermark")
    assert run("rotate", "watermark").stdout == "watermark  new secret; 1 old kept\n"


def test_mistakes_are_told(run: Callable[..., Result], tmp_path: Path) -> None:
    for args, message in (
        (("rotate", "receipts"), "no key. There are: none yet"),
        (("revoke", "0123456789", "--reason", "x"), "no key has that id"),
        (("revoke", "0123456789"), "--reason"),
        (("trust", tmp_path / "nothing.json"), "cannot be read"),
    ):
        result = run(*args)
        assert result.exit_code == 2
        assert message in result.stderr
        assert result.stdout == ""


def test_the_keys_of_another_user_are_told(run: Callable[..., Result], tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    Keystore(tmp_path / "keys").signer()
    (tmp_path / "keys" / "receipts.1.pem").chmod(0)
    assert "Make it readable" in run("list").stderr
