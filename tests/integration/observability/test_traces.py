"""One trace from the producer through the server to the handler, and figures over OTLP."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from psycopg import AsyncConnection

from tests.collector import Collector, Span, collecting
from tests.postgres import Database, PostgresCluster
from tests.servers import ServerProcess
from tests.toolkit import Api, connected, eventually, request

PROGRAM = Path(__file__).with_name("traced_program.py")
OUTSIDE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    """Where all programs of the module send spans and figures."""
    variables = {
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "OTEL_METRIC_EXPORT_INTERVAL": "500",
    }
    with collecting() as collector, pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.address)
        yield collector


@pytest.fixture(scope="module")
def traced_database(postgres: PostgresCluster) -> Iterator[Database]:
    """The database of the module's server."""
    database = postgres.create_migrated_database()
    yield database
    postgres.drop_database(database)


@pytest.fixture(scope="module")
def traced(traced_database: Database, collector: Collector) -> Iterator[ServerProcess]:
    """The module's server, which exports spans and figures."""
    arguments = ["--otlp-traces", "--otlp-metrics"]
    with ServerProcess(traced_database.dsn, arguments=arguments) as process:
        yield process


@pytest.fixture
async def api(traced: ServerProcess) -> AsyncIterator[Api]:
    """The module's server over a fresh connection."""
    async with connected(traced.address) as api:
        yield api


async def run_program(server: ServerProcess, queue: str, tracing: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(PROGRAM), server.address, queue, tracing),
        env={**os.environ, "OTEL_SERVICE_NAME": "shop"},
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == 0, errors.decode()


async def of_queue(collector: Collector, queue: str, name: str, count: int) -> list[Span]:
    """That many spans of a name, once they have come."""
    found = f"{name} {queue}"
    await eventually(lambda: len(collector.named(found)) >= count, f"{count} {found}", 60)
    spans = collector.named(found)
    assert len(spans) == count
    return spans


async def test_one_trace_leads_from_the_producer_to_the_handler(
    traced: ServerProcess, collector: Collector
) -> None:
    await run_program(traced, "shop", "continue")
    enqueues = await of_queue(collector, "shop", "enqueue", 3)
    attempts = await of_queue(collector, "shop", "attempt", 8)
    calls = await of_queue(collector, "shop", "process", 8)
    (one_by_one,) = collector.named("one by one")
    (at_once,) = collector.named("at once")

    assert sorted(span.parent_id for span in enqueues) == sorted(
        [one_by_one.span_id, one_by_one.span_id, at_once.span_id]
    )
    assert {(span.kind, span.service) for span in enqueues} == {
        ("SPAN_KIND_PRODUCER", "workerqueue")
    }
    (batch,) = (span for span in enqueues if span.parent_id == at_once.span_id)
    assert batch.attributes["messaging.batch.message_count"] == 2
    trace_of = {span.span_id: span.trace_id for span in enqueues}
    for span in [*attempts, *calls]:
        assert span.trace_id == trace_of[span.parent_id]
    assert {(span.kind, span.service) for span in calls} == {("SPAN_KIND_CONSUMER", "shop")}
    # The same four tasks, each failed once and succeeded once.
    for spans in (attempts, calls):
        seen = sorted((s.attributes["workerqueue.attempt"], s.is_error) for s in spans)
        assert seen == [(1, True)] * 4 + [(2, False)] * 4
    outcomes = {s.attributes["workerqueue.outcome"] for s in attempts if not s.is_error}
    assert outcomes == {"succeeded"}
    insides = {span.parent_id for span in collector.named("inside")}
    assert insides == {span.span_id for span in calls}


async def test_a_handler_may_have_a_trace_of_its_own_that_links_to_the_producers(
    traced: ServerProcess, collector: Collector
) -> None:
    await run_program(traced, "linked", "link")
    enqueues = await of_queue(collector, "linked", "enqueue", 3)
    calls = await of_queue(collector, "linked", "process", 8)
    assert {span.parent_id for span in calls} == {""}
    assert not {span.trace_id for span in calls} & {span.trace_id for span in enqueues}
    assert {link for span in calls for link in span.links} == {s.span_id for s in enqueues}


