"""The service's database: made, brought up to date, and as the tables say."""

from threading import Thread

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

from lienzo.errors import StoreError
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


def test_a_newer_database_is_left_alone(place: str) -> None:
    database = opened(place)
    with database.writing() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StoreError, match="of version 9999, and this lienzo knows"):
        opened(place)
    database.close()
