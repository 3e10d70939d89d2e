"""``workerqueue health``."""

from __future__ import annotations

import sys
from typing import Any

import click

from workerqueue_server.cli.connection import Remote, connected
from workerqueue_server.cli.exits import Exit
from workerqueue_server.cli.groups import RemoteCommand


@click.command(cls=RemoteCommand)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.0, min_open=True),
    default=3.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the answer.",
)
@connected
def health(remote: Remote, timeout: float) -> None:
    """Say whether the server is serving.

    Exits with 0 if it is, with 1 if it answers that it is not (its database is away, or it drains),
    and with 3 if it does not answer: fit for a container's health check.
    """
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    stub: Any = health_pb2_grpc.HealthStub(remote.channel)
    answer = remote.call(stub.Check, health_pb2.HealthCheckRequest(), timeout)
    name = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    click.echo(f"{remote.target.address}: {name}")
    sys.exit(Exit.DONE if name == "SERVING" else Exit.REFUSED)
