"""What a server may not be by accident: open to a network without TLS, or to anybody on it."""

from __future__ import annotations

import ipaddress

from workerqueue_server.app.settings import Settings

_WAYS_OUT = (
    "listen on 127.0.0.1, or say --allow-insecure (WORKERQUEUE_ALLOW_INSECURE=true) where "
    "something else keeps strangers from the port"
)


def exposure(settings: Settings) -> str | None:
    """What would be open that was not allowed to be, and what to do; None: nothing."""
    return None if settings.allow_insecure else what_is_open(settings)


def what_is_open(settings: Settings) -> str | None:
    """What these settings leave open beyond this machine, and the ways out; None: nothing."""
    host = settings.address.rpartition(":")[0]
    if is_loopback(host):
        return None
    tokens = settings.auth == "tokens"
    if settings.tls_cert is None:
        lacks = "in plain text" if tokens else "in plain text and without tokens"
        remedy = "give --tls-cert and --tls-key" + ("" if tokens else " and --auth tokens")
    elif not tokens and settings.tls_client_ca is None:
        lacks = "without knowing who calls"
        remedy = "say --auth tokens, or give --tls-client-ca"
    else:
        return None
    return f"would serve {host}, beyond this machine, {lacks}: {remedy}; or {_WAYS_OUT}"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
