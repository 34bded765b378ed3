"""A configuration read again while calls go on."""

from __future__ import annotations

import asyncio
import gc
import weakref
from pathlib import Path

import pytest

from gateway.registry import prepare_bots
from gateway.reload import Reloader
from gateway.settings import load_settings
from gateway.simulator.script import HangUp, Press, Script, at
from gateway.snapshot import Snapshot, snapshot_of, successor
from gateway.store import CallFilter, CallKey
from media.wav import write_wav
from tests.endtoend.served import run, until
from tests.gateway.rig import Running, running


def edit(it: Running, old: str, new: str) -> None:
    text = it.config.read_text()
    assert old in text
    it.config.write_text(text.replace(old, new))


def reloader(it: Running) -> Reloader:
    it.gateway.reloader = it.gateway.reloader or Reloader(it.gateway, it.config, watch=True, poll_s=0.05)
    return it.gateway.reloader


def test_new_calls_take_it_and_live_ones_keep_theirs(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, gateway="max_calls = 7") as it:
            first = it.gateway.snapshot
            call = asyncio.create_task(it.call("twilio", Script()))  # until it is ended
            await until(lambda: any(session.core.state.value == "live" for session in it.gateway.calls))
            (session,) = it.gateway.calls
            edit(it, "max_calls = 7", "max_calls = 9\nlongest_call_s = 60")
            edit(it, "[bots.echo]", '[bots.other]\nuse = "echo"\n[bots.echo]')
            edit(it, '[numbers."default"]\nbot = "echo"', '[numbers."default"]\nbot = "other"')
            came = await reloader(it).reload("api")
            assert came.taken
            assert came.prepared == ("other",)
            assert session.snapshot is first
            assert session.core.limits is first.limits
            assert it.gateway.snapshot.limits.longest_s == 60
            assert it.gateway.calls.max_calls == 9
            session.core.end("test")
            assert (await call).ended_by == "bot"
            await it.call("twilio", Script().then(at(0.3), HangUp()))
            page = (await it.gateway.desk.records(CallFilter())).calls
            assert [one.bot for one in page] == ["other", "echo"]
            gone = weakref.ref(first)
            del first, session, call, came
            await until(lambda: (gc.collect(), gone())[1] is None)

    run(main())


