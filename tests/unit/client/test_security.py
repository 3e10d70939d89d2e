"""How clients decide about TLS and tokens."""

from __future__ import annotations

import os
from pathlib import Path

import grpc
import pytest

from workerqueue import AsyncClient, Client, Tls, Worker
from workerqueue._security import resolve


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("WORKERQUEUE_"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize("make", [Client, AsyncClient, Worker])
@pytest.mark.parametrize("address", ["queue.example.com:1", "dns:///10.0.0.1:1", "10.0.0.1:1"])
def test_a_token_does_not_leave_this_machine_in_plain_text_unasked(
    make: type[Client | AsyncClient | Worker], address: str
) -> None:
    with pytest.raises(ValueError, match="plain text"):
        make(address, token="secret")
    make(address, token="secret", tls=False)
    make(address, token="secret", tls=True)
    make(address)


@pytest.mark.parametrize("address", ["localhost:1", "127.0.0.1:1", "[::1]:1", "unix:/tmp/socket"])
def test_on_this_machine_a_token_may_travel_in_plain_text(address: str) -> None:
    assert resolve(address, token="secret").credentials is None


def test_the_refusal_does_not_repeat_the_token() -> None:
    with pytest.raises(ValueError, match="plain text") as caught:
        resolve("queue.example.com:1", token="secret-canary")
    assert "canary" not in str(caught.value)


def test_the_environment_says_what_arguments_do_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert resolve("queue.example.com:1").credentials is None
    monkeypatch.setenv("WORKERQUEUE_SERVERNAME", "queue")
    named = resolve("queue.example.com:1")
    assert named.credentials is not None
    assert named.options == (("grpc.ssl_target_name_override", "queue"),)
    monkeypatch.setenv("WORKERQUEUE_PLAINTEXT", "true")
    with pytest.raises(ValueError, match="contradicts"):
        resolve("queue.example.com:1")
    assert resolve("queue.example.com:1", tls=False).credentials is None
    monkeypatch.delenv("WORKERQUEUE_SERVERNAME")
    token_file = tmp_path / "token"
    token_file.write_text("from-file\n")
    monkeypatch.setenv("WORKERQUEUE_TOKEN_FILE", str(token_file))
    filed = resolve("queue.example.com:1")
    assert (filed.credentials, filed.rotates) == (None, True)
    assert filed.token is not None
    assert filed.token() == "from-file"
    monkeypatch.setenv("WORKERQUEUE_TOKEN", "from-variable")
    fixed = resolve("queue.example.com:1")
    assert fixed.token is not None
    assert (fixed.token(), fixed.rotates) == ("from-variable", False)


def test_a_token_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("first\n")
    source = resolve("localhost:1", token=path).token
    assert source is not None
    assert [source(), source()] == ["first", "first"]
    following = tmp_path / "next"
    following.write_text("second\n")
    following.replace(path)
    assert source() == "second"


def test_two_ways_to_say_one_thing_are_one_too_many() -> None:
    with pytest.raises(ValueError, match="give one"):
        Client(tls=True, credentials=grpc.ssl_channel_credentials())
    with pytest.raises(ValueError, match="go together"):
        Tls(cert="client.pem")


def test_a_missing_file_is_told_when_the_channel_is_opened(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Client("localhost:1", tls=Tls(cacert=tmp_path / "nowhere.pem"))
