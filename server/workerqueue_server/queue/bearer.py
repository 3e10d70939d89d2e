"""The text of a bearer token: `wq_<id>_<secret>`.

The id finds the token and is no secret; the secret is 256 random bits, of which the database has
the SHA-256 alone. A slow hash or a salt would add nothing: they make guessing dear where secrets
are short, and nobody guesses 256 bits; a fast one lets every call be checked.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import NamedTuple

_SECRET_BYTES = 32
_ID_BYTES = 8
_TEXT = re.compile(r"wq_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")


class Bearer(NamedTuple):
    """A token without its secret."""

    token_id: str
    secret_hash: bytes


def mint() -> tuple[str, Bearer]:
    """A new token: its text, to be shown once, and what is kept of it."""
    token_id = secrets.token_hex(_ID_BYTES)
    secret = secrets.token_urlsafe(_SECRET_BYTES)
    return f"wq_{token_id}_{secret}", Bearer(token_id, _hash(secret))


def read(text: str) -> Bearer | None:
    """What is to be compared; None: the text is no token."""
    match = _TEXT.fullmatch(text)
    return None if match is None else Bearer(match[1], _hash(match[2]))


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
