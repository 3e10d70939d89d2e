"""`workerqueue enqueue`."""

from __future__ import annotations

import asyncio
import json
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.integration.cli.commands import Cli
from tests.toolkit import Api
from workerqueue.tasks.v1 import tasks_pb2


async def test_a_task_is_stored_and_told(cli: Cli) -> None:
    ended = await cli("enqueue", "startRun", '{"id": "run_1"}')
    assert ended.out.startswith("created ")
    assert "(startRun in queue executions, available)" in ended.out
    assert ended.err == ""


async def test_the_payload_comes_from_a_file_or_from_standard_input(
    cli: Cli, tmp_path: Path
) -> None:
    (tmp_path / "payload.json").write_text('{"id": "from a file"}')
    stored = await cli("enqueue", "startRun", "@payload.json", "-o", "json", cwd=tmp_path)
    assert stored.json()["task"]["payload"]["id"] == "from a file"
    stored = await cli("enqueue", "startRun", "-", "-o", "json", stdin='{"id": "Grüße ✓"}')
    assert stored.json()["task"]["payload"]["id"] == "Grüße ✓"


async def test_every_option_reaches_the_task(cli: Cli) -> None:
    expire_at = (datetime.now(UTC) + timedelta(hours=2)).replace(microsecond=0)
    stored = await cli(
        *("enqueue", "startRun", '{"id": "run_1"}', "-o", "json"),
        *("--queue", "other", "--priority", "-7", "--max-attempts", "4", "--timeout", "90s"),
        *("--lease-duration", "5s", "--delay", "1h", "--expire-at", expire_at.isoformat()),
        *("--concurrency-key", "key", "--concurrency-limit", "2", "--job-key", "job"),
        *("--tag", "one", "--tag", "two", "--metadata", "a=1", "--metadata", "b=x=y"),
        *("--retry-initial", "2s", "--retry-multiplier", "3", "--retry-max", "1h"),
        *("--retry-jitter", "0", "--keep-succeeded", "2h", "--keep-dead", "3d"),
        *("--keep-cancelled", "4h", "--keep-expired", "5h"),
    )
    task = stored.json()["task"]
    assert stored.json()["outcome"] == "ENQUEUE_OUTCOME_CREATED"
    for field, value in {
        "kind": "startRun",
        "state": "TASK_STATE_SCHEDULED",
        "queue": "other",
        "priority": -7,
        "maxAttempts": 4,
        "timeout": "90s",
        "leaseDuration": "5s",
        "concurrencyKey": "key",
        "concurrencyLimit": 2,
        "jobKey": "job",
        "tags": ["one", "two"],
        "metadata": {"a": "1", "b": "x=y"},
    }.items():
        assert task[field] == value, field
    assert task["retry"] == {
        "initialBackoff": "2s",
        "multiplier": 3.0,
        "maxBackoff": "3600s",
        "jitter": 0.0,
    }
    assert task["retention"] == {
        "succeeded": "7200s",
        "dead": "259200s",
        "cancelled": "14400s",
        "expired": "18000s",
    }
    assert datetime.fromisoformat(task["expireAt"]) == expire_at


async def test_the_same_task_id_makes_one_task(cli: Cli) -> None:
    task_id = str(uuid.uuid4())
    arguments = ("enqueue", "runFinished", '{"id": "r"}', "--task-id", task_id)
    assert (await cli(*arguments)).out.startswith(f"created {task_id}")
    assert (await cli(*arguments)).out.startswith(f"already existed {task_id}")


async def test_job_keys_and_uniqueness_say_what_they_did(cli: Cli) -> None:
    keyed = ("enqueue", "runFinished", '{"id": "r"}', "--job-key", "k", "--delay", "1h")
    assert (await cli(*keyed)).out.startswith("created")
    assert (await cli(*keyed)).out.startswith("replaced")
    assert (await cli(*keyed, "--job-key-mode", "unsafe-dedupe")).out.startswith("kept")
    unique = ("enqueue", "runFinished", '{"id": "u"}', "--unique-args", "--delay", "1h")
    assert (await cli(*unique)).out.startswith("created")
    assert (await cli(*unique)).out.startswith("kept")
    refused = await cli(*unique, "--on-conflict", "fail", code=1)
    assert "ALREADY_EXISTS (KEY_CONFLICT)" in refused.err


async def test_quiet_prints_the_id_alone(cli: Cli) -> None:
    ended = await cli("enqueue", "startRun", '{"id": "run_1"}', "-q")
    assert str(uuid.UUID(ended.out.strip())) == ended.out.strip()


async def test_a_refusal_names_the_field_and_helps(cli: Cli) -> None:
    refused = await cli("enqueue", "startRun", "{}", code=1)
    assert refused.out == ""
    assert "INVALID_ARGUMENT (INVALID_PAYLOAD)" in refused.err
    assert "dynamic.args.id: " in refused.err
    assert "hint: `workerqueue kinds show KIND`" in refused.err
    refused = await cli("enqueue", "startRan", '{"id": "run_1"}', code=1)
    assert "did you mean startRun" in refused.err


