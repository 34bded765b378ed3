"""Exotel with a URL that was typed into the applet: no webhook announces the call, its start message does."""

from __future__ import annotations

import asyncio
import time

from gateway.settings import BotEntry, GatewaySettings, NumberEntry, Settings
from gateway.simulator.base import fake_carrier
from gateway.simulator.caller import place_call
from gateway.simulator.script import Script
from gateway.store import CallFilter, Standing
from media.secret import GivenSecret
from tests.endtoend.actors import ending, saying
from tests.gateway.rig import QUICK, serving
from webhooks.exotel import ExotelSettings

PATH_TOKEN = "made-up-token-of-the-applet-0123"


def test_a_url_that_stands_in_the_applet() -> None:
    async def main() -> None:
        settings = Settings(
            gateway=GatewaySettings(),
            carriers={"exotel": ExotelSettings(path_token=GivenSecret(PATH_TOKEN))},
            bots={"hello": BotEntry(name="hello", use="echo")},
            numbers={"default": NumberEntry(key="default", bot="hello")},
        )
        async with serving(settings, {"hello": saying(0.3, then=ending())}) as (it, up):
            url = f"ws://127.0.0.1:{up.port}"
            stranger = fake_carrier("exotel")()
            report = await place_call(stranger, url, Script(), token=PATH_TOKEN[:-1] + "4", limits=QUICK)
            assert not report.ok
            assert not (await it.store.records(CallFilter())).calls

            for n in (1, 2):  # the same URL for every call
                fake = fake_carrier("exotel")()
                report = await place_call(fake, url, Script(), token=PATH_TOKEN, limits=QUICK)
                assert (report.ended_by, report.problems) == ("bot", [])
                for _ in range(400):
                    found = (await it.store.records(CallFilter())).calls
                    if len(found) == n and all(one.ended is not None for one in found):
                        break
                    await asyncio.sleep(0.05)
                assert len(found) == n
                (record,) = (one for one in found if one.key.call_id == report.call_id)
                assert (record.standing, record.ended_by, record.bot) == (Standing.ENDED, "bot", "hello")
            usage = await it.store.usage(time.time())
            assert (usage.reserved, usage.live) == (0, 0)

    asyncio.run(main())
