"""One line at info for each call that changes something by hand: who, what, how many."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from workerqueue_server.rpc.access import current_principal
from workerqueue_server.rpc.handlers import Context, server_stream, unary

_log = logging.getLogger(__name__)

RequestT = TypeVar("RequestT", bound=Message)

# What a line may tell of a request: names that operators and the contract made. No keys, tags or
# times, and nothing from a payload.
_LISTS = ("queues", "kinds")
_TOLD = (
    *("queue", "task_id", "worker_id", "schedule_id", "priority"),
    *("max_in_flight", "max_in_flight_per_worker", "reset_to_declaration"),
    *_LISTS,
)


def audited(
    method: Callable[[RequestT, Context], Awaitable[Message]], request_class: type[RequestT]
) -> grpc.RpcMethodHandler[Any, Any]:
    """A unary RPC that is told once it has changed something."""
    action = request_class.DESCRIPTOR.name.removesuffix("Request")

    async def call(request: RequestT, context: Context) -> Message:
        answer = await method(request, context)
        _tell(action, request, 1)
        return answer

    return unary(call, request_class)


def audited_stream(
    method: Callable[[RequestT, Context], AsyncGenerator[Message, None]],
    request_class: type[RequestT],
) -> grpc.RpcMethodHandler[Any, Any]:
    """An RPC that changes many tasks; told at its end, also where the caller leaves before."""
    action = request_class.DESCRIPTOR.name.removesuffix("Request")

    async def call(request: RequestT, context: Context) -> AsyncGenerator[Message, None]:
        done: int | None = None
        try:
            async with aclosing(method(request, context)) as answers:
                async for answer in answers:
                    done = answer.progress.changed  # type: ignore[attr-defined]
                    yield answer
        finally:
            if done is not None:
                _tell(action, request, done)

    return server_stream(call, request_class)


def _tell(action: str, request: Message, count: int) -> None:
    fields: dict[str, object] = {"action": action, "by": current_principal().label, "count": count}
    given = {field.name: value for field, value in request.ListFields()}
    if given.get("dry_run"):
        return
    # A schedule that is made or changed comes whole, a choice of tasks as a filter.
    for part in ("schedule", "filter"):
        if part in given:
            given |= {field.name: value for field, value in given[part].ListFields()}
    for name in _TOLD:
        if name in given:
            value = given[name]
            fields[name] = list(value) if name in _LISTS else value
    _log.info("changed by hand", extra={"fields": fields})
