"""`POST /start`: where clients in browsers ask for a call. The call itself is like any other (webhooks/web.py).

Beside what a webhook has: a page of another site must be allowed to read the answer (CORS), and a refusal says why as
JSON, for the client shows `info`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from webhooks.base import WebRequest
from webhooks.web import WebHttp

if TYPE_CHECKING:
    from gateway.app import Gateway

_INFO = {
    400: "the request does not make sense: the gateway's log says why",
    401: "a key is needed: Authorization: Bearer <key of [carriers.web]>",
    403: "pages of this site may not call: add it to origins in [carriers.web]",
    404: "web callers are not let in: there is no [carriers.web]",
    408: "the request took too long",
    413: "the request is too large",
    503: "no call can be taken now",
}


def start_route(gateway: Gateway) -> Route:
    """The route, whether or not web callers are let in now: a reload may change that."""

    async def start(request: Request) -> Response:
        http: Any = gateway.snapshot.carriers.get("web")
        if not isinstance(http, WebHttp):
            return JSONResponse({"info": _INFO[404]}, 404)
        asked = WebRequest(
            method=request.method,
            url=gateway.answering.addressing.url(request.scope),
            headers=dict(request.headers.items()),
            peer=gateway.answering.addressing.peer(request.scope),
        )
        if request.method == "OPTIONS":
            answer = Response(status_code=204 if http.may_read(asked) else 403)
            answer.headers.update(
                {
                    "access-control-allow-methods": "POST",
                    "access-control-allow-headers": "authorization, content-type",
                    "access-control-max-age": "600",
                }
            )
        else:
            request.scope["path_params"] = {"carrier": "web", "route": "start"}
            answer = await gateway.answering.webhook(request)
            if answer.status_code >= 400 and not answer.body:
                info = _INFO.get(answer.status_code, "the call was turned away")
                answer = JSONResponse({"info": info}, answer.status_code)
        answer.headers["vary"] = "origin"
        origin = request.headers.get("origin", "")
        if origin and http.may_read(asked):
            answer.headers["access-control-allow-origin"] = origin
        return answer

    return Route("/start", start, methods=["POST", "OPTIONS"])
