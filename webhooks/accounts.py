"""Several accounts of one carrier: subaccounts, applications, customers of one's own, each with its credentials.

Whose a call is shows its webhook, by the signature; it stands in the call's `extra` from then on, so that the requests
about it are made with the same account's credentials.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from webhooks.base import (
    CallRef,
    CarrierHttp,
    CarrierRequest,
    DialOrder,
    Handled,
    HttpAnswer,
    InboundCall,
    NotAuthentic,
    Once,
    Outcome,
    Refusal,
    StandingStream,
    StreamOffer,
    Transfer,
    Urls,
    WebRequest,
)

ACCOUNT = "account"  # in `extra` of a call: the name of its account in gateway.toml


class Accounts(CarrierHttp):
    """The HTTP side of a carrier with `accounts`. What is asked of one call goes to the side of its account.

    Args:
        settings: the carrier's own, for what is no account's.
        own: the side of the credentials that stand in the carrier's table itself; None: there are none.
        named: the others, by their names.
    """

    def __init__(self, settings: Any, own: CarrierHttp | None, named: Mapping[str, CarrierHttp]) -> None:
        super().__init__(settings)
        self._named = dict(named)
        for name, side in self._named.items():
            side.account = name
        self._default = own if own is not None else next(iter(self._named.values()))
        self._sides: Sequence[CarrierHttp] = (*self._named.values(), *((own,) if own is not None else ()))
        self.carrier = self._default.carrier  # type: ignore[misc]
        self.outlives_stream = self._default.outlives_stream  # type: ignore[misc]

    # ------------------------------------------------------------ whose it is

    def side_of(self, route: str, request: WebRequest) -> CarrierHttp:
        found = self._likely(request)
        if not self.settings.verify_signatures:
            return found[0]
        for side in found:
            try:
                side.authenticate(route, request)
            except NotAuthentic:
                continue
            return side
        return found[0]  # which says what is wrong with it

    def side_named(self, account: str) -> CarrierHttp:
        if not account:
            return self._default
        try:
            return self._named[account]
        except KeyError:
            raise ValueError(f"{self.carrier} has no account {account!r}") from None

    def _likely(self, request: WebRequest) -> Sequence[CarrierHttp]:
        """All of them; first those whose ids the request names. A main account may vouch for its subaccounts: last."""
        text = request.url.encode() + request.body
        return sorted(self._sides, key=lambda side: not any(each.encode() in text for each in side.ids))

    def _of(self, ref: CallRef) -> CarrierHttp:
        """The side of a call: by the account that its webhook showed, else by what the carrier calls it."""
        if (side := self._named.get(ref.extra.get(ACCOUNT, ""))) is not None:
            return side
        return next((side for side in self._sides if ref.account_id in side.ids), self._default)

    # ------------------------------------------------------------ authenticity

    def authenticate(self, route: str, request: WebRequest) -> Once | None:
        return self.side_of(route, request).authenticate(route, request)

    def authenticate_upgrade(self, request: WebRequest) -> str:
        return self._vouching(request)[1]

    def once_of_upgrade(self, request: WebRequest) -> Once | None:
        return self._vouching(request)[0].once_of_upgrade(request)

    def _vouching(self, request: WebRequest) -> tuple[CarrierHttp, str]:
        """Who says that an upgrade is authentic, and his remark: best one that has none. Raises NotAuthentic."""
        refused: NotAuthentic | None = None
        remarked: tuple[CarrierHttp, str] | None = None
        for side in self._likely(request):
            try:
                remark = side.authenticate_upgrade(request)
            except NotAuthentic as exc:
                refused = refused or exc
            else:
                if not remark:
                    return side, ""
                remarked = remarked or (side, remark)
        if remarked is not None:
            return remarked
        assert refused is not None
        raise refused

    def standing_stream(self, request: WebRequest) -> StandingStream | None:
        return self._default.standing_stream(request)

    # ------------------------------------------------------------ webhooks

    def handle(self, route: str, request: WebRequest, urls: Urls) -> Handled:
        return self.side_of(route, request).handle(route, request, urls)

    def offer(self, call: InboundCall, stream: StreamOffer) -> Handled:
        return self._default.offer(call, stream)

    def refuse(self, call: InboundCall, refusal: Refusal) -> Handled:
        return self._default.refuse(call, refusal)

    def after(self, call_id: str, target: str | None) -> HttpAnswer:
        return self._default.after(call_id, target)

    # ------------------------------------------------------------ call control

    @property
    def rest_lacks(self) -> Sequence[str]:
        return [
            f"accounts.{side.account}.{name}" if side.account else name
            for side in self._sides
            for name in side.rest_lacks
        ]

    def may_send_to(self, url: str) -> bool:
        return any(side.may_send_to(url) for side in self._sides)

    def hang_up(self, ref: CallRef) -> CarrierRequest | None:
        side = self._of(ref)
        return _by(side, side.hang_up(ref))

    def transfer(self, ref: CallRef, target: str, urls: Urls) -> Transfer | None:
        side = self._of(ref)
        transfer = side.transfer(ref, target, urls)
        return replace(transfer, request=_by(side, transfer.request)) if transfer is not None else None

    def dial(self, order: DialOrder, urls: Urls) -> CarrierRequest | None:
        """By the default account; another one's `side_named` is asked itself."""
        return _by(self._default, self._default.dial(order, urls))

    def fetch(self, ref: CallRef) -> CarrierRequest | None:
        side = self._of(ref)
        return _by(side, side.fetch(ref))

    def outcome(self, request: CarrierRequest, status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
        return self._named.get(request.account, self._default).outcome(request, status, headers, body)


def _by(side: CarrierHttp, request: CarrierRequest | None) -> CarrierRequest | None:
    return replace(request, account=side.account) if request is not None else None
