"""What is known of a call: values that travel between the layers."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from media.variables import Variables as Variables

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MediaFormat:
    """One direction of a media stream as negotiated on the wire."""

    encoding: str  # "PCMU", "PCMA", "L16" (signed 16 bit; the serializer knows the byte order)
    sample_rate: int  # Hz
    channels: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CallInfo:
    """Who calls whom, through which carrier, in which format.

    Fields that the carrier's `start` does not carry are empty; the media token fills them (`completed_by`).
    """

    carrier: str  # the module's name: "twilio", "vonage", ...
    call_id: str = ""  # the carrier's own id of the call: what its REST API wants
    stream_id: str = ""  # the carrier's id of this media stream, where it has one
    account_id: str = ""
    from_number: str = ""  # as the carrier wrote it: E.164, SIP URI, "anonymous" or empty
    to_number: str = ""
    direction: str = "inbound"  # or "outbound"
    parameters: Mapping[str, Any] = field(default_factory=dict)  # custom parameters, Architect input variables
    receive: MediaFormat = MediaFormat("PCMU", 8000)  # what the carrier sends us
    send: MediaFormat = MediaFormat("PCMU", 8000)  # what we send
    language: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)  # the carrier's further fields, by the carrier's names
    receives_audio: bool = True  # False: the stream is one-way (a monitor); nothing may be sent back
    probe: bool = False  # a synthetic connection test: no bot, no record
    announced: bool = False  # of claims: a webhook has told of the call; its socket can claim to be no other

    def completed_by(self, claims: CallInfo) -> CallInfo:
        """This call with what is empty here taken from `claims`; parameters are joined, `start` wins.

        Whose call it is, and between whom, says the webhook where there was one: it is authentic, and some carriers'
        `start` has other numbers.
        """
        announced = claims.announced
        if announced and self.call_id not in ("", claims.call_id):
            say = "%s: the start of %s names another call than its webhook, which is believed"
            log.warning(say, self.carrier, claims.call_id)
        return replace(
            self,
            call_id=claims.call_id if announced else self.call_id or claims.call_id,
            account_id=claims.account_id or self.account_id,  # the webhook's is the one that requests name
            from_number=_number(self.from_number, claims.from_number),
            to_number=_number(self.to_number, claims.to_number),
            direction=claims.direction,
            parameters={**claims.parameters, **self.parameters},
            language=self.language or claims.language,
        )


def _number(started: str, claimed: str) -> str:
    """The claimed one; but a token has no room for long ones, of which `start` may tell the rest."""
    return claimed if claimed and not started.startswith(claimed) else started
