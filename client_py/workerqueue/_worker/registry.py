"""Which handler runs which kind."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any as AnyType

from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError, Message

Handler = Callable[..., AnyType]


class PayloadError(Exception):
    """The payload's bytes are not the message that the handler was registered for."""


@dataclass(frozen=True, slots=True)
class Registration:
    """A handler and how to call it."""

    kind: str
    message_class: type[Message] | None
    call: Handler
    is_async: bool
    type_url: str

    def decode(self, payload: Any) -> Message:
        """The payload as the handler wants it.

        Raises:
            PayloadError: It is something else.
        """
        if self.message_class is None:
            return payload
        # Any host is allowed before the name; the usual one is recognised without taking it apart.
        if payload.type_url != self.type_url and payload.TypeName() != self.type_name:
            raise PayloadError(f"the payload is a {payload.TypeName()}, not a {self.type_name}")
        try:
            return self.message_class.FromString(payload.value)
        except DecodeError as error:
            raise PayloadError(f"the payload is no {self.type_name}: {error}") from error

    @property
    def type_name(self) -> str:
        """The full name of the payload's message."""
        return self.type_url.rpartition("/")[2]


class Registry:
    """The handlers of one worker."""

    def __init__(self) -> None:
        self._by_kind: dict[str, Registration] = {}
        self.find = self._by_kind.get

    @property
    def kinds(self) -> tuple[str, ...]:
        """Every kind that has a handler."""
        return tuple(self._by_kind)

    def add(self, kind: str, message_class: type[Message] | None, handler: Handler) -> None:
        """Registers a handler.

        Raises:
            TypeError: It cannot be called with a payload, or with a payload and a context.
            ValueError: The kind has a handler already.
        """
        if kind in self._by_kind:
            raise ValueError(f"kind {kind!r} has a handler already")
        call = handler if _wants_context(handler) else _without_context(handler)
        type_url = (
            f"type.googleapis.com/{message_class.DESCRIPTOR.full_name if message_class else ''}"
        )
        self._by_kind[kind] = Registration(kind, message_class, call, _is_async(handler), type_url)


def _is_async(handler: Handler) -> bool:
    target = handler.func if isinstance(handler, functools.partial) else handler
    if inspect.isroutine(target):
        return inspect.iscoroutinefunction(target)
    return inspect.iscoroutinefunction(type(target).__call__)


def _wants_context(handler: Handler) -> bool:
    try:
        signature = inspect.signature(handler)
    except ValueError:
        return True
    for arguments, wants in (((None, None), True), ((None,), False)):
        try:
            signature.bind(*arguments)
        except TypeError:
            continue
        return wants
    raise TypeError(f"a handler takes a payload and, if it likes, a context: {handler!r}")


def _without_context(handler: Handler) -> Handler:
    def call(payload: object, _context: object) -> AnyType:
        return handler(payload)

    return call
