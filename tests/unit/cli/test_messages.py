"""JSON of messages whose payloads nobody here knows."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from workerqueue.tasks.v1 import tasks_pb2
from workerqueue.v1 import schedule_pb2, task_pb2
from workerqueue_server.cli.views.messages import Views


@pytest.fixture
def views() -> Iterator[Views]:
    """Without a server: reflection fails, what is known here remains."""
    with grpc.insecure_channel("127.0.0.1:1") as channel:
        yield Views(channel)


def test_a_built_in_payload_is_shown_without_reflection(views: Views) -> None:
    task = task_pb2.Task(task_id="t", state=task_pb2.TASK_STATE_LEASED)
    task.payload.Pack(tasks_pb2.GithubPush(branch="main", commit_sha="c0ffee", repository="r"))
    shown = views.json(task)
    assert shown["state"] == "TASK_STATE_LEASED"
    assert shown["attempt"] == 0, "a program finds every field, also one that is 0"
    assert shown["payload"] == {
        "@type": "type.googleapis.com/workerqueue.tasks.v1.GithubPush",
        "branch": "main",
        "commitSha": "c0ffee",
        "repository": "r",
    }


def test_an_unknown_payload_is_shown_as_its_type_and_bytes(views: Views) -> None:
    task = task_pb2.Task()
    task.payload.type_url = "type.googleapis.com/acme.Gone"
    task.payload.value = b"\x08\x01"
    task.result.Pack(tasks_pb2.StartRun(id="r"))
    shown = views.json(task)
    assert shown["payload"] == {"@type": "type.googleapis.com/acme.Gone", "value": "CAE="}
    assert shown["result"]["id"] == "r"


def test_a_payload_deep_inside_is_shown(views: Views) -> None:
    schedule = schedule_pb2.Schedule(schedule_id="s")
    schedule.task.payload.type_url = "type.googleapis.com/acme.Gone"
    assert views.json(schedule)["task"]["payload"] == {
        "@type": "type.googleapis.com/acme.Gone",
        "value": "",
    }


def test_a_broken_payload_of_a_known_type_is_shown_as_bytes(views: Views) -> None:
    task = task_pb2.Task()
    task.payload.type_url = "type.googleapis.com/workerqueue.tasks.v1.StartRun"
    task.payload.value = b"\xff"
    assert views.json(task)["payload"]["value"] == "/w=="


def test_showing_a_message_leaves_it_as_it_is(views: Views) -> None:
    task = task_pb2.Task()
    task.payload.Pack(tasks_pb2.StartRun(id="r"))
    before = task.SerializeToString()
    views.json(task)
    assert task.SerializeToString() == before


def test_a_payload_that_is_no_more_than_a_type_of_nothing_is_empty(views: Views) -> None:
    task = task_pb2.Task()
    task.payload.SetInParent()
    assert views.json(task)["payload"] == {}
