"""A gateway's front desk without network: answers a fake carrier's webhooks with the real `webhooks/<carrier>.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from gateway.simulator.web import FakeWeb, Reply, RestRequest, RestResult, Tampering, WebCall, Webhook
from webhooks.base import (
    CarrierEvent,
    CarrierHttp,
    CarrierRequest,
    HttpAnswer,
    InboundCall,
    NotAuthentic,
    Outcome,
    Refusal,
    StreamOffer,
    UnreadableRequest,
    Urls,
    WebRequest,
)

BASE = "https://gw.example.com/prefix"
TOKEN = "tok" * 60
NOW = 1_767_225_600.0


def rest_request(request: CarrierRequest, now: float = NOW) -> RestRequest:
    """`request` as an HTTP client would put it on the wire, below "https://<host>" or the simulator's base."""
    _, _, rest = request.url.partition("://")
    _host, slash, target = rest.partition("/")
    headers = {**request.headers, **request.authorize(now)}
    body = b""
    if request.form is not None:
        headers["content-type"] = "application/x-www-form-urlencoded"
        body = urlencode(request.form).encode()
    return RestRequest(method=request.method, target=slash + target, headers=headers, body=body)


@dataclass
class Desk:
    """What a gateway does with webhooks, one after the other."""

    web: FakeWeb
    http: CarrierHttp
    refusal: Refusal | None = None
    wish: str | None = None  # where the caller wants to go when the stream is over
    tampering: Tampering = Tampering.NONE
    parameters: Callable[[InboundCall], Any] = lambda call: call.parameters
    incoming: list[InboundCall] = field(default_factory=list)
    events: list[CarrierEvent] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)  # why webhooks were not authentic
    sent: list[str] = field(default_factory=list)  # webhooks, by what they are
    now: float = NOW

    def serve(self, call: WebCall) -> WebCall:
        """Answer what the carrier has to say about `call`, until it has nothing more to say."""
        while call.webhooks:
            webhook = call.webhooks.popleft()
            self.sent.append(webhook.what)
            self.web.take_reply(call, webhook, self.answer(webhook), self.now)
        return call

    def answer(self, webhook: Webhook) -> Reply:
        signed = self.web.signed(webhook, self.now, self.tampering)
        assert signed.url.startswith(BASE + "/"), signed.url
        route = signed.url.removeprefix(BASE).partition("?")[0].split("/")[2]
        request = WebRequest(
            method=signed.method, url=signed.url, headers=signed.headers, body=signed.body, received=self.now
        )
        try:
            self.http.authenticate(route, request)
            handled = self.http.handle(route, request, Urls(base=BASE))
        except NotAuthentic as exc:
            self.refused.append(exc.reason)
            return Reply(status=exc.status)
        except UnreadableRequest:
            return Reply(status=400)
        self.events += handled.events
        if (call := handled.incoming) is not None:
            self.incoming.append(call)
            if self.refusal is not None:
                handled = self.http.refuse(call, self.refusal)
            else:
                urls = Urls(base=BASE)
                stream = StreamOffer(
                    media_url=urls.media(self.http.carrier, TOKEN),
                    urls=urls,
                    parameters=self.parameters(call),
                )
                handled = self.http.offer(call, stream)
        elif handled.asks_after is not None:
            return _reply(self.http.after(handled.asks_after, self.wish))
        return _reply(handled.answer or HttpAnswer(status=204))

    def ask(self, request: CarrierRequest | None) -> tuple[Outcome | None, RestResult]:
        """What the carrier's REST interface says to `request`, and what that means; None without a reply."""
        assert request is not None
        result = self.web.rest(rest_request(request, self.now), self.now)
        if result.reply is None:
            return None, result
        reply = result.reply
        return self.http.outcome(request, reply.status, reply.headers, reply.body), result


def _reply(answer: HttpAnswer) -> Reply:
    headers = {"content-type": answer.content_type, **answer.headers} if answer.body else dict(answer.headers)
    return Reply(status=answer.status, headers=headers, body=answer.body)
