"""Hints between servers, over LISTEN and NOTIFY.

A hint says that something may have changed and never carries the change itself: every receiver
looks at the tables, and periodic sweeps find what a lost hint would have told. Hints are sent
after the commit they speak of, on a connection of their own, and gathered while the previous one is
in flight: NOTIFY inside the enqueue's transaction would make all commits wait for one lock.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from time import monotonic
from typing import Any

import psycopg

from workerqueue_server.store.errors import StoreError
from workerqueue_server.store.link import Link, connect
from workerqueue_server.store.statements import statement

CHANNEL = "workerqueue"
_log = logging.getLogger(__name__)

# Postgres allows 8,000 bytes in a payload.
_LANES_PER_HINT = 200
_TOKENS_PER_HINT = 100
_TASKS_PER_HINT = 200
# While hints cannot be sent, no more than this is kept of each sort; the rest is as if it was lost.
_MAX_KEPT = 50_000
_RECONNECT_SECONDS = 1.0
_PRESENCE_SECONDS = 1.0


class HintSender:
    """Gathers hints and sends them in the background."""

    def __init__(self, dsn: str, server_id: str) -> None:
        # A hint that a crash swallows is made up for by the sweeps: no need to wait for the disk.
        self._link = Link(dsn, "hints", "; set synchronous_commit = off")
        self._server_id = server_id
        self._lanes: dict[int, int] = {}
        self._queues: set[str] = set()
        self._ran_out: dict[str, int] = {}
        self._ended: dict[str, int] = {}
        self._due_in_ms: float | None = None
        self._tasks: set[bytes] = set()
        self._watched: set[bytes] = set()
        self._signals: set[str] = set()
        self._waiting = asyncio.Event()
        self._own_listener = 0
        self._has_listeners = True
        self._asked_at = -_PRESENCE_SECONDS

    def listening(self, backend_pid: int) -> None:
        """This server listens on the connection of that backend."""
        self._own_listener = backend_pid

    def lanes(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Tasks may have become available in these lanes, from these positions on."""
        for lane_id, position in pairs:
            known = self._lanes.get(lane_id)
            if known is None or position < known:
                self._lanes[lane_id] = position
                self._waiting.set()

    def queues(self, names: Iterable[str]) -> None:
        """These queues' limits may have room, or their settings changed."""
        self._queues.update(names)
        if self._queues:
            self._waiting.set()

    def ended(self, leases: Iterable[tuple[bytes, int]]) -> None:
        """These leases (token, reason) ended without their worker."""
        _keep(self._ended, leases)
        if self._ended:
            self._waiting.set()

    def ran_out(self, leases: Iterable[tuple[bytes, int]]) -> None:
        """These leases (token, reason) ended by their clocks; ``ended`` is told of them, too."""
        _keep(self._ran_out, leases)

    def due(self, in_ms: float) -> None:
        """A task is due that soon."""
        if self._due_in_ms is None or in_ms < self._due_in_ms:
            self._due_in_ms = in_ms
            self._waiting.set()

    def tasks(self, task_ids: Iterable[bytes]) -> None:
        """These tasks, which another server watches, changed."""
        self._tasks.update(islice(task_ids, _MAX_KEPT - len(self._tasks)))
        if self._tasks:
            self._waiting.set()

    def watched(self, task_ids: Iterable[bytes]) -> None:
        """This server wants to hear when these tasks change."""
        self._watched.update(islice(task_ids, _MAX_KEPT - len(self._watched)))
        if self._watched:
            self._waiting.set()

    def signal(self, name: str) -> None:
        """Something that has no more to say than its name happened."""
        self._signals.add(name)
        self._waiting.set()

    async def run(self) -> None:
        """Sends until cancelled. A hint that cannot be sent is dropped: sweeps make up for it."""
        while True:
            await self._waiting.wait()
            try:
                if not await self._somebody_listens():
                    self._drain()
                    continue
                for payload in self._drain():
                    await self._link.fetch("notify", {"channel": CHANNEL, "payload": payload})
            except StoreError as error:
                _log.debug("hint not sent: %s", error)

    async def close(self) -> None:
        """Closes the connection."""
        await self._link.close()

    async def _somebody_listens(self) -> bool:
        """Whether another server listens; a lone server need not notify itself.

        Asked about once a second, so a server that has just started may miss hints for so long; it
        begins with a sweep of its own.
        """
        now = monotonic()
        if now - self._asked_at >= _PRESENCE_SECONDS:
            self._asked_at = now
            rows = await self._link.fetch("other_listeners", {"own": self._own_listener})
            self._has_listeners = rows[0][0]
        return self._has_listeners

    def _drain(self) -> list[str]:
        self._waiting.clear()
        lanes, self._lanes = list(self._lanes.items()), {}
        queues, self._queues = sorted(self._queues), set()
        ran_out, self._ran_out = list(self._ran_out.items()), {}
        ended, self._ended = list(self._ended.items()), {}
        due, self._due_in_ms = self._due_in_ms, None
        tasks, self._tasks = self._tasks, set()
        watched, self._watched = self._watched, set()
        signals, self._signals = sorted(self._signals), set()
        hints: list[dict[str, Any]] = [
            {"lanes": lanes[n : n + _LANES_PER_HINT]} for n in range(0, len(lanes), _LANES_PER_HINT)
        ]
        hints += [{"queues": queues[n : n + 40]} for n in range(0, len(queues), 40)]
        # Whoever holds them must hear of it before they are over.
        for part, leases in (("ran_out", ran_out), ("ended", ended)):
            hints += [
                {part: leases[n : n + _TOKENS_PER_HINT]}
                for n in range(0, len(leases), _TOKENS_PER_HINT)
            ]
        hints += [{"tasks": chunk} for chunk in _in_chunks(tasks)]
        hints += [{"watched": chunk} for chunk in _in_chunks(watched)]
        if signals:
            hints.append({"signals": signals})
        if due is not None:
            hints.append({"due": due})
        return [
            json.dumps({"from": self._server_id, **hint}, separators=(",", ":")) for hint in hints
        ]


