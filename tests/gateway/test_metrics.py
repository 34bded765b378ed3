"""What `/metrics` says, and how what several workers say becomes one."""

from __future__ import annotations

from collections import Counter

from prometheus_client.parser import text_string_to_metric_families

from gateway.metrics import Metrics, joined


def samples(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_counts_that_others_keep() -> None:
    metrics = Metrics()
    metrics.tally("hang_ups", "ends", "what", lambda: {"done": 2, "again": 1})
    asked = Counter({("twilio", "hang-up", "done"): 3})
    metrics.tally("requests", "asked", "carrier purpose outcome", lambda: asked)
    metrics.gauge("live", "calls", lambda: 7.0)
    found = samples(metrics.render())
    assert found["hang_ups_total", (("what", "done"),)] == 2
    assert found["requests_total", (("carrier", "twilio"), ("outcome", "done"), ("purpose", "hang-up"))] == 3
    assert found["live", ()] == 7


def test_what_several_workers_say_keeps_whose_it_is() -> None:
    texts = {}
    for worker, count in (("0", 3), ("1", 4)):
        metrics = Metrics()
        metrics.started["twilio"] = count
        metrics.gauge("gateway_calls_live", "calls that are up", lambda count=count: float(count))  # type: ignore[misc]
        texts[worker] = metrics.render()
    whole = joined(texts)
    found = samples(whole)
    for worker, count in (("0", 3), ("1", 4)):
        assert found["gateway_calls_started_total", (("carrier", "twilio"), ("worker", worker))] == count
        assert found["gateway_calls_live", (("worker", worker),)] == count
    assert whole.count(b"# HELP gateway_calls_started_total ") == 1
