"""`workerqueue health`, `top`, `doctor` and `bench`."""

from __future__ import annotations

from tests.integration.cli.commands import Cli, Terminal
from tests.postgres import Database, PostgresCluster
from tests.servers import ServerProcess
from tests.toolkit import Api, eventually
from workerqueue.v1 import worker_admin_pb2
from workerqueue.v1.worker_queue_admin_pb2_grpc import WorkerQueueAdminStub


async def test_health_says_serving(cli: Cli, server: ServerProcess) -> None:
    assert (await cli("health")).out == f"{server.address}: SERVING\n"
    # A container's own variable may say that the server listens everywhere.
    everywhere = f"0.0.0.0:{server.port}"
    assert (await cli("health", WORKERQUEUE_ADDRESS=everywhere)).out.endswith("SERVING\n")


async def test_health_of_nobody_ends_with_3(cli: Cli) -> None:
    ended = await cli("health", "--address", "127.0.0.1:1", code=3)
    assert "no server answers at 127.0.0.1:1" in ended.err


async def test_health_without_a_database_ends_with_1(own_postgres: PostgresCluster) -> None:
    with ServerProcess(own_postgres.create_database().dsn) as process:
        process.tolerated = "."
        cli = Cli(process.address)
        own_postgres.stop("immediate")
        while (ended := await _any_code(cli, "health"))[0] == 0:
            pass
        assert ended == (1, f"{process.address}: NOT_SERVING\n")
        report = await cli("doctor", code=1)
        assert "NOT_SERVING" in report.out


async def _any_code(cli: Cli, *arguments: str) -> tuple[int | None, str]:
    process = await cli.start(*arguments)
    out, _ = await process.communicate()
    return process.returncode, out.decode()


async def test_top_shows_queues_and_workers_once(cli: Cli, api: Api, queue: str) -> None:
    async with api.worker(queue):
        shown = (await cli("top", "--once")).out
        assert "over the last minute" in shown
        assert "executions" in shown
        document = (await cli("top", "-o", "json")).json()
        assert {"queues", "workers"} == set(document)


async def test_top_lives_until_ctrl_c(cli: Cli) -> None:
    async with Terminal(cli, "top", "--interval", "0.2") as terminal:
        await terminal.until("internal-queue")
        terminal.interrupt()
        assert await terminal.end() == 0


async def test_doctor_looks_at_server_and_database(
    cli: Cli, server_database: Database, api: Api
) -> None:
    await api.enqueue(queue="nobody-takes-it")
    # The tests' clusters run without fsync.
    found = await cli("doctor", "--dsn", server_database.dsn, "-o", "json", code=1)
    by_check: dict[str, list[dict[str, str]]] = {}
    for finding in found.json():
        by_check.setdefault(finding["check"], []).append(finding)
    for check in ("version", "schema", "clock", "notifications"):
        assert [f["level"] for f in by_check[check]] == ["ok"], by_check[check]
    # What is slow is warned of, and a busy machine is slow.
    for check in ("server", "database", "writes"):
        (finding,) = by_check[check]
        assert finding["level"] in ("ok", "warning"), finding
    assert [f["level"] for f in by_check["durability"]] == ["problem"]
    assert "fsync" in by_check["durability"][0]["found"]
    assert by_check["workers"][0]["level"] == "warning"
    text = await cli("doctor", "--dsn", server_database.dsn, code=1)
    assert "acknowledged tasks are promised to survive any crash" in text.out


async def test_doctor_without_a_database_says_so(cli: Cli) -> None:
    found = await cli("doctor")
    assert "give --dsn to look at it" in found.out
    await cli("doctor", "--strict", code=1)


async def test_doctor_hides_the_password_of_a_database_that_is_away(cli: Cli) -> None:
    dsn = "postgresql://me:hunter2@127.0.0.1:1/queue"
    found = await cli("doctor", "--dsn", dsn, code=1)
    assert "does not answer" in found.out
    assert "hunter2" not in found.out + found.err


async def test_bench_measures_and_leaves_nothing(cli: Cli) -> None:
    measured = await cli("bench", "--tasks", "300", "--samples", "5", "-o", "json")
    assert measured.json()["tasks"] == 300
    assert measured.json()["storedPerSecond"] > 0
    assert measured.json()["latencyP99Seconds"] >= measured.json()["latencyP50Seconds"] > 0
    left = await cli("tasks", "list", "--queue", "workerqueue-bench", "-o", "json")
    assert left.json() == []


async def test_bench_refuses_to_run_beside_a_worker_of_everything(cli: Cli, api: Api) -> None:
    admin = WorkerQueueAdminStub(api.channel)
    async with api.worker(worker_id="takes-all"):

        async def its_stream_is_known() -> bool:
            # It may be listed before, for the tasks that it holds.
            page = await admin.ListWorkers(worker_admin_pb2.ListWorkersRequest())
            return any(w.worker_id == "takes-all" and w.sessions for w in page.workers)

        await eventually(its_stream_is_known, "the worker's stream is listed")
        refused = await cli("bench", "--tasks", "10", code=1)
        assert "takes-all could take the bench's tasks" in refused.err
