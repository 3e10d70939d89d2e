"""The task statements, each on a connection of its own duty."""

from collections.abc import Sequence

from psycopg.types.json import Jsonb

from workerqueue_server.store.binary import (
    ByteaArray,
    IntArray,
    RawBigintArray,
    TextArray,
    UuidArray,
)
from workerqueue_server.store.link import Link, Parameters
from workerqueue_server.store.records import (
    Answered,
    Expired,
    GrantRequest,
    GrantRun,
    Lane,
    LanePlace,
    LiveLease,
    NewTasks,
    Prolongation,
    QueueLimits,
    Return,
    Stored,
    SweptLane,
    Woken,
)

TOKEN_BYTES = 24


def woken(
    lanes: Sequence[int] | None,
    positions: Sequence[int] | None,
    queues: Sequence[str] | None = None,
    due_in_ms: float | None = None,
) -> Woken:
    """Where tasks may have become available, from a statement's columns."""
    pairs = list(zip(lanes, positions, strict=True)) if lanes and positions else ()
    return Woken(pairs, queues or (), due_in_ms)


def _grant_parameters(requests: Sequence[GrantRequest]) -> Parameters:
    return {"requests": Jsonb([request._asdict() for request in requests])}


def _split(tokens: Sequence[bytes]) -> tuple[UuidArray, RawBigintArray]:
    """Task ids and lease ids of tokens: a token is the one followed by the other."""
    return UuidArray([t[:16] for t in tokens]), RawBigintArray([t[16:] for t in tokens])


