"""A strict fake of Vonage's HTTP side: signed webhooks, NCCOs, events of both legs, and the REST of Voice and Video.

Source: Vonage Voice API, "Webhook reference", "NCCO reference", "Signed webhooks", API reference; Video API, "Audio
Connector".
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal
from urllib.parse import parse_qsl, unquote

from gateway.simulator.base import CallPlan, ProtocolViolation
from gateway.simulator.vonage_ncco import FOLLOWED, IDLE, Checks, JsonObject
from gateway.simulator.vonage_tokens import hs256, hs256_claims, made_up_key, rs256_claims
from gateway.simulator.web import (
    FakeWeb,
    Handler,
    Reply,
    RestRefusal,
    RestReply,
    RestRequest,
    Stage,
    Tampering,
    WebCall,
    Webhook,
    json_webhook,
)

AGAIN = (429, 503, 504)  # for these a webhook is tried twice, as for no answer
REGION = "https://api-eu-3.vonage.com"
_LONGEST_TOKEN_S = 86_400


@dataclass(slots=True)
class _Running:
    """What one call has been told."""

    conversation: str = field(default_factory=lambda: f"CON-{uuid.uuid4()}")
    actions: list[JsonObject] = field(default_factory=list)  # still to be carried out
    connect: JsonObject = field(default_factory=dict)  # that runs: to a socket
    socket: str = ""  # the uuid of the socket's leg
    next: list[JsonObject] | str = ""  # of a REST transfer, for when the stream is over: an NCCO, or a URL
    events: tuple[str, str] = ("", "POST")  # where the phone leg's events go: URL and method
    answer: tuple[str, str] = ("", "POST")
    detection: JsonObject = field(default_factory=dict)  # behavior, mode
    session: str = ""  # of a video session
    tried: int = 0
    held: Webhook | None = None  # an event that comes late


class FakeVonageWeb(FakeWeb):
    """An account at Vonage with one application; or an old OpenTok project.

    Credentials: `api_key` and `signature_secret`; `application_id` and `private_key` (PEM); of a project `api_key`
    and `api_secret`.

    Args:
        status_url: the application's event URL; default: the answer URL with "events" for its last part.
        fallback_url: where the document is asked for when the answer URL fails.
        method: by which the answer URL is asked.
        ended_status: what REST replies for a call that is over.

    Options of a call's plan:
        disorder (bool, False): each event of the phone's leg comes after its successor.
        duplicates (bool, False): each event comes twice.
        region_url (str): the REST origin in the answer webhook; empty: an older platform, without.
        endpoint_type (str, "phone"), sip_headers, custom_data (mappings): further fields of the answer webhook.
    """

    name: ClassVar[str] = "vonage"
    answer_timeout_s: ClassVar[float] = 5.0
    detects: ClassVar[frozenset[Tampering]] = frozenset(
        {Tampering.UNSIGNED, Tampering.FORGED, Tampering.ALTERED, Tampering.STALE}
    )

    def __init__(
        self,
        answer_url: str = "",
        *,
        credentials: Mapping[str, str] | None = None,
        status_url: str = "",
        fallback_url: str = "",
        method: Literal["POST", "GET"] = "POST",
        ended_status: Literal[400, 404, 409] = 404,
        project: bool = False,
    ) -> None:
        self._is_project = project
        super().__init__(answer_url, credentials=credentials, status_url=status_url)
        self.fallback_url, self.method, self.ended_status = fallback_url, method, ended_status
        self._checks = Checks(self.violate, self.check_public_url)
        self._shown: set[str] = set()  # ids of the tokens that came with requests

    def made_up_credentials(self) -> Mapping[str, str]:
        secret = {"api_key": secrets.token_hex(4), "signature_secret": secrets.token_hex(16)}
        if self._is_project:
            return {"api_key": str(10_000_000 + secrets.randbelow(90_000_000)), "api_secret": secrets.token_hex(20)}
        return {**secret, "application_id": str(uuid.uuid4()), "private_key": made_up_key()}

    def forged_credentials(self) -> Mapping[str, str]:
        return {**self.credentials, "signature_secret": secrets.token_hex(16)}

    # ------------------------------------------------------------ webhooks

    def sign(self, webhook: Webhook, now: float, credentials: Mapping[str, str]) -> Webhook:
        said = {"iat": int(now), "jti": str(uuid.uuid4()), "iss": "Vonage"}
        if webhook.method != "GET":
            said["payload_hash"] = hashlib.sha256(webhook.body).hexdigest()
        token = self._signed_token(said, credentials)
        return replace(webhook, headers={**webhook.headers, "authorization": f"Bearer {token}"})

    def handshake(self, url: str, now: float) -> Mapping[str, str]:
        return self.sign(Webhook(what="handshake", method="GET", url=url), now, self.credentials).headers

    def _signed_token(self, said: JsonObject, credentials: Mapping[str, str]) -> str:
        whose = {"api_key": credentials["api_key"], "application_id": credentials["application_id"]}
        return hs256({**said, **whose}, credentials["signature_secret"])

    def ring(self, call: WebCall, now: float) -> None:
        running = self._running(call)
        running.answer = (self.answer_url, self.method)
        running.events = (self.status_url or _beside(self.answer_url), "POST")
        self._ask(call)
        self._phone_event(call, "started", now)
        self._phone_event(call, "ringing", now)

    def pick_up(self, call: WebCall, now: float, who: str = "human") -> None:
        if call.stage is Stage.CONNECTING:
            return  # a video session: nobody picks up
        running = self._running(call)
        self._answered(call, now)
        if running.detection:
            found = "human" if who == "human" else "machine"
            self._detected(call, found, now)
            if found == "machine" and running.detection.get("mode") == "detect_beep":
                self._detected(call, found, now, sub_state="beep_start")
            if found == "machine" and running.detection.get("behavior") == "hangup":
                self.finish(call, "carrier", "completed", now)
                return
        if running.answer[0]:
            self._ask(call)
        else:
            self._run(call, now)

    def _ask(self, call: WebCall) -> None:
        running, plan = self._running(call), call.plan
        said: JsonObject = {
            "from": _digits(plan.from_number),
            "to": _digits(plan.to_number),
            "uuid": call.call_id,
            "conversation_uuid": running.conversation,
            "endpoint_type": plan.options.get("endpoint_type", "phone"),
        }
        if region := plan.options.get("region_url", REGION):
            said["region_url"] = region
        said |= {f"SipHeader_{name}": value for name, value in plan.options.get("sip_headers", {}).items()}
        if data := plan.options.get("custom_data"):
            said["custom_data"] = data
        url, method = running.answer
        if method == "GET":
            self.post(call, "answer", url, {key: str(value) for key, value in said.items()}, method="GET")
            call.webhooks[-1] = replace(call.webhooks[-1], wants_document=True)
        else:
            self.post(call, "answer", url, json=said, wants_document=True)

    def replied(self, call: WebCall, webhook: Webhook, reply: Reply | None, now: float) -> None:
        if not webhook.wants_document:
            if reply is not None and reply.status >= 400:
                self.violate("an event must be answered with 2xx", f"{webhook.what}: HTTP {reply.status}")
            return
        if call.over:
            return
        if (reply is None or reply.status in AGAIN) and self._try_again(call, webhook, reply):
            return
        self._running(call).tried = 0
        if webhook.what != "answer" and (reply is None or reply.status != 200 or not reply.body):
            self._run(call, now)  # no document: the flow goes on
            return
        if reply is None or reply.status != 200:
            self.finish(call, "carrier", f"failed: HTTP {reply.status if reply else 0}", now)
            return
        self._running(call).actions = self._document(reply)
        self._run(call, now)

    def _try_again(self, call: WebCall, webhook: Webhook, reply: Reply | None) -> bool:
        """Each URL twice, and then the fallback."""
        running = self._running(call)
        running.tried += 1
        if running.tried in (1, 3):
            call.webhooks.appendleft(webhook)
            return True
        if running.tried == 2 and self.fallback_url:
            query = dict(parse_qsl(webhook.url.partition("?")[2]))
            said: JsonObject = json.loads(webhook.body) if webhook.body else {**query}
            why = "timeout" if reply is None else f"status {reply.status}"
            said |= {"reason": why, "original_request": {"url": webhook.url, "type": webhook.what}}
            again = json_webhook(webhook.what, self.fallback_url, said)
            call.webhooks.appendleft(replace(again, wants_document=True))
            return True
        return False

    def _document(self, reply: Reply) -> list[JsonObject]:
        if reply.media_type != "application/json":
            self.violate("an NCCO is application/json", reply.media_type[:40])
        try:
            value = json.loads(reply.body)
        except ValueError:
            self.violate("an NCCO is a JSON array of actions", "not JSON")
        return self._checks.ncco(value)

    # ------------------------------------------------------------ NCCO

    def _run(self, call: WebCall, now: float) -> None:
        """Carry out actions until one of them waits for something."""
        running = self._running(call)
        if call.answered_at is not None:
            call.stage = Stage.BETWEEN
        while running.actions and not call.over:
            action = running.actions.pop(0)
            kind = action["action"]
            if kind in IDLE:
                continue
            if call.answered_at is None and kind != "notify":
                self._answered(call, now)
            if kind == "talk":
                call.spoken.append(action["text"])
            elif kind == "notify":
                self._notify(call, action)
                return
            else:
                self._connect(call, action, now)
                return
        self.finish(call, "bot", "completed", now)

    def _notify(self, call: WebCall, action: JsonObject) -> None:
        """The payload goes to its URL, which may answer with another NCCO; a URL elsewhere takes the call over."""
        (url,) = action["eventUrl"]
        if _beside(url) != _beside(self.answer_url):
            call.handed_to.append(url)
            call.stage = Stage.BETWEEN
            return
        said = {"payload": action["payload"], "conversation_uuid": self._running(call).conversation}
        self.post(call, "notify", url, json=said, wants_document=True)

    def _connect(self, call: WebCall, action: JsonObject, now: float) -> None:
        running = self._running(call)
        (endpoint,) = action["endpoint"]
        if endpoint["type"] != "websocket":
            call.handed_to.append(endpoint["number"] if endpoint["type"] == "phone" else endpoint["uri"])
            call.stage = Stage.BETWEEN
            return  # until one of the two hangs up
        if running.actions:
            self.violate(FOLLOWED, f"{len(running.actions)} actions")
        running.connect, running.socket = action, str(uuid.uuid4())
        authorization = endpoint.get("authorization", {})
        given = authorization.get("value", "")
        if authorization.get("type") == "vonage":
            said = {"iat": int(now), "jti": str(uuid.uuid4()), "iss": "Vonage"}
            given = f"Bearer {self._signed_token(said, self.credentials)}"
        plan = replace(
            call.plan,
            parameters=endpoint.get("headers", {}),
            sample_rate=int(endpoint["content-type"].rpartition("=")[2]),
            credentials={"authorization": given} if given else {},
        )
        self._socket_event(call, "started", now)
        self.connect(call, endpoint["uri"], plan)

    # ------------------------------------------------------------ the socket's leg

    def socket_opened(self, call: WebCall, now: float) -> None:
        self._socket_event(call, "answered", now)

    def socket_refused(self, call: WebCall, status: int, now: float) -> None:
        if self._running(call).session:
            self.finish(call, "carrier", "failed: no media", now)
        else:
            reason = f"the handshake was answered with {status}" if status else "the connection failed"
            self._socket_lost(call, "failed" if status else "unanswered", now, reason=reason)

    def media_over(self, call: WebCall, now: float) -> None:
        running = self._running(call)
        by = call.media.ended_by if call.media is not None else "error"
        if running.session:
            self.finish(call, "bot" if call.cut or by == "bot" else "caller", "completed", now)
        elif call.cut == "transfer":
            call.cut = ""
            self._socket_event(call, "completed", now)
            self._go_on(call, now)
        elif call.cut == "socket":
            call.cut = ""
            self._socket_event(call, "completed", now)
            self._run(call, now)
        elif call.cut or by == "caller":
            self._socket_event(call, "completed", now)
            self.finish(call, "bot" if call.cut else "caller", "completed", now)
        else:
            self._socket_lost(call, "disconnected", now)

    def _socket_lost(self, call: WebCall, status: str, now: float, **more: str) -> None:
        """Our side closed, or was not reached. A synchronous event may be answered with what is to follow."""
        asks = self._running(call).connect.get("eventType") == "synchronous"
        self._socket_event(call, status, now, wants_document=asks, **more)
        if not asks:
            self._run(call, now)

    def _socket_event(
        self, call: WebCall, status: str, now: float, *, wants_document: bool = False, **more: str
    ) -> None:
        running = self._running(call)
        connect = running.connect
        if not connect:
            return
        (endpoint,) = connect["endpoint"]
        said = {
            "from": connect.get("from", _digits(call.plan.to_number)),
            "to": endpoint["uri"],
            "uuid": running.socket,
            "conversation_uuid": running.conversation,
            "direction": "outbound",
            "timestamp": _timestamp(now),
            "headers": endpoint.get("headers", {}),
            "status": status,
            **more,
        }
        if status == "completed":
            said |= _bill(call, now)
        url = connect.get("eventUrl", [running.events[0]])[0]
        if url:
            self.post(call, f"socket {status}", url, json=said, wants_document=wants_document)

    # ------------------------------------------------------------ the phone's leg

    def _answered(self, call: WebCall, now: float) -> None:
        call.answered_at, call.stage = now, Stage.BETWEEN
        self._phone_event(call, "answered", now, start_time=None, rate=None, network=None)

    def ended(self, call: WebCall, now: float) -> None:
        if self._running(call).session:
            return
        otherwise = "failed" if call.end.startswith("failed") else "completed"
        status = {"busy": "busy", "no-answer": "unanswered", "canceled": "cancelled"}.get(call.end, otherwise)
        if call.answered_at is not None:
            status = "completed"
        more = {"reason": call.end.partition(": ")[2]} if status == "failed" else {}
        bill = _bill(call, now) if status == "completed" else {}
        self._phone_event(call, status, now, **more, **bill)
        held, self._running(call).held = self._running(call).held, None
        if held is not None:
            self._queue(call, held)

    def _phone_event(self, call: WebCall, status: str, now: float, **more: Any) -> None:
        self._event(call, status, {"uuid": call.call_id, "status": status, **more}, now)

    def _detected(self, call: WebCall, status: str, now: float, **more: str) -> None:
        self._event(call, status, {"call_uuid": call.call_id, "status": status, **more}, now)

    def _event(self, call: WebCall, what: str, said: JsonObject, now: float) -> None:
        running = self._running(call)
        url, _ = running.events
        if not url:
            return
        both = {"from": _digits(call.plan.from_number), "to": _digits(call.plan.to_number)}
        both |= {"conversation_uuid": running.conversation, "direction": call.direction, "timestamp": _timestamp(now)}
        webhook = json_webhook(f"event {what}", url, {**both, **said})
        if not call.plan.options.get("disorder"):
            self._queue(call, webhook)
        elif running.held is None:
            running.held = webhook
        else:
            late, running.held = running.held, None
            self._queue(call, webhook)
            self._queue(call, late)

    def _queue(self, call: WebCall, webhook: Webhook) -> None:
        call.webhooks += [webhook] * (2 if call.plan.options.get("duplicates") else 1)
        call.changed()

    # ------------------------------------------------------------ REST

    def routes(self) -> Sequence[tuple[str, str, str, Handler]]:
        one = r"/v1/calls/(?P<call>[^/]+)"
        project = r"/v2/project/(?P<project>[^/]+)"
        return (
            ("POST", "/v1/calls", "dial", self._create),
            ("PUT", one, "update", self._update),
            ("GET", one, "fetch", self._fetch),
            ("POST", project + "/connect", "dial", self._connect_session),
            (
                "DELETE",
                project + r"/session/(?P<session>[^/]+)/connection/(?P<call>[^/]+)",
                "hang-up",
                self._disconnect,
            ),
        )

    def route_of(self, route: str, request: RestRequest) -> str:
        if route != "update":
            return route
        try:
            action = request.json.get("action")
        except (ValueError, AttributeError):
            return route
        return {"hangup": "hang-up", "transfer": "transfer"}.get(action, route)

    def authorized(self, request: RestRequest, now: float) -> RestReply | None:
        said = self._project_claims(request) if self._is_project else self._application_claims(request)
        good = said is not None and self._fresh(said, now)
        return None if good else self.wrong_credentials(request)

    def _application_claims(self, request: RestRequest) -> JsonObject | None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        said = rs256_claims(token, self.credentials["private_key"]) if scheme == "Bearer" else None
        return said if said is not None and said.get("application_id") == self.credentials["application_id"] else None

    def _project_claims(self, request: RestRequest) -> JsonObject | None:
        token = request.headers.get("x-opentok-auth", "")
        said = hs256_claims(token, self.credentials["api_secret"])
        ours = said is not None and (said.get("iss"), said.get("ist")) == (self.credentials["api_key"], "project")
        return said if ours else None

    def _fresh(self, said: JsonObject, now: float) -> bool:
        issued, expires, name = said.get("iat"), said.get("exp"), said.get("jti")
        if type(issued) is not int or type(expires) is not int or not isinstance(name, str) or not name:
            return False
        limit = 300 if self._is_project else _LONGEST_TOKEN_S
        if issued > now + 30 or expires < now or expires - issued > limit or name in self._shown:
            return False
        self._shown.add(name)
        return True

    def wrong_credentials(self, request: RestRequest) -> RestReply:
        return _error(401, "UNAUTHORIZED", "Unauthorized")

    def not_found(self, request: RestRequest) -> RestReply:
        return _error(404, "NOT_FOUND", "Not Found")

    def bad_request(self, violation: ProtocolViolation) -> RestReply:
        wrong = [{"name": violation.detail[:40], "reason": violation.rule}]
        return _error(400, "BAD_REQUEST", "Bad Request", invalid_parameters=wrong)

    def already_over(self, request: RestRequest, route: str) -> RestReply:
        if request.path.startswith("/v2/"):
            return self.not_found(request)
        title = {400: "Bad Request", 404: "Not Found", 409: "Conflict"}[self.ended_status]
        return _error(self.ended_status, title.upper().replace(" ", "_"), title)

    def failing(self, status: int, retry_after_s: float | None) -> RestReply:
        reply = _error(status, "RATE_LIMIT" if status == 429 else "ERROR", "Too Many Requests" if status == 429 else "")
        more = {} if retry_after_s is None else {"retry-after": f"{retry_after_s:g}"}
        return replace(reply, headers={**reply.headers, **more})

    # ---- Voice

    def _create(self, request: RestRequest, match: re.Match[str], now: float) -> RestReply:
        body = self._checks.order(self._json(request))
        (to,) = body["to"]
        ours = body["from"]["number"] if "from" in body else self.credentials.get("number", "442079460000")
        number = to["uri"] if to["type"] == "sip" else f"+{to['number']}"
        call = self.placed_call(CallPlan(from_number=f"+{ours}", to_number=number), now)
        running = self._running(call)
        if "answer_url" in body:
            running.answer = (body["answer_url"][0], body.get("answer_method", "GET"))
        running.actions = body.get("ncco", [])
        running.events = (body.get("event_url", [""])[0], body.get("event_method", "POST"))
        if "machine_detection" in body:
            running.detection = {"behavior": body["machine_detection"]}
        running.detection = body.get("advanced_machine_detection", running.detection)
        self._phone_event(call, "started", now)
        self._phone_event(call, "ringing", now)
        said = {"uuid": call.call_id, "status": "started", "direction": "outbound"}
        return RestReply.of(201, {**said, "conversation_uuid": running.conversation})

    def _update(self, request: RestRequest, match: re.Match[str], now: float) -> RestReply:
        body = self._json(request)
        action = body.get("action") if isinstance(body, dict) else None
        call = self._leg(request, match)
        if action == "hangup":
            self._nothing_else(body, {"action"})
            if call.gone:
                raise RestRefusal(self.already_over(request, "hang-up"))
            if match["call"] != call.call_id:
                # It ends the leg that it names, and the caller is left alone.
                self.violations.append(ProtocolViolation(self.name, "a hang-up names the phone's leg"))
                self.took_effect(call)
                self.cut_stream(call, "socket")
            else:
                self.hang_up(call, now)
            return RestReply(status=204)
        if action != "transfer":
            self.violate("action is hangup or transfer", "action")
        self._nothing_else(body, {"action", "destination"})
        if call.gone or match["call"] != call.call_id:
            raise RestRefusal(self.already_over(request, "transfer"))
        self._transfer(call, body.get("destination"), now)
        return RestReply(status=204)

    def _transfer(self, call: WebCall, destination: Any, now: float) -> None:
        running = self._running(call)
        if not isinstance(destination, dict) or destination.get("type") != "ncco":
            self.violate("a destination is of type ncco", "destination")
        self._nothing_else(destination, {"type", "ncco", "url"})
        if ("ncco" in destination) == ("url" in destination):
            self.violate("a destination has an ncco or a url", "destination")
        if "ncco" in destination:
            running.next = self._checks.ncco(destination["ncco"])
        else:
            urls = destination["url"]
            if not isinstance(urls, list) or len(urls) != 1 or not isinstance(urls[0], str):
                self.violate("url is an array of one URL", "url")
            self.check_public_url(urls[0], ("https",), "url is an absolute URL")
            running.next = urls[0]
        self.took_effect(call)
        if call.stage is Stage.STREAMING:
            self.cut_stream(call, "transfer")
        else:
            self._go_on(call, now)

    def _go_on(self, call: WebCall, now: float) -> None:
        """Carry out what a REST transfer said: the call moves into another conversation."""
        running = self._running(call)
        before, running.conversation = running.conversation, f"CON-{uuid.uuid4()}"
        moved = {"conversation_uuid_from": before, "conversation_uuid_to": running.conversation}
        if running.events[0]:
            said = {**moved, "uuid": call.call_id, "timestamp": _timestamp(now)}
            self._queue(call, json_webhook("event transfer", running.events[0], said))
        told, running.next, running.connect = running.next, "", {}
        if isinstance(told, str):
            call.handed_to.append(told)
            call.stage = Stage.BETWEEN
        else:
            running.actions = told
            self._run(call, now)

    def _fetch(self, request: RestRequest, match: re.Match[str], now: float) -> RestReply:
        call = self._leg(request, match)
        status = "started" if call.answered_at is None else "answered"
        if call.gone:
            unanswered = {"busy": "busy", "no-answer": "unanswered", "canceled": "cancelled", "failed": "failed"}
            status = "completed"
            if call.answered_at is None:
                status = unanswered.get(call.end.partition(":")[0], "completed")
        plan, conversation = call.plan, self._running(call).conversation
        said: JsonObject = {"uuid": call.call_id, "conversation_uuid": conversation, "direction": call.direction}
        said["status"] = status
        said["to"] = {"type": "phone", "number": _digits(plan.to_number)}
        said["from"] = {"type": "phone", "number": _digits(plan.from_number)}
        return RestReply.of(200, said)

    # ---- Video

    def _connect_session(self, request: RestRequest, match: re.Match[str], now: float) -> RestReply:
        self._check_project(request, match)
        body = self._json(request)
        socket = self._checks.connector(body)
        self._check_session_token(body, now)
        if socket.get("bidirectional") is not True:
            self.violate("without bidirectional nothing that we say is heard", "bidirectional")
        plan = CallPlan(
            call_id=str(uuid.uuid4()),
            parameters=socket.get("headers", {}),
            sample_rate=socket.get("audioRate", 16000),
            options={"product": "video", "session": body["sessionId"]},
        )
        call = self.new_call(plan, "outbound")
        self._running(call).session = body["sessionId"]
        self.took_effect(call)
        self.connect(call, socket["uri"], replace(call.plan, credentials={}))
        self.placed.append(call)
        self.on_placed(call)
        return RestReply.of(200, {"id": str(uuid.uuid4()), "connectionId": call.call_id})

    def _check_session_token(self, body: JsonObject, now: float) -> None:
        """What its session makes of the client token; those of a project ("T1==...") are taken as they are."""
        if self._is_project:
            return
        said = rs256_claims(body["token"], self.credentials["private_key"]) or {}
        paths = said.get("acl", {}).get("paths", {})
        good = (said.get("session_id"), said.get("role")) == (body["sessionId"], "publisher")
        good = good and (said.get("scope"), said.get("sub")) == ("session.connect", "video")
        if not good or "/session/**" not in paths or not said.get("iat", 0) - 30 <= now <= said.get("exp", 0):
            raise RestRefusal(_error(403, "FORBIDDEN", "Forbidden"))

    def _disconnect(self, request: RestRequest, match: re.Match[str], now: float) -> RestReply:
        self._check_project(request, match)
        call = self.calls.get(match["call"])
        if call is None or call.gone or self._running(call).session != unquote(match["session"]):
            raise RestRefusal(self.not_found(request))
        self.hang_up(call, now)
        return RestReply(status=204)

    def _check_project(self, request: RestRequest, match: re.Match[str]) -> None:
        if match["project"] != self.credentials["api_key" if self._is_project else "application_id"]:
            raise RestRefusal(_error(403, "FORBIDDEN", "Forbidden"))

    # ---- both

    def _leg(self, request: RestRequest, match: re.Match[str]) -> WebCall:
        """The call that has the leg: the phone's, or the socket's."""
        if call := self.calls.get(match["call"]):
            return call
        for call in self.calls.values():
            if self._running(call).socket == match["call"]:
                return call
        raise RestRefusal(self.not_found(request))

    def _json(self, request: RestRequest) -> Any:
        if request.media_type != "application/json":
            self.violate("the body is JSON", request.media_type[:40])
        try:
            return request.json
        except ValueError:
            self.violate("the body is JSON", "not JSON")

    def _nothing_else(self, body: Any, allowed: set[str]) -> None:
        if not isinstance(body, dict) or body.keys() - allowed:
            self.violate("a request has its documented fields only", ", ".join(sorted(set(body) - allowed))[:80])

    def _running(self, call: WebCall) -> _Running:
        running: _Running = call.extra.setdefault("running", _Running())
        return running


# ---------------------------------------------------------------- pieces


def _digits(number: str) -> str:
    return number.removeprefix("+")


def _beside(url: str) -> str:
    """The event URL that goes with an answer URL."""
    url = url.partition("?")[0]
    return url.rpartition("/")[0] + "/events" if url else ""


def _timestamp(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _bill(call: WebCall, now: float) -> JsonObject:
    since = call.answered_at if call.answered_at is not None else now
    seconds = max(0, round(now - since))
    times = {"start_time": _timestamp(since), "end_time": _timestamp(now), "duration": str(seconds)}
    return {**times, "rate": "0.00720000", "price": f"{seconds * 0.00012:.8f}", "network": "23410"}


def _error(status: int, kind: str, title: str, **more: Any) -> RestReply:
    return RestReply.of(status, {"type": kind, "title": title, **more})
