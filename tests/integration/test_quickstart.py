"""The tour works from nothing, works again, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import psutil
import pytest

from quickstart.story import scenes
from workerqueue import kind_of
from workerqueue.tasks.v1 import tasks_pb2

ROOT = Path(__file__).parents[2]


def _start(data_dir: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "quickstart", "--data-dir", str(data_dir)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "scripts" / "lib")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _processes_that_name(folder: Path) -> list[str]:
    commands = [" ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"])]
    return [command for command in commands if str(folder) in command]


def test_the_tour_shows_every_kind() -> None:
    messages = tasks_pb2.DESCRIPTOR.message_types_by_name.values()
    shown = Counter(scene.payload.DESCRIPTOR.full_name for scene in scenes() if not scene.mishap)

    assert shown == Counter(message.full_name for message in messages)
    assert len(shown) == 24


@pytest.mark.slow
def test_it_runs_twice_on_one_folder(tmp_path: Path) -> None:
    for _ in range(2):
        tour = _start(tmp_path)
        said, _ = tour.communicate(timeout=240)

        assert tour.returncode == 0, said
        assert "All 27 tasks ended as they must" in said
        for scene in scenes():
            assert kind_of(type(scene.payload)) in said
        assert "killed with SIGKILL" in said
        assert _processes_that_name(tmp_path) == []


@pytest.mark.slow
def test_ctrl_c_stops_everything_it_started(tmp_path: Path) -> None:
    tour = _start(tmp_path)
    assert tour.stdout is not None
    heard = []
    while (line := tour.stdout.readline()) and not line.startswith("4/5"):
        heard.append(line)
    assert line, "".join(heard)
    started = psutil.Process(tour.pid).children(recursive=True)
    tour.send_signal(signal.SIGINT)
    said, _ = tour.communicate(timeout=120)

    assert tour.returncode == 130, said
    # A server and two workers, and what they started.
    assert len(started) >= 3
    assert [process for process in started if process.is_running()] == []
    assert _processes_that_name(tmp_path) == []


@pytest.mark.slow
def test_a_server_that_cannot_start_is_a_clear_failure(tmp_path: Path) -> None:
    (tmp_path / "postgres").write_text("no folder")
    tour = _start(tmp_path)
    said, _ = tour.communicate(timeout=120)

    assert tour.returncode == 1
    assert "the server did not start" in said
