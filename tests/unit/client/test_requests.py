"""Building enqueue requests: what is sent, and what is refused before it is sent."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta, timezone

import pytest
from google.protobuf import json_format
from google.protobuf.any_pb2 import Any

from workerqueue import (
    EnqueueItem,
    EnqueueOptions,
    JobKeyMode,
    Retention,
    RetryPolicy,
    TooLargeError,
    Unique,
)
from workerqueue._enqueue import build_batch, build_request
from workerqueue.tasks.v1.tasks_pb2 import StartRun
from workerqueue.v1 import worker_queue_pb2

RUN = StartRun(id="run_1")


def options_of(**options: object) -> worker_queue_pb2.TaskOptions:
    return build_request(RUN, EnqueueOptions(**options)).options  # type: ignore[typeddict-item]


def test_no_options_send_none() -> None:
    request = build_request(RUN, EnqueueOptions())
    assert not request.HasField("options")
    assert uuid.UUID(request.task_id).version == 7
    unpacked = StartRun()
    assert request.payload.Unpack(unpacked)
    assert unpacked == RUN


def test_every_option_is_sent() -> None:
    at = datetime(2030, 1, 2, 3, 4, 5, 678000, tzinfo=timezone(timedelta(hours=2)))
    request = build_request(
        RUN,
        EnqueueOptions(
            task_id="01890000-0000-7000-8000-000000000000",
            queue="q",
            priority=0,
            max_attempts=7,
            timeout=1.5,
            lease_duration=timedelta(minutes=1),
            run_at=at,
            expire_at=at + timedelta(hours=1),
            concurrency_key="",
            concurrency_limit=2,
            retry=RetryPolicy(initial_backoff=0.25, multiplier=3, max_backoff=60, jitter=0),
            retention=Retention(succeeded=0, dead=timedelta(days=2)),
            tags=["a", "b"],
            metadata={"k": "v"},
            job_key="",
            job_key_mode=JobKeyMode.PRESERVE_RUN_AT,
            unique=Unique(by_fields=["id"], by_queue=True, by_period=60, finished=[], fail=True),
        ),
    )
    assert json_format.MessageToDict(request)["options"] == {
        "queue": "q",
        "priority": 0,
        "maxAttempts": 7,
        "timeout": "1.500s",
        "leaseDuration": "60s",
        "runAt": "2030-01-02T01:04:05.678Z",
        "expireAt": "2030-01-02T02:04:05.678Z",
        "concurrencyKey": "",
        "concurrencyLimit": 2,
        "retry": {
            "initialBackoff": "0.250s",
            "multiplier": 3.0,
            "maxBackoff": "60s",
            "jitter": 0.0,
        },
        "retention": {"succeeded": "0s", "dead": "172800s"},
        "tags": ["a", "b"],
        "metadata": {"k": "v"},
        "jobKey": "",
        "jobKeyMode": "JOB_KEY_MODE_PRESERVE_RUN_AT",
        "unique": {
            "byFields": ["id"],
            "byQueue": True,
            "byPeriod": "60s",
            "byStates": [
                "TASK_STATE_SCHEDULED",
                "TASK_STATE_AVAILABLE",
                "TASK_STATE_BLOCKED",
                "TASK_STATE_LEASED",
                "TASK_STATE_RETRYING",
            ],
            "onConflict": "UNIQUE_CONFLICT_FAIL",
        },
    }


def test_none_keeps_the_policy() -> None:
    names = EnqueueOptions.__annotations__
    assert options_of(**dict.fromkeys(names)) == worker_queue_pb2.TaskOptions()


def test_every_option_of_the_contract_can_be_given() -> None:
    fields = {field.name for field in worker_queue_pb2.TaskOptions.DESCRIPTOR.fields}
    assert set(EnqueueOptions.__annotations__) == fields | {"task_id"}


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"run_at": datetime(2030, 1, 1)}, "run_at has no time zone"),  # noqa: DTZ001
        ({"expire_at": datetime(2030, 1, 1)}, "expire_at has no time zone"),  # noqa: DTZ001
        ({"run_at": datetime(2030, 1, 1, tzinfo=UTC), "delay": 1}, "run_at or delay"),
        ({"delay": -1}, "delay must be"),
        ({"timeout": float("nan")}, "timeout must be"),
        ({"max_attempts": 0}, "max_attempts must be"),
        ({"concurrency_limit": 0}, "concurrency_limit must be"),
        ({"job_key_mode": "upsert"}, "upsert"),
        ({"unique": Unique(finished=["leased"])}, "finished must be any of"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(
    options: dict[str, object], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        options_of(**options)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"delay": "1s"}, "delay must be"),
        ({"timeout": True}, "timeout must be"),
        ({"run_at": 12345}, "run_at must be a datetime"),
        ({"tags": "one"}, "tags must be several"),
        ({"unique": Unique(by_fields="id")}, "by_fields must be several"),
        ({"prority": 1}, "unknown enqueue option: prority"),
    ],
)
def test_values_of_the_wrong_type_are_refused(options: dict[str, object], complaint: str) -> None:
    with pytest.raises(TypeError, match=complaint):
        options_of(**options)


def test_a_payload_must_be_a_message() -> None:
    with pytest.raises(TypeError, match="protobuf message, not dict"):
        build_request({"id": "x"}, EnqueueOptions())  # type: ignore[arg-type]


def test_a_packed_payload_is_sent_as_it_is() -> None:
    packed = Any(type_url="type.googleapis.com/acme.Job", value=b"\x08\x01")
    assert build_request(packed, EnqueueOptions()).payload == packed


def test_a_batch_keeps_order_and_each_items_options() -> None:
    items: list[StartRun | EnqueueItem] = [
        RUN,
        EnqueueItem(RUN, queue="a"),
        EnqueueItem.dynamic("stopVM", {"id": "v"}, delay=2),
    ]
    batch = build_batch(items, all_or_nothing=True)
    assert batch.all_or_nothing
    assert [task.options.queue for task in batch.tasks] == ["", "a", ""]
    assert batch.tasks[2].dynamic.kind == "stopVM"
    assert json_format.MessageToDict(batch.tasks[2].dynamic.args) == {"id": "v"}
    assert batch.tasks[2].options.delay.seconds == 2
    assert len({task.task_id for task in batch.tasks}) == 3


def test_a_batch_that_could_not_be_taken_is_not_sent() -> None:
    with pytest.raises(ValueError, match="at least one item"):
        build_batch([], all_or_nothing=False)
    with pytest.raises(TooLargeError, match="at most 10000 items"):
        build_batch([RUN] * 10_001, all_or_nothing=False)
    with pytest.raises(TooLargeError, match="bytes"):
        build_batch([StartRun(id="x" * 1_000_000)] * 5, all_or_nothing=False)