def _keep(kept: dict[str, int], leases: Iterable[tuple[bytes, int]]) -> None:
    room = _MAX_KEPT - len(kept)
    kept.update((token.hex(), reason) for token, reason in islice(leases, room))


def _in_chunks(task_ids: Iterable[bytes]) -> Iterator[list[str]]:
    texts = [task_id.hex() for task_id in task_ids]
    for start in range(0, len(texts), _TASKS_PER_HINT):
        yield texts[start : start + _TASKS_PER_HINT]


async def listen(
    dsn: str,
    server_id: str,
    sender: HintSender,
    on_hint: Callable[[dict[str, Any]], None],
    on_connect: Callable[[], None],
) -> None:
    """Delivers other servers' hints until cancelled; reconnects by itself.

    ``on_connect`` runs after each (re)connect: hints sent in between are gone, so the caller looks
    at everything once.
    """
    while True:
        try:
            async with await connect(dsn, "listen") as connection:
                await connection.execute(f"listen {CHANNEL}")
                await connection.execute(statement("announce_listener"))
                sender.listening(connection.info.backend_pid)
                on_connect()
                async for notice in connection.notifies():
                    hint = _parse(notice.payload)
                    if hint is not None and hint.get("from") != server_id:
                        on_hint(hint)
        except (psycopg.Error, OSError) as error:
            _log.warning("not listening for hints: %s", error)
        await asyncio.sleep(_RECONNECT_SECONDS)


def _parse(payload: str) -> dict[str, Any] | None:
    try:
        hint = json.loads(payload)
    except ValueError:
        hint = None
    if not isinstance(hint, dict):
        _log.warning("ignored a notification on channel %s that is no hint", CHANNEL)
        return None
    return hint
