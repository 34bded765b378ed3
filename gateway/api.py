"""The control API: HTTP in front of gateway/control.py, with an OpenAPI document at /api/openapi.json.

Bearer tokens with scopes (`[api.tokens.<name>]`): "read" looks, "listen" hears what is said, "control" ends, hands over
and sends digits, "dial" places calls, "admin" drains and reloads. Without any token configured only this machine may
ask: the peer and the Host must both be loopback addresses, nothing may have been forwarded, and no page of another site
may be behind it.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
import structlog
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Path, Query, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.routing import BaseRoute, Route

from gateway.control import CallDesk, ControlError, Order, view_record, view_transcript
from gateway.public_url import is_loopback_host
from gateway.settings import Settings
from gateway.store import CallFilter, CallKey, Standing, StoreError
from gateway.watching.sockets import Watching
from webhooks.base import Urls

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.api")

SCOPES = ("read", "listen", "control", "dial", "admin")
MAX_BODY = 64 * 1024
BODY_S = 5.0  # for a whole body to arrive

Carrier = Annotated[str, Path(pattern=r"^[a-z][a-z0-9_]{0,31}$", description="twilio, telnyx, plivo, ...")]
CallId = Annotated[str, Path(pattern=r"^[!-$&-.0-~]{1,200}$", description="the carrier's own id of the call")]
Number = Annotated[str, Field(pattern=r"^[+0-9A-Za-z:@._~=\-]{1,128}$", examples=["+15550100"])]


def _whole(value: Any) -> Any:
    """45.0 is a whole number in JSON."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


_Whole = BeforeValidator(_whole)


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class End(_Body):
    reason: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")] = "api"


class TransferTo(_Body):
    target: Number


class Digits(_Body):
    digits: Annotated[str, Field(pattern=r"^[0-9*#A-D]{1,64}$")]


class WatchOrder(_Body):
    scope: Literal["listen", "control"] = "listen"
    audio: Annotated[
        Literal["none", "mixed", "stereo"], Field(description="of both sides; stereo: the caller left")
    ] = "none"
    rate: Annotated[Literal[24000, 0], Field(description="Hz; 0: as on the wire"), _Whole] = 24000
    format: Annotated[Literal["protobuf", "json"], Field(description="as Pipecat's clients have it, or text")] = (
        "protobuf"
    )
    logs: Annotated[bool, Field(description="the bot's log lines too")] = False


class Dial(_Body):
    carrier: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
    to_number: Number
    from_number: Number
    bot: Annotated[str, Field(max_length=64, description="default: the bot of from_number")] = ""
    ring_s: Annotated[int, Field(ge=5, le=120), _Whole] = 45
    longest_s: Annotated[int, Field(ge=10, le=86_400), _Whole] | None = None
    detect_machine: bool = False
    parameters: Annotated[dict[str, Annotated[str, Field(max_length=2000)]], Field(max_length=20)] = {}


class Taken(BaseModel):
    """It is being done."""

    carrier: str
    call_id: str


class WatchAddress(BaseModel):
    """Where to connect to watch a call: once, within a minute. Pipecat's clients take it as it is."""

    wsUrl: str


class Timeline(BaseModel):
    """What has happened in a live call so far."""

    carrier: str
    call_id: str
    state: str
    bot: str
    duration_s: float
    events: Annotated[
        list[dict[str, Any]],
        Field(description="each has `t`, seconds of the call, and `what`; `on` where something begins or ends"),
    ]


class Problem(BaseModel):
    """What was wrong, in words."""

    detail: str


class LiveCall(BaseModel):
    carrier: str
    call_id: str
    state: str
    bot: str
    direction: str
    from_number: str
    to_number: str
    answered_by: str
    duration_s: float
    counters: dict[str, int]
    last_event: Annotated[dict[str, Any] | None, Field(description="of its timeline, marks left out")]


