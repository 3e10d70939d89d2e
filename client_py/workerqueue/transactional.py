"""Enqueue inside a database transaction of your own: committed is queued, rolled back is gone.

For producers whose tables are in the database that the server uses. The role needs ``USAGE`` on the
schema ``workerqueue`` and ``EXECUTE`` on the function ``workerqueue.enqueue_batch``. No driver is
imported here; the functions take what you have:

* ``enqueue`` and ``enqueue_batch``: a psycopg ``Connection`` or ``Cursor``, a SQLAlchemy
  ``Session`` or ``Connection``, or a connection of another driver whose cursors take ``%s``
  (psycopg2).
* ``enqueue_async`` and ``enqueue_batch_async``: a psycopg ``AsyncConnection`` or ``AsyncCursor``,
  a SQLAlchemy ``AsyncSession`` or ``AsyncConnection``.

Example::

    with psycopg.connect(...) as connection:
        connection.execute("insert into orders ...")
        transactional.enqueue(connection, SendInvoice(order_id=42), job_key="invoice-42")
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any as AnyType
from typing import Final, Unpack

import grpc
from google.protobuf import json_format
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message

from workerqueue import _tracing
from workerqueue._convert import to_seconds, to_timestamp
from workerqueue._enqueue import EnqueueOptions, JsonValue, Retention, RetryPolicy
from workerqueue._errors import InvalidRequestError, KeyConflictError, WorkerQueueError
from workerqueue._kinds import kind_of
from workerqueue._outcomes import EnqueueOutcome
from workerqueue._unique import JobKeyMode, Unique

__all__ = [
    "Enqueued",
    "Item",
    "enqueue",
    "enqueue_async",
    "enqueue_batch",
    "enqueue_batch_async",
]

_FUNCTION: Final = "select task_id, outcome from workerqueue.enqueue_batch"
_ORDER: Final = "order by place"
_OUTCOMES: Final = {
    "created": EnqueueOutcome.CREATED,
    "existed": EnqueueOutcome.ALREADY_EXISTED,
    "replaced": EnqueueOutcome.REPLACED,
    "kept": EnqueueOutcome.KEPT,
}


@dataclass(frozen=True, slots=True)
class Enqueued:
    """A task that is stored if the transaction commits.

    Attributes:
        task_id: The task's id.
        outcome: What the enqueue did.
    """

    task_id: str
    outcome: EnqueueOutcome


class Item:
    """One task of a batch, with options of its own.

    Args:
        payload: The kind's message, or the kind's name.
        args: With a kind's name: the payload's fields, as in its proto3 JSON form.
        **options: See ``EnqueueOptions``.

    Raises:
        TypeError, ValueError: An option cannot be sent.
    """

    __slots__ = ("data",)

    def __init__(
        self,
        payload: Message | str,
        args: Mapping[str, JsonValue] | None = None,
        **options: Unpack[EnqueueOptions],
    ) -> None:
        self.data = _item(payload, args, options)


def enqueue(
    connection: AnyType,
    payload: Message | str,
    args: Mapping[str, JsonValue] | None = None,
    **options: Unpack[EnqueueOptions],
) -> Enqueued:
    """Stores one task in the connection's transaction.

    The database cannot check the rules on the payload's fields: a task whose payload breaks them is
    buried (DEAD, ``InvalidPayload``) when it is about to run.

    Args:
        connection: See the module's documentation.
        payload: The kind's message, such as ``StartRun(id="run_1")``, or the kind's name.
        args: With a kind's name: the payload's fields, as in its proto3 JSON form.
        **options: See ``EnqueueOptions``.

    Raises:
        InvalidRequestError: An option, or the kind, is refused. Like after any error of a
            statement, Postgres then refuses everything but a rollback.
        KeyConflictError: The task is not unique, and its ``Unique`` says to fail; likewise.
        TypeError, ValueError: An option cannot be sent.
    """
    return enqueue_batch(connection, [Item(payload, args, **options)])[0]


def enqueue_batch(connection: AnyType, items: Iterable[Message | Item]) -> list[Enqueued]:
    """Stores up to 10,000 tasks in the connection's transaction; otherwise as ``enqueue``.

    One refused task fails the call.
    """
    statement, parameters = _statement(connection, items)
    try:
        rows = _run(connection, statement, parameters)
    except Exception as error:
        raise _translate(error) from error
    return _read(rows)


async def enqueue_async(
    connection: AnyType,
    payload: Message | str,
    args: Mapping[str, JsonValue] | None = None,
    **options: Unpack[EnqueueOptions],
) -> Enqueued:
    """Stores one task in the connection's transaction; as ``enqueue``."""
    return (await enqueue_batch_async(connection, [Item(payload, args, **options)]))[0]


async def enqueue_batch_async(
    connection: AnyType, items: Iterable[Message | Item]
) -> list[Enqueued]:
    """Stores up to 10,000 tasks in the connection's transaction; as ``enqueue_batch``."""
    statement, parameters = _statement(connection, items)
    try:
        result = await connection.execute(statement, parameters)
        if _is_sqlalchemy(connection):
            rows = result.all()
        else:
            rows = await result.fetchall()
    except Exception as error:
        raise _translate(error) from error
    return _read(rows)


