"""The carriers' side of the matrix: accounts, REST servers, and calls that end in every way.

Each call is a `Cell`: which carrier, who ends it first, what goes wrong at the carrier's REST interface. `Floor` holds
the accounts and runs the calls against a gateway process, which it may kill; `verdicts` says what was not right.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from gateway.simulator.accounts import Account, make_up
from gateway.simulator.base import CallPlan, FakeCarrier, Message, ProtocolViolation, fake_carrier
from gateway.simulator.web import FakeWeb, Fault, Reply, RestRequest, RestResult, Stage, WebCall, Webhook
from gateway.simulator.webcaller import CarrierServer, Way
from gateway.store import CallFilter, CallKey, HangUp, Standing, StoredCall
from gateway.store_sql import SqlStore
from tests.matrix.process import BOTS, TARGET, WORD_S, told_of_lateness
from tests.ports import free_port

ROOT = Path(__file__).resolve().parent.parent.parent
REST = ("twilio", "telnyx", "telnyx-control", "plivo", "vonage")  # Telnyx in both its planes
SOCKETS = ("exotel", "genesys")  # whose calls end with their sockets
ENDS = ("bot", "caller", "lost", "carrier", "api", "transfer", "longest", "error", "shutdown")
FAULTS = ("none", "timeout", "reset", "reset-done", "429", "500", "over", "slow", "credentials")
PATIENCE_S = 150.0  # for one call to be over at its carrier, on a machine that has much else to do
NUMBERS = {"talks": "+15550201", "ends": "+15550202", "moves": "+15550203", "fails": "+15550204"}
_BOT = {"bot": "ends", "transfer": "moves", "error": "fails"}
_NOW_S = 0.12  # of the bot's word that was heard when something else happens
_REPLY_S = 5.0  # that the gateway gives a carrier's REST interface, in service


@dataclass(slots=True, eq=False)
class Cell:
    """One call of the matrix, and what became of it."""

    carrier: str  # "telnyx-control": Telnyx by Call Control
    end: str
    fault: str = "none"
    crash: str = ""  # "before" the request that ends it, "after" it; "live": while it talks
    call: WebCall | None = None
    fake: FakeCarrier | None = None
    faults: list[Fault] = field(default_factory=list)
    heard_at_end_s: float | None = None  # of the bot's word, when the end was asked for
    problems: list[str] = field(default_factory=list)
    record: StoredCall | None = None
    parked: bool = False  # its process has been killed, or it is over

    def __str__(self) -> str:
        crash = f", crash {self.crash}" if self.crash else ""
        return f"{self.carrier}: {self.end}, {self.fault}{crash}"

    @property
    def name(self) -> str:
        return self.carrier.partition("-")[0]

    @property
    def by_rest(self) -> bool:
        return self.carrier in REST

    @property
    def call_id(self) -> str:
        return self.call.call_id if self.call is not None else self.fake.call_id if self.fake is not None else ""


def fault_of(word: str, scale: float) -> list[Fault]:
    """What happens to the first requests about a call."""
    match word:
        case "timeout":
            return [Fault(what="silent")]
        case "reset":
            return [Fault(what="reset")]
        case "reset-done":
            return [Fault(what="reset", takes_effect=True)]
        case "429":
            return [Fault(what="status", status=429, retry_after_s=1.0)]
        case "500":
            return [Fault(what="status", status=500)]
        case "slow":
            return [Fault(what="slow", delay_s=1.6 * _REPLY_S * scale)]  # done, but the reply comes too late
        case "credentials":
            return [Fault(what="credentials", times=2)]
        case _:
            return []


# ---------------------------------------------------------------- accounts


class Exchange:
    """The accounts of one gateway, and what their REST interfaces saw of each call."""

    def __init__(self, accounts: Mapping[str, Account]) -> None:
        self.accounts = accounts
        self.cells: dict[str, Cell] = {}  # by call id
        for account in accounts.values():
            if account.web is not None:
                self._overhear(account.web)

    def web(self, name: str) -> FakeWeb | None:
        return self.accounts[name].web

    def _overhear(self, web: FakeWeb) -> None:
        serve = web.rest

        def rest(request: RestRequest, now: float) -> RestResult:
            cell = next((cell for call_id, cell in self.cells.items() if call_id in request.path), None)
            asks = web._find(request)[0] in ("hang-up", "transfer")
            if cell is not None and cell.call is not None and asks:
                self._before(web, cell, now)
            web.faults = cell.faults if cell is not None and asks else []
            return serve(request, now)

        web.rest = rest  # type: ignore[method-assign]

    def _before(self, web: FakeWeb, cell: Cell, now: float) -> None:
        if cell.heard_at_end_s is None:
            cell.heard_at_end_s = heard_s(cell)
        if cell.fault == "over" and cell.call is not None and not cell.call.gone:
            # The caller was quicker by a moment.
            if cell.fake is not None and cell.fake.ended_by is None:
                cell.fake.finish("caller", asyncio.get_running_loop().time(), "hung up")
                cell.fake.closes_socket = True
            web.finish(cell.call, "caller", "completed", now)


def heard_s(cell: Cell) -> float:
    return cell.fake.playout.played_s if cell.fake is not None else 0.0


# ---------------------------------------------------------------- one call


class Line:
    """One call as its carrier has it: webhooks posted in order, the document followed, REST obeyed."""

    def __init__(self, site: Site, cell: Cell) -> None:
        self.site, self.cell = site, cell
        self.web = site.exchange.web(cell.name)
        self._changed, self._due = asyncio.Event(), asyncio.Event()
        self._busy = False
        self._loop = asyncio.get_running_loop()

    async def run(self) -> None:
        cell = self.cell
        try:
            async with asyncio.timeout(PATIENCE_S):
                if self.web is None:
                    await self._without_webhooks()
                else:
                    await self._call(self.web)
        except TimeoutError:
            stage = cell.call.stage.value if cell.call is not None else "open"
            cell.problems.append(f"still {stage} at the carrier after {PATIENCE_S:g} s")
        finally:
            cell.parked = True

    async def _call(self, web: FakeWeb) -> None:
        cell = self.cell
        plan = CallPlan(to_number=NUMBERS[_BOT.get(cell.end, "talks")])
        call = cell.call = web.place(plan, time.time())
        self.site.exchange.cells[call.call_id] = cell
        cell.faults = fault_of(cell.fault, self.site.scale)
        call.changed = self._notify
        poster = asyncio.create_task(self._post(web, call))
        try:
            while not (call.over and not call.webhooks and not self._busy):
                if call.stage is Stage.CONNECTING:
                    await self._stream(web, call)
                elif call.stage is Stage.BETWEEN and call.handed_to and not call.webhooks and not self._busy:
                    # The caller talks to somebody else, for as long as a second wish to end it would need to come.
                    await asyncio.sleep(60 * self.site.scale)
                    web.caller_gone(call, time.time())
                else:
                    self._changed.clear()
                    await self._changed.wait()
        finally:
            poster.cancel()
            call.changed = lambda: None

    async def _without_webhooks(self) -> None:
        cell = self.cell
        connector = _BOT.get(cell.end, "talks")
        fake = cell.fake = fake_carrier(cell.name)(CallPlan(options={"connector": connector}), record=False)
        url = self.site.media_url + fake.media_path("")
        await self._carry(fake, url, fake.handshake_headers(url))

    def _notify(self) -> None:
        self._changed.set()
        self._due.set()

    # ------------------------------------------------------------ webhooks

    async def _post(self, web: FakeWeb, call: WebCall) -> None:
        while True:
            while call.webhooks:
                webhook = call.webhooks.popleft()
                self._busy = True
                reply = await self._send(web.signed(webhook, time.time()))
                self._busy = False
                web.take_reply(call, webhook, reply, time.time())
            self._due.clear()
            await self._due.wait()

    async def _send(self, webhook: Webhook) -> Reply:
        """A carrier whose webhook reaches nobody: this one tries again until somebody is there."""
        while True:
            await self.site.is_up.wait()
            try:
                response = await self.site.http.request(
                    webhook.method, webhook.url, headers=dict(webhook.headers), content=webhook.body or None, timeout=60
                )
                names = {name.lower(): value for name, value in response.headers.items()}
                return Reply(status=response.status_code, headers=names, body=response.content)
            except (httpx.HTTPError, OSError):
                await asyncio.sleep(0.05)

    # ------------------------------------------------------------ the stream

    async def _stream(self, web: FakeWeb, call: WebCall) -> None:
        fake = self.cell.fake = web.media(call, record=False)
        await self._carry(fake, call.media_url, fake.handshake_headers(call.media_url))
        if call.over:
            return
        if call.media is not fake:
            web.media_refused(call, 0, time.time())
        elif fake.ended_by in (None, "error") and self._goes_on:
            # Nobody has told the carrier that this is over: it goes on, and is paid for, until somebody does.
            call.stage = Stage.BETWEEN
            if call.cut == "hang-up":
                web.finish(call, "bot", "completed", time.time())
        else:
            web.media_closed(call, time.time())

    @property
    def _goes_on(self) -> bool:
        cell = self.cell
        return cell.by_rest and (cell.end == "lost" or (bool(cell.crash) and cell.end != "transfer"))

    async def _carry(self, fake: FakeCarrier, url: str, headers: Mapping[str, str]) -> None:
        try:
            async with connect(
                url, additional_headers=headers, compression=None, ping_interval=None, proxy=None, close_timeout=1
            ) as ws:
                now = self._loop.time()
                call = self.cell.call
                if call is not None and call.over:
                    return  # it was hung up while the socket was being opened
                outbox: list[Message] = list(fake.opening(now))
                if self.web is not None and call is not None:
                    self.web.media_opened(call, fake, time.time())
                writer = asyncio.create_task(self._write(fake, ws, outbox))
                try:
                    await self._read(fake, ws, outbox)
                finally:
                    writer.cancel()
                    await asyncio.wait({writer})
        except (InvalidHandshake, OSError) as exc:
            # A carrier that opens another stream after a crash may find that the call has been ended meanwhile.
            if not fake.events and not self.cell.crash:
                self.cell.problems.append(f"the socket was refused: {type(exc).__name__}")

    async def _read(self, fake: FakeCarrier, ws: ClientConnection, outbox: list[Message]) -> None:
        try:
            while True:
                data = await ws.recv()
                outbox += fake.receive(data, self._loop.time())
        except ConnectionClosed as exc:
            code = exc.rcvd.code if exc.rcvd else 1006
            if fake.ended_by is None or not fake.closes_socket:
                if self.cell.heard_at_end_s is None:
                    self.cell.heard_at_end_s = heard_s(self.cell)
                with contextlib.suppress(ProtocolViolation):
                    fake.socket_closed(code, "", self._loop.time())
        except ProtocolViolation as violation:
            self.cell.problems.append(str(violation))
            ws.transport.abort()

    async def _write(self, fake: FakeCarrier, ws: ClientConnection, outbox: list[Message]) -> None:
        """Time passes: every 20 ms the carrier does what is due, and whoever ends the call does that."""
        cell, call = self.cell, self.cell.call
        packet = bytes(2 * fake.audio_rate * fake.packet_ms // 1000)
        ticks, acted = 0, False
        per_packet = max(1, fake.packet_ms // 20)
        with contextlib.suppress(ConnectionClosed):
            while True:
                now = self._loop.time()
                outbox += fake.tick(now)
                if fake.ready and ticks % per_packet == 0 and (ticks < 20 or ticks % 40 == 0):
                    outbox += fake.audio(packet, now)  # of silence, and soon few: this caller listens
                if not acted and fake.ready and fake.playout.played_s >= _NOW_S:
                    acted = True
                    if await self._act(fake, ws, outbox, now):
                        return
                if call is not None and call.cut and fake.ended_by is None:
                    outbox += fake.api_hang_up(now)
                while outbox:
                    await ws.send(outbox.pop(0))
                if fake.closes_socket:
                    if cell.heard_at_end_s is None:
                        cell.heard_at_end_s = fake.playout.played_s
                    if fake.close_code == 1006:
                        ws.transport.abort()
                    else:
                        await ws.close(fake.close_code)
                    return
                ticks += 1
                await asyncio.sleep(0.02)

    async def _act(self, fake: FakeCarrier, ws: ClientConnection, outbox: list[Message], now: float) -> bool:
        """What ends this call first. True: the socket is gone."""
        cell = self.cell
        match cell.end if cell.crash != "live" else "":
            case "caller":
                outbox += fake.hang_up(now)
            case "lost":
                ws.transport.abort()
                fake.finish("error" if cell.by_rest else "caller", now, "the connection broke")
                return True
            case "carrier":
                fake.finish("caller", now, "ended by the carrier")
                if self.web is not None and cell.call is not None:
                    self.web.finish(cell.call, "carrier", "completed", time.time())
                await ws.close(1000)
                return True
            case "api":
                self.site.later(self._end_by_api())
        return False

    async def _end_by_api(self) -> None:
        url = f"{self.site.url}/api/calls/{self.cell.name}/{self.cell.call_id}/end"
        try:
            reply = await self.site.http.post(url, json={})
        except httpx.HTTPError:
            if not self.cell.crash:
                raise
        else:
            if reply.status_code not in (200, 202, 204):
                self.cell.problems.append(f"the API answered {reply.status_code}")


# ---------------------------------------------------------------- a gateway and its calls


class Site:
    """One gateway process after the other, with the same accounts, port and store; all its waits are `scale` of those
    in service.
    """

    def __init__(self, folder: Path, exchange: Exchange, scale: float) -> None:
        self.folder, self.exchange, self.scale = folder, exchange, scale
        self.held_up = False  # a process got no processor for so long that the carriers' replies may have come too late
        self.store_url = f"sqlite:///{folder / 'calls.db'}"
        self.port = free_port()
        self.url, self.media_url = f"http://127.0.0.1:{self.port}", f"ws://127.0.0.1:{self.port}"
        self.way = Way(gateway_url=self.url)
        self.is_up = asyncio.Event()
        self.http = httpx.AsyncClient(trust_env=False, limits=httpx.Limits(max_connections=200))
        self.held: Counter[str] = Counter()
        self.starts = 0
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._beside: set[asyncio.Task[None]] = set()
        for name, account in exchange.accounts.items():
            if account.web is not None:
                account.web.answer_url = f"{self.url}/{name}/answer"
                account.web.status_url = f"{self.url}/{name}/status"

    @property
    def _late_s(self) -> float:
        return _REPLY_S * self.scale / 4

    async def watch(self) -> None:
        await told_of_lateness(self._late_s, lambda: setattr(self, "held_up", True))

    def later(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)

    def log(self) -> str:
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("log.*")))

    async def start(self, hold: str = "") -> None:
        self.starts += 1
        plan = {"port": self.port, "store": self.store_url, "scale": self.scale, "hold": hold, "late_s": self._late_s}
        with (self.folder / f"log.{self.starts}").open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.matrix.process", str(self.folder / "gateway.toml"), json.dumps(plan)),
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
            )
        self._reader = asyncio.create_task(self._listen(self._process))
        async with asyncio.timeout(60):
            waits = asyncio.create_task(self.is_up.wait())
            await asyncio.wait({waits, self._reader}, return_when=asyncio.FIRST_COMPLETED)
            waits.cancel()
        if not self.is_up.is_set():
            raise AssertionError(f"the gateway did not start:\n{self.log()[-2000:]}")

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while line := (await process.stdout.readline()).decode().strip():
            word, _, what = line.partition(" ")
            if word == "up":
                self.is_up.set()
            elif word == "held":
                self.held[what] += 1
            elif word == "late":
                self.held_up = True

    async def kill(self) -> None:
        assert self._process is not None
        self.is_up.clear()
        self._process.kill()
        await self._process.wait()

    async def stop(self, limit_s: float = 60.0) -> int:
        """SIGTERM, and what the process then ends with."""
        process = self._process
        assert process is not None
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(limit_s):
            code = await process.wait()
        self.is_up.clear()
        return code

    async def close(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        if self._reader is not None:
            await asyncio.wait({self._reader})
        await self.http.aclose()

    async def usage(self) -> tuple[list[StoredCall], int]:
        """Every record, and how many slots are still taken."""
        store = SqlStore(self.store_url)
        await store.open()
        try:
            calls: list[StoredCall] = []
            after = ""
            while True:
                page = await store.records(CallFilter(), limit=1000, after=after)
                calls += page.calls
                after = page.next
                if not after:
                    break
            usage = await store.usage(time.time())
            return calls, usage.live + usage.reserved
        finally:
            await store.close()


@asynccontextmanager
async def site(folder: Path, carriers: Sequence[str], *, longest_s: float, scale: float) -> AsyncIterator[Site]:
    """Accounts at `carriers`, their REST servers, and a place for a gateway (not started)."""
    accounts: dict[str, Account] = {}
    for carrier in carriers:
        account = make_up(carrier.partition("-")[0], folder)
        if carrier == "telnyx-control":
            account.lines.append('control = "call_control"')
            account.web.control = "call_control"  # type: ignore[union-attr]
        accounts[account.carrier] = account
    webs = [account.web for account in accounts.values() if account.web is not None]
    async with CarrierServer(webs) as rest:
        for account in accounts.values():
            if account.web is not None:
                account.api_base = rest.base(account.carrier)
        tables = [
            f"[gateway]\nmax_calls = 2000\nmax_lateness_ms = 0\nlongest_call_s = {longest_s}\ndrain_s = 0",
            'secret = { file = "token.secret" }\n',
            *(account.toml for account in accounts.values()),
            *(f'[bots.{name}]\nuse = "echo"\napology = ""\n' for name in BOTS),
            *(f'[numbers."{number}"]\nbot = "{bot}"\n' for bot, number in NUMBERS.items()),
        ]
        (folder / "token.secret").write_text("a secret that is the same for the next process")
        (folder / "gateway.toml").write_text("\n".join(tables))
        found = Site(folder, Exchange(accounts), scale)
        watch = asyncio.create_task(found.watch())
        try:
            yield found
        finally:
            watch.cancel()
            await found.close()


# ---------------------------------------------------------------- what happens


async def play(site: Site, cells: Sequence[Cell], at_once: int) -> None:
    """All calls, so many at the same time."""
    gate = asyncio.Semaphore(at_once)

    async def one(cell: Cell) -> None:
        async with gate:
            await Line(site, cell).run()

    await asyncio.gather(*(one(cell) for cell in cells))


async def ordinary(site: Site, cells: Sequence[Cell], at_once: int) -> None:
    """No crash: calls come and go; those that a shutdown is to end come last."""
    shut = [cell for cell in cells if cell.end == "shutdown"]
    await site.start()
    await play(site, [cell for cell in cells if cell.end != "shutdown"], at_once)
    last = asyncio.create_task(play(site, shut, len(shut) or 1))
    await until(lambda: all(cell.parked or heard_s(cell) >= _NOW_S for cell in shut))
    code = await site.stop()
    site.is_up.set()  # nobody is there; what is posted now finds nobody, as it would
    await asyncio.wait({last}, timeout=1.0)
    last.cancel()
    await asyncio.wait({last})
    if code:
        raise AssertionError(f"the gateway ended with {code}")


async def crashing(site: Site, cells: Sequence[Cell], hold: str) -> None:
    """All calls until each has reached its point; kill -9; the next process finds what is left."""
    await site.start(hold)
    calls = asyncio.create_task(play(site, cells, len(cells)))
    shut = [cell for cell in cells if cell.end == "shutdown"]
    waits = [cell for cell in cells if cell not in shut]
    await until(lambda: all(at_its_point(site, cell) for cell in waits))
    if shut:
        await until(lambda: all(cell.parked or heard_s(cell) >= _NOW_S for cell in shut))
        assert site._process is not None
        site._process.send_signal(signal.SIGTERM)
        await until(lambda: all(at_its_point(site, cell) for cell in shut))
    await site.kill()
    await site.start()
    await calls
    await settled(site)
    code = await site.stop()
    if code:
        raise AssertionError(f"the gateway ended with {code}")


async def settled(site: Site, limit_s: float = 30.0) -> None:
    """Wait until nothing is left to be done for any call; no longer than that."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        records, slots = await site.usage()
        if not slots and all(one.ended is not None and one.hang_up is not HangUp.PENDING for one in records):
            return
        await asyncio.sleep(0.1)


