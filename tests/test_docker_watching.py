"""What Prometheus, Grafana and Kubernetes ask of a gateway is what a real one, with calls, answers."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from gateway.reload import Reloader
from gateway.simulator.base import fake_carrier
from gateway.simulator.caller import Limits
from gateway.simulator.script import HangUp, Script, at
from media.exchange import Answer
from tests.endtoend import actors
from tests.endtoend.served import Served, run, serve, until

ROOT = Path(__file__).resolve().parent.parent
DOCKER = ROOT / "docker"
OF_THE_TARGET = {"job", "instance", "worker", "namespace", "pod"}  # labels that scraping, or joining workers, gives
WORDS = {"by", "on", "or", "and", "unless", "without", "offset", "bool"}

PATIENCE = Limits(connect_s=50, ready_s=50, longest_s=200, closing_s=50)  # on a machine that has other work

Series = tuple[str, Mapping[str, str]]


def read(name: str) -> Any:
    return yaml.safe_load((DOCKER / name).read_text())


def expressions() -> dict[str, str]:
    """All that is asked of Prometheus, by where it stands."""
    found = {rule["alert"]: rule["expr"] for group in read("alerts.yml")["groups"] for rule in group["rules"]}
    board = json.loads((DOCKER / "grafana" / "dashboards" / "gateway.json").read_text())
    for panel in board["panels"]:
        for target in panel["targets"]:
            found[f"{panel['title']}: {target['refId']}"] = target["expr"].replace("$__rate_interval", "1m")
    (rule,) = read("kubernetes/prometheus-adapter.yaml")["rules"]["custom"]
    query = rule["metricsQuery"].replace("<<.Series>>", re.sub(r"\{.*", "", rule["seriesQuery"]))
    found["adapter"] = query.replace("<<.LabelMatchers>>", 'namespace="a",pod=~"b|c"').replace("<<.GroupBy>>", "pod")
    return found


def asked_of(expression: str) -> Iterator[tuple[str, dict[str, str], set[str]]]:
    """Each metric in it, the values that its labels are compared with, and the labels that it is grouped by."""
    grouped = {label.strip() for labels in re.findall(r"\bby\s*\(([^)]*)\)", expression) for label in labels.split(",")}
    rest = re.sub(r"\bby\s*\([^)]*\)", " ", expression)
    for name, matchers, called in re.findall(r"(?<![\w.])([a-z_]\w*)\s*(\{[^}]*\})?\s*(\()?", rest):
        if not called and name not in WORDS:
            yield name, dict(re.findall(r'(\w+)\s*[=!]~?\s*"([^"]*)"', matchers)), grouped


def test_the_reader_of_promql_reads() -> None:
    expression = 'sum by (a, le) (rate(x_total{b="c", d=~"e|f"}[10m]) or y unless z offset 5m) > 0.5 * max(q)'
    assert list(asked_of(expression)) == [
        ("x_total", {"b": "c", "d": "e|f"}, {"a", "le"}),
        *((name, {}, {"a", "le"}) for name in ("y", "z", "q")),
    ]


async def ask(served: Served, path: str) -> httpx.Response:
    """On a connection of its own, as probes do."""
    async with httpx.AsyncClient(base_url=f"http{served.url[2:]}", trust_env=False, timeout=PATIENCE.connect_s) as http:
        return await http.get(path)


def test_what_is_watched_is_measured(tmp_path: Path) -> None:
    """Every metric that an alert, the dashboard or the autoscaling asks for is there, with the labels asked for."""

    async def main() -> list[Series]:
        async with serve({"bot": actors.echo}, numbers={"default": "bot"}) as served:
            gateway = served.gateway
            reloader = Reloader(gateway, tmp_path / "gateway.toml")
            await served.call("twilio", Script().then(at(0.2), HangUp()), limits=PATIENCE)
            await served.empty(PATIENCE.closing_s)
            await until(lambda: served.records, PATIENCE.closing_s)
            assert (await ask(served, "/twilio/media/forged")).status_code == 426
            fake = fake_carrier("plivo")()
            gateway.calls.draining = True
            refused = await served.call(fake, Script(), limits=PATIENCE)
            gateway.calls.draining = False
            assert refused.refused == 503
            assert (await ask(served, "/twilio/answer?CallSid=CA1&From=%2B1&To=%2B2")).status_code == 200
            # What only carriers, services and receivers of events can bring about.
            gateway.hang_ups.counters["failed"] += 1
            gateway.api.counters["twilio", "hang-up", "done"] += 1
            gateway.events.counters["given_up"] += 1
            reloader.counters["refused"] += 1
            counters = {"llm_failed_openai": 1, "llm_failovers": 1, "first_word_ms": 500}
            answer = Answer(1.0, {"answer": 0.5})
            gateway.metrics.count(dataclasses.replace(served.record("twilio"), counters=counters, answers=(answer,)))
            text = (await ask(served, "/metrics")).text
        families = text_string_to_metric_families(text)
        return [(sample.name, sample.labels) for family in families for sample in family.samples]

    series = run(main(), limit_s=PATIENCE.longest_s)
    sources = "".join(path.read_text() for folder in ("gateway", "webhooks") for path in (ROOT / folder).rglob("*.py"))
    found, named = expressions(), set()
    for where, expression in found.items():
        for name, compared, grouped in asked_of(expression):
            named.add(name)
            if name == "up" or (name.startswith("process_") and not Path("/proc/self/stat").exists()):
                continue  # Prometheus' own; there are none elsewhere
            labels = (compared.keys() | grouped) - OF_THE_TARGET
            assert any(name == known and labels <= has.keys() for known, has in series), f"{where}: {name} {labels}"
            for label, values in compared.items():
                for value in values.split("|") if label not in OF_THE_TARGET else ():
                    assert f'"{value}"' in sources, f"{where}: {label} is never {value}"
    assert len(found) > 40
    assert len(named) > 25


def test_the_autoscalers_metric_is_the_adapters() -> None:
    (metric,) = read("kubernetes/autoscaling.yaml")["spec"]["metrics"]
    (rule,) = read("kubernetes/prometheus-adapter.yaml")["rules"]["custom"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    assert re.search(rule["name"]["matches"], rule["seriesQuery"].partition("{")[0])
    assert rule["resources"]["overrides"].keys() == set(re.findall(r'(\w+)!=""', rule["seriesQuery"]))


def test_probes_hear_what_they_must() -> None:
    """Alive all the time; ready only while new calls are welcome. The image's own check is that of life."""
    (container,) = read("kubernetes/deployment.yaml")["spec"]["template"]["spec"]["containers"]
    probes = {kind: container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")}
    assert f"'{probes['liveness']}'" in (DOCKER / "Dockerfile").read_text()

    async def answers(served: Served) -> dict[str, bool]:
        """As the kubelet sees them."""
        return {kind: (await ask(served, path)).status_code < 400 for kind, path in probes.items()}

    async def main() -> None:
        async with serve({"bot": actors.echo}, max_calls=1, drain_s=60) as served:
            assert all((await answers(served)).values())
            stays = Script().then(at(PATIENCE.longest_s), HangUp())
            call = asyncio.create_task(served.call("twilio", stays, limits=PATIENCE))
            await until(lambda: served.gateway.calls.full, PATIENCE.connect_s)
            assert await answers(served) == {"startup": True, "liveness": True, "readiness": False}
            call.cancel()
            await served.empty(PATIENCE.closing_s)
            assert all((await answers(served)).values())
            await served.gateway.drain()
            assert await answers(served) == {"startup": True, "liveness": True, "readiness": False}

    run(main(), limit_s=PATIENCE.longest_s)


# ---------------------------------------------------------------- what Prometheus' own tool says of it

promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="no promtool (Debian: apt-get install prometheus)"
)


