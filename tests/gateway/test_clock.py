"""The process's clock on a real loop: how often it ticks, how often it wakes, and what it says of lateness.

A busy machine makes beats fewer, never more: what is counted is held against what is the most there may be.
"""

from __future__ import annotations

import asyncio
import time

import pytest

from gateway.clock import PHASES, STEP_S, TICK_S, Clock

pytestmark = pytest.mark.alone

SECONDS = 0.5


class Member:
    def __init__(self) -> None:
        self.at: list[float] = []

    def tick(self, now: float) -> None:
        self.at.append(now)


async def beats(clock: Clock) -> int:
    before = clock.ticks
    await asyncio.sleep(SECONDS)
    return clock.ticks - before


def is_about(count: int, most: float) -> bool:
    return 0.6 * most <= count <= most + 2


def test_each_member_is_told_the_time_once_a_tick() -> None:
    members = [Member() for _ in range(PHASES + 1)]

    async def main() -> None:
        clock = Clock()
        async with clock.running():
            for member in members:
                clock.add(member)
            assert is_about(await beats(clock), SECONDS / STEP_S)

    asyncio.run(main())
    assert all(is_about(len(member.at), SECONDS / TICK_S) for member in members)


def test_sockets_are_read_with_each_beat_and_let_go_when_it_stops() -> None:
    told: list[str] = []

    class Told:
        def read(self) -> None:
            told.append("read")

        def stop(self) -> None:
            told.append("stop")

    async def main() -> int:
        clock = Clock()
        clock.rounds = Told()  # type: ignore[assignment]
        clock.add(Member())
        async with clock.running():
            await asyncio.sleep(SECONDS)
        return clock.ticks

    assert asyncio.run(main()) == len(told) - 1 > 0
    assert told[-1] == "stop"
    assert told.count("stop") == 1


def test_with_no_call_up_it_wakes_but_once_a_tick() -> None:
    async def main() -> None:
        clock, member = Clock(), Member()
        async with clock.running():
            assert is_about(await beats(clock), SECONDS / TICK_S)
            clock.add(member)
            assert is_about(await beats(clock), SECONDS / STEP_S)
            clock.discard(member)
            assert is_about(await beats(clock), SECONDS / TICK_S)

    asyncio.run(main())


def test_who_attends_has_his_turn_in_each_beat_behind_all_others() -> None:
    async def main() -> None:
        clock, told = Clock(), list[str]()

        class Says:
            def tick(self, now: float) -> None:
                told.append("tick")

        def attends(now: float) -> None:
            told.append("end")

        async with clock.running():
            clock.attend(attends)
            clock.attend(attends)
            assert is_about(await beats(clock), SECONDS / STEP_S)
            assert is_about(len(told), SECONDS / STEP_S)
            clock.add(Says())
            told.clear()
            await asyncio.sleep(SECONDS)
            assert is_about(told.count("tick"), SECONDS / TICK_S)
            assert all(told[place + 1] == "end" for place, what in enumerate(told) if what == "tick")
            clock.leave(attends)
            clock.leave(attends)
            told.clear()
            await asyncio.sleep(TICK_S * 3)
            assert "end" not in told

    asyncio.run(main())


def test_who_joins_an_idle_clock_does_not_wait_for_its_next_beat() -> None:
    async def main() -> None:
        clock = Clock()
        clock.start()
        timer = clock._timer
        assert timer is not None
        clock.add(Member())
        assert clock._timer is not timer
        assert clock._timer is not None
        assert clock._timer.when() - asyncio.get_running_loop().time() <= STEP_S + 0.001
        timer = clock._timer
        clock.add(Member())
        assert clock._timer is timer  # it beats already as often as it has to
        clock.stop()

    asyncio.run(main())


@pytest.mark.parametrize("busy", [False, True])
def test_lateness_is_that_of_the_last_five_seconds(busy: bool) -> None:
    async def main() -> None:
        clock = Clock()
        if busy:
            clock.add(Member())
        async with clock.running():
            await asyncio.sleep(0.1)
            time.sleep(0.5)  # noqa: ASYNC251  # whoever holds the loop up
            await asyncio.sleep(0.05)
            assert clock.lateness_s(1.0) > 0.4
            assert not clock.is_settled
            await asyncio.sleep(5.2)
            assert clock.lateness_s(1.0) < 0.4
            assert clock.is_settled

    asyncio.run(main())