def at_its_point(site: Site, cell: Cell) -> bool:
    if cell.parked:
        return True
    if cell.crash == "live":
        return heard_s(cell) >= _NOW_S
    return site.held[str(CallKey(cell.name, cell.call_id))] > 0


async def until(true: Any, limit_s: float = 300.0) -> None:
    end = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < end, "it did not happen"
        await asyncio.sleep(0.02)


# ---------------------------------------------------------------- what is right

_BY = {
    "bot": ("bot", "completed"),
    "api": ("bot", "api"),
    "longest": ("gateway", "longest-call"),
    "error": ("gateway", "error"),
    "shutdown": ("gateway", "shutdown"),
    "transfer": ("bot", "transferred"),
}
_NO_TRANSFER = ("over", "credentials")  # faults by which a caller cannot be handed over: the call ends
_GOODBYE = ("bot", "api", "transfer", "longest", "error", "shutdown")  # ends before which the word is heard


async def judge(site: Site, cells: Sequence[Cell]) -> None:
    """Write into each cell what was not right."""
    records, slots = await site.usage()
    by_key = {record.key: record for record in records}
    for cell in cells:
        cell.record = by_key.get(CallKey(cell.name, cell.call_id))
        cell.problems += verdict(site.exchange, cell)
    if slots and cells:
        cells[0].problems.append(f"{slots} slots are still taken")


