"""The service's database: made, brought up to date, and as the tables say."""

from threading import Thread

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import MetaData, text

from lienzo.errors import StoreError
from lienzo.provenance.database import Database
from lienzo.server.schema import HEAD, opened, tables


def test_the_latest_step_is_known() -> None:
    config = Config()
    config.set_main_option("script_location", "lienzo.server:migrations")
    assert ScriptDirectory.from_config(config).get_current_head() == HEAD


def test_the_steps_lead_to_the_tables(place: str) -> None:
    database = opened(place)
    with database.reading() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        differences = [
            one
            for one in compare_metadata(context, tables())
            if not (one[0] == "remove_table" and "prompt" in one[1].name)
        ]
    assert differences == []
    opened(place).close()  # again changes nothing
    database.close()


def test_several_may_open_it_at_once(place: str) -> None:
    failed: list[Exception] = []

    def open_it() -> None:
        try:
            opened(place).close()
        except Exception as error:
            failed.append(error)

    threads = [Thread(target=open_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_jobs_of_the_first_tables_are_kept(place: str) -> None:
    database = Database(place, MetaData())
    with database.alone() as connection:
        config = Config()
        config.set_main_option("script_location", "lienzo.server:migrations")
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        given = {
            "id": "a" * 32,
            "tenant": "ana",
            "owner": "ana",
            "model": "m",
            "loras": "[]",
            "shape": "s",
            "state": "queued",
        }
        numbers = dict.fromkeys(("priority", "created", "attempt", "step", "steps"), 1)
        names, values = ", ".join(given | numbers), ", ".join(f":{name}" for name in given | numbers)
        connection.execute(text(f"INSERT INTO jobs ({names}) VALUES ({values})"), given | numbers)
    database.close()
    with opened(place).reading() as connection:
        assert connection.execute(text("SELECT id, attempt, faults, due FROM jobs")).one() == ("a" * 32, 1, 0, None)


def test_a_newer_database_is_left_alone(place: str) -> None:
    database = opened(place)
    with database.writing() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StoreError, match="of version 9999, and this lienzo knows"):
        opened(place)
    database.close()
