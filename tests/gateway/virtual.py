"""A call on virtual time: a core, a strict fake carrier at its other end, no socket, no loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any

from bots.base import Call
from gateway.core import CallCore
from gateway.ports import BotRoute, CallLimits
from gateway.registry import serializer_class
from gateway.simulator.base import CallPlan, FakeCarrier, fake_carrier
from gateway.states import OVER
from media.call import CallInfo
from media.events import DONE, Handle, drive_without_loop
from media.processor import FrameProcessor, Lanes
from serializers.base import WireOptions

STEP_S = 0.005


class VirtualCall:
    """The shell of a core: time goes on when `run` is called, messages arrive `latency_s` later."""

    def __init__(
        self,
        carrier: str = "twilio",
        processors: Callable[[Call], Sequence[FrameProcessor]] = lambda call: (),
        *,
        plan: CallPlan | None = None,
        limits: CallLimits | None = None,
        sample_rate: int | None = None,
        lead_ms: float | None = None,
        latency_s: float = 0.0,
        strict: bool = True,
        settings: Mapping[str, Any] | None = None,
        step_s: float = STEP_S,
    ) -> None:
        self.t = 1000.0
        plan = plan or CallPlan()
        self.fake: FakeCarrier = fake_carrier(carrier)(plan, strict=strict)
        options = WireOptions(
            receive_codec=plan.receive_codec,
            send_codec=plan.send_codec,
            send_sample_rate=plan.sample_rate,
            options=settings,
        )
        self.core = CallCore(
            serializer_class(carrier).for_call(options),
            self,
            limits=limits,
            claims=CallInfo(carrier=carrier, from_number=plan.from_number, to_number=plan.to_number),
            route=lambda info: BotRoute("test", processors, sample_rate),
            lead_ms=lead_ms,
            now=self.t,
        )
        self.latency_s, self.step_s = latency_s, step_s
        self.closed_with: int | None = None
        self.sent: list[tuple[float, Any]] = []  # (time, message) that left the gateway
        self._to_core: list[tuple[float, Any]] = []
        self._to_fake: list[tuple[float, Any]] = []
        self._next_tick = self.t
        self._next_audio = self.t
        self._voice = b""
        self._tell_core(self.fake.opening(self.t))

    # ------------------------------------------------------------ what the core asks

    def now(self) -> float:
        return self.t

    def wake(self) -> None:
        while (message := self.core.take()) is not None:
            self.sent.append((self.t, message))
            self._to_fake.append((self.t + self.latency_s, message))

    def spawn(self, coro: Coroutine[Any, Any, Any], name: str) -> Any:
        coro.close()
        raise AssertionError(f"nothing of this call should need a task, {name} does")

    def drive(self, coro: Coroutine[Any, Any, Any], name: str) -> None:
        drive_without_loop(coro, name)

    def settle(self, handles: Iterable[Handle]) -> Awaitable[None]:
        return DONE

    def end_task(self, handle: Handle, timeout_s: float | None) -> Awaitable[None]:
        return DONE

    def attach_async(self, processor: FrameProcessor) -> Lanes:
        raise AssertionError(f"{processor} needs a loop")

    # ------------------------------------------------------------ time

    def say(self, pcm: bytes) -> None:
        """What the caller says from now on, at the fake's rate; silence follows."""
        self._voice += pcm

    def press(self, digits: str) -> None:
        for digit in digits:
            self._tell_core(self.fake.press(digit, self.t))

    def hang_up(self) -> None:
        self._tell_core(self.fake.hang_up(self.t))

    def stall(self, seconds: float) -> None:
        """The process's clock stands still: no tick for so long."""
        self._next_tick = max(self._next_tick, self.t + seconds)

    def tell_later(self, messages: Sequence[Any], delay_s: float) -> None:
        """The carrier says something `delay_s` from now."""
        self._to_core += [(self.t + delay_s + self.latency_s, message) for message in messages]

    def run(self, seconds: float, *, until: Callable[[], bool] | None = None) -> None:
        """Let time pass; stops early when `until` is true or the call is closed on both sides."""
        end = self.t + seconds
        while self.t < end - 1e-9 and self.closed_with is None and not (until and until()):
            self.t += self.step_s
            self._step()

    def _step(self) -> None:
        fake, core, now = self.fake, self.core, self.t
        self._tell_core(fake.tick(now))
        packet = fake.packet_ms / 1000
        while self._next_audio + packet <= now + 1e-9:
            self._next_audio += packet
            size = int(fake.audio_rate * packet) * 2
            pcm, self._voice = self._voice[:size].ljust(size, b"\0"), self._voice[size:]
            self._tell_core(fake.audio(pcm, now))
        self._deliver()
        if now >= self._next_tick - 1e-9:
            self._next_tick += 0.020
            core.tick(now)
        self._deliver()
        if fake.closes_socket and self.closed_with is None:
            core.disconnected(fake.close_code, now)
            self.closed_with = fake.close_code
        elif core.close_at is not None and now >= core.close_at:
            self.wake()
            self._deliver(flush=True)
            self.closed_with = core.close_code
            fake.socket_closed(core.close_code, "", now)
            core.disconnected(core.close_code, now)

    def _deliver(self, *, flush: bool = False) -> None:
        for _ in range(1000):
            due_in = [entry for entry in self._to_core if entry[0] <= self.t + 1e-9]
            due_out = [entry for entry in self._to_fake if flush or entry[0] <= self.t + 1e-9]
            if not due_in and not due_out:
                return
            self._to_core = [entry for entry in self._to_core if entry not in due_in]
            self._to_fake = [entry for entry in self._to_fake if entry not in due_out]
            for _, message in due_in:
                self.core.receive(message, self.t)
            for _, message in due_out:
                self._tell_core(self.fake.receive(message, self.t))
        raise AssertionError("the two sides answer each other without end")

    def _tell_core(self, messages: Sequence[Any]) -> None:
        self._to_core += [(self.t + self.latency_s, message) for message in messages]

    # ------------------------------------------------------------ what came of it

    @property
    def over(self) -> bool:
        return self.core.state in OVER

    def heard(self) -> bytes:
        """What the caller heard so far, silence included, at the fake's play-out rate."""
        return bytes(self.fake.playout.heard)
