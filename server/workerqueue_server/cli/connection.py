"""How operator commands reach a server: address, TLS and token, named as grpcurl names them."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, update_wrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from workerqueue_server.cli.groups import ADDRESS_KEY, JSON_KEY, TLS_KEY, ConnectionOption
from workerqueue_server.cli.output import Format, say

if TYPE_CHECKING:
    import grpc

    from workerqueue.v1.worker_queue_admin_pb2_grpc import WorkerQueueAdminStub
    from workerqueue.v1.worker_queue_pb2_grpc import WorkerQueueStub
    from workerqueue_server.cli.views.messages import Views

Command = TypeVar("Command", bound=Callable[..., Any])

# No retries: who types a command wants to hear at once that the server is away. The keepalive is
# for `watch` and `top`, which would otherwise look at a dead connection for minutes.
_CHANNEL_OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.enable_retries", 0),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.ping_timeout_ms", 3_000),
    # Bounds how long an attempt to connect may take.
    ("grpc.min_reconnect_backoff_ms", 3_000),
)

_WILDCARDS = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}


@dataclass(frozen=True)
class Target:
    """Where the server is and how to speak with it, as the flags say."""

    address: str
    plaintext: bool
    cacert: Path | None
    cert: Path | None
    key: Path | None
    servername: str | None
    token: str | None
    max_time: float


class Remote:
    """A server. Connects with the first call."""

    def __init__(self, target: Target, output: Format) -> None:
        self.target = target
        self.output = output

    @cached_property
    def channel(self) -> grpc.Channel:
        """The connection."""
        import grpc

        options = list(_CHANNEL_OPTIONS)
        if self.target.plaintext:
            return grpc.insecure_channel(self.target.address, options)
        if self.target.servername is not None:
            options.append(("grpc.ssl_target_name_override", self.target.servername))
        return grpc.secure_channel(self.target.address, _credentials(self.target), options)

    @cached_property
    def queue(self) -> WorkerQueueStub:
        """The service of producers and workers."""
        from workerqueue.v1.worker_queue_pb2_grpc import WorkerQueueStub

        return WorkerQueueStub(self.channel)

    @cached_property
    def admin(self) -> WorkerQueueAdminStub:
        """The service of operators."""
        from workerqueue.v1.worker_queue_admin_pb2_grpc import WorkerQueueAdminStub

        return WorkerQueueAdminStub(self.channel)

    @cached_property
    def views(self) -> Views:
        """JSON of messages, payloads of the server's own kinds included."""
        from workerqueue_server.cli.views.messages import Views

        return Views(self.channel, self.metadata)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...] | None:
        """What authenticates each call."""
        token = self.target.token
        return None if token is None else (("authorization", f"Bearer {token}"),)

    def call(self, method: Any, request: Any, max_time: float | None = None) -> Any:
        """The answer of a unary call. Raises grpc.RpcError."""
        limit = max_time or self.target.max_time
        return method(request, timeout=limit, metadata=self.metadata)

    def stream(self, method: Any, request: Any, max_time: float | None = None) -> Any:
        """The call of a stream of answers, without a limit of time unless one is given."""
        return method(request, timeout=max_time, metadata=self.metadata)

    def pages(self, method: Any, request: Any, field: str) -> Iterator[Any]:
        """Every item of a paged list, asked for page by page as they are taken."""
        while True:
            answer = self.call(method, request)
            yield from getattr(answer, field)
            if not answer.next_page_token:
                return
            request.page_token = answer.next_page_token

    def close(self) -> None:
        """Ends the connection, if there is one."""
        if "channel" in self.__dict__:
            self.channel.close()


def remote_command(command: Command) -> Command:
    """Adds the connection's flags and ``--output``; passes a Remote first."""
    return _with_remote(_output_option(command))


def connected(command: Command) -> Command:
    """Adds the connection's flags without ``--output``; passes a Remote first."""
    return _with_remote(command)


def _with_remote(command: Command) -> Command:
    def run(**given: Any) -> Any:
        context = click.get_current_context()
        with _opened(context, given) as remote:
            return command(remote, **given)

    wrapped: Any = update_wrapper(run, command)
    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[no-any-return]


