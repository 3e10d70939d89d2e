"""Every expression of the dashboard and the alerts asks for metrics and labels that exist."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

import promql_parser as promql
import pytest
import yaml

from doc_tables import ROOT
from tests.scraping import Scrape, scrape
from tests.toolkit import Api, eventually, refused, request
from workerqueue_server.telemetry.instruments import FIGURES

FOLDER = ROOT / "deploy" / "observability"
# What Prometheus adds to every series by itself.
OF_PROMETHEUS = {"instance", "job"}
# What Grafana puts in, with a value that is good enough to parse.
OF_GRAFANA = {"$__rate_interval": "5m", "$queue": ".*"}


def of_dashboard() -> Iterator[tuple[str, str]]:
    dashboard = json.loads((FOLDER / "grafana-dashboard.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield f"panel {panel['title']}", target["expr"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            match = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
            assert match is not None, variable
            yield f"variable {variable['name']}", f"sum by ({match[2]}) ({match[1]})"


def of_alerts() -> Iterator[tuple[str, str]]:
    rules = yaml.safe_load((FOLDER / "prometheus-alerts.yaml").read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            yield f"alert {rule['alert']}", rule["expr"]


EXPRESSIONS = [*of_dashboard(), *of_alerts()]


def parsed(expression: str) -> Any:
    for name, value in OF_GRAFANA.items():
        expression = expression.replace(name, value)
    return promql.parse(expression)


def selectors(node: Any) -> Iterator[Any]:
    """The vector selectors below a node of a parsed expression."""
    if isinstance(node, promql.VectorSelector):
        yield node
    elif isinstance(node, promql.MatrixSelector):
        yield node.vector_selector
    elif isinstance(node, promql.BinaryExpr):
        yield from selectors(node.lhs)
        yield from selectors(node.rhs)
    elif isinstance(node, promql.Call):
        for argument in node.args:
            yield from selectors(argument)
    elif isinstance(node, promql.AggregateExpr | promql.ParenExpr | promql.UnaryExpr):
        yield from selectors(node.expr)
    else:
        assert isinstance(node, promql.NumberLiteral | promql.StringLiteral), node


def groupings(node: Any) -> Iterator[tuple[set[str], Any]]:
    """Labels that an aggregation or a comparison of two vectors names, with what they are of."""
    if isinstance(node, promql.AggregateExpr) and node.modifier is not None:
        yield set(node.modifier.labels), node.expr
    if isinstance(node, promql.BinaryExpr):
        matching = node.modifier.matching if node.modifier is not None else None
        for side in (node.lhs, node.rhs):
            if matching is not None:
                yield set(matching.labels), side
            yield from groupings(side)
    elif isinstance(node, promql.Call):
        for argument in node.args:
            yield from groupings(argument)
    elif isinstance(node, promql.AggregateExpr | promql.ParenExpr | promql.UnaryExpr):
        yield from groupings(node.expr)


class Known:
    """Metrics that were scraped, with their labels and the values these had."""

    def __init__(self, scraped: Scrape) -> None:
        self.labels: dict[str, set[str]] = {}
        self.values: dict[tuple[str, str], set[str]] = {}
        for series in scraped.series:
            self.labels.setdefault(series.name, set()).update(series.labels)
            for label, value in series.labels.items():
                self.values.setdefault((series.name, label), set()).add(value)

    def problems(self, expression: str) -> Iterator[str]:
        """What of an expression does not exist."""
        tree = parsed(expression)
        for selector in selectors(tree):
            if selector.name not in self.labels:
                yield f"no metric {selector.name}"
                continue
            for matcher in selector.matchers.matchers:
                yield from self._matcher_problems(selector.name, matcher)
        for labels, of in groupings(tree):
            for selector in selectors(of):
                unknown = labels - self.labels.get(selector.name, set()) - OF_PROMETHEUS
                if unknown:
                    yield f"{selector.name} has no label {', '.join(sorted(unknown))}"

    def _matcher_problems(self, name: str, matcher: Any) -> Iterator[str]:
        if matcher.name not in self.labels[name]:
            yield f"{name} has no label {matcher.name}"
            return
        if matcher.value == ".*":
            return
        described = _description(name)
        for value in matcher.value.split("|"):
            seen = value in self.values.get((name, matcher.name), set())
            if not seen and not re.search(rf"\b{re.escape(value)}\b", described):
                yield f"{name}: {matcher.name} is never {value}"


def _description(name: str) -> str:
    for figure in FIGURES:
        if name.startswith(figure.about.name.replace(".", "_")):
            return figure.about.description
    return ""


@pytest.fixture
async def known(url: str, api: Api) -> Known:
    """What there is after a little of everything has happened."""
    await api.ids([request(queue="dashboard", max_attempts=1) for _ in range(3)])
    async with api.worker("dashboard", window=2) as worker:
        done, failed = await worker.tasks(2)
        await api.ack(done.lease_token)
        await api.fail(failed.lease_token)
        assert (await refused(api.heartbeat(failed.lease_token))).reason == "LEASE_LOST"

        async def all_there() -> Scrape | None:
            now = await asyncio.to_thread(scrape, url)
            waits = "workerqueue_task_wait_duration_seconds_count"
            complete = now.total(waits) and list(now.find("workerqueue_queue_depth"))
            return now if complete else None

        return Known(await eventually(all_there, "waits and depths", limit=60))


WRONG = {
    "rate(workerqueue_nothing_total[5m])": "no metric workerqueue_nothing_total",
    "workerqueue_streams{queue='q'}": "workerqueue_streams has no label queue",
    "sum by (kind) (workerqueue_queue_depth)": "workerqueue_queue_depth has no label kind",
    "workerqueue_queue_depth{state=~'available|lost'}": (
        "workerqueue_queue_depth: state is never lost"
    ),
}


async def test_every_expression_finds_its_metrics_and_labels(known: Known) -> None:
    assert len(EXPRESSIONS) > 40
    problems = {
        f"{where}: {problem}"
        for where, expression in EXPRESSIONS
        for problem in known.problems(expression)
    }
    assert problems == set()
    # And one that asks for what is not there would be found.
    assert {wrong: list(known.problems(wrong)) for wrong in WRONG} == {
        wrong: [problem] for wrong, problem in WRONG.items()
    }


def test_every_figure_is_looked_at_somewhere() -> None:
    asked = " ".join(expression for _, expression in EXPRESSIONS)
    names = {figure.about.name.replace(".", "_") for figure in FIGURES}
    assert {name for name in names if name not in asked} == set()