class CallRecord(BaseModel):
    carrier: str
    call_id: str
    standing: str
    live: bool
    bot: str
    direction: str
    from_number: str
    to_number: str
    created: float
    answered: float | None
    ended: float | None
    duration_s: float | None
    ended_by: str
    reason: str
    phase: str | None
    cause: str
    answered_by: str
    stream_problem: Annotated[str, Field(description="why the carrier could not open or keep the media socket")]
    hang_up: str
    hang_up_attempts: int
    counters: dict[str, int]
    variables: dict[str, Any]


class Said(BaseModel):
    """One utterance."""

    t: Annotated[float, Field(description="seconds since the call's socket came")]
    who: Literal["caller", "bot"]
    text: str


class CallDetails(CallRecord):
    transcript: Annotated[list[Said], Field(description="of a call that is over, where it is kept")]


class LiveCalls(BaseModel):
    calls: list[LiveCall]


class CallRecords(BaseModel):
    calls: list[CallRecord]
    next: Annotated[str, Field(description="give it as `after` to go on; empty: there is no more")]


class Mistake(BaseModel):
    """What is wrong with the configuration's file, where, and what to do about it."""

    path: str
    problem: str
    remedy: str


class Reloaded(BaseModel):
    """What came of reading the configuration again."""

    taken: Annotated[bool, Field(description="false: the file is wrong, and the configuration before it stays")]
    at: Annotated[float, Field(description="Unix seconds")]
    why: Annotated[str, Field(description="api, signal or file")]
    errors: list[Mistake]
    warnings: list[str]
    prepared: Annotated[list[str], Field(description="bots that were prepared anew")]
    restart: Annotated[list[str], Field(description="settings that were changed and take a new start")]


class Answers(BaseModel):
    """Who answers a number."""

    bot: str
    hours: Annotated[str, Field(description="of [schedules]: outside of them it is `closed`")]
    closed: str
    share: Annotated[dict[str, float], Field(description="bot: percent of the calls that it has in place of `bot`")]
    language: str


class Configuration(BaseModel):
    """The configuration that new calls get."""

    number: Annotated[int, Field(description="counts the configurations of this process")]
    since: Annotated[float, Field(description="Unix seconds")]
    file: str
    bots: list[str]
    numbers: list[str]
    answers: Annotated[dict[str, Answers], Field(description="for each of `numbers`")]
    carriers: list[str]
    carriers_off: dict[str, str]
    warnings: list[str]
    calls: Annotated[dict[int, int], Field(description="live calls by the number of their configuration")]
    last_reload: Reloaded | None


class Draining(BaseModel):
    live: Annotated[int, Field(description="calls that are still up")]


class Scopes(BaseModel):
    """What the asker may do."""

    scopes: list[str]


class Rule(BaseModel):
    key: str
    matched: bool
    why: str


class Routed(BaseModel):
    bot: str | None
    rule: str | None
    why: str
    considered: list[Rule]


class CarrierHealth(BaseModel):
    """Counts since the process began."""

    carrier: str
    on: bool
    begun: int
    turned_away: int
    not_authentic: Annotated[int, Field(description="webhooks and sockets whose signature did not verify")]


class Health(BaseModel):
    now: dict[str, int | float | bool]
    points: Annotated[list[dict[str, float]], Field(description="every ten seconds of the last hour")]
    carriers: list[CarrierHealth]
    reasons: Annotated[dict[str, int], Field(description="why callers were turned away")]


# ---------------------------------------------------------------- who may


