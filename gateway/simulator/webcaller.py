"""Calls that come in as real ones do: by webhook, answer document and media socket; and the carriers' REST servers.

The I/O around `gateway.simulator.web`: everything here runs on one event loop and talks to loopback only, unless the
operator names another gateway.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl as tls
import struct
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from urllib.parse import urlsplit

import h11
import httpx

from gateway.simulator.base import CallPlan, Event, FakeCarrier, Message
from gateway.simulator.caller import Limits, place_call
from gateway.simulator.report import CallReport, HttpStep
from gateway.simulator.script import Script
from gateway.simulator.web import FakeWeb, Reply, RestReply, RestRequest, Stage, Tampering, WebCall, Webhook

HANDED_S = 0.2  # how long a caller talks to whom it was handed over, before it hangs up
_MAX_BODY = 1 << 20
_ANY_CALL = CallPlan()
_PATIENCE = Limits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How the carrier's requests reach the gateway.

    `public_url` is what stands in the carrier's console and in every URL that the gateway gives out; `gateway_url`
    where it really listens, with what a proxy leaves of the prefix. `headers` are those that the proxy adds.
    """

    gateway_url: str  # "http://127.0.0.1:8080"
    public_url: str = ""  # "https://gw.example.com/prefix"; empty: the gateway's own
    headers: Mapping[str, str] = field(default_factory=dict)
    ssl: tls.SSLContext | None = None

    @property
    def base(self) -> str:
        return (self.public_url or self.gateway_url).rstrip("/")

    def reach(self, url: str) -> str | None:
        """`url` as it is connected to; None if it is not the gateway's."""
        for public, real in ((self.base, self.gateway_url), (_ws(self.base), _ws(self.gateway_url))):
            if url == public or url.startswith((public + "/", public + "?")):
                return real.rstrip("/") + url[len(public) :]
        return None


# ---------------------------------------------------------------- a call


async def place_call_through_webhooks(
    web: FakeWeb,
    way: Way,
    script: Script,
    *,
    plan: CallPlan = _ANY_CALL,
    limits: Limits = _PATIENCE,
    tampering: Tampering = Tampering.NONE,
    strict: bool = True,
) -> CallReport:
    """Call the gateway as the carrier does: post the webhook, follow the answer, open the socket, report what happens.

    Args:
        web: the carrier's account; its `answer_url` is the one to call, below `way.base`.
        tampering: what is wrong with every webhook of this call.
        strict: as of FakeCarrier.
    """
    call = web.place(plan, time.time())
    return await _WebCall(web, call, way, script, limits, tampering, strict).run()


async def answer_placed_call(
    web: FakeWeb,
    way: Way,
    script: Script,
    *,
    who: str = "human",
    limits: Limits = _PATIENCE,
    strict: bool = True,
) -> CallReport:
    """Be the person, or machine, that the gateway calls: wait for the call that it places by REST, and pick it up.

    `who` may also be "busy", "no-answer" or "failed". TimeoutError if no call is placed in `limits.connect_s`.
    """
    placed = asyncio.Event()
    web.on_placed = lambda call: placed.set()
    async with asyncio.timeout(limits.connect_s):
        while not web.placed:
            placed.clear()
            await placed.wait()
    call = web.placed.popleft()
    running = _WebCall(web, call, way, script, limits, Tampering.NONE, strict)
    await asyncio.sleep(0)  # the reply to the request that placed it goes out first
    if who in ("busy", "no-answer", "failed"):
        web.turn_down(call, who, time.time())
    else:
        web.pick_up(call, time.time(), who)
    return await running.run()