class TaskStore:
    """Live tasks and leases in Postgres. Every method is one transaction; raises StoreError."""

    def __init__(self, dsn: str) -> None:
        self._enqueue = Link(dsn, "enqueue")
        self._lanes = Link(dsn, "lanes")
        self._grant = Link(dsn, "grant")
        self._finish = Link(dsn, "finish")
        self._return = Link(dsn, "return")
        self._prolong = Link(dsn, "prolong")
        self._present = Link(dsn, "present")
        self._clock = Link(dsn, "clock")
        self._care = Link(dsn, "care")

    async def close(self) -> None:
        """Closes all connections."""
        for link in (
            self._enqueue,
            self._lanes,
            self._grant,
            self._finish,
            self._return,
            self._prolong,
            self._present,
            self._clock,
            self._care,
        ):
            await link.close()

    async def ensure_lanes(self, wanted: Sequence[tuple[str, str, int]]) -> list[Lane]:
        """The lanes of (queue, kind, priority), made if missing, in the order asked for."""
        rows = await self._lanes.fetch(
            "ensure_lanes",
            {
                "queues": [queue for queue, _, _ in wanted],
                "kinds": [kind for _, kind, _ in wanted],
                "priorities": [priority for _, _, priority in wanted],
            },
        )
        return [Lane(*row) for row in rows]

    async def enqueue(self, tasks: NewTasks, requests: Sequence[GrantRequest] = ()) -> Stored:
        """Stores a batch; ids must be distinct.

        With requests, leases are granted in the same transaction once the tasks are stored.
        """
        keys = TextArray(tasks.keys) if tasks.keys.count(None) < len(tasks.keys) else None
        first, last = (min(tasks.ids), max(tasks.ids)) if tasks.client_ids else (None, None)
        parameters: Parameters = {
            "ids": UuidArray(tasks.ids),
            "payloads": ByteaArray(tasks.payloads),
            "spec_nos": IntArray(tasks.spec_nos),
            "keys": keys,
            "specs": Jsonb(tasks.specs),
            "first_id": first.hex() if first else None,
            "last_id": last.hex() if last else None,
        }
        if requests:
            parameters |= _grant_parameters(requests)
            rows = await self._enqueue.fetch("enqueue_and_grant", parameters)
        else:
            rows = await self._enqueue.fetch("enqueue_tasks", parameters)
        stored_at, existed, lanes, positions, due_in_ms, *_ = rows[0]
        return Stored(
            stored_at,
            frozenset(task_id.bytes for task_id in existed or ()),
            woken(lanes, positions, None, due_in_ms),
            [GrantRun._make(row[5:]) for row in rows[1:]],
        )

    async def grant(self, requests: Sequence[GrantRequest]) -> list[GrantRun]:
        """Grants leases; each charges an attempt."""
        rows = await self._grant.fetch("grant_runs", _grant_parameters(requests))
        return list(map(GrantRun._make, rows))

    async def finish(
        self, tokens: Sequence[bytes], results: Sequence[bytes | None] | None
    ) -> Answered:
        """Acks leases; tokens must be sorted."""
        ids, lease_ids = _split(tokens)
        rows = await self._finish.fetch(
            "finish_leases",
            {
                "ids": ids,
                "lease_ids": lease_ids,
                "results": ByteaArray(results) if results else None,
            },
        )
        lost, lanes, positions, freed = rows[0]
        return Answered(_places(lost), woken(lanes, positions, freed))

    async def take_back(self, items: Sequence[Return]) -> Answered:
        """Ends leases by nack; tokens must be sorted and distinct."""
        rows = await self._return.fetch(
            "return_leases",
            {
                "items": Jsonb(
                    [
                        {
                            "id": item.token[:16].hex(),
                            # As Postgres reads the bytes; unsigned it may not fit.
                            "lease_id": int.from_bytes(item.token[16:], "big", signed=True),
                            "action": item.action,
                            "error": item.error,
                            "retry_ms": item.retry_ms,
                            "permanent": item.permanent,
                        }
                        for item in items
                    ]
                )
            },
        )
        lost, lanes, positions, freed, due_in_ms = rows[0]
        return Answered(_places(lost), woken(lanes, positions, freed, due_in_ms))

    async def prolong(self, items: Sequence[Prolongation]) -> dict[bytes, int]:
        """Heartbeats; tokens must be sorted. The new end (µs) of each lease that is alive."""
        ids, lease_ids = _split([item.token for item in items])
        rows = await self._prolong.fetch(
            "prolong_leases",
            {
                "ids": ids,
                "lease_ids": lease_ids,
                "progress": [item.progress for item in items],
                "messages": TextArray([item.message for item in items]),
                "checkpoints": ByteaArray([item.checkpoint for item in items]),
            },
        )
        return dict(rows)

    async def live_leases(self, tokens: Sequence[bytes]) -> dict[bytes, LiveLease]:
        """Those of the tokens that are live leases."""
        ids, lease_ids = _split(tokens)
        rows = await self._present.fetch("live_leases", {"ids": ids, "lease_ids": lease_ids})
        return {row[0]: LiveLease(*row) for row in rows}

    async def lanes_of_tasks(self, task_ids: Sequence[bytes]) -> dict[bytes, Lane]:
        """The lanes of those of the tasks that exist, live or finished."""
        rows = await self._present.fetch("lanes_of_tasks", {"ids": UuidArray(task_ids)})
        return {row[0].bytes: Lane(*row[1:]) for row in rows}

    async def expire_leases(self, limit: int) -> Expired | None:
        """Ends leases whose clock has passed; None if there was nothing to look at any more."""
        rows = await self._clock.fetch("expire_leases", {"limit": limit})
        if not rows:
            return None
        tokens, timed_out, lanes, positions, freed, due_in_ms = rows[0]
        return Expired(tokens, timed_out, woken(lanes, positions, freed, due_in_ms))

    async def queues_of(self, task_ids: Sequence[bytes]) -> dict[bytes, tuple[str, str]]:
        """Queue and kind of the tasks that exist."""
        rows = await self._care.fetch("queues_of_tasks", {"ids": UuidArray(task_ids)})
        return {row[0].bytes: (row[1], row[2]) for row in rows}

    async def promote_due(self, limit: int) -> tuple[int, Woken]:
        """Makes due tasks available; how many, and when the next one is due."""
        promoted, lanes, positions, wait_ms = (
            await self._clock.fetch("promote_due", {"limit": limit})
        )[0]
        return promoted, woken(lanes, positions, None, wait_ms)

    async def expire_unstarted(self, limit: int) -> tuple[int, Woken]:
        """Drops tasks not started by their expire_at; how many."""
        dropped, lanes, positions = (await self._care.fetch("expire_unstarted", {"limit": limit}))[
            0
        ]
        return dropped, woken(lanes, positions)

    async def admit_waiting(self, after: str, limit: int) -> tuple[str | None, Woken]:
        """Admits for keys after ``after`` that nobody holds; where to go on, None at the end."""
        last_key, lanes, positions = (
            await self._care.fetch("admit_waiting", {"after": after, "limit": limit})
        )[0]
        return last_key, woken(lanes, positions)

    async def sweep_lanes(self, places: Sequence[LanePlace], limit: int) -> list[SweptLane]:
        """Looks at so many tasks of each lane in front of its cursor, and at so many behind it.

        All lanes that there are; those without a place are read from their start.
        """
        rows = await self._care.fetch(
            "sweep_lanes",
            {
                "lanes": IntArray([place.lane_id for place in places]),
                "cursors": [place.cursor for place in places],
                "starts": [place.start for place in places],
                "limit": limit,
            },
        )
        return [SweptLane(Lane(*row[:4]), *row[4:]) for row in rows]

    async def queue_limits(self) -> dict[str, QueueLimits]:
        """Queues that limit or pause."""
        rows = await self._care.fetch("queue_limits")
        return {
            name: QueueLimits(per_worker, total, paused) for name, per_worker, total, paused in rows
        }

    async def declare_queue(
        self, name: str, max_in_flight_per_worker: int | None, max_in_flight: int | None
    ) -> None:
        """Takes a queue declaration, unless an operator has set limits."""
        await self._care.fetch(
            "declare_queue",
            {
                "name": name,
                "max_in_flight_per_worker": max_in_flight_per_worker,
                "max_in_flight": max_in_flight,
            },
        )

    async def declare_kind(self, kind: str, type_name: str, policy: dict[str, object]) -> None:
        """Records a kind."""
        await self._care.fetch(
            "declare_kind", {"kind": kind, "type_name": type_name, "policy": Jsonb(policy)}
        )

    async def ping(self) -> bool:
        """Whether the database answers and takes writes. Raises StoreError if it is silent."""
        return bool((await self._lanes.fetch("ping"))[0][0])


def _places(lost: Sequence[int] | None) -> frozenset[int]:
    return frozenset(place - 1 for place in lost or ())
