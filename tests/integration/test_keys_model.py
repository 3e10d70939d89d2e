"""Job keys and uniqueness against plain models of them, over random histories."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import grpc
import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from psycopg.rows import dict_row

from tests.examples import examples
from tests.model.system import MODES, OUTCOMES
from tests.postgres import Database
from tests.servers import ServerProcess
from tests.toolkit import packed, refusal, seconds
from workerqueue.tasks.v1 import tasks_pb2
from workerqueue.v1 import lease_pb2, task_pb2, worker_queue_pb2
from workerqueue.v1.worker_queue_pb2_grpc import WorkerQueueStub

SETTINGS = settings(
    max_examples=examples(25),
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
# Nothing that waits becomes due during a test.
LATER = seconds(3600)
_queues = itertools.count(1)


class System(NamedTuple):
    """The real thing: a server by its stub, and its tables to look at."""

    stub: WorkerQueueStub
    connection: psycopg.Connection[dict[str, Any]]

    def send(self, made: worker_queue_pb2.EnqueueRequest) -> tuple[str, str]:
        """Outcome and task id; `conflict` for a refusal."""
        try:
            answer = self.stub.Enqueue(made, timeout=60)
        except grpc.RpcError as error:
            refused = refusal(error)
            if refused.reason != "KEY_CONFLICT":
                raise
            return "conflict", refused.metadata["task_id"]
        return OUTCOMES[answer.outcome], answer.task.task_id

    def batch(self, made: list[worker_queue_pb2.EnqueueRequest]) -> list[tuple[str, str]]:
        """The same for each item of a batch."""
        answer = self.stub.EnqueueBatch(
            worker_queue_pb2.EnqueueBatchRequest(tasks=made), timeout=60
        )
        return [
            ("conflict", refusal(result.error).metadata["task_id"])
            if result.HasField("error")
            else (OUTCOMES[result.outcome], result.task_id)
            for result in answer.results
        ]

    def lease(self, queue: str, count: int) -> list[lease_pb2.LeasedTask]:
        """What is available right now, up to so many."""
        subscribe = lease_pb2.Subscribe(worker_id="w", queues=[queue], max_in_flight=count)
        frames = self.stub.Lease(iter([lease_pb2.LeaseRequest(subscribe=subscribe)]), timeout=60)
        return [task for frame in frames for task in frame.tasks]

    def nack(self, token: bytes, **action: Any) -> None:
        """Fails, releases or snoozes."""
        self.stub.Nack(lease_pb2.NackRequest(lease_token=token, **action), timeout=60)

    def live(self, queue: str) -> dict[str, tuple[str, str]]:
        """State and payload of the queue's live tasks."""
        rows = self.connection.execute(
            """
            select t.id::text, t.state::text, t.payload, t.behind
              from workerqueue.tasks t join workerqueue.lanes l using (lane_id)
             where l.queue = %s
            """,
            [queue],
        ).fetchall()
        return {
            row["id"]: (
                "behind" if row["behind"] else row["state"],
                tasks_pb2.RunFinished.FromString(row["payload"]).id,
            )
            for row in rows
        }

    def finished(self, task_ids: list[str]) -> dict[str, str]:
        """The states of those that are finished."""
        rows = self.connection.execute(
            "select id::text, state::text from workerqueue.history where id = any (%s::uuid[])",
            [task_ids],
        ).fetchall()
        return {row["id"]: row["state"] for row in rows}


@pytest.fixture(scope="module")
def system(server: ServerProcess, server_database: Database) -> Iterator[System]:
    """The module's server."""
    with (
        grpc.insecure_channel(server.address) as channel,
        psycopg.connect(server_database.dsn, autocommit=True, row_factory=dict_row) as connection,
    ):
        yield System(WorkerQueueStub(channel), connection)


@dataclass
class Job:
    """A live task of the model."""

    task_id: str
    key: str
    payload: str
    # scheduled, available, retrying, leased, or behind
    state: str
    attempt: int = 0
    token: bytes = b""


