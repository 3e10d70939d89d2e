"""Kinds of the user's own, known to some servers and not to others."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.descriptors import compile_protos
from tests.postgres import Database
from tests.servers import ServerProcess
from tests.toolkit import connected, dynamic, refused
from workerqueue.v1 import worker_queue_pb2

PROTO = """
syntax = "proto3";
package acme.jobs.v1;
import "buf/validate/validate.proto";
import "workerqueue/v1/policy.proto";
option (workerqueue.v1.queues) = {name: "reports" max_in_flight_per_worker: 1};
message SendReport {
  option (workerqueue.v1.task) = {queue: "reports" concurrency_key: "customer-{customer_id}"};
  string customer_id = 1 [(buf.validate.field).string.min_len = 1];
  int32 page = 2;
}
"""


@pytest.fixture
def descriptors(tmp_path: Path) -> Path:
    """The compiled descriptor set of a user's kinds."""
    source = tmp_path / "acme/jobs/v1/jobs.proto"
    source.parent.mkdir(parents=True)
    source.write_text(PROTO)
    output = tmp_path / "jobs.binpb"
    compile_protos([source], [tmp_path], output)
    return output


async def test_a_users_kind_is_validated_keyed_limited_and_delivered(
    database: Database, descriptors: Path
) -> None:
    with ServerProcess(database.dsn, arguments=["--descriptors", str(descriptors)]) as server:
        async with connected(server.address) as api:
            problem = await refused(api.send(dynamic("sendReport", {"page": 1})))
            assert list(problem.fields) == ["dynamic.args.customerId"] or list(problem.fields) == [
                "dynamic.args.customer_id"
            ]
            made = await api.send(dynamic("sendReport", {"customerId": "c1", "page": 3}))
            assert made.task.queue == "reports"
            assert made.task.concurrency_key == "customer-c1"
            await api.send(dynamic("sendReport", {"customerId": "c2"}))
            # By the binary form as well: a typed client of the user's own.
            typed = worker_queue_pb2.EnqueueRequest(payload=made.task.payload)
            await api.send(typed)
            async with api.worker("reports") as worker:
                welcome = await worker.welcome()
                assert [(w.queue, w.max_in_flight) for w in welcome.queue_windows] == [
                    ("reports", 1)
                ]
                first = await worker.task()
                assert first.kind == "sendReport"
                assert first.payload == made.task.payload
                assert first.payload.type_url == "type.googleapis.com/acme.jobs.v1.SendReport"
                assert worker.untaken == [], "its queue lets a worker hold one"
                await worker.acked(first.lease_token)


async def test_a_task_of_a_kind_that_a_server_does_not_know_waits_for_one_that_does(
    database: Database, descriptors: Path
) -> None:
    with (
        ServerProcess(database.dsn, name="old") as old,
        ServerProcess(
            database.dsn, arguments=["--descriptors", str(descriptors)], name="new"
        ) as new,
    ):
        async with connected(new.address) as api, connected(old.address) as other:
            made = await api.send(dynamic("sendReport", {"customerId": "c"}))
            known = await api.enqueue(queue="reports")
            # The old server hands out what it knows and leaves the rest.
            async with other.worker((), window=10) as worker:
                assert (await worker.task()).task_id == known.task_id
                assert await other.take() == []
                assert len(worker.received) == 1
            problem = await refused(other.send(dynamic("sendReport", {"customerId": "c"})))
            assert problem.reason == "UNKNOWN_KIND"
            repeat = worker_queue_pb2.EnqueueRequest(
                task_id=made.task.task_id, dynamic={"kind": "startRun", "args": {"id": "x"}}
            )
            seen = await other.send(repeat)
            assert seen.task.kind == "sendReport"
            (task,) = await api.take("reports")
            assert task.task_id == made.task.task_id
            # It can be answered anywhere.
            await other.ack(task.lease_token)


async def test_a_task_whose_descriptor_was_removed_survives(
    database: Database, descriptors: Path
) -> None:
    with ServerProcess(database.dsn, arguments=["--descriptors", str(descriptors)]) as server:
        async with connected(server.address) as api:
            made = await api.send(dynamic("sendReport", {"customerId": "c"}))
    with ServerProcess(database.dsn) as server:
        async with connected(server.address) as api:
            assert await api.take() == []
    with ServerProcess(database.dsn, arguments=["--descriptors", str(descriptors)]) as server:
        async with connected(server.address) as api:
            (task,) = await api.take()
            assert (task.task_id, task.attempt) == (made.task.task_id, 1)


async def test_a_bad_descriptor_set_stops_the_start_with_its_reason(
    database: Database, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.binpb"
    bad.write_bytes(b"\xff\xff")
    for path, code, reason in (
        (bad, 3, "no descriptor set"),
        (tmp_path / "missing.binpb", 2, "no file"),
    ):
        server = ServerProcess(database.dsn, arguments=["--descriptors", str(path)])
        server.launch()
        assert await asyncio.to_thread(server.wait) == code
        assert reason in server.log()
        assert "Traceback" not in server.log()
