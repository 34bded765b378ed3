"""The menu bot: walking, digits in a hurry, wrong digits, no digits, and what is refused at load."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from bots.base import Call, PrepareContext
from bots.menu import MenuWalk, Node, compile_menus
from gateway.registry import carrier_names
from gateway.settings import parse_settings
from gateway.states import CallState
from media.errors import ConfigErrors
from media.frames import CallPausedFrame, CallResumedFrame, InputDTMFFrame, InterruptionFrame, KeypadEntry
from media.processor import FrameDirection, FrameProcessor
from tests.bots.talk import Talk, whole
from tests.gateway.virtual import VirtualCall

MAIN, SALES, HOURS, BYE, WRONG, NOTHING, TWELVE = (
    "main menu prompt",
    "sales",
    "nine to five",
    "goodbye",
    "wrong",
    "nothing",
    "twelve",
)


def table(**changes: Any) -> dict[str, Any]:
    """A menu with one of each kind of choice."""
    return {
        "use": "menu",
        "timeout_s": 3.0,
        "digit_gap_s": 1.0,
        "tries": 2,
        "invalid": WRONG,
        "no_input": NOTHING,
        "give_up": {"say": BYE, "end": True},
        "menus": {
            "main": {
                "prompt": MAIN,
                "choices": {
                    "1": {"say": HOURS},
                    "12": {"say": TWELVE},
                    "2": {"menu": "sales"},
                    "9": {"say": BYE, "end": True},
                    "0": {"transfer": "+15550199"},
                    "*": {"repeat": True},
                },
            },
            "sales": {
                "prompt": SALES,
                "choices": {
                    "1": {"say": BYE, "transfer": "sip:sales@example.com"},
                    "*": {"back": True},
                    "5": {"menu": "main"},
                    "33": {"say": TWELVE},
                },
            },
        },
        **changes,
    }


_HERE = Path(__file__).parent


def talk(**changes: Any) -> Talk:
    return Talk(table(**changes))


# ---------------------------------------------------------------- walking


def test_the_menu_is_said_and_a_key_says_more_and_then_the_menu_again() -> None:
    it = talk()
    it.run(1.8)
    assert it.heard == whole(MAIN)
    it.press("1")
    it.run(0.9)  # "12" may still come
    assert it.heard == whole(MAIN)
    it.run(3.0)
    assert it.heard == whole(MAIN, HOURS, MAIN)


def test_a_key_ends_the_call_after_the_last_word_was_heard() -> None:
    it = talk()
    it.run(2.0)
    it.press("9")
    assert it.state is CallState.DRAINING
    it.run(3.0)
    assert it.heard == whole(MAIN, BYE)
    assert (it.state, it.reason) == (CallState.CLOSED, "completed")
    assert it.call.core.ended_by == "bot"


def test_a_key_hands_the_caller_over() -> None:
    it = talk()
    it.run(2.0)
    it.press("0")
    assert it.transfers == ["+15550199"]
    assert it.texts == [MAIN]


def test_a_sub_menu_and_back() -> None:
    it = talk()
    it.run(2.0)
    it.press("2")
    it.run(1.0)
    assert it.heard == whole(MAIN, SALES)
    it.press("*")
    it.run(2.0)
    assert it.heard == whole(MAIN, SALES, MAIN)
    it.press("*")  # here it repeats
    it.run(2.0)
    assert it.texts == [MAIN, SALES, MAIN, MAIN]


def test_what_is_said_before_a_transfer_comes_first() -> None:
    it = talk()
    it.run(2.0)
    it.press("2")
    it.run(1.0)
    it.press("1")
    it.run(1.5)
    assert it.transfers == ["sip:sales@example.com"]
    assert it.heard == whole(MAIN, SALES, BYE)


def test_walking_in_a_circle_does_not_make_the_way_back_longer() -> None:
    it = talk()
    it.run(2.0)
    for _ in range(5):
        it.press("2")
        it.press("5")
    assert it.call.core.pipeline is not None
    (walk,) = (one for one in it.call.core.pipeline.processors if isinstance(one, MenuWalk))
    assert walk._way == ["main"]


# ---------------------------------------------------------------- digits in a hurry


def test_a_key_in_mid_prompt_silences_it_at_once() -> None:
    it = talk()
    it.run(0.6)
    it.press("2")
    it.run(1.0)
    (main, heard_s), sales = it.heard
    assert main == MAIN
    assert heard_s < 0.7
    assert [sales] == whole(SALES)
    assert it.call.core.counters["interruptions"] == 1


def test_a_key_while_nothing_is_said_interrupts_nobody() -> None:
    it = talk()
    it.run(2.0)
    it.press("2")
    assert it.call.core.counters["interruptions"] == 0


def test_keys_typed_ahead_are_not_lost_and_skip_the_prompts_between() -> None:
    it = talk()
    it.run(0.5)
    it.press("2*9")
    it.run(3.0)
    assert it.texts == [MAIN, BYE]
    assert it.reason == "completed"


def test_the_longest_choice_wins() -> None:
    it = talk()
    it.run(2.0)
    it.press("1")
    it.run(0.5)
    it.press("2")
    it.run(2.5)
    assert it.heard == whole(MAIN, TWELVE, MAIN)


def test_what_does_not_belong_to_the_longest_choice_is_the_next_one() -> None:
    it = talk()
    it.run(2.0)
    it.press("19")  # 1, then 9: no choice begins with 19
    it.run(2.0)
    assert it.heard == whole(MAIN, BYE)


def test_a_caller_hears_himself_while_an_echo_menu_waits() -> None:
    menus = table()["menus"]
    menus["sales"] |= {"echo": True}
    it = talk(menus=menus)
    voice = struct.pack("<h", it.tongue.level("myself")) * 8000
    it.call.say(voice * 2)
    it.run(2.0)
    assert it.heard == whole(MAIN)
    it.press("2")
    it.call.say(voice)
    it.run(0.5)
    it.call.say(voice)
    it.run(1.5)
    it.press("*")
    it.call.say(voice)
    it.run(1.0)
    assert it.texts == [MAIN, SALES, "myself", MAIN]
    assert it.heard[2][1] == pytest.approx(1.5, abs=0.1)


def test_the_pound_key_ends_a_choice_at_once() -> None:
    it = talk()
    it.run(2.0)
    it.press("1#")
    it.run(0.3)
    assert it.texts == [MAIN, HOURS]


def test_keys_after_the_last_word_change_nothing() -> None:
    it = talk()
    it.run(2.0)
    it.press("9")
    it.press("2")
    it.run(3.0)
    assert it.heard == whole(MAIN, BYE)


def test_keys_that_arrive_with_the_start_are_not_lost() -> None:
    it = talk()
    it.press("2")
    it.run(1.0)
    assert it.texts[-1] == SALES


def test_keys_that_come_before_the_pipeline_runs_are_kept() -> None:
    it = talk()
    settings: Any = parse_settings({"bots": {"it": table()}}).bots["it"].options
    nodes = compile_menus(settings, PrepareContext(_HERE, (8000,), it.tongue.speak))

    def build(call: Call) -> Sequence[FrameProcessor]:
        walk = MenuWalk(call, nodes, "main")
        for key in "29":
            walk.process_frame(InputDTMFFrame(KeypadEntry(key)), FrameDirection.DOWNSTREAM)
        return (walk,)

    it.call = VirtualCall("twilio", build)
    it.run(1.5)
    assert it.texts == [WRONG, SALES]


# ---------------------------------------------------------------- wrong keys and none


def test_a_wrong_key_is_told_and_the_menu_comes_again() -> None:
    it = talk()
    it.run(2.0)
    it.press("7")
    it.run(3.0)
    assert it.heard == whole(MAIN, WRONG, MAIN)


def test_half_a_choice_is_a_wrong_key_when_nothing_follows() -> None:
    it = talk()
    it.run(2.0)
    it.press("2")
    it.run(1.0)
    it.press("3")
    it.run(2.0)
    assert it.texts == [MAIN, SALES, WRONG, SALES]


def test_no_key_is_told_and_in_the_end_the_menu_gives_up() -> None:
    it = talk()
    it.run(1.6 + 2.9)
    assert it.heard == whole(MAIN)
    it.run(3.0)
    assert it.heard == whole(MAIN, NOTHING, MAIN)
    it.run(5.0)
    assert it.heard == whole(MAIN, NOTHING, MAIN, BYE)
    assert (it.state, it.reason) == (CallState.CLOSED, "completed")


def test_the_time_out_counts_from_the_end_of_the_prompt() -> None:
    it = talk(timeout_s=1.0)
    it.run(1.6 + 0.9)
    assert it.heard == whole(MAIN)
    it.run(0.5)
    assert it.texts == [MAIN, NOTHING]


def test_wrong_keys_and_no_keys_count_together_and_a_right_one_forgives() -> None:
    it = talk()
    it.run(2.0)
    it.press("7")
    it.run(2.5)
    it.press("2")
    it.run(0.7)
    it.press("*")
    it.run(2.0)
    it.press("7")  # the second in all, the first since
    it.run(3.0)
    assert it.texts == [MAIN, WRONG, MAIN, SALES, MAIN, WRONG, MAIN]
    it.press("7")
    it.run(3.0)
    assert it.texts[-1] == BYE
    assert it.state is CallState.CLOSED


def test_a_menu_may_have_its_own_patience() -> None:
    menus = table()["menus"]
    menus["sales"] |= {"tries": 1, "timeout_s": 0.5, "give_up": {"transfer": "+15550100"}}
    it = talk(menus=menus)
    it.run(2.0)
    it.press("2")
    it.run(0.5 + 0.5 + 0.3)
    assert it.transfers == ["+15550100"]


# ---------------------------------------------------------------- from outside


def test_a_voice_that_interrupts_leaves_the_menu_waiting_for_a_key() -> None:
    it = talk()
    it.run(0.5)
    it.call.core.inject(InterruptionFrame())
    it.run(2.0)
    assert it.texts == [MAIN]
    it.run(1.5)
    assert it.texts == [MAIN, NOTHING]


def test_the_clock_stands_while_the_call_is_on_hold() -> None:
    it = talk()
    it.run(2.0)
    it.call.core.inject(CallPausedFrame())
    it.run(10.0)
    assert it.texts == [MAIN]
    it.call.core.inject(CallResumedFrame())
    it.run(2.0)
    assert it.texts == [MAIN]
    it.run(2.0)
    assert it.texts[:2] == [MAIN, NOTHING]


def test_a_shutdown_in_mid_prompt_says_nothing_more() -> None:
    it = talk()
    it.run(0.5)
    it.call.core.shutdown()
    it.press("2")
    it.run(5.0)
    assert SALES not in it.texts
    assert it.state is CallState.CLOSED


@pytest.mark.parametrize("carrier", carrier_names())
def test_the_same_walk_through_every_carrier(carrier: str) -> None:
    it = Talk(table(), carrier)
    it.run(0.8)
    it.press("2")
    it.run(1.5)
    it.press("*")
    it.run(0.5)
    it.press("9")
    it.run(5.0)
    assert it.reason == "completed"
    assert it.call.core.counters["interruptions"] == 2


def test_prompts_are_at_the_wires_rate_whatever_the_pipeline_runs_at() -> None:
    it = Talk(table(), sample_rate=24000)
    it.run(2.0)
    assert it.heard == whole(MAIN)
    assert it.call.core.output._resampler is None


# ---------------------------------------------------------------- what is refused


def problems(**changes: Any) -> dict[str, str]:
    """Path in the bot's table -> problem, of a menu that must be refused."""
    with pytest.raises(ConfigErrors) as caught:
        compiled(table(**changes))
    return {error.path.removeprefix("bots.it."): f"{error.problem} ({error.remedy})" for error in caught.value.errors}