class Gatekeeper:
    """Tells who asks, by the bearer token or by being this machine."""

    def __init__(self, settings: Callable[[], Settings]) -> None:
        self._settings = settings
        self._read: Settings | None = None  # whose tokens these are; a reload brings others
        self._trusts_loopback = False
        self._tokens: list[tuple[bytes, frozenset[str]]] = []
        self._renew()

    def _renew(self) -> None:
        settings = self._settings()
        if settings is not self._read:
            tokens = [
                (one.secret.reveal().encode(), frozenset[str](one.scopes)) for one in settings.api.tokens.values()
            ]
            self._read, self._trusts_loopback, self._tokens = settings, settings.trusts_loopback, tokens

    def scopes_of(self, request: Request, bearer: str | None) -> frozenset[str]:
        """What the asker may do. HTTPException 401 for nobody."""
        self._renew()
        if bearer is not None:
            found: frozenset[str] | None = None
            for secret, scopes in self._tokens:
                if hmac.compare_digest(secret, bearer.encode("utf-8", "replace")):  # all are compared: no timing
                    found = scopes
            if found is not None:
                return found
        elif self._trusts_loopback and is_local(request.scope):
            return frozenset(SCOPES)
        raise HTTPException(401, "a bearer token is needed", headers={"www-authenticate": "Bearer"})


def is_local(scope: Mapping[str, Any]) -> bool:
    """Whether a request comes from this machine and was meant for it, through no proxy and from no other site's page.

    A browser on this machine sends what any page tells it to, and says so in Origin and Sec-Fetch-Site.
    """
    headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
    if any(name.startswith(b"x-forwarded-") or name in (b"forwarded", b"via", b"x-real-ip") for name in headers):
        return False
    host = headers.get(b"host", "")
    origin = headers.get(b"origin")
    if origin is not None and origin.partition("://")[2] != host:
        return False
    if headers.get(b"sec-fetch-site", "none") not in ("none", "same-origin"):
        return False
    return is_loopback_host(host) and is_loopback_host((scope.get("client") or ("", 0))[0])


_bearer = HTTPBearer(auto_error=False, description="a token of [api.tokens.<name>]")


def _needs(scope: str, keeper: Gatekeeper) -> Callable[..., Awaitable[None]]:
    async def check(
        request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)] = None
    ) -> None:
        scopes = keeper.scopes_of(request, credentials.credentials if credentials is not None else None)
        if scope not in scopes:
            raise HTTPException(403, f"this token lacks the scope {scope!r}")

    return check


def methods_of(routes: Sequence[BaseRoute], path: str) -> set[str]:
    """The methods that some route has for `path`."""
    found: set[str] = set()
    for route in routes:
        if isinstance(route, Route) and route.path_regex.match(path):
            found |= route.methods or set()
    return found


