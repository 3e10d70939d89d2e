"""Builds the workers in other languages, once per state of their sources."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.locks import one_at_a_time

HERE = Path(__file__).parent
_PROTO = HERE.parents[1] / "proto"
_BIN = Path(sys.executable).parent
_BUILD_SECONDS = 600
_TRIES = 3
_SHOWN_LINES = 40
# Fewer optimizations and threads: the compiler and the programs live for seconds.
_SHORT_JAVA = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"


@dataclass(frozen=True)
class Language:
    """How to build and start the programs of one folder.

    Attributes:
        tools: What must be installed.
        output: The folder that the build fills, not in git.
        steps: The build's commands, run in the language's folder.
        worker: The command of the worker; ``{folder}`` is the language's folder.
        producer: The command of the producer, in the same way.
    """

    name: str
    tools: tuple[str, ...]
    output: str
    steps: tuple[tuple[str, ...], ...]
    worker: str
    producer: str

    @property
    def folder(self) -> Path:
        """Where its sources are."""
        return HERE / self.name

    def build(self) -> None:
        """Builds what is not built. Skips the test where a tool is missing."""
        missing = [tool for tool in self.tools if shutil.which(tool) is None]
        if missing:
            pytest.skip(f"{self.name}: not tested, because {' and '.join(missing)} is not here")
        stamp = self.folder / self.output / "built-from"
        with one_at_a_time(f"build-{zlib.crc32(bytes(self.folder)):08x}"):
            state = self._state()
            if stamp.exists() and stamp.read_text() == state:
                return
            for step in self.steps:
                self._run(step)
            stamp.parent.mkdir(exist_ok=True)
            stamp.write_text(state)

    def _run(self, step: tuple[str, ...]) -> None:
        # Steps download: what a registry refuses now, it may give the next time.
        for _ in range(_TRIES - 1):
            if self._try(step).returncode == 0:
                return
        done = self._try(step)
        if done.returncode:
            end = "\n".join(done.stdout.splitlines()[-_SHOWN_LINES:])
            pytest.fail(f"{self.name}: {' '.join(step)} failed:\n{end}", pytrace=False)

    def _try(self, step: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            # Compilers take all that a machine has: tests that wait for clocks go a little before
            # them, but a cold build must not outlast its time beside them.
            ("nice", "-n", "3", *step),
            cwd=self.folder,
            env={
                **os.environ,
                "PATH": f"{_BIN}{os.pathsep}{os.environ['PATH']}",
                "MAVEN_OPTS": _SHORT_JAVA,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_BUILD_SECONDS,
            check=False,
        )

    def _state(self) -> str:
        built = {"gen", "dist", "target", "node_modules"}
        files = [
            *_PROTO.rglob("*.proto"),
            *(
                file
                for file in self.folder.rglob("*")
                if file.is_file() and not built & set(file.relative_to(self.folder).parts)
            ),
        ]
        digest = hashlib.sha256()
        for file in sorted(files):
            digest.update(str(file).encode() + b"\0" + file.read_bytes())
        return digest.hexdigest()


_JAVA = f"java {_SHORT_JAVA} -cp {{folder}}/target/classes:{{folder}}/target/lib/*"

LANGUAGES = (
    Language(
        "go",
        ("go",),
        "dist",
        (("buf", "generate"), ("go", "build", "-o", "dist/", "./cmd/...")),
        "{folder}/dist/worker",
        "{folder}/dist/producer",
    ),
    Language(
        "typescript",
        ("node", "npm"),
        "dist",
        (("npm", "ci", "--no-audit", "--no-fund"), ("npm", "run", "build")),
        "node {folder}/dist/src/main.js",
        "node {folder}/dist/src/producer.js",
    ),
    Language(
        "java",
        ("java", "mvn"),
        "target",
        (("mvn", "--quiet", "--batch-mode", "process-classes"),),
        f"{_JAVA} com.example.worker.Main",
        f"{_JAVA} com.example.worker.Producer",
    ),
    Language(
        "rust",
        ("cargo",),
        "target",
        (("cargo", "build", "--locked", "--quiet"),),
        "{folder}/target/debug/worker",
        "{folder}/target/debug/producer",
    ),
)
