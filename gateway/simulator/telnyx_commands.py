"""The fake Telnyx's Call Control commands, which work on TeXML calls only in part."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gateway.simulator.base import CallPlan
from gateway.simulator.telnyx_account import error, is_base64, iso
from gateway.simulator.web import Handler, RestRefusal, RestReply, RestRequest, Stage, WebCall

if TYPE_CHECKING:
    from gateway.simulator.telnyx_web import FakeTelnyxWeb

Body = Mapping[str, Any]
Carry = Callable[["FakeTelnyxWeb", WebCall, Body, float], None]

REPEATED_S = 60.0  # for so long a command_id is known
STREAM: Mapping[str, Collection[Any] | None] = {  # field -> its values; None: any text
    "stream_url": None,
    "stream_track": ("inbound_track", "outbound_track", "both_tracks"),
    "stream_codec": ("PCMU", "PCMA", "G722", "OPUS", "AMR-WB", "default"),
    "stream_bidirectional_mode": ("rtp", "mp3"),
    "stream_bidirectional_codec": ("PCMU", "PCMA", "G722", "OPUS", "AMR-WB", "L16"),
    "stream_bidirectional_target_legs": ("both", "self", "opposite"),
}
LATER = {  # fields that `answer` has not
    "stream_bidirectional_sampling_rate": (8000, 16000, 22050, 24000, 48000),
    "stream_auth_token": None,
}
COMMON = ("client_state", "command_id")
FIELDS: Mapping[str, Collection[str]] = {
    "answer": (*STREAM, *COMMON, "send_silence_when_idle", "preferred_codecs", "webhook_url", "webhook_url_method"),
    "streaming_start": (*STREAM, *LATER, *COMMON, "custom_parameters"),
    "streaming_stop": COMMON,
    "hangup": COMMON,
    "reject": (*COMMON, "cause"),
    "transfer": (*COMMON, "to", "from", "timeout_secs", "time_limit_secs"),
    "speak": (*COMMON, "payload", "voice", "language", "payload_type"),
}
DIAL = (
    *("connection_id", "to", "from", "timeout_secs", "time_limit_secs", "webhook_url", "webhook_url_method"),
    *("answering_machine_detection", "send_silence_when_idle", "stream_establish_before_call_originate"),
    *STREAM,
    *LATER,
    *COMMON,
)
CAUSES = {"CALL_REJECTED": "rejected", "USER_BUSY": "busy", "NOT_FOUND": "failed", "TEMPORARILY_UNAVAILABLE": "failed"}
DETECTIONS = ("premium", "detect", "detect_beep", "detect_words", "greeting_end", "disabled")
NAMES = {"hangup": "hang-up", "streaming_start": "answer"}
ON_TEXML = ("hangup",)  # the document owns the leg: a transferred call would end with it
OK: Body = {"data": {"result": "ok"}}


def routes(web: FakeTelnyxWeb) -> Sequence[tuple[str, str, str, Handler]]:
    one = r"/v2/calls/(?P<call>[^/]+)"
    commands = tuple(
        ("POST", f"{one}/actions/{action}", NAMES.get(action, action), _command(web, action)) for action in FIELDS
    )
    return (
        *commands,
        ("POST", "/v2/calls", "dial", lambda request, match, now: _dial(web, request, now)),
        ("GET", one, "fetch", lambda request, match, now: _fetch(web, request, match)),
    )


def _command(web: FakeTelnyxWeb, action: str) -> Handler:
    carry_out = _CARRY[action]

    def handle(request: RestRequest, match: re.Match[str], now: float) -> RestReply:
        call = _call(web, match["call"])
        body = _body(web, request, FIELDS[action])
        if web.control == "texml" and action not in ON_TEXML:
            web.violate("a TeXML call is controlled by its documents", action)
        # Known before anything else is looked at: what was done is not done again, and no error either.
        seen = web.told(call).commands
        if (own_id := body.get("command_id")) and now - seen.get(own_id, -REPEATED_S) < REPEATED_S:
            return RestReply.of(200, OK)
        if call.gone:
            return web.already_over(request, action)
        carry_out(web, call, body, now)
        if own_id:
            seen[own_id] = now
        return RestReply.of(200, OK)

    return handle


# ---------------------------------------------------------------- commands


def _answer(web: FakeTelnyxWeb, call: WebCall, body: Body, now: float) -> None:
    if call.answered_at is not None or call.direction != "inbound":
        web.violate("only a call that rings is answered")
    _remember(web, call, body)
    if "stream_url" in body:
        _order_stream(web, call, body)
    web.took_effect(call)
    web.answered(call, now)


def _streaming_start(web: FakeTelnyxWeb, call: WebCall, body: Body, now: float) -> None:
    if call.answered_at is None:
        web.violate("a stream starts on an answered call")
    if call.stage in (Stage.CONNECTING, Stage.STREAMING):
        web.violate("one stream with bidirectional RTP per call")
    _remember(web, call, body)
    _order_stream(web, call, body)
    web.took_effect(call)
    told = web.told(call)
    assert told.stream is not None
    web.connect(call, told.stream_url, told.stream)


def _streaming_stop(web: FakeTelnyxWeb, call: WebCall, body: Body, now: float) -> None:
    web.took_effect(call)
    if call.stage is Stage.STREAMING:
        web.cut_stream(call, "streaming_stop")


def _hangup(web: FakeTelnyxWeb, call: WebCall, body: Body, now: float) -> None:
    _remember(web, call, body)
    web.hang_up(call, now)


def _reject(web: FakeTelnyxWeb, call: WebCall, body: Body, now: float) -> None:
    if body.get("cause") not in CAUSES:
        web.violate("cause is " + ", ".join(CAUSES))
    if call.answered_at is not None or call.direction != "inbound":
        web.violate("only a call that rings is rejected")
    web.took_effect(call)
    web.finish(call, "bot", CAUSES[body["cause"]], now)


def _transfer(web: FakeTelnyxWeb, call: WebCall, body: Body, now: float) -> None:
    if not isinstance(body.get("to"), str) or not re.fullmatch(r"\+[1-9]\d{6,14}|sips?:\S+@\S+", body["to"]):
        web.violate("to is a number in E.164 or a SIP URI")
    _check_number(web, body, "timeout_secs", 5, 600)
    web.took_effect(call)
    if call.answered_at is None:
        call.answered_at = now
    call.handed_to.append(body["to"])
    if call.stage is not Stage.STREAMING:  # a stream goes on beside the two until somebody closes it
        call.stage = Stage.BETWEEN


def _speak(web: FakeTelnyxWeb, call: WebCall, body: Body, now: float) -> None:
    for name in ("payload", "voice"):
        if not body.get(name):
            web.violate(f"speak needs {name}")
    if call.answered_at is None:
        web.violate("only an answered call is spoken to")
    _remember(web, call, body)
    web.took_effect(call)
    call.spoken.append(body["payload"])
    web.event(call, "call.speak.started", now)
    web.event(call, "call.speak.ended", now, status="completed")


_CARRY: Mapping[str, Carry] = {
    "answer": _answer,
    "streaming_start": _streaming_start,
    "streaming_stop": _streaming_stop,
    "hangup": _hangup,
    "reject": _reject,
    "transfer": _transfer,
    "speak": _speak,
}


def _dial(web: FakeTelnyxWeb, request: RestRequest, now: float) -> RestReply:
    body = _body(web, request, DIAL)
    if body.get("connection_id") != web.credentials["connection_id"] or web.control != "call_control":
        raise RestRefusal(error(422, "10015", "connection_id is no Call Control application of this account"))
    for name in ("to", "from"):
        if not isinstance(body.get(name), str) or not body[name]:
            web.violate(f"{name} is missing")
    _check_number(web, body, "timeout_secs", 5, 600)
    _check_number(web, body, "time_limit_secs", 30, 14400)
    if body.get("answering_machine_detection", "disabled") not in DETECTIONS:
        web.violate("answering_machine_detection is " + ", ".join(DETECTIONS))
    own_id = body.get("command_id", "")
    call = web.dialled.get(own_id) if own_id else None
    if call is None:
        call = web.placed_call(CallPlan(from_number=body["from"], to_number=body["to"]), now)
        if own_id:
            web.dialled[own_id] = call
        told = web.told(call)
        told.webhook_url = body.get("webhook_url", "")
        told.detection = body.get("answering_machine_detection", "").replace("disabled", "")
        _remember(web, call, body)
        if "stream_url" in body:
            _order_stream(web, call, body)
        web.event(call, "call.initiated", now, state="bridging", start_time=iso(now))
    return RestReply.of(200, {"data": {"call_control_id": call.call_id, **web.ids(call), "is_alive": False}})


def _fetch(web: FakeTelnyxWeb, request: RestRequest, match: re.Match[str]) -> RestReply:
    call = _call(web, match["call"])
    return RestReply.of(200, {"data": {"call_control_id": call.call_id, "is_alive": not call.gone}})


# ---------------------------------------------------------------- pieces


def _order_stream(web: FakeTelnyxWeb, call: WebCall, body: Body) -> None:
    web.check_public_url(body.get("stream_url", ""), ("wss",), "stream_url is wss://")
    if body.get("stream_bidirectional_mode") != "rtp":
        web.violate('stream_bidirectional_mode must be "rtp": otherwise nobody would hear the bot')
    receive, send = body.get("stream_codec", "default"), body.get("stream_bidirectional_codec", "PCMU")
    rate = body.get("stream_bidirectional_sampling_rate", 8000)
    if send in ("PCMU", "PCMA") and rate != 8000:
        web.violate("the sampling rate of PCMU and PCMA is 8000", str(rate))
    parameters = body.get("custom_parameters", [])
    if not isinstance(parameters, list) or not all(_is_parameter(item) for item in parameters):
        web.violate("custom_parameters is a list of names and values")
    token = body.get("stream_auth_token", "")
    if not isinstance(token, str) or len(token) > 4000:
        web.violate("stream_auth_token has at most 4000 characters")
    told = web.told(call)
    told.stream_url = body["stream_url"]
    told.stream = replace(
        call.plan,
        parameters={item["name"]: item["value"] for item in parameters},
        receive_codec=call.plan.receive_codec if receive == "default" else receive,
        send_codec=send,
        sample_rate=rate if send == "L16" else 0,
        credentials={**call.plan.credentials, "stream_auth_token": token},
        options={**call.plan.options, "control": "call_control", "client_state": told.client_state},
    )


def _is_parameter(item: Any) -> bool:
    return (
        isinstance(item, dict) and set(item) == {"name", "value"} and all(type(text) is str for text in item.values())
    )


def _check_number(web: FakeTelnyxWeb, body: Body, name: str, least: int, most: int) -> None:
    value = body.get(name, least)
    if type(value) is not int or not least <= value <= most:
        web.violate(f"{name} is {least} to {most}", str(value)[:20])


def _remember(web: FakeTelnyxWeb, call: WebCall, body: Body) -> None:
    if "client_state" in body:
        web.told(call).client_state = body["client_state"]


def _call(web: FakeTelnyxWeb, call_id: str) -> WebCall:
    call = web.calls.get(call_id)
    if call is None:
        raise RestRefusal(error(422, "90015", "Invalid Call Control ID"))
    return call


def _body(web: FakeTelnyxWeb, request: RestRequest, allowed: Collection[str]) -> Body:
    if request.media_type != "application/json":
        web.violate("the body is JSON", request.media_type[:40])
    try:
        body = request.json
    except json.JSONDecodeError:
        web.violate("the body is JSON", f"{len(request.body)} bytes")
    if not isinstance(body, dict):
        web.violate("the body is an object", type(body).__name__)
    if unknown := sorted(body.keys() - set(allowed)):
        web.violate("unknown parameter", ", ".join(unknown)[:80])
    for name, values in {**STREAM, **LATER}.items():
        if name in body and values is not None and body[name] not in values:
            web.violate(f"{name} is one of {', '.join(map(str, values))}", str(body[name])[:20])
    if "client_state" in body and not is_base64(body["client_state"]):
        web.violate("client_state must be base64")
    return body
