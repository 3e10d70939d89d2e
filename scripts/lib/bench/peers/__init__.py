"""Other queues on the same PostgreSQL, in the same run.

Each is installed at a pinned version into `.bench-peers`, which git ignores, and is measured by a
script in its own language with the settings that its documentation gives for throughput. They sit
on the database; workerqueue is measured through its server. Contenders take turns, so that a busy
machine is busy for all of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlencode

from psycopg.conninfo import conninfo_to_dict
from rich import box
from rich.table import Table

from bench import plain_sql
from bench.model import Plan
from bench.scenarios import SCENARIOS
from bench.stage import Stage, StageError, database, served

_FOLDER = Path(".bench-peers")
_SCRIPTS = Path(__file__).parent
_NODE_PACKAGE = "graphile-worker@0.18.0"
_PYTHON_PACKAGES = ("pgqueuer[asyncpg]==1.6.0", "procrastinate==3.10.0")

# What is measured, its unit, and which share of the tasks it takes.
METRICS: Mapping[str, tuple[str, float]] = {
    "single": ("one by one/s", 0.1),
    "bulk": ("in bulk/s", 1.0),
    "drain": ("drain/s", 1.0),
    "latency": ("latency p50 ms", 0.0),
}
_LATENCY_TASKS = 100
_WINDOW = 4_000


class Contender(Protocol):
    """A queue that can be measured."""

    name: str
    settings: str

    def measure(self, metric: str, tasks: int, number: int) -> float:
        """Tasks a second, or milliseconds. A drain takes what a bulk load stored before."""


@dataclass(frozen=True)
class Comparison:
    """One contender's samples by metric."""

    name: str
    settings: str
    samples: dict[str, list[float]]


class _PlainSql:
    name = "plain SQL"
    settings = "a table, one connection (32 for single inserts), batches of 1,000; the yardstick"

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    def measure(self, metric: str, tasks: int, number: int) -> float:
        if metric != "drain":
            plain_sql.prepare(self._dsn)
        measures: dict[str, Callable[[str, int], float]] = {
            "single": plain_sql.insert_singles,
            "bulk": plain_sql.insert_batches,
            "drain": plain_sql.drain_batches,
            "latency": plain_sql.notify_latency_ms,
        }
        return measures[metric](self._dsn, tasks)


class _Workerqueue:
    def __init__(self, stage: Stage, client: str) -> None:
        self._stage = stage
        self._scenarios = {"bulk": "batch", "latency": "latency"} | (
            {"single": "enqueue", "drain": "drain"}
            if client == "raw stub"
            else {"single": "enqueue-client", "drain": "drain-worker"}
        )
        self.name = f"workerqueue, {client}"
        self.settings = (
            f"{client}: one server process, default settings; enqueues 64 in flight, bulk 1,000 a "
            f"call and 4 in flight, one worker with a window of {_WINDOW:,}"
        )

    def measure(self, metric: str, tasks: int, number: int) -> float:
        scenario = SCENARIOS[self._scenarios[metric]]
        queue = f"{scenario.name}-{number}"
        return scenario.measure(self._stage, Plan(tasks, _WINDOW), queue).value


class _Peer:
    def __init__(self, name: str, command: list[str], dsn: str, settings: str, most: int) -> None:
        self.name, self.settings = name, settings
        self._command, self._dsn, self._most = command, dsn, most
        self._waiting = 0
        self._run("prepare", 0)

    def measure(self, metric: str, tasks: int, number: int) -> float:
        if metric == "latency":
            return float(statistics.median(self._run(metric, tasks)["latencies"]))
        if metric == "drain":
            # It also has to finish what the other measurements left.
            tasks, self._waiting = self._waiting, 0
        else:
            tasks = min(tasks, self._most)
            self._waiting += tasks
        return float(tasks / self._run(metric, tasks)["seconds"])

    def _run(self, action: str, tasks: int) -> Any:
        command = [*self._command, action, self._dsn, str(tasks)]
        answer = subprocess.run(command, capture_output=True, text=True, cwd=_FOLDER, check=False)
        if answer.returncode:
            raise StageError(f"{self.name} failed to {action}:\n{answer.stderr[-2000:]}")
        return json.loads(answer.stdout.splitlines()[-1])


