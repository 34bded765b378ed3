"""Telnyx Call Control: what its events mean, and the commands that answer them.

The webhook is answered with an empty 200 at once; what is wanted is said by commands. A call is answered either with
its stream in one command, or, where that command lacks a field, by `answer` and then `streaming_start` when
`call.answered` comes. What the second command needs travels in `client_state`, which Telnyx hands back: nothing is
kept here.

Source: Telnyx API reference, "Call Control" webhooks and commands.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from webhooks.base import (
    AnsweredBy,
    CallPhase,
    CallRef,
    CallStatus,
    CarrierEvent,
    CarrierRequest,
    DialOrder,
    Handled,
    HttpAnswer,
    InboundCall,
    Purpose,
    Refusal,
    StreamOffer,
    StreamStatus,
    UnreadableRequest,
    Urls,
    WebRequest,
)
from webhooks.signature import told
from webhooks.targets import read_target
from webhooks.telnyx_rest import ID, TelnyxApi, pack_state, unpack_state

Json = Mapping[str, Any]

TAKEN = HttpAnswer(status=200)  # at once and empty: Telnyx repeats what it takes for lost

_CAUSES: Mapping[str, CallPhase] = {
    "normal_clearing": CallPhase.COMPLETED,
    "time_limit": CallPhase.COMPLETED,
    "originator_cancel": CallPhase.CANCELED,
    "user_busy": CallPhase.BUSY,
    "timeout": CallPhase.NO_ANSWER,
    "no_answer": CallPhase.NO_ANSWER,
    "call_rejected": CallPhase.FAILED,
    "not_found": CallPhase.FAILED,
}
_DETECTED: Mapping[str, str] = {
    "human": "human",
    "human_residence": "human",
    "human_business": "human",
    "machine": "machine",
    "beep_detected": "machine",
    "ended": "machine",
    "fax_detected": "fax",
}
_GREETING_OVER = ("beep_detected", "ended")
_SIDES: Mapping[tuple[str, bool], str] = {  # who hung up, and whether the call was ours
    ("caller", False): "caller",
    ("callee", False): "bot",
    ("caller", True): "bot",
    ("callee", True): "caller",
}
_REFUSALS: Mapping[str, str] = {"busy": "USER_BUSY", "rejected": "CALL_REJECTED"}


class CallControl:
    """Both ends of one account's events.

    Args:
        codecs: `stream_codec`, `stream_bidirectional_codec` and the like, as every command takes them.
        sampling_rate: Hz of what we send, where it is not the codec's only one: `answer` cannot ask for it.
        stream_auth: every socket must show its second secret, which `answer` cannot hand over.
    """

    def __init__(
        self,
        api: TelnyxApi,
        secret: str,
        *,
        codecs: Mapping[str, str],
        sampling_rate: int | None,
        stream_auth: bool,
        machine_detection: str,
    ) -> None:
        self._api, self._key = api, hashlib.sha256(b"telnyx stream auth" + secret.encode()).digest()
        self._codecs, self._rate, self._stream_auth = dict(codecs), sampling_rate, stream_auth
        self._machine_detection = machine_detection

    def stream_auth_token(self, media_token: str) -> str:
        """The second secret of a media socket. It is derived, so no node has to remember it."""
        digest = hmac.new(self._key, media_token.encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")

    # ------------------------------------------------------------ events

    def handle(self, request: WebRequest, urls: Urls) -> Handled:
        """One event. Those that mean nothing here are taken all the same."""
        data, payload = _read(request)
        # Some deliveries write streaming_started for streaming.started.
        event = str(data.get("event_type", "")).replace("_", ".")
        handler = _HANDLERS.get(event)
        return handler(self, data, payload, urls) if handler is not None else Handled(answer=TAKEN)

    def _initiated(self, data: Json, payload: Json, urls: Urls) -> Handled:
        if payload.get("direction") != "incoming":  # one that we placed, or the other leg of a transfer
            return _report(_status(data, payload, CallPhase.QUEUED))
        return Handled(incoming=_call(data, payload, "inbound"))

    def _answered(self, data: Json, payload: Json, urls: Urls) -> Handled:
        state = unpack_state(payload.get("client_state"))
        answered = _status(data, payload, CallPhase.ANSWERED)
        call_id = answered.call_id
        if token := _text(state.get("media")):
            parameters = state.get("parameters")
            start = self._streaming_start(
                call_id, urls, token, parameters if isinstance(parameters, dict) else {}, "in"
            )
            return Handled(answer=TAKEN, requests=[start], events=[answered])
        if text := _text(state.get("say")):
            body = {"payload": text, "voice": "female", "language": "en-US", "client_state": pack_state(said=True)}
            return Handled(
                answer=TAKEN, requests=[self._api.command(Purpose.REJECT, call_id, "speak", body)], events=[answered]
            )
        if state.get("ask"):  # a call of ours, placed without a stream
            return Handled(incoming=_call(data, payload, "outbound"), events=[answered])
        return _report(answered)

    def _spoken(self, data: Json, payload: Json, urls: Urls) -> Handled:
        if not unpack_state(payload.get("client_state")).get("said"):
            return Handled(answer=TAKEN)
        return Handled(answer=TAKEN, requests=[self._api.command(Purpose.REJECT, _call_id(payload), "hangup", {})])

    def _hung_up(self, data: Json, payload: Json, urls: Urls) -> Handled:
        cause, sip = _text(payload.get("hangup_cause")), _text(payload.get("sip_hangup_cause"))
        unknown = CallPhase.COMPLETED if sip in ("", "200") else CallPhase.FAILED
        outbound = unpack_state(payload.get("client_state")).get("dir") == "out"
        return _report(
            _status(
                data,
                payload,
                _CAUSES.get(cause, unknown),
                cause=cause,
                ended_by=ended_by(_text(payload.get("hangup_source")), outbound),
                details={"sip_hangup_cause": sip} if sip else {},
            )
        )

    def _streaming(self, data: Json, payload: Json, urls: Urls) -> Handled:
        what = str(data["event_type"]).replace("_", ".").rpartition(".")[2]
        return _report(
            StreamStatus(
                carrier="telnyx",
                call_id=_call_id(payload),
                what=what,
                key=_key(data),
                stream_id=_text(payload.get("stream_id")),
                problem=told(_text(payload.get("failure_reason"))),
            )
        )

    def _detected(self, data: Json, payload: Json, urls: Urls) -> Handled:
        result = _text(payload.get("result"))
        return _report(
            AnsweredBy(
                carrier="telnyx",
                call_id=_call_id(payload),
                who=_DETECTED.get(result, "unknown"),
                key=_key(data),
                detail=result,
                beep=result in _GREETING_OVER,
            )
        )

    # ------------------------------------------------------------ commands

    def offer(self, call: InboundCall, stream: StreamOffer) -> Handled:
        token = stream.media_url.rpartition("/")[2]
        if call.extra.get("answered"):
            start = self._streaming_start(call.call_id, stream.urls, token, stream.parameters, "out")
            return Handled(answer=TAKEN, requests=[start])
        if self._rate is not None or self._stream_auth or stream.parameters:  # what `answer` has no field for
            body: dict[str, Any] = {
                "client_state": pack_state(dir="in", media=token, parameters=dict(stream.parameters))
            }
        else:
            body = {**self._stream(stream.media_url), "client_state": pack_state(dir="in")}
        return Handled(answer=TAKEN, requests=[self._api.command(Purpose.ANSWER, call.call_id, "answer", body)])

    def refuse(self, call: InboundCall, refusal: Refusal) -> Handled:
        kind, _, rest = refusal.instead.partition(":")
        if call.extra.get("answered"):
            request = self._api.command(Purpose.REJECT, call.call_id, "hangup", {})
        elif kind == "number":
            to = read_target(rest)[1]
            request = self._api.command(Purpose.REJECT, call.call_id, "transfer", {"to": to})
        elif kind == "say":
            request = self._api.command(Purpose.REJECT, call.call_id, "answer", {"client_state": pack_state(say=rest)})
        else:  # Call Control cannot send a call to another gateway; the caller may try again
            cause = _REFUSALS.get(kind, "TEMPORARILY_UNAVAILABLE")
            request = self._api.command(Purpose.REJECT, call.call_id, "reject", {"cause": cause})
        return Handled(answer=TAKEN, requests=[request])

    def transfer(self, ref: CallRef, target: str) -> CarrierRequest | None:
        """None for a URL: Call Control has no documents."""
        kind, target = read_target(target)
        if kind not in ("number", "sip"):
            return None
        return self._api.command(Purpose.TRANSFER, ref.call_id, "transfer", {"to": target, "timeout_secs": 30})

    def dial(self, order: DialOrder, connection_id: str, urls: Urls) -> CarrierRequest:
        """With a media URL the stream comes with the call; else, and where there are parameters, for which that has no
        field, it is asked for once somebody answers."""
        body: dict[str, Any] = {"webhook_url": urls.http("/telnyx/events"), "webhook_url_method": "POST"}
        if order.media_url and not order.parameters:
            body |= self._stream(order.media_url)
            body["stream_auth_token"] = self.stream_auth_token(order.media_url.rpartition("/")[2])
            if self._rate is not None:
                body["stream_bidirectional_sampling_rate"] = self._rate
            body["client_state"] = pack_state(dir="out")
        else:
            body["client_state"] = pack_state(dir="out", ask=True, parameters=dict(order.parameters))
        if order.detect_machine:
            body["answering_machine_detection"] = self._machine_detection
        return self._api.dial(order, connection_id, body)

    def _stream(self, media_url: str) -> dict[str, Any]:
        return {"stream_url": media_url, "stream_track": "inbound_track", **self._codecs}

    def _streaming_start(
        self, call_id: str, urls: Urls, token: str, parameters: Mapping[str, Any], direction: str
    ) -> CarrierRequest:
        body = self._stream(urls.media("telnyx", token))
        body["client_state"] = pack_state(dir=direction)  # the token has done its work
        if self._rate is not None:
            body["stream_bidirectional_sampling_rate"] = self._rate
        body["stream_auth_token"] = self.stream_auth_token(token)
        if parameters:
            body["custom_parameters"] = [{"name": name, "value": str(value)} for name, value in parameters.items()]
        return self._api.command(Purpose.ANSWER, call_id, "streaming_start", body)


_HANDLERS: Mapping[str, Callable[[CallControl, Json, Json, Urls], Handled]] = {
    "call.initiated": CallControl._initiated,
    "call.answered": CallControl._answered,
    "call.speak.ended": CallControl._spoken,
    "call.hangup": CallControl._hung_up,
    "streaming.started": CallControl._streaming,
    "streaming.stopped": CallControl._streaming,
    "streaming.failed": CallControl._streaming,
    "call.machine.detection.ended": CallControl._detected,
    "call.machine.greeting.ended": CallControl._detected,
    "call.machine.premium.detection.ended": CallControl._detected,
    "call.machine.premium.greeting.ended": CallControl._detected,
}


def ended_by(source: str, outbound: bool) -> str:
    """Whom the carrier's caller or callee is: of a call that we placed, we are the caller."""
    return _SIDES.get((source, outbound), "")