@dataclass
class JobModel:
    """What job keys mean, in a page of Python."""

    jobs: dict[str, Job] = field(default_factory=dict)
    finished: dict[str, str] = field(default_factory=dict)
    answered: dict[str, str] = field(default_factory=dict)

    def enqueue(
        self, request_id: str, key: str, mode: str, payload: str, later: bool
    ) -> tuple[str, str]:
        """Outcome and task id."""
        if request_id in self.jobs or request_id in self.finished:
            return "existed", request_id
        if request_id in self.answered:
            return "replaced", self.answered[request_id]
        mine = [job for job in self.jobs.values() if job.key == key]
        target = next((job for job in mine if job.state != "leased"), None)
        if mine and mode == "dedupe":
            return "kept", (target or mine[0]).task_id
        if target is not None:
            self._replace(target, mode, payload, later)
            self.answered[request_id] = target.task_id
            return "replaced", target.task_id
        state = "behind" if mine else "scheduled" if later else "available"
        self.jobs[request_id] = Job(request_id, key, payload, state)
        self.wish[request_id] = later
        return "created", request_id

    # Whether a job behind another one is to run later.
    wish: dict[str, bool] = field(default_factory=dict)

    def _replace(self, job: Job, mode: str, payload: str, later: bool) -> None:
        keeps_time = mode == "preserve" and job.attempt == 0
        job.payload, job.attempt = payload, 0
        if not keeps_time:
            self.wish[job.task_id] = later
            if job.state != "behind":
                job.state = "scheduled" if later else "available"

    def end(self, job: Job, how: str) -> None:
        """The lease of a job ends."""
        successor = next(
            (j for j in self.jobs.values() if j.key == job.key and j.state == "behind"), None
        )
        if how == "ack":
            self._finish(job, "succeeded")
        elif how == "die" or (how == "fail" and (successor or job.attempt == 3)):
            self._finish(job, "dead")
        elif successor:
            self._finish(job, "cancelled")
        else:
            job.state = {"fail": "retrying", "release": "available", "snooze": "scheduled"}[how]
            job.attempt -= how != "fail"
        if successor:
            successor.state = "scheduled" if self.wish[successor.task_id] else "available"

    def remove(self, key: str) -> None:
        """RemoveByJobKey."""
        for job in [job for job in self.jobs.values() if job.key == key]:
            if job.state == "leased":
                job.key = ""
                job.attempt = 3
            else:
                self._finish(job, "cancelled")

    def _finish(self, job: Job, state: str) -> None:
        del self.jobs[job.task_id]
        self.finished[job.task_id] = state


KEYS = st.sampled_from(["a", "b"])