def compiled(menu: dict[str, Any]) -> Mapping[str, Node]:
    settings = parse_settings({"bots": {"it": menu}}).bots["it"].options
    return compile_menus(settings, PrepareContext(_HERE, (8000,), lambda text, voice, rate: b"\0\1"))


def test_a_good_menu_compiles() -> None:
    nodes = compiled(table())
    assert nodes.keys() == {"main", "sales"}
    assert nodes["main"].unfinished == {"1"}
    assert nodes["sales"].unfinished == {"3"}


def test_what_no_single_table_can_know_is_told_at_once() -> None:
    menus = table()["menus"]
    menus["main"]["choices"] |= {"4": {"menu": "nowhere"}, "x1": {"end": True}, "5": {"say": "missing.wav"}}
    menus["lost"] = {"prompt": "hidden.wav", "choices": {"1": {"end": True}}}
    menus["sales"]["give_up"] = {"menu": "main"}
    found = problems(menus=menus, start="mian", give_up={"repeat": True})
    assert found.keys() == {
        "start",
        "give_up",
        "menus.main.choices.4.menu",
        "menus.main.choices.x1",
        "menus.main.choices.5.say",
        "menus.lost.prompt",
        "menus.sales.give_up",
    }
    assert "missing.wav" in found["menus.main.choices.5.say"]
    assert problems(menus=table()["menus"] | {"lost": {"prompt": "hi", "choices": {"1": {"end": True}}}}) == {
        "menus.lost": 'no choice leads to it (give a choice menu = "lost", or drop it)'
    }