# ---------------------------------------------------------------- reading


def _read(request: WebRequest) -> tuple[Json, Json]:
    """`data` and its `payload`. Raises UnreadableRequest."""
    try:
        message = request.json
    except (ValueError, RecursionError):
        raise UnreadableRequest("telnyx: the body is not JSON") from None
    data = message.get("data") if isinstance(message, dict) else None
    payload = data.get("payload") if isinstance(data, dict) else None
    if not isinstance(data, dict) or not isinstance(payload, dict):
        raise UnreadableRequest("telnyx: an event without data.payload")
    return data, payload


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _call_id(payload: Json) -> str:
    call_id = _text(payload.get("call_control_id"))
    if not ID.fullmatch(call_id):
        raise UnreadableRequest("telnyx: call_control_id is missing, or no id")
    return call_id


def _key(data: Json) -> str:
    """What a repeated delivery has again: `data.id`. `meta.attempt` and the signature differ."""
    return _text(data.get("id")) or f"{data.get('event_type')} {data.get('occurred_at')}"


def _call(data: Json, payload: Json, direction: str) -> InboundCall:
    extra = {name: _text(payload.get(name)) for name in ("call_leg_id", "call_session_id", "connection_id")}
    extra |= {"control": "call_control", "event_id": _key(data)}
    parameters = {**_headers(payload.get("custom_headers")), **_headers(payload.get("sip_headers"))}
    if direction == "outbound":
        extra["answered"] = "yes"
        ordered = unpack_state(payload.get("client_state")).get("parameters")
        parameters |= ordered if isinstance(ordered, dict) else {}
    return InboundCall(
        carrier="telnyx",
        call_id=_call_id(payload),
        from_number=_text(payload.get("from")),
        to_number=_text(payload.get("to")),
        direction=direction,
        parameters=parameters,
        extra={name: value for name, value in extra.items() if value},
    )


def _headers(value: Any) -> dict[str, str]:
    """SIP headers: a list of names and values."""
    items: Sequence[Any] = value if isinstance(value, list) else ()
    return {
        item["name"]: _text(item.get("value"))
        for item in items
        if isinstance(item, dict) and isinstance(item.get("name"), str)
    }


def _status(data: Json, payload: Json, phase: CallPhase, **rest: Any) -> CallStatus:
    return CallStatus(carrier="telnyx", call_id=_call_id(payload), phase=phase, key=_key(data), **rest)


def _report(event: CarrierEvent) -> Handled:
    return Handled(answer=TAKEN, events=[event])
