"""What the service keeps in its database, as tables. `migrations/` leads there from every earlier version."""

from functools import cache
from typing import TYPE_CHECKING, Final

from lienzo.errors import StoreError
from lienzo.provenance.database import Database

if TYPE_CHECKING:
    from sqlalchemy import MetaData


@cache
def tables() -> "MetaData":
    """Jobs, input pictures, tenants, API keys and quotas. Times are seconds since 1970; requests are not here but sealed, by the job's id."""
    from sqlalchemy import (
        BigInteger,
        Column,
        Float,
        ForeignKey,
        Index,
        Integer,
        LargeBinary,
        MetaData,
        Table,
        Text,
        UniqueConstraint,
    )

    metadata = MetaData()
    Table(
        "jobs",
        metadata,
        Column("id", Text, primary_key=True),
        Column("tenant", Text, nullable=False),
        Column("owner", Text, nullable=False),
        Column("idempotency", Text),
        Column("body", LargeBinary),  # keyed digest of what came with the idempotency key
        Column("model", Text, nullable=False),
        Column("loras", Text, nullable=False),  # JSON: [[name, weight], ...]
        Column("shape", Text, nullable=False),  # jobs of equal shape may be made together
        Column("priority", Integer, nullable=False),
        Column("created", Float, nullable=False),
        Column("deadline", Float),
        Column("state", Text, nullable=False),
        Column("attempt", Integer, nullable=False),  # counts claims: the fencing token
        Column("faults", Integer, nullable=False, server_default="0"),  # of these, ended by what was not its own fault
        Column("due", Float),  # it waits until then, after a fault
        Column("worker", Text),
        Column("lease", Float),
        Column("started", Float),
        Column("finished", Float),
        Column("step", Integer, nullable=False),
        Column("steps", Integer, nullable=False),
        Column("sigma", Float),
        Column("preview", LargeBinary),
        Column("picture", Text),  # its name in the store
        Column("receipt", Text),  # the signed receipt and its place in the log, JSON
        Column("warnings", Text),  # JSON list
        Column("problem", Text),  # JSON
        Column("seconds", Text),  # JSON: stage -> seconds
        Column("trace", Text),  # traceparent of the request that asked for it
        UniqueConstraint("tenant", "idempotency", name="jobs_idempotency"),
        Index("jobs_waiting", "state", "priority", "created"),
        Index("jobs_of_tenant", "tenant", "created"),
        Index("jobs_finished", "finished"),
    )
    Table(
        "inputs",
        metadata,
        Column("tenant", Text, primary_key=True),
        Column("sha256", Text, primary_key=True),  # of the pixels
        Column("width", Integer, nullable=False),
        Column("height", Integer, nullable=False),
        Column("name", Text, nullable=False),  # in the store
        Column("created", Float, nullable=False),
    )
    Table(
        "job_inputs",
        metadata,
        Column("job", Text, ForeignKey("jobs.id", name="job_inputs_job", ondelete="CASCADE"), primary_key=True),
        Column("sha256", Text, primary_key=True),
    )
    Table(
        "tenants",
        metadata,
        Column("tenant", Text, primary_key=True),
        Column("served", Float, nullable=False),  # when a job of it was last begun
    )
    Table(
        "access_keys",
        metadata,
        Column("id", Text, primary_key=True),
        Column("digest", LargeBinary, nullable=False, unique=True),
        Column("name", Text, nullable=False),
        Column("tenant", Text, nullable=False, index=True),
        Column("role", Text, nullable=False),
        Column("scopes", Text),  # JSON list
        Column("created", BigInteger, nullable=False),
        Column("expires", BigInteger),
        Column("revoked", BigInteger),
        Column("last_used", BigInteger),
    )
    Table(
        "usage",
        metadata,
        Column("tenant", Text, primary_key=True),
        Column("day", Text, primary_key=True),  # UTC, YYYY-MM-DD
        Column("pictures", BigInteger, nullable=False),
    )
    Table(
        "quotas",
        metadata,
        Column("tenant", Text, primary_key=True),
        Column("pictures", BigInteger, nullable=False),
    )
    return metadata


HEAD: Final = "0002"
"""The latest step of `migrations/`."""


def opened(place: str) -> Database:
    """The service's database, brought to what `tables` says; made where there is none.

    Raises:
        StoreError: it cannot be opened, or a newer lienzo has changed it.
    """
    from sqlalchemy import MetaData, inspect, text

    database = Database(place, MetaData())
    with database.alone() as connection:
        known = None
        if inspect(connection).has_table("alembic_version"):
            known = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
        if known == HEAD:
            return database
        if known is not None and known > HEAD:
            raise StoreError(
                f"{database.name}: its tables are of version {known}, and this lienzo knows {HEAD}. Use a newer lienzo."
            )
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", "lienzo.server:migrations")
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    return database
