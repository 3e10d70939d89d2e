"""``workerqueue kinds``."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from typing import Any

import click

from workerqueue.v1 import policy_pb2, queue_admin_pb2
from workerqueue_server.cli.connection import Remote, remote_command
from workerqueue_server.cli.failures import Failure
from workerqueue_server.cli.groups import ListingGroup
from workerqueue_server.cli.output import Column, console, print_facts, print_table
from workerqueue_server.cli.remote.answers import print_answer, print_answers
from workerqueue_server.cli.views import times


@click.group(cls=ListingGroup)
def kinds() -> None:
    """List and explain the kinds of task."""


@kinds.command("list")
@remote_command
def list_kinds(remote: Remote) -> None:
    """List the kinds with their policies."""
    print_answers(remote, _all_kinds(remote), _print_kinds)


@kinds.command("show")
@click.argument("kind", metavar="NAME")
@remote_command
def show(remote: Remote, kind: str) -> None:
    """Show a kind's policy, the fields of its payload, and how to enqueue one."""
    found = {known.kind: known for known in _all_kinds(remote)}
    if kind not in found:
        near = difflib.get_close_matches(kind, found, n=3)
        raise Failure(
            f"there is no kind {kind!r}" + (f"; did you mean {', '.join(near)}?" if near else ""),
            hint="`workerqueue kinds list` shows the kinds",
        )
    print_answer(remote, found[kind], _print_kind)


def _all_kinds(remote: Remote) -> Iterable[queue_admin_pb2.TaskKind]:
    request = queue_admin_pb2.ListKindsRequest(page_size=1_000)
    return remote.pages(remote.admin.ListKinds, request, "kinds")


def _print_kinds(found: Iterable[queue_admin_pb2.TaskKind]) -> None:
    columns = [
        Column("kind", whole=True),
        Column("queue"),
        Column("priority", right=True),
        Column("attempts", right=True),
        Column("timeout", right=True),
        Column("concurrency key"),
        Column("payload"),
    ]
    print_table(columns, [_row(kind) for kind in found])


def _row(kind: queue_admin_pb2.TaskKind) -> tuple[str, ...]:
    policy = kind.policy
    fields = ", ".join(field.json_name for field in kind.fields)
    return (
        kind.kind,
        policy.queue,
        str(policy.priority),
        str(policy.max_attempts),
        times.duration(policy.timeout),
        policy.concurrency_key,
        fields if kind.known_here else "(unknown to this server)",
    )


def _print_kind(kind: queue_admin_pb2.TaskKind) -> None:
    print_facts(_facts(kind))
    if kind.fields:
        console().print()
        print_table(
            [Column("field"), Column("type"), Column("values")],
            [(f.json_name, f.type, ", ".join(f.allowed_values)) for f in kind.fields],
        )
    if kind.example_json:
        quoted = json.dumps(json.loads(kind.example_json), ensure_ascii=False).replace("'", "'\\''")
        console().print()
        click.echo(f"workerqueue enqueue {kind.kind} '{quoted}'")


def _facts(kind: queue_admin_pb2.TaskKind) -> Iterable[tuple[str, Any]]:
    policy = kind.policy
    yield "kind", kind.kind
    yield "payload", kind.payload_type
    yield "known here", "" if kind.known_here else "no: this server has no descriptor of it"
    yield "queue", policy.queue
    yield "priority", str(policy.priority)
    yield "attempts", str(policy.max_attempts)
    yield "timeout", times.duration(policy.timeout)
    yield "lease duration", times.duration(policy.lease_duration)
    if policy.concurrency_key:
        yield "concurrency key", f"{policy.concurrency_key} ({policy.concurrency_limit} at a time)"
    if policy.job_key:
        mode = policy_pb2.JobKeyMode.Name(policy.job_key_mode).removeprefix("JOB_KEY_MODE_")
        yield "job key", f"{policy.job_key} ({mode.lower().replace('_', ' ')})"
    yield "retry", _retry(policy)
    kept = policy.retention
    yield (
        "kept",
        f"succeeded {times.duration(kept.succeeded)}, dead {times.duration(kept.dead)}, "
        f"cancelled {times.duration(kept.cancelled)}, expired {times.duration(kept.expired)}",
    )


def _retry(policy: policy_pb2.TaskPolicy) -> str:
    if not policy.HasField("retry"):
        return "exp(min(attempt, 10)) seconds, 10 % jitter"
    retry = policy.retry
    return (
        f"{times.duration(retry.initial_backoff)}, times {retry.multiplier:g}, at most "
        f"{times.duration(retry.max_backoff)}, {retry.jitter:.0%} jitter"
    )
