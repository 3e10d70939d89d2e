"""TLS and tokens: what the caller says, what the environment says, and what must not happen."""

from __future__ import annotations

import ipaddress
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc

TOKEN_VARIABLE: Final = "WORKERQUEUE_TOKEN"
TOKEN_FILE_VARIABLE: Final = "WORKERQUEUE_TOKEN_FILE"

Token = str | Path | Callable[[], str]
Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Tls:
    """How to speak TLS with a server. Files are PEM and are read when a connection is first opened.

    Attributes:
        cacert: Certificates of the authorities to trust. Default: those that gRPC trusts.
        cert: The client's own certificate chain, for servers that ask for one; with ``key``.
        key: The private key to ``cert``.
        servername: The name to expect in the server's certificate. Default: the address's host.
    """

    cacert: str | os.PathLike[str] | None = None
    cert: str | os.PathLike[str] | None = None
    key: str | os.PathLike[str] | None = None
    servername: str | None = None

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise ValueError("cert and key go together")

    def credentials(self) -> grpc.ChannelCredentials:
        """The channel's credentials. Raises OSError if a file cannot be read."""
        return grpc.ssl_channel_credentials(
            root_certificates=_read(self.cacert),
            private_key=_read(self.key),
            certificate_chain=_read(self.cert),
        )


@dataclass(frozen=True, slots=True)
class Security:
    """How one client's channels are secured, and its calls authenticated.

    Attributes:
        credentials: Gives the channel's credentials; None: plain text.
        options: What the channel's options need beside them.
        token: Gives the bearer token; None: there is none.
        rotates: Whether the token may be another one next time.
    """

    credentials: Callable[[], grpc.ChannelCredentials] | None = None
    options: tuple[tuple[str, str], ...] = ()
    token: Callable[[], str] | None = None
    rotates: bool = False


def resolve(
    address: str | None,
    *,
    tls: Tls | bool | None = None,
    credentials: grpc.ChannelCredentials | None = None,
    token: Token | None = None,
) -> Security:
    """What the arguments say, and where they do not, the environment.

    ``address`` is None for a channel of the caller's own, which is his to secure.
    Raises ValueError for what contradicts itself, and for a token that would travel in plain text
    beyond this machine without anybody having said so.
    """
    if credentials is not None and tls is not None:
        raise ValueError("tls and credentials are two ways to say the same thing: give one")
    source = _token_source(token)
    if credentials is not None:
        return Security(lambda: credentials, token=source, rotates=_rotates(token))
    chosen = _tls_from_environment(os.environ) if tls is None else tls
    if chosen is True:
        chosen = Tls()
    if isinstance(chosen, Tls):
        name = chosen.servername
        options = () if name is None else (("grpc.ssl_target_name_override", name),)
        return Security(chosen.credentials, options, source, _rotates(token))
    if source is not None and chosen is None and address is not None and not _is_local(address):
        raise ValueError(
            f"the token would travel to {address} in plain text: give tls=True or tls=Tls(...), or "
            "tls=False (WORKERQUEUE_PLAINTEXT=true) where something else protects the connection"
        )
    return Security(token=source, rotates=_rotates(token))


def _tls_from_environment(environment: Mapping[str, str]) -> Tls | bool | None:
    """What the command line's variables say; None: nothing."""
    names = ("CACERT", "CERT", "KEY", "SERVERNAME")
    given = {name.lower(): environment.get(f"WORKERQUEUE_{name}") or None for name in names}
    plain = _is_true(environment.get("WORKERQUEUE_PLAINTEXT"))
    wants_tls = _is_true(environment.get("WORKERQUEUE_TLS")) or any(given.values())
    if plain and wants_tls:
        raise ValueError("WORKERQUEUE_PLAINTEXT contradicts the variables for TLS")
    if wants_tls:
        return Tls(**given)
    return False if plain else None


def _token_source(token: Token | None) -> Callable[[], str] | None:
    token = token or os.environ.get(TOKEN_VARIABLE) or None
    if token is None:
        named = os.environ.get(TOKEN_FILE_VARIABLE)
        return _TokenFile(Path(named)) if named else None
    if isinstance(token, str):
        fixed = token
        return lambda: fixed
    return _TokenFile(token) if isinstance(token, Path) else token


def _rotates(token: Token | None) -> bool:
    token = token or os.environ.get(TOKEN_VARIABLE) or None
    return not isinstance(token, str)


class _TokenFile:
    """The token in a file, which may be replaced by another one at any time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._state: tuple[int, int, int] | None = None
        self._text = ""

    def __call__(self) -> str:
        with self._lock:
            about = self._path.stat()
            state = (about.st_mtime_ns, about.st_size, about.st_ino)
            if state != self._state:
                self._text = self._path.read_text("utf-8").strip()
                self._state = state
            return self._text


def _is_true(text: str | None) -> bool:
    return (text or "").lower() in ("1", "true", "t", "yes", "y", "on")


def _is_local(address: str) -> bool:
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    target = address.rpartition("/")[2]
    host = (target.rpartition(":")[0] or target).strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _read(path: str | os.PathLike[str] | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()