def _run(connection: AnyType, statement: AnyType, parameters: AnyType) -> Sequence[AnyType]:
    if _is_sqlalchemy(connection):
        return list(connection.execute(statement, parameters).all())
    # A caller's cursor stays open; one of a connection is ours to close.
    opened = connection.cursor() if hasattr(connection, "cursor") else nullcontext(connection)
    with opened as cursor:
        cursor.execute(statement, parameters)
        return list(cursor.fetchall())


def _is_sqlalchemy(connection: object) -> bool:
    return any(cls.__module__.partition(".")[0] == "sqlalchemy" for cls in type(connection).__mro__)


def _statement(connection: object, items: Iterable[Message | Item]) -> tuple[AnyType, AnyType]:
    tasks = json.dumps(
        [item.data if isinstance(item, Item) else Item(item).data for item in items],
        ensure_ascii=False,
    )
    if _is_sqlalchemy(connection):
        from sqlalchemy import text

        return text(f"{_FUNCTION}(cast(:tasks as jsonb)) {_ORDER}"), {"tasks": tasks}
    return f"{_FUNCTION}(cast(%s as jsonb)) {_ORDER}", (tasks,)


def _read(rows: Sequence[AnyType]) -> list[Enqueued]:
    stored = []
    for row in rows:
        task_id, outcome = row.values() if isinstance(row, Mapping) else row
        stored.append(Enqueued(str(task_id), _OUTCOMES.get(outcome, EnqueueOutcome.UNKNOWN)))
    return stored


def _translate(error: Exception) -> Exception:
    """What one of our refusals means; other errors as they are."""
    cause: AnyType = getattr(error, "orig", None) or error
    code = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    diagnosis = getattr(cause, "diag", None)
    message = getattr(diagnosis, "message_primary", None) or str(cause)
    if not message.startswith("workerqueue: "):
        return error
    refusal: WorkerQueueError | None = None
    message = message.removeprefix("workerqueue: ")
    if code == "22023":
        refusal = InvalidRequestError(message, code=grpc.StatusCode.INVALID_ARGUMENT)
    elif code == "23505":
        task_id = getattr(diagnosis, "message_detail", None) or ""
        refusal = KeyConflictError(
            message,
            code=grpc.StatusCode.ALREADY_EXISTS,
            reason="KEY_CONFLICT",
            metadata={"task_id": task_id},
        )
    return refusal or error


def _item(
    payload: Message | str, args: Mapping[str, JsonValue] | None, options: EnqueueOptions
) -> dict[str, object]:
    """A task in the form of workerqueue.enqueue_batch."""
    unknown = options.keys() - EnqueueOptions.__annotations__.keys()
    if unknown:
        raise TypeError(f"unknown enqueue option: {', '.join(sorted(unknown))}")
    if isinstance(payload, str):
        item: dict[str, object] = {"kind": payload, "args": dict(args or {})}
    elif isinstance(payload, Message) and not isinstance(payload, Any):
        if args is not None:
            raise TypeError("args belong to a kind given by name, not to a message")
        item = {"kind": kind_of(type(payload)), "args": json_format.MessageToDict(payload)}
    else:
        raise TypeError(
            f"the payload must be a kind's message or name, not {type(payload).__name__}"
        )
    for name, value in options.items():
        if value is not None:
            item[name] = _value(name, value)
    context = _tracing.current()
    metadata = options.get("metadata") or {}
    if context and _tracing.TRACEPARENT not in metadata:
        item["metadata"] = {**metadata, **context}
    return item


def _value(name: str, value: AnyType) -> object:
    if name in ("timeout", "lease_duration", "delay"):
        return to_seconds(value, name)
    if name in ("run_at", "expire_at"):
        return _time(value, name)
    if name == "tags":
        if isinstance(value, str):
            raise TypeError("tags must be several words, not one string")
        return list(value)
    if name == "job_key_mode":
        return JobKeyMode(value).value
    if isinstance(value, RetryPolicy):
        return _plain(
            initial_backoff=_seconds(value.initial_backoff, "initial_backoff"),
            multiplier=value.multiplier,
            max_backoff=_seconds(value.max_backoff, "max_backoff"),
            jitter=value.jitter,
        )
    if isinstance(value, Retention):
        states = ("succeeded", "dead", "cancelled", "expired")
        return _plain(**{state: _seconds(getattr(value, state), state) for state in states})
    if isinstance(value, Unique):
        return _unique(value)
    return dict(value) if isinstance(value, Mapping) else value


def _unique(value: Unique) -> dict[str, object]:
    # Made by way of the contract's message, which checks it.
    message = value.to_proto()
    states = [
        name.removeprefix("TASK_STATE_").lower()
        for name in json_format.MessageToDict(message).get("byStates", ())
    ]
    return _plain(
        by_args=value.by_args or None,
        by_fields=list(value.by_fields) or None,
        by_queue=value.by_queue or None,
        by_period=_seconds(value.by_period, "by_period"),
        by_states=states or None,
        on_conflict="fail" if value.fail else None,
    )


def _plain(**values: object) -> dict[str, object]:
    return {name: value for name, value in values.items() if value is not None}


def _seconds(value: timedelta | float | None, name: str) -> float | None:
    return None if value is None else to_seconds(value, name)


def _time(value: datetime, name: str) -> str:
    return to_timestamp(value, name).ToJsonString()
