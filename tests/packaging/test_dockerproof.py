"""scripts/prove-dockerfile reads the Dockerfile and .dockerignore as a Docker engine does."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from dockerproof.context import Context
from dockerproof.dockerfile import command, expand, read
from tests.packaging.conftest import ROOT, run


def test_the_dockerfile_is_understood() -> None:
    build, final = read((ROOT / "Dockerfile").read_text())

    assert (build.name, final.name) == ("build", "stage 1")
    assert build.base == final.base
    assert build.base.startswith("python:3.")
    (entrypoint,) = (step.text for step in final.steps if step.keyword == "ENTRYPOINT")
    assert command(entrypoint) == ["workerqueue"]


def test_continued_lines_and_comments_make_one_step() -> None:
    (stage,) = read("ARG V=3.12\nFROM python:${V}\n# why\nRUN one \\\n  # not this\n  && two\n")

    assert stage.base == "python:3.12"
    assert [(step.keyword, step.text) for step in stage.steps] == [("RUN", "one && two")]


def test_what_is_not_understood_is_refused() -> None:
    with pytest.raises(ValueError, match="ONBUILD"):
        read("FROM scratch\nONBUILD RUN true\n")


def test_unknown_variables_are_empty() -> None:
    assert expand("$A/${B}:$C", {"A": "a", "B": "b"}) == "a/b:"


def test_the_context_is_what_the_wheel_is_made_of(tmp_path: Path) -> None:
    context = Context(ROOT)
    admitted = {
        path.name
        for path in ROOT.iterdir()
        if context.lets_in(path if path.is_file() else path / "file")
    }
    assert admitted == {
        *("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"),
        *("requirements", "proto", "client_py", "server"),
    }
    assert not context.lets_in(ROOT / "server" / "workerqueue_server" / "__pycache__" / "a.pyc")
    with pytest.raises(FileNotFoundError):
        context.copy("tests", tmp_path)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_the_image_can_be_built_and_run() -> None:
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        pytest.skip(
            "the Dockerfile: not proven, because this is not root or debootstrap is not here"
        )
    done = run("scripts/prove-dockerfile", "--port", "50559", cwd=ROOT, seconds=3500)
    assert done.stdout.endswith("The Dockerfile does what it says.\n")
