"""``workerqueue enqueue``."""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import Any

import click

from workerqueue_server.cli.connection import Remote, remote_command
from workerqueue_server.cli.exits import Exit
from workerqueue_server.cli.failures import from_rpc_error
from workerqueue_server.cli.groups import RemoteCommand
from workerqueue_server.cli.output import print_json, print_json_line, say
from workerqueue_server.cli.parameters import SPAN, parse_object, read_argument
from workerqueue_server.cli.remote.task_options import take_options, task_flags


@click.command(cls=RemoteCommand)
@click.argument("kind")
@click.argument("payload", metavar="[JSON]", default="{}")
@click.option("--task-id", metavar="UUID", help="The task's id: the same id never makes two tasks.")
@click.option("--lines", is_flag=True, help="One payload a line: many tasks, in batches.")
@click.option("--wait", is_flag=True, help="Wait until the task ends and print its result.")
@click.option(
    "--wait-timeout", type=SPAN, metavar="TIME", help="Wait no longer than this; implies --wait."
)
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but the task's id.")
@task_flags
@remote_command
def enqueue(
    remote: Remote,
    kind: str,
    payload: str,
    task_id: str | None,
    lines: bool,
    wait: bool,
    wait_timeout: timedelta | None,
    quiet: bool,
    **given: Any,
) -> None:
    """Store a task of a KIND, such as startRun; when this returns, it survives any crash.

    JSON is the payload in its proto3 JSON form, given as it is, as @FILE, or - for standard input.
    Without it the payload is empty. `workerqueue kinds show KIND` shows the fields and an example.

    With --wait the exit code is 0 if the task succeeded, 5 if it ended otherwise, and 6 if it has
    not ended within --wait-timeout.
    """
    options = take_options(given)
    if lines:
        if wait or wait_timeout or task_id or quiet:
            raise click.UsageError("--lines goes with none of --wait, --task-id and --quiet")
        from workerqueue_server.cli.remote.enqueue_lines import enqueue_lines

        enqueue_lines(remote, kind, payload, options)
        return
    answer = _store(
        remote, kind, parse_object(read_argument(payload), "the payload"), task_id, options
    )
    if wait or wait_timeout is not None:
        _wait(remote, answer, wait_timeout, quiet)
    elif quiet:
        click.echo(answer.task.task_id)
    elif remote.output == "table":
        click.echo(_told(answer))
    else:
        _print(remote, remote.views.json(answer))


def _store(
    remote: Remote, kind: str, args: dict[str, Any], task_id: str | None, options: Any
) -> Any:
    import grpc
    from google.protobuf.json_format import ParseDict
    from google.protobuf.struct_pb2 import Struct

    from workerqueue import uuid7
    from workerqueue.v1.worker_queue_pb2 import DynamicPayload, EnqueueRequest

    request = EnqueueRequest(
        task_id=task_id or uuid7(),
        dynamic=DynamicPayload(kind=kind, args=ParseDict(args, Struct())),
        options=options,
    )
    try:
        return remote.call(remote.queue.Enqueue, request)
    except grpc.RpcError as error:
        failure = from_rpc_error(error, remote.target.address, tls=not remote.target.plaintext)
        if failure.exit_code == Exit.UNREACHABLE and not failure.reason:
            # The answer may be what was lost, so a repeat needs the id.
            again = f"to repeat it without a second task, add --task-id {request.task_id}"
            failure.hint = f"{failure.hint}; {again}" if failure.hint else again
        raise failure from error


def _wait(remote: Remote, answer: Any, limit: timedelta | None, quiet: bool) -> None:
    from workerqueue_server.cli.remote.waiting import changes, outcome_failure
    from workerqueue_server.cli.views.tasks import change_line, dumped

    task_id: str = answer.task.task_id
    task: Any = None
    aloud = remote.output == "table" and not quiet
    if aloud:
        say(_told(answer))
    for task in changes(remote, task_id, limit):
        if aloud:
            say(f"  {change_line(task)}")
    if quiet:
        click.echo(task_id)
    elif remote.output != "table":
        _print(remote, remote.views.json(task))
    elif task.HasField("result"):
        click.echo(dumped(remote.views.fields(task.result)))
    if (failure := outcome_failure(task)) is not None:
        raise failure


def _told(answer: Any) -> str:
    from workerqueue.v1.worker_queue_pb2 import EnqueueOutcome
    from workerqueue_server.cli.views.tasks import state_name

    outcome = EnqueueOutcome.Name(answer.outcome).removeprefix("ENQUEUE_OUTCOME_").lower()
    task = answer.task
    return (
        f"{outcome.replace('_', ' ')} {task.task_id} "
        f"({task.kind} in queue {task.queue}, {state_name(task.state)})"
    )


def _print(remote: Remote, value: Any) -> None:
    (print_json if remote.output == "json" else print_json_line)(value)
    sys.stdout.flush()