def test_a_file_with_mistakes_is_refused_as_a_whole(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as it, it.client() as api:
            first = it.gateway.snapshot
            reloader(it)
            edit(it, "[bots.echo]", '[bots.tail]\nuse = "echo"\nsample_rate = 7\n[bots.echo]\nvoice = "de"\n')
            reply = await api.post("/reload")
            assert reply.status_code == 422
            assert {one["path"] for one in reply.json()["errors"]} == {"bots.tail.sample_rate", "bots.echo.voice"}
            assert it.gateway.snapshot is first
            shown = (await api.get("/configuration")).json()
            assert shown["number"] == 1
            assert shown["last_reload"]["errors"] == reply.json()["errors"]
            scraped = it.gateway.metrics.render().decode()
            assert 'gateway_reloads_total{result="refused"} 1.0' in scraped
            assert "gateway_configuration 1.0" in scraped
            it.config.write_text("[gateway\n")
            assert (await api.post("/reload")).json()["errors"][0]["path"] == str(it.config)
            it.config.unlink()
            assert (await api.post("/reload")).status_code == 422
            assert it.gateway.snapshot is first
            assert (await it.call("twilio", Script().then(at(0.2), HangUp()))).ended_by == "caller"

    run(main())


def test_a_carrier_whose_secret_has_gone_is_a_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VONAGE_SECRET", "x" * 40)
    more = '[carriers.vonage]\nsignature_secret = { env = "VONAGE_SECRET" }\n'

    async def main() -> None:
        async with running(tmp_path, more=more) as it:
            monkeypatch.delenv("VONAGE_SECRET")
            came = await reloader(it).reload("api")
            assert [one.path for one in came.errors] == ["carriers.vonage"]
            edit(it, "[carriers.vonage]", "[carriers.vonage]\nenabled = false")
            assert (await reloader(it).reload("api")).taken
            assert set(it.gateway.http) == {"twilio"}

    run(main())


def test_what_takes_a_new_start_is_named(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as it:
            edit(it, "[gateway]", '[gateway]\nport = 9\nstore = "sqlite://"\nmax_calls = 3')
            for _ in range(2):
                assert (await reloader(it).reload("api")).restart == ("gateway.port", "gateway.store")

    run(main())


def test_tokens_of_the_api_are_the_new_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLD", "the old token")
    monkeypatch.setenv("NEW", "the new token")

    async def main() -> None:
        more = '[api.tokens.ops]\nsecret = { env = "OLD" }\nscopes = ["admin"]'
        async with running(tmp_path, more=more) as it, it.client("the old token") as old, it.client() as nobody:
            reloader(it)
            assert (await nobody.post("/reload")).status_code == 401
            edit(it, '"OLD"', '"NEW"')
            assert (await old.post("/reload")).status_code == 200
            assert (await old.post("/reload")).status_code == 401
            async with it.client("the new token") as new:
                assert (await new.post("/reload")).status_code == 200
                assert (await new.get("/configuration")).status_code == 403

    run(main())


def test_the_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as it:
            watching = reloader(it)
            watching.open()
            try:
                edit(it, "[gateway]", "[gateway]\nmax_calls = 3")
                await until(lambda: it.gateway.calls.max_calls == 3)
                assert watching.last is not None
                assert watching.last.why == "file"
                edit(it, "max_calls = 3", "max_calls = 4\nreload_on_change = false")
                await until(lambda: it.gateway.calls.max_calls == 4)
                edit(it, "max_calls = 4", "max_calls = 5")
                await asyncio.sleep(0.3)
                assert it.gateway.calls.max_calls == 4
                assert (await watching.reload("signal")).taken
                assert it.gateway.calls.max_calls == 5
            finally:
                await watching.close()

    run(main())


def test_a_call_answered_before_and_connected_after_keeps_its_bot(tmp_path: Path) -> None:
    """Between the carrier's webhook and its media socket the configuration may lose the call's bot."""

    async def main() -> None:
        async with running(tmp_path) as it:
            first = it.gateway.snapshot
            key = CallKey("twilio", "CA1")
            it.gateway.expected.put(key, first, 5.0)
            edit(it, "[bots.echo]", "[bots.other]")
            edit(it, 'bot = "echo"', 'bot = "other"')
            assert (await reloader(it).reload("api")).taken
            assert it.gateway.expected.take(key) is first
            assert it.gateway.expected.take(key) is None
            it.gateway.expected.put(key, first, -1.0)
            assert it.gateway.expected.take(key) is None
            it.gateway.expected.put(key, first, -1.0)
            it.gateway.expected.prune()
            assert len(it.gateway.expected) == 0

    run(main())


# ---------------------------------------------------------------- bots keep their preparation


def test_only_what_has_changed_is_prepared_anew(tmp_path: Path) -> None:
    spoken: list[str] = []

    def say(text: str, voice: str, rate: int) -> bytes:
        spoken.append(text)
        return bytes(2 * rate // 50)

    config = tmp_path / "gateway.toml"
    write_wav(tmp_path / "bell.wav", bytes(320), 8000)
    text = """
[bots.hello]
use = "announce"
play = ["Hello.", "bell.wav"]
[bots.bye]
use = "announce"
play = ["Goodbye."]
[bots.code]
use = "a_bot_of_mine:talk"
[numbers.default]
bot = "hello"
"""
    config.write_text(text)
    program = tmp_path / "a_bot_of_mine.py"
    program.write_text("async def talk(call):\n    return 1\n")
    settings = load_settings(config)
    first = snapshot_of(settings, prepare_bots(settings, speak=say))
    assert set(spoken) == {"Hello.", "Goodbye."}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bots.speech.speak", say)
        spoken.clear()
        second, prepared = successor(first, load_settings(config))
        assert (prepared, spoken) == ((), [])
        assert second.builds["hello"] is first.builds["hello"]
        config.write_text(text.replace("Goodbye.", "See you."))
        third, prepared = successor(second, load_settings(config))
        assert prepared == ("bye",)
        assert set(spoken) == {"See you."}
        write_wav(tmp_path / "bell.wav", bytes(640), 8000)
        fourth, prepared = successor(third, load_settings(config))
        assert prepared == ("hello",)
        program.write_text("async def talk(call):\n    return 'another'\n")
        fifth, prepared = successor(fourth, load_settings(config))
        assert prepared == ("code",)
        assert fifth.number == 5


# ---------------------------------------------------------------- a hundred times


def test_a_hundred_reloads_disturb_no_call_and_leave_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as it:
            talks = Script().then(at(0.3), Press("1"))
            calls = [asyncio.create_task(it.call("twilio", talks)) for _ in range(5)]
            await until(lambda: sum(one.core.state.value == "live" for one in it.gateway.calls) == 5)
            first = weakref.ref(it.gateway.snapshot)
            seen: list[weakref.ref[Snapshot]] = []
            text = it.config.read_text()
            for number in range(100):
                it.config.write_text(text.replace("[gateway]", f"[gateway]\nmax_calls = {number + 10}"))
                assert (await reloader(it).reload("api")).taken
                seen.append(weakref.ref(it.gateway.snapshot))
            gc.collect()
            assert [one() for one in seen if one() is not None] == [it.gateway.snapshot]
            assert first() is not None, "five calls hold it"
            for session in it.gateway.calls:
                assert session.core.state.value == "live"
                session.core.end("enough")
            for report in await asyncio.gather(*calls):
                assert report.ended_by == "bot"
                assert not report.violations
            del session, calls, report
            await until(lambda: not len(it.gateway.calls))
            await until(lambda: (gc.collect(), first())[1] is None)

    run(main())
