"""All the doctor does, in its order: the way, the public URL, each carrier's webhook and socket, credentials."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

import httpx

from gateway import registry
from gateway.carrier_api import GatewayProblem, http_headers
from gateway.doctor.judge import Finding, Level, clock, judge, verdict
from gateway.doctor.passes import FIELD, HEADER, VALID_S, Passes
from gateway.doctor.visits import (
    NOTE,
    ODD_PATH,
    Account,
    Exchange,
    SocketVisit,
    Visitor,
    accounts,
    by_account,
    date_in,
    handshake,
    signed_webhook,
)
from gateway.doctor.way import WHERE, explore
from gateway.settings import Settings
from media.errors import ConfigError
from webhooks.base import CallRef, CarrierHttp

NOBODY = "00000000-0000-4000-8000-000000000000"  # an id that no call has
_CONTENT = ("body", "query", "header")  # the beginnings of codes
_OF_EACH = frozenset({"upgrade", "socket-silent", "webhook-lost"})  # said of each: a proxy may treat their paths apart
SLOW_MS = 300.0  # for a message to go to the gateway and back


class Examination:
    """One run of the doctor. `findings` grows; what was said once is not said again."""

    def __init__(
        self,
        settings: Settings,
        secret: str,
        base: str,
        *,
        only: Collection[str] = (),
        with_credentials: bool = False,
        hold_s: float = 0.0,
        timeout_s: float = 10.0,
    ) -> None:
        self.findings: list[Finding] = []
        self._settings, self._base, self._only = settings, base.rstrip("/"), only
        self._passes = Passes(secret)
        self._with_credentials, self._hold_s, self._timeout_s = with_credentials, hold_s, timeout_s
        self._said: set[tuple[str, str, str]] = set()
        self._gateway_ahead_s: float | None = None  # of this machine's clock
        self._running: Collection[str] = ()  # carriers that are on in the running gateway

    @property
    def ok(self) -> bool:
        return not any(finding.level == "failure" for finding in self.findings)

    def _found(self, *findings: Finding) -> None:
        for finding in findings:
            # What is wrong on the way is wrong for all; what a carrier's REST interface says is each one's own.
            key = (finding.code, finding.says, finding.where if finding.where.endswith("REST") else "")
            if key in self._said and finding.code in _OF_EACH:
                self.findings.append(replace(finding, remedy="see above"))
            elif finding.level == "good" or key not in self._said:
                self._said.add(key)
                self.findings.append(finding)

    def _say(self, level: Level, where: str, code: str, says: str, remedy: str = "") -> None:
        self._found(Finding(level=level, where=where, code=code, says=says, remedy=remedy))

    async def run(self) -> None:
        for name, why in self._settings.carriers_off.items():
            if not self._only or name in self._only:
                self._say("note", name, "carrier-off", f"off in this configuration: {why}")
        way = await explore(self._base, self._timeout_s)
        self._found(*way.findings)
        if way.open:
            async with Visitor(self._base, self._passes, way.ssl, self._timeout_s) as visitor:
                if await self._public_url(visitor):
                    for name, own in self._settings.carriers.items():
                        if not self._only or name in self._only:
                            await self._carrier(visitor, name, own)
        if self._with_credentials:
            for name, own in self._settings.carriers.items():
                if not self._only or name in self._only:
                    await self._credentials_of(name, own)

    # ------------------------------------------------------------ the public URL

    async def _public_url(self, visitor: Visitor) -> bool:
        """Whether a gateway is there that knows us."""
        # Below a carrier's path: a careful proxy lets nothing else through.
        below = f"{self._base}/{next(iter(self._settings.carriers), 'gateway')}"
        url, visit = f"{below}/doctor", visitor.issue()
        by_header = await visitor.ask(WHERE, "GET", url, headers={HEADER: visit})
        by_query = await visitor.ask(WHERE, "GET", f"{url}?{NOTE}&{FIELD}={visit}")
        if by_header.seen is None and by_query.seen is None:
            by_path = await visitor.ask(WHERE, "GET", f"{url}/{visit}")
            if by_path.seen is None:
                health = await visitor.ask(WHERE, "GET", f"{self._base}/health")
                socket = await visitor.ask(WHERE, "GET", f"{below}/media/doctor")
                self._found(_nobody(by_header, health, socket, self._base))
                return False
            remedy = "let the proxy pass on all headers and the whole query"
            self._say("failure", WHERE, "header-dropped", f"headers do not arrive: {HEADER}", remedy)
            self._say("failure", WHERE, "query-dropped", "the query is dropped", remedy)
            self._met(by_path)
            return True
        if by_header.seen is not None:
            self._met(by_header)
            if by_query.seen is None:
                remedy = "hand on the query as it came: in nginx, $request_uri"
                self._say("failure", WHERE, "query-dropped", "the query is dropped", remedy)
        else:
            remedy = "let the proxy pass on all headers, whatever their names: signatures are in such headers"
            self._say("failure", WHERE, "header-dropped", f"headers do not arrive: {HEADER}", remedy)
        if by_query.seen is not None:
            self._met(by_query)
        odd = await visitor.ask(WHERE, "GET", f"{below}/{ODD_PATH}", headers={HEADER: visit})
        if odd.seen is not None:
            # No URL that we hand out has such characters: it matters as soon as somebody's own has.
            found = judge(odd.sent, odd.seen, self._base)
            self._found(*(replace(each, level=_at_most(each.level, "warning")) for each in found))
        return True

    def _met(self, exchange: Exchange) -> None:
        seen = exchange.seen
        assert seen is not None
        self._running = seen["gateway"]["carriers"]
        self._gateway_ahead_s = seen["time"] - exchange.sent.at
        found = list(judge(exchange.sent, seen, self._base))
        self._found(*found)
        if not any(finding.level == "failure" for finding in found) and not self._said & {("reached", "", "")}:
            self._said.add(("reached", "", ""))
            says = f"a gateway (version {seen['gateway']['version']}) gets requests as they are sent"
            self._say("good", WHERE, "reached", says)

    # ------------------------------------------------------------ a carrier

    async def _carrier(self, visitor: Visitor, name: str, own: Any) -> None:
        if name not in self._running:
            says = "on in this configuration, but off in the running gateway"
            self._say("failure", name, "carrier-off-there", says, "start the gateway again; its log says why it is off")
            return
        try:
            mine = list(accounts(name, own))
        except ConfigError as exc:
            self._say("failure", name, "settings", str(exc))
            return
        if not mine:
            self._say("failure", name, "settings", "there are no keys", f"add [carriers.{name}.keys.<name>]")
        for account in mine:
            await self._webhook(visitor, account)
            await self._socket(visitor, account)
        self._rest(name, own)

    def _rest(self, name: str, own: Any) -> None:
        """Whether calls can be ended by request, as far as the settings tell."""
        try:
            lacks = registry.carrier_side(name, own).rest_lacks
        except ConfigError:
            return  # said by the verdict on its webhook
        if lacks:
            are = "are not set" if len(lacks) > 1 else "is not set"
            says = f"{' and '.join(lacks)} {are}: the gateway cannot ask {name} to end, transfer or place calls"
            self._say("warning", f"{name} REST", "no-rest", says, f"set {'both' if len(lacks) > 1 else 'it'}")

    async def _webhook(self, visitor: Visitor, account: Account) -> None:
        web = account.web(self._base)
        if web is None:
            return
        visit = visitor.issue(account.overrides(web))
        exchange = await visitor.webhook(f"{account.label} webhook", signed_webhook(web, visit), visit)
        if exchange.seen is None:
            self._found(_lost(exchange))
            return
        self._weigh(exchange)

    async def _socket(self, visitor: Visitor, account: Account) -> None:
        web = account.web(self._base)
        visit, where = visitor.issue(account.overrides(web)), f"{account.label} socket"
        url = f"{self._base.replace('http', 'ws', 1)}/{account.carrier}/media/{visit}"
        found = await visitor.socket(where, url, handshake(account, web, url), visit, self._hold_s)
        if found.status != 101:
            self._found(_not_upgraded(found))
            return
        if found.seen is None:
            remedy = "look at what the proxy does with WebSockets"
            says = f"it opens, but nothing comes from the gateway: {found.problem or 'something else answers'}"
            self._say("failure", where, "socket-silent", says, remedy)
            return
        self._weigh(found)
        self._found(*_messages(found, self._hold_s))

    def _weigh(self, exchange: Exchange) -> None:
        assert exchange.seen is not None
        found = list(judge(exchange.sent, exchange.seen, self._base))
        weighed = verdict(exchange.sent, exchange.seen, any(finding.level == "failure" for finding in found))
        if weighed.level == "good":  # this carrier's signature does not mind; another's, or a later one, may
            found = [
                replace(one, level=_at_most(one.level, "warning")) if one.code.startswith(_CONTENT) else one
                for one in found
            ]
        self._found(*found)
        self.findings.append(weighed)

    # ------------------------------------------------------------ credentials

    async def _credentials_of(self, name: str, own: Any) -> None:
        try:
            each = list(by_account(name, own))
        except ConfigError as exc:
            self._say("failure", f"{name} REST", "settings", str(exc))
            return
        for label, settings in each:
            await self._credentials(name, settings, f"{label} REST")

    async def _credentials(self, name: str, own: Any, where: str) -> None:
        """Ask the carrier for a call that does not exist: whoever is told so was let in."""
        try:
            http: CarrierHttp = registry.carrier_http(name)(own)
            account = getattr(own, "account_sid", "") or getattr(own, "account_id", "")
            request = http.fetch(CallRef(carrier=name, call_id=NOBODY, account_id=account))
            if request is None:
                if not http.rest_lacks:  # said already
                    says = "no question can be asked of it: it has no REST interface, or its credentials are not set"
                    self._say("note", where, "not-tried", says)
                return
            headers = {**request.headers, **http_headers(request)}
        except (ConfigError, GatewayProblem) as exc:
            self._say("failure", where, "settings", str(exc))
            return
        if not http.may_send_to(request.url):
            self._say("failure", where, "host", "credentials may not go to the host that the settings make up")
            return
        began = time.time()
        try:
            async with httpx.AsyncClient(timeout=self._timeout_s) as client:
                reply = await client.request(request.method, request.url, headers=headers, json=request.json)
        except httpx.HTTPError as exc:
            remedy = "the gateway must reach the carrier to end calls: check firewall and proxy"
            self._say("failure", where, "unreachable", f"no answer from it: {type(exc).__name__}", remedy)
            return
        took = time.time() - began
        self._found(_let_in(where, reply.status_code))
        date = date_in(reply.headers)
        if date is not None and self._gateway_ahead_s is not None:
            ahead = self._gateway_ahead_s - (date - (began + took / 2))
            self._found(*clock(where, ahead, took + 1.0, "the carrier's"))


# ---------------------------------------------------------------- what an answer means


def _nobody(visit: Exchange, health: Exchange, socket: Exchange, base: str) -> Finding:
    """Nobody knew the doctor: who answers there?"""
    status = visit.status
    if visit.problem:
        return _failure("no-answer", visit.problem, "is the proxy up?")
    if 300 <= status < 400:
        says = f"it answers with a redirect to {visit.headers.get('location', '')[:100]!r}"
        return _failure("redirect", says, "paste the URL at which the gateway itself answers: carriers sign that one")
    is_gateway = health.body.startswith(b'{"status":"ok"') or socket.body.startswith(b"this is a media WebSocket")
    if is_gateway and status == 500:
        return _failure("gateway-failed", "the gateway answers HTTP 500", "its log says why")
    if is_gateway:
        date = date_in(visit.headers)
        off = "" if date is None else _off_by(date - visit.sent.at)
        says = f"a gateway answers, but it does not know this configuration's gateway.secret{off}"
        return _failure("secret", says, "run the doctor with the file and the environment of the running gateway")
    if status in (502, 503, 504):
        says = f"the proxy answers HTTP {status}: it does not reach the gateway"
        return _failure("upstream", says, "is the gateway up, and does the proxy know its host and port?")
    if status in (401, 403, 407):
        says = f"something before the gateway asks who is there (HTTP {status})"
        return _failure("login", says, "carriers cannot log in: let these paths pass without")
    kind = visit.headers.get("content-type", "").partition(";")[0]
    server = f" by {visit.headers['server'][:40]}" if "server" in visit.headers else ""
    says = f"what answers{server} is no gateway: HTTP {status}" + (f", {kind}" if kind else "")
    remedy = f"is {base} where the proxy hands requests on to the gateway? mind the path" if visit.status == 404 else ""
    return _failure("not-a-gateway", says, remedy or "point the proxy, or the public URL, at the gateway")


def _off_by(seconds: float) -> str:
    return f", or its clock is {abs(seconds) / 60:.0f} minutes off" if abs(seconds) > VALID_S else ""


def _lost(exchange: Exchange) -> Finding:
    """A webhook that was answered by somebody else, or by the gateway to a stranger."""
    where, status = exchange.sent.where, exchange.status
    if exchange.problem:
        says, remedy = exchange.problem, "look at the proxy's log"
    elif 300 <= status < 400:
        says = f"it is answered with a redirect to {exchange.headers.get('location', '')[:100]!r}"
        remedy = "take the redirect out: what a carrier has signed is for one URL"
    elif status in (400, 403, 404, 405):
        says = f"it does not reach the gateway as it was sent: HTTP {status}"
        remedy = "let the proxy hand on this path, with POST, all headers and the query"
    else:
        says, remedy = f"somebody else answers it: HTTP {status}", "look at the proxy's rules for this path"
    return Finding(level="failure", where=where, code="webhook-lost", says=says, remedy=remedy)


def _not_upgraded(found: SocketVisit) -> Finding:
    remedy = "let the proxy pass on WebSockets: in nginx, proxy_http_version 1.1 and the headers Upgrade and Connection"
    if found.seen is not None or found.status == 426:
        says = "the upgrade is not passed on: it arrives as a plain GET"
    elif found.problem:
        says = f"no WebSocket can be opened: {found.problem}"
    elif 300 <= found.status < 400:
        says = f"the upgrade is answered with a redirect to {found.headers.get('location', '')[:100]!r}"
    else:
        says = f"the upgrade is refused on the way: HTTP {found.status}"
    return Finding(level="failure", where=found.sent.where, code="upgrade", says=says, remedy=remedy)


def _messages(found: SocketVisit, hold_s: float) -> Iterator[Finding]:
    where = found.sent.where
    if not found.held and hold_s:
        says = f"a socket on which nothing is said does not last {hold_s:g} s: {found.problem}"
        remedy = "raise the proxy's idle time-out over the longest silence: in nginx, proxy_read_timeout"
        yield Finding(level="failure", where=where, code="idle", says=says, remedy=remedy)
    elif not (found.text_back and found.binary_back):
        lost = "binary" if found.text_back else "text"
        says = f"{lost} messages do not come back: {found.problem or 'changed on the way'}"
        remedy = "look at what the proxy does with WebSockets"
        yield Finding(level="failure", where=where, code="messages", says=says, remedy=remedy)
    elif found.round_trip_ms > SLOW_MS:
        says = f"a message takes {found.round_trip_ms:.0f} ms there and back: callers will hear that"
        yield Finding(level="warning", where=where, code="slow", says=says)


def _let_in(where: str, status: int) -> Finding:
    if status in (401, 403):
        remedy = "copy the credentials from the carrier's console once more"
        says = f"the carrier refuses the credentials: HTTP {status}"
        return Finding(level="failure", where=where, code="credentials", says=says, remedy=remedy)
    if status == 429 or status >= 500:
        says = f"the carrier is busy: HTTP {status}"
        return Finding(level="warning", where=where, code="busy", says=says, remedy="try again")
    return Finding(level="good", where=where, code="credentials", says="the carrier takes the credentials")


def _at_most(level: Level, limit: Level) -> Level:
    order: Sequence[Level] = ("good", "note", "warning", "failure")
    return level if order.index(level) <= order.index(limit) else limit


def _failure(code: str, says: str, remedy: str) -> Finding:
    return Finding(level="failure", where=WHERE, code=code, says=says, remedy=remedy)