class _WebCall:
    def __init__(
        self,
        web: FakeWeb,
        call: WebCall,
        way: Way,
        script: Script,
        limits: Limits,
        tampering: Tampering,
        strict: bool,
    ) -> None:
        self._web, self._call, self._way, self._script = web, call, way, script
        self._limits, self._tampering, self._strict = limits, tampering, strict
        self._changed, self._due = asyncio.Event(), asyncio.Event()
        call.changed = self._notify
        self._now = asyncio.get_running_loop().time
        self._began = self._now()
        self._opened_at: float | None = None
        self._steps: list[HttpStep] = []
        self._problems: list[str] = []
        self._violations_before = len(web.violations)
        self._seen_before = len(web.seen)
        self._busy = False  # a webhook is under way

    async def run(self) -> CallReport:
        report: CallReport | None = None
        async with (
            httpx.AsyncClient(verify=self._way.ssl or False, trust_env=False) as http,
            asyncio.TaskGroup() as tasks,
        ):
            poster = tasks.create_task(self._post(http))
            while not self._done():
                if self._call.stage is Stage.CONNECTING:
                    report = await self._stream()
                else:
                    await self._wait()
            poster.cancel()
            self._call.changed = lambda: None
        return self._report(report)

    def _notify(self) -> None:
        self._changed.set()
        self._due.set()

    def _done(self) -> bool:
        return self._call.over and not self._call.webhooks and not self._busy

    async def _wait(self) -> None:
        """Until something changes; a caller whom nobody serves gives up."""
        call = self._call
        idle = not call.webhooks and not self._busy
        handed = call.stage is Stage.BETWEEN and bool(call.handed_to) and idle
        patience = HANDED_S if handed else self._limits.ready_s + (self._web.answer_timeout_s if self._busy else 0)
        self._changed.clear()
        try:
            async with asyncio.timeout(patience):
                await self._changed.wait()
        except TimeoutError:
            if not handed and not call.over:
                self._problems.append(f"nothing happened for {patience:g} s while the call was {call.stage.value}")
            self._web.caller_gone(call, time.time())

    # ------------------------------------------------------------ webhooks

    async def _post(self, http: httpx.AsyncClient) -> None:
        web, call = self._web, self._call
        while True:
            while call.webhooks:
                webhook = call.webhooks.popleft()
                self._busy = True
                reply = await self._send(http, web.signed(webhook, time.time(), self._tampering))
                self._busy = False
                web.take_reply(call, webhook, reply, time.time())
            self._due.clear()
            await self._due.wait()

    async def _send(self, http: httpx.AsyncClient, webhook: Webhook) -> Reply | None:
        url = self._way.reach(webhook.url)
        if url is None:
            self._problems.append(f"the URL for {webhook.what!r} is not the gateway's: {_origin(webhook.url)}")
            return None
        began = self._now()
        headers = {**webhook.headers, "host": urlsplit(webhook.url).netloc, **self._way.headers}
        request = http.build_request(webhook.method, url, headers=headers, content=webhook.body or None)
        # As it was signed: httpx would put some characters of path and query differently.
        request.url = httpx.URL(url).copy_with(raw_path=_target(url))
        reply: Reply | None = None
        try:
            async with asyncio.timeout(self._web.answer_timeout_s):
                response = await http.send(request)
            names = {name.lower(): value for name, value in response.headers.items()}
            reply = Reply(status=response.status_code, headers=names, body=response.content)
        except (httpx.HTTPError, TimeoutError, OSError) as exc:
            self._problems.append(f"webhook {webhook.what!r}: {exc or type(exc).__name__}")
        elapsed = 1000 * (self._now() - began)
        self._steps.append(HttpStep(began, "webhook", webhook.what, reply.status if reply else 0, elapsed))
        return reply

    # ------------------------------------------------------------ the stream

    async def _stream(self) -> CallReport:
        web, call = self._web, self._call
        url = self._way.reach(call.media_url)
        if url is None:
            self._problems.append(f"the media URL is not the gateway's: {_origin(call.media_url)}")
            web.media_refused(call, 0, time.time())
            return self._no_media()
        fake = web.media(call, strict=self._strict)
        report = await place_call(
            fake,
            url,
            self._script,
            ssl=self._way.ssl,
            limits=self._limits,
            addressed=call.media_url,
            headers=self._way.headers,
            meanwhile=lambda now: self._meanwhile(fake, now),
        )
        if self._opened_at is None or call.media is not fake:
            web.media_refused(call, report.refused or 0, time.time())
        else:
            web.media_closed(call, time.time())
        return report

    def _meanwhile(self, fake: FakeCarrier, now: float) -> Sequence[Message]:
        call = self._call
        if call.media is not fake:
            self._opened_at = fake.started_at
            self._web.media_opened(call, fake, time.time())
        if call.cut and fake.ended_by is None:
            messages = fake.api_hang_up(now)
            fake.end_reason = call.cut
            return messages
        return ()

    # ------------------------------------------------------------ the report

    def _no_media(self) -> CallReport:
        return CallReport(carrier=self._web.name, call_id=self._call.call_id)

    def _report(self, report: CallReport | None) -> CallReport:
        web, call = self._web, self._call
        zero = self._opened_at if self._opened_at is not None else self._began
        if report is None:
            report = self._no_media()
            report.ended_by, report.end_reason = call.ended_by or "error", call.end
            report.turned_away = call.end
        elif report.refused is not None:
            report.turned_away = call.end
        # Unix seconds of what REST saw, on the loop's clock.
        unix = time.time() - self._now()
        steps = [replace(step, t=step.t - zero) for step in self._steps]
        steps += [
            HttpStep(seen.at - unix - zero, "rest", seen.route or f"{seen.method} {seen.path}", seen.status, 0.0)
            for seen in web.seen[self._seen_before :]
            if seen.call_id == call.call_id
        ]
        report.http = sorted(steps, key=lambda step: step.t)
        report.handed_to, report.spoken = list(call.handed_to), list(call.spoken)
        report.digits_received += call.digits
        violations = [str(violation) for violation in web.violations[self._violations_before :]]
        report.violations += violations
        report.problems += [*self._problems, *violations]
        report.timeline += [
            Event(
                step.t, step.who, f"{step.what}: {step.status or 'no answer'}" + (f", {step.ms:.1f} ms" * bool(step.ms))
            )
            for step in report.http
        ]
        report.timeline.sort(key=lambda event: event.t)
        return report