def verdict(exchange: Exchange, cell: Cell) -> Iterator[str]:
    web, call, record = exchange.web(cell.name), cell.call, cell.record
    hung_up = moved = asked = 0
    if web is not None and call is not None:
        seen = [one for one in web.seen if one.call_id == cell.call_id]
        hung_up = sum(one.route == "hang-up" and one.effective for one in seen)
        asked = sum(one.route == "hang-up" for one in seen)
        moved = sum(one.route == "transfer" and one.effective for one in seen)
        if not call.over:
            yield "left live at the carrier"
        if call.handed_to and hung_up:
            yield "handed over and then hung up"
        if hung_up + moved > 1:
            yield f"{hung_up} hang-ups and {moved} transfers took effect"
    if cell.end == "caller" and (asked or moved) and not cell.crash:
        yield f"{asked} hang-ups asked for, of a call that was over"
    if cell.end in _GOODBYE and not cell.crash and cell.fake is not None:
        heard = cell.heard_at_end_s if cell.heard_at_end_s is not None else cell.fake.playout.played_s
        if heard < WORD_S - 0.03:
            yield f"only {heard:.2f} s of {WORD_S:g} s were heard"
    if record is None:
        yield "no record"
        return
    if record.ended is None or record.standing in (Standing.LIVE, Standing.EXPECTED):
        yield f"its record has no end ({record.standing.value})"
    if record.hang_up in (HangUp.PENDING, HangUp.FAILED):
        yield f"its hang-up is {record.hang_up.value}"
    if not cell.crash:
        yield from _record_of_an_ordinary_end(cell, record, hung_up)


