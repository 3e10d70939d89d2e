"""Schedules declared in a file: reconciled at start, by however many servers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from psycopg import AsyncConnection

from tests.postgres import Database
from tests.servers import ServerProcess
from tests.sql import Inspector, Row
from tests.toolkit import connected, refused
from workerqueue.v1 import schedule_pb2 as pb
from workerqueue.v1.worker_queue_admin_pb2_grpc import WorkerQueueAdminStub

ONE = """
[schedules.{name}]
cron = "{cron}"
kind = "runFinished"
args.id = "x"
"""


@pytest.fixture
async def inspector(database: Database) -> AsyncIterator[Inspector]:
    async with await AsyncConnection.connect(database.dsn, autocommit=True) as connection:
        yield Inspector(connection)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "schedules.toml"


def declare(file: Path, owner: str = "default", **crons: str) -> None:
    """Writes a file with these schedules."""
    parts = [ONE.format(name=name, cron=cron) for name, cron in crons.items()]
    file.write_text(f'owner = "{owner}"\n' + "".join(parts))


def server(database: Database, file: Path, name: str = "server") -> ServerProcess:
    return ServerProcess(database.dsn, arguments=("--schedules", str(file)), name=name)


async def stored(inspector: Inspector) -> dict[str, Row]:
    rows = await inspector.rows("select * from workerqueue.schedules")
    return {row["schedule_id"]: row for row in rows}


async def test_a_file_makes_changes_and_deletes_what_it_owns(
    database: Database, inspector: Inspector, file: Path
) -> None:
    declare(file, one="0 3 * * *", two="0 4 * * *", three="0 5 * * *")
    with server(database, file) as process:
        assert "3 in all, 3 created, 0 updated, 0 deleted" in process.log()
        async with connected(process.address) as api:
            admin = WorkerQueueAdminStub(api.channel)
            made = pb.Schedule(schedule_id="mine", cron="0 6 * * *")
            made.task.dynamic.kind = "runFinished"
            made.task.dynamic.args.update({"id": "y"})
            await admin.CreateSchedule(pb.CreateScheduleRequest(schedule=made))
            shown = await admin.GetSchedule(pb.GetScheduleRequest(schedule_id="one"))
            assert shown.schedule.source == "file:default"
            await admin.PauseSchedule(pb.PauseScheduleRequest(schedule_id="one"))
    first = await stored(inspector)
    declare(file, one="0 3 * * *", two="30 4 * * *")
    with server(database, file) as process:
        assert "2 in all, 0 created, 1 updated, 1 deleted" in process.log()
    second = await stored(inspector)
    assert set(second) == {"one", "two", "mine"}
    # What is the same is left alone, and an operator's pause is kept.
    assert second["one"] == first["one"]
    assert second["one"]["paused"]
    assert second["mine"] == first["mine"]
    assert second["two"]["uid"] == first["two"]["uid"]
    assert second["two"]["next_tick"].minute == 30

    # Without the setting a server leaves all as it is; with an empty file it deletes.
    with ServerProcess(database.dsn):
        pass
    assert await stored(inspector) == second
    declare(file)
    with server(database, file):
        pass
    assert set(await stored(inspector)) == {"mine"}


async def test_servers_that_start_together_make_each_schedule_once(
    database: Database, inspector: Inspector, file: Path
) -> None:
    names = {f"s{number}": "0 3 * * *" for number in range(40)}
    declare(file, **names)
    group = [server(database, file, f"server {number}") for number in range(3)]
    with ExitStack() as stack:
        for process in group:
            process.launch()
            stack.enter_context(process)
        for process in group:
            process.wait_until_serving()
    assert set(await stored(inspector)) == set(names)
    logs = [process.log() for process in group]
    assert sum("40 created" in log for log in logs) == 1
    assert sum(", 0 created, 0 updated, 0 deleted" in log for log in logs) == 2


async def test_a_file_owns_nothing_of_another_owner(
    database: Database, inspector: Inspector, file: Path, tmp_path: Path
) -> None:
    declare(file, "billing", one="0 3 * * *")
    other = tmp_path / "other.toml"
    declare(other, "reports", two="0 3 * * *")
    with server(database, file), server(database, other, "other server"):
        pass
    rows = await stored(inspector)
    assert {name: row["file_owner"] for name, row in rows.items()} == {
        "one": "billing",
        "two": "reports",
    }
    declare(other, "reports", one="0 3 * * *")
    refused_start = server(database, other)
    refused_start.launch()
    assert refused_start.wait() == 2
    assert f"{other}: schedule 'one'" in refused_start.log()
    assert await stored(inspector) == rows


async def test_what_a_file_declares_is_changed_there(
    database: Database, inspector: Inspector, file: Path
) -> None:
    declare(file, one="0 3 * * *")
    with server(database, file) as process:
        async with connected(process.address) as api:
            admin = WorkerQueueAdminStub(api.channel)
            changed = pb.Schedule(schedule_id="one", cron="0 6 * * *")
            changed.task.dynamic.kind = "runFinished"
            changed.task.dynamic.args.update({"id": "y"})
            for call in (
                admin.UpdateSchedule(pb.UpdateScheduleRequest(schedule=changed)),
                admin.DeleteSchedule(pb.DeleteScheduleRequest(schedule_id="one")),
            ):
                problem = await refused(call)
                assert problem.reason == "SCHEDULE_FROM_FILE"
                assert problem.metadata["owner"] == "default"
            await admin.TriggerSchedule(pb.TriggerScheduleRequest(schedule_id="one"))
            forced = pb.DeleteScheduleRequest(schedule_id="one", even_if_from_file=True)
            await admin.DeleteSchedule(forced)
    assert await stored(inspector) == {}
    with server(database, file):
        pass
    assert set(await stored(inspector)) == {"one"}


async def test_a_wrong_file_stops_the_start_before_anything_is_changed(
    database: Database, inspector: Inspector, file: Path
) -> None:
    declare(file, one="0 3 * * *")
    with server(database, file):
        pass
    before = await stored(inspector)
    declare(file, one="0 4 * * *", two="61 * * * *")
    process = server(database, file)
    process.launch()
    assert process.wait() == 2
    assert f"{file}: schedule 'two': cron: bad minute" in process.log()
    assert await stored(inspector) == before
    missing = file.with_name("missing.toml")
    process = server(database, missing)
    process.launch()
    assert process.wait() == 2
    assert str(missing) in process.log()
