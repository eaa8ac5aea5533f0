"""Finished pictures and input pictures, in the store."""

import hashlib
import time

from lienzo.errors import LimitError, RecordError, RequestError
from lienzo.pipeline.request import InputImage, Request
from lienzo.provenance.database import Database, insert_into
from lienzo.provenance.examine import see
from lienzo.server.schema import tables
from lienzo.server.settings import Service
from lienzo.server.store import Store

DAY = 86_400
"""Seconds."""


class Pictures:
    """What the service keeps as files; the database knows their names and whose they are."""

    def __init__(self, service: Service, database: Database) -> None:
        self._service, self._database = service, database
        self._store = Store(service.store_place)

    def keep(self, job: str, attempt: int, data: bytes) -> str:
        """Keep a finished picture; durable when this returns. Its name, which no other attempt at the job has."""
        name = _name(job, attempt)
        self._store.put(name, data)
        return name

    def remove_all(self, job: str, attempts: int) -> None:
        """Remove what any attempt at a job left: one that died after it kept its picture said so to nobody."""
        for attempt in range(1, attempts + 1):
            self._store.remove(_name(job, attempt))

    def read(self, name: str) -> bytes:
        """
        Raises:
            RecordError: it is not kept any longer.
        """
        return self._store.get(name)

    def remove(self, name: str) -> None:
        self._store.remove(name)

    def add_input(self, tenant: str, data: bytes) -> InputImage:
        """Keep a picture to start from, or a mask. The same again changes nothing.

        Raises:
            InputError: it cannot be read within bounds, or is too large.
            LimitError: the tenant has added as many as it may in a day.
        """
        self._check_inputs(tenant)
        picture = InputImage.of(see(data, most=self._service.max_pixels), data)
        name = f"inputs/{hashlib.sha256(tenant.encode()).hexdigest()[:16]}/{picture.sha256}"
        self._store.put(name, data)
        inputs = tables().tables["inputs"]
        row = {"tenant": tenant, **picture.model_dump(), "name": name, "created": time.time()}
        with self._database.writing() as connection:
            added = insert_into(connection, inputs).values(row)
            again = {"created": row["created"]}
            connection.execute(added.on_conflict_do_update(index_elements=["tenant", "sha256"], set_=again))
        return picture

    def _check_inputs(self, tenant: str) -> None:
        from sqlalchemy import func, select

        inputs = tables().tables["inputs"]
        latest = (inputs.c.tenant == tenant) & (inputs.c.created > time.time() - DAY)
        with self._database.reading() as connection:
            count = connection.execute(select(func.count()).where(latest)).scalar_one()
        if count >= self._service.max_inputs:
            raise LimitError(
                f"input pictures: {count:,} of yours came within a day, and no more may. Use those that are here.", 3600
            )

    def input(self, tenant: str, sha256: str) -> InputImage:
        """An input picture, with its pixels.

        Raises:
            RequestError: there is none of that digest, or it is another tenant's.
        """
        from sqlalchemy import select

        inputs = tables().tables["inputs"]
        same = (inputs.c.tenant == tenant) & (inputs.c.sha256 == sha256)
        with self._database.reading() as connection:
            name = connection.execute(select(inputs.c.name).where(same)).scalar()
        try:
            if name is None:
                raise RecordError("never kept")
            data = self._store.get(name)
        except RecordError:
            raise RequestError(
                f"the input picture {sha256[:16]}...: there is none here. Send it to /v1/inputs first."
            ) from None
        return InputImage.of(see(data), data)

    def filled(self, request: Request, tenant: str) -> Request:
        """The request with its input pictures, which its JSON only names."""
        given = {"init": request.init, "mask": request.mask}
        named = {name: picture for name, picture in given.items() if picture is not None}
        if not named:
            return request
        return request.with_inputs(**{name: self.input(tenant, picture.sha256) for name, picture in named.items()})

    def forget_inputs(self, before: float) -> None:
        """Remove input pictures that were sent earlier and that no kept job needs."""
        from sqlalchemy import delete, select

        inputs, used = tables().tables["inputs"], tables().tables["job_inputs"]
        unused = (inputs.c.created < before) & inputs.c.sha256.not_in(select(used.c.sha256))
        with self._database.writing() as connection:
            names = connection.execute(select(inputs.c.name).where(unused)).scalars().all()
            connection.execute(delete(inputs).where(unused))
            for name in names:  # where one cannot be removed now, its row stays for the next time
                self._store.remove(name)


def _name(job: str, attempt: int) -> str:
    return f"images/{job[:8]}/{job}-{attempt}.png"
