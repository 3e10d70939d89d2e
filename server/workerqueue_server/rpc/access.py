"""Who calls, and whether they may: one interceptor before every RPC.

It authenticates by the bearer token, checks the method's roles, and ends a stream when its token is
good no more. What depends on the request (a task's queue and kind) is checked by the services,
which ask for `current_principal()`.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from typing import Any, TypeAlias

import grpc

from workerqueue_server.queue.access import ANYBODY, NOBODY, Principal, Role
from workerqueue_server.queue.errors import RoleMissing, TokenInvalid, TokenMissing
from workerqueue_server.queue.tokens import TokenBook
from workerqueue_server.rpc import calls
from workerqueue_server.rpc.handlers import Context, abort, refusing
from workerqueue_server.rpc.methods import OPEN, ROLES
from workerqueue_server.rpc.status import status_of

_log = logging.getLogger(__name__)

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Details = grpc.HandlerCallDetails

_KEY = "authorization"
_SCHEME = "bearer "

# Set for each call, whose tasks inherit it.
_principal: ContextVar[Principal] = ContextVar("principal", default=ANYBODY)


def current_principal() -> Principal:
    """Who makes the call that is being served; ANYBODY where no tokens are wanted."""
    return _principal.get()


class AccessInterceptor(grpc.aio.ServerInterceptor):
    """Lets in who has a token for what he calls."""

    def __init__(self, tokens: TokenBook) -> None:
        self._tokens = tokens

    async def intercept_service(
        self,
        continuation: Callable[[Details], Awaitable[Handler | None]],
        handler_call_details: Details,
    ) -> Handler | None:
        """The method's handler, or one that refuses."""
        roles = ROLES.get(handler_call_details.method)
        if roles is None:
            unlisted = await continuation(handler_call_details)
            # There is no such method, and gRPC says so; or somebody forgot to say whose it is.
            return None if unlisted is None else refusing(RoleMissing("this call is for nobody"))
        try:
            principal = await self._admit(handler_call_details, roles)
        except Exception as error:  # noqa: BLE001 - becomes the call's status
            return refusing(error)
        _principal.set(principal)
        handler = await continuation(handler_call_details)
        if handler is not None and handler.response_streaming and principal.key:
            return self._watched(handler, principal)
        return handler

    async def _admit(self, details: Details, roles: frozenset[Role]) -> Principal:
        """Who calls. Raises QueueError if he may not."""
        if roles == OPEN:
            return NOBODY
        principal = await self._tokens.verify(_bearer(details))
        if not roles & principal.roles:
            _log.info("refused %s to %s", details.method, principal.label)
            raise RoleMissing(
                f"{details.method} is for {_names(roles)}; this token is for "
                f"{_names(principal.roles)}"
            )
        return principal

    def _watched(self, handler: Handler, principal: Principal) -> Handler:
        """The handler, ended with UNAUTHENTICATED when the token is good no more."""
        serve = _behavior(handler)

        async def handle(request: Any, context: Context) -> None:
            with self._tokens.watch(principal) as ended:
                call: asyncio.Task[None] = asyncio.create_task(
                    serve(request, context), name="watched call"
                )
                try:
                    await asyncio.wait((call, ended), return_when=asyncio.FIRST_COMPLETED)
                    if ended.done():
                        # Before the call is cancelled, which the caller did not do.
                        calls.end("UNAUTHENTICATED")
                finally:
                    # Also when the client went away; nobody else would stop it.
                    if not call.done():
                        call.cancel()
                        await asyncio.gather(call, return_exceptions=True)
                if not call.cancelled():
                    call.result()
                    return
                await abort(context, status_of(ended.result()))

        make: Any = (
            grpc.stream_stream_rpc_method_handler
            if handler.request_streaming
            else grpc.unary_stream_rpc_method_handler
        )
        return make(  # type: ignore[no-any-return]
            handle, handler.request_deserializer, handler.response_serializer
        )


def _bearer(details: Details) -> str:
    values = [value for key, value in details.invocation_metadata if key == _KEY]
    if not values:
        raise TokenMissing
    value = values[0]
    if len(values) > 1 or not isinstance(value, str) or not value.lower().startswith(_SCHEME):
        raise TokenInvalid
    return value[len(_SCHEME) :].strip()


def _names(roles: frozenset[Role]) -> str:
    return " or ".join(sorted(roles))


def _behavior(handler: Handler) -> Callable[[Any, Context], Coroutine[Any, Any, None]]:
    """What serves the stream, as a coroutine function that writes to its context."""
    given: Any = handler.stream_stream if handler.request_streaming else handler.unary_stream
    if not inspect.isasyncgenfunction(given):
        return given  # type: ignore[no-any-return]

    async def serve(request: Any, context: Context) -> None:
        async for message in given(request, context):
            await context.write(message)

    return serve
