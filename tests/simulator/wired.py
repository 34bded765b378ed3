"""A fake carrier's HTTP side and our own, joined without a network and with a clock of their own."""

from __future__ import annotations

import json
from collections.abc import Callable
from urllib.parse import urlencode

from gateway.simulator.base import FakeCarrier
from gateway.simulator.web import FakeWeb, Reply, RestRequest, Tampering, WebCall
from webhooks.base import (
    CarrierEvent,
    CarrierHttp,
    CarrierRequest,
    Handled,
    InboundCall,
    NotAuthentic,
    Outcome,
    OutcomeKind,
    Refusal,
    StreamOffer,
    UnreadableRequest,
    Urls,
    WebRequest,
)

BASE = "https://gw.example.com/phone"
NOW = 1767225600.0


class Wired:
    """Delivers webhooks, one call of `deliver` each, and executes the requests that come of them."""

    def __init__(
        self, web: FakeWeb, http: CarrierHttp, decide: Callable[[InboundCall], Refusal | None] = lambda call: None
    ) -> None:
        self.web, self.http, self.decide = web, http, decide
        self.urls = Urls(base=BASE)
        self.now = NOW
        self.tampering = Tampering.NONE
        self.incoming: list[InboundCall] = []
        self.events: list[CarrierEvent] = []
        self.refused: list[NotAuthentic] = []
        self.wishes: dict[str, str] = {}  # call -> whom it is handed over to when it asks
        self.keys: list[str] = []  # what authenticity asks to be remembered

    def deliver(self, call: WebCall, *, times: int = 1) -> Reply:
        """The next webhook of `call`, delivered so many times; the carrier sees the last reply."""
        webhook = call.webhooks.popleft()
        signed = self.web.signed(webhook, self.now, self.tampering)
        request = WebRequest(
            method=signed.method, url=signed.url, headers=signed.headers, body=signed.body, received=self.now
        )
        for _ in range(times):
            handled, status = self._answer(request)
        answer = handled.answer
        headers = {"content-type": answer.content_type} if answer is not None else {}
        reply = Reply(status=answer.status if answer else status, headers=headers, body=answer.body if answer else b"")
        self.web.take_reply(call, webhook, reply, self.now)
        for asked in handled.requests:
            self.ask(asked)
        return reply

    def deliver_all(self, call: WebCall) -> None:
        while call.webhooks:
            self.deliver(call)

    def _answer(self, request: WebRequest) -> tuple[Handled, int]:
        route = request.url.partition("?")[0].rpartition("/")[2]
        try:
            if self.http.settings.verify_signatures:
                once = self.http.authenticate(route, request)
                if once is not None:
                    self.keys.append(once.key)
            handled = self.http.handle(route, request, self.urls)
        except NotAuthentic as exc:
            self.refused.append(exc)
            return Handled(), exc.status
        except UnreadableRequest:
            return Handled(), 400
        self.events += handled.events
        if handled.asks_after is not None and (handled.incoming is None or handled.asks_after in self.wishes):
            target = self.wishes.pop(handled.asks_after, None)
            return Handled(answer=self.http.after(handled.asks_after, target)), 204
        if handled.incoming is not None:
            return self._admit(handled.incoming), 204
        return handled, 204

    def _admit(self, call: InboundCall) -> Handled:
        self.incoming.append(call)
        refusal = self.decide(call)
        if refusal is not None:
            return self.http.refuse(call, refusal)
        media_url = self.urls.media(call.carrier, "tok-123")
        return self.http.offer(call, StreamOffer(media_url=media_url, urls=self.urls, parameters=call.parameters))

    # ------------------------------------------------------------ the other ways

    def ask(self, request: CarrierRequest | None) -> Outcome:
        """A request to the carrier's REST interface."""
        assert request is not None
        assert self.http.may_send_to(request.url)
        body, headers = b"", {**request.headers, **request.authorize(self.now)}
        if request.json is not None:
            body, headers["content-type"] = json.dumps(request.json).encode(), "application/json"
        elif request.form is not None:
            body = urlencode(list(request.form)).encode()
            headers["content-type"] = "application/x-www-form-urlencoded"
        base = self.http.settings.api_base
        asked = RestRequest(
            method=request.method,
            target=request.url.removeprefix(base),
            headers={name.lower(): value for name, value in headers.items()},
            body=body,
        )
        reply = self.web.rest(asked, self.now).reply
        if reply is None:
            return Outcome(kind=OutcomeKind.RETRY, detail="no reply")
        return self.http.outcome(request, reply.status, reply.headers, reply.body)

    def connect(self, call: WebCall) -> FakeCarrier:
        """Open the call's media socket."""
        fake = self.web.media(call)
        fake.opening(self.now)
        self.web.media_opened(call, fake, self.now)
        return fake

    def upgrade(self, call: WebCall) -> str:
        """What our side remarks on the handshake of the call's media socket. Raises NotAuthentic."""
        fake = self.web.media(call)
        headers = {name.lower(): value for name, value in fake.handshake_headers(call.media_url).items()}
        return self.http.authenticate_upgrade(WebRequest(method="GET", url=call.media_url, headers=headers))

    def caller_hangs_up(self, call: WebCall) -> None:
        assert call.media is not None
        call.media.hang_up(self.now)
        self.web.media_closed(call, self.now)

    def gateway_closes(self, call: WebCall, code: int = 1000) -> None:
        assert call.media is not None
        call.media.socket_closed(code, "", self.now)
        self.web.media_closed(call, self.now)

    def cut(self, call: WebCall) -> None:
        """REST took the call off its stream: the carrier closes the socket."""
        assert call.cut
        assert call.media is not None
        call.media.api_hang_up(self.now)
        self.web.media_closed(call, self.now)
