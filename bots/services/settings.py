"""What may be set at a service, and changed in mid-call by a delta: the fields that are given, and only those."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, Self, cast


class _NotGiven(Enum):
    NOT_GIVEN = "not given"

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "NOT_GIVEN"


# The value of a field that nobody has set: it changes nothing in a delta, and is left out of a request. None is a
# value like any other.
NOT_GIVEN: Final = _NotGiven.NOT_GIVEN


def is_given(value: Any) -> bool:
    return value is not NOT_GIVEN


@dataclass
class ServiceSettings:
    """The base: `model`, and in `extra` whatever a vendor has that has no field."""

    model: Any = NOT_GIVEN
    extra: dict[str, Any] = field(default_factory=dict, kw_only=True)

    def given(self) -> dict[str, Any]:
        """The fields that are set, by name; `extra` is not among them."""
        return {
            item.name: value
            for item in dataclasses.fields(self)
            if item.name != "extra" and is_given(value := getattr(self, item.name))
        }

    def beyond(self, base: type[ServiceSettings]) -> dict[str, Any]:
        """Of the fields that are set, those that `base` does not have: a vendor's own."""
        names = {item.name for item in dataclasses.fields(base)}
        return {name: value for name, value in self.given().items() if name not in names}

    def joined_with(self, delta: ServiceSettings) -> Self:
        """A copy in which what `delta` gives has taken the place of what was there."""
        names = {item.name for item in dataclasses.fields(self)}
        changes = {name: value for name, value in delta.given().items() if name in names}
        return dataclasses.replace(self, **changes, extra={**self.extra, **delta.extra})

    def changed_by(self, new: ServiceSettings) -> set[str]:
        """Names of the fields in which `new` differs."""
        return {
            item.name
            for item in dataclasses.fields(self)
            if getattr(self, item.name) != getattr(new, item.name, NOT_GIVEN)
        }

    @classmethod
    def from_mapping(cls, settings: Mapping[str, Any]) -> Self:
        """The old way of writing a delta; what has no field goes into `extra`."""
        names = {item.name for item in dataclasses.fields(cls)} - {"extra"}
        known = {name: value for name, value in settings.items() if name in names}
        rest = {name: value for name, value in settings.items() if name not in names and name != "extra"}
        return cls(**known, extra={**cast(Mapping[str, Any], settings.get("extra", {})), **rest})


@dataclass
class STTSettings(ServiceSettings):
    language: Any = NOT_GIVEN


@dataclass
class TTSSettings(ServiceSettings):
    voice: Any = NOT_GIVEN
    language: Any = NOT_GIVEN


@dataclass
class LLMSettings(ServiceSettings):
    system_instruction: Any = NOT_GIVEN
    temperature: Any = NOT_GIVEN
    max_tokens: Any = NOT_GIVEN
    top_p: Any = NOT_GIVEN
    top_k: Any = NOT_GIVEN
    frequency_penalty: Any = NOT_GIVEN
    presence_penalty: Any = NOT_GIVEN
    seed: Any = NOT_GIVEN
    filter_incomplete_user_turns: Any = NOT_GIVEN
    user_turn_completion_config: Any = NOT_GIVEN
