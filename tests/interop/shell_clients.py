"""gRPC clients of the command line, as functions: buf curl and grpcurl."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.locks import one_at_a_time

ROOT = Path(__file__).parents[2]
GRPCURL_MODULE = "github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3"
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "workerqueue-interop"
_BUILD_SECONDS = 600


@dataclass(frozen=True)
class Answer:
    """What a call printed and how it ended."""

    returncode: int
    messages: list[dict[str, Any]]
    error: str


@dataclass(frozen=True)
class ShellClient:
    """A client of the command line."""

    name: str
    command: tuple[str, ...]
    # What stands before the address in the call's last arguments.
    scheme: str

    def call(self, address: str, method: str, request: Mapping[str, Any]) -> Answer:
        """Calls `Service/Method` of `workerqueue.v1`; a stream's requests end with this one."""
        target = (
            [f"{self.scheme}{address}/workerqueue.v1.{method}"]
            if self.scheme
            else [address, f"workerqueue.v1.{method}"]
        )
        done = subprocess.run(
            [*self.command, "-d", json.dumps(request), *target],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return Answer(done.returncode, _read_all(done.stdout), done.stderr)


def buf() -> ShellClient:
    """`buf curl`, which reads the contract from the repository."""
    command = (str(Path(sys.executable).with_name("buf")), "curl")
    options = ("--schema", str(ROOT / "proto"), "--protocol", "grpc", "--http2-prior-knowledge")
    return ShellClient("buf", (*command, *options), "http://")


def grpcurl() -> ShellClient | None:
    """`grpcurl`, which asks the server for the contract; None if it is not to be had.

    Taken from PATH or from a cache of the user's; built into that cache where Go is at hand.
    """
    with one_at_a_time("grpcurl"):
        command = shutil.which("grpcurl") or shutil.which("grpcurl", path=_CACHE / "bin")
        if command is None and shutil.which("go") is not None:
            command = _install_grpcurl()
    return None if command is None else ShellClient("grpcurl", (command, "-plaintext"), "")


def _install_grpcurl() -> str:
    install = ("nice", "-n", "10", "go", "install", GRPCURL_MODULE)
    environment = {**os.environ, "GOBIN": str(_CACHE / "bin")}
    # It downloads: what a proxy refuses now, it may give the next time.
    for tries_left in (2, 1, 0):
        subprocess.run(install, env=environment, check=tries_left == 0, timeout=_BUILD_SECONDS)
        if (_CACHE / "bin" / "grpcurl").exists():
            break
    return str(_CACHE / "bin" / "grpcurl")


def _read_all(text: str) -> list[dict[str, Any]]:
    """JSON objects one after the other; grpcurl writes the contract's field names, buf JSON's."""
    decoder, found, place = json.JSONDecoder(), [], 0
    while place < len(text.rstrip()):
        value, place = decoder.raw_decode(text, place)
        found.append(_snake_case(value))
        while place < len(text) and text[place].isspace():
            place += 1
    return found


def _snake_case(value: Any) -> Any:
    if isinstance(value, list):
        return [_snake_case(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        "".join(f"_{c.lower()}" if c.isupper() else c for c in key): _snake_case(item)
        for key, item in value.items()
    }
