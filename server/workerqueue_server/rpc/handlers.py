"""The outermost layer of every RPC: owns decoding and errors.

gRPC would send an exception's text, or a decoding error, to the client. So handlers are registered
with raw bytes, and everything between bytes and bytes happens in here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, NoReturn, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import status_pb2

from workerqueue_server.queue import bounds
from workerqueue_server.queue.errors import TooLarge
from workerqueue_server.rpc import calls
from workerqueue_server.rpc.status import MalformedMessage, status_of

RequestT = TypeVar("RequestT", bound=Message)
Context = grpc.aio.ServicerContext[Any, Any]

_FIRST_MESSAGE_SECONDS = 5.0
_CODES = {code.value[0]: code for code in grpc.StatusCode}


def decode(message_class: type[RequestT], data: bytes) -> RequestT:
    """The message in the bytes. Raises MalformedMessage or TooLarge."""
    if len(data) > bounds.MESSAGE_BYTES:
        raise TooLarge(
            "request", f"the message has {len(data)} bytes; at most {bounds.MESSAGE_BYTES}"
        )
    try:
        return message_class.FromString(data)
    except DecodeError as error:
        raise MalformedMessage(f"the bytes are no {message_class.DESCRIPTOR.full_name}") from error


async def abort(context: Context, status: status_pb2.Status) -> NoReturn:
    """Ends the call with a status and its details."""
    calls.end(_CODES[status.code].name)
    await context.abort(
        _CODES[status.code],
        status.message,
        (("grpc-status-details-bin", status.SerializeToString()),),
    )
    raise AssertionError("unreachable: abort raises")


@asynccontextmanager
async def answering_errors(context: Context) -> AsyncIterator[None]:
    """Ends the call with the status of whatever the block raises."""
    try:
        yield
        calls.end("OK")
    except (asyncio.CancelledError, grpc.aio.AbortError):
        # Where nothing else was said, the caller has left.
        calls.end("CANCELLED")
        raise
    except Exception as error:  # noqa: BLE001 - the outermost layer
        await abort(context, status_of(error))


async def refuse_stream(context: Context, error: Exception) -> NoReturn:
    """Raises the error once the client's first message is here, or after some seconds.

    Python's clients report a write that fails in place of the status that made it fail.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(_FIRST_MESSAGE_SECONDS):
            await context.read()
    raise error


def unary(
    method: Callable[[RequestT, Context], Awaitable[Message | bytes]],
    request_class: type[RequestT],
) -> grpc.RpcMethodHandler[Any, Any]:
    """A unary RPC. The method answers with a message, or with the bytes of one."""
    return unary_of_bytes(lambda data, context: method(decode(request_class, data), context))


def unary_of_bytes(
    method: Callable[[bytes, Context], Awaitable[Message | bytes]],
) -> grpc.RpcMethodHandler[Any, Any]:
    """A unary RPC that decodes its request, so as to let go of it before it waits for a write.

    The bytes themselves stay: gRPC keeps them until the call is answered.
    """

    async def handle(data: bytes, context: Context) -> bytes:
        try:
            answer = await method(data, context)
            calls.end("OK", is_unary=True)
            return answer if isinstance(answer, bytes) else answer.SerializeToString()
        except (asyncio.CancelledError, grpc.aio.AbortError):
            calls.end("CANCELLED")
            raise
        except Exception as error:  # noqa: BLE001 - the outermost layer
            await abort(context, status_of(error))

    return grpc.unary_unary_rpc_method_handler(handle)


def server_stream(
    method: Callable[[RequestT, Context], AsyncGenerator[Message, None]],
    request_class: type[RequestT],
) -> grpc.RpcMethodHandler[Any, Any]:
    """An RPC that answers one request with many messages."""

    async def handle(data: bytes, context: Context) -> None:
        async with (
            answering_errors(context),
            # Closed here: a client that goes away must not leave the method running.
            aclosing(method(decode(request_class, data), context)) as messages,
        ):
            async for message in messages:
                await context.write(message.SerializeToString())

    return grpc.unary_stream_rpc_method_handler(handle)


def stream(method: Callable[[Context], Awaitable[None]]) -> grpc.RpcMethodHandler[Any, Any]:
    """A bidirectional stream that reads and writes bytes on its context."""

    async def handle(_: object, context: Context) -> None:
        async with answering_errors(context):
            await method(context)

    return grpc.stream_stream_rpc_method_handler(handle)


def refusing(error: Exception) -> grpc.RpcMethodHandler[Any, Any]:
    """A handler that answers every call, unary or stream, with the error."""

    async def refuse(context: Context) -> None:
        await refuse_stream(context, error)

    # On the wire a refusal of a unary call and that of a stream are the same.
    return stream(refuse)
