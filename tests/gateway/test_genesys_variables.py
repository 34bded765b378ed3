"""Architect's variables through a call: what comes in, what goes out, and that a flow never gets half an answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from bots.base import Call
from gateway.ports import BotRoute
from gateway.settings import parse_settings
from gateway.simulator.base import CallPlan
from gateway.simulator.caller import Limits, place_call
from gateway.simulator.genesys import FakeGenesys
from gateway.simulator.script import HangUp, Press, Script, at
from gateway.states import CallState
from gateway.store import CallKey
from media.errors import ConfigErrors
from media.frames import EndTaskFrame, Frame, InputDTMFFrame
from media.processor import FrameDirection, FrameProcessor
from media.variables import VariableRule
from tests.endtoend.served import run, serve
from tests.gateway.virtual import VirtualCall

RULES = {
    "intent": VariableRule(required=True, allowed=("billing", "support")),
    "verified": VariableRule(allowed=("true", "false"), default="false"),
}


class Session(VirtualCall):
    """A call with agreed variables, and its bot's handle."""

    def __init__(self, rules: Mapping[str, VariableRule] = RULES, carrier: str = "genesys", **options: Any) -> None:
        self.calls: list[Call] = []
        plan = CallPlan(parameters={"customerId": "C-1077"}, options=options)
        super().__init__(carrier, self._remember, plan=plan)
        self.core._route = lambda info: BotRoute("test", self._remember, output_variables=rules)
        self.run(0.5)

    def _remember(self, call: Call) -> Sequence[FrameProcessor]:
        self.calls.append(call)
        return []

    @property
    def variables(self) -> Any:
        return self.calls[0].variables

    @property
    def disconnect(self) -> dict[str, Any] | None:
        assert isinstance(self.fake, FakeGenesys)
        return self.fake.disconnect


def test_a_whole_answer() -> None:
    call = Session()
    assert call.variables["customerId"] == "C-1077"
    call.variables["intent"] = "billing"
    call.calls[0].end()
    call.run(2.0)
    assert call.disconnect == {
        "reason": "completed",
        "outputVariables": {"intent": "billing", "verified": "false"},
    }
    assert call.core.record(call.t).variables == {"intent": "billing", "verified": "false"}


def test_half_an_answer_is_a_failure() -> None:
    call = Session()
    call.variables["verified"] = True
    call.calls[0].end()
    call.run(2.0)
    assert call.disconnect == {
        "reason": "error",
        "info": "the bot has not set: intent",
        "outputVariables": {"verified": "true"},
    }
    assert call.core.record(call.t).counters["variables_missing"] == 1
    assert (call.core.state, call.core.reason, call.core.ended_by) == (CallState.CLOSED, "completed", "bot")


def test_nobody_waits_for_the_answer_of_a_caller_who_left() -> None:
    call = Session()
    call.hang_up()
    call.run(1.0)
    assert call.fake.output_variables == {"verified": "false"}
    assert "variables_missing" not in call.core.record(call.t).counters


def test_variables_of_other_carriers_go_to_the_record() -> None:
    call = Session(carrier="twilio")
    call.variables["intent"] = "support"
    call.calls[0].end()
    call.run(2.0)
    assert call.core.record(call.t).variables == {"intent": "support", "verified": "false"}


class Sets(FrameProcessor):
    """Sets what the digit stands for: a bot with a mistake in it."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self._call = call

    def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        if isinstance(frame, InputDTMFFrame):
            self._call.variables["intent"] = {"1": "billing", "2": "bulling"}[frame.button.value]
            self.push_frame(EndTaskFrame(), FrameDirection.UPSTREAM)
        else:
            self.push_frame(frame, direction)


@pytest.mark.parametrize(("digits", "reason"), [("1", "completed"), ("2", "error")])
def test_through_a_gateway_into_record_and_event(digits: str, reason: str) -> None:
    toml = {
        "bots": {
            "intake": {
                "use": "echo",
                "output_variables": {
                    "intent": {"required": True, "allowed": ["billing", "support"]},
                    "verified": {"default": "false"},
                },
            }
        },
        "numbers": {
            "+14155550100": {"bot": "intake", "output_variables": {"queue": {"default": "front desk"}}},
        },
    }
    wanted = parse_settings(toml)

    async def main() -> None:
        async with serve({"intake": lambda call: [Sets(call)]}) as served:
            gateway = served.gateway
            settings = dataclasses.replace(gateway.settings, bots=wanted.bots, numbers=wanted.numbers)
            gateway.snapshot = dataclasses.replace(gateway.snapshot, settings=settings)
            caller = FakeGenesys(CallPlan(to_number="+14155550100", parameters={"customerId": "C-1"}))
            script = Script().then(at(0.5), Press(digits)).then(at(2.5), HangUp())
            report = await place_call(caller, served.url, script, token="", limits=Limits(longest_s=8))
            assert not report.violations
            expected = {"verified": "false", "queue": "front desk"}
            if digits == "1":
                assert report.ended_by == "bot"
                expected["intent"] = "billing"
            else:
                assert report.ended_by == "caller", "the call goes on without what may not be set"
            assert report.output_variables == expected
            stored = await gateway.store.call(CallKey("genesys", caller.call_id))
            assert stored is not None
            assert dict(stored.variables) == expected
            assert stored.parameters["customerId"] == "C-1"

    run(main())


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"allowed": ["a"], "default": "b"}, "default must be one of allowed"),
        ({"requird": True}, "did you mean required?"),
        ({"allowed": "a"}, "must be an array"),
    ],
)
def test_what_is_wrong_with_a_rule_is_said_with_its_path(rule: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigErrors) as wrong:
        parse_settings({"bots": {"b": {"use": "echo", "output_variables": {"intent": rule}}}})
    assert "bots.b.output_variables.intent" in str(wrong.value)
    assert said in str(wrong.value)
