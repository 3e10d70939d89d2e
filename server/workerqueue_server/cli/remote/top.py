"""``workerqueue top``."""

from __future__ import annotations

import time

import click
import grpc

from workerqueue.v1 import queue_admin_pb2
from workerqueue_server.cli.connection import Remote, remote_command
from workerqueue_server.cli.failures import from_rpc_error
from workerqueue_server.cli.groups import RemoteCommand
from workerqueue_server.cli.output import console, print_json, print_json_line
from workerqueue_server.cli.remote.workers import all_workers
from workerqueue_server.cli.views import times
from workerqueue_server.cli.views.top import Snapshot, screen

# Where nothing is cut: the output is no screen.
_UNLIMITED_HEIGHT = 100_000


@click.command(cls=RemoteCommand)
@click.option(
    "--interval",
    type=click.FloatRange(min=0.2),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="How often to look.",
)
@click.option("--once", is_flag=True, help="Look once and end; so it is where no terminal is.")
@remote_command
def top(remote: Remote, interval: float, once: bool) -> None:
    """Watch rates, depths, the age of the oldest task, and workers, live.

    Rates are averages over the last minute. Ctrl-C ends it. As JSON lines, one snapshot a line.
    """
    if remote.output != "table":
        _print_snapshots(remote, interval, once)
    elif once or not console().is_terminal:
        console().print(screen(_look(remote), _UNLIMITED_HEIGHT))
    else:
        _live(remote, interval)


def _look(remote: Remote) -> Snapshot:
    request = queue_admin_pb2.ListQueuesRequest(page_size=1_000)
    queues = list(remote.pages(remote.admin.ListQueues, request, "queues"))
    return Snapshot(remote.target.address, times.clock(), queues, list(all_workers(remote)))


def _live(remote: Remote, interval: float) -> None:
    from rich.live import Live

    snapshot = _look(remote)
    try:
        with Live(
            screen(snapshot, console().height), console=console(), screen=True, auto_refresh=False
        ) as live:
            while True:
                time.sleep(interval)
                try:
                    snapshot = _look(remote)
                except grpc.RpcError as error:
                    failure = from_rpc_error(error, remote.target.address)
                    # Looked at for hours: the screen outlives restarts and shows what it last saw.
                    snapshot.problem = f"{failure.code}: does not answer"
                live.update(screen(snapshot, console().height), refresh=True)
    except KeyboardInterrupt:
        # The usual way out, and no failure.
        return


def _print_snapshots(remote: Remote, interval: float, once: bool) -> None:
    while True:
        snapshot = _look(remote)
        document = {
            "queues": [remote.views.json(queue) for queue in snapshot.queues],
            "workers": [remote.views.json(worker) for worker in snapshot.workers],
        }
        if remote.output == "json":
            print_json(document)
            return
        print_json_line(document)
        if once:
            return
        time.sleep(interval)
