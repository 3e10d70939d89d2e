"""``workerqueue enqueue --lines``: many tasks, read and stored batch by batch."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import click
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct

from workerqueue import uuid7
from workerqueue._status import from_status
from workerqueue.v1 import worker_queue_pb2
from workerqueue_server.cli.connection import Remote
from workerqueue_server.cli.failures import Failure
from workerqueue_server.cli.output import print_json, print_json_line, progress, say

# Well under what one call may carry: 10,000 tasks, 4 MiB.
_BATCH_TASKS = 1_000
_BATCH_BYTES = 2 * 1024 * 1024
_SHOWN_REFUSALS = 10

_Item = tuple[int, worker_queue_pb2.EnqueueRequest]


def enqueue_lines(
    remote: Remote, kind: str, source: str, options: worker_queue_pb2.TaskOptions
) -> None:
    """Stores a task per line of the source; refused ones are told and make the command fail."""
    counts: Counter[str] = Counter()
    results: list[dict[str, Any]] = []
    with _opened(source) as lines, progress("storing", None) as bar:
        for batch in _batches(_requests(kind, lines, options)):
            for result in _store(remote, batch):
                counts[result.get("outcome", "refused")] += 1
                _tell(remote, result, results, counts["refused"])
            bar.at(counts.total())
    if remote.output == "json":
        print_json(results)
    elif remote.output == "table":
        click.echo(", ".join(f"{count:,} {name}" for name, count in sorted(counts.items())))
    if counts["refused"]:
        raise Failure(f"{counts['refused']:,} of {counts.total():,} tasks were refused")


def _opened(source: str) -> IO[str]:
    if source == "-":
        return sys.stdin
    if not source.startswith("@"):
        raise click.UsageError("--lines reads a file (@FILE) or standard input (-)")
    try:
        return Path(source[1:]).open(encoding="utf-8")
    except OSError as error:
        raise click.UsageError(f"cannot read {source[1:]}: {error.strerror}") from None


def _requests(
    kind: str, lines: Iterable[str], options: worker_queue_pb2.TaskOptions
) -> Iterator[_Item]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            args = json.loads(line)
        except ValueError as error:
            raise _bad_line(number, str(error)) from None
        if not isinstance(args, dict):
            raise _bad_line(number, "not an object")
        dynamic = worker_queue_pb2.DynamicPayload(kind=kind, args=ParseDict(args, Struct()))
        yield (
            number,
            worker_queue_pb2.EnqueueRequest(task_id=uuid7(), dynamic=dynamic, options=options),
        )


def _bad_line(number: int, reason: str) -> Failure:
    return Failure(
        f"line {number} is no JSON object: {reason}",
        hint="tasks of earlier lines may be stored already",
    )


def _batches(items: Iterable[_Item]) -> Iterator[list[_Item]]:
    batch: list[_Item] = []
    size = 0
    for item in items:
        length = item[1].ByteSize()
        if batch and (len(batch) == _BATCH_TASKS or size + length > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += length
    if batch:
        yield batch


def _store(remote: Remote, batch: list[_Item]) -> Iterator[dict[str, Any]]:
    request = worker_queue_pb2.EnqueueBatchRequest(tasks=[made for _, made in batch])
    answer = remote.call(remote.queue.EnqueueBatch, request)
    for (line, _), result in zip(batch, answer.results, strict=True):
        if result.HasField("error"):
            error = from_status(result.error)
            yield {"line": line, "error": str(error), "reason": error.reason}
        else:
            outcome = worker_queue_pb2.EnqueueOutcome.Name(result.outcome)
            short = outcome.removeprefix("ENQUEUE_OUTCOME_").lower().replace("_", " ")
            yield {"line": line, "taskId": result.task_id, "outcome": short}


def _tell(
    remote: Remote, result: dict[str, Any], results: list[dict[str, Any]], refused: int
) -> None:
    if remote.output == "json":
        results.append(result)
    elif remote.output == "jsonl":
        print_json_line(result)
    elif "error" in result and refused <= _SHOWN_REFUSALS:
        say(f"line {result['line']}: {result['error']}")
        if refused == _SHOWN_REFUSALS:
            say("further refused lines are only counted; -o jsonl tells them all")
