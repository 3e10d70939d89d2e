"""docs/worker-protocol.md says what the contract and the examples say."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.interop.builds import LANGUAGES, Language
from workerqueue.v1 import error_pb2, lease_pb2
from workerqueue_server.cli.conformance.scenarios import SCENARIOS

_ROOT = Path(__file__).parents[2]
_PAGE = (_ROOT / "docs" / "worker-protocol.md").read_text()
_BIN = Path(sys.executable).parent
# Flags that only make a build quiet or repeatable.
_QUIET = {"--quiet", "--batch-mode", "--no-audit", "--no-fund", "--locked"}
# What only the calls for operators answer with, or what cannot happen on a worker's calls.
_NOT_FOR_WORKERS = {
    *("UNSPECIFIED", "WRONG_STATE", "BATCH_REFUSED", "QUEUE_NOT_FOUND", "SCHEDULE_NOT_FOUND"),
    *("SCHEDULE_EXISTS", "SCHEDULE_FROM_FILE"),
}


def _section(heading: str) -> str:
    return _PAGE.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]


def test_the_retry_rules_name_every_reason_that_a_worker_can_meet() -> None:
    named = set(re.findall(r"`([A-Z_]+)`", _section("Retry rules")))
    prefix = "ERROR_REASON_"
    reasons = {
        name.removeprefix(prefix) for name in error_pb2.ErrorReason.DESCRIPTOR.values_by_name
    }
    assert reasons - _NOT_FOR_WORKERS <= named


def test_every_part_of_a_frame_has_its_rule() -> None:
    rules = _section("What to do on each frame")
    for message in (lease_pb2.LeaseResponse, lease_pb2.LeaseRequest):
        for field in message.DESCRIPTOR.fields:
            assert re.search(rf"^\|.*`{field.name}(\[\])?`", rules, re.MULTILINE), field.name
    for reason in lease_pb2.CancellationReason.DESCRIPTOR.values_by_name:
        name = reason.removeprefix("CANCELLATION_REASON_")
        assert name == "UNSPECIFIED" or f"`{name}`" in rules


def test_the_scenarios_that_the_page_names_exist() -> None:
    named = set(re.findall(r"--scenario ([a-z-]+)", _PAGE))
    assert named
    assert named <= {scenario.name for scenario in SCENARIOS}


@pytest.mark.parametrize("language", LANGUAGES, ids=lambda language: language.name)
def test_the_builds_are_those_that_the_tests_do(language: Language) -> None:
    (row,) = re.findall(rf"\| \[.+\]\(\.\./tests/interop/{language.name}\) \|(.+)\|", _PAGE)
    _, build, start = row.split(" | ")
    steps = [" ".join(word for word in step if word not in _QUIET) for step in language.steps]
    worker = language.worker.replace("{folder}/", "")

    assert build == f"`{' && '.join(steps)}`"
    assert set(start.strip(" `").split()) <= set(worker.split())


def _generate(template: str, out: Path, path: str) -> set[str]:
    subprocess.run(
        ["buf", "generate", "--template", template, "--output", str(out)],
        cwd=_ROOT / "proto",
        env={**os.environ, "PATH": path},
        check=True,
        capture_output=True,
        timeout=300,
    )
    return {str(file.relative_to(out)) for file in out.rglob("*") if file.is_file()}


def test_the_python_template_makes_every_message(tmp_path: Path) -> None:
    made = _generate("buf.gen.python.yaml", tmp_path, f"{_BIN}{os.pathsep}{os.environ['PATH']}")
    committed = {
        f"python/{file.relative_to(_ROOT / 'client_py')}"
        for file in (_ROOT / "client_py").rglob("*_pb2.py*")
    }
    assert committed <= made


@pytest.mark.slow
def test_the_go_template_makes_messages_and_services(tmp_path: Path) -> None:
    if shutil.which("go") is None:
        pytest.skip("go: not tested, because go is not here")
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    module = _ROOT / "tests" / "interop" / "go"
    for name in ("protoc-gen-go", "protoc-gen-go-grpc"):
        (plugins / name).write_text(f'#!/bin/sh\ncd "{module}" && exec go tool {name}\n')
        (plugins / name).chmod(0o755)
    path = os.pathsep.join([str(plugins), str(_BIN), os.environ["PATH"]])
    made = _generate("buf.gen.go.yaml", tmp_path / "out", path)

    assert "go/workerqueue/tasks/v1/tasks.pb.go" in made
    assert "go/workerqueue/v1/worker_queue_grpc.pb.go" in made
    assert not any(name.startswith("go/google/") for name in made)


@pytest.mark.slow
def test_the_typescript_template_makes_messages_and_services(tmp_path: Path) -> None:
    (typescript,) = (language for language in LANGUAGES if language.name == "typescript")
    typescript.build()
    binaries = typescript.folder / "node_modules" / ".bin"
    path = os.pathsep.join([str(binaries), str(_BIN), os.environ["PATH"]])
    made = _generate("buf.gen.typescript.yaml", tmp_path, path)

    assert "typescript/workerqueue/tasks/v1/tasks.ts" in made
    assert "typescript/workerqueue/v1/worker_queue.ts" in made
