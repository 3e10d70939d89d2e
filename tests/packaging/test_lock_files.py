"""What is locked is what pyproject.toml asks for, with hashes, and from no particular index."""

from __future__ import annotations

import re
import shutil
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.packaging.conftest import ROOT, project, run

_LINE = re.compile(r"([\w.-]+)==([\w.+]+)(?: ; .+?)?(?: +--hash=sha256:[0-9a-f]{64})+")
_LOCKS = ("build", "dev", "image")


def _locked(name: str) -> dict[str, str]:
    """The locked versions by package; fails where one has no hash."""
    text = _text(name).replace("\\\n", "")
    found: dict[str, str] = {}
    for line in text.splitlines():
        if line and not line.lstrip().startswith("#"):
            match = _LINE.fullmatch(line)
            assert match, line
            found[canonicalize_name(match[1])] = match[2]
    return found


def _asked(name: str) -> list[str]:
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())
    if name == "build":
        return list(table["build-system"]["requires"])
    extras = project()["optional-dependencies"].values()
    asked = [*project()["dependencies"], *(line for extra in extras for line in extra)]
    return asked + (table["dependency-groups"]["dev"] if name == "dev" else [])


@pytest.mark.parametrize("name", _LOCKS)
def test_every_requirement_is_locked_within_its_bounds(name: str) -> None:
    locked = _locked(name)
    for line in _asked(name):
        requirement = Requirement(line)
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)]), line


@pytest.mark.parametrize("name", _LOCKS)
def test_no_index_is_named(name: str) -> None:
    assert not re.search(r"://|--(extra-)?index|--find-links", _text(name))


def test_the_image_holds_no_development_tools() -> None:
    assert not {"pytest", "mypy", "ruff", "buf-bin", "grpcio-tools"} & set(_locked("image"))
    assert _locked("image").items() <= _locked("dev").items()


def test_a_changed_requirement_makes_the_files_stale(tmp_path: Path) -> None:
    for name in ("scripts", "requirements"):
        shutil.copytree(ROOT / name, tmp_path / name)
    text = (ROOT / "pyproject.toml").read_text()
    (tmp_path / "pyproject.toml").write_text(text + "# A comment asks for nothing.\n")
    fresh = run("scripts/lock", "--check", cwd=tmp_path, check=False)
    (tmp_path / "pyproject.toml").write_text(text.replace('"protobuf>=', '"protobuf>=7,>='))
    stale = run("scripts/lock", "--check", cwd=tmp_path, check=False)

    assert (fresh.returncode, fresh.stdout) == (0, "Lock files are up to date.\n")
    assert stale.returncode == 1
    assert re.findall(r"^stale: requirements/(\w+)", stale.stdout, re.MULTILINE) == ["image", "dev"]


def _text(name: str) -> str:
    return (ROOT / "requirements" / f"{name}.txt").read_text()
