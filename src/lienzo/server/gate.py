"""Who calls, and whether they may."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lienzo.server.settings import Service

if TYPE_CHECKING:
    from sqlalchemy import Connection


@dataclass(frozen=True)
class Caller:
    name: str
    tenant: str

    def may(self, permission: str) -> bool:
        return True


class Gate:
    def __init__(self, service: Service) -> None:
        self._service = service

    def admit(self, headers: Mapping[str, str], cookies: Mapping[str, str], permission: str) -> Caller:
        return Caller("local", "local")

    def charge(self, connection: "Connection", caller: Caller) -> None:
        pass
