"""The example in docs/examples/genesys: what its guide shows, works, against the strict fake, on virtual time."""

from __future__ import annotations

import asyncio
import random
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from bots.base import PrepareContext
from gateway import registry
from gateway.settings import Settings, load_settings
from gateway.simulator.base import CallPlan
from gateway.simulator.genesys import FakeGenesys
from gateway.states import CallState
from media.variables import text_of
from tests.bots.live import LiveVirtualCall
from tests.bots.talk import Tongue

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "genesys"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for file in EXAMPLE.iterdir():
        if file.is_file():
            shutil.copy(file, tmp_path)
    (tmp_path / "gateway.secret").write_text("x" * 40)
    for key in ("GENESYS", "GENESYS_MONITOR"):
        monkeypatch.setenv(f"{key}_API_KEY" if key == "GENESYS" else f"{key}_KEY", f"key-{key}")
        monkeypatch.setenv(f"{key}_CLIENT_SECRET" if key == "GENESYS" else f"{key}_SECRET", "c2VjcmV0LXNlY3JldA==")
    path, modules = list(sys.path), set(sys.modules)
    yield tmp_path
    sys.path[:] = path
    for name in {"billing", "shares"} & (set(sys.modules) - modules):
        del sys.modules[name]


class Flow:
    """One session of the flow: the bot of the example, with the outputs that its gateway.toml declares."""

    def __init__(self, settings: Settings, call: LiveVirtualCall, tongue: Tongue) -> None:
        self.settings, self.call, self.tongue = settings, call, tongue
        assert isinstance(call.fake, FakeGenesys)
        self.fake = call.fake

    @classmethod
    async def start(cls, folder: Path, bot: str, variables: Mapping[str, str] = {}, **options: Any) -> Flow:
        settings = load_settings(folder / "gateway.toml", strict=True)
        assert settings.warnings == ()
        entry, tongue = settings.bots[bot], Tongue()
        prepared: Any = registry.bot(entry.use).prepare(entry.options, PrepareContext(folder, (8000,), tongue.speak))
        build = await prepared
        key = settings.carriers["genesys"].keys["monitors" if options.get("session") == "monitor" else "bots"]
        call = LiveVirtualCall(
            "genesys",
            build,
            plan=CallPlan(parameters=variables, options=options),
            settings={"monitor": key.monitor, "channel": key.channel},
        )
        flow = cls(settings, call, tongue)
        await flow.go(0.05)
        call.core.variables.expect(entry.output_variables)
        await flow.go(0.05)
        return flow

    async def go(self, seconds: float) -> None:
        await self.call.go(seconds)

    async def until_said(self, words: str, limit_s: float = 60.0) -> None:
        """Prompts are made in threads, so the loop gets real moments too."""
        for _ in range(round(limit_s / 0.2)):
            if any(words in text for text, _ in self.tongue.read(self.call.heard())):
                return
            await self.go(0.2)
            await asyncio.sleep(0.002)
        raise AssertionError(f"nobody said {words!r}")

    async def press(self, digits: str) -> None:
        self.call.press(digits)
        await self.go(0.3)

    async def to_its_end(self, limit_s: float = 60.0) -> dict[str, Any]:
        """What the flow got back."""
        for _ in range(round(limit_s / 0.2)):
            if self.call.closed_with is not None:
                break
            await self.go(0.2)
            await asyncio.sleep(0.002)
        await self.call.finish()
        assert not self.fake.violations
        assert self.call.core.state is CallState.CLOSED
        recorded = self.call.core.record(self.call.t).variables
        assert {name: text_of(value) for name, value in recorded.items()} == self.fake.output_variables
        return self.fake.output_variables


def played(main: Any) -> None:
    asyncio.run(asyncio.wait_for(main, 60))


@pytest.mark.parametrize(("pin", "verified"), [("4711", "true"), ("1234", "false")])
def test_the_flow_gets_its_answer(folder: Path, pin: str, verified: str) -> None:
    async def main() -> None:
        flow = await Flow.start(folder, "billing", {"customerId": "C-1077"})
        await flow.until_said("For your bill")
        await flow.press("1")
        assert [one["type"] for one in flow.fake.server_events] == ["barge_in"], "the key silences the prompt"
        await flow.until_said("PIN")
        flow.call._tell_core(flow.fake.hold(flow.call.t))  # the platform pauses while the caller types his PIN
        await flow.press(pin + "#")
        flow.call._tell_core(flow.fake.resume(flow.call.t))
        assert await flow.to_its_end() == {"intent": "bill", "verified": verified, "transfer_to": "Billing"}
        assert flow.fake.disconnect is not None
        assert flow.fake.disconnect["reason"] == "completed"
        assert flow.fake.facts()["way_out"] == "Success"
        heard = dict(flow.tongue.read(flow.call.heard()))
        assert heard["Thank you. I am putting you through."] > 3.0, "the last words are heard before the flow goes on"

    played(main())


def test_a_customer_whom_nobody_knows_is_not_asked_for_a_pin(folder: Path) -> None:
    async def main() -> None:
        flow = await Flow.start(folder, "billing", {"customerId": "C-9"})
        await flow.until_said("For your bill")
        await flow.press("2")
        assert await flow.to_its_end() == {"intent": "fault", "verified": "false", "transfer_to": "Support"}

    played(main())


def test_a_caller_who_leaves_before_the_choice_brings_back_the_defaults(folder: Path) -> None:
    async def main() -> None:
        flow = await Flow.start(folder, "billing")
        await flow.until_said("Welcome")
        flow.call.hang_up()
        assert await flow.to_its_end() == {"verified": "false", "transfer_to": "Reception"}
        assert flow.fake.disconnect is None

    played(main())


def test_the_monitor_hears_both_and_tells_the_agent(folder: Path) -> None:
    loud = random.Random(1)
    pcm = b"".join(loud.randrange(-9000, 9000).to_bytes(2, "little", signed=True) for _ in range(8000))

    async def main() -> None:
        flow = await Flow.start(folder, "shares", session="monitor", agent=pcm)
        flow.call.say(pcm[:8000])
        await flow.go(14.0)
        assert flow.fake.selected == {
            "type": "audio",
            "format": "PCMU",
            "channels": ["external", "internal"],
            "rate": 8000,
        }
        assert [one["type"] for one in flow.fake.server_events] == ["agentassist"]
        flow.call.hang_up()
        variables = await flow.to_its_end()
        assert 0.2 <= float(variables["customer_s"]) <= 0.8
        assert 13 <= float(variables["agent_s"]) <= 14.5
        assert not flow.fake.audio_messages_out

    played(main())
