"""The same for several tasks: one that fails does not keep the others from their turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import grpc

from workerqueue_server.cli.connection import Remote
from workerqueue_server.cli.exits import Exit
from workerqueue_server.cli.failures import Failure, from_rpc_error


def each_task(remote: Remote, task_ids: Sequence[str], act: Callable[[str], None]) -> None:
    """Calls ``act`` with each id; tells of every refusal and fails in the end if there was one.

    A server that is away ends it at once.
    """
    refused: Failure | None = None
    for task_id in task_ids:
        try:
            act(task_id)
        except grpc.RpcError as error:
            failure = from_rpc_error(error, remote.target.address, tls=not remote.target.plaintext)
            if len(task_ids) == 1 or failure.exit_code != Exit.REFUSED:
                raise failure from error
            failure.as_json = remote.output != "table"
            failure.show()
            refused = failure
    if refused is not None:
        raise Failure("not all of it could be done", Exit.REFUSED)
