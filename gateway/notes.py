"""What a carrier's side has noted in one worker, told to the others: a call that goes on may go on with any of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from webhooks.base import CarrierHttp

if TYPE_CHECKING:
    from gateway.app import Gateway

GATHER_S: Final = 0.05  # what is noted within it is told at once


class SharedNotes:
    """Of one worker."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._carriers: dict[str, CarrierHttp] = {}
        self._untold: dict[str, dict[str, int]] = {}  # by carrier
        gateway.colleagues.answers("noted", self._told)

    def keep(self, carriers: Iterable[CarrierHttp]) -> None:
        """The carriers' sides by the settings as they are now."""
        if self._gateway.colleagues.endpoint:
            self._carriers = {http.carrier: http for http in carriers if http.notes is not None}
            for name, http in self._carriers.items():
                assert http.notes is not None
                http.notes.tell = lambda key, value, name=name: self._note(name, key, value)

    def close(self) -> None:
        for http in self._carriers.values():
            if http.notes is not None:
                http.notes.tell = None

    def _note(self, carrier: str, key: str, value: int) -> None:
        if not self._untold:
            self._gateway.later(self._tell(), "notes")
        self._untold.setdefault(carrier, {})[key] = value

    async def _tell(self) -> None:
        await asyncio.sleep(GATHER_S)
        noted, self._untold = self._untold, {}
        await self._gateway.colleagues.ask_all("noted", noted, time.time())

    async def _told(self, noted: Mapping[str, Any]) -> None:
        for name, numbers in noted.items():
            http = self._carriers.get(name)
            if http is not None and http.notes is not None:
                for key, value in numbers.items():
                    http.notes.learn(key, value)