@contextmanager
def _opened(context: click.Context, given: dict[str, Any]) -> Iterator[Remote]:
    address = _reachable(given.pop("address"))
    flags = {name: given.pop(name) for name in ("cacert", "cert", "key", "servername", "token")}
    plaintext, tls = given.pop("plaintext"), given.pop("tls")
    wants_tls = tls or any(flags[name] for name in ("cacert", "cert", "servername"))
    if plaintext and wants_tls:
        raise click.UsageError("--plaintext contradicts the flags for TLS")
    if bool(flags["cert"]) != bool(flags["key"]):
        raise click.UsageError("--cert and --key go together")
    local = _is_loopback(address)
    plaintext = plaintext or (local and not wants_tls)
    token_file = given.pop("token_file")
    if flags["token"] is None and token_file is not None:
        flags["token"] = _read_token(token_file)
    target = Target(address, plaintext, max_time=given.pop("max_time"), **flags)
    if plaintext and target.token and not local:
        say("workerqueue: warning: the token travels in plain text")
    output = given.pop("output", "table")
    context.meta[ADDRESS_KEY] = address
    context.meta[TLS_KEY] = not plaintext
    context.meta[JSON_KEY] = output != "table"
    remote = Remote(target, output)
    try:
        yield remote
    finally:
        remote.close()


def _reachable(address: str) -> str:
    """A server that listens everywhere is asked on this machine."""
    host, _, port = address.rpartition(":")
    return f"{_WILDCARDS[host]}:{port}" if host in _WILDCARDS else address


def _is_loopback(address: str) -> bool:
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0].strip("[]") or address
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _credentials(target: Target) -> grpc.ChannelCredentials:
    import grpc

    return grpc.ssl_channel_credentials(
        root_certificates=_read(target.cacert, "--cacert"),
        private_key=_read(target.key, "--key"),
        certificate_chain=_read(target.cert, "--cert"),
    )


def _read(path: Path | None, flag: str) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise click.BadParameter(f"cannot read {path}: {error.strerror}", param_hint=flag) from None


def _read_token(path: Path) -> str:
    text = _read(path, "--token-file")
    assert text is not None
    return text.decode("utf-8", "replace").strip()


def _connection_option(*names: str, **about: Any) -> Callable[[Any], Any]:
    return click.option(*names, cls=ConnectionOption, **about)


_File = click.Path(path_type=Path)

_OPTIONS = (
    _connection_option(
        "--address",
        envvar="WORKERQUEUE_ADDRESS",
        default="127.0.0.1:50551",
        metavar="HOST:PORT",
        help="The server. [WORKERQUEUE_ADDRESS; 127.0.0.1:50551]",
    ),
    _connection_option(
        "--plaintext",
        is_flag=True,
        envvar="WORKERQUEUE_PLAINTEXT",
        help="No TLS; the default on the loopback interface. [WORKERQUEUE_PLAINTEXT]",
    ),
    _connection_option(
        "--tls",
        is_flag=True,
        envvar="WORKERQUEUE_TLS",
        help="TLS; the default elsewhere. [WORKERQUEUE_TLS]",
    ),
    _connection_option(
        "--cacert",
        type=_File,
        envvar="WORKERQUEUE_CACERT",
        metavar="FILE",
        help="Certificates of the authorities to trust, PEM. [WORKERQUEUE_CACERT]",
    ),
    _connection_option(
        "--cert",
        type=_File,
        envvar="WORKERQUEUE_CERT",
        metavar="FILE",
        help="The client's certificate, PEM. [WORKERQUEUE_CERT]",
    ),
    _connection_option(
        "--key",
        type=_File,
        envvar="WORKERQUEUE_KEY",
        metavar="FILE",
        help="The private key to --cert, PEM. [WORKERQUEUE_KEY]",
    ),
    _connection_option(
        "--servername",
        envvar="WORKERQUEUE_SERVERNAME",
        metavar="NAME",
        help="The name to expect in the server's certificate. [WORKERQUEUE_SERVERNAME]",
    ),
    _connection_option(
        "--token",
        envvar="WORKERQUEUE_TOKEN",
        metavar="TOKEN",
        help="Bearer token. Other users of this machine can read flags; the variable is safer. "
        "[WORKERQUEUE_TOKEN]",
    ),
    _connection_option(
        "--token-file",
        type=_File,
        envvar="WORKERQUEUE_TOKEN_FILE",
        metavar="FILE",
        help="A file with the bearer token, where --token is not given. [WORKERQUEUE_TOKEN_FILE]",
    ),
    _connection_option(
        "--max-time",
        type=click.FloatRange(min=0.0, min_open=True),
        envvar="WORKERQUEUE_MAX_TIME",
        default=30.0,
        metavar="SECONDS",
        help="How long one call may take. [WORKERQUEUE_MAX_TIME; 30]",
    ),
)

_output_option = click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json", "jsonl"]),
    envvar="WORKERQUEUE_OUTPUT",
    default="table",
    help="For people; one JSON document; or a JSON document a line. [WORKERQUEUE_OUTPUT; table]",
)