async def test_a_refusal_is_json_where_the_output_is(cli: Cli) -> None:
    refused = await cli("enqueue", "startRun", "{}", "-o", "jsonl", code=1)
    error = json.loads(refused.err)["error"]
    assert error["code"] == "INVALID_ARGUMENT"
    assert error["reason"] == "INVALID_PAYLOAD"
    assert error["fields"][0]["field"] == "dynamic.args.id"


async def test_wrong_usage_is_told_before_anything_is_stored(cli: Cli) -> None:
    for arguments, words in (
        (("startRun", '{"id": '), "is not JSON"),
        (("startRun", "[1]"), "must be a JSON object"),
        (("startRun", "@missing.json"), "cannot read missing.json"),
        (("startRun", "--delay", "soon"), "is no duration"),
        (("startRun", "--delay", "1s", "--run-at", "2s"), "--delay or --run-at"),
        (("startRun", "--metadata", "novalue"), "KEY=VALUE"),
        (("startRun", "--lines", "{}"), "--lines reads a file"),
        ((), "Missing argument"),
    ):
        ended = await cli("enqueue", *arguments, code=2)
        assert words in ended.err
        assert ended.out == ""


async def test_waiting_prints_the_result(cli: Cli, api: Api, queue: str) -> None:
    async with api.worker(queue) as worker:
        process = await cli.start(
            "enqueue", "startRun", '{"id": "run_1"}', "--queue", queue, "--wait"
        )
        task = await worker.task()
        await worker.send(acks=[{"lease_token": task.lease_token, "result": _packed("the answer")}])
        out, err = await process.communicate()
    assert process.returncode == 0
    assert json.loads(out) == {"id": "the answer"}
    assert "succeeded, attempt 1 of 13" in err.decode()


async def test_waiting_for_a_task_that_dies_ends_with_5(cli: Cli, api: Api, queue: str) -> None:
    async with api.worker(queue) as worker:
        process = await cli.start(
            *("enqueue", "startRun", '{"id": "run_1"}', "--queue", queue, "--wait", "-o", "json")
        )
        task = await worker.task()
        await worker.fail(
            task.lease_token, error={"type": "ValueError", "message": "no such run"}, permanent=True
        )
        out, err = await process.communicate()
    assert process.returncode == 5
    assert json.loads(out)["state"] == "TASK_STATE_DEAD"
    assert "is dead: ValueError: no such run" in json.loads(err)["error"]["message"]


async def test_waiting_ends_in_time_with_6(cli: Cli) -> None:
    ended = await cli(
        *("enqueue", "startRun", '{"id": "run_1"}', "--queue", "nobody"),
        *("--wait-timeout", "300ms"),
        code=6,
    )
    assert "has not ended in time" in ended.err


async def test_lines_become_tasks_and_bad_ones_are_told(cli: Cli, api: Api, queue: str) -> None:
    lines = [json.dumps({"id": f"run_{n}" if n != 7 else ""}) for n in range(1, 2501)]
    ended = await cli(
        *("enqueue", "runFinished", "-", "--lines", "--queue", queue),
        stdin="\n".join(lines) + "\n\n",
        code=1,
    )
    assert ended.out == "2,499 created, 1 refused\n"
    assert "line 7: dynamic.args.id: " in ended.err
    assert "1 of 2,500 tasks were refused" in ended.err
    taken = await api.take(queue, 5_000)
    ids = [tasks_pb2.RunFinished.FromString(task.payload.value).id for task in taken]
    assert ids == [f"run_{n}" for n in range(1, 2501) if n != 7], "in the order of the lines"


async def test_lines_tell_each_task_as_json(cli: Cli, queue: str) -> None:
    ended = await cli(
        *("enqueue", "runFinished", "-", "--lines", "--queue", queue, "-o", "jsonl"),
        stdin='{"id": "a"}\n{}\n',
        code=1,
    )
    stored, refused = ended.json_lines()
    assert stored["line"] == 1
    assert stored["outcome"] == "created"
    assert str(uuid.UUID(stored["taskId"])) == stored["taskId"]
    assert refused["line"] == 2
    assert refused["reason"] == "INVALID_PAYLOAD"


async def test_a_line_that_is_no_object_stops_it(cli: Cli) -> None:
    ended = await cli("enqueue", "runFinished", "-", "--lines", stdin='{"id": "a"}\n7\n', code=1)
    assert "line 2 is no JSON object" in ended.err


async def test_a_server_that_is_away_is_told_with_the_id_to_repeat_with(cli: Cli) -> None:
    ended = await asyncio.wait_for(
        cli("enqueue", "startRun", '{"id": "r"}', "--address", "127.0.0.1:1", code=3), 30
    )
    assert "no server answers at 127.0.0.1:1" in ended.err
    assert "workerqueue dev" in ended.err
    assert "--task-id" in ended.err


def _packed(text: str) -> dict[str, object]:
    message = tasks_pb2.StartRun(id=text)
    return {
        "type_url": f"type.googleapis.com/{message.DESCRIPTOR.full_name}",
        "value": message.SerializeToString(),
    }
