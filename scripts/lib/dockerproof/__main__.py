"""Builds and runs the image of the repository's Dockerfile: scripts/prove-dockerfile."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from dockerproof import root as roots
from dockerproof.build import Builder, Image, say
from dockerproof.context import Context
from dockerproof.dockerfile import read

_ROOT = Path(__file__).parents[3]
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
_START_SECONDS = 600.0
_STOP_SECONDS = 300.0


class NotProven(Exception):
    """The image does not do what it must; the message says what."""


class Container:
    """The image's command as process 1."""

    def __init__(self, image: Image, log: Path, settings: dict[str, str]) -> None:
        """Starts it."""
        self._image = image
        self._environment = image.environment | settings
        with log.open("ab") as sink:
            self._process = subprocess.Popen(
                roots.entered(
                    image.root,
                    [*image.entrypoint, *image.arguments],
                    self._environment,
                    image.user,
                    image.folder,
                ),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
            )
        self._log = log

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Runs a command beside it, as `docker exec` does: same files, network and user."""
        return subprocess.run(
            roots.entered(
                self._image.root, words, self._environment, self._image.user, self._image.folder
            ),
            capture_output=True,
            text=True,
            check=False,
        )

    def wait_until_healthy(self) -> float:
        """How long it took until the HEALTHCHECK succeeded."""
        started = time.monotonic()
        while True:
            done = self.call(*self._image.health)
            if done.returncode == 0:
                return time.monotonic() - started
            if self._process.poll() is not None or time.monotonic() - started > _START_SECONDS:
                raise NotProven(f"not healthy: {done.stdout}{done.stderr}\n{self._log.read_text()}")
            time.sleep(0.5)

    def first_process(self) -> Path:
        """The place in /proc of its process 1."""
        (child,) = (
            Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        )
        return Path("/proc", child)

    def stop(self) -> float:
        """Sends the STOPSIGNAL to process 1; how long it took to end with 0."""
        started = time.monotonic()
        os.kill(int(self.first_process().name), signal.Signals[self._image.stop_signal])
        code = self._process.wait(timeout=_STOP_SECONDS)
        if code != 0:
            raise NotProven(f"ended with {code} after SIGTERM:\n{self._log.read_text()}")
        return time.monotonic() - started

    def kill(self) -> None:
        """Ends it, if it still runs, with all its processes."""
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def _running(image: Image, log: Path, settings: dict[str, str]) -> Iterator[Container]:
    container = Container(image, log, settings)
    try:
        yield container
    finally:
        container.kill()


def _prove(image: Image, folder: Path, settings: dict[str, str]) -> None:
    log = folder / "log"
    with _running(image, log, settings) as container:
        say(f"  healthy after {container.wait_until_healthy():.1f} s")
        first = container.first_process()
        status = dict(
            line.split(":\t", 1)
            for line in (first / "status").read_text().splitlines()
            if ":\t" in line
        )
        if status["NSpid"].split()[-1] != "1" or status["Uid"].split()[0] in ("", "0"):
            raise NotProven(f"process 1 is {status['NSpid']}, user {status['Uid']}")
        say(f"  process 1 runs as user {status['Uid'].split()[0]}")
        done = container.call("workerqueue", "enqueue", "startRun", '{"id": "run_1"}')
        if done.returncode:
            raise NotProven(f"enqueue: {done.stdout}{done.stderr}")
        say("  a task was enqueued")
        say(f"  SIGTERM: drained, ended with 0 after {container.stop():.1f} s")
    with _running(image, log, settings) as container:
        say(f"  again, on the same volume: healthy after {container.wait_until_healthy():.1f} s")
        done = container.call("workerqueue", "tasks", "list", "--output", "json")
        if done.stdout.count('"startRun"') != 1:
            raise NotProven(f"the task is gone: {done.stdout}{done.stderr}")
        say("  the task is still there")
        container.stop()


def _size(folder: Path) -> int:
    listed = subprocess.run(["du", "-sm", str(folder)], capture_output=True, text=True, check=True)
    return int(listed.stdout.split()[0])


def main() -> None:
    """Prints what is done; exits with 1 if the image does not do what it must."""
    parser = argparse.ArgumentParser(prog="scripts/prove-dockerfile", description=__doc__)
    parser.add_argument("--port", type=int, default=50551, help="a free port of this machine")
    arguments = parser.parse_args()
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        sys.exit(
            "scripts/prove-dockerfile: needs root, and debootstrap: apt-get install debootstrap"
        )
    base = roots.bare(_CACHE / "workerqueue-dockerproof")
    say(f"bare Debian: {_size(base)} MB")
    with tempfile.TemporaryDirectory(prefix="dockerproof-") as name:
        folder = Path(name)
        # Other users than root walk through it.
        folder.chmod(0o755)
        builder = Builder(Context(_ROOT), base, folder)
        image = None
        for stage in read((_ROOT / "Dockerfile").read_text()):
            say(f"{stage.name}, from {stage.base}:")
            image = builder.build(stage)
        assert image is not None
        say(f"built: {_size(image.root) - _size(base)} MB on top of the base; running:")
        settings = {
            # The network is this machine's: keep to its loopback interface.
            "WORKERQUEUE_ADDRESS": f"127.0.0.1:{arguments.port}",
        }
        try:
            _prove(image, folder, settings)
        except NotProven as problem:
            sys.exit(f"scripts/prove-dockerfile: {problem}")
    say("The Dockerfile does what it says.")


if __name__ == "__main__":
    main()
