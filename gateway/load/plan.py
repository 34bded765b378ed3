"""What a load test does: scenarios, how many calls, how they come. Data, and how it is read from a file."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from heapq import heapify, heappop, heapreplace
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from gateway.simulator.base import KEYS, carrier_names
from media.errors import ConfigError

End = Literal["caller", "bot", "drop", "half-open", "refused", "never-start"]

_ENDS = get_args(End)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """[[scenario]]: what one kind of caller does. Seconds count from the open socket."""

    name: str = "talk"
    weight: float = 1.0  # its share of all calls
    carriers: tuple[str, ...] = ()  # in turn; default: those of the command
    to: str = ""  # the number called; default: that of the command
    seconds: float = 0.0  # how long a call lasts; 0: until the test is over
    says: Literal["markers", "silence"] = "markers"  # markers: a tone every two seconds, by which echoes are measured
    digits: str = ""  # pressed at `digits_at_s`, 250 ms apart
    digits_at_s: float = 2.0
    barge_in_at_s: float = 0.0  # from then on: when the bot speaks, cut in, by `barge_in_by`, and time its silence
    barge_in_by: str = "tone"  # or a key: "1"
    end: End = "caller"
    #   caller: hangs up after `seconds`. bot: the gateway must have ended the call by then
    #   drop: the socket breaks. half-open: the caller neither reads nor writes any more, and does not close
    #   refused: the socket shows no valid token or signature, and must be refused
    #   never-start: it opens, and says nothing

    def __post_init__(self) -> None:
        problems = (
            (self.end not in _ENDS, f"end is one of {', '.join(_ENDS)}"),
            (self.says not in ("markers", "silence"), "says is markers or silence"),
            (self.weight <= 0, "weight is more than 0"),
            (self.seconds < 0, "seconds is 0 or more"),
            (bool(set(self.digits) - set(KEYS)), f"digits are of {KEYS}"),
            (self.barge_in_by != "tone" and self.barge_in_by not in KEYS, f"barge_in_by is tone, or one of {KEYS}"),
            (bool(set(self.carriers) - set(carrier_names())), f"carriers are of {', '.join(carrier_names())}"),
        )
        for wrong, text in problems:
            if wrong:
                raise ConfigError(f"scenario.{self.name}", text, "see `gateway loadtest --help`")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """A whole test. What several generators share among themselves stands in `share` of `shares`."""

    url: str  # ws://host:port, or wss://
    config: str  # the gateway's configuration: its secret mints tokens, its credentials sign
    calls: int = 10  # up at the same time
    ramp_s: float = 0.0  # the calls begin one after the other, spread over so long; 0: 20 a second
    seconds: float = 20.0  # with all of them up
    carriers: tuple[str, ...] = ("twilio",)
    to: str = "+15550100"
    through: Literal["socket", "webhook"] = "socket"
    strict_every: int = 20  # one call in so many is checked to the last field
    scenarios: tuple[Scenario, ...] = (Scenario(),)
    share: int = 0
    shares: int = 1

    @property
    def rise_s(self) -> float:
        return self.ramp_s or self.calls / 20

    @property
    def whole_s(self) -> float:
        return self.rise_s + self.seconds

    def packed(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def unpacked(cls, packed: dict[str, Any]) -> LoadPlan:
        scenarios = tuple(Scenario(**{**each, "carriers": tuple(each["carriers"])}) for each in packed["scenarios"])
        return cls(**{**packed, "carriers": tuple(packed["carriers"]), "scenarios": scenarios})


@dataclass(frozen=True, slots=True, order=True)
class Arrival:
    """One call to be placed: `at` and `lasts` in seconds, on the test's own clock."""

    at: float
    number: int
    lasts: float
    scenario: Scenario = field(compare=False)
    carrier: str = field(compare=False)


def arrivals(plan: LoadPlan) -> Iterator[Arrival]:
    """Every call of this generator's share, in order. It is decided in advance: a slow gateway gets no fewer calls.

    Each of `calls` places is taken during the ramp. Where a scenario is shorter than the test, the place is taken again
    each time it is over; the first time it lasts a part of its length, so that ends and beginnings do not bunch.
    """
    kinds = _dealt(plan.scenarios, plan.calls)
    places = range(plan.share, plan.calls, plan.shares)
    following = [
        _arrival(plan, plan.rise_s * place / plan.calls, place, kinds[place], (place + 1) / plan.calls)
        for place in places
    ]  # at each place; long tests have more arrivals than memory should hold
    heapify(following)
    while following:
        arrival = following[0]
        yield arrival
        at = arrival.at + arrival.lasts
        if at < plan.whole_s:
            heapreplace(following, _arrival(plan, at, arrival.number + plan.calls, arrival.scenario))
        else:
            heappop(following)


def _arrival(plan: LoadPlan, at: float, number: int, scenario: Scenario, part: float = 1.0) -> Arrival:
    """`part`: of the scenario's length."""
    carriers, left = scenario.carriers or plan.carriers, plan.whole_s - at
    lasts = min(left, scenario.seconds * part) if scenario.seconds else left
    return Arrival(at, number, lasts, scenario, carriers[number % len(carriers)])


def _dealt(scenarios: Sequence[Scenario], count: int) -> list[Scenario]:
    """`count` of them, mixed, as often as they weigh."""
    total = sum(each.weight for each in scenarios)
    owed = [0.0] * len(scenarios)
    dealt = []
    for _ in range(count):
        for index, each in enumerate(scenarios):
            owed[index] += each.weight / total
        best = max(range(len(owed)), key=owed.__getitem__)
        owed[best] -= 1.0
        dealt.append(scenarios[best])
    return dealt


def read_scenarios(path: Path) -> tuple[Scenario, ...]:
    """The [[scenario]] tables of a TOML file. Raises ConfigError."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8")).get("scenario", [])
    except (OSError, ValueError) as exc:
        raise ConfigError(str(path), f"cannot be read: {exc}", "see `gateway loadtest --help`") from None
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise ConfigError(str(path), "has no [[scenario]] table", "see `gateway loadtest --help`")
    return tuple(_scenario(table, f"{path}: scenario {number}") for number, table in enumerate(tables, 1))


def _scenario(table: dict[str, Any], where: str) -> Scenario:
    types = get_type_hints(Scenario)
    known = {each.name for each in fields(Scenario)}
    values: dict[str, Any] = {}
    for name, value in table.items():
        if name not in known:
            raise ConfigError(where, f"has no setting {name!r}", f"one of {', '.join(sorted(known))}")
        if types[name] is float and type(value) is int:
            value = float(value)
        if name == "carriers":
            if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
                raise ConfigError(where, "carriers is a list of names", 'write carriers = ["twilio"]')
            value = tuple(value)
        elif type(value) is not (types[name] if isinstance(types[name], type) else str):
            raise ConfigError(where, f"{name} is {type(value).__name__}", "see `gateway loadtest --help`")
        values[name] = value
    return Scenario(**values)
