"""Processes of the harness's own programs, and the places a cluster of PostgreSQL can live in."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tests.postgres import PostgresCluster

REPOSITORY = Path(__file__).parents[3]
_STOP_SECONDS = 30.0


class Actor:
    """A worker, producer or hostile client; the same one over restarts."""

    def __init__(self, program: str, options: Mapping[str, object], folder: Path) -> None:
        self.name = str(options["name"])
        self._module = f"tests.chaos.harness.{program}"
        self._options = dict(options)
        self._log = folder / f"{self.name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0

    def launch(self) -> None:
        """Starts the process; each time with a seed of its own."""
        self._starts += 1
        seed = f"{self._options['seed']}{self._starts:03}"
        options = json.dumps({**self._options, "seed": int(seed)})
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self._module, options],
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def returncode(self) -> int | None:
        """The exit code; None while it runs or before it did."""
        return None if self._process is None else self._process.poll()

    def send(self, number: signal.Signals) -> None:
        """Sends a signal, if the process is there."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def freeze(self) -> None:
        """Stops the process where it is (SIGSTOP)."""
        self.send(signal.SIGSTOP)

    def thaw(self) -> None:
        """Ends `freeze`."""
        self.send(signal.SIGCONT)

    def kill(self) -> None:
        """Kills the process and waits until it is gone."""
        self.send(signal.SIGKILL)
        self.wait()

    def wait(self, seconds: float = _STOP_SECONDS) -> int:
        """Waits for its end; the exit code."""
        assert self._process is not None
        return self._process.wait(seconds)

    def log(self) -> str:
        """What it printed."""
        return self._log.read_text(errors="replace")


class SmallDisk:
    """A tmpfs that can be made full and roomy again without writing to it."""

    def __init__(self, size_mb: int) -> None:
        self._size_mb = size_mb
        self.path = Path(tempfile.mkdtemp(prefix="wq-disk-"))
        self._mount("mount", "-t", "tmpfs", "-o", f"size={size_mb}m,mode=755", "tmpfs", self.path)

    @staticmethod
    def unavailable() -> str | None:
        """Why there is none; None: there is."""
        if os.geteuid() != 0:
            return "only root can mount a tmpfs"
        try:
            SmallDisk(1).close()
        except (OSError, subprocess.CalledProcessError):
            return "this container cannot mount a tmpfs"
        return None

    def fill(self) -> None:
        """Leaves no room: the size becomes what is used."""
        for spare_pages in range(0, 4_096, 64):
            used = os.statvfs(self.path)
            size = (used.f_blocks - used.f_bfree + spare_pages) * used.f_frsize
            # Refused while more than that is used: somebody wrote since.
            with suppress(subprocess.CalledProcessError):
                self._mount("mount", "-o", f"remount,size={size}", self.path)
                return
        raise RuntimeError(f"{self.path} grows too fast to be filled")

    def empty(self) -> None:
        """Gives the room back."""
        self._mount("mount", "-o", f"remount,size={self._size_mb}m", self.path)

    def close(self) -> None:
        """Unmounts it."""
        self._mount("umount", "-l", self.path)
        self.path.rmdir()

    @staticmethod
    def _mount(*command: str | Path) -> None:
        subprocess.run(command, check=True, capture_output=True)


class FakeClock:
    """A clock of a process and its children that can be set while they run (libfaketime)."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.set(0)
        file.chmod(0o644)

    @staticmethod
    def preloaded() -> Path | None:
        """Where libfaketime is; None: it is not installed."""
        found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
        return found[0] if found else None

    @property
    def environment(self) -> dict[str, str]:
        """What its processes start with. Monotonic clocks stay true, as in a real jump."""
        return {
            "LD_PRELOAD": str(self.preloaded()),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DONT_RESET": "1",
        }

    def set(self, seconds: float) -> None:
        """The clock is so far ahead (or behind) from now on; noticed within a second."""
        partial = self._file.with_suffix(".partial")
        partial.write_text(f"{seconds:+.3f}s\n")
        partial.chmod(0o644)
        partial.replace(self._file)


class Standby(PostgresCluster):
    """A synchronous standby of another cluster."""

    def __init__(self, primary: PostgresCluster) -> None:
        self._primary = primary
        super().__init__(primary.major)

    def _initialize(self) -> None:
        subprocess.run(
            [
                self._bin_dir / "pg_basebackup",
                f"--pgdata={self._data}",
                f"--dbname={self._primary.dsn('postgres')}&application_name=standby",
                "--write-recovery-conf",
                "--checkpoint=fast",
                "--no-sync",
            ],
            user=self._account,
            group=self._account,
            cwd=self._folder,
            check=True,
            capture_output=True,
        )
