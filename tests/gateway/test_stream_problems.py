"""A carrier that cannot open the media socket says why; the call's record keeps it."""

from __future__ import annotations

import time
from pathlib import Path

import httpx

from gateway.simulator.base import CallPlan
from gateway.simulator.web import Reply, Stage
from tests.endtoend.served import run
from tests.gateway.rig import running

TOKEN = "a token of the tests, long enough"


def test_why_a_stream_was_not_opened_is_in_the_record(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "api.secret").write_text(TOKEN)
        more = '[api.tokens.me]\nsecret = { file = "api.secret" }\nscopes = ["read"]\n'
        async with running(tmp_path, more=more) as it, httpx.AsyncClient(trust_env=False) as http:
            web = it.web("twilio")
            call = web.place(CallPlan(), time.time())
            while call.webhooks:
                webhook = call.webhooks.popleft()
                sent = web.signed(webhook, time.time())
                reply = await http.request(sent.method, sent.url, headers=dict(sent.headers), content=sent.body)
                names = {name.lower(): value for name, value in reply.headers.items()}
                told = Reply(status=reply.status_code, headers=names, body=reply.content)
                web.take_reply(call, webhook, told, time.time())
                if call.stage is Stage.CONNECTING:
                    web.media_refused(call, 403, time.time())
            assert web.violations == []
            async with it.client(TOKEN) as api:
                record = (await api.get(f"/calls/twilio/{call.call_id}")).json()
            assert "31920" in record["stream_problem"]

    run(main())
