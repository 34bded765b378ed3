from __future__ import annotations

import base64

import pytest

from gateway.tokens import MAX_LENGTH, TokenError, TokenMint, used_key


class Clock:
    def __init__(self) -> None:
        self.t = 1_767_225_600.0

    def __call__(self) -> float:
        return self.t


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def mint(clock: Clock) -> TokenMint:
    return TokenMint("a made-up key", now=clock)


def test_a_token_brings_its_call_back(mint: TokenMint) -> None:
    token = mint.mint("twilio", call_id="CA1", from_number="+14155550101", to_number="+14155550100", bot="echo")
    claims = mint.read("twilio", token)
    assert (claims.call_id, claims.from_number, claims.to_number, claims.bot) == (
        "CA1",
        "+14155550101",
        "+14155550100",
        "echo",
    )
    assert claims.call().carrier == "twilio"


def test_the_longest_ids_fit(mint: TokenMint) -> None:
    token = mint.mint("telnyx", call_id="v3:" + "K" * 64, from_number="sip:" + "a" * 40, to_number="+14155550100")
    assert len(token) <= MAX_LENGTH
    with pytest.raises(ValueError, match="300"):
        mint.mint("telnyx", call_id="x" * 300)


def test_nothing_of_it_can_be_read(mint: TokenMint) -> None:
    token = mint.mint("twilio", call_id="CA1", from_number="+14155550101")
    raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    assert b"CA1" not in raw
    assert b"4155550101" not in raw


def test_what_is_remembered_of_a_token_is_its_own(mint: TokenMint) -> None:
    one, other = (mint.mint("twilio", call_id="CA1") for _ in range(2))
    assert used_key(one) == used_key(one)
    assert used_key(one) != used_key(other)


def test_it_expires(mint: TokenMint, clock: Clock) -> None:
    token = mint.mint("twilio", ttl_s=60)
    clock.t += 61
    with pytest.raises(TokenError, match="expired"):
        mint.read("twilio", token)


def test_it_is_bound_to_its_carrier_and_key(mint: TokenMint, clock: Clock) -> None:
    token = mint.mint("twilio")
    with pytest.raises(TokenError, match="forged"):
        mint.read("telnyx", token)
    with pytest.raises(TokenError, match="forged"):
        TokenMint("another key", now=clock).read("twilio", token)


def test_every_changed_character_is_refused(mint: TokenMint) -> None:
    token = mint.mint("twilio", call_id="CA1")
    for position in range(len(token)):
        changed = token[:position] + ("A" if token[position] != "A" else "B") + token[position + 1 :]
        with pytest.raises(TokenError):
            mint.read("twilio", changed)
    assert mint.read("twilio", token).call_id == "CA1"


@pytest.mark.parametrize("bad", ["", "x", "a" * 5000, "ü" * 20, "====", "a b", "../../etc/passwd"])
def test_rubbish_is_refused(mint: TokenMint, bad: str) -> None:
    with pytest.raises(TokenError, match="malformed"):
        mint.read("twilio", bad)