async def test_a_worker_in_any_language_finds_the_context_in_the_metadata(
    api: Api, collector: Collector
) -> None:
    metadata = {"traceparent": OUTSIDE, "tracestate": "vendor=1", "note": "mine"}
    await api.enqueue(queue="any", metadata=metadata)
    async with api.worker("any") as worker:
        task = await worker.task()
        await api.ack(task.lease_token)
    (enqueue,) = await of_queue(collector, "any", "enqueue", 1)
    (attempt,) = await of_queue(collector, "any", "attempt", 1)
    trace_id, span_id = OUTSIDE.split("-")[1:3]
    assert (enqueue.trace_id, enqueue.parent_id) == (trace_id, span_id)
    assert attempt.parent_id == enqueue.span_id
    assert dict(task.metadata) == {
        "traceparent": f"00-{trace_id}-{enqueue.span_id}-01",
        "tracestate": "vendor=1",
        "note": "mine",
    }


async def test_tasks_of_one_call_from_several_traces_stay_in_theirs(
    api: Api, collector: Collector
) -> None:
    parents = [f"00-{number:032x}-{number:016x}-01" for number in (1, 2)]
    await api.ids(
        [request(queue="gathered", metadata={"traceparent": parent}) for parent in parents]
        + [request(queue="gathered", metadata={"traceparent": "no context"})]
    )
    enqueues = await of_queue(collector, "gathered", "enqueue", 3)
    traces = {span.trace_id: span.parent_id for span in enqueues}
    assert traces[f"{1:032x}"] == f"{1:016x}"
    assert traces[f"{2:032x}"] == f"{2:016x}"
    assert list(traces.values()).count("") == 1


async def test_a_task_enqueued_by_sql_carries_its_context(
    api: Api, traced_database: Database, collector: Collector
) -> None:
    async with await AsyncConnection.connect(traced_database.dsn, autocommit=True) as connection:
        await connection.execute(
            """select workerqueue.enqueue('runFinished', '{"id": "run"}', queue => 'by-sql',"""
            " metadata => jsonb_build_object('traceparent', %s::text))",
            (OUTSIDE,),
        )
    async with api.worker("by-sql") as worker:
        task = await worker.task()
        assert task.metadata["traceparent"] == OUTSIDE
        await worker.fail(task.lease_token, permanent=True)
        (attempt,) = await of_queue(collector, "by-sql", "attempt", 1)
    assert attempt.parent_id == OUTSIDE.split("-")[2]
    assert attempt.attributes["workerqueue.outcome"] == "failed"
    assert attempt.attributes["workerqueue.task.kind"] == "runFinished"


async def test_figures_arrive_over_otlp(api: Api, collector: Collector) -> None:
    await api.ids([request(queue="figures") for _ in range(3)])
    async with api.worker("figures") as worker:
        tasks = await worker.tasks(3)
        await worker.acked(*(task.lease_token for task in tasks))

        def arrived() -> bool:
            return (
                collector.metric("workerqueue.tasks.enqueued", queue="figures") == 3
                and collector.metric("workerqueue.attempts.ended", queue="figures") == 3
                and collector.metric("workerqueue.attempt.duration", queue="figures") == 3
                and collector.metric("workerqueue.streams") == 1
            )

        await eventually(arrived, "the figures", 60)


async def test_the_servers_spans_hold_nothing_that_users_sent(
    traced: ServerProcess, collector: Collector
) -> None:
    await run_program(traced, "secrets", "continue")
    await of_queue(collector, "secrets", "enqueue", 3)
    await of_queue(collector, "secrets", "attempt", 8)
    for span in collector.spans:
        assert span.service != "workerqueue" or "canary" not in span.text
