"""The caller over real sockets, against small gateways made for the purpose: good ones, rude ones and silent ones."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import Any

import numpy as np
import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from gateway.simulator.base import CallPlan
from gateway.simulator.caller import Limits, place_call
from gateway.simulator.playout import Gap
from gateway.simulator.report import CallReport, Stall
from gateway.simulator.script import (
    HangUp,
    Note,
    Press,
    Say,
    Script,
    Vanish,
    Voice,
    after,
    after_bot,
    at,
    while_bot_speaks,
)
from gateway.simulator.twilio import FakeTwilio
from media.frames import InputAudioRawFrame, InputDTMFFrame, InterruptionFrame, MarkFrame, OutputAudioRawFrame
from serializers.base import WireOptions
from serializers.twilio import TwilioFrameSerializer

Handler = Callable[[ServerConnection], Awaitable[None]]
QUICK = Limits(connect_s=20, ready_s=20, longest_s=40, closing_s=5)


def noise(seconds: float, level: float = 3000.0, rate: int = 8000) -> bytes:
    return np.random.default_rng(1).normal(0, level, int(seconds * rate)).clip(-32000, 32000).astype("<i2").tobytes()


@asynccontextmanager
async def gateway(handler: Handler, **options: Any) -> AsyncIterator[str]:
    async def quiet(ws: ServerConnection) -> None:
        with suppress(ConnectionClosed):
            await handler(ws)

    async with serve(quiet, "127.0.0.1", 0, max_queue=None, **options) as server:
        port = server.sockets[0].getsockname()[1]
        yield f"ws://127.0.0.1:{port}"


def call(handler: Handler, script: Script, *, limits: Limits = QUICK, plan: CallPlan | None = None) -> CallReport:
    async def run() -> CallReport:
        async with gateway(handler) as url:
            return await place_call(FakeTwilio(plan), url, script, token="tok", limits=limits)

    return asyncio.run(asyncio.wait_for(run(), 100))


async def echo(ws: ServerConnection) -> None:
    """Says back what it hears, at once."""
    serializer = TwilioFrameSerializer.for_call(WireOptions())
    async for data in ws:
        for frame in serializer.decode(data):
            if isinstance(frame, InputAudioRawFrame):
                for message in serializer.encode(OutputAudioRawFrame(frame.audio, 8000, 1)):
                    await ws.send(message)


def prompter(seconds: float = 3.0, *, clears: bool = True) -> Handler:
    """Speaks for so long; stops at a key; closes when the prompt was played."""

    async def handler(ws: ServerConnection) -> None:
        serializer = TwilioFrameSerializer.for_call(WireOptions())
        async for data in ws:
            for frame in serializer.decode(data):
                if type(frame).__name__ == "CallStartedFrame":
                    await ws.send(serializer.encode(OutputAudioRawFrame(noise(seconds), 8000, 1))[0])
                    await ws.send(serializer.encode(MarkFrame("end"))[0])
                elif isinstance(frame, InputDTMFFrame) and clears:
                    await ws.send(serializer.encode(InterruptionFrame())[0])
                elif type(frame).__name__ == "PlayedFrame":
                    await ws.close(1000)

    return handler


def test_an_echo_is_timed_and_the_caller_hangs_up() -> None:
    script = Script().then(at(0.2), Say(Voice(noise(2.2), 8000, "noise"))).then(after_bot(0.4), HangUp())
    report = call(echo, script)
    assert report.ok, report.problems
    assert report.ended_by == "caller"
    assert report.close_code == 1000
    # A second of sound that a busy machine tore apart is not recognised. One packet of 20 ms is spoken before it is
    # sent; the rest is this machine, of which nothing is demanded.
    assert report.echoes or report.stalls
    assert len(report.echoes) <= 3
    assert all(echo.latency_s >= 0.019 for echo in report.echoes if echo.similarity > 0.9)
    assert report.heard_s == pytest.approx(report.duration_s, abs=0.15 + report.stalled_ms / 1000)
    assert report.first_audio_s is not None
    assert report.first_audio_s >= 0.2
    assert [event.what for event in report.timeline][:2] == ["opened", "audio"]
    assert report.timeline == sorted(report.timeline, key=lambda event: event.t)
    said_s = len(report.said) // 2 / report.said_rate
    assert said_s == pytest.approx(report.duration_s, abs=0.1 + report.stalled_ms / 1000)


def test_a_key_cuts_the_prompt_and_the_bot_ends_the_call() -> None:
    report = call(prompter(), Script().then(while_bot_speaks(0.5), Press("1")))
    assert report.ok, report.problems
    assert (report.ended_by, report.close_code) == ("bot", 1000)
    [barge_in] = report.barge_ins
    assert barge_in.by == "digit"
    assert barge_in.cleared
    assert 0 < barge_in.silence_ms < 100 + report.stalled_ms
    assert report.heard_s == pytest.approx(0.55, abs=0.15 + report.stalled_ms / 1000)
    assert report.digits == 1
    assert not report.gaps


def test_a_bot_that_does_not_stop_is_found_out() -> None:
    report = call(prompter(1.5, clears=False), Script().then(while_bot_speaks(0.5), Press("1")))
    [barge_in] = report.barge_ins
    assert not barge_in.cleared
    assert barge_in.silence_ms == pytest.approx(1000, abs=150)


def test_a_voice_cuts_in_from_its_first_sound() -> None:
    """The silence at the head of a recording is not counted."""
    voice = Voice(bytes(2 * 800) + noise(0.3), 8000)
    report = call(prompter(1.5, clears=False), Script().then(while_bot_speaks(0.5), Say(voice)))
    [barge_in] = report.barge_ins
    assert barge_in.by == "voice"
    assert barge_in.silence_ms == pytest.approx(900, abs=150)


def test_steps_wait_for_one_another() -> None:
    script = (
        Script()
        .then(at(0.3), Say(Voice(noise(0.5, rate=16000), 16000, "first")))
        .then(after(0.2), Press("12", gap_s=0.1))
        .then(after(0.2), Note("here"))
        .then(after(0.1), HangUp())
    )
    report = call(echo, script)
    assert report.ok, report.problems
    when = {event.detail or event.what: event.t for event in report.timeline}
    # Never before its time; how long after it is the machine's affair.
    assert when["first, 0.5 s"] >= 0.3
    assert when["1"] >= when["first, 0.5 s"] + 0.5 + 0.2 - 0.001
    assert when["2"] >= when["1"] + 0.1 - 0.001
    assert when["here"] >= when["1"] + 0.1 + 0.2 - 0.001
    assert report.duration_s >= when["here"] + 0.1 - 0.001
    assert report.digits == 2


def test_late_packets_of_the_bot_are_gaps() -> None:
    async def halting(ws: ServerConnection) -> None:
        serializer = TwilioFrameSerializer.for_call(WireOptions())
        while not serializer.encode(MarkFrame("x")):
            serializer.decode(await ws.recv())
        for _ in range(3):
            sent.append(time.monotonic())
            await ws.send(serializer.encode(OutputAudioRawFrame(noise(0.2), 8000, 1))[0])
            await asyncio.sleep(0.3)
        await ws.close(1000)

    sent: list[float] = []
    report = call(halting, Script())
    assert len(report.gaps) == 2
    assert report.gap_total_s == pytest.approx(sent[2] - sent[0] - 2 * 0.2, abs=0.1)
    assert report.replies == 1
    assert sum(event.what == "gap" for event in report.timeline) == 2


def test_a_message_that_twilio_would_refuse_fails_the_call() -> None:
    async def rude(ws: ServerConnection) -> None:
        await ws.recv()
        await ws.send('{"event":"playAudio"}')
        await ws.wait_closed()

    report = call(rude, Script())
    assert not report.ok
    assert report.ended_by == "error"
    assert len(report.violations) == 1
    assert "31951" in report.violations[0]
    assert report.violations == report.problems


def test_a_refused_handshake() -> None:
    async def run() -> CallReport:
        def refuse(ws: ServerConnection, request: Request) -> Response:
            assert request.path == "/twilio/media/tok"
            return ws.respond(HTTPStatus.FORBIDDEN, "no\n")

        async with gateway(echo, process_request=refuse) as url:
            return await place_call(FakeTwilio(), url, Script(), token="tok", limits=QUICK)

    report = asyncio.run(run())
    assert not report.ok
    assert report.refused == 403


def test_nobody_listens() -> None:
    report = asyncio.run(place_call(FakeTwilio(), "ws://127.0.0.1:9", Script(), token="tok", limits=QUICK))
    assert not report.ok
    assert "no connection" in report.problems[0]


def test_the_whole_url_and_the_signature_may_come_from_outside() -> None:
    seen: dict[str, str] = {}

    async def run() -> CallReport:
        def look(ws: ServerConnection, request: Request) -> None:
            seen.update(path=request.path, signature=request.headers.get("x-twilio-signature", ""))

        async with gateway(echo, process_request=look) as url:
            fake = FakeTwilio(CallPlan(credentials={"auth_token": "secret"}))
            seen["expected"] = fake.handshake_headers(url + "/any/where")["x-twilio-signature"]
            return await place_call(fake, url + "/any/where", Script().then(at(0.1), HangUp()), limits=QUICK)

    report = asyncio.run(run())
    assert report.ok, report.problems
    assert seen["path"] == "/any/where"
    assert seen["signature"] == seen["expected"]


@pytest.mark.parametrize("code", [1011, 1006])
def test_a_gateway_that_breaks(code: int) -> None:
    async def breaks(ws: ServerConnection) -> None:
        await ws.recv()
        if code == 1006:
            ws.transport.abort()
        else:
            await ws.close(code)

    report = call(breaks, Script())
    assert not report.ok
    assert (report.ended_by, report.close_code) == ("error", code)


def test_a_caller_who_vanishes() -> None:
    codes = []

    async def watch(ws: ServerConnection) -> None:
        await ws.wait_closed()
        codes.append(ws.close_code)

    report = call(watch, Script().then(at(0.3), Vanish()))
    assert report.ok, report.problems
    assert report.ended_by == "caller"
    assert codes == [1006]


def test_a_line_that_goes_dead_without_stop() -> None:
    seen: list[str] = []

    async def watch(ws: ServerConnection) -> None:
        async for data in ws:
            seen.append(json.loads(data)["event"])

    report = call(watch, Script().then(at(0.3), HangUp()), plan=CallPlan(options={"stop": False}))
    assert report.ok, report.problems
    assert "stop" not in seen


def test_a_bot_that_never_speaks_and_one_that_never_ends() -> None:
    async def listen(ws: ServerConnection) -> None:
        async for _ in ws:
            pass

    silent = call(listen, Script().then(after_bot(within_s=0.5), HangUp()))
    assert "in vain" in silent.problems[0]
    assert silent.ended_by == "caller"
    endless = call(echo, Script(), limits=Limits(longest_s=0.7))
    assert "still up" in endless.problems[0]
    assert endless.duration_s == pytest.approx(0.7, abs=0.1)


def test_our_packets_keep_to_the_clock() -> None:
    """Fifty a second on an absolute schedule, also after the loop was held up."""
    times: list[float] = []

    async def watch(ws: ServerConnection) -> None:
        async for data in ws:
            if json.loads(data)["event"] == "media":
                times.append(asyncio.get_running_loop().time())
                if len(times) == 50:
                    import time

                    time.sleep(0.15)  # noqa: ASYNC251 - the point: caller and gateway share this loop

    report = call(watch, Script().then(at(2.5), HangUp()))
    assert len(times) >= 121
    # Whatever the machine does to single packets: the most punctual before and after are of one schedule.
    late = [at - 0.02 * n for n, at in enumerate(times)]
    assert min(late[60:]) == pytest.approx(min(late[:50]), abs=0.03)
    assert report.packets_late >= 5
    assert report.worst_lateness_ms >= 100
    assert max(stall.late_s for stall in report.stalls) > 0.1


def test_gaps_by_the_callers_own_lateness_are_told_apart() -> None:
    report = CallReport(
        carrier="twilio",
        gaps=[Gap(1.0, 0.015), Gap(2.0, 0.100), Gap(3.0, 0.015), Gap(4.0, 0.015)],
        stalls=[Stall(0.995, 0.020), Stall(2.05, 0.030), Stall(2.8, 0.018), Stall(4.1, 0.050)],
    )
    assert [gap.at for gap in report.gaps_of_the_gateway()] == [2.0, 4.0]
    assert "2 of them by this caller" in report.lines()[-1]


def test_the_report_as_json_and_as_lines() -> None:
    report = call(prompter(), Script().then(while_bot_speaks(0.3), Press("1")))
    facts = json.loads(report.to_json())
    assert facts["ok"] is True
    assert facts["carrier"] == "twilio"
    assert facts["barge_ins"][0]["by"] == "digit"
    assert facts["ended_by"] == "bot"
    assert {"t", "what"} <= facts["timeline"][0].keys()
    lines = report.lines()
    assert any("bot speaks" in line for line in lines)
    assert "ended by bot" in lines[-1]
