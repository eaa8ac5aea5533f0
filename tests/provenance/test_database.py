"""What both kinds of database promise, whoever opens them beside."""

from pathlib import Path
from threading import Barrier, Thread

from sqlalchemy import MetaData

from lienzo.provenance.database import Database


def test_many_may_make_the_same_one_at_once(tmp_path: Path) -> None:
    """SQLite does not wait where it begins a new file's write-ahead log: one round in twenty failed."""
    for number in range(100):
        failed: list[Exception] = []
        together = Barrier(8)

        def make(
            place: Path = tmp_path / f"{number}.db", together: Barrier = together, failed: list[Exception] = failed
        ) -> None:
            together.wait()
            try:
                Database(place, MetaData()).close()
            except Exception as error:
                failed.append(error)

        threads = [Thread(target=make) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
