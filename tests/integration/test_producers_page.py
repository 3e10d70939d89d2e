"""docs/producers.md shows what happens."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import grpc
import psycopg
import pytest

from tests.postgres import Database
from tests.servers import ServerProcess
from tests.toolkit import request
from tests.transcripts import blocks, commands, matches
from workerqueue._channel import _SERVICE_CONFIG
from workerqueue.v1.worker_queue_pb2_grpc import WorkerQueueStub

PAGE = (Path(__file__).parents[2] / "docs/producers.md").read_text()


def test_the_transcripts_are_real(server: ServerProcess) -> None:
    shown = [c for b in blocks(PAGE) if b.language == "console" for c in commands(b)]
    assert len(shown) == 6
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    for command in shown:
        printed = subprocess.run(
            ["bash", "-c", command.line],
            env={**os.environ, "PATH": path, "WORKERQUEUE_ADDRESS": server.address},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        ).stdout
        assert matches(printed, command.output), f"{command.line}\n{printed}"


def test_the_sql_is_real(server: ServerProcess, server_database: Database) -> None:
    grants, transaction = [b.text for b in blocks(PAGE) if b.language == "sql"]
    with psycopg.connect(server_database.dsn, autocommit=True) as connection:
        connection.execute("create table orders (id bigint)")
        roles = connection.execute("select from pg_roles where rolname = 'shop'").fetchall()
        if not roles:
            connection.execute("create role shop")
        connection.execute(grants.encode())
        connection.execute("grant insert on orders to shop; set role shop")
        connection.execute(transaction.encode())
        connection.execute("reset role")
        row = connection.execute(
            "select state::text from workerqueue.tasks where job_key = 'start-run_1'"
        ).fetchone()
    assert row == ("scheduled",)


def test_the_service_config_is_taken_and_is_the_clients(server: ServerProcess) -> None:
    (config,) = [b.text for b in blocks(PAGE) if b.language == "json"]
    (mine,) = json.loads(config)["methodConfig"]
    (clients,) = json.loads(_SERVICE_CONFIG)["methodConfig"]
    assert mine["retryPolicy"] == clients["retryPolicy"]
    options = [("grpc.service_config", config)]
    with grpc.insecure_channel(server.address, options=options) as channel:
        WorkerQueueStub(channel).Enqueue(request(), timeout=20)


def test_the_javascript_parses() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no node on PATH")
    (script,) = [b.text for b in blocks(PAGE) if b.language == "js"]
    subprocess.run(
        [node, "--input-type=module", "--check"], input=script, text=True, check=True, timeout=60
    )
