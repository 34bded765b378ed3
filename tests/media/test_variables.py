"""A call's variables: what may be set, what goes out, and what is missing."""

from __future__ import annotations

import datetime
from decimal import Decimal
from typing import Any

import pytest

from media.errors import GatewayError, VariableError
from media.variables import VariableRule, Variables, text_of

RULES = {
    "intent": VariableRule(required=True, allowed=("billing", "support")),
    "verified": VariableRule(allowed=("true", "false"), default="false"),
    "summary": VariableRule(),
}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("x", "x"),
        ("", ""),
        (True, "true"),
        (False, "false"),
        (12, "12"),
        (1e-5, "0.00001"),
        (1.5, "1.5"),
        (Decimal("2.50"), "2.50"),
        ([1, "é"], '[1,"é"]'),
        ({"a": None}, '{"a":null}'),
        (None, None),
        (float("nan"), None),
        (object(), None),
        (datetime.date(2026, 1, 2), None),
    ],
)
def test_text(value: Any, text: str | None) -> None:
    assert text_of(value) == text


def test_what_was_set_is_read_before_what_came_in_and_alone_goes_out() -> None:
    variables = Variables({"customerId": "C-1", "queue": "sales"})
    variables["queue"] = "billing"
    variables["n"] = 3
    assert dict(variables) == {"customerId": "C-1", "queue": "billing", "n": 3}
    assert variables.outgoing == {"queue": "billing", "n": 3}
    del variables["n"]
    variables["queue"] = None
    assert variables["queue"] == "sales"
    assert variables.outgoing == {}


@pytest.mark.parametrize("value", [object(), float("inf"), {1, 2}, datetime.datetime(2026, 1, 1)])
def test_a_value_without_a_text_is_refused_by_name(value: Any) -> None:
    variables = Variables()
    with pytest.raises(VariableError, match="variable 'secret'") as wrong:
        variables["secret"] = value
    assert type(value).__name__ in str(wrong.value)
    assert isinstance(wrong.value, ValueError)
    assert isinstance(wrong.value, GatewayError)
    assert not variables.changed


def test_only_what_was_agreed_on_may_be_set() -> None:
    variables = Variables({"customerId": "C-1"})
    variables.expect(RULES)
    variables["intent"] = "billing"
    variables["verified"] = True
    variables["summary"] = {"any": "thing"}
    with pytest.raises(VariableError, match="variable 'intnet': is none of this call's: intent, verified, summary"):
        variables["intnet"] = "billing"
    with pytest.raises(VariableError, match="variable 'intent': its value is none of billing, support") as wrong:
        variables["intent"] = "4111 1111 1111 1111"
    assert "4111" not in str(wrong.value)
    assert variables["intent"] == "billing"


def test_defaults_go_out_but_are_not_read() -> None:
    variables = Variables({"verified": "asked"})
    variables.expect(RULES)
    assert variables["verified"] == "asked"
    assert dict(variables.outgoing) == {"verified": "false"}
    variables["verified"] = True
    assert dict(variables.outgoing) == {"verified": True}


def test_what_is_missing() -> None:
    variables = Variables()
    assert variables.missing == []
    variables.expect({**RULES, "queue": VariableRule(required=True, default="front desk")})
    assert variables.missing == ["intent"]
    variables["intent"] = "support"
    assert variables.missing == []
    variables["intent"] = None
    assert variables.missing == ["intent"]


def test_a_default_must_be_allowed() -> None:
    with pytest.raises(ValueError, match="default must be one of allowed"):
        VariableRule(allowed=("a",), default="b")
