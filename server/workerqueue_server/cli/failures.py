"""Errors as people read them: what happened, in which field, and what to do about it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, Any

import click

from workerqueue_server.cli.exits import Exit

if TYPE_CHECKING:
    import grpc

_HINTS = {
    "TASK_NOT_FOUND": "finished tasks are kept for their retention only; "
    "`workerqueue tasks list` shows what there is",
    "QUEUE_NOT_FOUND": "`workerqueue queues list` shows the queues",
    "SCHEDULE_NOT_FOUND": "`workerqueue schedules list` shows the schedules",
    "UNKNOWN_KIND": "`workerqueue kinds list` shows the kinds this server knows",
    "INVALID_PAYLOAD": "`workerqueue kinds show KIND` shows a kind's fields and an example",
    "WRONG_STATE": "`workerqueue tasks show ID` shows the task's state",
    "DATABASE_UNAVAILABLE": "the server runs but its database does not answer; "
    "`workerqueue doctor` looks closer",
    "INTERNAL": "the server's log has more under this id",
    "TOKEN_MISSING": "give a token with --token (WORKERQUEUE_TOKEN) or --token-file; "
    "`workerqueue token create` makes one where the server's database is reached",
    "TOKEN_REVOKED": "`workerqueue token create` makes a new one",
    "TOKEN_EXPIRED": "`workerqueue token create` makes a new one",
    "UNAUTHENTICATED": "give a token with --token (WORKERQUEUE_TOKEN)",
    "UNIMPLEMENTED": "the server does not know this call; it may be older than this command",
    "DEADLINE_EXCEEDED": "--max-time allows more time",
}

_EXITS = {
    "UNAVAILABLE": Exit.UNREACHABLE,
    "DEADLINE_EXCEEDED": Exit.UNREACHABLE,
    "UNAUTHENTICATED": Exit.NOT_ALLOWED,
    "PERMISSION_DENIED": Exit.NOT_ALLOWED,
}


class Failure(click.ClickException):
    """A command that could not do what it was asked for.

    Attributes:
        code: The gRPC status code's name, if the server answered with one.
        reason: The name from the contract's ErrorReason, if there is one.
        fields: What is wrong with which field.
        hint: What to do about it.
    """

    def __init__(
        self,
        message: str,
        exit_code: Exit = Exit.REFUSED,
        *,
        code: str = "",
        reason: str = "",
        fields: Sequence[tuple[str, str]] = (),
        hint: str = "",
    ) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]
        self.code = code
        self.reason = reason
        self.fields = tuple(fields)
        self.hint = hint
        self.as_json = False

    def show(self, file: IO[Any] | None = None) -> None:
        """Prints it to standard error, as JSON where the command's output is."""
        click.echo(self._json() if self.as_json else self._text(), file=file, err=file is None)

    def _text(self) -> str:
        status = f"{self.code} ({self.reason})" if self.reason else self.code
        told = "; ".join(f"{field}: {what}" if field else what for field, what in self.fields)
        shown = "" if self.fields and self.message in (told, self.fields[0][1]) else self.message
        lines = ["workerqueue: " + ": ".join(part for part in (status, shown) if part)]
        lines += [f"  {field}: {what}" if field else f"  {what}" for field, what in self.fields]
        if self.hint:
            lines.append(f"hint: {self.hint}")
        return "\n".join(lines)

    def _json(self) -> str:
        facts: dict[str, Any] = {
            "code": self.code,
            "reason": self.reason,
            "message": self.message,
            "fields": [{"field": field, "description": what} for field, what in self.fields],
            "hint": self.hint,
        }
        return json.dumps({"error": {k: v for k, v in facts.items() if v}}, ensure_ascii=False)


def from_rpc_error(error: grpc.RpcError, address: str, *, tls: bool = False) -> Failure:
    """The failure for a call that the server, or the way to it, refused."""
    from workerqueue._status import from_rpc_error as read

    answer = read(error)
    code = answer.code.name
    reason = answer.reason
    hint = _HINTS.get(reason) or _HINTS.get(code, "")
    message = answer.message
    if answer.retry_after is not None and answer.retry_after >= 1:
        hint = "; ".join(filter(None, [hint, f"try again in {answer.retry_after:g} s"]))
    if code == "UNAVAILABLE" and not reason:
        # What gRPC itself says; the server was not reached, or was cut off.
        message = f"no server answers at {address}: {_brief(message)}"
        hint = _connection_hint(answer.message, tls=tls)
    return Failure(
        message,
        _EXITS.get(code, Exit.REFUSED),
        code=code,
        reason=reason,
        fields=[(v.field, v.description) for v in answer.violations],
        hint=hint,
    )


def _brief(message: str) -> str:
    # "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: Failed to ..."
    return message.rpartition("last error: ")[2]


def _connection_hint(message: str, *, tls: bool) -> str:
    lowered = message.lower()
    if tls and any(word in lowered for word in ("ssl", "handshake", "tls")):
        return (
            "if the server speaks plain text, add --plaintext; else see --cacert and --servername"
        )
    if not tls and any(word in lowered for word in ("socket closed", "reset", "eof")):
        return "if the server speaks TLS, add --tls"
    return (
        "`workerqueue dev` starts a server here; --address (WORKERQUEUE_ADDRESS) names another one"
    )
