"""Pages of lists (AIP-158): sizes, and tokens that say where to go on."""

from __future__ import annotations

import base64
import binascii
import hashlib

from workerqueue_server.queue.errors import InvalidTask, Violation

_DEFAULT_SIZE = 50
_MAX_SIZE = 1_000

# First byte of a token: another layout gets another number, so that old tokens are refused.
_LAYOUT = b"\x01"
_SCOPE_BYTES = 8


def read_page_size(size: int) -> int:
    """The number of entries to return. Raises InvalidTask for a negative one."""
    if size < 0:
        raise InvalidTask([Violation("page_size", "must not be negative")])
    return min(size or _DEFAULT_SIZE, _MAX_SIZE)


def make_page_token(position: bytes, scope: bytes = b"") -> str:
    """A token for the page after ``position`` of the list that ``scope`` (its filter) describes."""
    return base64.urlsafe_b64encode(_LAYOUT + _digest(scope) + position).decode().rstrip("=")


def read_page_token(token: str, scope: bytes = b"") -> bytes | None:
    """The position in a token; None: the first page. Raises InvalidTask."""
    if not token:
        return None
    try:
        data = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if data[:1] != _LAYOUT or len(data) <= 1 + _SCOPE_BYTES:
        raise InvalidTask([Violation("page_token", "is no token of this list")])
    if data[1 : 1 + _SCOPE_BYTES] != _digest(scope):
        raise InvalidTask(
            [Violation("page_token", "belongs to another request: only page_size may change")]
        )
    return data[1 + _SCOPE_BYTES :]


def _digest(scope: bytes) -> bytes:
    return hashlib.blake2s(scope, digest_size=_SCOPE_BYTES).digest()
