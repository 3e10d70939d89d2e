"""Fixtures: what a release consists of, built once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
_SECONDS = 600


def clean_environment() -> dict[str, str]:
    """The environment without what leads back to this checkout."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("WORKERQUEUE_", "PYTHON")) and name != "VIRTUAL_ENV"
    }


def run(
    *command: str | Path,
    cwd: Path,
    check: bool = True,
    merge: bool = True,
    seconds: float = _SECONDS,
) -> subprocess.CompletedProcess[str]:
    """Runs a command that knows nothing of this checkout.

    ``merge``: what it writes to standard error is in ``stdout`` too.
    """
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if merge else subprocess.PIPE,
        text=True,
        timeout=seconds,
        check=False,
    )
    if check and done.returncode:
        said = done.stdout + (done.stderr or "")
        pytest.fail(f"{' '.join(map(str, command))} failed:\n{said}", pytrace=False)
    return done


def project() -> dict[str, Any]:
    """The table [project] of pyproject.toml."""
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table


def declared_extras() -> list[str]:
    """The extras of pyproject.toml."""
    return sorted(project()["optional-dependencies"])


@dataclass(frozen=True)
class Distributions:
    """The files of a release."""

    sdist: Path
    wheel: Path


@dataclass(frozen=True)
class Installation:
    """A virtual environment outside of the checkout."""

    folder: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    @property
    def command(self) -> Path:
        """Its `workerqueue`."""
        return self.folder / "bin" / "workerqueue"

    def packages(self) -> set[str]:
        """What is installed in it, by name."""
        list_all = (_uv(), "pip", "list", "--format", "json", "--python", self.python)
        listed = json.loads(run(*list_all, cwd=self.folder, merge=False).stdout)
        return {package["name"].lower() for package in listed}


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    """The source distribution, and the wheel that is built from it and not from the checkout."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--installer", "uv", "--outdir", out, ROOT, cwd=out)
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return Distributions(sdist, wheel)


@pytest.fixture(scope="session")
def client_only(
    distributions: Distributions, tmp_path_factory: pytest.TempPathFactory
) -> Installation:
    """The wheel as a producer or a worker installs it."""
    return _install(tmp_path_factory.mktemp("client"), str(distributions.wheel))


@pytest.fixture(scope="session")
def complete(
    distributions: Distributions, tmp_path_factory: pytest.TempPathFactory
) -> Installation:
    """The wheel with all its extras."""
    extras = ",".join(declared_extras())
    return _install(tmp_path_factory.mktemp("server"), f"{distributions.wheel}[{extras}]")


def _install(folder: Path, requirement: str) -> Installation:
    place = Installation(folder / "venv")
    run(_uv(), "venv", "--python", sys.executable, place.folder, cwd=folder)
    run(_uv(), "pip", "install", "--python", place.python, requirement, cwd=folder)
    return place


def _uv() -> str:
    uv = shutil.which("uv", path=Path(sys.executable).parent)
    assert uv is not None
    return uv