def _record_of_an_ordinary_end(cell: Cell, record: StoredCall, hung_up: int) -> Iterator[str]:
    by, reason = _BY.get(cell.end, ("", ""))
    if cell.end == "transfer" and cell.name == "genesys":
        reason = "transfer-unavailable"  # its flow decides, by what the bot has left in the variables
    if by and (record.ended_by, record.reason) != (by, reason):
        yield f"ended by {record.ended_by!r} for {record.reason!r}, not by {by!r} for {reason!r}"
    if cell.end in ("caller", "carrier") and record.ended_by not in ("caller", "carrier"):
        yield f"ended by {record.ended_by!r}"
    # Plivo and Vonage end calls by closing the socket: what broke counts as closed, and is looked into all the same.
    if cell.end == "lost" and record.reason != ("caller" if cell.name in ("plivo", "vonage") else "socket-lost"):
        yield f"reason {record.reason!r} of a lost socket"
    expected, left = {HangUp.NONE}, {HangUp.LEFT_TO_CARRIER}
    if cell.by_rest:
        ended_here = {HangUp.DONE, HangUp.ALREADY_OVER}
        expected = {
            "caller": {HangUp.NONE},
            "carrier": {HangUp.NONE, HangUp.ALREADY_OVER},
            "transfer": {HangUp.LEFT_TO_CARRIER} if cell.fault not in _NO_TRANSFER else {*ended_here, *left},
        }.get(cell.end, ended_here)
    elif cell.end == "transfer":
        expected = {HangUp.NONE, HangUp.LEFT_TO_CARRIER}
    if record.hang_up not in expected:
        yield f"its hang-up is {record.hang_up.value}"
    handed_over = cell.end == "transfer" and cell.by_rest and cell.fault not in _NO_TRANSFER
    to = [target.lstrip("+") for target in cell.call.handed_to] if cell.call is not None else []
    if handed_over and to != [TARGET.lstrip("+")]:
        yield f"handed over to {len(to)}, not to the target"