# ---------------------------------------------------------------- the REST servers


class CarrierServer:
    """The REST interfaces of fake carriers over HTTP, on one loopback port.

    async with CarrierServer([twilio, plivo]) as server:
        settings = TwilioSettings(..., api_base=server.base("twilio"))
    """

    def __init__(self, webs: Iterable[FakeWeb], port: int = 0) -> None:
        self._webs = {web.name: web for web in webs}
        self._wanted = port
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.StreamWriter, asyncio.Task[None] | None] = {}

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    def base(self, carrier: str) -> str:
        """For the setting `api_base` of [carriers.<carrier>]."""
        return f"http://127.0.0.1:{self.port}/{carrier}"

    async def __aenter__(self) -> CarrierServer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._wanted)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        tasks = [task for task in self._open.values() if task is not None]
        for writer, task in tuple(self._open.items()):
            writer.transport.abort()
            if task is not None:
                task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open[writer] = asyncio.current_task()
        try:
            with contextlib.suppress(OSError, h11.RemoteProtocolError, h11.LocalProtocolError):
                async for name, request in _requests(reader, connection := h11.Connection(h11.SERVER)):
                    if not await self._answer(name, request, connection, writer, reader):
                        break
        finally:
            del self._open[writer]
            writer.close()

    async def _answer(
        self,
        name: str,
        request: RestRequest,
        connection: h11.Connection,
        writer: asyncio.StreamWriter,
        reader: asyncio.StreamReader,
    ) -> bool:
        """Whether the connection can go on."""
        web = self._webs.get(name)
        if web is None:
            reply: RestReply | None = RestReply(status=404)
        else:
            result = web.rest(request, time.time())
            if result.delay_s:
                await asyncio.sleep(result.delay_s)
            if result.reset:
                linger = struct.pack("ii", 1, 0)  # closing then resets the connection instead of ending it
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                writer.transport.abort()
                return False
            reply = result.reply
        if reply is None:
            await reader.read()  # silence, until the other side gives up
            return False
        headers = [*reply.headers.items(), ("content-length", str(len(reply.body)))]
        out = connection.send(h11.Response(status_code=reply.status, headers=headers)) or b""
        if request.method != "HEAD":
            out += connection.send(h11.Data(data=reply.body)) or b""
        out += connection.send(h11.EndOfMessage()) or b""
        writer.write(out)
        await writer.drain()
        if connection.our_state is h11.MUST_CLOSE:
            return False
        connection.start_next_cycle()
        return True


async def _requests(reader: asyncio.StreamReader, connection: h11.Connection) -> AsyncIterator[tuple[str, RestRequest]]:
    """The requests of one connection: the carrier's name, and what lies below it."""
    head: h11.Request | None = None
    body = bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(65536))
        elif isinstance(event, h11.Request):
            head, body = event, bytearray()
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > _MAX_BODY:
                return
        elif isinstance(event, h11.EndOfMessage):
            assert head is not None
            name, slash, rest = head.target.decode("ascii").removeprefix("/").partition("/")
            headers = {key.decode("ascii").lower(): value.decode("latin-1") for key, value in head.headers}
            yield (
                name,
                RestRequest(method=head.method.decode("ascii"), target=slash + rest, headers=headers, body=bytes(body)),
            )
        else:  # closed
            return


# ---------------------------------------------------------------- pieces


def _ws(url: str) -> str:
    return url.replace("http", "ws", 1)


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}"


def _target(url: str) -> bytes:
    parts = urlsplit(url)
    return ((parts.path or "/") + (f"?{parts.query}" if parts.query else "")).encode("ascii")