def prometheus_takes(*command: str) -> None:
    found = subprocess.run(["promtool", *command], cwd=ROOT, capture_output=True, text=True)
    assert not found.returncode, found.stdout + found.stderr


@promtool
@pytest.mark.parametrize(
    "command",
    ["check config docker/prometheus.yml", "check rules docker/alerts.yml", "test rules docker/alerts_test.yml"],
)
def test_prometheus_takes_it(command: str) -> None:
    prometheus_takes(*command.split())


@promtool
def test_all_that_is_asked_is_promql(tmp_path: Path) -> None:
    rules = [{"record": f"asked:{n}", "expr": asked} for n, asked in enumerate(expressions().values())]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "asked", "rules": rules}]}))
    prometheus_takes("check", "rules", str(tmp_path / "rules.yml"))


def test_every_alert_is_tried() -> None:
    alerts = {rule["alert"] for group in read("alerts.yml")["groups"] for rule in group["rules"]}
    tried = (DOCKER / "alerts_test.yml").read_text()
    assert {alert for alert in alerts if alert not in tried} == set()


def test_the_dashboard_is_one() -> None:
    """Its panels ask the data source that is provisioned, each is itself, and none lies upon another."""
    board = json.loads((DOCKER / "grafana" / "dashboards" / "gateway.json").read_text())
    (source,) = read("grafana/provisioning/datasources/prometheus.yaml")["datasources"]
    assert {panel["datasource"]["uid"] for panel in board["panels"]} == {source["uid"]}
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    cells = [
        (place["x"] + x, place["y"] + y)
        for place in (panel["gridPos"] for panel in board["panels"])
        for x in range(place["w"])
        for y in range(place["h"])
    ]
    assert len(cells) == len(set(cells)) == 24 * (1 + max(y for _, y in cells))
