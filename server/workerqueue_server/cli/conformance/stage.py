"""What one scenario works with: a queue of its own, the program, and the servers."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from workerqueue.conformance.v1 import conformance_pb2 as script_pb2
from workerqueue.v1 import (
    lease_pb2,
    task_admin_pb2,
    task_pb2,
    worker_queue_admin_pb2_grpc,
    worker_queue_pb2,
    worker_queue_pb2_grpc,
)
from workerqueue_server.cli.conformance.program import Failed, Program

T = TypeVar("T")
_CALL_SECONDS = 10.0
_LOOK_SECONDS = 0.05
# Enough for a slow runtime on a busy machine; every limit here only bounds a failure.
READY_SECONDS = 180.0
SOON_SECONDS = 60.0

_ENDED = (
    task_pb2.TASK_STATE_SUCCEEDED,
    task_pb2.TASK_STATE_DEAD,
    task_pb2.TASK_STATE_CANCELLED,
    task_pb2.TASK_STATE_EXPIRED,
)


class Servers(Protocol):
    """The servers behind the address, as far as a scenario may touch them."""

    @property
    def address(self) -> str:
        """What the program connects to."""

    @property
    def queue_stub(self) -> worker_queue_pb2_grpc.WorkerQueueAsyncStub:
        """The current server's service."""

    @property
    def admin_stub(self) -> worker_queue_admin_pb2_grpc.WorkerQueueAdminAsyncStub:
        """The current server's service for operators."""

    async def hand_over(self) -> None:
        """Starts a successor, leads new connections to it and drains the current server."""

    async def replace_killed(self) -> None:
        """Kills the current server; a successor takes its place a moment later."""

    def cut_off(self) -> None:
        """Refuses new connections and leads nowhere."""

    @property
    def turned_away(self) -> int:
        """How many connections were made while it led nowhere."""

    def lead_back(self) -> None:
        """Leads to the current server again."""


@dataclass(frozen=True)
class Commands:
    """What the user wants tested."""

    worker: Sequence[str]
    producer: Sequence[str] = ()


def seconds(value: float) -> Duration:
    """A Duration."""
    duration = Duration()
    duration.FromMilliseconds(round(value * 1000))
    return duration


def turn(
    work: float = 0.0, *, checkpoint: str = "", fail: script_pb2.Failure | None = None
) -> script_pb2.Turn:
    """What to do in one attempt."""
    made = script_pb2.Turn(checkpoint=checkpoint, fail=fail)
    if work:
        made.work.CopyFrom(seconds(work))
    return made


def failure(
    message: str, *, retry_after: float | None = None, permanent: bool = False
) -> script_pb2.Failure:
    """How an attempt fails."""
    made = script_pb2.Failure(message=message, permanent=permanent)
    if retry_after is not None:
        made.retry_after.CopyFrom(seconds(retry_after))
    return made


