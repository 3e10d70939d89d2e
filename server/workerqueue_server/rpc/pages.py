"""Pages of lists (AIP-158): sizes, and tokens that say where to go on."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence

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


def make_page_token(position: bytes, scope: bytes) -> str:
    """A token for the page after ``position`` of a list; ``scope`` is its name and filter."""
    return base64.urlsafe_b64encode(_LAYOUT + _digest(scope) + position).decode().rstrip("=")


def read_page_token(token: str, scope: bytes) -> bytes | None:
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


class NamePages:
    """Pages of a list whose order is that of its entries' names."""

    def __init__(self, scope: bytes) -> None:
        self._scope = scope

    def after(self, token: str) -> str | None:
        """The name after which to go on; None: the first page. Raises InvalidTask."""
        position = read_page_token(token, self._scope)
        return position.decode() if position is not None else None

    def token(self, names: Sequence[str], size: int) -> str:
        """The token for the page after these names, of which one more than shown was read."""
        return make_page_token(names[size - 1].encode(), self._scope) if len(names) > size else ""


def _digest(scope: bytes) -> bytes:
    return hashlib.blake2s(scope, digest_size=_SCOPE_BYTES).digest()
