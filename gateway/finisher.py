"""Hang-ups of programs that build their own pipeline: a serializer with credentials asks, this ends the call.

A program has no store and no settings: the request is made at once, with the repeats that are harmless, and its
outcome is logged. `flush` waits for what is under way, as a program ends.
"""

from __future__ import annotations

import asyncio
from collections import Counter

import structlog

from bots.services.http import tls
from gateway import registry
from gateway.carrier_api import CarrierApi, Patience
from gateway.records import masked
from media.secret import GivenSecret
from serializers.base import HangUp
from webhooks.base import CallRef, CarrierHttp, OutcomeKind

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.finisher")

CLOSE_S = 10.0  # for the carrier to close the media socket after a hang-up


class Finisher:
    """Takes hang-ups as values and executes them; a call that needs none of this never touches it."""

    def __init__(self, *, api_base: str = "", patience: Patience | None = None) -> None:
        self.counters: Counter[str] = Counter()
        self._api_base = api_base  # of a simulator on this machine
        self._patience = patience
        self._tasks: set[asyncio.Task[None]] = set()

    def submit(self, value: HangUp) -> float | None:
        """Gives the seconds for which the carrier may take to close the socket; None: it cannot be asked."""
        http = self._http(value)
        if http is None:
            self.counters["hangup_unavailable"] += 1
            log.warning("hangup.unavailable", carrier=value.carrier, call=masked(value.call_id))
            return None
        task = asyncio.get_running_loop().create_task(self._execute(http, value), name="hang-up")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return CLOSE_S

    async def flush(self, limit_s: float = 10.0) -> None:
        """Wait for the hang-ups that are under way."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=limit_s)

    def _http(self, value: HangUp) -> CarrierHttp | None:
        """The carrier's module with the account that `value` brings."""
        try:
            cls, settings_cls = registry.carrier_http(value.carrier), registry.carrier_settings_class(value.carrier)
        except LookupError:
            return None
        account, secret = cls.account_fields
        if not secret:
            return None
        fields = {account: value.account_id} if account else {}
        fields |= {name: part for name, part in (("region", value.region), ("edge", value.edge)) if part}
        settings = settings_cls(
            verify_signatures=False, api_base=self._api_base, **{secret: GivenSecret(value.secret)}, **fields
        )
        return cls(settings)

    async def _execute(self, http: CarrierHttp, value: HangUp) -> None:
        request = http.hang_up(CallRef(carrier=value.carrier, call_id=value.call_id, account_id=value.account_id))
        if request is None:
            self.counters["hangup_unavailable"] += 1
            return
        api = CarrierApi({value.carrier: http}, patience=self._patience)
        await api.open()
        try:
            outcome = await api.ask(request)
        finally:
            await api.close()
        self.counters[outcome.kind.value] += 1
        if outcome.kind not in (OutcomeKind.DONE, OutcomeKind.ALREADY_OVER):
            log.error("hangup.failed", carrier=value.carrier, call=masked(value.call_id), detail=outcome.detail)


_process = Finisher()


def process_finisher() -> Finisher:
    """The finisher of this process, for calls that nobody gave one."""
    tls()  # now, before the first call, and not when its hang-up would hold up the others
    return _process
