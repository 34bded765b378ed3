"""The last hour of the process, in memory: what the console draws."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gateway.app import Gateway

EVERY_S = 10.0
KEPT = 360  # points: an hour
NOT_AUTHENTIC = frozenset({"bad-signature", "no-signature", "unknown-key", "stale"})

Point = Mapping[str, float]


class History:
    """A point every ten seconds; what is counted is told as so many a minute."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.points: deque[Point] = deque(maxlen=KEPT)
        self._before: tuple[float, float, Mapping[str, int]] | None = None

    async def keep(self) -> None:
        """Runs until it is cancelled."""
        while True:
            self.sample(time.time(), time.process_time())
            await asyncio.sleep(EVERY_S)

    def sample(self, now: float, cpu_s: float) -> None:
        gateway = self._gateway
        counted = self._counted()
        point: dict[str, float] = {
            "t": now,
            "calls": len(gateway.calls),
            "late_ms": 1000 * gateway.clock.lateness_s(),
        }
        if self._before is None:
            point |= {"cpu": 0.0, **dict.fromkeys(counted, 0.0)}
        else:
            then, cpu_before, before = self._before
            passed = max(now - then, 0.001)
            point["cpu"] = 100 * (cpu_s - cpu_before) / passed
            point |= {name: 60 * (count - before[name]) / passed for name, count in counted.items()}
        self._before = (now, cpu_s, counted)
        self.points.append(point)

    def _counted(self) -> dict[str, int]:
        begun, away, forged = self._by_carrier()
        return {"begun": begun.total(), "refused": away.total(), "not_authentic": forged.total()}

    def _by_carrier(self) -> tuple[Counter[str], Counter[str], Counter[str]]:
        """Calls begun, callers turned away, and webhooks and sockets of nobody knows whom; since the process began."""
        metrics = self._gateway.metrics
        begun, away, forged = Counter[str](), Counter[str](), Counter[str]()
        begun.update(metrics.started)
        for (carrier, reason), n in metrics.refused.items():
            (forged if reason in NOT_AUTHENTIC else away)[carrier] += n
        for (carrier, _, result), n in metrics.webhooks.items():
            if result in NOT_AUTHENTIC:
                forged[carrier] += n
        return begun, away, forged

    def now(self) -> dict[str, Any]:
        gateway, counted = self._gateway, self._counted()
        return {
            "live_calls": len(gateway.calls),
            "limit": gateway.calls.max_calls,
            "draining": gateway.calls.draining,
            "overloaded": gateway.health.overloaded,
            "lateness_ms": round(1000 * gateway.clock.lateness_s(), 2),
            "begun": counted["begun"],
            "turned_away": counted["refused"],
            "not_authentic": counted["not_authentic"],
            "hang_ups_done": gateway.hang_ups.counters["done"] + gateway.hang_ups.counters["already-over"],
            "hang_ups_failed": gateway.hang_ups.counters["failed"],
        }

    def carriers(self) -> list[dict[str, Any]]:
        """What came of each carrier's calls, webhooks and sockets since the process began."""
        begun, away, forged = self._by_carrier()
        on = self._gateway.settings.carriers
        return [
            {
                "carrier": carrier,
                "on": carrier in on,
                "begun": begun[carrier],
                "turned_away": away[carrier],
                "not_authentic": forged[carrier],
            }
            for carrier in sorted({*on, *begun, *away, *forged})
        ]

    def reasons(self) -> dict[str, int]:
        """Why callers were turned away since the process began."""
        found = Counter[str]()
        for (_, reason), n in self._gateway.metrics.refused.items():
            if reason not in NOT_AUTHENTIC:
                found[reason] += n
        return dict(found)