class BodyLimit:
    """ASGI middleware: a body is read before anybody has asked who sends it, so it must be short and quick."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body, more = bytearray(), True
        try:
            async with asyncio.timeout(BODY_S):
                while more and len(body) <= MAX_BODY:
                    message = await receive()
                    if message["type"] != "http.request":
                        return  # gone
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
        except TimeoutError:
            await JSONResponse({"detail": "the body did not come in time"}, 408)(scope, receive, send)
            return
        if len(body) > MAX_BODY:
            answer = JSONResponse({"detail": f"a body has {MAX_BODY} bytes at most"}, 413, {"connection": "close"})
            await answer(scope, receive, send)
            return
        whole = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def read() -> Any:
            return whole.pop() if whole else await receive()

        await self._app(scope, read, send)


# ---------------------------------------------------------------- what is asked

_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "the body is no text"},
    401: {"model": Problem, "description": "no token, or an unknown one"},
    403: {"model": Problem, "description": "the token lacks the scope"},
    404: {"model": Problem, "description": "there is no such call or carrier"},
    408: {"model": Problem, "description": "the body did not come in time"},
    409: {"model": Problem, "description": "the carrier cannot do that"},
    413: {"model": Problem, "description": "the body is too long"},
    422: {"model": Problem, "description": "something in the request is not as it must be"},
    502: {"model": Problem, "description": "the carrier refused or did not answer"},
    504: {"model": Problem, "description": "the carrier has not answered; what was asked may happen all the same"},
    503: {"model": Problem, "description": "full, draining, or the store is busy"},
}


def create_api(
    desk: CallDesk,
    watching: Watching,
    settings: Callable[[], Settings],
    urls: Callable[[Mapping[str, Any]], Urls],
) -> FastAPI:
    """The API as an ASGI application, to be mounted at /api."""
    keeper = Gatekeeper(settings)
    api = FastAPI(title="telephony-gateway", version="1", docs_url=None, redoc_url=None, responses=_ERRORS)
    read, listen, control, dial, admin = (Depends(_needs(scope, keeper)) for scope in SCOPES)
    may_control = _needs("control", keeper)
    api.add_middleware(BodyLimit)
    calls = APIRouter(prefix="/calls", tags=["calls"])

    @api.exception_handler(RequestValidationError)
    async def unfit(request: Request, exc: Exception) -> JSONResponse:
        """Where, and what is wanted there; not what was sent."""
        assert isinstance(exc, RequestValidationError)
        found = [f"{'.'.join(str(part) for part in error['loc'])}: {error['msg']}" for error in exc.errors()]
        return JSONResponse({"detail": "; ".join(found[:10])}, 422)

    @api.exception_handler(StarletteHTTPException)
    async def refused(request: Request, exc: Exception) -> JSONResponse:
        """As FastAPI answers, but of a path that has several methods Allow names all."""
        assert isinstance(exc, StarletteHTTPException)
        headers = {name.lower(): value for name, value in (exc.headers or {}).items()}
        if exc.status_code == 405:
            path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
            headers["allow"] = ", ".join(sorted(methods_of((*api.routes, *calls.routes), path)))
        return JSONResponse({"detail": exc.detail}, exc.status_code, headers)

    @api.exception_handler(ControlError)
    async def cannot(request: Request, exc: Exception) -> JSONResponse:
        assert isinstance(exc, ControlError)
        return JSONResponse({"detail": str(exc)}, exc.status)

    @api.exception_handler(StoreError)
    async def busy(request: Request, exc: Exception) -> JSONResponse:
        log.error("api.store_failed", problem=str(exc))
        return JSONResponse({"detail": "the store is busy"}, 503, {"retry-after": "1"})

    @calls.get("/live", dependencies=[read], response_model=LiveCalls)
    async def live() -> Response:
        """The calls that are up, oldest first."""
        # Consoles ask again and again: hundreds of calls are not checked one by one on their way out.
        return Response(msgspec.json.encode({"calls": await desk.live()}), media_type="application/json")

    @calls.get("", dependencies=[read])
    async def records(
        carrier: Annotated[str, Query(max_length=32)] = "",
        bot: Annotated[str, Query(max_length=64)] = "",
        number: Annotated[str, Query(max_length=128)] = "",
        standing: Annotated[list[Standing] | None, Query()] = None,
        since: Annotated[float | None, Query(ge=0, le=1e11, allow_inf_nan=False)] = None,
        until: Annotated[float | None, Query(ge=0, le=1e11, allow_inf_nan=False)] = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
        after: Annotated[str, Query(max_length=200)] = "",
    ) -> CallRecords:
        """Records of calls, newest first."""
        which = CallFilter(
            carrier=carrier, bot=bot, number=number, standing=tuple(standing or ()), since=since, until=until
        )
        page = await desk.records(which, limit=limit, after=after)
        return CallRecords.model_validate({"calls": [view_record(one) for one in page.calls], "next": page.next})

    @calls.get("/{carrier}/{call_id}", dependencies=[read])
    async def record(carrier: Carrier, call_id: CallId) -> CallDetails:
        """The record of one call, live or over."""
        key = CallKey(carrier, call_id)
        shown = view_record(await desk.record(key))
        return CallDetails.model_validate({**shown, "transcript": view_transcript(await desk.transcript(key))})

    @calls.post("", status_code=201, dependencies=[dial])
    async def place(order: Dial, request: Request) -> Taken:
        """Place a call. The answer comes when the carrier has taken the order, not when somebody has picked up."""
        key = await desk.place(Order(**order.model_dump()), urls(request.scope))
        return Taken(carrier=key.carrier, call_id=key.call_id)

    @calls.post("/{carrier}/{call_id}/end", status_code=202, dependencies=[control])
    async def end(carrier: Carrier, call_id: CallId, body: End | None = None) -> Taken:
        """End a live call when what is queued for the caller was heard."""
        await desk.end(CallKey(carrier, call_id), (body or End()).reason)
        return Taken(carrier=carrier, call_id=call_id)

    @calls.post("/{carrier}/{call_id}/transfer", status_code=202, dependencies=[control])
    async def transfer(carrier: Carrier, call_id: CallId, body: TransferTo) -> Taken:
        """Hand the caller over to a number, a SIP URI or a flow."""
        await desk.transfer(CallKey(carrier, call_id), body.target)
        return Taken(carrier=carrier, call_id=call_id)

    @calls.post("/{carrier}/{call_id}/digits", status_code=202, dependencies=[control])
    async def digits(carrier: Carrier, call_id: CallId, body: Digits) -> Taken:
        """Send DTMF digits into a live call."""
        await desk.send_digits(CallKey(carrier, call_id), body.digits)
        return Taken(carrier=carrier, call_id=call_id)

    @calls.get("/{carrier}/{call_id}/timeline", dependencies=[read])
    async def timeline(carrier: Carrier, call_id: CallId) -> Timeline:
        """What has happened in a live call so far; it has no words."""
        return Timeline.model_validate(await watching.timeline(CallKey(carrier, call_id)))

    @calls.post("/{carrier}/{call_id}/rtvi", dependencies=[listen])
    async def watch(
        carrier: Carrier,
        call_id: CallId,
        request: Request,
        body: WatchOrder | None = None,
        credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)] = None,
    ) -> WatchAddress:
        """Where to watch a live call, and to act on it with the scope `control`."""
        order = body or WatchOrder()
        if order.scope == "control":
            await may_control(request, credentials)
        address = await watching.address(
            CallKey(carrier, call_id),
            urls(request.scope).base,
            may_control=order.scope == "control",
            format=order.format,
            audio="" if order.audio == "none" else order.audio,
            rate=order.rate,
            logs=order.logs,
        )
        return WatchAddress(wsUrl=address)

    @api.get("/configuration", dependencies=[read], tags=["gateway"])
    async def configuration() -> Configuration:
        """The configuration that new calls get, and what came of the last reload."""
        return Configuration.model_validate(desk.configuration())

    @api.get("/route", dependencies=[read], tags=["gateway"])
    async def route(
        number: Annotated[str, Query(min_length=1, max_length=128)],
        carrier: Annotated[str, Query(min_length=1, max_length=32)],
    ) -> Routed:
        """Which bot would answer a call to that number now, and why: every rule in the order in which it counts."""
        return Routed.model_validate(desk.route(carrier, number))

    @api.get("/scopes", tags=["gateway"])
    async def scopes(
        request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)] = None
    ) -> Scopes:
        """What this token, or this machine without one, may do."""
        found = keeper.scopes_of(request, credentials.credentials if credentials is not None else None)
        return Scopes(scopes=sorted(found))

    @api.get("/health", dependencies=[read], tags=["gateway"])
    async def health() -> Health:
        """How the process is now, and a point every ten seconds of its last hour."""
        return Health.model_validate(desk.health())

    @api.post(
        "/reload",
        dependencies=[admin],
        tags=["gateway"],
        responses={422: {"model": Reloaded, "description": "the file is wrong: the configuration before it stays"}},
    )
    async def reload(response: Response) -> Reloaded:
        """Read the configuration again. New calls get it; live ones keep what they have."""
        came_of_it = Reloaded.model_validate(await desk.reload())
        if not came_of_it.taken:
            response.status_code = 422
        return came_of_it

    @api.post("/drain", status_code=202, dependencies=[admin], tags=["gateway"])
    async def drain() -> Draining:
        """Refuse new calls and let live ones end. There is no way back but a new start."""
        return Draining(live=await desk.drain())

    api.include_router(calls)
    return api