def test_what_is_wrong_within_a_table_is_told_by_the_settings() -> None:
    menus = table()["menus"]
    menus["main"]["choices"] |= {
        "4": {"menu": "sales", "end": True},
        "5": {},
        "6": {"sya": "hello"},
        "7": {"say": {"voice": "de"}},
        "8": {"say": 8},
        "#": {"end": "yes"},
    }
    menus["sales"]["choices"] = {}
    found = problems(menus=menus, tries=0)
    assert found.keys() == {
        "menus.main.choices.4",
        "menus.main.choices.5",
        "menus.main.choices.6.sya",
        "menus.main.choices.7.say",
        "menus.main.choices.8.say",
        'menus.main.choices."#".end',
        "menus.sales.choices",
        "tries",
    }
    assert "menu and end" in found["menus.main.choices.4"]
    assert "did you mean say?" in found["menus.main.choices.6.sya"]
    assert "must be a string or a table" in found["menus.main.choices.8.say"]


def test_texts_without_a_synthesiser_are_told_once_with_the_remedy() -> None:
    settings = parse_settings({"bots": {"it": table()}}).bots["it"].options
    with pytest.raises(ConfigErrors, match="telephony-gateway\\[speech\\]") as caught:
        compile_menus(settings, PrepareContext(_HERE, (8000,), None))
    assert len(caught.value.errors) == 1
