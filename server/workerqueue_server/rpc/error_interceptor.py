"""What handlers.py does for this server's own services, for everything else that is called.

Health and reflection come from libraries that leave decoding and exceptions to gRPC, which sends
their text to the client. Methods that do not exist get a status with a reason as well, and so does
whatever another interceptor raises: this one must be the first.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

import grpc
from google.protobuf.message import DecodeError

from workerqueue_server.rpc import calls
from workerqueue_server.rpc.handlers import Context, answering_errors, refusing
from workerqueue_server.rpc.methods import ROLES
from workerqueue_server.rpc.status import MalformedMessage, UnknownMethod

if TYPE_CHECKING:
    _Handler = grpc.RpcMethodHandler[Any, Any]
# Stands for a message that could not be read, until there is a context to refuse it on.
_MALFORMED = object()


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Answers with a status of our own wherever gRPC would make one up."""

    def __init__(self, own_services: frozenset[str]) -> None:
        """``own_services`` are registered with handlers that answer errors themselves."""
        self._own = own_services

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler:
        """The handler to call."""
        name = str(handler_call_details.method)
        calls.begin(name, known=name in ROLES)
        try:
            handler = await continuation(handler_call_details)
        except Exception as error:  # noqa: BLE001 - another interceptor's refusal or fault
            return refusing(error)
        if handler is None:
            return refusing(UnknownMethod(name))
        if name.rpartition("/")[0].removeprefix("/") in self._own:
            return handler
        if handler.request_deserializer is None:
            # Ours as well: another interceptor refuses the call.
            return handler
        return _guarded(handler, name)


def _guarded(handler: Any, name: str) -> _Handler:
    """The handler of a library, so that neither bytes nor exceptions reach gRPC."""
    method = handler.stream_stream or handler.unary_stream or handler.unary_unary
    if not inspect.iscoroutinefunction(method) and not inspect.isasyncgenfunction(method):
        # A library's stub of a method that it does not implement.
        return refusing(UnknownMethod(name))
    forms = (_tolerant(handler.request_deserializer), handler.response_serializer)
    if handler.stream_stream:
        return grpc.stream_stream_rpc_method_handler(_bidirectional(method), *forms)
    if handler.unary_stream:
        return grpc.unary_stream_rpc_method_handler(cast(Any, _single(method)), *forms)
    return grpc.unary_unary_rpc_method_handler(_single(method), *forms)


def _tolerant(decode: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def read(data: bytes) -> Any:
        try:
            return decode(data)
        except DecodeError:
            return _MALFORMED

    return read


def _single(method: Callable[[Any, Context], Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def handle(request: Any, context: Context) -> Any:
        async with answering_errors(context):
            return await method(_checked(request), context)

    return handle


def _bidirectional(method: Callable[[AsyncIterator[Any], Context], Any]) -> Callable[..., Any]:
    async def checked(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            yield _checked(request)

    async def answers(requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
        async with answering_errors(context):
            async for answer in method(checked(requests), context):
                yield answer

    async def handle(requests: AsyncIterator[Any], context: Context) -> None:
        async with answering_errors(context):
            await method(checked(requests), context)

    return answers if inspect.isasyncgenfunction(method) else handle


def _checked(request: Any) -> Any:
    if request is _MALFORMED:
        raise MalformedMessage("the bytes are no message of this method's request type")
    return cast(Any, request)
