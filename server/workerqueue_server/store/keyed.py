"""The statements of job keys and uniqueness, on connections of their own."""

from collections.abc import Sequence
from typing import NamedTuple

from psycopg.types.json import Jsonb

from workerqueue_server.store.binary import ByteaArray, IntArray, TextArray, UuidArray
from workerqueue_server.store.link import Link, Parameters, Row
from workerqueue_server.store.records import NewTasks, Woken
from workerqueue_server.store.tasks import woken


class KeyedTasks(NamedTuple):
    """Requests to store; the lists run in parallel to those of ``tasks``, but for ``ends``."""

    tasks: NewTasks
    job_keys: list[str | None]
    unique_keys: list[bytes | None]
    client_ids: list[bool]
    # Whether the item's request is stored as a whole or not at all.
    strict: list[bool]
    # How many items there are up to the end of each request.
    ends: list[int]


class KeyedStored(NamedTuple):
    """The answer to KeyedTasks; see the SQL function enqueue_keyed."""

    stored_at: int
    outcomes: Sequence[str]
    task_ids: Sequence[bytes | None]
    # For a refused item: the place in its request of the one that conflicts.
    refused_by: Sequence[int | None]
    # Tasks whose successors may need to be settled.
    behind: Sequence[bytes]
    woken: Woken


def keyed_parameters(batch: KeyedTasks) -> Parameters:
    """The parameters of the statement ``enqueue_keyed``."""
    tasks = batch.tasks
    return {
        "ids": UuidArray(tasks.ids),
        "payloads": ByteaArray(tasks.payloads),
        "spec_nos": IntArray(tasks.spec_nos),
        "keys": TextArray(tasks.keys),
        "job_keys": TextArray(batch.job_keys),
        "unique_keys": ByteaArray(batch.unique_keys),
        "client_ids": batch.client_ids,
        "strict": batch.strict,
        "ends": IntArray(batch.ends),
        "specs": Jsonb(tasks.specs),
    }


def keyed_stored(rows: Sequence[Row]) -> KeyedStored:
    """What the statement ``enqueue_keyed`` answered."""
    stored_at, outcomes, ids, refused_by, behind, lanes, positions, due_in_ms = rows[0]
    return KeyedStored(
        stored_at,
        outcomes,
        [task_id and task_id.bytes for task_id in ids],
        refused_by,
        [task_id.bytes for task_id in behind],
        woken(lanes, positions, None, due_in_ms),
    )


class KeyedStore:
    """Every method is one transaction; raises StoreError."""

    def __init__(self, dsn: str) -> None:
        self._enqueue = Link(dsn, "enqueue keyed")
        self._care = Link(dsn, "care keyed")

    async def close(self) -> None:
        """Closes the connections."""
        await self._enqueue.close()
        await self._care.close()

    async def enqueue(self, batch: KeyedTasks) -> KeyedStored:
        """Stores requests, each as if alone and in this order."""
        return keyed_stored(await self._enqueue.fetch("enqueue_keyed", keyed_parameters(batch)))

    async def settle_successors(self, behind: Sequence[bytes]) -> Woken:
        """Lets the successors of these tasks pass, where nothing holds them up any more."""
        rows = await self._care.fetch("settle_successors", {"behind": UuidArray(behind)})
        return woken(*rows[0])

    async def stuck_successors(
        self, after: bytes, limit: int
    ) -> tuple[bytes | None, Sequence[bytes]]:
        """Tasks that are waited for in vain; where to go on (None at the end)."""
        rows = await self._care.fetch("stuck_successors", {"after": after.hex(), "limit": limit})
        last_id, behind = rows[0]
        return last_id and last_id.bytes, [task_id.bytes for task_id in behind or ()]

    async def admit(self, keys: Sequence[str]) -> Woken:
        """Gives free places under these concurrency keys to tasks that wait."""
        rows = await self._care.fetch("admit", {"keys": TextArray(keys)})
        return woken(*rows[0])

    async def forget_replaced(self, limit: int) -> int:
        """Forgets old requests that changed a task of another id; how many."""
        return int((await self._care.fetch("forget_replaced", {"limit": limit}))[0][0])
