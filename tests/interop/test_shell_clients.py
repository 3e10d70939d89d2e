"""A shell with a gRPC client is a producer and a worker: no generated code, no JSON library."""

from __future__ import annotations

from typing import Any

import pytest

from tests.interop.shell_clients import ShellClient, buf, grpcurl
from tests.servers import ServerProcess

# Each is a process and a call.
_TRIES = 100

# grpcurl may have to be built.
pytestmark = pytest.mark.timeout(850)


@pytest.fixture(params=["buf", pytest.param("grpcurl", marks=pytest.mark.slow)])
def client(request: pytest.FixtureRequest) -> ShellClient:
    if request.param == "buf":
        return buf()
    found = grpcurl()
    if found is None:
        pytest.skip("there is no grpcurl on PATH, and no Go to build it with")
    return found


class _Shell:
    """One client's calls to one server."""

    def __init__(self, client: ShellClient, server: ServerProcess, queue: str) -> None:
        self._client, self._server, self._queue = client, server, queue

    def call(self, method: str, **request: Any) -> list[dict[str, Any]]:
        answer = self._client.call(self._server.address, method, request)
        assert answer.returncode == 0, answer.error
        return answer.messages

    def refused(self, method: str, **request: Any) -> str:
        answer = self._client.call(self._server.address, method, request)
        assert answer.returncode != 0, answer.messages
        return answer.error

    def enqueue(self, run: str, **options: Any) -> dict[str, Any]:
        (answer,) = self.call(
            "WorkerQueue/Enqueue",
            dynamic={"kind": "startRun", "args": {"id": run}},
            options={"queue": self._queue, **options},
        )
        task: dict[str, Any] = answer["task"]
        return task

    def lease(self, window: int) -> list[dict[str, Any]]:
        """Subscribes and half-closes, so the server sends what is there and ends the stream."""
        subscribe = {"worker_id": "shell", "queues": [self._queue], "max_in_flight": window}
        frames = self.call("WorkerQueue/Lease", subscribe=subscribe)
        assert "welcome" in frames[0]
        return [task for frame in frames for task in frame.get("tasks", [])]

    def lease_soon(self) -> dict[str, Any]:
        """The only task, which becomes available in a moment."""
        for _ in range(_TRIES):
            if leased := self.lease(window=10):
                (task,) = leased
                return task
        raise AssertionError("the task does not become available")

    def task(self, task_id: str) -> dict[str, Any]:
        (answer,) = self.call("WorkerQueueAdmin/GetTask", task_id=task_id)
        task: dict[str, Any] = answer["task"]
        return task


@pytest.fixture
def shell(client: ShellClient, server: ServerProcess, queue: str) -> _Shell:
    return _Shell(client, server, queue)


def test_a_task_goes_from_enqueue_to_ack(shell: _Shell) -> None:
    stored = shell.enqueue("run_1")
    assert stored["state"] == "TASK_STATE_AVAILABLE"
    assert stored["payload"]["id"] == "run_1"

    (leased,) = shell.lease(window=1)
    assert leased["task_id"] == stored["task_id"]
    token = leased["lease_token"]
    shell.call("WorkerQueue/Heartbeat", lease_token=token, progress={"fraction": 0.5})
    shell.call(
        "WorkerQueue/Ack",
        lease_token=token,
        result={"@type": "type.googleapis.com/google.protobuf.StringValue", "value": "done"},
    )

    finished = shell.task(stored["task_id"])
    assert finished["state"] == "TASK_STATE_SUCCEEDED"
    assert finished["result"]["value"] == "done"


def test_a_nack_brings_the_task_back(shell: _Shell) -> None:
    stored = shell.enqueue("run_2", max_attempts=2)

    (first,) = shell.lease(window=10)
    error = {"type": "Timeout", "message": "no answer"}
    shell.call(
        "WorkerQueue/Nack",
        lease_token=first["lease_token"],
        fail={"error": error, "retry_after": "0s"},
    )
    second = shell.lease_soon()
    assert second["attempt"] == 2
    shell.call("WorkerQueue/Nack", lease_token=second["lease_token"], fail={"error": error})

    dead = shell.task(stored["task_id"])
    assert dead["state"] == "TASK_STATE_DEAD"
    assert dead["last_error"]["message"] == "no answer"
    assert shell.lease(window=10) == []


def test_the_window_bounds_what_is_leased(shell: _Shell) -> None:
    stored = [shell.enqueue(f"run_{n}")["task_id"] for n in range(3)]

    assert [task["task_id"] for task in shell.lease(window=2)] == stored[:2]
    assert [task["task_id"] for task in shell.lease(window=2)] == stored[2:]


def test_refusals_say_what_is_wrong(shell: _Shell) -> None:
    unknown = shell.refused("WorkerQueue/Enqueue", dynamic={"kind": "startRunn"})
    assert "did you mean startRun" in unknown
    stale = shell.refused("WorkerQueue/Ack", lease_token="AAAA")
    assert "not a live lease" in stale
