"""Plain integers, read when somebody scrapes `/metrics`."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any

from prometheus_client.core import (
    CollectorRegistry,
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.process_collector import ProcessCollector

from gateway.records import CallRecord

# Counters of a call that are summed over calls: metric name, help, key of CallRecord.counters.
_SUMMED = (
    ("gateway_bad_messages", "messages of carriers that were dropped as malformed", "bad_messages"),
    ("gateway_interruptions", "times a caller interrupted a bot", "interruptions"),
    ("gateway_floor_held", "times a bot fell silent because its caller made a sound", "floor_held"),
    ("gateway_floor_went_on", "times such a bot went on, because no turn followed", "floor_went_on"),
    ("gateway_floor_interrupted", "times such a sound became a turn", "floor_interrupted"),
    ("gateway_floor_echo", "times a bot's own echo was recognised", "floor_echo"),
    ("gateway_turns", "turns: what a caller says, and the bot's answer", "turns"),
    ("gateway_turns_interrupted", "turns that ended because the caller cut the bot off", "turns_interrupted"),
    ("gateway_digits", "keys pressed by callers", "digits"),
    ("gateway_underruns", "times a bot's speech ran dry in mid-utterance", "underruns"),
    ("gateway_late_dropped", "packets dropped because a carrier read too slowly", "late_dropped"),
    ("gateway_bot_errors", "errors of bots", "errors"),
    ("gateway_apologies", "times an agent's services had all failed, and its caller was told", "apologies"),
    ("gateway_held", "times a caller was asked to wait for an answer", "held"),
    ("gateway_drain_limits", "calls whose last words took longer than the limit", "drain_limit"),
    ("gateway_discarded_milliseconds", "caller audio that carriers dropped", "discarded_ms"),
)

# Counters of an agent's services, by their kind: metric name, help, rest of the key behind "stt_", "llm_", "tts_".
_SERVICE_KINDS = ("stt", "llm", "tts", "speech")
_OF_SERVICES = (
    ("gateway_service_answers", "answers of recognisers, models and voices", "answers"),
    ("gateway_service_first_byte_milliseconds", "what they took until their first byte, added up", "ttfb_ms"),
    ("gateway_service_failovers", "times another service took over", "failovers"),
    ("gateway_service_tokens", "tokens, as models count them", "tokens"),
    ("gateway_service_characters", "characters that were spoken", "characters"),
)

# Seconds that people notice: below half of one nobody does, above two they ask whether anybody is there.
_WAITS = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)


class Histogram:
    """How often a time was within each bound, by one label."""

    def __init__(self, name: str, text: str, label: str, bounds: tuple[float, ...] = _WAITS) -> None:
        self._name, self._text, self._label, self._bounds = name, text, label, bounds
        self._counts: dict[str, list[int]] = {}
        self._sums: dict[str, float] = {}

    def add(self, which: str, seconds: float) -> None:
        counts = self._counts.setdefault(which, [0] * (len(self._bounds) + 1))
        counts[bisect_left(self._bounds, seconds)] += 1
        self._sums[which] = self._sums.get(which, 0.0) + seconds

    def family(self) -> HistogramMetricFamily:
        found = HistogramMetricFamily(self._name, self._text, labels=[self._label])
        ends = [*map(str, self._bounds), "+Inf"]
        for which, counts in sorted(self._counts.items()):
            found.add_metric([which], list(zip(ends, accumulate(counts), strict=True)), self._sums[which])
        return found


class Metrics:
    """Counts of this process; gauges are functions that are asked at the scrape."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.answered: Counter[str] = Counter()  # by carrier
        self.webhooks: Counter[tuple[str, str, str]] = Counter()  # by carrier, route and what came of it
        self.started: Counter[str] = Counter()  # by carrier
        self.refused: Counter[tuple[str, str]] = Counter()  # by carrier and reason
        self.ended: Counter[tuple[str, str, str]] = Counter()  # by carrier, who ended it, reason
        self.summed: Counter[str] = Counter()
        self.services: Counter[tuple[str, str]] = Counter()  # by kind and what was counted
        self.service_failures: Counter[tuple[str, str]] = Counter()  # by kind and service
        self.waits = Histogram(
            "gateway_answer_seconds",
            "from a caller's last sound to the bot's first: all of it, and its parts",
            "part",
        )
        self.first_words = Histogram(
            "gateway_first_word_seconds", "from a call's beginning to the bot's first sound", "carrier"
        )
        self.gauges: dict[str, tuple[str, Callable[[], float]]] = {}
        self.tallies: dict[str, tuple[str, tuple[str, ...], Callable[[], Mapping[Any, int]]]] = {}
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)  # CPU and memory, where there is /proc

    def count(self, record: CallRecord) -> None:
        """Add a finished call."""
        self.ended[record.info.carrier, record.ended_by, record.reason] += 1
        for _, _, key in _SUMMED:
            self.summed[key] += record.counters.get(key, 0)
        for key, value in record.counters.items():
            kind, _, what = key.partition("_")
            if kind in _SERVICE_KINDS:
                self.services[kind, what] += value
                if what.startswith("failed_"):
                    self.service_failures[kind, what.removeprefix("failed_")] += value
        for answer in record.answers:
            self.waits.add("all", answer.wait_s)
            for part, seconds in answer.parts.items():
                self.waits.add(part, seconds)
        if "first_word_ms" in record.counters:
            self.first_words.add(record.info.carrier, record.counters["first_word_ms"] / 1000)

    def webhook(self, carrier: str, route: str, result: str) -> None:
        """Count one webhook: "answered", or why it was not."""
        self.webhooks[carrier, route, result] += 1

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        self.gauges[name] = (text, read)

    def tally(self, name: str, text: str, labels: str, read: Callable[[], Mapping[Any, int]]) -> None:
        """Counts that somebody else keeps, by the value of a label, or by tuples of the values of several (`"a b"`)."""
        self.tallies[name] = (text, tuple(labels.split()), read)

    def render(self) -> bytes:
        """The text exposition of Prometheus."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Any]:
        webhooks = CounterMetricFamily("gateway_webhooks", "carriers' requests", labels=["carrier", "route", "result"])
        for which, value in sorted(self.webhooks.items()):
            webhooks.add_metric(list(which), value)
        yield webhooks
        answered = CounterMetricFamily("gateway_calls_answered", "calls admitted at a webhook", labels=["carrier"])
        for carrier, value in sorted(self.answered.items()):
            answered.add_metric([carrier], value)
        yield answered
        started = CounterMetricFamily("gateway_calls_started", "media sockets let in", labels=["carrier"])
        for carrier, value in sorted(self.started.items()):
            started.add_metric([carrier], value)
        yield started
        refused = CounterMetricFamily("gateway_calls_refused", "media sockets refused", labels=["carrier", "reason"])
        for labels, value in sorted(self.refused.items()):
            refused.add_metric(list(labels), value)
        yield refused
        ended = CounterMetricFamily("gateway_calls_ended", "calls over", labels=["carrier", "ended_by", "reason"])
        for who, value in sorted(self.ended.items()):
            ended.add_metric(list(who), value)
        yield ended
        for name, text, key in _SUMMED:
            family = CounterMetricFamily(name, text)
            family.add_metric([], self.summed[key])
            yield family
        yield self.waits.family()
        yield self.first_words.family()
        for name, text, what in _OF_SERVICES:
            family = CounterMetricFamily(name, text, labels=["kind"])
            for kind in _SERVICE_KINDS:
                if value := self.services[kind, what]:
                    family.add_metric([kind], value)
            yield family
        failures = CounterMetricFamily("gateway_service_failures", "errors of services", labels=["kind", "service"])
        for labels, value in sorted(self.service_failures.items()):
            failures.add_metric(labels, value)
        yield failures
        for name, (text, names, counts) in self.tallies.items():
            family = CounterMetricFamily(name, text, labels=names)
            for which_one, value in sorted(counts().items()):
                family.add_metric([which_one] if len(names) == 1 else list(which_one), value)
            yield family
        for name, (text, read) in self.gauges.items():
            gauge = GaugeMetricFamily(name, text)
            gauge.add_metric([], read())
            yield gauge


def joined(texts: Mapping[str, bytes]) -> bytes:
    """What several workers render, as one: each sample says whose it is."""
    families: dict[str, Metric] = {}
    for worker, text in sorted(texts.items()):
        for family in text_string_to_metric_families(text.decode()):
            whole = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                whole.samples.append(sample._replace(labels={**sample.labels, "worker": worker}))
    return generate_latest(_Fixed(families.values()))


class _Fixed(CollectorRegistry):
    """Families that are there already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        super().__init__()
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families