class JobKeys(RuleBasedStateMachine):
    """Enqueues under few keys, leases, and ends leases in every way."""

    def __init__(self, system: System) -> None:
        super().__init__()
        self.system = system
        self.queue = f"jobs-{next(_queues)}"
        self.model = JobModel()
        self.sent: list[tuple[str, str, str, str, bool]] = []

    def _request(
        self, request_id: str, key: str, mode: str, payload: str, later: bool
    ) -> worker_queue_pb2.EnqueueRequest:
        options = worker_queue_pb2.TaskOptions(
            queue=self.queue, job_key=f"{self.queue}-{key}", job_key_mode=MODES[mode]
        )
        if later:
            options.delay.CopyFrom(LATER)
        return worker_queue_pb2.EnqueueRequest(
            task_id=request_id,
            payload=packed(tasks_pb2.RunFinished(id=payload)),
            options=options,
        )

    @rule(key=KEYS, mode=st.sampled_from(sorted(MODES)), payload=st.text("xyz", min_size=1),
          later=st.booleans())  # fmt: skip
    def enqueue(self, key: str, mode: str, payload: str, later: bool) -> None:
        request = (str(uuid.uuid4()), key, mode, payload, later)
        self.sent.append(request)
        assert self.system.send(self._request(*request)) == self.model.enqueue(*request)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(self.sent))
        got, expected = self.system.send(self._request(*request)), self.model.enqueue(*request)
        assert got == expected

    @rule(items=st.lists(st.tuples(KEYS, st.sampled_from(sorted(MODES)), st.booleans()),
                         min_size=2, max_size=4))  # fmt: skip
    def enqueue_batch(self, items: list[tuple[str, str, bool]]) -> None:
        requests = [
            (str(uuid.uuid4()), key, mode, f"{place}", later)
            for place, (key, mode, later) in enumerate(items)
        ]
        self.sent += requests
        got = self.system.batch([self._request(*request) for request in requests])
        assert got == [self.model.enqueue(*request) for request in requests]

    @rule(count=st.integers(1, 3))
    def lease(self, count: int) -> None:
        available = {j.task_id for j in self.model.jobs.values() if j.state == "available"}
        leased = self.system.lease(self.queue, count)
        assert len(leased) == min(count, len(available))
        for task in leased:
            assert task.task_id in available
            job = self.model.jobs[task.task_id]
            job.state, job.token = "leased", task.lease_token
            job.attempt += 1

    @precondition(lambda self: any(j.state == "leased" for j in self.model.jobs.values()))
    @rule(data=st.data(), how=st.sampled_from(["ack", "fail", "die", "release", "snooze"]))
    def end(self, data: st.DataObject, how: str) -> None:
        leased = [job for job in self.model.jobs.values() if job.state == "leased"]
        job = data.draw(st.sampled_from(leased))
        if how == "ack":
            self.system.stub.Ack(lease_pb2.AckRequest(lease_token=job.token), timeout=60)
        else:
            action: dict[str, Any] = {
                "fail": {"fail": lease_pb2.Fail(retry_after=LATER)},
                "die": {"fail": lease_pb2.Fail(permanent=True)},
                "release": {"release": lease_pb2.Release()},
                "snooze": {"snooze": lease_pb2.Snooze(delay=LATER)},
            }
            self.system.nack(job.token, **action[how])
        self.model.end(job, how)

    @rule(key=KEYS)
    def remove(self, key: str) -> None:
        self.system.connection.execute(
            "select * from workerqueue.remove_by_job_key(%s)", [f"{self.queue}-{key}"]
        )
        self.model.remove(key)

    @invariant()
    def the_tables_say_what_the_model_says(self) -> None:
        assert self.system.live(self.queue) == {
            job.task_id: (job.state, job.payload) for job in self.model.jobs.values()
        }
        ids = [request[0] for request in self.sent]
        assert self.system.finished(ids) == self.model.finished


@dataclass
class Candidate:
    """A task of the model of uniqueness."""

    task_id: str
    what: tuple[str, ...]
    counts_in: frozenset[str]
    state: str = "available"
    token: bytes = b""


FINISHED = ("succeeded", "dead")
LIVE = [
    task_pb2.TASK_STATE_SCHEDULED,
    task_pb2.TASK_STATE_AVAILABLE,
    task_pb2.TASK_STATE_BLOCKED,
    task_pb2.TASK_STATE_LEASED,
    task_pb2.TASK_STATE_RETRYING,
]


class Ask(NamedTuple):
    """An enqueue that wants to be unique."""

    value: str
    by_args: bool
    by_queue: bool
    finished: frozenset[str]
    fail: bool


ASKS = st.builds(
    Ask,
    st.sampled_from(["x", "y"]),
    st.booleans(),
    st.just(True),
    st.frozensets(st.sampled_from(FINISHED)),
    st.booleans(),
)


