"""The tour, step by step."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import grpc
import grpc.aio
from rich.console import Console

from quickstart.processes import Processes, TourError
from quickstart.report import as_table, problems, state_name
from quickstart.story import HANGS_ONCE, Scene, scenes
from workerqueue import AsyncClient, WorkerQueueError
from workerqueue.v1.task_admin_pb2 import GetTaskRequest, WatchTaskRequest
from workerqueue.v1.task_pb2 import TASK_STATE_LEASED, Task
from workerqueue.v1.worker_admin_pb2 import ListWorkersRequest
from workerqueue.v1.worker_queue_admin_pb2_grpc import WorkerQueueAdminStub

if TYPE_CHECKING:
    from workerqueue.v1.worker_queue_admin_pb2_grpc import WorkerQueueAdminAsyncStub

_WORKERS = ("worker-1", "worker-2")
# Nothing in the tour takes longer than a few seconds; more means that something is wrong.
_PATIENCE_SECONDS = 60.0
_console = Console(highlight=False, width=None if sys.stdout.isatty() else 130)


def _say(text: str) -> None:
    _console.print(text, soft_wrap=True)


class _Tour:
    def __init__(self, processes: Processes, admin: WorkerQueueAdminAsyncStub) -> None:
        self._processes = processes
        self._admin = admin
        self.killed = ""

    async def follow(self, ids: list[str], played: list[Scene]) -> list[Task]:
        """Waits for every task's end, and kills the worker in the middle of the one that hangs."""
        victim = next(n for n, scene in enumerate(played) if scene.mishap == HANGS_ONCE)
        endings = [asyncio.ensure_future(self._end_of(task_id)) for task_id in ids]
        others = [ending for place, ending in enumerate(endings) if place != victim]
        watchdog = asyncio.ensure_future(self._watch_children())
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await _wait_for(len(others), [*others, watchdog])
                _say(f"      {len(others)} of {len(ids)} tasks are finished.")
                await self._kill_worker_of(ids[victim])
                await _wait_for(1, [endings[victim], watchdog])
        except TimeoutError:
            raise TourError(await self._stuck(ids, endings)) from None
        finally:
            for future in (*endings, watchdog):
                future.cancel()
            await asyncio.gather(*endings, watchdog, return_exceptions=True)
        return [ending.result() for ending in endings]

    async def _end_of(self, task_id: str) -> Task:
        """The task when it has ended: WatchTask streams its changes until then."""
        task = Task()
        async for answer in self._admin.WatchTask(WatchTaskRequest(task_id=task_id)):
            task = answer.task
        return task

    async def _get(self, task_id: str) -> Task:
        return (await self._admin.GetTask(GetTaskRequest(task_id=task_id))).task

    async def _kill_worker_of(self, task_id: str) -> None:
        """Kills the worker that holds the task once the task has come half-way."""
        task = await self._get(task_id)
        while task.state != TASK_STATE_LEASED or not task.progress.fraction:
            await asyncio.sleep(0.1)
            task = await self._get(task_id)
        self.killed = task.worker_id
        pid = self._processes.kill(self.killed)
        _say(
            f"      {self.killed} (process {pid}) holds {task.kind} at {task.progress.message}: "
            "killed with SIGKILL."
        )

    async def _watch_children(self) -> None:
        while True:
            self._processes.check_alive(but=self.killed)
            await asyncio.sleep(0.2)

    async def _stuck(self, ids: list[str], endings: Sequence[asyncio.Future[Task]]) -> str:
        stuck = [i for i, ending in zip(ids, endings, strict=True) if not ending.done()]
        tasks = [await self._get(task_id) for task_id in stuck]
        return "these tasks did not end in time:\n" + "\n".join(
            f"  {task.kind} {task.task_id}: {state_name(task.state)}" for task in tasks
        )


async def _wait_for(count: int, futures: Sequence[asyncio.Future[Any]]) -> None:
    """Returns when so many are done. Raises the first error."""
    for done, future in enumerate(asyncio.as_completed(futures), start=1):
        await future
        if done == count:
            return


async def _wait_for_workers(processes: Processes, admin: WorkerQueueAdminAsyncStub) -> None:
    """Returns when every worker is connected."""
    connected: set[str] = set()
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while not connected.issuperset(_WORKERS):
                processes.check_alive()
                await asyncio.sleep(0.1)
                workers = (await admin.ListWorkers(ListWorkersRequest())).workers
                connected = {worker.worker_id for worker in workers if worker.sessions}
    except TimeoutError:
        missing = ", ".join(sorted(set(_WORKERS) - connected))
        raise TourError(f"these workers did not connect in time: {missing}") from None


async def _play(processes: Processes, address: str, played: list[Scene]) -> tuple[list[Task], str]:
    async with AsyncClient(address) as client, grpc.aio.insecure_channel(address) as channel:
        admin: WorkerQueueAdminAsyncStub = WorkerQueueAdminStub(channel)
        await _wait_for_workers(processes, admin)
        results = await client.enqueue_batch([scene.item() for scene in played])
        for result in results:
            if result.error is not None:
                raise TourError(f"a task was refused: {result.error}")
        _say(
            f"[bold]3/5[/] Producer: {len(results)} tasks in one EnqueueBatch: one of each of the "
            "24 kinds,\n      one that fails twice, one that always fails, one whose worker dies."
        )
        _say("[bold]4/5[/] Workers at work ...")
        tour = _Tour(processes, admin)
        return await tour.follow([result.task_id for result in results], played), tour.killed


def _tour(folder: Path) -> None:
    began = time.monotonic()
    played = scenes()
    with Processes(folder / "logs") as processes:
        _say(f"[bold]1/5[/] Server with a PostgreSQL of its own in {folder} ...")
        address = processes.start_server(folder)
        _say(f"      serving on {address} after {time.monotonic() - began:.1f} s")
        _say(f"[bold]2/5[/] Workers in processes of their own: {' and '.join(_WORKERS)} ...")
        for name in _WORKERS:
            processes.start(name, "quickstart.worker", name, address=address)
        tasks, killed = asyncio.run(_play(processes, address, played))
        _say("[bold]5/5[/] What became of them, as GetTask and WatchTask tell:\n")
        _console.print(as_table(played, tasks))
        processes.stop(but=killed)
    if wrong := problems(played, tasks):
        raise TourError("not every task ended as it must:\n  " + "\n  ".join(wrong))
    _say(
        f"\nAll {len(tasks)} tasks ended as they must; server and workers are stopped. "
        f"{time.monotonic() - began:.1f} s in all."
    )


@click.command()
@click.option(
    "--data-dir",
    default=Path(".workerqueue/quickstart"),
    show_default=True,
    type=click.Path(path_type=Path),
    help="Where the database and the logs are kept.",
)
@click.option("--fresh", is_flag=True, help="Begin with an empty database.")
def main(data_dir: Path, fresh: bool) -> None:
    """See tasks of all 24 kinds travel from a producer through the server to workers and back."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if fresh:
        shutil.rmtree(data_dir, ignore_errors=True)
    try:
        _tour(data_dir)
    except (TourError, WorkerQueueError, grpc.RpcError) as error:
        sys.stdout.flush()
        click.echo(f"quickstart: {error}\nLogs: {data_dir / 'logs'}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        click.echo("quickstart: interrupted; everything is stopped.", err=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