def compare(
    admin_dsn: str, tasks: int, repeats: int, tell: Callable[[str], None]
) -> list[Comparison]:
    """Measures all contenders in turns; the first round is a warm-up and is not counted."""
    _install(tell)
    with _contenders(admin_dsn) as contenders:
        compared = [Comparison(c.name, c.settings, {m: [] for m in METRICS}) for c in contenders]
        for number in range(repeats + 1):
            for metric, (_, share) in METRICS.items():
                size = tasks if number else tasks // 10
                wanted = max(int(size * share) // plain_sql.BATCH, 1) * plain_sql.BATCH
                if metric == "latency":
                    wanted = _LATENCY_TASKS
                for contender, comparison in zip(contenders, compared, strict=True):
                    value = contender.measure(metric, wanted, number)
                    tell(f"  {contender.name} {number}/{repeats}: {metric} {value:,.1f}")
                    if number:
                        comparison.samples[metric].append(value)
    return compared


@contextlib.contextmanager
def _contenders(admin_dsn: str) -> Iterator[list[Contender]]:
    folder = _FOLDER.resolve()
    python = os.fspath(folder / "venv" / "bin" / "python")
    with contextlib.ExitStack() as stack:
        stage = stack.enter_context(served(admin_dsn, "peers-own", 1))
        dsns = {
            name: _as_uri(stack.enter_context(database(admin_dsn, f"peers-{name}")))
            for name in ("graphile", "pgqueuer", "procrastinate")
        }
        yield [
            _PlainSql(stage.dsn),
            _Workerqueue(stage, "raw stub"),
            _Workerqueue(stage, "Python client"),
            _Peer(
                _NODE_PACKAGE,
                ["node", os.fspath(_SCRIPTS / "graphile_worker.mjs")],
                dsns["graphile"],
                "addJobs of 1,000; localQueue of 500, 100 concurrent jobs, batched completion",
                most=sys.maxsize,
            ),
            _Peer(
                _PYTHON_PACKAGES[0],
                [python, os.fspath(_SCRIPTS / "pgqueuer_peer.py")],
                dsns["pgqueuer"],
                "asyncpg, enqueue of 1,000; batch_size 1,000",
                most=sys.maxsize,
            ),
            _Peer(
                _PYTHON_PACKAGES[1],
                [python, os.fspath(_SCRIPTS / "procrastinate_peer.py")],
                dsns["procrastinate"],
                "batch_defer of 1,000; concurrency 100; at most 5,000 tasks a round",
                most=5_000,
            ),
        ]


def _as_uri(dsn: str) -> str:
    """The DSN in the form that every driver reads."""
    given = {name: str(value) for name, value in conninfo_to_dict(dsn).items()}
    user, password = given.pop("user", ""), given.pop("password", "")
    login = quote(user, safe="") + (f":{quote(password, safe='')}" if password else "")
    name, host, port = given.pop("dbname"), given.pop("host", ""), given.pop("port", "5432")
    if host.startswith("/"):
        return f"postgresql://{login}@/{name}?{urlencode({'host': host, 'port': port})}"
    return f"postgresql://{login}@{host or 'localhost'}:{port}/{name}"


def _install(tell: Callable[[str], None]) -> None:
    wanted = "\n".join((_NODE_PACKAGE, *_PYTHON_PACKAGES)) + "\n"
    stamp = _FOLDER / "stamp"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    if shutil.which("npm") is None or shutil.which("node") is None:
        raise StageError("--peers needs Node.js with npm on PATH")
    tell(f"  installing {', '.join(wanted.split())} into {_FOLDER}")
    _FOLDER.mkdir(exist_ok=True)
    venv = os.fspath(_FOLDER / "venv")
    _call([sys.executable, "-m", "venv", "--clear", venv])
    pip = [f"{venv}/bin/python", "-m", "pip", "install", "--quiet"]
    _call([*pip, *_PYTHON_PACKAGES, "psycopg[binary]"])
    npm = ["npm", "install", "--silent", "--no-fund", "--no-audit"]
    _call([*npm, "--prefix", os.fspath(_FOLDER), _NODE_PACKAGE])
    stamp.write_text(wanted)


def _call(command: list[str]) -> None:
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise StageError(f"{' '.join(command)} failed:\n{(answer.stderr or answer.stdout)[-2000:]}")


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Every sample."""
    return {
        "name": comparison.name,
        "settings": comparison.settings,
        "samples": comparison.samples,
    }


def as_table(compared: list[Comparison]) -> Table:
    """A line each: medians, the spread, and the ratio to plain SQL, sample by sample."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("queue", no_wrap=True)
    for title, _ in METRICS.values():
        for column in (title, "of SQL"):
            table.add_column(column, justify="right", no_wrap=True)
    yardstick = compared[0].samples
    for comparison in compared:
        cells: list[str] = []
        for metric, samples in comparison.samples.items():
            median = statistics.median(samples)
            cells.append(f"{median:,.1f}" if metric == "latency" else f"{median:,.0f}")
            ratios = [own / plain for own, plain in zip(samples, yardstick[metric], strict=True)]
            cells.append(f"{statistics.median(ratios):.2f}")
        table.add_row(comparison.name, *cells)
    return table
