"""An enqueue by SQL stores what the same enqueue by RPC stores, and refuses what it refuses."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import psycopg
import pytest
from google.protobuf import json_format
from google.protobuf.message import Message
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from tests.descriptors import everything
from tests.examples import examples
from tests.payloads import everything_args, fill, spellings
from tests.postgres import PostgresCluster
from tests.servers import ServerProcess
from tests.toolkit import packed, refusal
from workerqueue.v1 import policy_pb2, task_pb2, worker_queue_pb2
from workerqueue.v1.worker_queue_pb2_grpc import WorkerQueueStub
from workerqueue_server.queue import canonical
from workerqueue_server.queue.catalog import Catalog

CATALOG = Catalog.load({"everything.binpb": everything()})
OWN = {"id", "position", "created_at", "run_at", "expire_at", "payload", "args", "lane_id"} | {
    # Follow from others.
    "phase",
    "unstarted_until",
}


class Both(NamedTuple):
    """A server and its database."""

    stub: WorkerQueueStub
    connection: psycopg.Connection[dict[str, Any]]

    def by_rpc(self, made: worker_queue_pb2.EnqueueRequest) -> dict[str, Any] | str:
        """The stored row, or why there is none."""
        try:
            answer = self.stub.Enqueue(made, timeout=60)
        except grpc.RpcError as error:
            if refusal(error).code != grpc.StatusCode.INVALID_ARGUMENT:
                raise
            return refusal(error).message
        return self._take(answer.task.task_id)

    def by_sql(self, item: dict[str, Any]) -> dict[str, Any] | str:
        """The stored row, or why there is none."""
        try:
            row = self.connection.execute(
                "select task_id from workerqueue.enqueue_batch(%s)", [Jsonb([item])]
            ).fetchone()
        except psycopg.errors.InvalidParameterValue as error:
            return str(error)
        assert row is not None
        return self._take(row["task_id"])

    def _take(self, task_id: object) -> dict[str, Any]:
        """The row, which is then removed so that the next one does not meet it."""
        row = self.connection.execute(
            """
            with gone as (delete from workerqueue.tasks where id = %s returning *)
            select g.*, g.state::text as state, g.unique_states::text as unique_states,
                   l.queue, l.kind, l.priority as lane_priority
              from gone g join workerqueue.lanes l using (lane_id)
            """,
            [task_id],
        ).fetchone()
        assert row is not None
        return row


@pytest.fixture(scope="module")
def both(postgres: PostgresCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    """A server that knows the kinds with a field of every type."""
    descriptors: Path = tmp_path_factory.mktemp("protos") / "everything.binpb"
    descriptors.write_bytes(everything())
    database = postgres.create_migrated_database()
    with (
        ServerProcess(database.dsn, arguments=["--descriptors", str(descriptors)]) as server,
        grpc.insecure_channel(server.address) as channel,
        psycopg.connect(database.dsn, autocommit=True, row_factory=dict_row) as connection,
    ):
        yield Both(WorkerQueueStub(channel), connection)
    postgres.drop_database(database)


# Each option as (field of TaskOptions, value there, key in the SQL form, value there).
def same(name: str, values: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[str, Any, Any]]:
    return values.map(lambda value: (name, value, value))


def durations(name: str, low_ms: int, high_ms: int) -> st.SearchStrategy[tuple[str, Any, Any]]:
    """Mostly within the limits, in the forms an interval has in SQL."""
    milliseconds = st.integers(low_ms, high_ms) | st.sampled_from(
        [low_ms, high_ms, low_ms - 1, high_ms + 1]
    )

    def build(ms: int, as_number: bool) -> tuple[str, Any, Any]:
        return name, timedelta(milliseconds=ms), ms / 1000 if as_number else f"{ms} milliseconds"

    return st.builds(build, milliseconds, st.booleans())


DAY = 86_400_000
words = st.lists(st.sampled_from(["a", "b", "ä", "x" * 128, "x" * 129, ""]), max_size=17)
keys = st.sampled_from(["", "k", "ключ", "x" * 512, "x" * 513, "é" * 257])
metadata = st.dictionaries(
    st.sampled_from(["a", "b", "x" * 128, "x" * 129, ""]),
    st.sampled_from(["", "v", "w" * 8000, "w" * 16400]),
    max_size=3,
)
OPTIONS: dict[str, st.SearchStrategy[tuple[str, Any, Any]]] = {
    "queue": same(
        "queue", st.sampled_from(["q", "a.b:c/d-e_f", "with space", "x" * 128, "x" * 129])
    ),
    "priority": same("priority", st.sampled_from([-1001, -1000, -1, 0, 1, 1000, 1001])),
    "max_attempts": same("max_attempts", st.sampled_from([-1, 1, 1000, 1001])),
    "concurrency_limit": same("concurrency_limit", st.sampled_from([-1, 1, 1000, 1001])),
    "timeout": durations("timeout", 100, 7 * DAY),
    "lease_duration": durations("lease_duration", 1000, 3_600_000),
    "delay": durations("delay", 0, 366 * DAY),
    "concurrency_key": same("concurrency_key", keys),
    "job_key": same("job_key", keys),
    "tags": same("tags", words),
    "metadata": same("metadata", metadata),
}
MODES = {
    "replace": policy_pb2.JOB_KEY_MODE_REPLACE,
    "preserve_run_at": policy_pb2.JOB_KEY_MODE_PRESERVE_RUN_AT,
    "unsafe_dedupe": policy_pb2.JOB_KEY_MODE_UNSAFE_DEDUPE,
}
LIVE = ["scheduled", "available", "blocked", "leased", "retrying"]
PATHS = ["plain_text", "inner.label", "other-name", "nothing", "words.x"]


@st.composite
def uniques(draw: st.DrawFn) -> dict[str, Any]:
    """The option in its SQL form."""
    option: dict[str, Any] = {}
    if draw(st.booleans()):
        option["by_args"] = draw(st.booleans())
    if draw(st.booleans()):
        option["by_fields"] = draw(st.lists(st.sampled_from(PATHS), max_size=3))
    if draw(st.booleans()):
        option["by_queue"] = draw(st.booleans())
    if draw(st.booleans()):
        option["by_period"] = draw(st.sampled_from([0.999, 1, 60, 366 * 86_400, 367 * 86_400]))
    if draw(st.booleans()):
        finished = st.lists(st.sampled_from(["succeeded", "dead", "cancelled", "expired"]))
        option["by_states"] = draw(st.sampled_from([LIVE, LIVE, LIVE[1:]])) + draw(finished)
    if draw(st.booleans()):
        option["on_conflict"] = draw(st.sampled_from(["keep_existing", "fail"]))
    return option


@st.composite
def retries(draw: st.DrawFn) -> dict[str, Any]:
    return draw(
        st.fixed_dictionaries(
            {},
            optional={
                "initial_backoff": st.sampled_from([0.0005, 0.001, 1.5, 86_400, 86_401]),
                "multiplier": st.sampled_from([0.5, 1, 2.5, 100, 101]),
                "max_backoff": st.sampled_from([0.001, 2_592_000, 2_592_001]),
                "jitter": st.sampled_from([-0.1, 0, 0.25, 1, 1.1]),
            },
        )
    )


@st.composite
def retentions(draw: st.DrawFn) -> dict[str, Any]:
    seconds = st.sampled_from([0, 1.9, 3600, 2_592_000, 2_592_001])
    names = ["succeeded", "dead", "cancelled", "expired"]
    return draw(st.fixed_dictionaries({}, optional=dict.fromkeys(names, seconds)))


def proto_duration(seconds: float) -> str:
    return f"{seconds:.6f}s"


def rpc_unique(option: dict[str, Any]) -> worker_queue_pb2.Unique:
    plain = dict(option)
    if "by_period" in plain:
        plain["by_period"] = proto_duration(plain["by_period"])
    if "by_states" in plain:
        plain["by_states"] = [f"TASK_STATE_{state.upper()}" for state in plain["by_states"]]
    if "on_conflict" in plain:
        plain["on_conflict"] = f"UNIQUE_CONFLICT_{plain['on_conflict'].upper()}"
    return json_format.ParseDict(plain, worker_queue_pb2.Unique())


@st.composite
def cases(draw: st.DrawFn) -> tuple[worker_queue_pb2.EnqueueRequest, dict[str, Any]]:
    """The same enqueue in both forms."""
    kind = CATALOG.kinds[draw(st.sampled_from(["everything", "plain"]))]
    message: Message = kind.message_class()
    if kind.name == "everything":
        message = fill(message, draw(everything_args))
    else:
        message = kind.message_class(id=draw(st.text("abc")))
    item: dict[str, Any] = {"kind": kind.name, "args": draw(spellings(message))}
    made = worker_queue_pb2.EnqueueRequest(payload=packed(message))
    options = made.options
    for name in draw(st.lists(st.sampled_from(sorted(OPTIONS)), unique=True, max_size=4)):
        field, value, item[name] = draw(OPTIONS[name])
        if isinstance(value, timedelta):
            getattr(options, field).FromTimedelta(value)
        elif isinstance(value, list):
            getattr(options, field).extend(value)
        elif isinstance(value, dict):
            getattr(options, field).update(value)
        else:
            setattr(options, field, value)
    if draw(st.booleans()):
        mode = draw(st.sampled_from(sorted(MODES)))
        item["job_key_mode"], options.job_key_mode = mode, MODES[mode]
    for form in (_draw_unique, _draw_retry, _draw_retention):
        if draw(st.booleans()):
            form(draw, item, options)
    return made, item


def _draw_unique(
    draw: st.DrawFn, item: dict[str, Any], options: worker_queue_pb2.TaskOptions
) -> None:
    item["unique"] = draw(uniques())
    options.unique.CopyFrom(rpc_unique(item["unique"]))
    if draw(st.booleans()):
        item["job_key"] = options.job_key = ""


def _draw_retry(
    draw: st.DrawFn, item: dict[str, Any], options: worker_queue_pb2.TaskOptions
) -> None:
    item["retry"] = draw(retries())
    plain = {
        name: proto_duration(value) if "backoff" in name else value
        for name, value in item["retry"].items()
    }
    options.retry.SetInParent()
    json_format.ParseDict(plain, options.retry)


def _draw_retention(
    draw: st.DrawFn, item: dict[str, Any], options: worker_queue_pb2.TaskOptions
) -> None:
    item["retention"] = draw(retentions())
    plain = {name: proto_duration(value) for name, value in item["retention"].items()}
    json_format.ParseDict(plain, options.retention)


@given(case=cases())
@settings(max_examples=examples(200), deadline=None, suppress_health_check=list(HealthCheck))
def test_both_forms_store_the_same(
    both: Both, case: tuple[worker_queue_pb2.EnqueueRequest, dict[str, Any]]
) -> None:
    made, item = case
    by_rpc, by_sql = both.by_rpc(made), both.by_sql(item)
    if isinstance(by_rpc, str) or isinstance(by_sql, str):
        assert isinstance(by_rpc, str), (by_rpc, by_sql)
        assert isinstance(by_sql, str), (by_rpc, by_sql)
        return
    # A period may begin between the two; its number is the end of the key.
    if by_rpc["unique_key"] and len(by_rpc["unique_key"]) > 32:
        assume(by_rpc["unique_key"][32:] == by_sql["unique_key"][32:])
    # What is due within moments may have been made available between the two.
    if timedelta() < by_rpc["run_at"] - by_rpc["created_at"] < timedelta(minutes=1):
        by_rpc["state"] = by_sql["state"] = "due"
    assert _own(by_rpc) == _own(by_sql)
    for name in ("run_at", "expire_at"):
        if by_rpc[name] is not None:
            assert by_rpc[name] - by_rpc["created_at"] == by_sql[name] - by_sql["created_at"]
    kind = CATALOG.kinds[item["kind"]]
    # Not the bytes: JSON in Postgres knows one zero, doubles know two.
    from_args = kind.message_class.FromString(CATALOG.payload_of(kind, by_sql["args"]))
    from_bytes = kind.message_class.FromString(by_rpc["payload"])
    assert canonical.message(from_args) == canonical.message(from_bytes)


def _own(row: dict[str, Any]) -> dict[str, Any]:
    """What must be equal. A task with a concurrency key is admitted by a server a moment later."""
    kept = {name: value for name, value in row.items() if name not in OWN}
    if row["concurrency_key"] is not None and row["state"] in ("blocked", "available"):
        kept["state"] = "ready"
    return kept


def test_run_at_and_expire_at(both: Both) -> None:
    for moment in ("1990-01-02T03:04:05.678901Z", "2190-01-02T03:04:05.678901Z"):
        made = worker_queue_pb2.EnqueueRequest(
            task_id=str(uuid.uuid4()),
            payload=packed(CATALOG.kinds["plain"].message_class()),
        )
        made.options.run_at.FromJsonString(moment)
        made.options.expire_at.FromJsonString("2191-01-01T00:00:00Z")
        by_rpc = both.by_rpc(made)
        by_sql = both.by_sql(
            {"kind": "plain", "run_at": moment, "expire_at": "2191-01-01 00:00:00+00"}
        )
        assert isinstance(by_rpc, dict)
        assert isinstance(by_sql, dict)
        assert by_rpc["expire_at"] == by_sql["expire_at"]
        assert by_rpc["state"] == by_sql["state"]
        if moment.startswith("2"):
            assert by_rpc["run_at"] == by_sql["run_at"]
        else:
            assert by_sql["run_at"] == by_sql["created_at"]


def test_values_that_cannot_be_compared(both: Both) -> None:
    plain: Any = CATALOG.kinds["plain"].message_class(id="a")
    plain.any.Pack(task_pb2.Progress(fraction=0.5))
    made = worker_queue_pb2.EnqueueRequest(payload=packed(plain))
    made.options.unique.by_args = True
    assert isinstance(both.by_rpc(made), str)
    args = {"any": {"@type": "type.googleapis.com/workerqueue.v1.Progress", "fraction": 0.5}}
    assert isinstance(
        both.by_sql({"kind": "plain", "args": args, "unique": {"by_args": True}}), str
    )
