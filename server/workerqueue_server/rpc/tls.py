"""The server's side of TLS: certificates from files, read again when the files change."""

from __future__ import annotations

import logging
import ssl
import threading
from pathlib import Path
from typing import NamedTuple

import grpc

_log = logging.getLogger(__name__)

_State = tuple[tuple[int, int, int], ...]


class TlsError(Exception):
    """Files that no server can use; the message names the file and the reason."""


class TlsFiles(NamedTuple):
    """Where certificates and key are, all PEM.

    Attributes:
        cert: The server's chain, its own certificate first.
        key: The private key to it.
        client_ca: Authorities that clients' certificates must come from; None: clients need none.
    """

    cert: Path
    key: Path
    client_ca: Path | None = None


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Credentials that follow the files. Raises TlsError if they cannot be used now.

    The files are looked at for each new connection. While they do not fit together (one is replaced
    and the other not yet), the previous ones stay in use.
    """
    certificates = _Certificates(files)
    return grpc.dynamic_ssl_server_credentials(
        certificates.first,
        certificates.changed,  # type: ignore[arg-type]  # None means unchanged
        require_client_authentication=files.client_ca is not None,
    )


def check_files(files: TlsFiles) -> None:
    """Raises TlsError if no server can use them.

    gRPC would take them in silence, and then refuse every client.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # An empty password, or OpenSSL would ask for one on the terminal.
        context.load_cert_chain(files.cert, files.key, password="")
    except (OSError, ValueError) as error:
        raise TlsError(
            f"{files.cert} and {files.key} are no certificate and its private key, PEM, without "
            f"a passphrase: {_reason(error)}"
        ) from None
    if files.client_ca is not None:
        try:
            context.load_verify_locations(files.client_ca)
        except (OSError, ValueError) as error:
            raise TlsError(
                f"{files.client_ca} has no certificates, PEM: {_reason(error)}"
            ) from None


class _Certificates:
    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._state = _state(files)
        self._lock = threading.Lock()
        self.first = _load(files)

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """What to use from now on; None: what is in use. Called from gRPC's threads."""
        with self._lock:
            try:
                state = _state(self._files)
                if state == self._state:
                    return None
                # Before reading: a change meanwhile is seen the next time.
                self._state = state
                loaded = _load(self._files)
            except TlsError as error:
                _log.error("the certificates in use stay, the new ones are of no use: %s", error)
                return None
            _log.info("certificates were read anew from %s", self._files.cert)
            return loaded


def _state(files: TlsFiles) -> _State:
    found = []
    for path in filter(None, files):
        try:
            about = path.stat()
        except OSError as error:
            raise TlsError(f"cannot read {path}: {error.strerror}") from None
        found.append((about.st_mtime_ns, about.st_size, about.st_ino))
    return tuple(found)


def _load(files: TlsFiles) -> grpc.ServerCertificateConfiguration:
    check_files(files)
    key, cert = _read(files.key), _read(files.cert)
    roots = None if files.client_ca is None else _read(files.client_ca)
    return grpc.ssl_server_certificate_configuration([(key, cert)], roots)


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return error.reason or "not PEM"
    return str(getattr(error, "strerror", None) or error)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsError(f"cannot read {path}: {error.strerror}") from None
