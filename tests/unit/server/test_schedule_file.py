"""Schedules declared in a file: what can be said, and what is refused with which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from workerqueue.v1 import schedule_pb2, worker_queue_pb2
from workerqueue_server.app.schedule_file import ScheduleFileError, load_schedule_file
from workerqueue_server.queue.catalog import Catalog
from workerqueue_server.rpc.enqueue_requests import EnqueueReader

READ_TASK = EnqueueReader(Catalog.load()).read

FULL = """
owner = "billing"

[schedules.nightly]
cron = "0 3 * * *"
time_zone = "Europe/Berlin"
kind = "startRun"
args = { id = "nightly" }
options = { queue = "reports", priority = 7, timeout = "10m", tags = ["night"], delay = "1.5s" }
catch_up = "all"
catch_up_limit = 3
late_after = "90s"
overlap = "replace"
jitter = "2m"
expire_after = "1d"
start_at = 2026-01-01T00:00:00+01:00
end_at = 2027-01-01T00:00:00Z
paused = true
description = "what the night is for"

[schedules."a/b:c"]
cron = "@hourly"
kind = "events.deliverScheduled"
args = { id = "1", payload = { deep = [1, { er = true }] } }
options.retry = { initial_backoff = "5s", multiplier = 3 }
"""


def load(folder: Path, text: str) -> dict[str, schedule_pb2.Schedule]:
    path = folder / "schedules.toml"
    path.write_text(text)
    return load_schedule_file(path, READ_TASK).schedules


def test_everything_a_schedule_can_be_can_be_declared(tmp_path: Path) -> None:
    path = tmp_path / "schedules.toml"
    path.write_text(FULL)
    read = load_schedule_file(path, READ_TASK)
    assert read.owner == "billing"
    nightly = read.schedules["nightly"]
    assert nightly.task.dynamic.kind == "startRun"
    assert dict(nightly.task.dynamic.args) == {"id": "nightly"}
    options = nightly.task.options
    assert (options.queue, options.priority, list(options.tags)) == ("reports", 7, ["night"])
    assert options.timeout.seconds == 600
    assert options.delay.ToMilliseconds() == 1500
    assert nightly.catch_up == schedule_pb2.CATCH_UP_POLICY_ALL
    assert nightly.overlap == schedule_pb2.OVERLAP_POLICY_REPLACE
    assert nightly.late_after.seconds == 90
    assert nightly.expire_after.seconds == 86400
    assert nightly.start_at.ToJsonString() == "2025-12-31T23:00:00Z"
    assert nightly.paused
    other = read.schedules["a/b:c"]
    assert other.schedule_id == "a/b:c"
    assert other.task.options.retry.initial_backoff.seconds == 5


def test_every_settable_field_of_the_contract_is_known_to_the_file() -> None:
    """A field that is added to the contract must be added here, or be an output."""
    settable = {
        name
        for name in schedule_pb2.Schedule.DESCRIPTOR.fields_by_name
        if name not in ("schedule_id", "task")
    }
    outputs = {
        *("source", "created_at", "updated_at", "next_run_at", "next_run_times", "last_run_at"),
        *("last_task_id", "last_problem", "tasks_made", "ticks_skipped"),
    }
    declared = {line.split(" = ")[0] for line in FULL.split("[schedules.")[1].splitlines()[1:]}
    assert settable - outputs == declared - {"kind", "args", "options", ""}
    assert set(worker_queue_pb2.EnqueueRequest.DESCRIPTOR.fields_by_name) == {
        *("task_id", "payload", "dynamic", "options")
    }


def test_no_schedules_is_a_file_too(tmp_path: Path) -> None:
    assert load(tmp_path, "") == {}


GOOD = {"cron": '"1 * * * *"', "kind": '"runFinished"', "args": '{ id = "x" }'}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"crom": '"x"'}, "crom: unknown; did you mean cron?"),
        ({"kind": None}, "kind: is required"),
        ({"kind": '"runFinnished"'}, "kind: unknown task kind 'runFinnished'; did you mean"),
        ({"cron": None}, "cron: is required"),
        ({"cron": '"61 * * * *"'}, "cron: bad minute"),
        ({"cron": "5"}, "cron: "),
        ({"time_zone": '"Berlin"'}, "time_zone: no such IANA time zone"),
        ({"args": "{ id = '' }"}, "args.id: "),
        ({"args": '"x"'}, "args: must be a table"),
        ({"args": "{ idd = 'x' }"}, "args: "),
        ({"catch_up": '"most"'}, "catch_up: must be one of skip, latest, all"),
        ({"catch_up_limit": "5000"}, "catch_up_limit: must be 1 to 1000, not 5000"),
        ({"overlap": "true"}, "overlap: must be one of allow, skip, replace"),
        ({"jitter": '"soon"'}, "'soon' is no duration"),
        ({"jitter": "5"}, "5 is no duration"),
        ({"late_after": '"1d"'}, "late_after: must be 1 s to 600 s"),
        ({"expire_after": '"0s"'}, "expire_after: must be 1 s to 366 d"),
        ({"options": "{ quue = 'x' }"}, "quue: unknown; did you mean queue?"),
        ({"options": "{ priority = 'high' }"}, "options: "),
        ({"options": "{ priority = 5000 }"}, "options.priority: must be -1000 to 1000"),
        ({"options": "{ run_at = 2026-01-01T00:00:00Z }"}, "options.run_at: must be unset"),
        ({"options": "{ expire_at = 2026-01-01T00:00:00Z }"}, "options.expire_at: must be unset"),
        ({"options": '{ metadata = { "workerqueue.tick" = "x" } }'}, "is set by the schedule"),
        ({"start_at": "2026-01-01T00:00:00"}, "a time needs an offset"),
        (
            {"start_at": "2026-01-02T00:00:00Z", "end_at": "2026-01-01T00:00:00Z"},
            "end_at: must be later than start_at",
        ),
        ({"description": f'"{"x" * 1025}"'}, "description: must have at most 1024 bytes"),
        ({"args": f'{{ id = "{"x" * 70_000}" }}'}, "a schedule has at most 65536 bytes"),
    ],
)
def test_what_is_wrong_is_refused_by_name(
    tmp_path: Path, change: dict[str, str | None], reason: str
) -> None:
    table = {key: value for key, value in (GOOD | change).items() if value is not None}
    text = "[schedules.x]\n" + "".join(f"{key} = {value}\n" for key, value in table.items())
    with pytest.raises(ScheduleFileError) as caught:
        load(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path / 'schedules.toml'}: schedule 'x': ")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[schedules", "is not TOML"),
        ("schedule = {}", "schedule: unknown; did you mean schedules?"),
        ("schedules = 5", "schedules: must be a table"),
        ("[schedules]\nx = 5", "schedule 'x': the schedule: must be a table"),
        ("owner = 'with space'", "owner: must be"),
        (
            '[schedules."with space"]\ncron = "@daily"\nkind = "runFinished"\nargs.id = "x"',
            "name: ",
        ),
        ("[schedules.x]\n[schedules.x]\n", "is not TOML"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(ScheduleFileError) as caught:
        load(tmp_path, text)
    assert reason in str(caught.value)
    assert str(tmp_path / "schedules.toml") in str(caught.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScheduleFileError, match=r"cannot read .*: No such file"):
        load_schedule_file(tmp_path / "none.toml", READ_TASK)
