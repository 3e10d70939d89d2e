"""`workerqueue serve` with fault points: `python -m tests.chaos.harness.faulty serve ...`.

The product has no fault points. They are put in here, around the server's own functions, in a
program that no package contains: so nothing in production can switch them on.

A point is armed by a file of JSON that the variable CHAOS_POINT names, and is disarmed (the file is
removed) when it is met:

    {"point": "after commit of finish_leases", "action": "kill", "skip": 3}

Points: "before commit of STATEMENT" (it has run in a transaction that is still open), "after
commit of STATEMENT" (the server does not know yet), "before the answer to METHOD". Actions: kill
(SIGKILL), freeze (SIGSTOP), dawdle (the server hears of it three seconds later), hold (it hears of
it when there is a file of the same name with the ending .go). Statements are the names of
store/sql, methods those of WorkerQueue.
With {"lose": "notify"} the statement is not run at all, for as long as the file is there.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from psycopg import AsyncConnection
from psycopg.pq import TransactionStatus

VARIABLE = "CHAOS_POINT"
_SIGNALS = {"kill": signal.SIGKILL, "freeze": signal.SIGSTOP}
_DAWDLE_SECONDS = 3.0
_POLL_SECONDS = 0.02


def arm(path: Path, order: dict[str, object]) -> None:
    """Tells the fault points of a server what to do; they look at each statement."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(order))
    # Whole or not at all: it is read all the time.
    partial.replace(path)


class Points:
    """The armed point, if there is one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: str = ""
        self._skipped = 0

    def armed(self) -> dict[str, Any]:
        """What the file says; empty: nothing is armed."""
        try:
            text = self._path.read_text()
        except FileNotFoundError:
            return {}
        if text != self._seen:
            self._seen, self._skipped = text, 0
        parsed: dict[str, Any] = json.loads(text)
        return parsed

    def is_next(self, point: str) -> bool:
        """Whether this visit of the point is the one that counts."""
        armed = self.armed()
        if armed.get("point") != point:
            return False
        self._skipped += 1
        return self._skipped > int(armed.get("skip", 0))

    async def act(self) -> None:
        """Does what was asked for, once."""
        action = self.armed()["action"]
        self._path.unlink()
        if action == "dawdle":
            await asyncio.sleep(_DAWDLE_SECONDS)
        elif action == "hold":
            while not self._path.with_suffix(".go").exists():  # noqa: ASYNC110
                await asyncio.sleep(_POLL_SECONDS)
        else:
            os.kill(os.getpid(), _SIGNALS[action])


def install(points: Points) -> None:
    """Puts the points around the server's statements and calls."""
    from workerqueue_server.rpc.worker_queue import WorkerQueueService
    from workerqueue_server.store import link

    # The one place that every statement passes.
    run: Callable[..., Awaitable[Any]] = link._run  # noqa: SLF001

    async def visited(connection: AsyncConnection[Any], name: str, parameters: Any) -> Any:
        if points.armed().get("lose") == name:
            return connection.cursor(binary=True)
        alone = connection.info.transaction_status == TransactionStatus.IDLE
        if alone and points.is_next(f"before commit of {name}"):
            await connection.execute("begin")
            await run(connection, name, parameters)
            await points.act()
            # Frozen, not killed: go on where it stopped.
            await connection.execute("rollback")
        cursor = await run(connection, name, parameters)
        if points.is_next(f"after commit of {name}"):
            await points.act()
        return cursor

    link._run = visited  # noqa: SLF001
    for name in ("enqueue", "enqueue_batch", "ack", "nack", "heartbeat"):
        setattr(WorkerQueueService, name, _around(points, name, getattr(WorkerQueueService, name)))


def _around(
    points: Points, name: str, method: Callable[..., Awaitable[Any]]
) -> Callable[..., Awaitable[Any]]:
    async def visited(*arguments: Any) -> Any:
        answer = await method(*arguments)
        if points.is_next(f"before the answer to {name}"):
            await points.act()
        return answer

    return visited


def main() -> None:
    """Installs the points and serves."""
    install(Points(Path(os.environ[VARIABLE])))
    from workerqueue_server.cli.main import main as serve

    serve()


if __name__ == "__main__":
    main()