class Stage:
    """One scenario's queue and program."""

    def __init__(self, name: str, servers: Servers, commands: Commands, folder: Path) -> None:
        """``folder`` takes what the programs write to standard error."""
        self.servers = servers
        self.commands = commands
        # A run may follow another one on the same database.
        self.queue = f"conformance-{name}-{uuid.uuid4().hex[:6]}"
        self.programs: list[Program] = []
        self._folder = folder

    async def worker(self, window: int = 10) -> Program:
        """Starts the worker and waits until it is ready."""
        program = await self._start(
            self.commands.worker,
            {
                "CONFORMANCE_WORKER_ID": f"{self.queue}-worker",
                "CONFORMANCE_WINDOW": str(window),
            },
        )
        await program.says("ready", limit=READY_SECONDS)
        return program

    async def producer(self, task_id: str, text: str) -> Program:
        """Starts the producer."""
        return await self._start(
            self.commands.producer, {"CONFORMANCE_TASK_ID": task_id, "CONFORMANCE_TEXT": text}
        )

    async def _start(self, command: Sequence[str], environment: Mapping[str, str]) -> Program:
        program = await Program.start(
            command,
            {
                "WORKERQUEUE_ADDRESS": self.servers.address,
                "CONFORMANCE_QUEUE": self.queue,
                **environment,
            },
            self._folder / f"{self.queue}-{len(self.programs)}.err",
        )
        self.programs.append(program)
        return program

    async def enqueue(
        self, *turns: script_pb2.Turn, text: str = "", extra: bytes = b"", **options: object
    ) -> str:
        """Stores a script, with ``extra`` bytes after its fields; the task's id."""
        return (await self.enqueue_all([(text, turns)], extra=extra, **options))[0]

    async def enqueue_all(
        self,
        scripts: Sequence[tuple[str, Sequence[script_pb2.Turn]]],
        *,
        extra: bytes = b"",
        **options: object,
    ) -> list[str]:
        """Stores many scripts at once; their ids."""
        batch = worker_queue_pb2.EnqueueBatchRequest()
        for text, turns in scripts:
            request = batch.tasks.add(
                options=worker_queue_pb2.TaskOptions(queue=self.queue, **options)  # type: ignore[arg-type]
            )
            request.payload.Pack(script_pb2.Script(text=text, turns=turns))
            request.payload.value += extra
        answer = await self.servers.queue_stub.EnqueueBatch(batch, timeout=_CALL_SECONDS)
        for result in answer.results:
            if result.HasField("error"):
                raise AssertionError(f"the server refused a script: {result.error.message}")
        return [result.task_id for result in answer.results]

    async def enqueue_message(self, payload: Message) -> str:
        """Stores a task of the payload's kind in the scenario's queue; its id."""
        request = worker_queue_pb2.EnqueueRequest(
            options=worker_queue_pb2.TaskOptions(queue=self.queue)
        )
        request.payload.Pack(payload)
        answer = await self.servers.queue_stub.Enqueue(request, timeout=_CALL_SECONDS)
        return answer.task.task_id

    async def task(self, task_id: str) -> task_pb2.Task:
        """The task as it is now, with its attempts."""
        request = task_admin_pb2.GetTaskRequest(task_id=task_id)
        answer = await self.servers.admin_stub.GetTask(request, timeout=_CALL_SECONDS)
        return answer.task

    async def cancel(self, task_id: str) -> None:
        """Cancels the task."""
        request = task_admin_pb2.CancelTaskRequest(task_id=task_id)
        await self.servers.admin_stub.CancelTask(request, timeout=_CALL_SECONDS)

    async def ended(self, task_id: str, limit: float = SOON_SECONDS) -> task_pb2.Task:
        """The task once it has ended. Raises Failed after the limit."""

        async def look() -> task_pb2.Task | None:
            task = await self.task(task_id)
            return task if task.state in _ENDED else None

        return await until(look, f"the end of task {task_id}", limit)

    async def succeeded(self, task_id: str, limit: float = SOON_SECONDS) -> script_pb2.Report:
        """The result of the task. Raises Failed unless it has succeeded within the limit."""
        task = await self.ended(task_id, limit)
        expect_state(task, task_pb2.TASK_STATE_SUCCEEDED)
        report = script_pb2.Report()
        if not task.result.Unpack(report):
            raise Failed(
                f"task {task_id} was acked with the result type {task.result.type_url or 'none'}, "
                f"not {report.DESCRIPTOR.full_name}"
            )
        return report

    async def works_on(self, limit: float = SOON_SECONDS) -> None:
        """Demands that the program still takes a new task and finishes it."""
        report = await self.succeeded(await self.enqueue(text="still there?"), limit)
        expect(report.text == "still there?", "the report of the next task has the wrong text")

    async def take_all(self) -> list[lease_pb2.LeasedTask]:
        """What no worker has taken of the queue, leased here."""
        subscribe = lease_pb2.Subscribe(
            worker_id="conformance-kit", queues=[self.queue], max_in_flight=100
        )
        call = self.servers.queue_stub.Lease(
            iter([lease_pb2.LeaseRequest(subscribe=subscribe)]), timeout=_CALL_SECONDS
        )
        return [task async for frame in call for task in frame.tasks]


async def until(look: Callable[[], Awaitable[T | None]], what: str, limit: float) -> T:
    """What ``look`` finds. A server that is away for a moment is asked again."""
    try:
        async with asyncio.timeout(limit):
            while True:
                try:
                    if (found := await look()) is not None:
                        return found
                except grpc.aio.AioRpcError as error:
                    if error.code() is not grpc.StatusCode.UNAVAILABLE:
                        raise
                await asyncio.sleep(_LOOK_SECONDS)
    except TimeoutError:
        raise Failed(f"not within {limit:g} s: {what}") from None


def expect(is_so: bool, otherwise: str) -> None:
    """Raises Failed with ``otherwise`` unless it is so."""
    if not is_so:
        raise Failed(otherwise)


def expect_state(task: task_pb2.Task, state: task_pb2.TaskState) -> None:
    """Raises Failed unless the task is in that state."""
    if task.state != state:
        error = task.last_error
        why = f" ({error.type}: {error.message})" if task.HasField("last_error") else ""
        raise Failed(
            f"task {task.task_id} is {task_pb2.TaskState.Name(task.state)}{why}, "
            f"not {task_pb2.TaskState.Name(state)}"
        )


def expect_attempts(task: task_pb2.Task, *outcomes: task_pb2.AttemptOutcome) -> None:
    """Raises Failed unless the attempts ended like this."""
    found = [attempt.outcome for attempt in task.attempts]
    if found != list(outcomes):
        name = task_pb2.AttemptOutcome.Name
        raise Failed(
            f"the attempts of task {task.task_id} ended as {[name(o) for o in found]}, "
            f"not {[name(o) for o in outcomes]}"
        )
