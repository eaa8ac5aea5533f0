import errno
import os
import threading
from pathlib import Path

import pytest

from lienzo.errors import OutputError
from lienzo.provenance import files


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_writes_under_the_name(tmp_path: Path) -> None:
    assert files.place(b"data", tmp_path / "a.png") == tmp_path / "a.png"
    assert (tmp_path / "a.png").read_bytes() == b"data"
    assert names(tmp_path) == {"a.png"}


def test_does_not_overwrite_unless_told(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    with pytest.raises(OutputError, match="exists already"):
        files.place(b"new", path)
    assert path.read_bytes() == b"old"
    files.place(b"new", path, if_exists="overwrite")
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == {"a.png"}


@pytest.mark.parametrize("links", [True, False])
def test_many_writers_get_a_name_each(tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    writers = [
        threading.Thread(target=files.place, args=(bytes([i]), tmp_path / "a.png"), kwargs={"if_exists": "number"})
        for i in range(8 if links else 1)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    if not links:
        files.place(b"x", tmp_path / "a.png", if_exists="number")
        assert names(tmp_path) == {"a.png", "a-2.png"}
        return
    assert names(tmp_path) == {"a.png", *(f"a-{i}.png" for i in range(2, 9))}
    assert {path.read_bytes() for path in tmp_path.iterdir()} == {bytes([i]) for i in range(8)}


@pytest.mark.parametrize("broken", ["fsync", "link"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_leaves_nothing_behind(
    tmp_path: Path, broken: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, broken, fail)
    expected = OutputError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as raised:
        files.place(b"data", tmp_path / "a.png")
    assert names(tmp_path) == set()
    if isinstance(error, OSError):
        assert "No space left" in str(raised.value)
        assert "Free some space" in str(raised.value)


def test_a_failed_overwrite_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError):
        files.place(b"new", path, if_exists="overwrite")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == {"a.png"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.bmp", r"extension '.bmp'. Allowed: .png, .jpg, .jpeg, .webp"),
        ("a", "no extension"),
        ("folder.png", "is a folder"),
        ("nowhere/a.png", "Make the folder first"),
        ("f" * 300 + ".png", "Choose a shorter name"),
    ],
)
def test_targets_are_checked_before(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(OutputError, match=message):
        files.check_target(tmp_path / name)
    assert names(tmp_path) == {"folder.png"}


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        files.check_target(tmp_path / "file" / "a.png")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="Permission denied"):
        files.check_target(tmp_path / "a.png")
    tmp_path.chmod(0o700)


def test_a_written_file_has_the_usual_permissions(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.touch()
    assert files.place(b"", tmp_path / "a.png").stat().st_mode == other.stat().st_mode
