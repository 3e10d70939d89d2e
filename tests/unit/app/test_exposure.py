"""What a server refuses to be open for, unless told to."""

from __future__ import annotations

from pathlib import Path

import pytest

from workerqueue_server.app.configuration import SettingsError, load
from workerqueue_server.app.exposure import exposure, is_loopback
from workerqueue_server.app.settings import Settings

TLS = {"tls_cert": Path(__file__), "tls_key": Path(__file__)}
MUTUAL = {**TLS, "tls_client_ca": Path(__file__)}


def open_to_all(**settings: object) -> str | None:
    return exposure(Settings(**settings))  # type: ignore[arg-type]


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.8.8.8:1", "[::1]:1", "localhost:1"])
def test_on_the_loopback_interface_all_is_allowed(address: str) -> None:
    assert open_to_all(address=address) is None
    assert open_to_all(address=address, auth="tokens") is None


@pytest.mark.parametrize("address", ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "queue.internal:1"])
@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        ({}, "give --tls-cert and --tls-key and --auth tokens"),
        ({"auth": "tokens"}, "give --tls-cert and --tls-key"),
        (TLS, "say --auth tokens, or give --tls-client-ca"),
    ],
)
def test_beyond_it_the_refusal_says_what_to_do(
    address: str, settings: dict[str, object], remedy: str
) -> None:
    reason = open_to_all(address=address, **settings)
    assert reason is not None
    assert remedy in reason
    assert "--allow-insecure" in reason
    assert open_to_all(address=address, allow_insecure=True, **settings) is None


@pytest.mark.parametrize("settings", [{**TLS, "auth": "tokens"}, MUTUAL])
def test_tls_and_known_callers_are_enough(settings: dict[str, object]) -> None:
    assert open_to_all(address="0.0.0.0:1", **settings) is None


def test_a_name_that_is_no_address_is_not_taken_for_this_machine() -> None:
    assert not is_loopback("localhost.example.com")
    assert not is_loopback("127.0.0.1.example.com")


def test_only_who_listens_is_refused() -> None:
    # Clients name servers with the same variable, on machines where tokens are made.
    configuration = load({"address": "queue.example.com:50551"})
    with pytest.raises(SettingsError, match=r"address: would serve queue\.example\.com"):
        configuration.refuse_exposure()


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ({"tls_cert": __file__}, "tls_key: tls_cert and tls_key go together"),
        ({"tls_key": __file__}, "tls_key: tls_cert and tls_key go together"),
        ({"tls_client_ca": __file__}, "tls_client_ca: is of use only together with tls_cert"),
        ({"tls_cert": "/nowhere", "tls_key": __file__}, "tls_cert: there is no file /nowhere"),
        ({"auth": "basic"}, "auth: "),
    ],
)
def test_settings_that_do_not_fit_are_refused(flags: dict[str, str], problem: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(flags)
    assert any(told.startswith(problem) for told in caught.value.problems), caught.value.problems
