"""A worker process: `python -m tests.chaos.harness.worker OPTIONS` with options as JSON.

It works on the stubs alone and writes down what it is told. Most tasks it acks; some it fails,
gives back, puts off, prolongs, or answers long after their lease; some answers it repeats. It goes
to the next server when its stream ends, and answers until it knows what became of the answer.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, TypedDict, cast

import grpc
from google.rpc import status_pb2

from tests.chaos.harness.calls import is_lost, note_error, open_stub
from tests.chaos.harness.history import Recorder
from tests.toolkit import ACK, HEARTBEAT, NACK, packed, refusal, seconds
from workerqueue.tasks.v1 import tasks_pb2
from workerqueue.v1 import lease_pb2

_CALL_SECONDS = 15.0
_PAUSE_SECONDS = 0.1
# What is done with a task, and how often of a thousand.
_CONDUCT = {
    "ack": 895,
    "fail": 50,
    "release": 20,
    "snooze": 20,
    "prolong": 10,
    "late": 5,
}


class Options(TypedDict):
    """How the worker behaves."""

    folder: str
    name: str
    addresses: list[str]
    queues: list[str]
    seed: int
    window: int
    work_seconds: tuple[float, float]
    lease_seconds: float
    # How long it waits before it reads the next frame.
    read_pause_seconds: float
    # Acks every task in time, whatever the seed says.
    only_acks: bool


class Session:
    """One Lease stream."""

    def __init__(self, stub: Any) -> None:
        self._call = stub.Lease()
        self._writing = asyncio.Lock()
        self._waiting: dict[tuple[bytes, int], asyncio.Future[status_pb2.Status | None]] = {}
        self.ended = False

    async def send(self, **frame: Any) -> None:
        """Sends a frame."""
        async with self._writing:
            await self._call.write(lease_pb2.LeaseRequest(**frame))

    async def read(self) -> lease_pb2.LeaseResponse | None:
        """The next frame, None at the end; answers go to those who wait for them."""
        frame: Any = await self._call.read()
        if frame is grpc.aio.EOF:
            return None
        for result in frame.results:
            waiting = self._waiting.get((result.lease_token, result.operation))
            if waiting is not None and not waiting.done():
                waiting.set_result(result.error if result.HasField("error") else None)
        return cast(lease_pb2.LeaseResponse, frame)

    async def answered(
        self, token: bytes, operation: int, **frame: Any
    ) -> status_pb2.Status | None:
        """Sends a frame and waits for the answer to its only part; None: OK."""
        future = asyncio.get_running_loop().create_future()
        self._waiting[token, operation] = future
        try:
            await self.send(**frame)
            async with asyncio.timeout(_CALL_SECONDS):
                return await future
        finally:
            del self._waiting[token, operation]

    def end(self) -> None:
        """Breaks the stream off; answers that are still awaited become unknown."""
        self.ended = True
        self._call.cancel()
        for future in self._waiting.values():
            future.cancel()


class Worker:
    """Takes tasks until it is killed."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._random = random.Random(options["seed"])
        self._recorder = Recorder(Path(options["folder"]), options["name"])
        self._held: set[bytes] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._session: Session | None = None

    async def run(self) -> None:
        """Serves one server after the other."""
        self._stubs = [open_stub(address) for address in self._options["addresses"]]
        self._turn = self._random.randrange(len(self._stubs))
        while True:
            self._turn += 1
            session = self._session = Session(self._stub)
            try:
                await self._serve(session)
            except grpc.aio.AioRpcError as error:
                note_error(self._recorder, "Lease", error)
            except (asyncio.InvalidStateError, grpc.aio.UsageError, TimeoutError):
                pass
            finally:
                session.end()
            await asyncio.sleep(_PAUSE_SECONDS)

    @property
    def _stub(self) -> Any:
        return self._stubs[self._turn % len(self._stubs)]

    async def _serve(self, session: Session) -> None:
        subscribe = lease_pb2.Subscribe(
            worker_id=self._options["name"],
            queues=self._options["queues"],
            max_in_flight=self._options["window"],
            lease_duration=seconds(self._options["lease_seconds"]),
            held_lease_tokens=sorted(self._held),
        )
        async with asyncio.timeout(_CALL_SECONDS):
            await session.send(subscribe=subscribe)
            first = await session.read()
        while first is not None:
            for task in first.tasks:
                self._begin(task)
            if first.HasField("drain") and first.drain.grace.ToMilliseconds() < 1_000:
                return
            if self._options["read_pause_seconds"]:
                await asyncio.sleep(self._options["read_pause_seconds"])
            first = await session.read()

    def _begin(self, task: lease_pb2.LeasedTask) -> None:
        self._recorder.write(
            "start",
            task=task.task_id,
            lease=int.from_bytes(task.lease_token[16:], "big"),
            attempt=task.attempt,
            max_attempts=task.max_attempts,
            queue=task.queue,
            key=task.concurrency_key,
        )
        self._held.add(task.lease_token)
        running = asyncio.create_task(self._work(task))
        self._tasks.add(running)
        running.add_done_callback(self._tasks.discard)

    async def _work(self, task: lease_pb2.LeasedTask) -> None:
        conduct = self._random.choices(list(_CONDUCT), list(_CONDUCT.values()))[0]
        if self._options["only_acks"]:
            conduct = "ack"
        lease = self._options["lease_seconds"]
        await asyncio.sleep(self._random.uniform(*self._options["work_seconds"]))
        try:
            if conduct == "prolong":
                for _ in range(5):
                    await asyncio.sleep(lease / 3)
                    await self._heartbeat(task)
            elif conduct == "late":
                await asyncio.sleep(lease + 2)
            await self._finish(task, conduct)
        finally:
            self._held.discard(task.lease_token)

    async def _finish(self, task: lease_pb2.LeasedTask, conduct: str) -> None:
        token = task.lease_token
        if conduct == "fail":
            nack = lease_pb2.NackRequest(lease_token=token, fail=lease_pb2.Fail())
        elif conduct == "release":
            nack = lease_pb2.NackRequest(lease_token=token, release=lease_pb2.Release())
        elif conduct == "snooze":
            snooze = lease_pb2.Snooze(delay=seconds(0.2))
            nack = lease_pb2.NackRequest(lease_token=token, snooze=snooze)
        else:
            # What is stored then tells whose ack it was that finished the task.
            result = packed(tasks_pb2.RunFinished(id=str(int.from_bytes(token[16:], "big"))))
            ack = lease_pb2.AckRequest(lease_token=token, result=result)
            outcome = await self._answer(task, "ack", ACK, ack)
            if outcome == "ok" and self._random.random() < 0.05:
                await self._answer(task, "ack", ACK, ack, repeated=True)
            return
        await self._answer(task, conduct, NACK, nack)

    async def _answer(
        self,
        task: lease_pb2.LeasedTask,
        operation: str,
        code: int,
        message: Any,
        *,
        repeated: bool = False,
    ) -> str:
        """Answers on the stream, or by call where that is gone, until the outcome is known."""
        asked = time.monotonic_ns()
        frame = {"acks": [message]} if code == ACK else {"nacks": [message]}
        outcome = await self._on_stream(task.lease_token, code, frame)
        while outcome is None:
            outcome = await self._by_call("Ack" if code == ACK else "Nack", message)
        self._note(task, operation, asked, outcome, repeated)
        return outcome

    async def _heartbeat(self, task: lease_pb2.LeasedTask) -> None:
        asked = time.monotonic_ns()
        beat = lease_pb2.HeartbeatRequest(lease_token=task.lease_token)
        frame = {"heartbeats": [beat]}
        outcome = await self._on_stream(task.lease_token, HEARTBEAT, frame)
        if outcome is not None:
            self._note(task, "heartbeat", asked, outcome)

    def _note(
        self,
        task: lease_pb2.LeasedTask,
        operation: str,
        asked: int,
        outcome: str,
        repeated: bool = False,
    ) -> None:
        lease = int.from_bytes(task.lease_token[16:], "big")
        self._recorder.write(
            "answer",
            task=task.task_id,
            lease=lease,
            operation=operation,
            asked=asked,
            outcome=outcome,
            repeated=repeated,
        )

    async def _on_stream(self, token: bytes, code: int, frame: dict[str, Any]) -> str | None:
        """What became of it; None: nobody knows."""
        session = self._session
        if session is None or session.ended:
            return None
        with suppress(
            grpc.aio.AioRpcError, asyncio.InvalidStateError, grpc.aio.UsageError, TimeoutError
        ):
            try:
                refused = await session.answered(token, code, **frame)
            except asyncio.CancelledError:
                # The stream ended first.
                return None
            if refused is None:
                return "ok"
            problem = refusal(refused)
            if problem.reason == "LEASE_LOST":
                return "lost"
            if problem.retry_seconds is None:
                text = problem.message
                self._recorder.write("error", call="answer", code=problem.code.name, text=text)
        return None

    async def _by_call(self, method: str, message: Any) -> str | None:
        self._turn += 1
        try:
            await getattr(self._stub, method)(message, timeout=_CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            if is_lost(error):
                return "lost"
            note_error(self._recorder, method, error)
            await asyncio.sleep(_PAUSE_SECONDS)
            return None
        return "ok"


def main() -> None:
    """Runs the worker of the command line."""
    options: Options = json.loads(sys.argv[1])
    asyncio.run(Worker(options).run())


if __name__ == "__main__":
    main()
