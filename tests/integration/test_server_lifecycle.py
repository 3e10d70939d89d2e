"""A server's start, drain and end; several servers on one database; the embedded database."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, MessageOptions
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from psycopg import AsyncConnection, Connection

from tests.postgres import Database
from tests.servers import ServerProcess, servers
from tests.sql import Inspector
from tests.toolkit import Api, connected, eventually, refused, request, seconds
from workerqueue.v1 import policy_pb2


@pytest.fixture
def drain_seconds() -> float:
    """How long the servers of the pair let their workers finish, at most."""
    return 30.0


@pytest.fixture
def pair(database: Database, drain_seconds: float) -> Iterator[list[ServerProcess]]:
    """Two servers that start at once on an empty database."""
    with servers(database.dsn, 2, drain_seconds=drain_seconds) as group:
        yield group


async def inspector(database: Database) -> Inspector:
    return Inspector(await AsyncConnection.connect(database.dsn, autocommit=True))


@pytest.mark.all_postgres
async def test_two_servers_start_at_once_on_an_empty_database_and_share_the_work(
    pair: list[ServerProcess], database: Database
) -> None:
    with Connection.connect(database.dsn) as connection:
        rows = connection.execute(
            "select version from workerqueue.migrations order by version"
        ).fetchall()
    assert rows
    applied = "\n".join(server.log() for server in pair).count("applied migration")
    assert applied == len(rows)
    async with (
        connected(pair[0].address) as one,
        connected(pair[1].address) as two,
        two.worker("q", worker_id="w") as worker,
    ):
        task = await one.enqueue(queue="q")
        got = await worker.task()
        assert got.task_id == task.task_id
        # The answer comes through another server than the one that granted.
        await one.heartbeat(got.lease_token)
        await one.ack(got.lease_token)
        assert (await refused(two.fail(got.lease_token))).reason == "LEASE_LOST"
        # The stream's place is free again, although the ack took another way.
        await one.ids([request(queue="q") for _ in range(200)])
        tasks = await worker.tasks(100)
        for task_ in tasks:
            await one.ack(task_.lease_token)
        await worker.tasks(100)


async def test_sigterm_drains_streams_and_finishes_what_runs(
    pair: list[ServerProcess], database: Database
) -> None:
    sql = await inspector(database)
    async with connected(pair[0].address) as api, connected(pair[1].address) as other:
        ids = await api.ids([request(queue="q", max_attempts=1) for _ in range(20)])
        async with api.worker("q", window=5) as worker, api.worker("idle") as idle:
            held = await worker.tasks(5)
            pair[0].terminate()
            await worker.until(lambda: any(f.HasField("drain") for f in worker.frames), "a drain")
            grace = next(f.drain.grace for f in worker.frames if f.HasField("drain"))
            assert 0 < grace.ToSeconds() <= 30
            # An idle stream has nothing to finish.
            assert await idle.end() is None
            problem = await refused(api.stub.Lease(iter(())).read())
            assert (problem.code, problem.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
            assert problem.retry_seconds is not None
            assert not pair[0].is_serving()
            await worker.acked(*(task.lease_token for task in held[:4]))
            await worker.ack(held[4].lease_token)
            assert await worker.end() is None
            assert await worker.result(held[4].lease_token) is None
            assert worker.untaken == [], "a draining server hands out nothing new"
        assert await asyncio.to_thread(pair[0].wait) == 0
        assert await sql.states(ids) == {"succeeded": 5, "available": 15}
        assert len(await other.take("q")) == 15
    await sql.connection.close()


@pytest.mark.parametrize("drain_seconds", [3.0])
async def test_a_drain_ends_after_its_grace_and_leases_stay_valid(
    pair: list[ServerProcess],
) -> None:
    async with connected(pair[0].address) as api, connected(pair[1].address) as other:
        await api.enqueue(queue="q")
        async with api.worker("q") as worker:
            held = await worker.task()
            pair[0].terminate()
            assert await asyncio.to_thread(pair[0].wait) == 0
            problem = await worker.end()
            assert problem is None or problem.code in (
                grpc.StatusCode.UNAVAILABLE,
                grpc.StatusCode.CANCELLED,
            )
            async with other.worker(
                "q", worker_id=worker.worker_id, held_lease_tokens=[held.lease_token]
            ) as again:
                assert [lease.alive for lease in (await again.welcome()).held_leases] == [True]
                await again.acked(held.lease_token)


async def test_sigint_ends_like_sigterm(database: Database) -> None:
    with ServerProcess(database.dsn) as server:
        psutil.Process(server.pid).send_signal(signal.SIGINT)
        assert await asyncio.to_thread(server.wait) == 0
        assert "Traceback" not in server.log()


async def test_ten_streams_reconnect_after_a_crash_and_keep_their_leases(
    pair: list[ServerProcess],
) -> None:
    async with connected(pair[0].address) as api, connected(pair[1].address) as other:
        task = request(queue="q", timeout=seconds(600), lease_duration=seconds(300))
        await api.ids([task] * 100)
        held: dict[str, list[bytes]] = {}
        for n in range(10):
            worker_id = f"w{n}"
            tasks = await api.take("q", 10, worker_id=worker_id)
            held[worker_id] = [task.lease_token for task in tasks]
        pair[0].kill()

        async def back(worker_id: str, tokens: list[bytes]) -> None:
            async with other.worker("q", worker_id=worker_id, held_lease_tokens=tokens) as worker:
                assert all(lease.alive for lease in (await worker.welcome()).held_leases)
                await worker.acked(*tokens)

        await asyncio.gather(*(back(*item) for item in held.items()))


class TestHealthAndReflection:
    async def test_health_speaks_for_the_server_and_its_service(self, api: Api) -> None:
        stub: Any = health_pb2_grpc.HealthStub(api.channel)
        for service in ("", "workerqueue.v1.WorkerQueue"):
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        problem = await refused(stub.Check(health_pb2.HealthCheckRequest(service="nonsense")))
        assert problem.code == grpc.StatusCode.NOT_FOUND

    async def test_reflection_lists_services_and_the_kinds_with_their_policies(
        self, api: Api
    ) -> None:
        services = await self._ask(api, list_services="")
        names = {service.name for service in services.list_services_response.service}
        assert {
            "workerqueue.v1.WorkerQueue",
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
        } <= names
        pool = await self._pool(api, "workerqueue.v1.WorkerQueue", "workerqueue.tasks.v1.StartRun")
        file = pool.FindMessageTypeByName("workerqueue.tasks.v1.StartRun").file
        policies: dict[str, Any] = {}
        for message in file.message_types_by_name.values():
            # Read with the reader's own extension: what reflection gives is bytes.
            options: Any = MessageOptions.FromString(message.GetOptions().SerializeToString())
            if options.HasExtension(policy_pb2.task):
                policies[message.name] = options.Extensions[policy_pb2.task]
        assert len(policies) == 24
        assert policies["StartRun"].queue == "executions"
        assert policies["StartRun"].max_attempts == 13
        assert policies["PerformRunExecution"].concurrency_key == "runs-{id}"
        method = pool.FindServiceByName("workerqueue.v1.WorkerQueue").methods_by_name["Lease"]
        assert method.input_type.full_name == "workerqueue.v1.LeaseRequest"

    async def test_reflection_can_be_switched_off(self, database: Database) -> None:
        with ServerProcess(database.dsn, arguments=["--no-reflection"]) as server:
            async with connected(server.address) as api:
                problem = await refused(self._ask(api, list_services=""))
                assert problem.code == grpc.StatusCode.UNIMPLEMENTED

    async def _ask(self, api: Api, **question: str) -> Any:
        channel: Any = api.channel
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = reflection_pb2.ServerReflectionRequest(**question)  # type: ignore[arg-type]
        call = stub.ServerReflectionInfo(iter([asked]), timeout=60)
        answers = [answer async for answer in call]
        return answers[0]

    async def _pool(self, api: Api, *symbols: str) -> DescriptorPool:
        files: dict[str, FileDescriptorProto] = {}
        for symbol in symbols:
            answer = await self._ask(api, file_containing_symbol=symbol)
            waiting = list(answer.file_descriptor_response.file_descriptor_proto)
            while waiting:
                file = FileDescriptorProto.FromString(waiting.pop())
                if file.name in files:
                    continue
                files[file.name] = file
                for name in file.dependency:
                    more = await self._ask(api, file_by_filename=name)
                    waiting += more.file_descriptor_response.file_descriptor_proto
        pool = DescriptorPool()
        while files:
            ready = [f for f in files.values() if not any(name in files for name in f.dependency)]
            for file in ready:
                pool.Add(files.pop(file.name))
        return pool


class TestMigrations:
    def test_a_newer_breaking_migration_is_refused_and_a_harmless_one_is_not(
        self, database: Database
    ) -> None:
        with ServerProcess(database.dsn) as server:
            assert server.stop() == 0
        with Connection.connect(database.dsn, autocommit=True) as connection:
            connection.execute(
                "insert into workerqueue.migrations (version, name) values (9000, 'harmless')"
            )
        with ServerProcess(database.dsn) as server:
            assert server.stop() == 0
        with Connection.connect(database.dsn, autocommit=True) as connection:
            connection.execute(
                "insert into workerqueue.migrations (version, name, breaking)"
                " values (9001, 'rename_everything', 'all names are new')"
            )
        refused_server = ServerProcess(database.dsn)
        refused_server.launch()
        assert refused_server.wait() == 3
        assert "9001 rename_everything" in refused_server.log()
        assert "all names are new" in refused_server.log()
        assert "Traceback" not in refused_server.log()

    def test_a_role_that_may_not_create_the_schema_is_told_what_to_grant(
        self, database: Database
    ) -> None:
        with Connection.connect(database.dsn, autocommit=True) as connection:
            connection.execute("drop role if exists powerless")
            connection.execute("create role powerless login")
        server = ServerProcess(database.dsn.replace("//postgres@", "//powerless@"))
        server.launch()
        assert server.wait() == 3
        assert "Grant it CREATE" in server.log()

    async def test_no_migrate_leaves_an_empty_database_alone(self, database: Database) -> None:
        server = ServerProcess(database.dsn, arguments=["--no-migrate"])
        server.launch()
        assert await asyncio.to_thread(server.wait) == 3
        with Connection.connect(database.dsn) as connection:
            row = connection.execute("select to_regnamespace('workerqueue')").fetchone()
        assert row == (None,)


class TestProcesses:
    async def test_several_processes_share_one_port_and_end_together(
        self, database: Database
    ) -> None:
        with ServerProcess(database.dsn, arguments=["--processes", "2"]) as server:
            assert len(server.children()) >= 2
            # Connections spread over the processes; whichever takes one, the queue is the same.
            ids = []
            for n in range(6):
                async with connected(server.address) as api:
                    ids.append((await api.enqueue(queue="q", priority=-n)).task_id)
            async with connected(server.address) as api:
                assert {task.task_id for task in await api.take("q")} == set(ids)
            children = server.children()
            assert server.stop() == 0
            _, alive = psutil.wait_procs(children, timeout=60)
            assert alive == []

    async def test_a_child_that_dies_takes_the_whole_down(self, database: Database) -> None:
        with ServerProcess(database.dsn, arguments=["--processes", "2"]) as server:
            server.tolerated = "ended with exit code"
            children = server.children()
            victim = next(child for child in children if "spawn_main" in " ".join(child.cmdline()))
            victim.kill()
            assert await asyncio.to_thread(server.wait) == 1
            _, alive = psutil.wait_procs(children, timeout=60)
            assert alive == []


@pytest.mark.slow
class TestEmbedded:
    async def test_data_survives_a_restart_and_nothing_stays_behind(self, tmp_path: Path) -> None:
        folder = tmp_path / "data"
        with ServerProcess(data_dir=folder) as server:
            databases = _postgres_in(folder)
            async with connected(server.address) as api:
                kept = await api.enqueue(queue="q", timeout=seconds(1000))
                done = await api.enqueue(queue="q", priority=5)
                (leased,) = await api.take("q", 1)
                await api.ack(leased.lease_token)
            assert server.stop() == 0
            _, alive = psutil.wait_procs(databases, timeout=60)
            assert alive == []
        with ServerProcess(data_dir=folder) as server:
            async with connected(server.address) as api:
                (task,) = await api.take("q")
                assert task.task_id == kept.task_id
                repeat = await api.send(request(task_id=done.task_id))
                assert repeat.task.finished_at.seconds > 0

    async def test_a_killed_server_leaves_a_database_that_the_next_one_takes_over(
        self, tmp_path: Path
    ) -> None:
        folder = tmp_path / "data"
        with ServerProcess(data_dir=folder) as server:
            async with connected(server.address) as api:
                task = await api.enqueue(queue="q")
            databases = _postgres_in(folder)
            server.kill()
        with ServerProcess(data_dir=folder) as server:
            async with connected(server.address) as api:
                assert [t.task_id for t in await api.take("q")] == [task.task_id]
            databases += _postgres_in(folder)
            assert server.stop() == 0
        _, alive = psutil.wait_procs(databases, timeout=60)
        assert alive == []

    async def test_a_second_process_joins_the_running_database(self, tmp_path: Path) -> None:
        folder = tmp_path / "data"
        with (
            ServerProcess(data_dir=folder, name="first") as first,
            ServerProcess(data_dir=folder, name="second") as second,
        ):
            async with connected(first.address) as one, connected(second.address) as two:
                async with two.worker("q") as worker:
                    task = await one.enqueue(queue="q")
                    assert (await worker.task()).task_id == task.task_id
                assert first.stop() == 0

                # The first one leaves; the database stays for the second.
                async def enqueue() -> bool:
                    return bool((await two.enqueue(queue="q")).task_id)

                await eventually(enqueue, "the second server goes on")


def _postgres_in(folder: Path) -> list[psutil.Process]:
    """The processes of the embedded database, by the file that its main process keeps."""
    (file,) = folder.rglob("postmaster.pid")
    main = psutil.Process(int(file.read_text().splitlines()[0]))
    return [main, *main.children(recursive=True)]