class Uniqueness(RuleBasedStateMachine):
    """Enqueues few payloads again and again, and finishes tasks in two ways."""

    def __init__(self, system: System) -> None:
        super().__init__()
        self.system = system
        self.queue = f"unique-{next(_queues)}"
        self.tasks: list[Candidate] = []

    def _request(self, task_id: str, ask: Ask) -> worker_queue_pb2.EnqueueRequest:
        unique = worker_queue_pb2.Unique(
            by_args=ask.by_args,
            by_queue=ask.by_queue,
            by_states=[*LIVE, *(f"TASK_STATE_{state.upper()}" for state in ask.finished)],
        )
        if ask.fail:
            unique.on_conflict = worker_queue_pb2.UNIQUE_CONFLICT_FAIL
        return worker_queue_pb2.EnqueueRequest(
            task_id=task_id,
            payload=packed(tasks_pb2.RunFinished(id=ask.value)),
            options=worker_queue_pb2.TaskOptions(queue=self.queue, unique=unique),
        )

    def _expect(self, task_id: str, ask: Ask) -> tuple[str, str]:
        what = ("args", ask.value) if ask.by_args else ("kind",)
        for task in self.tasks:
            if task.task_id == task_id:
                return "existed", task_id
        for task in self.tasks:
            is_live = task.state not in FINISHED
            if task.what == what and (is_live or task.state in task.counts_in):
                return "conflict" if ask.fail else "kept", task.task_id
        self.tasks.append(Candidate(task_id, what, ask.finished))
        return "created", task_id

    @rule(ask=ASKS)
    def enqueue(self, ask: Ask) -> None:
        task_id = str(uuid.uuid4())
        assert self.system.send(self._request(task_id, ask)) == self._expect(task_id, ask)

    @rule(asks=st.lists(ASKS, min_size=2, max_size=4))
    def enqueue_batch(self, asks: list[Ask]) -> None:
        made = [(str(uuid.uuid4()), ask) for ask in asks]
        got = self.system.batch([self._request(*item) for item in made])
        assert got == [self._expect(*item) for item in made]

    @precondition(lambda self: self.tasks)
    @rule(data=st.data(), ask=ASKS)
    def repeat(self, data: st.DataObject, ask: Ask) -> None:
        task_id = data.draw(st.sampled_from([task.task_id for task in self.tasks]))
        assert self.system.send(self._request(task_id, ask)) == ("existed", task_id)

    @rule(count=st.integers(1, 2))
    def lease(self, count: int) -> None:
        leased = self.system.lease(self.queue, count)
        by_id = {task.task_id: task for task in self.tasks}
        assert len(leased) == min(count, sum(t.state == "available" for t in self.tasks))
        for task in leased:
            by_id[task.task_id].state = "leased"
            by_id[task.task_id].token = task.lease_token

    @precondition(lambda self: any(task.state == "leased" for task in self.tasks))
    @rule(data=st.data(), how=st.sampled_from([*FINISHED, "retrying", "available"]))
    def end(self, data: st.DataObject, how: str) -> None:
        task = data.draw(st.sampled_from([t for t in self.tasks if t.state == "leased"]))
        if how == "succeeded":
            self.system.stub.Ack(lease_pb2.AckRequest(lease_token=task.token), timeout=60)
        elif how == "dead":
            self.system.nack(task.token, fail=lease_pb2.Fail(permanent=True))
        elif how == "retrying":
            self.system.nack(task.token, fail=lease_pb2.Fail(retry_after=LATER))
        else:
            self.system.nack(task.token, release=lease_pb2.Release())
        task.state = how

    @invariant()
    def live_tasks_are_those_of_the_model(self) -> None:
        live = {t.task_id: t.state for t in self.tasks if t.state not in FINISHED}
        assert {task: state for task, (state, _) in self.system.live(self.queue).items()} == live


@pytest.mark.slow
def test_job_keys_follow_the_model(system: System) -> None:
    run_state_machine_as_test(partial(JobKeys, system), settings=SETTINGS)  # type: ignore[arg-type]


@pytest.mark.slow
def test_uniqueness_follows_the_model(system: System) -> None:
    run_state_machine_as_test(partial(Uniqueness, system), settings=SETTINGS)  # type: ignore[arg-type]
